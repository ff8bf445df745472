/* What the subcommands that look at one sequence share: a run's configuration, and a sequence of a data set.
 */
#ifndef SPTX_MODEL_COMMAND_INPUT_H
#define SPTX_MODEL_COMMAND_INPUT_H

#include "model/command.h"
#include "model/config.h"

/* Reads folder/config.yaml with the command line's settings. */
enum sptx_code sptx_command_config(const sptx_model_options *options, const char *folder, sptx_config *config,
                                   sptx_error *error);
/* The item-th run of config->length positions of a file in the config's format (NULL: of its own data, the
 * validation part where there is one). tokens (length); *count is fewer where the file ends, and not 0. */
enum sptx_code sptx_command_sequence(const sptx_config *config, const char *file, int64_t item,
                                     uint8_t *tokens, int64_t *count, sptx_error *error);

#endif
