/* The worker's side of tuning. The first measurement makes tensors, runs the default schedule and checks it
 * against float64; every later candidate is compared with what the default wrote, in the norms that the
 * benchmark uses. */
#include "tuner/trial.h"

#include "runtime/attention.h"
#include "runtime/clock.h"
#include "tuner/bench_setup.h"
#include "tuner/element.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST_SAMPLES = 2 };

struct sptx_trial_state {
  sptx_bench_request shape; /* with the passes that are needed */
  sptx_bench_setup setup;
  sptx_attention **attentions; /* one for each candidate; NULL: not tried yet */
  sptx_bench_tensors expected; /* copies of what the default wrote */
};

static enum sptx_code create(const sptx_trial *trial, int candidate, sptx_error *error) {
  struct sptx_trial_state *state = trial->state;
  const sptx_attention_desc desc = sptx_bench_describe(&state->shape, trial->step);
  /* The default is the library's own choice without wisdom. */
  const void *schedules[3] = {NULL, NULL, NULL};
  schedules[trial->pass] = &trial->schedules[candidate];
  return sptx_bench_status(sptx_attention_create_scheduled(state->setup.context, state->setup.pattern, &desc,
                                                           schedules, &state->attentions[candidate]),
                           state->setup.context, error);
}

static enum sptx_code run(const sptx_trial *trial, int candidate, enum sptx_pass pass, sptx_error *error) {
  const struct sptx_trial_state *state = trial->state;
  return sptx_bench_call(&state->setup, state->attentions[candidate], &state->setup.placed,
                         (enum sptx_bench_pass)pass, error);
}

/* An output of a pass: where it is, and how many elements. */
typedef struct output {
  size_t offset; /* in sptx_bench_tensors */
  int64_t count;
  bool is_float; /* float32 whatever the element type: lse */
} output;

/* Lists the outputs of the pass; returns how many. */
static int list_outputs(const sptx_trial *trial, output outputs[3]) {
  const sptx_bench_request *shape = &trial->state->shape;
  int64_t rows = shape->batch * shape->heads * shape->n_q;
  int64_t keys = shape->batch * shape->kv_heads * shape->n_k * shape->head_dim;
  if (trial->pass == SPTX_PASS_FORWARD) {
    outputs[0] = (output){offsetof(sptx_bench_tensors, o), rows * shape->head_dim, false};
    outputs[1] = (output){offsetof(sptx_bench_tensors, lse), rows, true};
    return 2;
  }
  outputs[0] = (output){offsetof(sptx_bench_tensors, d_q), rows * shape->head_dim, false};
  outputs[1] = (output){offsetof(sptx_bench_tensors, d_k), keys, false};
  outputs[2] = (output){offsetof(sptx_bench_tensors, d_v), keys, false};
  return 3;
}

static void **slot(sptx_bench_tensors *tensors, const output *out) {
  return (void **)((char *)tensors + out->offset);
}

static size_t bytes_of(const sptx_trial *trial, const output *out) {
  return (size_t)out->count * (out->is_float ? sizeof(float) : sptx_element_size(trial->state->shape.dtype));
}

/* |result - expected| / |expected|; infinite where they are not both finite, unless they are equal (-inf). */
static double difference(const sptx_trial *trial, const output *out) {
  struct sptx_trial_state *state = trial->state;
  sptx_dtype type = out->is_float ? SPTX_F32 : state->shape.dtype;
  const void *result = *slot(&state->setup.host, out), *expected = *slot(&state->expected, out);
  double differences = 0, norm = 0;
  for (int64_t k = 0; k < out->count; k++) {
    double a = sptx_element_get(type, result, (size_t)k), b = sptx_element_get(type, expected, (size_t)k);
    norm += isfinite(b) ? b * b : 0;
    if (a == b)
      continue;
    if (!isfinite(a) || !isfinite(b))
      return INFINITY;
    differences += (a - b) * (a - b);
  }
  return differences > 0 ? sqrt(differences / norm) : 0;
}

/* The default's result, held against float64 and kept. */
static enum sptx_code make_expected(sptx_trial *trial, sptx_error *error) {
  struct sptx_trial_state *state = trial->state;
  sptx_bench_check check = {0};
  output outputs[3];
  SPTX_TRY(run(trial, 0, SPTX_PASS_FORWARD, error));
  if (trial->pass == SPTX_PASS_BACKWARD)
    SPTX_TRY(run(trial, 0, SPTX_PASS_BACKWARD, error));
  SPTX_TRY(
      sptx_bench_fetch(state->setup.device, &state->shape, &state->setup.placed, &state->setup.host, error));
  SPTX_TRY(sptx_bench_verify(&state->shape, trial->step, &state->setup.host, &check, error));
  if (!sptx_bench_is_exact(&state->shape, &check))
    return sptx_fail(
        error, SPTX_CODE_COMPILE,
        "the default kernels differ from float64 by %.2g (forward) and %.2g (backward), more than "
        "rounding explains: a defect of sptx, please report it",
        check.forward_error, check.backward_error);
  for (int k = list_outputs(trial, outputs) - 1; k >= 0; k--) {
    void **copy = slot(&state->expected, &outputs[k]);
    *copy = malloc(bytes_of(trial, &outputs[k]));
    if (!*copy)
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a copy of the results");
    memcpy(*copy, *slot(&state->setup.host, &outputs[k]), bytes_of(trial, &outputs[k]));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code start(sptx_trial *trial, sptx_error *error) {
  struct sptx_trial_state *state = trial->state = calloc(1, sizeof *state);
  if (!state || !(state->attentions = calloc((size_t)trial->count, sizeof(void *))))
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d candidates", trial->count);
  state->shape = *trial->shape;
  state->shape.passes[SPTX_BENCH_FORWARD] = true;
  state->shape.passes[SPTX_BENCH_BACKWARD] = trial->pass == SPTX_PASS_BACKWARD;
  SPTX_TRY(sptx_bench_setup_open(&state->shape, &state->setup, error));
  /* What loses is not worth keeping, and the winner's compilation must be part of its measure. */
  sptx_context *context = state->setup.context;
  SPTX_TRY(sptx_bench_status(sptx_context_set_cache(context, NULL), context, error));
  SPTX_TRY(create(trial, 0, error));
  return make_expected(trial, error);
}

/* Runs the candidate once on poisoned outputs and brings the results to the host. */
static enum sptx_code run_once(sptx_trial *trial, int candidate, sptx_error *error) {
  struct sptx_trial_state *state = trial->state;
  output outputs[3];
  sptx_bench_setup *setup = &state->setup;
  SPTX_TRY(create(trial, candidate, error));
  for (int k = list_outputs(trial, outputs) - 1; k >= 0; k--)
    memset(*slot(&state->setup.host, &outputs[k]), 0xff,
           bytes_of(trial, &outputs[k])); /* NaN in every type */
  sptx_bench_unplace(setup->device, &setup->placed);
  SPTX_TRY(sptx_bench_place(setup->device, &state->shape, &setup->host, &setup->placed, error));
  SPTX_TRY(run(trial, candidate, trial->pass, error));
  return sptx_bench_fetch(setup->device, &state->shape, &setup->placed, &setup->host, error);
}

/* Compiles a candidate and compares its result. False, with the reason, when it is not to be used. */
static bool admit(sptx_trial *trial, int candidate, char reason[160]) {
  struct sptx_trial_state *state = trial->state;
  sptx_bench_check check = {0};
  sptx_error error = {0};
  output outputs[3];
  if (run_once(trial, candidate, &error) != SPTX_CODE_OK) {
    snprintf(reason, 160, "%.159s", error.message);
    return false;
  }
  double worst = 0;
  int count = list_outputs(trial, outputs);
  if (trial->spoil)
    sptx_element_set(state->shape.dtype, *slot(&state->setup.host, &outputs[0]), 0, 1e3);
  for (int k = 0; k < count; k++)
    worst = fmax(worst, difference(trial, &outputs[k]));
  check.forward_error = worst;
  if (sptx_bench_is_exact(&state->shape, &check))
    return true;
  snprintf(reason, 160, "its result differs from the default's by %.2g, relatively", worst);
  return false;
}

/* One call, for sptx_bench_time. */
typedef struct timed_call {
  const sptx_trial *trial;
  int candidate;
} timed_call;

static enum sptx_code call(void *argument, sptx_error *error) {
  const timed_call *timed = argument;
  return run(timed->trial, timed->candidate, timed->trial->pass, error);
}

/* The shortest of single calls until the time is used up: whatever disturbs a call only adds to its time. */
static enum sptx_code time_calls(const sptx_trial *trial, int candidate, double seconds, double *ms,
                                 sptx_error *error) {
  timed_call timed = {trial, candidate};
  double shortest = INFINITY, begin = sptx_now();
  for (int count = 0; count < FEWEST_SAMPLES || sptx_now() - begin < seconds; count++) {
    double one;
    SPTX_TRY(sptx_bench_time(trial->state->setup.device, call, &timed, 1, &one, error));
    shortest = fmin(shortest, one);
  }
  *ms = 1e3 * shortest;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_trial_measure(void *user, int candidate, double seconds, double *ms, char reason[160],
                                  sptx_error *error) {
  sptx_trial *trial = user;
  *ms = 0;
  if (!trial->state)
    SPTX_TRY(start(trial, error));
  if (!trial->state->attentions[candidate] && !admit(trial, candidate, reason))
    return SPTX_CODE_OK;
  sptx_error failure = {0};
  if (time_calls(trial, candidate, seconds, ms, &failure) != SPTX_CODE_OK) {
    *ms = 0;
    snprintf(reason, 160, "%.159s", failure.message);
  }
  return SPTX_CODE_OK;
}
