/* The subcommands of sptx-model, and what their command lines share. A new subcommand is a file
 * command_NAME.c, its line here, and its row in sptx-model.c. */
#ifndef SPTX_MODEL_COMMAND_H
#define SPTX_MODEL_COMMAND_H

#include "gen/command_options.h"
#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* argv[0] is the subcommand's name. Each returns the exit status: 0 done, 1 failed, 2 wrong usage. */
int sptx_command_train(int argc, char **argv);
int sptx_command_eval(int argc, char **argv);
int sptx_command_sample(int argc, char **argv);
int sptx_command_attention(int argc, char **argv);

enum { SPTX_MODEL_USAGE = 2, SPTX_MODEL_MOST_SETTINGS = 64 };

/* Options that all subcommands take. */
typedef struct sptx_model_options {
  const char *command; /* "sptx-model NAME", for messages */
  const char *settings[SPTX_MODEL_MOST_SETTINGS +
                       1]; /* one is left for the command's own: key=value, for sptx_config_read */
  size_t setting_count;
  char device[128]; /* --device as a setting */
  bool json, help, version;
} sptx_model_options;

/* Values of struct option.val below this are the shared ones. */
enum { SPTX_MODEL_OWN_OPTION = 1000 };
#define SPTX_MODEL_OPTIONS                                                                                   \
  {"set", required_argument, NULL, 's'}, {"device", required_argument, NULL, 'd'},                           \
      {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {                                  \
    "version", no_argument, NULL, 'v'                                                                        \
  }
#define SPTX_MODEL_OPTIONS_HELP                                                                              \
  "  --set KEY=VALUE    replaces a key of the configuration; may be given again\n"                           \
  "  --device D         cpu or cuda:N, in place of the configuration's\n"                                    \
  "  --json             the result as one JSON object\n"                                                     \
  "  --help, --version\n"

/* Prints the help or the version where the command line asks for it; usage is the help. */
bool sptx_model_about(const sptx_model_options *options, const char *usage);
/* Reads one of the shared options; false after saying on stderr what is wrong. */
bool sptx_model_option(sptx_model_options *options, int option, const char *value);
/* Reads a number from low to 1e15: a whole one, or any. */
bool sptx_model_integer(const sptx_model_options *options, const char *name, const char *text, int64_t low,
                        int64_t *value);
bool sptx_model_number(const sptx_model_options *options, const char *name, const char *text, double low,
                       double *value);

#endif
