/* One attention call for tests of the public API: random contiguous tensors of any element type, what float64
 * says the results are, and the comparison. */
#ifndef SPTX_TESTS_RUNTIME_API_CASE_H
#define SPTX_TESTS_RUNTIME_API_CASE_H

#include "runtime/sptx.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct api_case {
  const char *pattern; /* YAML without its first lines */
  int64_t step;
  sptx_dtype dtype;
  int64_t batch, heads, kv_heads, n_q, n_k, head_dim;
  float scale, soft_cap; /* 0: default, none */
  int64_t nan_row;       /* > 0: this row of q, k and v is NaN in batch 0, head 0 */
  uint64_t seed;
} api_case;

enum { API_Q, API_K, API_V, API_D_O, API_O, API_LSE, API_D_Q, API_D_K, API_D_V, API_TENSORS };

typedef struct api_tensors {
  api_case c;
  int64_t count[API_TENSORS];
  void *data[API_TENSORS];   /* as the library takes them; outputs are poisoned with NaN */
  double *want[API_TENSORS]; /* inputs as doubles, outputs by the reference */
} api_tensors;

/* Ends the test when anything fails. */
void api_tensors_create(const api_case *c, api_tensors *t);
void api_tensors_clear(api_tensors *t);
sptx_attention_desc api_desc(const api_case *c, uint32_t flags);
sptx_pattern *api_pattern(sptx_context *context, const char *pattern);
void api_poison(api_tensors *t); /* the outputs, again */

/* Greatest error of an output in units of its tolerance: at most 1 passes. */
double api_error(const api_tensors *t, int which);
/* Forward (and backward) on the attention; the greatest api_error of what was written, INFINITY when a call
 * failed. Safe in threads, each with tensors of its own. */
double api_run(const sptx_attention *attention, api_tensors *t, bool backward);
/* Context, pattern and attention made, run and destroyed; asserts. cache may be NULL. */
void api_check(const api_case *c, const char *cache);

#endif
