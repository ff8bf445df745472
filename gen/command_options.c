/* Reading the options of a shape; see command_options.h. */
#include "gen/command_options.h"

#include "gen/problem.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool sptx_complain(const char *command, const char *message, const char *value) {
  fprintf(stderr, "%s: %s: %s; see %s --help\n", command, message, value, command);
  return false;
}

bool sptx_command_operand(const char *command, const char *name, int argc, char **argv,
                          const char **operand) {
  if (optind == argc)
    return sptx_complain(command, "missing argument", name);
  *operand = argv[optind];
  return optind + 1 == argc || sptx_complain(command, "unexpected argument", argv[optind + 1]);
}

/* Reads a number from 1 to most. */
static bool read_count(const char *command, const char *option, const char *text, int64_t most,
                       int64_t *value) {
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  if (errno || end == text || *end || number < 1 || number > most) {
    fprintf(stderr, "%s: --%s needs a number from 1 to %lld, not %s; see %s --help\n", command, option,
            (long long)most, text, command);
    return false;
  }
  *value = number;
  return true;
}

void sptx_command_options_begin(sptx_command_options *options, const char *command, unsigned passes_had) {
  *options = (sptx_command_options){.command = command,
                                    .device = "cpu",
                                    .batch = 1,
                                    .heads = 8,
                                    .head_dim = 64,
                                    .passes = 1u << SPTX_PASS_FORWARD,
                                    .passes_had = passes_had};
}

void sptx_command_options_clear(sptx_command_options *options) {
  for (size_t p = 0; p < options->override_count; p++)
    free((char *)(uintptr_t)options->overrides[p].name);
  options->override_count = 0;
}

static bool read_dtype(sptx_command_options *options, const char *text) {
  for (int t = SPTX_ELEMENT_F32; t <= SPTX_ELEMENT_BF16; t++)
    if (!strcmp(text, sptx_element_name((enum sptx_element)t))) {
      options->element = (enum sptx_element)t;
      return true;
    }
  return sptx_complain(options->command, "--dtype is f32, f16 or bf16, not", text);
}

static bool read_passes(sptx_command_options *options, const char *text) {
  options->passes = 0;
  for (const char *at = text;; at++) {
    size_t length = strcspn(at, ",");
    int pass = SPTX_PASS_FORWARD;
    while (pass <= SPTX_PASS_DECODE && (strlen(sptx_pass_name((enum sptx_pass)pass)) != length ||
                                        strncmp(at, sptx_pass_name((enum sptx_pass)pass), length)))
      pass++;
    if (pass > SPTX_PASS_DECODE || !(options->passes_had >> pass & 1)) {
      bool decode = options->passes_had >> SPTX_PASS_DECODE & 1;
      return sptx_complain(options->command,
                           decode ? "--pass is a list of forward, backward and decode, not"
                                  : "--pass is forward, backward or forward,backward, not",
                           text);
    }
    options->passes |= 1u << pass;
    at += length;
    if (!*at)
      return true;
  }
}

static bool read_set(sptx_command_options *options, const char *text) {
  const char *equals = strchr(text, '=');
  if (!equals || equals == text)
    return sptx_complain(options->command, "--set needs NAME=VALUE, not", text);
  if (options->override_count == SPTX_MOST_SETS)
    return sptx_complain(options->command, "too many --set, the last being", text);
  char *name = strndup(text, (size_t)(equals - text));
  if (!name)
    return sptx_complain(options->command, "no memory for", text);
  options->overrides[options->override_count++] = (sptx_override){name, equals + 1};
  return true;
}

static bool read_threads(sptx_command_options *options, const char *text) {
  int64_t threads;
  if (!read_count(options->command, "threads", text, 1024, &threads))
    return false;
  options->threads = (int)threads;
  return true;
}

bool sptx_command_option(sptx_command_options *options, int option, const char *value) {
  const int64_t most = INT64_C(1) << 40;
  const char *command = options->command;
  switch (option) {
  case 'n':
    return read_count(command, "n", value, most, &options->n_k);
  case 'q':
    return read_count(command, "n-q", value, most, &options->n_q);
  case 'b':
    return read_count(command, "batch", value, most, &options->batch);
  case 'h':
    return read_count(command, "heads", value, most, &options->heads);
  case 'k':
    return read_count(command, "kv-heads", value, most, &options->kv_heads);
  case 'd':
    return read_count(command, "head-dim", value, 256, &options->head_dim);
  case 't':
    return read_dtype(options, value);
  case 'p':
    return read_passes(options, value);
  case 's':
    options->step = value;
    return true;
  case 'S':
    return read_set(options, value);
  case 'D':
    options->device = value;
    return true;
  case 'T':
    return read_threads(options, value);
  default: /* getopt has printed why */
    fprintf(stderr, "see %s --help\n", command);
    return false;
  }
}

bool sptx_command_options_finish(sptx_command_options *options) {
  if (!options->n_k)
    return sptx_complain(options->command, "missing option", "--n");
  if (!options->n_q)
    options->n_q = options->n_k;
  if (!options->kv_heads)
    options->kv_heads = options->heads;
  if (options->heads % options->kv_heads)
    return sptx_complain(options->command, "--kv-heads does not divide", "--heads");
  return true;
}

int sptx_exit_status(const char *command, const sptx_error *error) {
  enum { EXIT_USAGE = 2 };
  fprintf(stderr, "%s: %s\n", command, error->message);
  switch (error->code) {
  case SPTX_CODE_INVALID_ARGUMENT:
  case SPTX_CODE_PATTERN_SYNTAX:
  case SPTX_CODE_PATTERN_VALUE:
  case SPTX_CODE_PATTERN_LIMIT:
    return EXIT_USAGE;
  default:
    return EXIT_FAILURE;
  }
}
