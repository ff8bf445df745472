/* The model's pointwise and reduction kernels: their arguments, shared by the kernels and their callers.
 *
 * One source serves every target. On the CPU a kernel runs rows begin..end of its index range in the calling
 * thread; on a GPU a warp takes a row and its lanes the columns. Pointers to void hold elements of the
 * compute type (float32, bfloat16 or float16); pointers to float are always float32. A kernel that reduces
 * over rows works on fixed chunks of rows, so its result never depends on the number of threads; on a GPU the
 * warps of a CTA share a chunk. sptx_fold adds the chunks' partial sums up. */
#ifndef SPTX_MODEL_KERNELS_H
#define SPTX_MODEL_KERNELS_H

#include <stdint.h>

#define SPTX_MAX_POSITION_TABLES 3

/* On a GPU: threads of a CTA, and columns whose sums its warps hold in registers. */
enum { SPTX_CTA_THREADS = 128, SPTX_CTA_COLUMNS = 512 };

/* Dropout as a function of (seed, step, stream, global element): nothing is stored for the backward pass. */
struct sptx_dropout {
  uint32_t threshold; /* drops an element whose 16 random bits are below; 0 keeps everything */
  float scale;        /* 1 / (1 - probability) */
  uint32_t key[2];    /* the run's seed */
  uint32_t stream, step;
  int64_t first_row; /* of this process within the global batch */
};

/* A table of learned position vectors: position i uses entry (i / divisor) mod size. */
struct sptx_position_table {
  float *table; /* (size, width) */
  int64_t size, divisor;
};

/* h[row] = (row is the first of its sequence ? start : token[tokens[row - 1]]) + its position vectors. */
struct sptx_embed_forward_args {
  void *h;               /* (rows, width) */
  const uint8_t *tokens; /* (rows): row predicts tokens[row], so it sees tokens[row - 1] */
  const float *token_table, *start;
  struct sptx_position_table positions[SPTX_MAX_POSITION_TABLES]; /* 2 or 3 of them */
  int64_t position_tables, length, width, first_position; /* first_position: of row 0, when decoding */
};
/* One row of the gradient of the token table for each token; entries begin[t]..begin[t + 1] of rows_of are
 * the rows that saw token t. The last one, t = 256, is the start vector's. A frequent token has many: they
 * are cut in parts, and with more than one of them part p's sums land in partial[p] (257 * width). The index
 * range counts (part, table row, block of columns); with positions, which are seen equally often, (table row,
 * block of columns). */
struct sptx_embed_backward_tokens_args {
  const void *d_h;
  const int32_t *begin, *rows_of;
  float *d_token_table, *d_start, *partial;
  int64_t parts, width, block_columns;
};
struct sptx_embed_backward_positions_args {
  const void *d_h;
  struct sptx_position_table gradient;
  int64_t batch, length, width, block_columns;
};

/* y = norm(x) * gain + bias over rows of width; mean and rstd are kept for the backward pass. */
struct sptx_norm_forward_args {
  const void *x;
  void *y;
  const float *gain, *bias;
  float *mean, *rstd;
  int64_t width;
  float epsilon;
};
/* out = x + dropout(branch + branch_bias); then y = norm(out) as above, unless y is NULL. */
struct sptx_residual_forward_args {
  const void *x, *branch;
  const float *branch_bias;
  void *out;
  struct sptx_dropout dropout;
  struct sptx_norm_forward_args norm;
};
/* How a kernel reduces over rows: chunk c of them adds its sums of columns into row c of a matrix of partial
 * sums, which is `stride` wide. The index range counts (chunk, block of columns). */
struct sptx_chunks {
  int64_t rows, chunk_rows, width, block_columns, stride;
};
/* d_x = d_residual + the gradient of norm (d_residual may be NULL), may be in place of either; partial sums
 * of the gradients of gain and bias. Then, unless branch_partial is NULL, d_branch = d_x through the dropout
 * of the branch that was added to x, and its partial sums: the gradient of the branch's bias. */
struct sptx_norm_backward_args {
  const void *x, *d_y, *d_residual;
  void *d_x, *d_branch; /* d_branch: NULL when there is no dropout: then it equals d_x */
  const float *gain, *mean, *rstd;
  float *gain_partial, *bias_partial, *branch_partial;
  struct sptx_dropout dropout;
  struct sptx_chunks chunks;
};
/* x += bias, in place. */
struct sptx_bias_forward_args {
  void *x;
  const float *bias;
  int64_t width;
};
/* y = gelu(x + bias), gelu(u) = u * sigmoid(1.702 u). */
struct sptx_gelu_forward_args {
  const void *x;
  void *y;
  const float *bias;
  int64_t width;
};
/* d_x = d_y * gelu'(x + bias), may be in place of d_y; y = gelu(x + bias) once more, may be in place of x;
 * partial sums of d_x. */
struct sptx_gelu_backward_args {
  const void *x, *d_y;
  void *d_x, *y;
  const float *bias;
  float *partial;
  struct sptx_chunks chunks;
};
/* Partial sums of x. */
struct sptx_column_sum_args {
  const void *x;
  float *partial;
  struct sptx_chunks chunks;
};
/* out[i] = the sum of partial[c][i] over chunks; the index range counts blocks of SPTX_FOLD_COLUMNS. */
#define SPTX_FOLD_COLUMNS 8
struct sptx_fold_args {
  const float *partial; /* (chunks, stride) */
  float *out;
  int64_t chunks, stride;
};
/* loss[row] = -ln softmax(logits[row])[tokens[row]]; d_logits = (softmax - one-hot) * scale unless NULL. */
struct sptx_cross_entropy_args {
  const float *logits;
  const uint8_t *tokens;
  void *d_logits;
  float *loss;
  int64_t classes;
  float scale;
};
/* partial[c] = sum of squares (or plain sum) of the chunk's elements, in float64. */
struct sptx_sum_args {
  const float *x;
  double *partial;
  int64_t count, chunk;
  int32_t squares;
};
/* Adam with decoupled weight decay (Loshchilov & Hutter 2019), on unscaled gradients g = gradient * scale. */
struct sptx_adam_args {
  float *weight, *first_moment, *second_moment;
  const float *gradient;
  void *compute_weight; /* the compute type's copy, or NULL */
  float scale, learning_rate, beta1, beta2, epsilon, weight_decay;
  float correction1, correction2; /* 1 / (1 - beta^t) */
};
struct sptx_cast_args {
  const float *from;
  void *to;
};

/* Every kernel: name, and what its index range counts (ROW: a warp takes one; STREAM: a warp takes
 * every n-th, the next one being loaded meanwhile; GROUP: a CTA takes one; ELEMENT: single elements). */
#define SPTX_EACH_KERNEL(X)                                                                                  \
  X(embed_forward, ROW)                                                                                      \
  X(embed_backward_tokens, GROUP)                                                                            \
  X(embed_backward_positions, GROUP)                                                                         \
  X(norm_forward, STREAM)                                                                                    \
  X(residual_forward, STREAM)                                                                                \
  X(norm_backward, GROUP)                                                                                    \
  X(bias_forward, ROW)                                                                                       \
  X(gelu_forward, ROW)                                                                                       \
  X(gelu_backward, GROUP)                                                                                    \
  X(column_sum, GROUP)                                                                                       \
  X(fold, ROW)                                                                                               \
  X(cross_entropy, ROW)                                                                                      \
  X(sum, ROW)                                                                                                \
  X(adam, ELEMENT)                                                                                           \
  X(cast, ELEMENT)

enum sptx_kernel {
#define SPTX_KERNEL_ID(name, range) SPTX_KERNEL_##name,
  SPTX_EACH_KERNEL(SPTX_KERNEL_ID)
#undef SPTX_KERNEL_ID
      SPTX_KERNEL_COUNT
};

#endif
