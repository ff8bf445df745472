/* The JSON of what tuning found, and the table that is made of it; tune_html.c draws the same. */
#include "tuner/tune_report.h"

#include "gen/problem.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool add_text(cJSON *object, const char *name, const char *text) {
  return cJSON_AddStringToObject(object, name, text) != NULL;
}

/* JSON has no NaN or infinity: null says that there is no number. */
static bool add_number(cJSON *object, const char *name, double value) {
  return (isfinite(value) ? cJSON_AddNumberToObject(object, name, value)
                          : cJSON_AddNullToObject(object, name)) != NULL;
}

static bool add_shape(const sptx_bench_request *shape, cJSON *object) {
  return add_number(object, "n", (double)shape->n_k) && add_number(object, "n_q", (double)shape->n_q) &&
         add_number(object, "batch", (double)shape->batch) &&
         add_number(object, "heads", (double)shape->heads) &&
         add_number(object, "kv_heads", (double)shape->kv_heads) &&
         add_number(object, "head_dim", (double)shape->head_dim) &&
         add_text(object, "dtype", sptx_element_name((enum sptx_element)shape->dtype)) &&
         cJSON_AddBoolToObject(object, "nondeterministic", shape->nondeterministic) &&
         add_text(object, "device", shape->device) && add_number(object, "threads", shape->threads);
}

/* {schedule, expected_ms, ms} of what was measured, {schedule, reason} of what was struck out. */
static bool add_candidates(const sptx_tune_result *result, cJSON *object) {
  cJSON *measured = cJSON_AddArrayToObject(object, "measurements");
  cJSON *struck = cJSON_AddArrayToObject(object, "struck");
  bool good = measured && struck;
  for (int k = 0; k < result->search.count && good; k++) {
    const sptx_candidate *candidate = &result->candidates[k];
    char schedule[SPTX_TUNE_TEXT];
    if (!candidate->struck_out && !(candidate->ms > 0))
      continue;
    sptx_tune_schedule_text(result, k, schedule);
    cJSON *item = cJSON_CreateObject();
    if (!cJSON_AddItemToArray(candidate->struck_out ? struck : measured, item)) {
      cJSON_Delete(item);
      return false;
    }
    good = add_text(item, "schedule", schedule) && add_number(item, "expected_ms", candidate->predicted_ms) &&
           (candidate->struck_out ? add_text(item, "reason", candidate->reason)
                                  : add_number(item, "ms", candidate->ms));
  }
  return good;
}

static bool add_result(const sptx_bench_request *shape, const char *pattern, const sptx_tuned *tuned,
                       cJSON *results) {
  const sptx_tune_result *result = &tuned->result;
  const sptx_search *search = &result->search;
  char schedule[SPTX_TUNE_TEXT];
  sptx_tune_schedule_text(result, search->best_index, schedule);
  cJSON *item = cJSON_CreateObject();
  if (!cJSON_AddItemToArray(results, item)) {
    cJSON_Delete(item);
    return false;
  }
  return add_text(item, "pattern", pattern) && add_text(item, "step", tuned->step) &&
         add_text(item, "piece", result->piece) && add_text(item, "pass", sptx_pass_name(result->pass)) &&
         add_shape(shape, item) && add_number(item, "default_ms", sptx_tune_default_ms(result)) &&
         add_number(item, "best_ms", sptx_tune_best_ms(result)) && add_text(item, "schedule", schedule) &&
         add_number(item, "candidates", search->count) && add_number(item, "measured", search->measured) &&
         add_number(item, "struck_out", search->struck_out) &&
         add_number(item, "spearman", search->spearman) && add_number(item, "seconds", search->seconds) &&
         add_candidates(result, item);
}

enum sptx_code sptx_tune_json(const sptx_bench_request *shape, const sptx_tuned_list *list, cJSON *results,
                              sptx_error *error) {
  for (int k = 0; k < list->count; k++)
    if (!add_result(shape, list->pattern, &list->items[k], results))
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the results");
  return SPTX_CODE_OK;
}

static const char *text_of(const cJSON *item, const char *name) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(item, name));
  return text ? text : "";
}

static double number_of(const cJSON *item, const char *name) {
  return cJSON_GetNumberValue(cJSON_GetObjectItem(item, name)); /* NaN for null */
}

static void print_row(const cJSON *item, FILE *stream) {
  char name[64], shape[64], measured[32], model[16] = "-";
  double standard = number_of(item, "default_ms"), best = number_of(item, "best_ms");
  snprintf(name, sizeof name, "%s%s%s", text_of(item, "pattern"), text_of(item, "step")[0] ? "/" : "",
           text_of(item, "step"));
  snprintf(shape, sizeof shape, "%.0fx%.0fx%.0fx%.0f %s", number_of(item, "batch"), number_of(item, "heads"),
           number_of(item, "n"), number_of(item, "head_dim"), text_of(item, "dtype"));
  snprintf(measured, sizeof measured, "%.0f of %.0f", number_of(item, "measured"),
           number_of(item, "candidates"));
  if (!isnan(number_of(item, "spearman")))
    snprintf(model, sizeof model, "%.2f", number_of(item, "spearman"));
  fprintf(stream, "%-20s %-8s %-18s %-20.20s %11.4f %9.4f %5.2fx %12s %6s  %s\n", name, text_of(item, "pass"),
          shape, text_of(item, "piece"), standard, best, standard / best, measured, model,
          text_of(item, "schedule"));
}

void sptx_tune_table(const cJSON *results, FILE *stream) {
  const cJSON *item, *struck;
  fprintf(stream, "%-20s %-8s %-18s %-20s %11s %9s %6s %12s %6s  %s\n", "pattern", "pass", "shape", "pieces",
          "default ms", "best ms", "gain", "measured", "model", "schedule");
  cJSON_ArrayForEach(item, results) print_row(item, stream);
  cJSON_ArrayForEach(item, results) {
    cJSON_ArrayForEach(struck, cJSON_GetObjectItem(item, "struck"))
        fprintf(stream, "struck out: %s %s: %s: %s\n", text_of(item, "pattern"), text_of(item, "pass"),
                text_of(struck, "schedule"), text_of(struck, "reason"));
  }
}
