/* sptx-model attention: what a head of a trained model attends to, as a picture and as numbers. */
#include "model/attention_weights.h"
#include "model/checkpoint.h"
#include "model/command_input.h"
#include "model/picture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "Usage: sptx-model attention DIR --layer L --head H [OPTION...]\n"
    "Shows what one position of a sequence attends to in the model in DIR: the sequence, whiter the more\n"
    "attention a place gets. Images are drawn as they are, text and sound in rows of the model's\n"
    "position_width. The ten places that get most are printed.\n\n"
    "  --layer L          0 to layers - 1\n"
    "  --head H           0 to heads - 1\n"
    "  --position P       the one that attends (the sequence's last)\n"
    "  --input FILE       a data set of the model's kind (the model's own validation data)\n"
    "  --item K           which sequence of it (0)\n"
    "  -o FILE            the picture: .png or .svg\n" SPTX_MODEL_OPTIONS_HELP
    "\nExit status: 0 done, 1 failed, 2 wrong usage.\n";

enum { OPTION_LAYER = SPTX_MODEL_OWN_OPTION, OPTION_HEAD, OPTION_POSITION, OPTION_INPUT, OPTION_ITEM };

struct command {
  sptx_model_options common;
  const char *folder, *input, *output;
  int64_t layer, head, position, item; /* -1: not given */
};

static bool parse_option(struct command *command, int option, const char *value) {
  sptx_model_options *common = &command->common;
  switch (option) {
  case 'o':
    command->output = value;
    return true;
  case OPTION_LAYER:
    return sptx_model_integer(common, "--layer", value, 0, &command->layer);
  case OPTION_HEAD:
    return sptx_model_integer(common, "--head", value, 0, &command->head);
  case OPTION_POSITION:
    return sptx_model_integer(common, "--position", value, 0, &command->position);
  case OPTION_INPUT:
    command->input = value;
    return true;
  case OPTION_ITEM:
    return sptx_model_integer(common, "--item", value, 0, &command->item);
  default:
    return sptx_model_option(common, option, value);
  }
}

static bool parse(int argc, char **argv, struct command *command) {
  static const struct option names[] = {{"layer", required_argument, NULL, OPTION_LAYER},
                                        {"head", required_argument, NULL, OPTION_HEAD},
                                        {"position", required_argument, NULL, OPTION_POSITION},
                                        {"input", required_argument, NULL, OPTION_INPUT},
                                        {"item", required_argument, NULL, OPTION_ITEM},
                                        SPTX_MODEL_OPTIONS,
                                        {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "o:", names, NULL)) != -1;)
    if (!parse_option(command, option, optarg))
      return false;
  if (command->common.help || command->common.version)
    return true;
  if (!sptx_command_operand(command->common.command, "DIR", argc, argv, &command->folder))
    return false;
  if (command->layer < 0 || command->head < 0)
    return sptx_complain(command->common.command, "missing option", "--layer L and --head H");
  return command->output || command->common.json ||
         sptx_complain(command->common.command, "missing option", "-o FILE or --json");
}

static void print_json(const struct command *command, const double *weights, int64_t length) {
  const char *separator = "";
  printf("{\"layer\": %ld, \"head\": %ld, \"position\": %ld, \"weights\": [", (long)command->layer,
         (long)command->head, (long)command->position);
  for (int64_t key = 0; key < length; key++)
    if (weights[key] > 0) {
      printf("%s[%ld, %.9g]", separator, (long)key, weights[key]);
      separator = ", ";
    }
  puts("]}");
}

/* The largest weights, each taken away once it is printed. */
static void print_largest(const sptx_config *config, const uint8_t *tokens, double *weights) {
  for (int rank = 0; rank < 10; rank++) {
    int64_t best = 0;
    for (int64_t key = 1; key < config->length; key++)
      if (weights[key] > weights[best])
        best = key;
    if (weights[best] <= 0)
      return;
    printf("%8ld  %.4f  token %d", (long)best, weights[best], tokens[best]);
    if (config->format == SPTX_DATA_BYTES && tokens[best] > 32 && tokens[best] < 127)
      printf(" '%c'", tokens[best]);
    putchar('\n');
    weights[best] = 0;
  }
}

static enum sptx_code show(struct command *command, const sptx_config *config, const uint8_t *tokens,
                           double *weights, sptx_error *error) {
  struct sptx_attention_view view = {.tokens = tokens,
                                     .weights = weights,
                                     .length = config->length,
                                     .position = command->position,
                                     .columns = config->position_width,
                                     .letters = config->format == SPTX_DATA_BYTES};
  if (sptx_config_is_image(config))
    view.side = config->format == SPTX_DATA_CIFAR10 ? 32 : 64;
  if (command->output)
    SPTX_TRY(sptx_picture_attention(command->output, &view, error));
  if (command->common.json)
    print_json(command, weights, config->length);
  else
    print_largest(config, tokens, weights);
  return SPTX_CODE_OK;
}

static enum sptx_code run_on(struct command *command, const sptx_config *config, uint8_t *tokens,
                             double *weights, sptx_error *error) {
  int64_t count;
  SPTX_TRY(sptx_command_sequence(config, command->input, command->item, tokens, &count, error));
  if (command->position < 0)
    command->position = count - 1;
  if (command->position >= count)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "--position %ld: the sequence has positions 0 to %ld",
                     (long)command->position, (long)count - 1);
  sptx_transformer *transformer = NULL;
  enum sptx_code code = sptx_transformer_create(config, SPTX_TRANSFORMER_EVALUATE, 1, &transformer, error);
  if (code == SPTX_CODE_OK)
    code = sptx_checkpoint_load_weights(command->folder, transformer, error);
  if (code == SPTX_CODE_OK)
    code = sptx_attention_weights(transformer, tokens, command->layer, command->head, command->position,
                                  weights, error);
  sptx_transformer_destroy(transformer);
  return code == SPTX_CODE_OK ? show(command, config, tokens, weights, error) : code;
}

static enum sptx_code run(void *command, sptx_config *config, sptx_error *error) {
  config->precision = SPTX_F32;
  uint8_t *tokens = calloc((size_t)config->length, 1);
  double *weights = calloc((size_t)config->length, sizeof *weights);
  enum sptx_code code = tokens && weights
                            ? run_on(command, config, tokens, weights, error)
                            : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a sequence");
  free(tokens);
  free(weights);
  return code;
}

int sptx_command_attention(int argc, char **argv) {
  struct command command = {
      .common = {.command = "sptx-model attention"}, .layer = -1, .head = -1, .position = -1};
  if (!parse(argc, argv, &command))
    return SPTX_MODEL_USAGE;
  return sptx_command_on_run(&command.common, usage, command.folder, run, &command);
}
