/* The GPU's figures: every row of the tables that sptx means to reach, measured, beside the goal. Rows,
 * passes and schedules can be chosen, so that one run sweeps schedules. Needs the driver only.
 *
 *   gpu_figures [--rows strided-d64,local] [--passes forward,backward,deterministic] [--schedule TEXT]... */
#include "tests/bench/gpu_bench.h"

#include <cjson/cJSON.h>
#include <getopt.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_SCHEDULES = 256, MOST_SUBJECTS = 2048, NO_GPU = 77, HOST_N = 2048 };

static const struct row {
  const char *name, *pattern, *parameter;
  int64_t step, batch, heads, n, head_dim;
  double goal[2]; /* ms, forward and backward; 0: none */
} rows[] = {
    {"dense-d64", "dense", NULL, 0, 1, 16, 16384, 64, {1.25, 3.2}},
    {"dense-d128", "dense", NULL, 0, 1, 16, 16384, 128, {1.95, 5.3}},
    {"local-d64", "local", NULL, 0, 1, 16, 16384, 64, {0.050, 0.16}},
    {"local-d128", "local", NULL, 0, 1, 16, 16384, 128, {0.090, 0.28}},
    {"strided-d64", "strided", NULL, 1, 1, 16, 16384, 64, {0.048, 0.18}},
    {"strided-d128", "strided", NULL, 1, 1, 16, 16384, 128, {0.088, 0.32}},
    {"strided-merged-d64", "strided-merged", NULL, 0, 1, 16, 16384, 64, {0.13, 0}},
    {"fixed-merged-d64", "fixed-merged", NULL, 0, 1, 16, 16384, 64, {0.42, 1.2}},
    {"fixed-merged-d128", "fixed-merged", NULL, 0, 1, 16, 16384, 128, {0.65, 1.9}},
    {"cifar-strided-d128", "strided", "stride=96", 1, 16, 2, 3072, 128, {0.045, 0.13}},
    {"growth-strided-4096", "strided-merged", "stride=64", 0, 1, 8, 4096, 64, {0}},
    {"growth-strided-16384", "strided-merged", "stride=128", 0, 1, 8, 16384, 64, {0}},
    {"growth-strided-65536", "strided-merged", "stride=256", 0, 1, 8, 65536, 64, {0}},
    {"growth-strided-262144", "strided-merged", "stride=512", 0, 1, 8, 262144, 64, {0}},
    {"growth-fixed-4096", "fixed-merged", "stride=64", 0, 1, 8, 4096, 64, {0}},
    {"growth-fixed-16384", "fixed-merged", "stride=128", 0, 1, 8, 16384, 64, {0}},
    {"growth-fixed-65536", "fixed-merged", "stride=256", 0, 1, 8, 65536, 64, {0}},
    {"growth-fixed-262144", "fixed-merged", "stride=512", 0, 1, 8, 262144, 64, {0}},
    {"million-strided", "strided-merged", "stride=1024", 0, 1, 8, 1048576, 64, {0}},
};
enum { ROWS = sizeof rows / sizeof *rows };

/* One attention to measure. */
typedef struct subject {
  int row;
  enum gpu_pass pass;
  const char *schedule;
  sptx_attention *attention;
  double create_seconds, ms, error;
  bool measured, verified, exact;
  sptx_error failure;
} subject;

typedef struct options {
  const char *device, *patterns, *rows, *passes, *json;
  const char *schedules[MOST_SCHEDULES];
  int schedule_count, samples;
  bool verify, only_schedules, host;
} options;

static struct {
  subject list[MOST_SUBJECTS];
  int count;
} subjects;

/* Whether a word of the comma-separated list is in name. */
static bool selected(const char *list, const char *name) {
  if (!list)
    return true;
  for (const char *word = list; *word;) {
    size_t length = strcspn(word, ",");
    if (length > 0 && memmem(name, strlen(name), word, length))
      return true;
    word += length + (word[length] == ',');
  }
  return false;
}

static gpu_shape shape_of(const options *o, int row, char *path, size_t size) {
  const struct row *r = &rows[row];
  snprintf(path, size, "%s/%s.yaml", o->patterns, r->pattern);
  return (gpu_shape){path, r->parameter, r->step, r->batch, r->heads, r->n, r->head_dim};
}

static void list_subjects(const options *o) {
  for (int row = 0; row < ROWS; row++)
    for (int pass = 0; pass < GPU_PASSES; pass++) {
      if (!selected(o->rows, rows[row].name) || !selected(o->passes, gpu_pass_names[pass]))
        continue;
      for (int s = o->only_schedules ? 0 : -1; s < o->schedule_count; s++)
        if (subjects.count < MOST_SUBJECTS)
          subjects.list[subjects.count++] =
              (subject){.row = row, .pass = (enum gpu_pass)pass, .schedule = s < 0 ? "" : o->schedules[s]};
    }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* All at once: compiling is most of a sweep. */
static void create_subjects(gpu_bench *bench, const options *o) {
#pragma omp parallel for schedule(dynamic, 1)
  for (int i = 0; i < subjects.count; i++) {
    subject *s = &subjects.list[i];
    char path[4096];
    gpu_shape shape = shape_of(o, s->row, path, sizeof path);
    gpu_attention_create(bench, &shape, s->pass, s->schedule, &s->attention, &s->failure);
  }
}

static enum sptx_code measure(gpu_bench *bench, const options *o, const gpu_tensors *tensors, subject *s,
                              sptx_error *error) {
  char path[4096];
  gpu_shape shape = shape_of(o, s->row, path, sizeof path);
  SPTX_TRY(gpu_tensors_poison(bench, tensors, error));
  SPTX_TRY(gpu_enqueue(bench, s->attention, GPU_FORWARD, tensors, error));
  if (s->pass != GPU_FORWARD)
    SPTX_TRY(gpu_enqueue(bench, s->attention, s->pass, tensors, error));
  SPTX_TRY(sptx_cuda_stream_synchronize(&bench->device, bench->stream, error));
  if (o->verify) {
    sptx_bench_check check = {0};
    SPTX_TRY(gpu_verify(bench, &shape, s->pass != GPU_FORWARD, tensors, &check, &s->exact, error));
    s->error = s->pass == GPU_FORWARD ? check.forward_error : check.backward_error;
    s->verified = true;
  }
  SPTX_TRY(gpu_time(bench, s->attention, s->pass, tensors, o->samples, &s->ms, error));
  s->measured = true;
  return SPTX_CODE_OK;
}

static void print_subject(const subject *s) {
  const struct row *r = &rows[s->row];
  double goal = r->goal[s->pass != GPU_FORWARD];
  printf("%-22s %-13s ", r->name, gpu_pass_names[s->pass]);
  if (!s->measured)
    printf("%s: %s", s->failure.code == SPTX_CODE_UNSUPPORTED ? "unsupported" : "failed", s->failure.message);
  else {
    printf("%9.4f ms", s->ms);
    if (goal > 0)
      printf("  goal %7.4f %s", goal, s->ms <= goal ? "reached" : "missed ");
    else
      printf("  %20s", "");
    if (s->verified)
      printf("  error %.2g%s", s->error, s->exact ? "" : " WRONG");
  }
  printf("%s%s\n", s->schedule[0] ? "  " : "", s->schedule);
  fflush(stdout);
}

/* Measures the subjects in order; those of one row share the tensors. */
static bool measure_subjects(gpu_bench *bench, const options *o) {
  gpu_tensors tensors = {0};
  bool good = true;
  int row = -1;
  for (int i = 0; i < subjects.count; i++) {
    subject *s = &subjects.list[i];
    char path[4096];
    gpu_shape shape = shape_of(o, s->row, path, sizeof path);
    enum sptx_code code = s->failure.code;
    if (code == SPTX_CODE_OK && s->row != row) {
      gpu_tensors_clear(bench, &tensors);
      row = s->row;
      code = gpu_tensors_create(bench, &shape, true, &tensors, &s->failure);
    }
    if (code == SPTX_CODE_OK)
      code = measure(bench, o, &tensors, s, &s->failure);
    print_subject(s);
    good &= s->measured && (!s->verified || s->exact);
    if (code == SPTX_CODE_DEVICE) {
      puts("stopped: the device's context is lost");
      return false;
    }
  }
  gpu_tensors_clear(bench, &tensors);
  return good;
}

/* The exponent of growth of the measured rows whose names start with prefix: a least-squares line through the
 * logarithms. */
static double growth(const char *prefix, enum gpu_pass pass) {
  double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  for (int i = 0; i < subjects.count; i++) {
    const subject *s = &subjects.list[i];
    if (!s->measured || s->pass != pass || s->schedule[0] ||
        strncmp(rows[s->row].name, prefix, strlen(prefix)))
      continue;
    double a = log((double)rows[s->row].n), b = log(s->ms);
    n++, x += a, y += b, xx += a * a, xy += a * b;
  }
  return n < 2 ? NAN : (n * xy - x * y) / (n * xx - x * x);
}

static void print_growth(cJSON *json) {
  static const char *const prefixes[] = {"growth-strided", "growth-fixed"};
  for (int p = 0; p < 2; p++)
    for (int pass = 0; pass < GPU_PASSES; pass++) {
      double exponent = growth(prefixes[p], (enum gpu_pass)pass);
      if (isnan(exponent))
        continue;
      printf("%-22s %-13s exponent %.3f  goal 1.55 %s\n", prefixes[p], gpu_pass_names[pass], exponent,
             exponent <= 1.55 ? "reached" : "missed");
      cJSON *entry = cJSON_CreateObject();
      cJSON_AddStringToObject(entry, "row", prefixes[p]);
      cJSON_AddStringToObject(entry, "pass", gpu_pass_names[pass]);
      cJSON_AddNumberToObject(entry, "exponent", exponent);
      cJSON_AddItemToArray(json, entry);
    }
}

static void add_figure(cJSON *json, const char *row, const char *what, double value, double goal) {
  printf("%-22s %-24s %9.3f  goal %g %s\n", row, what, value, goal, value <= goal ? "reached" : "missed");
  fflush(stdout);
  cJSON *entry = cJSON_CreateObject();
  cJSON_AddStringToObject(entry, "row", row);
  cJSON_AddStringToObject(entry, "what", what);
  cJSON_AddNumberToObject(entry, "value", value);
  cJSON_AddNumberToObject(entry, "goal", goal);
  cJSON_AddItemToArray(json, entry);
}

/* YAML to a ready kernel, with nothing cached and from the cache: the median of three. */
static enum sptx_code time_creation(gpu_bench *bench, const options *o, int row, enum gpu_pass pass,
                                    const char *cache, cJSON *json, sptx_error *error) {
  char path[4096];
  gpu_shape shape = shape_of(o, row, path, sizeof path);
  for (int warm = 0; warm < 2; warm++) {
    double seconds[3];
    for (int i = -warm; i < 3; i++) {
      sptx_attention *attention;
      sptx_context_set_cache(bench->context, warm ? cache : NULL);
      double start = now();
      SPTX_TRY(gpu_attention_create(bench, &shape, pass, NULL, &attention, error));
      seconds[i < 0 ? 0 : i] = now() - start;
      sptx_attention_destroy(attention);
    }
    double low = fmin(seconds[0], seconds[1]), high = fmax(seconds[0], seconds[1]);
    char what[64];
    snprintf(what, sizeof what, "%s ready, %s, ms", gpu_pass_names[pass], warm ? "cached" : "cold");
    add_figure(json, rows[row].name, what, 1e3 * fmax(low, fmin(high, seconds[2])), warm ? 30 : 1500);
  }
  return SPTX_CODE_OK;
}

/* The host's side of a call, on a shape that is short for the GPU, and capturing it in a graph. */
static enum sptx_code time_host(gpu_bench *bench, const options *o, int row, cJSON *json, sptx_error *error) {
  char path[4096];
  gpu_shape shape = shape_of(o, row, path, sizeof path);
  sptx_attention *attention;
  gpu_tensors tensors = {0};
  double us;
  shape.n = HOST_N;
  SPTX_TRY(gpu_attention_create(bench, &shape, GPU_FORWARD, NULL, &attention, error));
  enum sptx_code code = gpu_tensors_create(bench, &shape, false, &tensors, error);
  if (code == SPTX_CODE_OK)
    code = gpu_host_time(bench, attention, &tensors, &us, error);
  if (code == SPTX_CODE_OK) {
    add_figure(json, rows[row].name, "host, us a forward call", us, 10);
    bool same = gpu_check_capture(bench, attention, &tensors, error) == SPTX_CODE_OK;
    printf("%-22s captured in a graph: %s\n", rows[row].name, same ? "the same results" : error->message);
  }
  gpu_tensors_clear(bench, &tensors);
  sptx_attention_destroy(attention);
  return code;
}

static bool measure_host(gpu_bench *bench, const options *o, cJSON *json) {
  char cache[] = "/tmp/sptx-figures-XXXXXX", command[128];
  bool good = mkdtemp(cache) != NULL;
  sptx_context_set_threads(bench->context, 0); /* as a caller would */
  for (int row = 0; row < ROWS && good; row++) {
    sptx_error error = {0};
    if (!selected(o->rows, rows[row].name) || rows[row].goal[0] == 0)
      continue;
    enum sptx_code code = time_host(bench, o, row, json, &error);
    for (int pass = GPU_FORWARD; pass <= GPU_BACKWARD && code == SPTX_CODE_OK; pass++)
      code = time_creation(bench, o, row, (enum gpu_pass)pass, cache, json, &error);
    if (code != SPTX_CODE_OK)
      printf("%-22s host: %s\n", rows[row].name, error.message);
    good = code == SPTX_CODE_OK || code == SPTX_CODE_UNSUPPORTED;
  }
  snprintf(command, sizeof command, "rm -rf '%s'", cache);
  return system(command) == 0 && good;
}

static void add_subjects(cJSON *json) {
  for (int i = 0; i < subjects.count; i++) {
    const subject *s = &subjects.list[i];
    double goal = rows[s->row].goal[s->pass != GPU_FORWARD];
    cJSON *entry = cJSON_CreateObject();
    cJSON_AddStringToObject(entry, "row", rows[s->row].name);
    cJSON_AddStringToObject(entry, "pass", gpu_pass_names[s->pass]);
    cJSON_AddStringToObject(entry, "schedule", s->schedule);
    if (s->measured)
      cJSON_AddNumberToObject(entry, "ms", s->ms);
    else
      cJSON_AddStringToObject(entry, "failure", s->failure.message);
    if (goal > 0)
      cJSON_AddNumberToObject(entry, "goal", goal);
    if (s->verified)
      cJSON_AddNumberToObject(entry, "error", s->error);
    cJSON_AddItemToArray(json, entry);
  }
}

static bool write_json(const char *path, const char *where, cJSON *figures) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "device", where);
  cJSON_AddItemReferenceToObject(root, "figures", figures);
  char *text = cJSON_Print(root);
  FILE *file = fopen(path, "w");
  bool good = text && file && fprintf(file, "%s\n", text) > 0;
  if (file && fclose(file) != 0)
    good = false;
  cJSON_free(text);
  cJSON_Delete(root);
  if (!good)
    fprintf(stderr, "gpu_figures: cannot write %s\n", path);
  return good;
}

static bool parse(int argc, char **argv, options *o) {
  static const struct option names[] = {{"device", required_argument, NULL, 'd'},
                                        {"patterns", required_argument, NULL, 'p'},
                                        {"rows", required_argument, NULL, 'r'},
                                        {"passes", required_argument, NULL, 'P'},
                                        {"schedule", required_argument, NULL, 's'},
                                        {"samples", required_argument, NULL, 'n'},
                                        {"json", required_argument, NULL, 'j'},
                                        {"no-verify", no_argument, NULL, 'v'},
                                        {"no-default", no_argument, NULL, 'D'},
                                        {"host", no_argument, NULL, 'h'},
                                        {NULL, 0, NULL, 0}};
  const char **texts[128] = {
      ['d'] = &o->device, ['p'] = &o->patterns, ['r'] = &o->rows, ['P'] = &o->passes, ['j'] = &o->json};
  for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
    if (option == '?')
      return false;
    if (texts[option])
      *texts[option] = optarg;
    else if (option == 's' && o->schedule_count < MOST_SCHEDULES)
      o->schedules[o->schedule_count++] = optarg;
    else if (option == 'n')
      o->samples = atoi(optarg);
    else if (option == 'v')
      o->verify = false;
    else if (option == 'D')
      o->only_schedules = true;
    else if (option == 'h')
      o->host = true;
  }
  return optind == argc && o->samples > 0;
}

int main(int argc, char **argv) {
  options o = {.device = "cuda:0", .patterns = "patterns/library", .samples = 30, .verify = true};
  gpu_bench bench;
  sptx_error error = {0};
  if (!parse(argc, argv, &o)) {
    fputs(
        "usage: gpu_figures [--device cuda:N] [--patterns DIRECTORY] [--rows WORD,...] [--passes WORD,...]\n"
        "         [--schedule TEXT]... [--no-default] [--samples N] [--no-verify] [--host] [--json FILE]\n"
        "--host measures the host's side instead: a call, creation cold and cached, capture in a graph.\n",
        stderr);
    return 2;
  }
  if (gpu_bench_open(o.device, &bench, &error) != SPTX_CODE_OK) {
    printf("%s\n", error.message);
    gpu_bench_close(&bench);
    return error.code == SPTX_CODE_NO_DEVICE ? NO_GPU : EXIT_FAILURE;
  }
  printf("%s; median of %d, L2 overwritten before each\n", bench.where, o.samples);
  cJSON *json = cJSON_CreateArray();
  bool good;
  if (o.host)
    good = measure_host(&bench, &o, json);
  else {
    list_subjects(&o);
    create_subjects(&bench, &o);
    good = measure_subjects(&bench, &o);
    print_growth(json);
    add_subjects(json);
  }
  if (o.json)
    good &= write_json(o.json, bench.where, json);
  cJSON_Delete(json);
  for (int i = 0; i < subjects.count; i++)
    sptx_attention_destroy(subjects.list[i].attention);
  gpu_bench_close(&bench);
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
