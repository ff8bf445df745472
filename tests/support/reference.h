/* The ground truth of every kernel: attention in float64 by plain loops over the pairs, forward and backward,
 * with all score changes and grouped heads. Slow and obvious on purpose. */
#ifndef SPTX_TESTS_REFERENCE_H
#define SPTX_TESTS_REFERENCE_H

#include "gen/kernel.h"
#include <stdbool.h>
#include <stdint.h>

/* Does query i (0 <= i < n_q) of the head attend to key j (0 <= j < n_k)? */
typedef bool (*reference_contains)(void *context, int64_t head, int64_t i, int64_t j);

/* The problem's sizes and flags are read, its strides and element type are not: all tensors here are
 * contiguous doubles, q, o and their gradients (batch, heads, n_q, head_dim), k and v (batch, kv_heads, n_k,
 * head_dim), lse (batch, heads, n_q). alibi_slopes: heads entries, read when problem->alibi. */
typedef struct reference_call {
  const sptx_problem *problem;
  reference_contains contains;
  void *context;
  double scale, soft_cap;
  const float *alibi_slopes;
  const double *q, *k, *v;
  double *o, *lse;
  const double *d_o;
  double *d_q, *d_k, *d_v;
  int64_t query_shift; /* added to the queries' positions, for decode at a position before the last */
} reference_call;

/* Writes o and lse: rows without keys get o = 0 and lse = -inf. */
void reference_forward(const reference_call *call);
/* Reads o and lse of reference_forward and overwrites d_q, d_k, d_v. */
void reference_backward(const reference_call *call);

/* One element of a tensor as a double, and the nearest element (ties to even) of a double. */
double reference_load(enum sptx_element element, const void *tensor, int64_t index);
void reference_store(enum sptx_element element, void *tensor, int64_t index, double value);
size_t reference_element_size(enum sptx_element element);
/* The distance from 1 to the next element: the unit that tolerances are made of. */
double reference_epsilon(enum sptx_element element);

/* A small generator with a seed that a failing test prints: uniform in [-1, 1). */
double reference_random(uint64_t *state);

#endif
