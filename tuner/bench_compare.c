/* Two attentions of one shape on the same tensors, their calls in turns; see bench_compare.h. */
#include "tuner/bench_compare.h"

#include "gen/problem.h"
#include "runtime/attention.h"
#include "runtime/clock.h"
#include "runtime/statistics.h"
#include "tuner/bench_device.h"
#include <string.h>

enum { DEFAULT, TUNED, SUBJECTS };
enum { FEWEST_ROUNDS = 5, MOST_ROUNDS = 201 };

/* Everything one comparison holds. */
typedef struct comparing {
  sptx_context *context;
  sptx_pattern *pattern;
  sptx_attention *attentions[SUBJECTS];
  sptx_bench_device *device;
  sptx_bench_tensors host, placed;
} comparing;

static enum sptx_code check_status(sptx_status status, const sptx_context *context, sptx_error *error) {
  if (status == SPTX_OK)
    return SPTX_CODE_OK;
  return sptx_fail(error, (enum sptx_code)status, "%s", sptx_last_error(context));
}

static void close_all(comparing *c) {
  for (int k = 0; k < SUBJECTS; k++)
    sptx_attention_destroy(c->attentions[k]);
  sptx_pattern_destroy(c->pattern);
  sptx_context_destroy(c->context);
  if (c->device)
    sptx_bench_unplace(c->device, &c->placed);
  sptx_bench_device_close(c->device);
  sptx_bench_tensors_clear(&c->host);
}

static enum sptx_code open_all(const sptx_bench_request *request, size_t step, const char *wisdom,
                               comparing *c, sptx_error *error) {
  static const void *const defaults[3] = {NULL, NULL, NULL};
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = request->passes[SPTX_BENCH_BACKWARD] ? SPTX_WITH_BACKWARD : 0;
  desc.dtype = request->dtype;
  desc.batch = request->batch, desc.heads = request->heads, desc.kv_heads = request->kv_heads;
  desc.n_q = request->n_q, desc.n_k = request->n_k, desc.head_dim = request->head_dim;
  desc.step = (int64_t)step;
  SPTX_TRY(check_status(sptx_context_create(&c->context, request->device), NULL, error));
  SPTX_TRY(check_status(sptx_context_set_threads(c->context, request->threads), c->context, error));
  if (wisdom)
    SPTX_TRY(check_status(sptx_context_set_wisdom(c->context, wisdom), c->context, error));
  SPTX_TRY(check_status(sptx_pattern_load(c->context, request->pattern_path, request->params,
                                          request->param_count, &c->pattern),
                        c->context, error));
  SPTX_TRY(check_status(
      sptx_attention_create_scheduled(c->context, c->pattern, &desc, defaults, &c->attentions[DEFAULT]),
      c->context, error));
  SPTX_TRY(check_status(sptx_attention_create(c->context, c->pattern, &desc, &c->attentions[TUNED]),
                        c->context, error));
  SPTX_TRY(sptx_bench_tensors_create(request, &c->host, error));
  SPTX_TRY(sptx_bench_device_open(request->device, &c->device, error));
  return sptx_bench_place(c->device, request, &c->host, &c->placed, error);
}

/* One call, for sptx_bench_time. */
typedef struct timed_call {
  const comparing *c;
  int subject;
  enum sptx_bench_pass pass;
} timed_call;

static enum sptx_code call(void *argument, sptx_error *error) {
  const timed_call *timed = argument;
  const sptx_attention *attention = timed->c->attentions[timed->subject];
  const sptx_bench_tensors *t = &timed->c->placed;
  void *stream = sptx_bench_device_stream(timed->c->device);
  sptx_status status = timed->pass == SPTX_BENCH_FORWARD
                           ? sptx_attention_forward(attention, t->q, t->k, t->v, t->o, t->lse, stream)
                           : sptx_attention_backward(attention, t->q, t->k, t->v, t->o, t->lse, t->d_o,
                                                     t->d_q, t->d_k, t->d_v, stream);
  return check_status(status, timed->c->context, error);
}

static enum sptx_code compare_pass(const comparing *c, const sptx_bench_request *request,
                                   enum sptx_bench_pass pass, double medians[SUBJECTS], sptx_error *error) {
  double samples[SUBJECTS][MOST_ROUNDS], begin = sptx_now();
  int rounds = 0;
  for (; rounds < MOST_ROUNDS && (rounds < FEWEST_ROUNDS || sptx_now() - begin < request->seconds); rounds++)
    for (int k = 0; k < SUBJECTS; k++) {
      timed_call timed = {c, k, pass};
      double warm;
      SPTX_TRY(sptx_bench_time(c->device, call, &timed, 1, &warm, error));
      SPTX_TRY(sptx_bench_time(c->device, call, &timed, 1, &samples[k][rounds], error));
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
