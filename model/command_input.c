/* Reads a run's configuration and one sequence of a data set; see command_input.h. */
#include "model/command_input.h"
#include "model/data.h"

#include <limits.h>
#include <stdlib.h>

static enum sptx_code read_config(const sptx_model_options *options, const char *folder, sptx_config *config,
                                  sptx_error *error) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/config.yaml", folder) >= (int)sizeof path)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "the path of DIR is too long");
  return sptx_config_read(path, options->settings, options->setting_count, config, error);
}

int sptx_command_on_run(const sptx_model_options *options, const char *usage, const char *folder,
                        sptx_command_work *work, void *command) {
  if (sptx_model_about(options, usage))
    return EXIT_SUCCESS;
  sptx_error error = {SPTX_CODE_OUT_OF_MEMORY, "no memory for a configuration"};
  sptx_config *config = malloc(sizeof *config);
  enum sptx_code code = config ? read_config(options, folder, config, &error) : error.code;
  if (code == SPTX_CODE_OK)
    code = work(command, config, &error);
  free(config);
  return code == SPTX_CODE_OK ? EXIT_SUCCESS : sptx_exit_status(options->command, &error);
}

static enum sptx_code read_item(const sptx_data *data, enum sptx_data_part part, const sptx_config *config,
                                int64_t item, uint8_t *tokens, int64_t *count, sptx_error *error) {
  int64_t positions = sptx_data_positions(data, part), length = config->length;
  if (item > (positions - 1) / length)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s: has %ld sequences of %ld positions, no number %ld", config->data,
                     (long)((positions + length - 1) / length), (long)length, (long)item);
  int64_t left = positions - item * length;
  *count = left < length ? left : length;
  return sptx_data_read(data, part, item * length, *count, tokens, error);
}

enum sptx_code sptx_command_sequence(const sptx_config *config, const char *file, int64_t item,
                                     uint8_t *tokens, int64_t *count, sptx_error *error) {
  sptx_config *named = malloc(sizeof *named);
  if (!named)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a configuration");
  *named = *config;
  enum sptx_code code = SPTX_CODE_OK;
  if (file) {
    named->train_items = named->validation_items = 0; /* the split of another file */
    if (snprintf(named->data, sizeof named->data, "%s", file) >= (int)sizeof named->data)
      code = sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%.64s...: the path is too long", file);
  }
  sptx_data *data = NULL;
  if (code == SPTX_CODE_OK)
    code = sptx_data_open(named, &data, error);
  if (code == SPTX_CODE_OK) {
    bool validation = !file && sptx_data_items(data, SPTX_DATA_VALIDATION) > 0;
    code = read_item(data, validation ? SPTX_DATA_VALIDATION : SPTX_DATA_WHOLE, named, item, tokens, count,
                     error);
  }
  sptx_data_close(data);
  free(named);
  return code;
}
