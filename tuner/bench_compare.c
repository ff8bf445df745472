/* Two attentions of one shape on the same tensors, their calls in turns; see bench_compare.h. */
#include "tuner/bench_compare.h"

#include "gen/problem.h"
#include "runtime/attention.h"
#include "runtime/clock.h"
#include "runtime/statistics.h"
#include "tuner/bench_setup.h"
#include <string.h>

enum { DEFAULT, TUNED, SUBJECTS };
enum { FEWEST_ROUNDS = 5, MOST_ROUNDS = 201 };

/* Everything one comparison holds. */
typedef struct comparing {
  sptx_bench_setup setup;
  sptx_attention *attentions[SUBJECTS];
} comparing;

static void close_all(comparing *c) {
  for (int k = 0; k < SUBJECTS; k++)
    sptx_attention_destroy(c->attentions[k]);
  sptx_bench_setup_close(&c->setup);
}

static enum sptx_code open_all(const sptx_bench_request *request, size_t step, const char *wisdom,
                               comparing *c, sptx_error *error) {
  static const void *const defaults[3] = {NULL, NULL, NULL};
  const sptx_attention_desc desc = sptx_bench_describe(request, step);
  SPTX_TRY(sptx_bench_setup_open(request, &c->setup, error));
  sptx_context *context = c->setup.context;
  const sptx_pattern *pattern = c->setup.pattern;
  if (wisdom)
    SPTX_TRY(sptx_bench_status(sptx_context_set_wisdom(context, wisdom), context, error));
  SPTX_TRY(sptx_bench_status(
      sptx_attention_create_scheduled(context, pattern, &desc, defaults, &c->attentions[DEFAULT]), context,
      error));
  return sptx_bench_status(sptx_attention_create(context, pattern, &desc, &c->attentions[TUNED]), context,
                           error);
}

/* One call, for sptx_bench_time. */
typedef struct timed_call {
  const comparing *c;
  int subject;
  enum sptx_bench_pass pass;
} timed_call;

static enum sptx_code call(void *argument, sptx_error *error) {
  const timed_call *timed = argument;
  const sptx_bench_setup *setup = &timed->c->setup;
  return sptx_bench_call(setup, timed->c->attentions[timed->subject], &setup->placed, timed->pass, error);
}

static enum sptx_code compare_pass(const comparing *c, const sptx_bench_request *request,
                                   enum sptx_bench_pass pass, double medians[SUBJECTS], sptx_error *error) {
  double samples[SUBJECTS][MOST_ROUNDS], begin = sptx_now();
  int rounds = 0;
  for (; rounds < MOST_ROUNDS && (rounds < FEWEST_ROUNDS || sptx_now() - begin < request->seconds); rounds++)
    for (int k = 0; k < SUBJECTS; k++) {
      timed_call timed = {c, k, pass};
      double warm;
      SPTX_TRY(sptx_bench_time(c->setup.device, call, &timed, 1, &warm, error));
      SPTX_TRY(sptx_bench_time(c->setup.device, call, &timed, 1, &samples[k][rounds], error));
    }
  for (int k = 0; k < SUBJECTS; k++)
    medians[k] = 1e3 * sptx_median(samples[k], rounds);
  return SPTX_CODE_OK;
}

static enum sptx_code compare(const comparing *c, const sptx_bench_request *request,
                              sptx_bench_comparison *comparison, sptx_error *error) {
  timed_call forward = {c, DEFAULT, SPTX_BENCH_FORWARD};
  SPTX_TRY(call(&forward, error)); /* the backward needs its o and lse */
  for (int pass = 0; pass < SPTX_BENCH_PASSES; pass++) {
    double medians[SUBJECTS];
    if (!request->passes[pass])
      continue;
    SPTX_TRY(compare_pass(c, request, (enum sptx_bench_pass)pass, medians, error));
    comparison->default_ms[pass] = medians[DEFAULT];
    comparison->tuned_ms[pass] = medians[TUNED];
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_bench_compare(const sptx_bench_request *request, size_t step, const char *wisdom,
                                  sptx_bench_comparison *comparison, sptx_error *error) {
  comparing c = {0};
  memset(comparison, 0, sizeof *comparison);
  enum sptx_code code = open_all(request, step, wisdom, &c, error);
  if (code == SPTX_CODE_OK)
    code = compare(&c, request, comparison, error);
  close_all(&c);
  return code;
}

void sptx_bench_compare_print(const sptx_bench_request *request, const char *step,
                              const sptx_bench_comparison *comparison, bool header, FILE *stream) {
  if (header)
    fprintf(stream, "%-12s %-9s %11s %10s %6s\n", "step", "pass", "default ms", "tuned ms", "gain");
  for (int pass = 0; pass < SPTX_BENCH_PASSES; pass++)
    if (request->passes[pass])
      fprintf(stream, "%-12s %-9s %11.4f %10.4f %5.2fx\n", step, sptx_pass_name((enum sptx_pass)pass),
              comparison->default_ms[pass], comparison->tuned_ms[pass],
              comparison->default_ms[pass] / comparison->tuned_ms[pass]);
}

bool sptx_bench_compare_json(const sptx_bench_request *request, const char *step,
                             const sptx_bench_comparison *comparison, cJSON *results) {
  for (int pass = 0; pass < SPTX_BENCH_PASSES; pass++) {
    if (!request->passes[pass])
      continue;
    cJSON *item = cJSON_CreateObject();
    if (!cJSON_AddItemToArray(results, item)) {
      cJSON_Delete(item);
      return false;
    }
    if (!cJSON_AddStringToObject(item, "step", step) ||
        !cJSON_AddStringToObject(item, "pass", sptx_pass_name((enum sptx_pass)pass)) ||
        !cJSON_AddNumberToObject(item, "default_ms", comparison->default_ms[pass]) ||
        !cJSON_AddNumberToObject(item, "tuned_ms", comparison->tuned_ms[pass]))
      return false;
  }
  return true;
}
