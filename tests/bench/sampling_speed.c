/* What one more position costs when a sequence of 12,288 is sampled: the time of the last position with a
 * sparse pattern, against the same model with dense attention and its key/value cache. The aim is a quarter.
 *
 *   sampling_speed [PATTERN_FOLDER [THREADS]]    patterns/library and all cores when left out
 *
 * The patterns are timed in turns, so that whatever else runs on the machine slows all of them; with one
 * thread the time of the CPU is the surer one. */
#include "model/random.h"
#include "model/transformer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LENGTH = 12288, LAYERS = 6, WIDTH = 256, HEADS = 4, ROUNDS = 41, SEED = 7 };

static struct subject {
  const char *pattern, *param, *value;
  sptx_transformer *decoder;
  double seconds[ROUNDS], cpu_seconds[ROUNDS];
} SUBJECTS[] = {
    {.pattern = "dense.yaml"},
    {.pattern = "strided.yaml", .param = "stride", .value = "128"},
    {.pattern = "strided-merged.yaml", .param = "stride", .value = "128"},
    {.pattern = "fixed-merged.yaml", .param = "columns", .value = "8"},
    {.pattern = "fixed-merged.yaml", .param = "columns", .value = "32"},
};
enum { SUBJECT_COUNT = sizeof SUBJECTS / sizeof *SUBJECTS };

/* The cache as 12,287 sampled positions leave it, but for the values. */
static void fill_cache(sptx_transformer *t) {
  for (int64_t layer = 0; layer < t->config.layers; layer++) {
    float *cache = t->cache[layer];
    for (int64_t k = 0; k < t->config.length * 3 * t->config.width; k++)
      cache[k] = (float)(sptx_random_uniform(SEED, 90, (uint32_t)layer, (uint64_t)k) - 0.5);
  }
}

static enum sptx_code create(struct subject *subject, const char *folder, int threads, sptx_error *error) {
  sptx_config config = {.layers = LAYERS,
                        .width = WIDTH,
                        .heads = HEADS,
                        .length = LENGTH,
                        .position_width = 128,
                        .feed_forward = 4,
                        .query_key = 1,
                        .batch = 1,
                        .seed = SEED,
                        .threads = threads};
  snprintf(config.device, sizeof config.device, "cpu");
  snprintf(config.pattern, sizeof config.pattern, "%s/%s", folder, subject->pattern);
  if (subject->param) {
    config.pattern_param_count = 1;
    snprintf(config.pattern_params[0].name, sizeof config.pattern_params[0].name, "%s", subject->param);
    snprintf(config.pattern_params[0].value, sizeof config.pattern_params[0].value, "%s", subject->value);
  }
  SPTX_TRY(sptx_transformer_create(&config, SPTX_TRANSFORMER_DECODE, 1, &subject->decoder, error));
  fill_cache(subject->decoder);
  return SPTX_CODE_OK;
}

static double now(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static enum sptx_code measure(sptx_error *error) {
  float logits[SPTX_VOCABULARY];
  for (int round = -2; round < ROUNDS; round++)
    for (int k = 0; k < SUBJECT_COUNT; k++) {
      double start = now(CLOCK_MONOTONIC), cpu_start = now(CLOCK_PROCESS_CPUTIME_ID);
      SPTX_TRY(sptx_transformer_decode(SUBJECTS[k].decoder, LENGTH - 1, 65, logits, error));
      if (round < 0)
        continue;
      SUBJECTS[k].cpu_seconds[round] = now(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
      SUBJECTS[k].seconds[round] = now(CLOCK_MONOTONIC) - start;
    }
  return SPTX_CODE_OK;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *seconds) {
  qsort(seconds, ROUNDS, sizeof *seconds, by_value);
  return seconds[ROUNDS / 2];
}

static void report(void) {
  printf("%d layers, width %d, %d heads, position %d, float32, median of %d rounds\n\n%-22s %-12s %9s %7s "
         "%9s %7s\n",
         LAYERS, WIDTH, HEADS, LENGTH, ROUNDS, "pattern", "parameter", "wall ms", "ratio", "CPU ms", "ratio");
  double dense = 0, dense_cpu = 0;
  for (int k = 0; k < SUBJECT_COUNT; k++) {
    struct subject *s = &SUBJECTS[k];
    char parameter[64] = "";
    double wall = median(s->seconds), cpu = median(s->cpu_seconds);
    if (k == 0) {
      dense = wall;
      dense_cpu = cpu;
    }
    if (s->param)
      snprintf(parameter, sizeof parameter, "%s %s", s->param, s->value);
    printf("%-22s %-12s %9.3f %7.3f %9.3f %7.3f\n", s->pattern, parameter, 1e3 * wall, wall / dense,
           1e3 * cpu, cpu / dense_cpu);
  }
}

int main(int argc, char **argv) {
  sptx_error error = {0};
  enum sptx_code code = SPTX_CODE_OK;
  for (int k = 0; k < SUBJECT_COUNT && code == SPTX_CODE_OK; k++)
    code =
        create(&SUBJECTS[k], argc > 1 ? argv[1] : "patterns/library", argc > 2 ? atoi(argv[2]) : 0, &error);
  if (code == SPTX_CODE_OK)
    code = measure(&error);
  if (code == SPTX_CODE_OK)
    report();
  else
    fprintf(stderr, "sampling_speed: %s\n", error.message);
  for (int k = 0; k < SUBJECT_COUNT; k++)
    sptx_transformer_destroy(SUBJECTS[k].decoder);
  return code == SPTX_CODE_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
