/* What the subcommands that use a trained model share: its configuration, and a sequence of a data set. */
#ifndef SPTX_MODEL_COMMAND_INPUT_H
#define SPTX_MODEL_COMMAND_INPUT_H

#include "model/command.h"
#include "model/config.h"

/* A subcommand's work with the configuration of the run it is given. */
typedef enum sptx_code sptx_command_work(void *command, sptx_config *config, sptx_error *error);
/* Reads folder/config.yaml with the command line's settings and does the work, or prints the help or the
 * version where that is asked for. Returns the exit status, having said on stderr what went wrong. */
int sptx_command_on_run(const sptx_model_options *options, const char *usage, const char *folder,
                        sptx_command_work *work, void *command);
/* The item-th run of config->length positions of a file in the config's format (NULL: of its own data, the
 * validation part where there is one). tokens (length); *count is fewer where the file ends, and not 0. */
enum sptx_code sptx_command_sequence(const sptx_config *config, const char *file, int64_t item,
                                     uint8_t *tokens, int64_t *count, sptx_error *error);

#endif
