/* What a kernel is asked to compute, independent of the target: the shape of one attention call, its element
 * type, pass and score changes. Targets turn (piece, problem, schedule) into code. */
#ifndef SPTX_GEN_KERNEL_H
#define SPTX_GEN_KERNEL_H

#include "patterns/piece.h"
#include <stdbool.h>
#include <stdint.h>

enum sptx_element { SPTX_ELEMENT_F32 = 0, SPTX_ELEMENT_F16 = 1, SPTX_ELEMENT_BF16 = 2 };
enum sptx_pass { SPTX_PASS_FORWARD = 0, SPTX_PASS_BACKWARD = 1, SPTX_PASS_DECODE = 2 };

/* Element strides of one (batch, head, position, d) tensor; d is contiguous. */
typedef struct sptx_strides {
  int64_t batch, head, position;
} sptx_strides;

/* One attention call. Gradients share their tensor's strides (d_o those of o). Head h of the queries reads
 * key/value head h / (heads / kv_heads). LSE is float32, contiguous (batch, heads, n_q), natural logarithm.
 */
typedef struct sptx_problem {
  enum sptx_element element;
  int64_t batch, heads, kv_heads, n_q, n_k;
  int head_dim; /* 16..256, a multiple of 8 */
  sptx_strides q, k, v, o;
  bool soft_cap;       /* score = cap * tanh(score / cap), after scale */
  bool alibi;          /* score += slope[head] * (j - i), in positions, after the cap */
  bool negative_scale; /* a greatest score before scaling is none after it */
  bool deterministic;  /* backward bit-identical from run to run */
} sptx_problem;

#endif
