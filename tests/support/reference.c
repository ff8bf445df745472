/* The float64 loops behind reference.h, and conversions of one element at a time through integers, so that
 * they share nothing with the kernels' vector conversions. */
#include "tests/support/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* score(i, j) in the natural logarithm's units; *slope is its derivative by scale * (q . k). */
static double score_of(const reference_call *call, int64_t head, int64_t i, int64_t j, const double *q,
                       const double *k, double *slope) {
  const sptx_problem *problem = call->problem;
  double score = 0;
  for (int d = 0; d < problem->head_dim; d++)
    score += q[d] * k[d];
  score *= call->scale;
  *slope = 1;
  if (problem->soft_cap) {
    double t = tanh(score / call->soft_cap);
    score = call->soft_cap * t;
    *slope = 1 - t * t;
  }
  if (problem->alibi)
    score += (double)call->alibi_slopes[head] *
             (double)(j - (problem->n_k - problem->n_q + i + call->query_shift));
  return score;
}

static int64_t kv_head_of(const sptx_problem *problem, int64_t head) {
  return head / (problem->heads / problem->kv_heads);
}

static void forward_row(const reference_call *call, int64_t b, int64_t h, int64_t i) {
  const sptx_problem *problem = call->problem;
  int64_t dim = problem->head_dim, row = (b * problem->heads + h) * problem->n_q + i;
  int64_t keys = (b * problem->kv_heads + kv_head_of(problem, h)) * problem->n_k;
  const double *q = call->q + row * dim;
  double *o = call->o + row * dim, maximum = -INFINITY, sum = 0, slope;
  double *scores = malloc((size_t)problem->n_k * sizeof *scores);
  memset(o, 0, (size_t)dim * sizeof *o);
  for (int64_t j = 0; j < problem->n_k; j++) {
    if (!call->contains(call->context, h, i, j))
      continue;
    scores[j] = score_of(call, h, i, j, q, call->k + (keys + j) * dim, &slope);
    if (scores[j] > maximum || isnan(scores[j]))
      maximum = scores[j];
  }
  for (int64_t j = 0; j < problem->n_k; j++) {
    if (!call->contains(call->context, h, i, j))
      continue;
    double p = exp(scores[j] - maximum);
    sum += p;
    for (int64_t d = 0; d < dim; d++)
      o[d] += p * call->v[(keys + j) * dim + d];
  }
  for (int64_t d = 0; d < dim && sum != 0; d++)
    o[d] /= sum;
  call->lse[row] = sum == 0 ? -INFINITY : maximum + log(sum);
  free(scores);
}

void reference_forward(const reference_call *call) {
  for (int64_t b = 0; b < call->problem->batch; b++)
    for (int64_t h = 0; h < call->problem->heads; h++)
      for (int64_t i = 0; i < call->problem->n_q; i++)
        forward_row(call, b, h, i);
}

static void backward_row(const reference_call *call, int64_t b, int64_t h, int64_t i) {
  const sptx_problem *problem = call->problem;
  int64_t dim = problem->head_dim, row = (b * problem->heads + h) * problem->n_q + i;
  int64_t keys = (b * problem->kv_heads + kv_head_of(problem, h)) * problem->n_k;
  const double *q = call->q + row * dim, *d_o = call->d_o + row * dim;
  double *d_q = call->d_q + row * dim, delta = 0, slope;
  for (int64_t d = 0; d < dim; d++)
    delta += d_o[d] * call->o[row * dim + d];
  for (int64_t j = 0; j < problem->n_k; j++) {
    if (!call->contains(call->context, h, i, j))
      continue;
    int64_t key = (keys + j) * dim;
    double p = exp(score_of(call, h, i, j, q, call->k + key, &slope) - call->lse[row]), d_p = 0;
    for (int64_t d = 0; d < dim; d++) {
      d_p += d_o[d] * call->v[key + d];
      call->d_v[key + d] += p * d_o[d];
    }
    double d_s = p * (d_p - delta) * slope * call->scale;
    for (int64_t d = 0; d < dim; d++) {
      d_q[d] += d_s * call->k[key + d];
      call->d_k[key + d] += d_s * q[d];
    }
  }
}

void reference_backward(const reference_call *call) {
  const sptx_problem *problem = call->problem;
  size_t queries = (size_t)(problem->batch * problem->heads * problem->n_q * problem->head_dim);
  size_t keys = (size_t)(problem->batch * problem->kv_heads * problem->n_k * problem->head_dim);
  memset(call->d_q, 0, queries * sizeof(double));
  memset(call->d_k, 0, keys * sizeof(double));
  memset(call->d_v, 0, keys * sizeof(double));
  for (int64_t b = 0; b < problem->batch; b++)
    for (int64_t h = 0; h < problem->heads; h++)
      for (int64_t i = 0; i < problem->n_q; i++)
        backward_row(call, b, h, i);
}

static int mantissa_bits(enum sptx_element element) {
  return element == SPTX_ELEMENT_F32 ? 23 : element == SPTX_ELEMENT_F16 ? 10 : 7;
}

size_t reference_element_size(enum sptx_element element) {
  return element == SPTX_ELEMENT_F32 ? 4 : 2;
}

double reference_epsilon(enum sptx_element element) {
  return ldexp(1, -mantissa_bits(element));
}

/* IEEE binary16 and bfloat16 differ in the exponent's width only. */
static double small_load(enum sptx_element element, uint16_t bits) {
  int mantissa = mantissa_bits(element), width = 15 - mantissa, bias = (1 << (width - 1)) - 1;
  int exponent = bits >> mantissa & ((1 << width) - 1), fraction = bits & ((1 << mantissa) - 1);
  double sign = bits >> 15 ? -1 : 1;
  if (exponent == (1 << width) - 1)
    return fraction ? NAN : sign * INFINITY;
  return exponent ? sign * ldexp(fraction + (1 << mantissa), exponent - bias - mantissa)
                  : sign * ldexp(fraction, 1 - bias - mantissa);
}

static uint16_t small_store(enum sptx_element element, double value) {
  int mantissa = mantissa_bits(element), width = 15 - mantissa, bias = (1 << (width - 1)) - 1, exponent;
  int infinity = ((1 << width) - 1) << mantissa, sign = signbit(value) ? 0x8000 : 0;
  if (isnan(value))
    return (uint16_t)(sign | infinity | 1 << (mantissa - 1));
  if (isinf(value))
    return (uint16_t)(sign | infinity);
  if (value == 0)
    return (uint16_t)sign;
  frexp(value, &exponent);
  exponent = exponent - 1 < 1 - bias ? 1 - bias : exponent - 1;
  /* rint carries into the exponent by itself: the fields are adjacent. */
  double fraction = rint(ldexp(fabs(value), mantissa - exponent));
  int bits = (int)fraction + ((exponent + bias - 1) << mantissa);
  return (uint16_t)(sign | (bits >= infinity ? infinity : bits));
}

double reference_load(enum sptx_element element, const void *tensor, int64_t index) {
  return element == SPTX_ELEMENT_F32 ? ((const float *)tensor)[index]
                                     : small_load(element, ((const uint16_t *)tensor)[index]);
}

void reference_store(enum sptx_element element, void *tensor, int64_t index, double value) {
  if (element == SPTX_ELEMENT_F32)
    ((float *)tensor)[index] = (float)value;
  else
    ((uint16_t *)tensor)[index] = small_store(element, value);
}

double reference_random(uint64_t *state) {
  *state += 0x9e3779b97f4a7c15u;
  uint64_t z = *state;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return (double)(z >> 11) * 0x1p-52 - 1;
}
