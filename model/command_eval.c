/* sptx-model eval: bits per byte (or per dimension) of a trained model over a whole file. */
#include "model/checkpoint.h"
#include "model/command_input.h"
#include "model/evaluate.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char usage[] =
    "Usage: sptx-model eval DIR --data FILE [OPTION...]\n"
    "Measures the model in DIR (its config.yaml and latest checkpoint) on every position of FILE: bits per\n"
    "byte, or bits per dimension of images. Text and audio are read in overlapping windows.\n\n"
    "  --data FILE        a file, a folder or a glob of the configuration's format\n"
    "  --context C        positions that each one has at least before it within its window, but for the\n"
    "                     file's first ones (half the model's length)\n" SPTX_MODEL_OPTIONS_HELP
    "\nExit status: 0 done, 1 failed, 2 wrong usage.\n";

enum { OPTION_DATA = SPTX_MODEL_OWN_OPTION, OPTION_CONTEXT };

struct command {
  sptx_model_options common;
  const char *folder, *data;
  int64_t context; /* -1: the default */
  bool terminal;
};

static bool parse_option(struct command *command, int option, const char *value) {
  switch (option) {
  case OPTION_DATA:
    command->data = value;
    return true;
  case OPTION_CONTEXT:
    return sptx_model_integer(&command->common, "--context", value, 0, &command->context);
  default:
    return sptx_model_option(&command->common, option, value);
  }
}

static bool parse(int argc, char **argv, struct command *command) {
  static const struct option names[] = {{"data", required_argument, NULL, OPTION_DATA},
                                        {"context", required_argument, NULL, OPTION_CONTEXT},
                                        SPTX_MODEL_OPTIONS,
                                        {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;)
    if (!parse_option(command, option, optarg))
      return false;
  if (command->common.help || command->common.version)
    return true;
  if (!sptx_command_operand(command->common.command, "DIR", argc, argv, &command->folder))
    return false;
  return command->data || sptx_complain(command->common.command, "missing option", "--data FILE");
}

static void show_progress(void *user, const sptx_evaluation *so_far) {
  const struct command *command = user;
  if (command->terminal)
    fprintf(stderr, "\r\033[K%ld positions  %.4f bits/byte", (long)so_far->positions,
            sptx_evaluation_bits(so_far));
}

static enum sptx_code evaluate(struct command *command, const sptx_config *config,
                               sptx_evaluation *evaluation, sptx_error *error) {
  sptx_transformer *transformer = NULL;
  sptx_data *data = NULL;
  int64_t context = command->context;
  if (context < 0)
    context = sptx_config_is_image(config) ? 0 : config->length / 2;
  enum sptx_code code = sptx_data_open(config, &data, error);
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_create(config, SPTX_TRANSFORMER_EVALUATE, 0, &transformer, error);
  if (code == SPTX_CODE_OK)
    code = sptx_checkpoint_load_weights(command->folder, transformer, error);
  if (code == SPTX_CODE_OK)
    code = sptx_evaluate_all(transformer, data, context, show_progress, command, evaluation, error);
  if (code == SPTX_CODE_OK && evaluation->positions == 0)
    code = sptx_fail(error, SPTX_CODE_FORMAT, "%s: has no positions to evaluate", command->data);
  sptx_transformer_destroy(transformer);
  sptx_data_close(data);
  return code;
}

static enum sptx_code run(void *arguments, sptx_config *config, sptx_error *error) {
  struct command *command = arguments;
  sptx_evaluation evaluation;
  config->train_items = config->validation_items = 0; /* the split of another file */
  enum sptx_code code = evaluate(command, config, &evaluation, error);
  if (command->terminal)
    fputs("\r\033[K", stderr);
  if (code != SPTX_CODE_OK)
    return code;
  printf(command->common.json ? "{\"bits_per_byte\": %.9g, \"positions\": %ld}\n"
                              : "%.6f bits per byte over %ld positions\n",
         sptx_evaluation_bits(&evaluation), (long)evaluation.positions);
  return SPTX_CODE_OK;
}

int sptx_command_eval(int argc, char **argv) {
  char data[SPTX_CONFIG_TEXT + 8];
  struct command command = {
      .common = {.command = "sptx-model eval"}, .context = -1, .terminal = isatty(STDERR_FILENO)};
  if (!parse(argc, argv, &command))
    return SPTX_MODEL_USAGE;
  if (command.data) { /* none where help is asked for */
    if (snprintf(data, sizeof data, "data=%s", command.data) >= (int)sizeof data)
      return sptx_complain(command.common.command, "this path is too long", command.data), SPTX_MODEL_USAGE;
    command.common.settings[command.common.setting_count++] = data;
  }
  return sptx_command_on_run(&command.common, usage, command.folder, run, &command);
}
