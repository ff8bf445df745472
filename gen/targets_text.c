/* The support matrix as text and as JSON: one line or object for each target. */
#include "gen/targets_text.h"

#include "gen/problem.h"
#include "gen/targets.h"
#include <cjson/cJSON.h>
#include <stdlib.h>

enum { PASSES = SPTX_PASS_DECODE + 1 };

static const char *family_name(const sptx_target *row) {
  return row->family == SPTX_FAMILY_X86 ? "x86" : "ptx";
}

/* Whether this machine's CPU runs the target; of GPUs gen knows nothing. */
static bool runs_here(const sptx_target *row) {
  return row->family == SPTX_FAMILY_X86 && sptx_x86_isa_available(row->isa);
}

static void print_text(FILE *stream) {
  fprintf(stream, "%-18s %-7s", "target", "family");
  for (int pass = 0; pass < PASSES; pass++)
    fprintf(stream, " %-9s", sptx_pass_name((enum sptx_pass)pass));
  fprintf(stream, " %-9s %s\n", "this CPU", "instructions");
  for (const sptx_target *row = sptx_targets; row->name; row++) {
    fprintf(stream, "%-18s %-7s", row->name, family_name(row));
    for (int pass = 0; pass < PASSES; pass++)
      fprintf(stream, " %-9s", row->passes >> pass & 1 ? "yes" : "-");
    fprintf(stream, " %-9s %s\n", runs_here(row) ? "yes" : "-", row->instructions);
  }
}

static cJSON *describe(const sptx_target *row) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "name", row->name);
  cJSON_AddStringToObject(object, "family", family_name(row));
  cJSON *passes = cJSON_AddArrayToObject(object, "passes");
  for (int pass = 0; pass < PASSES; pass++)
    if (row->passes >> pass & 1)
      cJSON_AddItemToArray(passes, cJSON_CreateString(sptx_pass_name((enum sptx_pass)pass)));
  cJSON_AddStringToObject(object, "instructions", row->instructions);
  cJSON_AddBoolToObject(object, "this_cpu", runs_here(row));
  return object;
}

enum sptx_code sptx_targets_print(bool json, FILE *stream, sptx_error *error) {
  if (!json) {
    print_text(stream);
    return SPTX_CODE_OK;
  }
  cJSON *object = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(object, "targets");
  for (const sptx_target *row = sptx_targets; row->name; row++)
    cJSON_AddItemToArray(list, describe(row));
  char *text = cJSON_Print(object);
  cJSON_Delete(object);
  if (!text)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the support matrix");
  fprintf(stream, "%s\n", text);
  free(text);
  return SPTX_CODE_OK;
}
