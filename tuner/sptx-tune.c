/* sptx-tune: searches the fastest schedules of a pattern's passes on this machine and files them as wisdom,
 * which libsptx reads on its own. Also lists wisdom, forgets it, and carries it between machines. */
#include "patterns/output.h"
#include "runtime/context.h"
#include "runtime/wisdom.h"
#include "tuner/ranks.h"
#include "tuner/shape_options.h"
#include "tuner/sweep.h"
#include "tuner/text_file.h"
#include "tuner/tune_report.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char command[] = "sptx-tune";

static const char usage[] =
    "Usage: sptx-tune PATTERN.yaml --n N [OPTION...]\n"
    "       sptx-tune --sweep SWEEP.yaml [OPTION...]\n"
    "       sptx-tune --list | --forget TEXT | --export FILE.yaml | --import FILE.yaml [--wisdom FILE.db]\n"
    "Searches the fastest schedule of each pass on this machine and keeps it as wisdom, which libsptx reads "
    "on\n"
    "its own. Every candidate is run in a process of its own and its result compared before its time "
    "counts;\n"
    "the default stays unless something was measured faster. Ctrl-C ends the search with what it has found.\n"
    "\n" SPTX_SHAPE_USAGE "  --budget TIME      about how long to search for each pass of each step: 30s, "
    "2m, 500ms, 0 (25s; 18s on a\n"
    "                     GPU)\n"
    "  --exhaustive       measure every candidate, however long it takes\n"
    "  --wisdom FILE.db   the database to use ($XDG_CACHE_HOME/sptx/wisdom.db or ~/.cache/sptx/wisdom.db)\n"
    "  --report FILE.html writes a page with plots of what was measured\n"
    "  --sweep FILE.yaml  tunes many shapes, shared out to the ranks that mpirun starts; device cuda means\n"
    "                     each rank's own GPU\n"
    "  --list             shows what the database holds\n"
    "  --forget TEXT      deletes what has TEXT in its piece or device (\"\": everything); a device's rates "
    "are\n"
    "                     measured again then\n"
    "  --export FILE      writes the wisdom as readable YAML (-: to stdout)\n"
    "  --import FILE      reads it back, the faster of two entries staying (-: from stdin)\n"
    "  --json             one JSON object instead of a table\n"
    "  --help, --version\n"
    "\n"
    "Exit status: 0 done, also when Ctrl-C or the budget ended it; 1 failed; 2 wrong usage.\n";

enum { EXIT_USAGE = 2 };
enum {
  OPTION_BUDGET = SPTX_OWN_OPTION,
  OPTION_EXHAUSTIVE,
  OPTION_WISDOM,
  OPTION_REPORT,
  OPTION_SWEEP,
  OPTION_LIST,
  OPTION_FORGET,
  OPTION_EXPORT,
  OPTION_IMPORT,
  OPTION_JSON,
  OPTION_HELP,
  OPTION_VERSION
};

static const double measured_share = 0.1; /* of the space: the cost model answers for the rest */

struct options {
  sptx_shape_options shape;
  double budget; /* seconds; negative: not given */
  const char *wisdom, *report, *sweep, *forget, *export_path, *import_path;
  bool exhaustive, list, json, help, version;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
  (void)signal_number;
  interrupted = 1;
}

/* The first Ctrl-C ends the search; a second one ends the process. */
static void catch_interrupts(void) {
  struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
  sigaction(SIGINT, &action, NULL);
}

static bool read_budget(const char *text, double *seconds) {
  static const struct {
    const char *name;
    double seconds;
  } units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"m", 60}, {"h", 3600}};
  char *end;
  double value = strtod(text, &end);
  for (size_t k = 0; k < sizeof units / sizeof *units && end != text; k++)
    if (strcmp(end, units[k].name) == 0 && value >= 0 && value * units[k].seconds <= 1e7) {
      *seconds = value * units[k].seconds;
      return true;
    }
  return sptx_complain(command, "--budget needs a time such as 30s, 2m, 500ms or 0, not", text);
}

static bool parse_option(int option, const char *value, struct options *options) {
  switch (option) {
  case OPTION_BUDGET:
    return read_budget(value, &options->budget);
  case OPTION_EXHAUSTIVE:
    return options->exhaustive = true;
  case OPTION_WISDOM:
    options->wisdom = value;
    return value[0] || sptx_complain(command, "--wisdom needs a file, not", "an empty name");
  case OPTION_REPORT:
    options->report = value;
    return true;
  case OPTION_SWEEP:
    options->sweep = value;
    return true;
  case OPTION_LIST:
    return options->list = true;
  case OPTION_FORGET:
    options->forget = value;
    return true;
  case OPTION_EXPORT:
    options->export_path = value;
    return true;
  case OPTION_IMPORT:
    options->import_path = value;
    return true;
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

static bool about_wisdom(const struct options *options) {
  return options->list || options->forget || options->export_path || options->import_path;
}

static bool parse_operands(int argc, char **argv, struct options *options) {
  const char *path = optind < argc ? argv[optind++] : NULL;
  int tasks = (path != NULL) + (options->sweep != NULL) + options->list + (options->forget != NULL) +
              (options->export_path != NULL) + (options->import_path != NULL);
  if (optind < argc)
    return sptx_complain(command, "unexpected argument", argv[optind]);
  if (tasks == 0)
    return sptx_complain(command, "missing argument", "PATTERN.yaml");
  if (tasks > 1)
    return sptx_complain(command, "only one of them at a time",
                         "PATTERN.yaml, --sweep, --list, --forget, --export, --import");
  if (options->report && !path)
    return sptx_complain(command, "--report draws one pattern; missing argument", "PATTERN.yaml");
  if (about_wisdom(options))
    return true;
  if (!path) /* a sweep gives the sizes itself */
    options->shape.common.n_k = options->shape.common.n_k ? options->shape.common.n_k : 1;
  return sptx_shape_options_finish(&options->shape, path);
}

static bool parse_arguments(int argc, char **argv, struct options *options) {
  static const struct option names[] = {SPTX_MEASURE_OPTIONS,
                                        {"budget", required_argument, NULL, OPTION_BUDGET},
                                        {"exhaustive", no_argument, NULL, OPTION_EXHAUSTIVE},
                                        {"wisdom", required_argument, NULL, OPTION_WISDOM},
                                        {"report", required_argument, NULL, OPTION_REPORT},
                                        {"sweep", required_argument, NULL, OPTION_SWEEP},
                                        {"list", no_argument, NULL, OPTION_LIST},
                                        {"forget", required_argument, NULL, OPTION_FORGET},
                                        {"export", required_argument, NULL, OPTION_EXPORT},
                                        {"import", required_argument, NULL, OPTION_IMPORT},
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

/* Where the library looks, unless --wisdom says otherwise. To be freed. */
static enum sptx_code choose_wisdom(const char *given, char **path, sptx_error *error) {
  sptx_context *context;
  if (given) {
    *path = strdup(given);
  } else {
    sptx_status status = sptx_context_create(&context, "cpu");
    if (status != SPTX_OK)
      return sptx_fail(error, (enum sptx_code)status, "%s", sptx_last_error(NULL));
    *path = sptx_context_copy_wisdom_path(context);
    sptx_context_destroy(context);
  }
  return *path ? SPTX_CODE_OK
               : sptx_fail(error, SPTX_CODE_IO,
                           "no place for the wisdom: set HOME or XDG_CACHE_HOME, or "
                           "name a file with --wisdom");
}

/* Wisdom that cannot be written is a failure now, not after the search. */
static enum sptx_code check_wisdom(const char *path, sptx_error *error) {
  sptx_wisdom *wisdom;
  SPTX_TRY(sptx_wisdom_open(path, SPTX_WISDOM_WRITE, &wisdom, error));
  sptx_wisdom_close(wisdom);
  return SPTX_CODE_OK;
}

static double budget_of(const struct options *options) {
  if (options->exhaustive)
    return INFINITY;
  if (options->budget >= 0)
    return options->budget;
  return strncmp(options->shape.request.device, "cuda", strlen("cuda")) == 0 ? 18 : 25;
}

static sptx_tune_settings settings_of(const struct options *options, const char *wisdom) {
  return (sptx_tune_settings){.budget_seconds = budget_of(options),
                              .share = options->exhaustive ? 1 : measured_share,
                              .wisdom_path = wisdom,
                              .bar = isatty(STDERR_FILENO),
                              .stop = &interrupted};
}

static enum sptx_code print_results(const struct options *options, const cJSON *root, sptx_error *error) {
  if (!options->json) {
    sptx_tune_table(cJSON_GetObjectItem(root, "results"), stdout);
    return SPTX_CODE_OK;
  }
  char *text = cJSON_Print(root);
  if (!text)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the JSON");
  puts(text);
  free(text);
  return SPTX_CODE_OK;
}

static enum sptx_code write_report(const struct options *options, const sptx_tuned_list *list,
                                   sptx_error *error) {
  sptx_output output;
  SPTX_TRY(sptx_output_open(options->report, &output, error));
  sptx_tune_html(&options->shape.request, list, output.stream);
  return sptx_output_commit(&output, error);
}

/* Adds what was found to the results even where a later pass, or the wisdom, failed. */
static enum sptx_code tune_shape(const sptx_tune_settings *settings, const sptx_bench_request *shape,
                                 const char *step, cJSON *results, sptx_tuned_list *list, sptx_error *error) {
  sptx_error second;
  enum sptx_code code = sptx_tune_pattern(settings, shape, step, list, error);
  enum sptx_code added = sptx_tune_json(shape, list, results, code == SPTX_CODE_OK ? error : &second);
  return code == SPTX_CODE_OK ? added : code;
}

static void say_interrupted(void) {
  if (interrupted)
    fputs("sptx-tune: interrupted; what was found is kept\n", stderr);
}

static enum sptx_code tune_pattern(const struct options *options, const char *wisdom, sptx_error *error) {
  sptx_tune_settings settings = settings_of(options, wisdom);
  sptx_tuned_list list;
  sptx_error second;
  cJSON *root = cJSON_CreateObject(), *results = cJSON_AddArrayToObject(root, "results");
  if (!results) {
    cJSON_Delete(root);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the results");
  }
  enum sptx_code code =
      tune_shape(&settings, &options->shape.request, options->shape.step, results, &list, error);
  say_interrupted();
  if (list.count > 0) {
    bool good = code == SPTX_CODE_OK;
    enum sptx_code printed = print_results(options, root, good ? error : &second);
    if (printed == SPTX_CODE_OK && options->report)
      printed = write_report(options, &list, good ? error : &second);
    code = good ? printed : code;
  }
  sptx_tuned_list_clear(&list);
  cJSON_Delete(root);
  return code;
}

/* This rank's share of a sweep: every count-th shape, its results into the array. A shape that fails is
 * reported and the others go on. */
static bool tune_share(const struct options *options, const sptx_sweep *sweep, const sptx_ranks *ranks,
                       const char *wisdom, cJSON *results) {
  sptx_tune_settings settings = settings_of(options, wisdom);
  char device[32];
  bool good = true;
  snprintf(device, sizeof device, "cuda:%d", ranks->local_rank);
  for (size_t k = (size_t)ranks->rank; k < sweep->count && !interrupted; k += (size_t)ranks->count) {
    sptx_bench_request shape = sweep->items[k].shape;
    sptx_tuned_list list;
    sptx_error error;
    if (strcmp(shape.device, "cuda") == 0)
      shape.device = device;
    if (settings.bar)
      fprintf(stderr, "shape %zu of %zu: %s\n", k + 1, sweep->count, shape.pattern_path);
    if (tune_shape(&settings, &shape, NULL, results, &list, &error) != SPTX_CODE_OK) {
      fprintf(stderr, "%s: %s\n", command, error.message);
      good = false;
    }
    sptx_tuned_list_clear(&list);
  }
  return good;
}

/* What a rank sends: {results, wisdom, failed}. The wisdom travels along because ranks on other machines may
 * have a database of their own. */
static enum sptx_code pack_share(const cJSON *results, const char *wisdom_path, bool good, char **text,
                                 sptx_error *error) {
  char *exported = NULL;
  size_t size = 0;
  sptx_wisdom *wisdom = NULL;
  FILE *stream = open_memstream(&exported, &size);
  if (!stream)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the wisdom");
  enum sptx_code code = sptx_wisdom_open(wisdom_path, SPTX_WISDOM_READ, &wisdom, error);
  if (code == SPTX_CODE_OK)
    code = sptx_wisdom_export(wisdom, stream, error);
  sptx_wisdom_close(wisdom);
  fclose(stream);
  cJSON *share = cJSON_CreateObject();
  bool made = code == SPTX_CODE_OK && cJSON_AddItemReferenceToObject(share, "results", (cJSON *)results) &&
              cJSON_AddStringToObject(share, "wisdom", exported) &&
              cJSON_AddBoolToObject(share, "good", good);
  *text = made ? cJSON_PrintUnformatted(share) : NULL;
  cJSON_Delete(share);
  free(exported);
  if (code == SPTX_CODE_OK && !*text)
    code = sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the results");
  return code;
}

/* Rank 0 moves a rank's results into its own, and its wisdom into the database. */
static enum sptx_code unpack_share(const char *text, cJSON *results, sptx_wisdom *wisdom, bool *good,
                                   sptx_error *error) {
  cJSON *share = cJSON_Parse(text), *theirs = cJSON_GetObjectItem(share, "results");
  const char *exported = cJSON_GetStringValue(cJSON_GetObjectItem(share, "wisdom"));
  int64_t count;
  enum sptx_code code = SPTX_CODE_OK;
  while (cJSON_GetArraySize(theirs) > 0)
    cJSON_AddItemToArray(results, cJSON_DetachItemFromArray(theirs, 0));
  *good = *good && cJSON_IsTrue(cJSON_GetObjectItem(share, "good"));
  if (exported)
    code = sptx_wisdom_import(wisdom, exported, strlen(exported), "a rank's wisdom", &count, error);
  cJSON_Delete(share);
  return code;
}

static enum sptx_code collect(const struct options *options, const sptx_ranks *ranks, const char *wisdom_path,
                              char **texts, bool *good, sptx_error *error) {
  cJSON *root = cJSON_CreateObject(), *results = cJSON_AddArrayToObject(root, "results");
  sptx_wisdom *wisdom = NULL;
  enum sptx_code code = sptx_wisdom_open(wisdom_path, SPTX_WISDOM_WRITE, &wisdom, error);
  for (int k = 0; k < ranks->count; k++) {
    if (code == SPTX_CODE_OK)
      code = unpack_share(texts[k], results, wisdom, good, error);
  }
  sptx_wisdom_close(wisdom);
  if (code == SPTX_CODE_OK)
    code = print_results(options, root, error);
  cJSON_Delete(root);
  return code;
}

static void free_texts(const sptx_ranks *ranks, char **texts) {
  for (int k = 0; texts && k < ranks->count; k++)
    free(texts[k]);
  free(texts);
}

static enum sptx_code run_sweep(const struct options *options, const char *wisdom, sptx_error *error) {
  sptx_sweep sweep;
  sptx_ranks ranks;
  char *text = NULL, **texts = NULL;
  bool good = true;
  cJSON *results = cJSON_CreateArray();
  sptx_ranks_begin(&ranks);
  enum sptx_code code = sptx_sweep_read(options->sweep, &options->shape.request, &sweep, error);
  if (code == SPTX_CODE_OK) {
    good = tune_share(options, &sweep, &ranks, wisdom, results);
    code = pack_share(results, wisdom, good, &text, error);
  }
  /* Rank 0 waits for every rank, also for one that failed. */
  enum sptx_code gathered = sptx_ranks_gather(&ranks, text ? text : "{}", &texts, error);
  code = code == SPTX_CODE_OK ? gathered : code;
  if (texts && code == SPTX_CODE_OK)
    code = collect(options, &ranks, wisdom, texts, &good, error);
  free_texts(&ranks, texts);
  say_interrupted();
  free(text);
  cJSON_Delete(results);
  sptx_sweep_clear(&sweep);
  sptx_ranks_end();
  if (code == SPTX_CODE_OK && !good)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "some shapes of the sweep could not be tuned");
  return code;
}

static enum sptx_code print_entry(void *user, const sptx_wisdom_entry *entry, sptx_error *error) {
  (void)error;
  fprintf(user, "%s\n  %s, %s, %s\n  %s\n  %s: %.4g ms, default %.4g ms\n", entry->key.piece,
          entry->key.shape, entry->key.element, entry->key.pass, entry->key.device, entry->schedule,
          entry->best_ms, entry->default_ms);
  return SPTX_CODE_OK;
}

static enum sptx_code add_entry(void *user, const sptx_wisdom_entry *entry, sptx_error *error) {
  cJSON *item = cJSON_CreateObject();
  if (!cJSON_AddItemToArray(user, item)) {
    cJSON_Delete(item);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the list");
  }
  bool good = cJSON_AddStringToObject(item, "piece", entry->key.piece) &&
              cJSON_AddStringToObject(item, "shape", entry->key.shape) &&
              cJSON_AddStringToObject(item, "dtype", entry->key.element) &&
              cJSON_AddStringToObject(item, "pass", entry->key.pass) &&
              cJSON_AddStringToObject(item, "device", entry->key.device) &&
              cJSON_AddStringToObject(item, "schedule", entry->schedule) &&
              cJSON_AddNumberToObject(item, "best_ms", entry->best_ms) &&
              cJSON_AddNumberToObject(item, "default_ms", entry->default_ms);
  return good ? SPTX_CODE_OK : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the list");
}

static enum sptx_code list_wisdom(const struct options *options, sptx_wisdom *wisdom, sptx_error *error) {
  if (!options->json)
    return sptx_wisdom_each(wisdom, print_entry, stdout, error);
  cJSON *root = cJSON_CreateObject();
  enum sptx_code code = sptx_wisdom_each(wisdom, add_entry, cJSON_AddArrayToObject(root, "entries"), error);
  if (code == SPTX_CODE_OK)
    code = print_results(options, root, error);
  cJSON_Delete(root);
  return code;
}

static enum sptx_code export_wisdom(const char *path, sptx_wisdom *wisdom, sptx_error *error) {
  sptx_output output;
  if (strcmp(path, "-") == 0)
    return sptx_wisdom_export(wisdom, stdout, error);
  SPTX_TRY(sptx_output_open(path, &output, error));
  enum sptx_code code = sptx_wisdom_export(wisdom, output.stream, error);
  if (code == SPTX_CODE_OK)
    return sptx_output_commit(&output, error);
  sptx_output_discard(&output);
  return code;
}

static enum sptx_code import_wisdom(const char *path, sptx_wisdom *wisdom, sptx_error *error) {
  char *text;
  size_t length;
  int64_t count;
  SPTX_TRY(sptx_text_file_read(path, &text, &length, error));
  enum sptx_code code = sptx_wisdom_import(wisdom, text, length, path, &count, error);
  free(text);
  if (code == SPTX_CODE_OK)
    fprintf(stderr, "%s: read %lld entries\n", command, (long long)count);
  return code;
}

static enum sptx_code run_wisdom(const struct options *options, const char *path, sptx_error *error) {
  sptx_wisdom *wisdom;
  int64_t count;
  bool write = options->forget || options->import_path;
  SPTX_TRY(sptx_wisdom_open(path, write ? SPTX_WISDOM_WRITE : SPTX_WISDOM_READ, &wisdom, error));
  enum sptx_code code;
  if (options->list) {
    code = list_wisdom(options, wisdom, error);
  } else if (options->export_path) {
    code = export_wisdom(options->export_path, wisdom, error);
  } else if (options->import_path) {
    code = import_wisdom(options->import_path, wisdom, error);
  } else {
    code = sptx_wisdom_forget(wisdom, options->forget, &count, error);
    if (code == SPTX_CODE_OK)
      fprintf(stderr, "%s: forgot %lld entries\n", command, (long long)count);
  }
  sptx_wisdom_close(wisdom);
  return code;
}

static int run(const struct options *options) {
  sptx_error error;
  char *wisdom = NULL;
  enum sptx_code code = choose_wisdom(options->wisdom, &wisdom, &error);
  if (code == SPTX_CODE_OK && about_wisdom(options)) {
    code = run_wisdom(options, wisdom, &error);
  } else if (code == SPTX_CODE_OK) {
    code = check_wisdom(wisdom, &error);
    catch_interrupts();
    if (code == SPTX_CODE_OK)
      code = options->sweep ? run_sweep(options, wisdom, &error) : tune_pattern(options, wisdom, &error);
  }
  free(wisdom);
  return code == SPTX_CODE_OK ? EXIT_SUCCESS : sptx_exit_status(command, &error);
}

int main(int argc, char **argv) {
  struct options options = {.budget = -1};
  int status = EXIT_SUCCESS;
  sptx_shape_options_begin(&options.shape, command);
  if (!parse_arguments(argc, argv, &options))
    status = EXIT_USAGE;
  else if (options.help)
    fputs(usage, stdout);
  else if (options.version)
    puts("sptx-tune " SPTX_VERSION);
  else
    status = run(&options);
  sptx_shape_options_clear(&options.shape);
  if (fflush(stdout)) {
    perror("sptx-tune: cannot write the results");
    return EXIT_FAILURE;
  }
  return status;
}
