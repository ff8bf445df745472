/* The table and the JSON of what tuning found; tune_html.c draws the same. */
#include "tuner/tune_report.h"

#include "gen/problem.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

static void print_schedule(const sptx_tune_result *result, int index, char *text, size_t size) {
  if (index == result->search.default_index)
    snprintf(text, size, "default");
  else
    sptx_schedule_print(result->family, &result->schedules[index], text, size);
}

void sptx_tune_table(const sptx_tuned *tuned, int count, FILE *stream) {
  fprintf(stream, "%-10s %-9s %-24s %11s %9s %6s %10s %6s  %s\n", "step", "pass", "pieces", "default ms",
          "best ms", "gain", "measured", "model", "schedule");
  for (int k = 0; k < count; k++) {
    const sptx_tune_result *result = &tuned[k].result;
    const sptx_search *search = &result->search;
    char schedule[SPTX_TUNE_MOST], measured[32], model[16] = "-";
    print_schedule(result, search->best_index, schedule, sizeof schedule);
    snprintf(measured, sizeof measured, "%d of %d", search->measured, search->count);
    if (!isnan(search->spearman))
      snprintf(model, sizeof model, "%.2f", search->spearman);
    fprintf(stream, "%-10s %-9s %-24.24s %11.4f %9.4f %5.2fx %10s %6s  %s\n", tuned[k].step,
            sptx_pass_name(tuned[k].pass), result->piece, sptx_tune_default_ms(result),
            sptx_tune_best_ms(result), sptx_tune_default_ms(result) / sptx_tune_best_ms(result), measured,
            model, schedule);
  }
  for (int k = 0; k < count; k++)
    for (int c = 0; c < tuned[k].result.search.count; c++)
      if (tuned[k].result.candidates[c].struck_out) {
        char schedule[SPTX_TUNE_MOST];
        print_schedule(&tuned[k].result, c, schedule, sizeof schedule);
        fprintf(stream, "struck out: %s: %s\n", schedule, tuned[k].result.candidates[c].reason);
      }
}

static bool add_result(const sptx_tuned *tuned, cJSON *list) {
  const sptx_search *search = &tuned->result.search;
  char schedule[SPTX_TUNE_MOST];
  print_schedule(&tuned->result, search->best_index, schedule, sizeof schedule);
  cJSON *item = cJSON_CreateObject();
  if (!cJSON_AddItemToArray(list, item)) {
    cJSON_Delete(item);
    return false;
  }
  bool good = cJSON_AddStringToObject(item, "piece", tuned->result.piece) &&
              cJSON_AddStringToObject(item, "step", tuned->step) &&
              cJSON_AddStringToObject(item, "pass", sptx_pass_name(tuned->pass)) &&
              cJSON_AddNumberToObject(item, "default_ms", sptx_tune_default_ms(&tuned->result)) &&
              cJSON_AddNumberToObject(item, "best_ms", sptx_tune_best_ms(&tuned->result)) &&
              cJSON_AddStringToObject(item, "schedule", schedule) &&
              cJSON_AddNumberToObject(item, "candidates", search->count) &&
              cJSON_AddNumberToObject(item, "measured", search->measured) &&
              cJSON_AddNumberToObject(item, "struck_out", search->struck_out) &&
              cJSON_AddNumberToObject(item, "seconds", search->seconds);
  /* JSON has no NaN: nothing was ranked. */
  return good && (isnan(search->spearman) ? cJSON_AddNullToObject(item, "spearman")
                                          : cJSON_AddNumberToObject(item, "spearman", search->spearman));
}

enum sptx_code sptx_tune_json(const sptx_tuned *tuned, int count, FILE *stream, sptx_error *error) {
  cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "results");
  bool good = list != NULL;
  for (int k = 0; k < count && good; k++)
    good = add_result(&tuned[k], list);
  char *text = good ? cJSON_Print(root) : NULL;
  cJSON_Delete(root);
  if (!text)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the JSON");
  fprintf(stream, "%s\n", text);
  free(text);
  return SPTX_CODE_OK;
}
