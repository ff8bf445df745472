/* Tuning inside sptx_attention_create (SPTX_TUNE): the search of sptx-tune without its isolation. Candidates
 * run in this process on scratch tensors, one after another; each result is compared with the default's
 * before its time counts, and the default stays unless something was measured faster. */
#ifndef SPTX_RUNTIME_IN_PLACE_H
#define SPTX_RUNTIME_IN_PLACE_H

#include "runtime/context.h"
#include "runtime/recall.h"

/* Points request->schedules at the fastest schedule found for each of the passes forward and backward that
 * the request wants and that recall has not found yet, within about `seconds` in all, and files them as
 * wisdom; wisdom that cannot be written costs the next program its speed, no more. Fails with
 * SPTX_CODE_OUT_OF_MEMORY, SPTX_CODE_DEVICE_MEMORY, as the default schedule does, or with SPTX_CODE_DEVICE
 * when a candidate's fault takes the GPU's context with it. */
enum sptx_code sptx_tune_in_place(sptx_context *context, sptx_request *request, double seconds,
                                  sptx_recalled *recalled, sptx_error *error);

#endif
