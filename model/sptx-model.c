/* sptx-model: the table of subcommands, each in its own command_NAME.c. */
#include "model/command.h"
#include "model/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *about;
} COMMANDS[] = {
    {"train", sptx_command_train, "trains a model from a configuration"},
    {"eval", sptx_command_eval, "measures a trained model's bits per byte on a file"},
    {"sample", sptx_command_sample, "draws text, an image or sound from a trained model"},
    {"attention", sptx_command_attention, "draws what a head of a trained model attends to"},
};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof COMMANDS[0] };

static void print_usage(FILE *file) {
  fputs("Usage: sptx-model COMMAND [ARGUMENT...]\n"
        "The Sparse Transformer (Child et al. 2019) on sptx's attention kernels.\n\n",
        file);
  for (int c = 0; c < COMMAND_COUNT; c++)
    fprintf(file, "  %-10s %s\n", COMMANDS[c].name, COMMANDS[c].about);
  fputs("  keys       lists the keys of a configuration with their defaults\n\n"
        "`sptx-model COMMAND --help` says more. Exit status: 0 done, 1 failed, 2 wrong usage.\n",
        file);
}

static int run(int argc, char **argv) {
  if (argc < 2) {
    print_usage(stderr);
    return SPTX_MODEL_USAGE;
  }
  if (argc > 2 && (!strcmp(argv[1], "keys") || !strncmp(argv[1], "--", 2))) {
    fprintf(stderr, "sptx-model %s: unexpected argument: %s; see sptx-model --help\n", argv[1], argv[2]);
    return SPTX_MODEL_USAGE;
  }
  if (!strcmp(argv[1], "--help"))
    print_usage(stdout);
  else if (!strcmp(argv[1], "--version"))
    puts("sptx-model " SPTX_VERSION);
  else if (!strcmp(argv[1], "keys"))
    sptx_config_print_keys(stdout);
  else {
    char name[32]; /* what getopt puts before its messages */
    for (int c = 0; c < COMMAND_COUNT; c++)
      if (!strcmp(argv[1], COMMANDS[c].name)) {
        snprintf(name, sizeof name, "sptx-model %s", argv[1]);
        argv[1] = name;
        return COMMANDS[c].run(argc - 1, argv + 1);
      }
    fprintf(stderr, "sptx-model: no command '%s'; see sptx-model --help\n", argv[1]);
    return SPTX_MODEL_USAGE;
  }
  return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
  int status = run(argc, argv);
  if (fflush(stdout) && status == EXIT_SUCCESS) {
    perror("sptx-model: cannot write the result");
    return EXIT_FAILURE;
  }
  return status;
}
