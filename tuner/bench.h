/* What sptx-bench is made of: a request, tensors filled from it, verification of a sample of rows against
 * float64, and measurement beside the machine's GEMM rate and sptx's own dense causal attention. */
#ifndef SPTX_TUNER_BENCH_H
#define SPTX_TUNER_BENCH_H

#include "patterns/error.h"
#include "runtime/sptx.h"
#include <stdbool.h>
#include <stdint.h>

enum sptx_bench_pass { SPTX_BENCH_FORWARD, SPTX_BENCH_BACKWARD, SPTX_BENCH_PASSES };

/* One shape to measure. Borrows all strings. */
typedef struct sptx_bench_request {
  const char *pattern_path, *device;
  const sptx_param *params;
  size_t param_count;
  int64_t batch, heads, kv_heads, n_q, n_k, head_dim;
  sptx_dtype dtype;
  bool passes[SPTX_BENCH_PASSES];
  bool nondeterministic;         /* the backward may differ from run to run where that is faster */
  int threads;                   /* >= 1 */
  const char *const *byte_files; /* their bytes become the sequence; none: normal random numbers */
  size_t byte_file_count;
  double seconds; /* about how long to measure one pass of one step */
} sptx_bench_request;

/* Contiguous (batch, heads, n, head_dim) host arrays; gradients are NULL when no backward is wanted. */
typedef struct sptx_bench_tensors {
  void *q, *k, *v, *o, *d_o, *d_q, *d_k, *d_v;
  float *lse;
} sptx_bench_tensors;

enum sptx_code sptx_bench_tensors_create(const sptx_bench_request *request, sptx_bench_tensors *tensors,
                                         sptx_error *error);
void sptx_bench_tensors_clear(sptx_bench_tensors *tensors);

/* Errors are norms: |result - reference| / |reference| over the sample, the worst tensor's. */
typedef struct sptx_bench_check {
  double forward_error, backward_error;
  int64_t rows, rows_total, keys, keys_total; /* how many were compared: query rows of o, lse and d_q, and
                                                 key rows of d_k and d_v */
} sptx_bench_check;

/* Compares what forward (and backward, where wanted) wrote with float64 attention over the pattern's own
 * oracle. Every row where that is cheap, else an even sample. d_k and d_v are compared given o and lse, which
 * are compared themselves. */
enum sptx_code sptx_bench_verify(const sptx_bench_request *request, size_t step,
                                 const sptx_bench_tensors *tensors, sptx_bench_check *check,
                                 sptx_error *error);

/* Whether the errors are what rounding explains: 16 units of the element type's last place, and for float32,
 * whose sums round too, 16 units times the square root of the number of keys. */
bool sptx_bench_is_exact(const sptx_bench_request *request, const sptx_bench_check *check);

/* Times are of one call. Useful operations: forward 4 * pairs * head_dim, backward 2.5 times that. */
typedef struct sptx_bench_result {
  double ms, min_ms, max_ms; /* median and extremes of the samples */
  double useful_gflops;
  double gemm_gflops, ratio_to_gemm; /* 0 on a GPU: its GEMM rate is not measured */
  double
      dense_ms; /* sptx's dense causal attention of the same shape; negative where it would take too long */
  int samples;
} sptx_bench_result;

typedef struct sptx_bench_step {
  sptx_attention_info info;
  sptx_bench_check check;
  sptx_bench_result results[SPTX_BENCH_PASSES]; /* of the passes wanted */
} sptx_bench_step;

/* Verifies, then measures, one step of the pattern. */
enum sptx_code sptx_bench_run(const sptx_bench_request *request, size_t step, sptx_bench_step *result,
                              sptx_error *error);

#endif
