/* sptx-model sample: draws a sequence from a trained model: text, an image or sound. */
#include "model/audio.h"
#include "model/checkpoint.h"
#include "model/command_input.h"
#include "model/picture.h"
#include "model/sample.h"
#include "patterns/output.h"
#include "runtime/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "Usage: sptx-model sample DIR [OPTION...]\n"
    "Draws a sequence from the model in DIR (its config.yaml and latest checkpoint). Text goes to stdout as "
    "it\n"
    "is drawn, an image to a .png file, sound to a .wav file.\n\n"
    "  --length N         positions in all, the given ones included (the model's length)\n"
    "  --seed S           the same seed draws the same sequence (1)\n"
    "  --prompt TEXT      what the text begins with\n"
    "  --input FILE       a data set of the model's kind, of which a sequence is continued\n"
    "  --item K           which sequence of FILE (0)\n"
    "  --given P          how many of its positions are given (half of them)\n"
    "  --temperature T    below 1 is bolder, above 1 wilder, 0 takes the likeliest token (1)\n"
    "  --top-p P          draws among the likeliest tokens that have the probability P together (1)\n"
    "  -o FILE            where the sequence goes\n" SPTX_MODEL_OPTIONS_HELP
    "\nExit status: 0 done, 1 failed, 2 wrong usage.\n";

enum {
  OPTION_LENGTH = SPTX_MODEL_OWN_OPTION,
  OPTION_SEED,
  OPTION_PROMPT,
  OPTION_INPUT,
  OPTION_ITEM,
  OPTION_GIVEN,
  OPTION_TEMPERATURE,
  OPTION_TOP_P,
};

struct command {
  sptx_model_options common;
  const char *folder, *prompt, *input, *output;
  int64_t length, seed, item, given; /* length 0, given -1: the default */
  double temperature, top_p;
  bool streams, terminal;
};

static bool parse_option(struct command *command, int option, const char *value) {
  sptx_model_options *common = &command->common;
  switch (option) {
  case 'o':
    command->output = value;
    return true;
  case OPTION_LENGTH:
    return sptx_model_integer(common, "--length", value, 1, &command->length);
  case OPTION_SEED:
    return sptx_model_integer(common, "--seed", value, 0, &command->seed);
  case OPTION_PROMPT:
    command->prompt = value;
    return true;
  case OPTION_INPUT:
    command->input = value;
    return true;
  case OPTION_ITEM:
    return sptx_model_integer(common, "--item", value, 0, &command->item);
  case OPTION_GIVEN:
    return sptx_model_integer(common, "--given", value, 0, &command->given);
  case OPTION_TEMPERATURE:
    return sptx_model_number(common, "--temperature", value, 0, &command->temperature);
  case OPTION_TOP_P:
    return sptx_model_number(common, "--top-p", value, 0, &command->top_p) &&
           (command->top_p <= 1 || sptx_complain(common->command, "--top-p is at most 1, not", value));
  default:
    return sptx_model_option(common, option, value);
  }
}

static bool parse(int argc, char **argv, struct command *command) {
  static const struct option names[] = {{"length", required_argument, NULL, OPTION_LENGTH},
                                        {"seed", required_argument, NULL, OPTION_SEED},
                                        {"prompt", required_argument, NULL, OPTION_PROMPT},
                                        {"input", required_argument, NULL, OPTION_INPUT},
                                        {"item", required_argument, NULL, OPTION_ITEM},
                                        {"given", required_argument, NULL, OPTION_GIVEN},
                                        {"temperature", required_argument, NULL, OPTION_TEMPERATURE},
                                        {"top-p", required_argument, NULL, OPTION_TOP_P},
                                        SPTX_MODEL_OPTIONS,
                                        {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "o:", names, NULL)) != -1;)
    if (!parse_option(command, option, optarg))
      return false;
  if (command->common.help || command->common.version)
    return true;
  if (!sptx_command_operand(command->common.command, "DIR", argc, argv, &command->folder))
    return false;
  if (command->prompt && command->input)
    return sptx_complain(command->common.command, "give one of the two", "--prompt or --input");
  return true;
}

/* What the options ask for must suit the kind of data. */
static enum sptx_code check(struct command *command, const sptx_config *config, sptx_error *error) {
  const char *ending = config->format == SPTX_DATA_BYTES ? ""
                       : sptx_config_is_image(config)    ? ".png"
                                                         : ".wav";
  if (command->length == 0)
    command->length = config->length;
  if (command->length > config->length)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "--length %ld: the model's length is %ld positions",
                     (long)command->length, (long)config->length);
  if (command->prompt && config->format != SPTX_DATA_BYTES)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "--prompt is for models of text; continue an image or a sound with --input FILE");
  if (*ending && !command->output)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "this model draws %s: say where with -o FILE%s",
                     sptx_config_is_image(config) ? "images" : "sound", ending);
  command->streams = !command->output && !command->common.json;
  return SPTX_CODE_OK;
}

/* Fills the given positions and says how many they are. */
static enum sptx_code begin(const struct command *command, const sptx_config *config, uint8_t *tokens,
                            int64_t *given, sptx_error *error) {
  *given = command->prompt ? (int64_t)strlen(command->prompt) : 0;
  if (command->input) {
    SPTX_TRY(sptx_command_sequence(config, command->input, command->item, tokens, given, error));
    if (command->given > *given)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "--given %ld: the sequence has %ld positions",
                       (long)command->given, (long)*given);
    *given = command->given >= 0 ? command->given : *given / 2;
  }
  if (*given > command->length)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%ld positions are given, more than the length of %ld; the model has %ld", (long)*given,
                     (long)command->length, (long)config->length);
  if (command->prompt)
    memcpy(tokens, command->prompt, (size_t)*given);
  return SPTX_CODE_OK;
}

static void show_position(void *user, int64_t position, uint8_t token) {
  const struct command *command = user;
  if (command->streams) {
    putchar(token);
    if (token == '\n' || position % 64 == 63)
      fflush(stdout);
  } else if (command->terminal && position % 64 == 63)
    fprintf(stderr, "\r\033[K%ld of %ld positions", (long)position + 1, (long)command->length);
}

static enum sptx_code write_bytes(const char *path, const uint8_t *tokens, int64_t count, sptx_error *error) {
  sptx_output output;
  SPTX_TRY(sptx_output_open(path, &output, error));
  fwrite(tokens, 1, (size_t)count, output.stream); /* commit sees a failure */
  enum sptx_code code = sptx_output_commit(&output, error);
  if (code != SPTX_CODE_OK)
    sptx_output_discard(&output);
  return code;
}

/* Positions that were not drawn stay 0: black in an image. */
static enum sptx_code write_sequence(const struct command *command, const sptx_config *config,
                                     const uint8_t *tokens, sptx_error *error) {
  if (!command->output)
    return SPTX_CODE_OK;
  if (config->format == SPTX_DATA_BYTES)
    return write_bytes(command->output, tokens, command->length, error);
  if (config->format == SPTX_DATA_AUDIO)
    return sptx_audio_write(command->output, tokens, command->length, config->sample_rate, error);
  return sptx_picture_image(command->output, tokens, config->format == SPTX_DATA_CIFAR10 ? 32 : 64, error);
}

static void report(const struct command *command, const uint8_t *tokens, int64_t given, double bits,
                   double seconds) {
  int64_t drawn = command->length - given;
  printf("{\"positions\": %ld, \"given\": %ld, \"bits_per_position\": %.6f, \"seconds\": %.6f, \"tokens\": [",
         (long)command->length, (long)given, drawn ? bits / (double)drawn : 0, seconds);
  for (int64_t k = 0; k < command->length; k++)
    printf("%s%d", k ? ", " : "", tokens[k]);
  puts("]}");
}

static enum sptx_code draw(struct command *command, const sptx_config *config, sptx_transformer *decoder,
                           uint8_t *tokens, sptx_error *error) {
  int64_t given;
  double bits, started = sptx_now();
  sptx_sampling sampling = {(uint64_t)command->seed, command->temperature, command->top_p};
  SPTX_TRY(begin(command, config, tokens, &given, error));
  SPTX_TRY(sptx_checkpoint_load_weights(command->folder, decoder, error));
  SPTX_TRY(sptx_sample_sequence(decoder, &sampling, given, command->length, tokens, &bits, show_position,
                                command, error));
  SPTX_TRY(write_sequence(command, config, tokens, error));
  if (command->common.json)
    report(command, tokens, given, bits, sptx_now() - started);
  else if (command->streams && isatty(STDOUT_FILENO))
    putchar('\n');
  return SPTX_CODE_OK;
}

static enum sptx_code run(void *arguments, sptx_config *config, sptx_error *error) {
  struct command *command = arguments;
  SPTX_TRY(check(command, config, error));
  uint8_t *tokens = calloc((size_t)config->length, 1);
  if (!tokens)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a sequence");
  sptx_transformer *decoder = NULL;
  enum sptx_code code = sptx_transformer_create(config, SPTX_TRANSFORMER_DECODE, 1, &decoder, error);
  if (code == SPTX_CODE_OK)
    code = draw(command, config, decoder, tokens, error);
  sptx_transformer_destroy(decoder);
  free(tokens);
  if (command->terminal && !command->streams)
    fputs("\r\033[K", stderr);
  return code;
}

int sptx_command_sample(int argc, char **argv) {
  struct command command = {.common = {.command = "sptx-model sample"},
                            .seed = 1,
                            .given = -1,
                            .temperature = 1,
                            .top_p = 1,
                            .terminal = isatty(STDERR_FILENO)};
  if (!parse(argc, argv, &command))
    return SPTX_MODEL_USAGE;
  return sptx_command_on_run(&command.common, usage, command.folder, run, &command);
}
