/* Wisdom at creation: one read-only connection for the passes of one attention. */
#include "runtime/recall.h"

#include "runtime/wisdom_key.h"
#include <stdlib.h>
#include <unistd.h>

static bool recall_pass(sptx_wisdom *wisdom, enum sptx_pass pass, const sptx_context *context,
                        const sptx_request *request, sptx_schedule *schedule) {
  char device[SPTX_WISDOM_TEXT], text[SPTX_WISDOM_TEXT];
  sptx_wisdom_texts texts;
  bool found = false;
  context->kind->describe(context->device, request->threads, device, sizeof device);
  if (sptx_wisdom_key_make(&request->problem, pass, request->lists, request->class_count, device, &texts,
                           NULL) != SPTX_CODE_OK ||
      sptx_wisdom_find(wisdom, &texts.key, text, &found, NULL) != SPTX_CODE_OK || !found ||
      sptx_schedule_parse(context->kind->family, text, schedule, NULL) != SPTX_CODE_OK)
    return false;
  return context->kind->family != SPTX_FAMILY_X86 || sptx_x86_isa_available(schedule->x86.isa);
}

void sptx_recall(sptx_context *context, sptx_request *request, sptx_recalled *recalled) {
  const bool wanted[3] = {true, request->backward, request->decode};
  sptx_wisdom *wisdom = NULL;
  char *path = sptx_context_copy_wisdom_path(context);
  if (path && access(path, R_OK) == 0 &&
      sptx_wisdom_open(path, SPTX_WISDOM_READ, &wisdom, NULL) == SPTX_CODE_OK)
    for (int pass = 0; pass < 3; pass++)
      if (wanted[pass] &&
          recall_pass(wisdom, (enum sptx_pass)pass, context, request, &recalled->schedules[pass]))
        request->schedules[pass] = &recalled->schedules[pass];
  sptx_wisdom_close(wisdom);
  free(path);
}
