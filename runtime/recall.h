/* Looking up what wisdom knows of an attention that is about to be created. */
#ifndef SPTX_RUNTIME_RECALL_H
#define SPTX_RUNTIME_RECALL_H

#include "gen/schedule_text.h"
#include "runtime/context.h"

/* Room for the schedules that a request then points to. */
typedef struct sptx_recalled {
  sptx_schedule schedules[3];
} sptx_recalled;

/* Points request->schedules at what the context's wisdom knows; passes it does not know keep the default.
 * Wisdom that cannot be read, or that this machine cannot run, counts as none: it may cost speed, never a
 * result. */
void sptx_recall(sptx_context *context, sptx_request *request, sptx_recalled *recalled);

#endif
