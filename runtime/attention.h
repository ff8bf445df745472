/* Inside sptx: creating an attention with schedules of the caller's choice, as the tuner, the benchmark and
 * the tests do. The library itself exports only what sptx.h declares. */
#ifndef SPTX_RUNTIME_ATTENTION_H
#define SPTX_RUNTIME_ATTENTION_H

#include "runtime/sptx.h"

/* schedules: for each enum sptx_pass the device's schedule struct (sptx_x86_schedule, sptx_ptx_schedule) or
 * NULL for the default; NULL altogether for all defaults. */
sptx_status sptx_attention_create_scheduled(sptx_context *ctx, const sptx_pattern *pattern,
                                            const sptx_attention_desc *desc, const void *const schedules[3],
                                            sptx_attention **attention);

#endif
