/* Context, pattern, device and tensors of a request; see bench_setup.h. */
#include "tuner/bench_setup.h"

enum sptx_code sptx_bench_status(sptx_status status, const sptx_context *context, sptx_error *error) {
  if (status == SPTX_OK)
    return SPTX_CODE_OK;
  return sptx_fail(error, (enum sptx_code)status, "%s", sptx_last_error(context));
}

enum sptx_code sptx_bench_setup_open(const sptx_bench_request *request, sptx_bench_setup *setup,
                                     sptx_error *error) {
  *setup = (sptx_bench_setup){0};
  SPTX_TRY(sptx_bench_status(sptx_context_create(&setup->context, request->device), NULL, error));
  SPTX_TRY(
      sptx_bench_status(sptx_context_set_threads(setup->context, request->threads), setup->context, error));
  SPTX_TRY(sptx_bench_status(sptx_pattern_load(setup->context, request->pattern_path, request->params,
                                               request->param_count, &setup->pattern),
                             setup->context, error));
  SPTX_TRY(sptx_bench_tensors_create(request, &setup->host, error));
  SPTX_TRY(sptx_bench_device_open(request->device, request->threads, &setup->device, error));
  return sptx_bench_place(setup->device, request, &setup->host, &setup->placed, error);
}

void sptx_bench_setup_close(sptx_bench_setup *setup) {
  if (setup->device)
    sptx_bench_unplace(setup->device, &setup->placed);
  sptx_bench_device_close(setup->device);
  sptx_bench_tensors_clear(&setup->host);
  sptx_pattern_destroy(setup->pattern);
  sptx_context_destroy(setup->context);
}

sptx_attention_desc sptx_bench_describe(const sptx_bench_request *request, size_t step) {
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = (request->passes[SPTX_BENCH_BACKWARD] ? SPTX_WITH_BACKWARD : 0u) |
               (request->nondeterministic ? SPTX_NONDETERMINISTIC : 0u);
  desc.dtype = request->dtype;
  desc.batch = request->batch, desc.heads = request->heads, desc.kv_heads = request->kv_heads;
  desc.n_q = request->n_q, desc.n_k = request->n_k, desc.head_dim = request->head_dim;
  desc.step = (int64_t)step;
  return desc;
}

enum sptx_code sptx_bench_call(const sptx_bench_setup *setup, const sptx_attention *attention,
                               const sptx_bench_tensors *t, enum sptx_bench_pass pass, sptx_error *error) {
  void *stream = sptx_bench_device_stream(setup->device);
  sptx_status status = pass == SPTX_BENCH_FORWARD
                           ? sptx_attention_forward(attention, t->q, t->k, t->v, t->o, t->lse, stream)
                           : sptx_attention_backward(attention, t->q, t->k, t->v, t->o, t->lse, t->d_o,
                                                     t->d_q, t->d_k, t->d_v, stream);
  return sptx_bench_status(status, setup->context, error);
}
