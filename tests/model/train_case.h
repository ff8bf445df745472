/* A tiny run for the tests of training: a configuration, its data, and calls that expect success. */
#ifndef SPTX_TESTS_MODEL_TRAIN_CASE_H
#define SPTX_TESTS_MODEL_TRAIN_CASE_H

#include "model/trainer.h"

/* Reads a configuration of a model that trains in milliseconds. settings: more key=value, up to a NULL. The
 * data is a text with a simple rule, written into the test folder. */
sptx_config train_case_config(const char *const *settings);

/* Options for a run in folder, alone and without callbacks. */
sptx_train_options train_case_options(const char *folder, bool resume, int64_t last_step);

/* Trains; expects success. */
sptx_train_result train_case_run(const sptx_config *config, const char *folder, bool resume,
                                 int64_t last_step);
/* Are the two files equal, byte by byte? */
bool same_files(const char *first, const char *second);
/* The whole file, NUL terminated, to be freed; NULL when it is not there. */
char *read_text(const char *path);

#endif
