/* The in-process search; see in_place.h. Scratch tensors lie on the device, contiguous or strided as the
 * caller's will be, since strides decide what is fast. */
#include "runtime/in_place.h"

#include "gen/problem.h"
#include "gen/space.h"
#include "runtime/clock.h"
#include "runtime/search.h"
#include "runtime/wisdom_key.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { Q, K, V, O, LSE, D_O, D_Q, D_K, D_V, TENSORS };
enum { FEWEST_SAMPLES = 2 };
static const double share = 0.1; /* of the space to measure */

/* One pass's search. */
typedef struct in_place {
  sptx_context *context;
  sptx_request request; /* with only the passes that are measured; its schedules change */
  enum sptx_pass pass;
  sptx_space space;
  void **attentions;   /* one for each schedule; NULL: not tried yet */
  void *data[TENSORS]; /* on the device, as large as the strides reach */
  void *expected[3];   /* what the default wrote, in host memory */
  void *staging;       /* host memory for the largest tensor */
  size_t elements[TENSORS];
} in_place;

/* Elements from the first to the last of a (batch, heads, n, head_dim) tensor. */
static size_t reach(const sptx_problem *problem, const sptx_strides *strides, int64_t heads, int64_t n) {
  return (size_t)((problem->batch - 1) * strides->batch + (heads - 1) * strides->head +
                  (n - 1) * strides->position + problem->head_dim);
}

static void measure_tensors(in_place *tuning) {
  const sptx_problem *problem = &tuning->request.problem;
  const sptx_strides *const strides[] = {&problem->q, &problem->k, &problem->v, &problem->o, NULL,
                                         &problem->o, &problem->q, &problem->k, &problem->v};
  for (int t = 0; t < TENSORS; t++) {
    bool keys = t == K || t == V || t == D_K || t == D_V;
    tuning->elements[t] = t == LSE ? (size_t)(problem->batch * problem->heads * problem->n_q)
                                   : reach(problem, strides[t], keys ? problem->kv_heads : problem->heads,
                                           keys ? problem->n_k : problem->n_q);
  }
}

static enum sptx_element type_of(const in_place *tuning, int tensor) {
  return tensor == LSE ? SPTX_ELEMENT_F32 : tuning->request.problem.element;
}

static size_t bytes_of(const in_place *tuning, int tensor) {
  return tuning->elements[tensor] * (size_t)sptx_element_bytes(type_of(tuning, tensor));
}

/* Small numbers of both signs in any element type: only the sign, the exponent's last bits and the fraction
 * vary. */
static void fill(enum sptx_element element, void *data, size_t count, uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (size_t k = 0; k < count; k++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    uint32_t random = (uint32_t)(state >> 33);
    float value = (float)(random % 65536) / 32768 - 1;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (element == SPTX_ELEMENT_F32)
      ((float *)data)[k] = value;
    else if (element == SPTX_ELEMENT_BF16)
      ((uint16_t *)data)[k] = (uint16_t)(bits >> 16);
    else /* float16 between 1/4 and 1 */
      ((uint16_t *)data)[k] = (uint16_t)((random & 0x8000) | (0x3400 + random % 0x800));
  }
}

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY,
                   "not enough memory to tune: it needs a copy of every tensor; leave SPTX_TUNE out, or use "
                   "sptx-tune on a machine with more memory");
}

static size_t largest_bytes(const in_place *tuning) {
  size_t most = 0;
  for (int t = 0; t < TENSORS; t++)
    most = bytes_of(tuning, t) > most ? bytes_of(tuning, t) : most;
  return most;
}

static enum sptx_code make_tensors(in_place *tuning, sptx_error *error) {
  const sptx_context *context = tuning->context;
  int used = tuning->pass == SPTX_PASS_BACKWARD ? TENSORS : LSE + 1;
  measure_tensors(tuning);
  tuning->staging = malloc(largest_bytes(tuning));
  if (!tuning->staging)
    return no_memory(error);
  for (int t = 0; t < used; t++) {
    size_t bytes = bytes_of(tuning, t);
    SPTX_TRY(context->kind->allocate(context->device, bytes, &tuning->data[t], error));
    fill(type_of(tuning, t), tuning->staging, tuning->elements[t], (uint64_t)t);
    SPTX_TRY(context->kind->copy_in(context->device, tuning->data[t], tuning->staging, bytes, error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code run(in_place *tuning, void *attention, enum sptx_pass pass, sptx_error *error) {
  sptx_tensors tensors = {.q = tuning->data[Q],
                          .k = tuning->data[K],
                          .v = tuning->data[V],
                          .o = tuning->data[O],
                          .lse = tuning->data[LSE],
                          .d_o = tuning->data[D_O],
                          .d_q = tuning->data[D_Q],
                          .d_k = tuning->data[D_K],
                          .d_v = tuning->data[D_V],
                          .threads = tuning->request.threads};
  return tuning->context->kind->run(attention, pass, &tensors, error);
}

/* The outputs of the pass among the tensors. */
static int list_outputs(const in_place *tuning, int outputs[3]) {
  if (tuning->pass == SPTX_PASS_FORWARD) {
    outputs[0] = O, outputs[1] = LSE;
    return 2;
  }
  outputs[0] = D_Q, outputs[1] = D_K, outputs[2] = D_V;
  return 3;
}

static double element_at(enum sptx_element element, const void *data, size_t index) {
  if (element == SPTX_ELEMENT_F32)
    return ((const float *)data)[index];
  uint16_t half = ((const uint16_t *)data)[index];
  if (element == SPTX_ELEMENT_BF16) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
  int exponent = half >> 10 & 31, fraction = half & 1023;
  double value = exponent == 31 ? (fraction ? NAN : INFINITY)
                 : exponent     ? ldexp(fraction + 1024, exponent - 25)
                                : ldexp(fraction, -24);
  return half & 0x8000 ? -value : value;
}

/* |a - b| / |b|; infinite where only one of two elements is a number. */
static double difference(enum sptx_element element, const void *a, const void *b, size_t count) {
  double differences = 0, norm = 0;
  for (size_t k = 0; k < count; k++) {
    double x = element_at(element, a, k), y = element_at(element, b, k);
    if (isfinite(x) != isfinite(y))
      return INFINITY;
    if (!isfinite(y))
      continue;
    norm += y * y;
    differences += (x - y) * (x - y);
  }
  return differences > 0 ? sqrt(differences / fmax(norm, 1e-300)) : 0;
}

/* Rounding differs with the order of sums: 16 units of the last place, for float32 times the root of the
 * longest sum. */
static double tolerance(const sptx_problem *problem) {
  switch (problem->element) {
  case SPTX_ELEMENT_F16:
    return 16 * 0x1p-11;
  case SPTX_ELEMENT_BF16:
    return 16 * 0x1p-8;
  default:
    return 16 * 0x1p-24 * sqrt((double)problem->n_k);
  }
}

static enum sptx_code create(in_place *tuning, int candidate, sptx_error *error) {
  sptx_request request = tuning->request;
  memset(request.schedules, 0, sizeof request.schedules);
  request.schedules[tuning->pass] = candidate ? &tuning->space.schedules[candidate] : NULL;
  return tuning->context->kind->create(tuning->context->device, &request, &tuning->attentions[candidate],
                                       error);
}

/* NaN in every type, so that what a candidate leaves out is seen. */
static enum sptx_code poison(in_place *tuning, sptx_error *error) {
  const sptx_context *context = tuning->context;
  int outputs[3];
  memset(tuning->staging, 0xff, largest_bytes(tuning));
  for (int k = list_outputs(tuning, outputs) - 1; k >= 0; k--)
    SPTX_TRY(context->kind->copy_in(context->device, tuning->data[outputs[k]], tuning->staging,
                                    bytes_of(tuning, outputs[k]), error));
  return SPTX_CODE_OK;
}

static enum sptx_code fetch(const in_place *tuning, int tensor, void *to, sptx_error *error) {
  const sptx_context *context = tuning->context;
  return context->kind->copy_out(context->device, to, tuning->data[tensor], bytes_of(tuning, tensor), error);
}

/* The default's result is what the others are compared with. */
static enum sptx_code make_expected(in_place *tuning, sptx_error *error) {
  int outputs[3];
  SPTX_TRY(poison(tuning, error));
  SPTX_TRY(run(tuning, tuning->attentions[0], SPTX_PASS_FORWARD, error));
  if (tuning->pass == SPTX_PASS_BACKWARD)
    SPTX_TRY(run(tuning, tuning->attentions[0], SPTX_PASS_BACKWARD, error));
  for (int k = list_outputs(tuning, outputs) - 1; k >= 0; k--) {
    tuning->expected[k] = malloc(bytes_of(tuning, outputs[k]));
    if (!tuning->expected[k])
      return no_memory(error);
    SPTX_TRY(fetch(tuning, outputs[k], tuning->expected[k], error));
  }
  return SPTX_CODE_OK;
}

/* Sets the reason when a candidate cannot be made or computes something else than the default. Fails where
 * the device does: what it computes afterwards says nothing. */
static enum sptx_code admit(in_place *tuning, int candidate, char reason[160], sptx_error *error) {
  sptx_error refusal = {0};
  int outputs[3], count = list_outputs(tuning, outputs);
  SPTX_TRY(poison(tuning, error));
  if (create(tuning, candidate, &refusal) != SPTX_CODE_OK ||
      run(tuning, tuning->attentions[candidate], tuning->pass, &refusal) != SPTX_CODE_OK) {
    snprintf(reason, 160, "%.159s", refusal.message);
    return SPTX_CODE_OK;
  }
  for (int k = 0; k < count; k++) {
    SPTX_TRY(fetch(tuning, outputs[k], tuning->staging, error));
    double found = difference(type_of(tuning, outputs[k]), tuning->staging, tuning->expected[k],
                              tuning->elements[outputs[k]]);
    if (!(found <= tolerance(&tuning->request.problem)))
      snprintf(reason, 160, "its result differs from the default's by %.2g, relatively", found);
  }
  return SPTX_CODE_OK;
}

static enum sptx_code measure(void *user, int candidate, double seconds, double *ms, char reason[160],
                              sptx_error *error) {
  in_place *tuning = user;
  const sptx_context *context = tuning->context;
  double shortest = INFINITY, begin;
  *ms = 0;
  if (!tuning->attentions[candidate] && candidate == 0) {
    SPTX_TRY(create(tuning, 0, error));
    SPTX_TRY(make_expected(tuning, error));
  } else if (!tuning->attentions[candidate]) {
    SPTX_TRY(admit(tuning, candidate, reason, error));
    if (reason[0])
      return SPTX_CODE_OK;
  }
  begin = sptx_now();
  for (int count = 0; count < FEWEST_SAMPLES || sptx_now() - begin < seconds; count++) {
    double before = sptx_now();
    SPTX_TRY(run(tuning, tuning->attentions[candidate], tuning->pass, error));
    SPTX_TRY(context->kind->wait(context->device, error));
    shortest = fmin(shortest, sptx_now() - before);
  }
  *ms = 1e3 * shortest;
  return SPTX_CODE_OK;
}

static enum sptx_code search(in_place *tuning, double seconds, sptx_search *result, sptx_error *error) {
  int count = tuning->space.count;
  sptx_candidate *candidates = calloc((size_t)count, sizeof *candidates);
  tuning->attentions = calloc((size_t)count, sizeof *tuning->attentions);
  if (!candidates || !tuning->attentions) {
    free(candidates);
    return no_memory(error);
  }
  for (int k = 0; k < count; k++) {
    candidates[k].predicted_ms = tuning->space.expected_ms[k];
    sptx_schedule_numbers(tuning->context->kind->family, &tuning->space.schedules[k], candidates[k].traits);
  }
  *result = (sptx_search){.candidates = candidates,
                          .count = count,
                          .budget_seconds = seconds,
                          .share = share,
                          .measure = measure,
                          .user = tuning};
  enum sptx_code code = sptx_search_run(result, error);
  for (int k = 0; k < count; k++)
    if (tuning->attentions[k])
      tuning->context->kind->destroy(tuning->attentions[k]);
  free(tuning->attentions);
  if (code != SPTX_CODE_OK) {
    free(candidates);
    result->candidates = NULL;
  }
  return code;
}

static void remember(const in_place *tuning, const sptx_search *found, sptx_wisdom *wisdom) {
  const sptx_request *request = &tuning->request;
  char device[SPTX_WISDOM_TEXT], schedule[SPTX_WISDOM_TEXT];
  sptx_wisdom_texts texts;
  tuning->context->kind->describe(tuning->context->device, request->threads, device, sizeof device);
  if (found->measured < 2 || sptx_wisdom_key_make(&request->problem, tuning->pass, request->lists,
                                                  request->class_count, device, &texts, NULL) != SPTX_CODE_OK)
    return;
  sptx_schedule_print(tuning->context->kind->family, &tuning->space.schedules[found->best_index], schedule,
                      sizeof schedule);
  const sptx_wisdom_entry entry = {texts.key, schedule, found->best_ms, found->default_ms};
  (void)sptx_wisdom_record(wisdom, &entry, NULL);
}

static void clear(in_place *tuning) {
  for (int t = 0; t < TENSORS; t++)
    tuning->context->kind->release(tuning->context->device, tuning->data[t]);
  free(tuning->staging);
  for (int k = 0; k < 3; k++)
    free(tuning->expected[k]);
  sptx_space_clear(&tuning->space);
}

static enum sptx_code tune_pass(in_place *tuning, double seconds, sptx_wisdom *wisdom, sptx_schedule *best,
                                bool *found, sptx_error *error) {
  const sptx_request *request = &tuning->request;
  const sptx_context *context = tuning->context;
  const sptx_space_subject subject = {.problem = &request->problem,
                                      .pass = tuning->pass,
                                      .lists = request->lists,
                                      .class_count = request->class_count,
                                      .class_of_head = request->class_of_head,
                                      .family = context->kind->family,
                                      .ptx = context->kind->target ? context->kind->target(context->device)
                                                                   : SPTX_PTX_SM80};
  char device[SPTX_WISDOM_TEXT];
  sptx_search result;
  sptx_rates rates; /* of this device, where sptx-tune has measured them */
  bool known = false;
  context->kind->describe(context->device, request->threads, device, sizeof device);
  if (wisdom)
    sptx_wisdom_find_rates(wisdom, device, &rates, &known);
  SPTX_TRY(sptx_space_make(&subject, known ? &rates : NULL, &tuning->space, error));
  SPTX_TRY(make_tensors(tuning, error));
  SPTX_TRY(search(tuning, seconds, &result, error));
  *best = tuning->space.schedules[result.best_index];
  *found = result.best_index != result.default_index;
  if (wisdom)
    remember(tuning, &result, wisdom);
  free(result.candidates);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_tune_in_place(sptx_context *context, sptx_request *request, double seconds,
                                  sptx_recalled *recalled, sptx_error *error) {
  const bool wanted[2] = {!request->schedules[0], request->backward && !request->schedules[1]};
  const sptx_cache none = {0};
  if (!wanted[0] && !wanted[1])
    return SPTX_CODE_OK;
  sptx_wisdom *wisdom = NULL;
  char *path = sptx_context_copy_wisdom_path(context);
  if (path)
    (void)sptx_wisdom_open(path, SPTX_WISDOM_WRITE, &wisdom, NULL);
  enum sptx_code code = SPTX_CODE_OK;
  for (int pass = 0; pass < 2 && code == SPTX_CODE_OK; pass++) {
    in_place tuning = {.context = context, .request = *request, .pass = (enum sptx_pass)pass};
    bool found = false;
    if (!wanted[pass])
      continue;
    tuning.request.backward = pass == SPTX_PASS_BACKWARD;
    tuning.request.decode = false;
    tuning.request.cache = &none; /* what loses is not worth keeping */
    code = tune_pass(&tuning, seconds / (wanted[0] + wanted[1]), wisdom, &recalled->schedules[pass], &found,
                     error);
    if (code == SPTX_CODE_OK && found)
      request->schedules[pass] = &recalled->schedules[pass];
    clear(&tuning);
  }
  sptx_wisdom_close(wisdom);
  free(path);
  return code;
}
