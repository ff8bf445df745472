/* sptx-model train: the command line, signals and the progress line around sptx_train. */
#include "model/command.h"
#include "model/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char usage[] =
    "Usage: sptx-model train CONFIG.yaml --out DIR [OPTION...]\n"
    "Trains a model. DIR gets config.yaml, metrics.csv (step, seconds, tokens, bits, grad_norm, lr),\n"
    "validation.csv (where the configuration evaluates) and checkpoint-STEP.safetensors. An interrupted\n"
    "run loses no more than the steps since the last checkpoint. Ctrl-C stops after the current step.\n"
    "`mpirun -n 4 sptx-model train ...` trains on four processes, each with its own batch.\n\n"
    "  --out DIR          where the run is kept\n"
    "  --resume           continue from DIR's latest checkpoint, where there is one\n"
    "  --steps N          stop when N steps are done (0 saves the first weights); learning rates are the\n"
    "                     configuration's, decaying over its `steps` (over N where that is more)\n"
    "  --seconds S        stop after about S seconds\n" SPTX_MODEL_OPTIONS_HELP
    "\n`sptx-model keys` lists the configuration's keys. Exit status: 0 done, 1 failed, 2 wrong usage.\n";

enum { OPTION_OUT = SPTX_MODEL_OWN_OPTION, OPTION_RESUME, OPTION_STEPS, OPTION_SECONDS };

static volatile sig_atomic_t stop_signal;

static void request_stop(int signal_number) {
  stop_signal = signal_number;
}

struct command {
  sptx_model_options common;
  const char *config;
  sptx_train_options train;
  bool terminal;
  double shown_at; /* when the line on the terminal was last drawn, in seconds of the run */
};

static bool parse_option(struct command *command, int option, const char *value) {
  switch (option) {
  case OPTION_OUT:
    command->train.folder = value;
    return *value || sptx_complain(command->common.command, "--out needs a folder, not", "''");
  case OPTION_RESUME:
    return command->train.resume = true;
  case OPTION_STEPS:
    return sptx_model_integer(&command->common, "--steps", value, 0, &command->train.last_step);
  case OPTION_SECONDS:
    return sptx_model_number(&command->common, "--seconds", value, 0.001, &command->train.seconds);
  default:
    return sptx_model_option(&command->common, option, value);
  }
}

static bool parse(int argc, char **argv, struct command *command) {
  static const struct option names[] = {{"out", required_argument, NULL, OPTION_OUT},
                                        {"resume", no_argument, NULL, OPTION_RESUME},
                                        {"steps", required_argument, NULL, OPTION_STEPS},
                                        {"seconds", required_argument, NULL, OPTION_SECONDS},
                                        SPTX_MODEL_OPTIONS,
                                        {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;)
    if (!parse_option(command, option, optarg))
      return false;
  if (command->common.help || command->common.version)
    return true;
  if (!sptx_command_operand(command->common.command, "CONFIG.yaml", argc, argv, &command->config))
    return false;
  return command->train.folder || sptx_complain(command->common.command, "missing option", "--out DIR");
}

static void print_time(double seconds) {
  long whole = seconds > 0 ? (long)(seconds + 0.5) : 0;
  fprintf(stderr, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
}

/* A line that is redrawn on a terminal, at most ten times a second; else one line for each row of
 * metrics.csv. */
static void show_progress(void *user, const sptx_progress *p) {
  struct command *command = user;
  bool last = p->step == p->last_step;
  if (!p->logged && (!command->terminal || p->seconds - command->shown_at < 0.1))
    return;
  command->shown_at = p->seconds;
  fprintf(stderr, "%sstep %ld/%ld  %.4f bits/byte  %.0f tokens/s  %.1f GFLOP/s (%.0f%% of peak)  ",
          command->terminal ? "\r\033[K" : "", (long)p->step, (long)p->last_step, p->bits,
          p->tokens_per_second, p->flops_per_second * 1e-9,
          100 * p->flops_per_second / p->peak_flops_per_second);
  if (p->skipped_steps)
    fprintf(stderr, "%ld skipped  ", (long)p->skipped_steps);
  print_time(p->seconds_left);
  fputs(command->terminal && !last ? " left" : " left\n", stderr);
}

static void show_warning(void *user, const char *sentence) {
  struct command *command = user;
  fprintf(stderr, "%s%s: %s\n", command->terminal ? "\n" : "", command->common.command, sentence);
}

static void print_result(const struct command *command, const sptx_train_result *result) {
  char validation[32] = "null", bits[32] = "null";
  if (!isnan(result->validation_bits))
    snprintf(validation, sizeof validation, "%.6f", result->validation_bits);
  if (!isnan(result->bits))
    snprintf(bits, sizeof bits, "%.6f", result->bits);
  if (command->common.json)
    printf("{\"step\": %ld, \"tokens\": %ld, \"seconds\": %.3f, \"bits_per_byte\": %s, "
           "\"validation_bits_per_byte\": %s, \"skipped_steps\": %ld}\n",
           (long)result->state.step, (long)result->state.tokens, result->seconds, bits, validation,
           (long)result->state.skipped_steps);
  else
    printf("%s: step %ld, %ld tokens, %.1f s, %s bits per byte%s%s\n", command->train.folder,
           (long)result->state.step, (long)result->state.tokens, result->seconds, bits,
           isnan(result->validation_bits) ? "" : ", validation ",
           isnan(result->validation_bits) ? "" : validation);
}

/* With several processes one failing ends them all: the others wait for its gradients. */
static int fail(struct command *command, const sptx_error *error) {
  char name[64];
  sptx_communicator *communicator = command->train.communicator;
  if (communicator && communicator->size > 1) {
    snprintf(name, sizeof name, "%s: process %d of %d", command->common.command, communicator->rank,
             communicator->size);
    command->common.command = name;
    int status = sptx_exit_status(command->common.command, error);
    fflush(stderr);
    communicator->ops->abort(communicator, status);
    return status;
  }
  return sptx_exit_status(command->common.command, error);
}

static int train(struct command *command) {
  sptx_config *config = malloc(sizeof *config);
  sptx_train_result result;
  sptx_error error = {SPTX_CODE_OUT_OF_MEMORY, "no memory for a configuration"};
  enum sptx_code code = config ? SPTX_CODE_OK : error.code;
  if (code == SPTX_CODE_OK)
    code = sptx_config_read(command->config, command->common.settings, command->common.setting_count, config,
                            &error);
  if (code == SPTX_CODE_OK)
    code = sptx_communicator_create(&command->train.communicator, &error);
  if (code == SPTX_CODE_OK)
    code = sptx_train(config, &command->train, &result, &error);
  free(config);
  if (code != SPTX_CODE_OK)
    return fail(command, &error);
  if (command->train.communicator->rank == 0)
    print_result(command, &result);
  return EXIT_SUCCESS;
}

int sptx_command_train(int argc, char **argv) {
  struct command command = {
      .common = {.command = "sptx-model train"}, .train.last_step = -1, .terminal = isatty(STDERR_FILENO)};
  if (!parse(argc, argv, &command))
    return SPTX_MODEL_USAGE;
  if (sptx_model_about(&command.common, usage))
    return EXIT_SUCCESS;
  signal(SIGINT, request_stop);
  signal(SIGTERM, request_stop);
  command.train.stop = &stop_signal;
  command.train.progress = show_progress;
  command.train.warn = show_warning;
  command.train.user = &command;
  int status = train(&command);
  sptx_communicator_destroy(command.train.communicator);
  return status;
}
