/* Measures one step of a pattern. The subjects (the pattern, dense causal, sgemm) take turns within each
 * round, so that a change of the machine's speed or load meets all of them, and ratios stay fair. */
#include "tuner/bench_setup.h"
#include "tuner/ceiling.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIN_SAMPLE_SECONDS 0.01
#define MIN_ROUNDS 5
#define MAX_ROUNDS 201
#define LONGEST_DENSE_SECONDS 5.0
#define MAX_DENSE_ROUNDS 15
/* OpenBLAS's threads spin for a while after a product; nothing else is timed until they sleep. */
#define GEMM_REST_MICROSECONDS 60000
/* Processors that have slept come back to their full clock step by step: the calls of a Xeon's first 15 ms
 * took up to twice as long as the rest. */
#define WARM_SECONDS 0.03

static const char dense_pattern[] = "sptx: 1\nname: dense\ncausal: true\nattend: all\n";

struct subject {
  const sptx_bench_setup *setup;
  const sptx_attention *attention;
  const sptx_bench_tensors *tensors; /* on the device */
  enum sptx_bench_pass pass;
};

static enum sptx_code run_pass(const struct subject *subject, enum sptx_bench_pass pass, sptx_error *error) {
  return sptx_bench_call(subject->setup, subject->attention, subject->tensors, pass, error);
}

static enum sptx_code run_subject(void *argument, sptx_error *error) {
  const struct subject *subject = argument;
  return run_pass(subject, subject->pass, error);
}

/* Seconds of one call, averaged over calls. */
static enum sptx_code time_calls(struct subject *subject, int calls, double *seconds, sptx_error *error) {
  return sptx_bench_time(subject->setup->device, run_subject, subject, calls, seconds, error);
}

/* Doubles the calls of one sample until it is long enough for the clock; the first call warms up. Events are
 * exact enough for single calls. */
static enum sptx_code calibrate(struct subject *subject, int *calls, double *seconds, sptx_error *error) {
  SPTX_TRY(time_calls(subject, 1, seconds, error));
  for (*calls = 1;; *calls *= 2) {
    SPTX_TRY(time_calls(subject, *calls, seconds, error));
    if (*seconds * *calls >= MIN_SAMPLE_SECONDS || sptx_bench_device_is_gpu(subject->setup->device))
      return SPTX_CODE_OK;
  }
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double sorted_median(double *samples, int count) {
  qsort(samples, (size_t)count, sizeof *samples, compare_doubles);
  return count % 2 ? samples[count / 2] : 0.5 * (samples[count / 2 - 1] + samples[count / 2]);
}

struct samples {
  double pattern[MAX_ROUNDS], dense[MAX_ROUNDS], gemm[MAX_ROUNDS];
  int rounds, dense_rounds;
};

/* Calls that are not counted: one on a GPU, whose clock the host's pauses do not lower. */
static enum sptx_code warm_up(struct subject *subject, sptx_error *error) {
  bool gpu = sptx_bench_device_is_gpu(subject->setup->device);
  double start = sptx_now(), seconds;
  do
    SPTX_TRY(time_calls(subject, 1, &seconds, error));
  while (!gpu && sptx_now() - start < WARM_SECONDS);
  return SPTX_CODE_OK;
}

/* One round: warm calls and a sample of the pattern, one call of dense, one product. */
static enum sptx_code one_round(struct subject *pattern, int pattern_calls, struct subject *dense,
                                sptx_gemm *gemm, struct samples *samples, sptx_error *error) {
  double *sample = &samples->pattern[samples->rounds];
  SPTX_TRY(warm_up(pattern, error));
  SPTX_TRY(time_calls(pattern, pattern_calls, sample, error));
  if (dense && samples->dense_rounds < MAX_DENSE_ROUNDS)
    SPTX_TRY(time_calls(dense, 1, &samples->dense[samples->dense_rounds++], error));
  if (gemm) {
    samples->gemm[samples->rounds] = sptx_gemm_run(gemm);
    usleep(GEMM_REST_MICROSECONDS);
  }
  samples->rounds++;
  return SPTX_CODE_OK;
}

static double operations(const sptx_bench_request *request, int64_t pairs, enum sptx_bench_pass pass) {
  return 4.0 * (double)pairs * (double)request->head_dim * (pass == SPTX_BENCH_BACKWARD ? 2.5 : 1);
}

static void summarize(const sptx_bench_request *request, int64_t pairs, enum sptx_bench_pass pass,
                      bool with_gemm, struct samples *samples, sptx_bench_result *result) {
  double median = sorted_median(samples->pattern, samples->rounds);
  result->samples = samples->rounds;
  result->ms = 1e3 * median;
  result->min_ms = 1e3 * samples->pattern[0];
  result->max_ms = 1e3 * samples->pattern[samples->rounds - 1];
  result->useful_gflops = 1e-9 * operations(request, pairs, pass) / median;
  if (with_gemm) {
    result->gemm_gflops = 1e-9 * sptx_gemm_operations() / sorted_median(samples->gemm, samples->rounds);
    result->ratio_to_gemm = result->useful_gflops / result->gemm_gflops;
  }
  result->dense_ms = samples->dense_rounds ? 1e3 * sorted_median(samples->dense, samples->dense_rounds) : -1;
}

/* Half of what products reach here, in operations a second; on a GPU, what even small ones reach. */
static double modest_rate(sptx_gemm *gemm) {
  if (!gemm)
    return 1e13;
  sptx_gemm_run(gemm);
  double rate = 0.5 * sptx_gemm_operations() / sptx_gemm_run(gemm);
  usleep(GEMM_REST_MICROSECONDS);
  return rate;
}

/* Whether a dense call is short enough to be measured. */
static bool dense_is_short(const sptx_bench_request *request, enum sptx_bench_pass pass, double rate) {
  double pairs = (double)request->batch * (double)request->heads * (double)request->n_q *
                 ((double)request->n_k - 0.5 * (double)request->n_q);
  double work = 4.0 * pairs * (double)request->head_dim * (pass == SPTX_BENCH_BACKWARD ? 2.5 : 1);
  return work / rate <= LONGEST_DENSE_SECONDS;
}

static enum sptx_code measure(const sptx_bench_request *request, int64_t pairs, struct subject *pattern,
                              struct subject *dense, sptx_gemm *gemm, sptx_bench_result *result,
                              sptx_error *error) {
  struct samples *samples = calloc(1, sizeof *samples);
  enum sptx_code code;
  enum sptx_bench_pass pass = pattern->pass;
  int calls;
  double seconds;
  if (!samples)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the samples of a measurement");
  bool with_dense = dense_is_short(request, pass, modest_rate(gemm));
  if (with_dense) /* the backward needs its o and lse; either way this warms up */
    SPTX_TRY_GOTO(run_pass(dense, SPTX_BENCH_FORWARD, error), done);
  SPTX_TRY_GOTO(calibrate(pattern, &calls, &seconds, error), done);
  double start = sptx_now();
  while (samples->rounds < MAX_ROUNDS &&
         (samples->rounds < MIN_ROUNDS || sptx_now() - start < request->seconds))
    SPTX_TRY_GOTO(one_round(pattern, calls, with_dense ? dense : NULL, gemm, samples, error), done);
  summarize(request, pairs, pass, gemm != NULL, samples, result);
done:
  free(samples);
  return code;
}

/* Everything one step's measurement holds. */
struct bench {
  sptx_bench_setup setup;
  sptx_pattern *dense_pattern;
  sptx_attention *attention, *dense_attention;
  sptx_bench_tensors dense_tensors; /* with an o and an lse of its own */
  sptx_gemm *gemm;                  /* NULL on a GPU */
};

static void bench_clear(struct bench *bench) {
  sptx_attention_destroy(bench->attention);
  sptx_attention_destroy(bench->dense_attention);
  sptx_pattern_destroy(bench->dense_pattern);
  sptx_bench_device_free(bench->setup.device, bench->dense_tensors.o);
  sptx_bench_device_free(bench->setup.device, bench->dense_tensors.lse);
  sptx_bench_setup_close(&bench->setup);
  sptx_gemm_free(bench->gemm);
}

static enum sptx_code create_dense_tensors(const sptx_bench_request *request, struct bench *bench,
                                           sptx_error *error) {
  sptx_bench_device *device = bench->setup.device;
  size_t rows = (size_t)(request->batch * request->heads * request->n_q);
  void *o = NULL, *lse = NULL;
  SPTX_TRY(sptx_bench_device_alloc(device, rows * (size_t)request->head_dim * sizeof(float), &o, error));
  bench->dense_tensors.o = o;
  SPTX_TRY(sptx_bench_device_alloc(device, rows * sizeof(float), &lse, error));
  bench->dense_tensors = bench->setup.placed;
  bench->dense_tensors.o = o;
  bench->dense_tensors.lse = lse;
  return SPTX_CODE_OK;
}

static enum sptx_code bench_open(const sptx_bench_request *request, size_t step, struct bench *bench,
                                 sptx_error *error) {
  sptx_attention_desc desc = sptx_bench_describe(request, step);
  SPTX_TRY(sptx_bench_setup_open(request, &bench->setup, error));
  sptx_context *context = bench->setup.context;
  SPTX_TRY(sptx_bench_status(sptx_attention_create(context, bench->setup.pattern, &desc, &bench->attention),
                             context, error));
  desc.step = 0;
  SPTX_TRY(sptx_bench_status(sptx_pattern_from_text(context, dense_pattern, sizeof dense_pattern - 1, "dense",
                                                    NULL, 0, &bench->dense_pattern),
                             context, error));
  SPTX_TRY(sptx_bench_status(
      sptx_attention_create(context, bench->dense_pattern, &desc, &bench->dense_attention), context, error));
  SPTX_TRY(create_dense_tensors(request, bench, error));
  if (sptx_bench_device_is_gpu(bench->setup.device))
    return SPTX_CODE_OK;
  return sptx_gemm_create(request->threads, &bench->gemm, error);
}

static enum sptx_code bench_step(const sptx_bench_request *request, size_t step, struct bench *bench,
                                 sptx_bench_step *result, sptx_error *error) {
  sptx_bench_setup *setup = &bench->setup;
  struct subject pattern = {setup, bench->attention, &setup->placed, 0};
  struct subject dense = {setup, bench->dense_attention, &bench->dense_tensors, 0};
  result->info.struct_size = sizeof result->info;
  SPTX_TRY(
      sptx_bench_status(sptx_attention_get_info(bench->attention, &result->info), setup->context, error));
  for (int pass = 0; pass < SPTX_BENCH_PASSES; pass++)
    if (pass == SPTX_BENCH_FORWARD || request->passes[pass])
      SPTX_TRY(run_pass(&pattern, (enum sptx_bench_pass)pass, error));
  SPTX_TRY(sptx_bench_fetch(setup->device, request, &setup->placed, &setup->host, error));
  SPTX_TRY(sptx_bench_verify(request, step, &setup->host, &result->check, error));
  for (int pass = 0; pass < SPTX_BENCH_PASSES; pass++) {
    if (!request->passes[pass])
      continue;
    pattern.pass = dense.pass = (enum sptx_bench_pass)pass;
    SPTX_TRY(measure(request, result->info.useful_pairs, &pattern, &dense, bench->gemm,
                     &result->results[pass], error));
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_bench_run(const sptx_bench_request *request, size_t step, sptx_bench_step *result,
                              sptx_error *error) {
  struct bench bench = {0};
  memset(result, 0, sizeof *result);
  enum sptx_code code = bench_open(request, step, &bench, error);
  if (code == SPTX_CODE_OK)
    code = bench_step(request, step, &bench, result, error);
  bench_clear(&bench);
  return code;
}
