/* The tuner of one pass: candidates from the generator's own space, expectations from its cost model, times
 * from a worker, and the winner into wisdom. */
#include "tuner/tune.h"

#include "gen/compile.h"
#include "gen/x86/kernel.h"
#include "runtime/device.h"
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
                        .deterministic = true};
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

/* The expected cost of a schedule over all heads; pieces of one head run one after the other. */
static double expected(const sptx_compilation *compilation, const sptx_x86_schedule *schedule) {
  double cycles = 0;
  for (int64_t head = 0; head < compilation->problem.heads; head++) {
    const sptx_piece_list *list = &compilation->lists[compilation->instance.class_of_head[head]];
    for (int k = 0; k < list->count; k++)
      cycles += sptx_x86_schedule_cost(schedule, &compilation->problem, &list->pieces[k]);
  }
  return cycles;
}

static bool fits_all_pieces(const sptx_compilation *compilation, const sptx_x86_schedule *schedule) {
  for (int c = 0; c < compilation->instance.class_count; c++)
    for (int k = 0; k < compilation->lists[c].count; k++)
      if (sptx_x86_schedule_check(schedule, &compilation->lists[c].pieces[k], NULL) != SPTX_CODE_OK)
        return false;
  return true;
}

static void add_candidate(const sptx_compilation *compilation, const sptx_x86_schedule *schedule,
                          sptx_tune_result *result) {
  for (int k = 1; k < result->search.count; k++)
    if (memcmp(&result->schedules[k].x86, schedule, sizeof *schedule) == 0)
      return;
  if (result->search.count == SPTX_TUNE_MOST || !fits_all_pieces(compilation, schedule))
    return;
  int at = result->search.count++;
  result->schedules[at].x86 = *schedule;
  result->candidates[at].predicted_ms = 1e-6 * expected(compilation, schedule);
}

/* The union of the pieces' spaces over the instruction sets of this machine, the default (all zeros but the
 * instruction set: each piece by its own choice) first. */
static enum sptx_code make_space(const sptx_tune_request *request, const sptx_compilation *compilation,
                                 sptx_tune_result *result, sptx_error *error) {
  result->schedules = calloc(SPTX_TUNE_MOST, sizeof *result->schedules);
  result->candidates = calloc(SPTX_TUNE_MOST, sizeof *result->candidates);
  sptx_x86_schedule *space = calloc(SPTX_TUNE_MOST, sizeof *space);
  if (!result->schedules || !result->candidates || !space) {
    free(space);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d candidates", SPTX_TUNE_MOST);
  }
  result->search.count = 1;
  result->schedules[0].x86.isa = sptx_x86_host_isa();
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++) {
    if (!sptx_x86_isa_available((enum sptx_isa)isa))
      continue;
    for (int c = 0; c < compilation->instance.class_count; c++)
      for (int k = 0; k < compilation->lists[c].count; k++) {
        int found =
            sptx_x86_schedule_space(&compilation->problem, request->pass, &compilation->lists[c].pieces[k],
                                    (enum sptx_isa)isa, space, SPTX_TUNE_MOST);
        for (int s = 0; s < found; s++)
          add_candidate(compilation, &space[s], result);
      }
  }
  free(space);
  double least = INFINITY;
  for (int k = 1; k < result->search.count; k++)
    least = fmin(least, result->candidates[k].predicted_ms);
  result->candidates[0].predicted_ms = isinf(least) ? 1 : least;
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

static enum sptx_code search(const sptx_tune_request *request, sptx_tune_result *result, sptx_error *error) {
  sptx_trial trial = {.shape = request->shape,
                      .step = request->step,
                      .pass = request->pass,
                      .schedules = result->schedules,
                      .count = result->search.count};
  sptx_worker *worker;
  SPTX_TRY(sptx_worker_create(sptx_trial_measure, &trial, patience_seconds, &worker, error));
  result->search.candidates = result->candidates;
  result->search.budget_seconds = request->budget_seconds;
  result->search.share = request->share;
  result->search.measure = sptx_worker_measure;
  result->search.progress = request->progress;
  result->search.user = worker;
  enum sptx_code code = sptx_search_run(&result->search, error);
  sptx_worker_free(worker);
  result->search.user = NULL;
  return code;
}

enum sptx_code sptx_tune(const sptx_tune_request *request, sptx_tune_result *result, sptx_error *error) {
  *result = (sptx_tune_result){.family = SPTX_FAMILY_X86};
  if (strncmp(request->shape->device, "cuda", 4) == 0)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "tuning runs on the CPU only; %s uses default schedules",
                     request->shape->device);
  sptx_override *overrides = NULL;
  sptx_compilation compilation = {0};
  enum sptx_code code = lower(request, &overrides, &compilation, error);
  if (code == SPTX_CODE_OK)
    code = make_space(request, &compilation, result, error);
  if (code == SPTX_CODE_OK) {
    name_pieces(&compilation, result->piece, sizeof result->piece);
    result->useful_pairs = count_pairs(&compilation);
    code = search(request, result, error);
  }
  sptx_compilation_clear(&compilation);
  free(overrides);
  return code;
}

void sptx_tune_result_clear(sptx_tune_result *result) {
  free(result->schedules);
  free(result->candidates);
  *result = (sptx_tune_result){0};
}

double sptx_tune_default_ms(const sptx_tune_result *result) {
  return result->candidates[result->search.default_index].ms;
}

double sptx_tune_best_ms(const sptx_tune_result *result) {
  return result->candidates[result->search.best_index].ms;
}

enum sptx_code sptx_tune_remember(const sptx_tune_request *request, const sptx_tune_result *result,
                                  const char *wisdom_path, sptx_error *error) {
  if (result->search.best_index == result->search.default_index)
    return SPTX_CODE_OK;
  sptx_override *overrides = NULL;
  sptx_compilation compilation = {0};
  sptx_wisdom *wisdom = NULL;
  sptx_wisdom_texts texts;
  char device[SPTX_WISDOM_TEXT], schedule[SPTX_WISDOM_TEXT];
  enum sptx_code code;
  SPTX_TRY_GOTO(lower(request, &overrides, &compilation, error), done);
  sptx_cpu_device.describe(NULL, request->shape->threads, device, sizeof device);
  SPTX_TRY_GOTO(sptx_wisdom_key_make(&compilation.problem, request->pass, compilation.lists,
                                     compilation.instance.class_count, device, &texts, error),
                done);
  sptx_schedule_print(result->family, &result->schedules[result->search.best_index], schedule,
                      sizeof schedule);
  sptx_wisdom_entry entry = {texts.key, schedule, sptx_tune_best_ms(result), sptx_tune_default_ms(result)};
  SPTX_TRY_GOTO(sptx_wisdom_open(wisdom_path, SPTX_WISDOM_WRITE, &wisdom, error), done);
  code = sptx_wisdom_record(wisdom, &entry, error);
done:
  sptx_wisdom_close(wisdom);
  sptx_compilation_clear(&compilation);
  free(overrides);
  return code;
}
