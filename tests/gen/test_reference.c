/* The reference must itself be right: its gradients against central differences of its own forward, and its
 * conversions at the edges of the small types. */
#include "tests/support/reference.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

enum { QUERIES = 5, KEYS = 7, DIM = 16, HEADS = 4, KV_HEADS = 2 };

static bool causal_pairs(void *context, int64_t head, int64_t i, int64_t j) {
  (void)context;
  return j <= KEYS - QUERIES + i && (head != 1 || j % 2 == 0);
}

static double loss(const reference_call *call) {
  double sum = 0;
  reference_forward(call);
  for (int i = 0; i < HEADS * QUERIES * DIM; i++)
    sum += call->o[i] * call->d_o[i];
  return sum;
}

static void check_gradient(const reference_call *call, double *input, const double *gradient, int count) {
  for (int i = 0; i < count; i += 13) {
    double kept = input[i], step = 1e-5;
    input[i] = kept + step;
    double above = loss(call);
    input[i] = kept - step;
    double below = loss(call);
    input[i] = kept;
    cr_assert_float_eq(gradient[i], (above - below) / (2 * step), 1e-8, "element %d", i);
  }
}

Test(reference, gradients_match_central_differences) {
  static double q[HEADS * QUERIES * DIM], k[KV_HEADS * KEYS * DIM], v[KV_HEADS * KEYS * DIM];
  static double o[HEADS * QUERIES * DIM], d_o[HEADS * QUERIES * DIM], d_q[HEADS * QUERIES * DIM];
  static double d_k[KV_HEADS * KEYS * DIM], d_v[KV_HEADS * KEYS * DIM], lse[HEADS * QUERIES];
  const float slopes[HEADS] = {0.5f, 0.25f, 0.125f, 0.0625f};
  sptx_problem problem = {.batch = 1,
                          .heads = HEADS,
                          .kv_heads = KV_HEADS,
                          .n_q = QUERIES,
                          .n_k = KEYS,
                          .head_dim = DIM,
                          .soft_cap = true,
                          .alibi = true};
  reference_call call = {&problem, causal_pairs, NULL, 0.7, 1.5, slopes, q, k, v,
                         o,        lse,          d_o,  d_q, d_k, d_v,    0};
  uint64_t seed = 1;
  for (int i = 0; i < HEADS * QUERIES * DIM; i++)
    q[i] = reference_random(&seed), d_o[i] = reference_random(&seed);
  for (int i = 0; i < KV_HEADS * KEYS * DIM; i++)
    k[i] = reference_random(&seed), v[i] = reference_random(&seed);
  reference_forward(&call);
  reference_backward(&call);
  check_gradient(&call, q, d_q, HEADS * QUERIES * DIM);
  check_gradient(&call, k, d_k, KV_HEADS * KEYS * DIM);
  check_gradient(&call, v, d_v, KV_HEADS * KEYS * DIM);
}

static bool no_pairs(void *context, int64_t head, int64_t i, int64_t j) {
  (void)context, (void)head, (void)i, (void)j;
  return false;
}

Test(reference, empty_rows_are_zero_with_minus_infinity) {
  double q[DIM] = {1}, k[DIM] = {1}, v[DIM] = {1}, o[DIM], lse[1];
  sptx_problem problem = {.batch = 1, .heads = 1, .kv_heads = 1, .n_q = 1, .n_k = 1, .head_dim = DIM};
  reference_call call = {
      .problem = &problem, .contains = no_pairs, .scale = 1, .q = q, .k = k, .v = v, .o = o, .lse = lse};
  o[0] = NAN;
  reference_forward(&call);
  cr_assert_eq(o[0], 0.0);
  cr_assert(isinf(lse[0]) && lse[0] < 0);
}

Test(reference, small_types_round_to_even) {
  uint16_t cell;
  reference_store(SPTX_ELEMENT_F16, &cell, 0, 1.0 + 0x1p-11);
  cr_assert_eq(cell, 0x3c00, "a tie goes to the even neighbour");
  reference_store(SPTX_ELEMENT_F16, &cell, 0, 65520.0);
  cr_assert_eq(cell, 0x7c00, "above the largest half");
  reference_store(SPTX_ELEMENT_F16, &cell, 0, 0x1p-24);
  cr_assert_eq(cell, 1, "the smallest subnormal");
  reference_store(SPTX_ELEMENT_BF16, &cell, 0, -3.140625);
  cr_assert_eq(cell, 0xc049);
  for (unsigned bits = 0; bits < 0x7c00; bits++) {
    cell = (uint16_t)bits;
    double value = reference_load(SPTX_ELEMENT_F16, &cell, 0);
    reference_store(SPTX_ELEMENT_F16, &cell, 0, value);
    cr_assert_eq(cell, bits);
  }
}
