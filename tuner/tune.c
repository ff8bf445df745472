/* The tuner of one pass: candidates from the generator's own space, expectations from its cost model, times
 * from a worker, and the winner into wisdom. */
#include "tuner/tune.h"

#include "gen/compile.h"
#include "gen/problem.h"
#include "runtime/wisdom_key.h"
#include "tuner/trial.h"
#include "tuner/worker.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Beyond the seconds asked for, a candidate may take this long to compile, run once and be checked. */
static const double patience_seconds = 20;

static sptx_problem problem_of(const sptx_bench_request *shape) {
  return (sptx_problem){.element = (enum sptx_element)shape->dtype,
                        .batch = shape->batch,
                        .heads = shape->heads,
                        .kv_heads = shape->kv_heads,
                        .n_q = shape->n_q,
                        .n_k = shape->n_k,
                        .head_dim = (int)shape->head_dim,
                        .deterministic = !shape->nondeterministic};
}

/* The pattern, lowered for the shape. Clear compilation and free overrides in any case. */
static enum sptx_code lower(const sptx_tune_request *request, sptx_override **overrides,
                            sptx_compilation *compilation, sptx_error *error) {
  const sptx_bench_request *shape = request->shape;
  *overrides = calloc(shape->param_count + 1, sizeof **overrides);
  if (!*overrides)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %zu parameters",
                     shape->param_count);
  for (size_t k = 0; k < shape->param_count; k++)
    (*overrides)[k] = (sptx_override){shape->params[k].name, shape->params[k].value};
  compilation->path = shape->pattern_path;
  compilation->overrides = *overrides;
  compilation->override_count = shape->param_count;
  compilation->step = request->step;
  compilation->problem = problem_of(shape);
  return sptx_compile(compilation, SPTX_STAGE_LOWER, error);
}

static enum sptx_code make_space(const sptx_tune_request *request, const sptx_compilation *compilation,
                                 sptx_tune_result *result, sptx_error *error) {
  const sptx_space_subject subject = {.problem = &compilation->problem,
                                      .pass = request->pass,
                                      .lists = compilation->lists,
                                      .class_count = compilation->instance.class_count,
                                      .class_of_head = compilation->instance.class_of_head,
                                      .family = request->device->family,
                                      .ptx = request->device->ptx};
  SPTX_TRY(sptx_space_make(&subject, request->rates, &result->space, error));
  result->candidates = calloc((size_t)result->space.count, sizeof *result->candidates);
  if (!result->candidates)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d candidates",
                     result->space.count);
  for (int k = 0; k < result->space.count; k++) {
    result->candidates[k].predicted_ms = result->space.expected_ms[k];
    sptx_schedule_numbers(result->family, &result->space.schedules[k], result->candidates[k].traits);
  }
  result->search.count = result->space.count;
  return SPTX_CODE_OK;
}

static void name_pieces(const sptx_compilation *compilation, char *text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  for (int c = 0; c < compilation->instance.class_count && used < size; c++)
    for (int k = 0; k < compilation->lists[c].count && used < size; k++) {
      int written =
          snprintf(text + used, size - used, "%s%s", used ? " + " : "", compilation->lists[c].pieces[k].name);
      used += written > 0 ? (size_t)written : 0;
    }
}

static int64_t count_pairs(const sptx_compilation *compilation) {
  int64_t pairs = 0;
  for (int64_t head = 0; head < compilation->problem.heads; head++) {
    const sptx_piece_list *list = &compilation->lists[compilation->instance.class_of_head[head]];
    for (int k = 0; k < list->count; k++)
      pairs += list->pieces[k].pairs;
  }
  return pairs * compilation->problem.batch;
}

/* The caller's progress has a user of its own; the search's is the worker. */
typedef struct bridge {
  sptx_worker *worker;
  const sptx_tune_request *request;
} bridge;

static enum sptx_code measure(void *user, int candidate, double seconds, double *ms, char reason[160],
                              sptx_error *error) {
  return sptx_worker_measure(((bridge *)user)->worker, candidate, seconds, ms, reason, error);
}

static bool progress(void *user, const sptx_search *search) {
  const sptx_tune_request *request = ((bridge *)user)->request;
  return !request->progress || request->progress(request->user, search);
}

static enum sptx_code search(const sptx_tune_request *request, sptx_tune_result *result, sptx_error *error) {
  sptx_trial trial = {.shape = request->shape,
                      .step = request->step,
                      .pass = request->pass,
                      .schedules = result->space.schedules,
                      .count = result->space.count};
  bridge b = {.request = request};
  SPTX_TRY(sptx_worker_create(sptx_trial_measure, &trial, patience_seconds, &b.worker, error));
  result->search.candidates = result->candidates;
  result->search.budget_seconds = request->budget_seconds;
  result->search.share = request->share;
  result->search.measure = measure;
  result->search.progress = progress;
  result->search.user = &b;
  enum sptx_code code = sptx_search_run(&result->search, error);
  sptx_worker_free(b.worker);
  result->search.user = NULL;
  return code;
}

static enum sptx_code make_key(const sptx_tune_request *request, const sptx_compilation *compilation,
                               sptx_tune_result *result, sptx_error *error) {
  sptx_wisdom_texts texts;
  snprintf(result->device, sizeof result->device, "%s", request->device->text);
  SPTX_TRY(sptx_wisdom_key_make(&compilation->problem, request->pass, compilation->lists,
                                compilation->instance.class_count, result->device, &texts, error));
  snprintf(result->key_piece, sizeof result->key_piece, "%s", texts.piece);
  snprintf(result->key_shape, sizeof result->key_shape, "%s", texts.shape);
  result->element = texts.key.element;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_tune(const sptx_tune_request *request, sptx_tune_result *result, sptx_error *error) {
  *result = (sptx_tune_result){.family = request->device->family, .pass = request->pass};
  sptx_override *overrides = NULL;
  sptx_compilation compilation = {0};
  enum sptx_code code;
  SPTX_TRY_GOTO(lower(request, &overrides, &compilation, error), done);
  SPTX_TRY_GOTO(make_key(request, &compilation, result, error), done);
  SPTX_TRY_GOTO(make_space(request, &compilation, result, error), done);
  name_pieces(&compilation, result->piece, sizeof result->piece);
  result->useful_pairs = count_pairs(&compilation);
  code = search(request, result, error);
done:
  sptx_compilation_clear(&compilation);
  free(overrides);
  return code;
}

void sptx_tune_result_clear(sptx_tune_result *result) {
  sptx_space_clear(&result->space);
  free(result->candidates);
  *result = (sptx_tune_result){0};
}

double sptx_tune_default_ms(const sptx_tune_result *result) {
  return result->search.default_ms;
}

double sptx_tune_best_ms(const sptx_tune_result *result) {
  return result->search.best_ms;
}

void sptx_tune_schedule_text(const sptx_tune_result *result, int index, char text[SPTX_TUNE_TEXT]) {
  if (index == result->search.default_index)
    snprintf(text, SPTX_TUNE_TEXT, "default");
  else
    sptx_schedule_print(result->family, &result->space.schedules[index], text, SPTX_TUNE_TEXT);
}

enum sptx_code sptx_tune_remember(const sptx_tune_result *result, const char *wisdom_path,
                                  sptx_error *error) {
  sptx_wisdom *wisdom = NULL;
  char schedule[SPTX_TUNE_TEXT];
  if (result->search.measured < 2)
    return SPTX_CODE_OK;
  sptx_schedule_print(result->family, &result->space.schedules[result->search.best_index], schedule,
                      sizeof schedule);
  const sptx_wisdom_entry entry = {.key = {.piece = result->key_piece,
                                           .shape = result->key_shape,
                                           .element = result->element,
                                           .pass = sptx_pass_name(result->pass),
                                           .device = result->device},
                                   .schedule = schedule,
                                   .best_ms = sptx_tune_best_ms(result),
                                   .default_ms = sptx_tune_default_ms(result)};
  SPTX_TRY(sptx_wisdom_open(wisdom_path, SPTX_WISDOM_WRITE, &wisdom, error));
  enum sptx_code code = sptx_wisdom_record(wisdom, &entry, error);
  sptx_wisdom_close(wisdom);
  return code;
}
