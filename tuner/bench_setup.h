/* What every measurement starts from: the library's objects and the tensors of one request, and a pass run on
 * them. sptx-bench, its comparison with the default and the tuner's trials share it. */
#ifndef SPTX_TUNER_BENCH_SETUP_H
#define SPTX_TUNER_BENCH_SETUP_H

#include "tuner/bench_device.h"

typedef struct sptx_bench_setup {
  sptx_context *context;
  sptx_pattern *pattern;
  sptx_bench_device *device;
  sptx_bench_tensors host, placed; /* placed: on the device */
} sptx_bench_setup;

/* Opens the request's device, reads its pattern and makes its tensors. Close in any case, after all
 * attentions are destroyed. */
enum sptx_code sptx_bench_setup_open(const sptx_bench_request *request, sptx_bench_setup *setup,
                                     sptx_error *error);
void sptx_bench_setup_close(sptx_bench_setup *setup);

/* The request's attention of one step, with a backward pass where the request wants one. */
sptx_attention_desc sptx_bench_describe(const sptx_bench_request *request, size_t step);

/* The library's status as an error value, with its sentence. context: NULL where there is none yet. */
enum sptx_code sptx_bench_status(sptx_status status, const sptx_context *context, sptx_error *error);

/* Runs (on a GPU enqueues) a pass on tensors of the setup's device. */
enum sptx_code sptx_bench_call(const sptx_bench_setup *setup, const sptx_attention *attention,
                               const sptx_bench_tensors *tensors, enum sptx_bench_pass pass,
                               sptx_error *error);

#endif
