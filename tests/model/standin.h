/* A stand-in for libsptx in the model tests: plain loops over the pattern; see standin.c. */
#ifndef SPTX_TESTS_MODEL_STANDIN_H
#define SPTX_TESTS_MODEL_STANDIN_H

#include <stdbool.h>
#include <stdint.h>

/* Does query i of head attend to key j in this layer under the pattern that path names? */
bool standin_contains(const char *path, int64_t layer, int64_t head, int64_t i, int64_t j);

#endif
