/* Reads the options that all subcommands share, and says what is wrong with a command line. */
#include "model/command.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static bool add_setting(sptx_model_options *options, const char *setting) {
  if (options->setting_count == SPTX_MODEL_MOST_SETTINGS)
    return sptx_complain(options->command, "too many --set, the last being", setting);
  options->settings[options->setting_count++] = setting;
  return true;
}

bool sptx_model_option(sptx_model_options *options, int option, const char *value) {
  switch (option) {
  case 's':
    return add_setting(options, value);
  case 'd':
    if (snprintf(options->device, sizeof options->device, "device=%s", value) >= (int)sizeof options->device)
      return sptx_complain(options->command, "no such device", value);
    return add_setting(options, options->device);
  case 'j':
    return options->json = true;
  case 'h':
    return options->help = true;
  case 'v':
    return options->version = true;
  default: /* getopt has said what is wrong */
    fprintf(stderr, "see %s --help\n", options->command);
    return false;
  }
}

bool sptx_model_about(const sptx_model_options *options, const char *usage) {
  if (options->help || options->version)
    fputs(options->help ? usage : "sptx-model " SPTX_VERSION "\n", stdout);
  return options->help || options->version;
}

bool sptx_model_number(const sptx_model_options *options, const char *name, const char *text, double low,
                       double *value) {
  char *end;
  *value = strtod(text, &end);
  if (end != text && !*end && *value >= low && *value <= 1e15)
    return true;
  fprintf(stderr, "%s: %s needs a number, %.10g or more, not '%s'; see %s --help\n", options->command, name,
          low, text, options->command);
  return false;
}

bool sptx_model_integer(const sptx_model_options *options, const char *name, const char *text, int64_t low,
                        int64_t *value) {
  double number;
  if (!sptx_model_number(options, name, text, (double)low, &number))
    return false;
  if (number != floor(number))
    return sptx_complain(options->command, "this needs a whole number", name);
  *value = (int64_t)number;
  return true;
}
