/* Steps and passes of a pattern in turn, with a progress bar; see tune_run.h. */
#include "tuner/tune_run.h"

#include "gen/problem.h"
#include "patterns/pattern.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the bar of one search says. */
typedef struct progress {
  const sptx_tune_settings *settings;
  char name[64];
} progress;

static const sptx_candidate *fastest(const sptx_search *search) {
  const sptx_candidate *best = &search->candidates[search->default_index];
  for (int k = 0; k < search->count; k++)
    if (search->candidates[k].ms > 0 && search->candidates[k].ms < best->ms &&
        !search->candidates[k].struck_out)
      best = &search->candidates[k];
  return best;
}

static void draw(const progress *p, const sptx_search *search) {
  enum { WIDTH = 24 };
  static const char marks[] = "########################";
  const char empty[] = "........................";
  int wanted = (int)fmax(4, floor(search->share * search->count));
  double part = fmin(
      1, fmax(search->seconds / fmax(search->budget_seconds, 1e-3), 0.5 * search->measured / (double)wanted));
  int filled = (int)(WIDTH * part);
  double left = fmax(0, search->budget_seconds - search->seconds), best = fastest(search)->ms;
  double gain = best > 0 ? search->candidates[search->default_index].ms / best : 1;
  fprintf(stderr, "\r%s [%.*s%.*s] %d of %d candidates, best %.4g ms (%.2fx), %.0f s left\033[K", p->name,
          filled, marks, WIDTH - filled, empty, search->measured, search->count, best, gain, left);
}

static bool report(void *user, const sptx_search *search) {
  const progress *p = user;
  if (p->settings->bar)
    draw(p, search);
  return !p->settings->stop || !*p->settings->stop;
}

static enum sptx_code tune_one(const sptx_tune_settings *settings, const sptx_tune_request *request,
                               const char *step, sptx_tuned_list *list, sptx_error *error) {
  sptx_tuned *grown = realloc(list->items, (size_t)(list->count + 1) * sizeof *grown);
  progress p = {.settings = settings};
  sptx_tune_request own = *request;
  if (!grown)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the results");
  list->items = grown;
  sptx_tuned *tuned = &grown[list->count];
  *tuned = (sptx_tuned){.step = strdup(step)};
  if (!tuned->step)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the results");
  snprintf(p.name, sizeof p.name, "%s%s%s", step, step[0] ? " " : "", sptx_pass_name(request->pass));
  own.progress = report;
  own.user = &p;
  enum sptx_code code = sptx_tune(&own, &tuned->result, error);
  if (settings->bar)
    fputs("\r\033[K", stderr);
  if (code != SPTX_CODE_OK) {
    sptx_tune_result_clear(&tuned->result);
    free(tuned->step);
    return code;
  }
  list->count++;
  return settings->wisdom_path ? sptx_tune_remember(&tuned->result, settings->wisdom_path, error)
                               : SPTX_CODE_OK;
}

/* A GPU whose ceilings cannot be measured can be tuned all the same. */
static enum sptx_code find_rates(const sptx_tune_settings *settings, const sptx_bench_request *shape,
                                 const sptx_tune_device *device, sptx_rates *rates, sptx_error *error) {
  enum sptx_code code =
      sptx_tune_device_rates(shape->device, device, shape->threads, settings->wisdom_path, rates, error);
  if (code == SPTX_CODE_OK || device->family == SPTX_FAMILY_X86)
    return code;
  fprintf(stderr, "sptx-tune: %s: %s; the built-in rates order the candidates\n", shape->device,
          error->message);
  *rates = sptx_ptx_rates;
  return SPTX_CODE_OK;
}

static enum sptx_code tune_steps(const sptx_tune_settings *settings, const sptx_bench_request *shape,
                                 const char *wanted, const sptx_pattern *pattern, sptx_tuned_list *list,
                                 sptx_error *error) {
  sptx_tune_device device;
  bool found = false;
  SPTX_TRY(sptx_tune_device_find(shape->device, shape->threads, &device, error));
  SPTX_TRY(find_rates(settings, shape, &device, &list->rates, error));
  for (size_t s = 0; s < sptx_pattern_step_count(pattern); s++) {
    const char *name = sptx_pattern_step_name(pattern, s);
    if (wanted && strcmp(wanted, name) != 0)
      continue;
    found = true;
    for (int pass = 0; pass < SPTX_BENCH_PASSES && !(settings->stop && *settings->stop); pass++) {
      const sptx_tune_request request = {.shape = shape,
                                         .device = &device,
                                         .rates = &list->rates,
                                         .step = s,
                                         .pass = (enum sptx_pass)pass,
                                         .budget_seconds = settings->budget_seconds,
                                         .share = settings->share};
      if (shape->passes[pass])
        SPTX_TRY(tune_one(settings, &request, name, list, error));
    }
  }
  return found ? SPTX_CODE_OK
               : sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: the pattern has no step '%s'",
                           shape->pattern_path, wanted);
}

enum sptx_code sptx_tune_pattern(const sptx_tune_settings *settings, const sptx_bench_request *shape,
                                 const char *step, sptx_tuned_list *list, sptx_error *error) {
  *list = (sptx_tuned_list){0};
  sptx_override *overrides = calloc(shape->param_count + 1, sizeof *overrides);
  sptx_pattern *pattern = NULL;
  if (!overrides)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %zu parameters",
                     shape->param_count);
  for (size_t k = 0; k < shape->param_count; k++)
    overrides[k] = (sptx_override){shape->params[k].name, shape->params[k].value};
  enum sptx_code code =
      sptx_pattern_read(shape->pattern_path, overrides, shape->param_count, &pattern, error);
  free(overrides);
  if (code != SPTX_CODE_OK)
    return code;
  list->pattern = strdup(sptx_pattern_name(pattern));
  code = list->pattern ? tune_steps(settings, shape, step, pattern, list, error)
                       : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the results");
  sptx_pattern_release(pattern);
  return code;
}

void sptx_tuned_list_clear(sptx_tuned_list *list) {
  for (int k = 0; k < list->count; k++) {
    sptx_tune_result_clear(&list->items[k].result);
    free(list->items[k].step);
  }
  free(list->items);
  free(list->pattern);
  *list = (sptx_tuned_list){0};
}
