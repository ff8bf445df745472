/* Reading the options of a shape, with messages that name the option and what it accepts. */
#include "tuner/shape_options.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool sptx_complain(const char *command, const char *message, const char *value) {
  fprintf(stderr, "%s: %s: %s; see %s --help\n", command, message, value, command);
  return false;
}

bool sptx_read_count(const char *command, const char *option, const char *text, int64_t most,
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

void sptx_shape_options_begin(sptx_shape_options *options, const char *command) {
  *options = (sptx_shape_options){.command = command,
                                  .request = {.device = "cpu",
                                              .batch = 1,
                                              .heads = 8,
                                              .head_dim = 64,
                                              .passes = {[SPTX_BENCH_FORWARD] = true},
                                              .seconds = 2}};
}

void sptx_shape_options_clear(sptx_shape_options *options) {
  for (size_t p = 0; p < options->request.param_count; p++)
    free(options->names[p]);
  options->request.param_count = 0;
}

static bool read_dtype(sptx_shape_options *options, const char *text) {
  static const char *const names[] = {[SPTX_F32] = "f32", [SPTX_F16] = "f16", [SPTX_BF16] = "bf16"};
  for (int t = SPTX_F32; t <= SPTX_BF16; t++)
    if (!strcmp(text, names[t])) {
      options->request.dtype = (sptx_dtype)t;
      return true;
    }
  return sptx_complain(options->command, "--dtype is f32, f16 or bf16, not", text);
}

static bool read_passes(sptx_shape_options *options, const char *text) {
  static const char *const names[] = {"forward", "backward"};
  bool *passes = options->request.passes;
  memset(passes, 0, SPTX_BENCH_PASSES * sizeof *passes);
  for (const char *at = text;; at++) {
    size_t length = strcspn(at, ",");
    int pass = 0;
    while (pass < SPTX_BENCH_PASSES && (strlen(names[pass]) != length || strncmp(at, names[pass], length)))
      pass++;
    if (pass == SPTX_BENCH_PASSES)
      return sptx_complain(options->command, "--pass is forward, backward or forward,backward, not", text);
    passes[pass] = true;
    at += length;
    if (!*at)
      return true;
  }
}

static bool read_set(sptx_shape_options *options, const char *text) {
  const char *equals = strchr(text, '=');
  size_t count = options->request.param_count;
  if (!equals || equals == text)
    return sptx_complain(options->command, "--set needs NAME=VALUE, not", text);
  if (count == SPTX_MOST_SETS)
    return sptx_complain(options->command, "too many --set, the last being", text);
  char *name = strndup(text, (size_t)(equals - text));
  if (!name)
    return sptx_complain(options->command, "no memory for", text);
  options->names[count] = name;
  options->params[count] = (sptx_param){name, equals + 1};
  options->request.param_count++;
  return true;
}

bool sptx_shape_option(sptx_shape_options *options, int option, const char *value) {
  const int64_t most = INT64_C(1) << 40;
  const char *command = options->command;
  sptx_bench_request *request = &options->request;
  int64_t threads;
  switch (option) {
  case 'n':
    return sptx_read_count(command, "n", value, most, &request->n_k);
  case 'q':
    return sptx_read_count(command, "n-q", value, most, &request->n_q);
  case 'b':
    return sptx_read_count(command, "batch", value, most, &request->batch);
  case 'h':
    return sptx_read_count(command, "heads", value, most, &request->heads);
  case 'k':
    return sptx_read_count(command, "kv-heads", value, most, &request->kv_heads);
  case 'd':
    return sptx_read_count(command, "head-dim", value, 256, &request->head_dim);
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
    request->device = value;
    return true;
  case 'T':
    if (!sptx_read_count(command, "threads", value, 1024, &threads))
      return false;
    request->threads = (int)threads;
    return true;
  default: /* getopt has printed why */
    fprintf(stderr, "see %s --help\n", command);
    return false;
  }
}

static int usable_cores(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

bool sptx_shape_options_finish(sptx_shape_options *options, const char *pattern_path) {
  sptx_bench_request *request = &options->request;
  request->pattern_path = pattern_path;
  if (!request->n_k)
    return sptx_complain(options->command, "missing option", "--n");
  if (!request->n_q)
    request->n_q = request->n_k;
  if (!request->kv_heads)
    request->kv_heads = request->heads;
  if (request->heads % request->kv_heads)
    return sptx_complain(options->command, "--kv-heads does not divide", "--heads");
  if (!request->threads)
    request->threads = usable_cores();
  request->params = options->params;
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
