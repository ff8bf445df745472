/* sptx-bench: verifies and times a pattern's kernels beside the limits measured in the same run. */
#include "patterns/pattern.h"
#include "tuner/bench.h"
#include "tuner/bench_compare.h"
#include "tuner/bench_report.h"
#include "tuner/shape_options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char command[] = "sptx-bench";

static const char usage[] =
    "Usage: sptx-bench PATTERN.yaml --n N [OPTION...] [--bytes FILE...]\n"
    "Verifies a pattern's kernels against float64 and times them. Beside them, in the same run: the\n"
    "machine's GEMM rate (OpenBLAS sgemm, 2048 cubed, same threads) and sptx's own dense causal attention.\n"
    "\n" SPTX_SHAPE_USAGE "  --seconds S        about how long to time each pass of each step (2)\n"
    "  --bytes            what follows are files; their bytes become the sequence, embedded by a fixed\n"
    "                     random projection (else: normal random numbers from a fixed seed)\n"
    "  --compare-default  the default schedules against those that wisdom knows, in turns\n"
    "  --wisdom FILE.db   the wisdom of --compare-default (the library's own)\n"
    "  --json             one JSON object instead of a table\n"
    "  --help, --version\n"
    "\n"
    "Useful GFLOP: 4 * pairs * head dimension forward, 2.5 times that backward. Errors are norms of the\n"
    "difference over norms; for long sequences they come from an even sample of the rows, and the report\n"
    "says how many. Exit status: 0 done, 1 failed or inexact, 2 wrong usage.\n";

enum { EXIT_USAGE = 2 };
enum {
  OPTION_SECONDS = SPTX_OWN_OPTION,
  OPTION_BYTES,
  OPTION_COMPARE,
  OPTION_WISDOM,
  OPTION_JSON,
  OPTION_HELP,
  OPTION_VERSION
};

struct options {
  sptx_shape_options shape;
  const char *wisdom;
  bool json, help, version, bytes, compare;
};

static bool parse_seconds(const char *text, double *seconds) {
  char *end;
  *seconds = strtod(text, &end);
  if (end == text || *end || !(*seconds > 0 && *seconds <= 3600))
    return sptx_complain(command, "--seconds needs a number above 0, at most 3600, not", text);
  return true;
}

static bool parse_option(int option, const char *value, struct options *options) {
  switch (option) {
  case OPTION_SECONDS:
    return parse_seconds(value, &options->shape.request.seconds);
  case OPTION_BYTES:
    return options->bytes = true;
  case OPTION_COMPARE:
    return options->compare = true;
  case OPTION_WISDOM:
    options->wisdom = value;
    return value[0] || sptx_complain(command, "--wisdom needs a file, not", "an empty name");
  case OPTION_JSON:
    return options->json = true;
  case OPTION_HELP:
    return options->help = true;
  case OPTION_VERSION:
    return options->version = true;
  default:
    return sptx_shape_option(&options->shape, option, value);
  }
}

/* What stands after the options: the pattern, and the files of --bytes. */
static bool parse_operands(int argc, char **argv, struct options *options) {
  if (optind == argc)
    return sptx_complain(command, "missing argument", "PATTERN.yaml");
  const char *path = argv[optind++];
  if (optind < argc && !options->bytes)
    return sptx_complain(command, "unexpected argument", argv[optind]);
  if (optind == argc && options->bytes)
    return sptx_complain(command, "missing argument", "the files of --bytes");
  options->shape.request.byte_files = (const char *const *)argv + optind;
  options->shape.request.byte_file_count = (size_t)(argc - optind);
  return sptx_shape_options_finish(&options->shape, path);
}

static bool parse_arguments(int argc, char **argv, struct options *options) {
  static const struct option names[] = {SPTX_MEASURE_OPTIONS,
                                        {"seconds", required_argument, NULL, OPTION_SECONDS},
                                        {"bytes", no_argument, NULL, OPTION_BYTES},
                                        {"compare-default", no_argument, NULL, OPTION_COMPARE},
                                        {"wisdom", required_argument, NULL, OPTION_WISDOM},
                                        {"json", no_argument, NULL, OPTION_JSON},
                                        {"help", no_argument, NULL, OPTION_HELP},
                                        {"version", no_argument, NULL, OPTION_VERSION},
                                        {NULL, 0, NULL, 0}};
  int option;
  while ((option = getopt_long(argc, argv, "", names, NULL)) != -1)
    if (!parse_option(option, optarg, options))
      return false;
  return options->help || options->version || parse_operands(argc, argv, options);
}

/* Runs the wanted steps and reports each. */
static int bench_pattern(const struct options *options, const sptx_pattern *pattern) {
  sptx_bench_report report = {.request = &options->shape.request, .pattern_name = sptx_pattern_name(pattern)};
  sptx_error error;
  bool found = false, exact = true;
  if (sptx_bench_report_open(&report, options->json ? NULL : stdout, &error) != SPTX_CODE_OK)
    return sptx_exit_status(command, &error);
  for (size_t s = 0; s < sptx_pattern_step_count(pattern); s++) {
    const char *name = sptx_pattern_step_name(pattern, s);
    sptx_bench_step result;
    if (options->shape.step && strcmp(options->shape.step, name))
      continue;
    found = true;
    enum sptx_code code = sptx_bench_run(&options->shape.request, s, &result, &error);
    if (code == SPTX_CODE_OK)
      code = sptx_bench_report_step(&report, name, &result, &error);
    if (code != SPTX_CODE_OK) {
      sptx_bench_report_close(&report, NULL);
      return sptx_exit_status(command, &error);
    }
    exact = exact && sptx_bench_is_exact(&options->shape.request, &result.check);
  }
  sptx_bench_report_close(&report, found && options->json ? stdout : NULL);
  if (!found) {
    sptx_complain(command, "the pattern has no step", options->shape.step);
    return EXIT_USAGE;
  }
  if (!exact)
    fputs("sptx-bench: the results differ from float64 by more than rounding explains\n", stderr);
  return exact ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* The wanted steps with default schedules and with those of wisdom. */
static int compare_pattern(const struct options *options, const sptx_pattern *pattern) {
  const sptx_bench_request *request = &options->shape.request;
  cJSON *root = cJSON_CreateObject(), *results = cJSON_AddArrayToObject(root, "results");
  enum sptx_code code = SPTX_CODE_OK;
  sptx_error error;
  int found = 0;
  for (size_t s = 0; s < sptx_pattern_step_count(pattern) && code == SPTX_CODE_OK; s++) {
    const char *name = sptx_pattern_step_name(pattern, s);
    sptx_bench_comparison comparison;
    if (options->shape.step && strcmp(options->shape.step, name))
      continue;
    code = sptx_bench_compare(request, s, options->wisdom, &comparison, &error);
    if (code != SPTX_CODE_OK)
      continue;
    if (!options->json)
      sptx_bench_compare_print(request, name, &comparison, found == 0, stdout);
    else if (!sptx_bench_compare_json(request, name, &comparison, results))
      code = sptx_fail(&error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the report");
    found++;
  }
  char *text = options->json && code == SPTX_CODE_OK && found ? cJSON_Print(root) : NULL;
  if (text)
    puts(text);
  free(text);
  cJSON_Delete(root);
  if (code != SPTX_CODE_OK)
    return sptx_exit_status(command, &error);
  if (!found)
    sptx_complain(command, "the pattern has no step", options->shape.step);
  return found ? EXIT_SUCCESS : EXIT_USAGE;
}

static int run(const struct options *options) {
  const sptx_bench_request *request = &options->shape.request;
  sptx_override overrides[SPTX_MOST_SETS];
  sptx_pattern *pattern;
  sptx_error error;
  for (size_t p = 0; p < request->param_count; p++)
    overrides[p] = (sptx_override){request->params[p].name, request->params[p].value};
  if (sptx_pattern_read(request->pattern_path, overrides, request->param_count, &pattern, &error) !=
      SPTX_CODE_OK)
    return sptx_exit_status(command, &error);
  int status = options->compare ? compare_pattern(options, pattern) : bench_pattern(options, pattern);
  sptx_pattern_release(pattern);
  return status;
}

int main(int argc, char **argv) {
  struct options options = {0};
  int status = EXIT_SUCCESS;
  sptx_shape_options_begin(&options.shape, command);
  if (!parse_arguments(argc, argv, &options))
    status = EXIT_USAGE;
  else if (options.help)
    fputs(usage, stdout);
  else if (options.version)
    puts("sptx-bench " SPTX_VERSION);
  else
    status = run(&options);
  sptx_shape_options_clear(&options.shape);
  if (fflush(stdout)) {
    perror("sptx-bench: cannot write the report");
    return EXIT_FAILURE;
  }
  return status;
}
