/* One restructured residual block (paper, section 5.2):
 *   s = h + dropout(attention(norm1(h))),  out = s + dropout(feed_forward(norm2(s))).
 * Everything a block computes lands in buffers that transformer.c lays out, so a step allocates nothing. */
#ifndef SPTX_MODEL_BLOCK_H
#define SPTX_MODEL_BLOCK_H

#include "model/device.h"
#include "model/parameters.h"

#define SPTX_NORM_EPSILON 1e-5f

/* What the forward pass of a block keeps for its backward pass; rows = batch * length. */
struct sptx_block_activations {
  void *h;           /* (rows, width): the block's input */
  void *normal1;     /* (rows, width) */
  void *qkv;         /* (rows, 3 * width): queries, keys, values, each (heads, head_dim) */
  void *attended;    /* (rows, width) */
  float *lse;        /* (batch, heads, length) */
  void *s, *normal2; /* (rows, width) */
  void *inner;       /* (rows, inner): before bias and GELU; the backward pass uses it up */
  float *mean1, *rstd1, *mean2, *rstd2; /* (rows) */
};

/* Buffers that no block keeps. One serves several purposes, one after the other. */
struct sptx_block_scratch {
  void *branch;   /* (rows, width): a branch's output, the final norm's; gradients of a product's input */
  void *gated;    /* (rows, largest of these): after GELU; gradients of logits, of that, of qkv */
  void *d_branch; /* (rows, width), with dropout: the gradient of the branch that is next in the backward pass
                   */
  /* Gradients of vectors are sums over rows. (chunks, partial_stride); a row mirrors the layer's vectors in
   * the flat buffer and the one before them, the layer below's contract_bias, so that one fold makes them
   * all. */
  float *partial;
  int64_t partial_stride;
};

struct sptx_block {
  sptx_device *device;
  sptx_dtype type;
  int64_t rows, width, inner;
  const sptx_attention *attention;
  const void *cache; /* NULL, or when decoding one row at `position`: (length, 3 * width), kept->qkv in it */
  int64_t position;
  const struct sptx_layer_offsets *at;
  const float *weights;        /* flat, float32: biases and norms */
  const void *matrices;        /* the flat buffer in the compute type: matrix products */
  float *gradients;            /* flat, float32 */
  bool attended;               /* kept->attended and lse are there already */
  struct sptx_dropout dropout; /* stream: that of the attention branch; the other one's is stream + 1 */
};

/* The norm before the block. It runs first: the block before adds its residual and runs it in one kernel. */
struct sptx_norm_forward_args sptx_block_norm(const struct sptx_block *block,
                                              const struct sptx_block_activations *kept);
/* Expects kept->normal1. out (rows, width) may be the next block's h; it must not be this block's; next is
 * the norm that follows it. out NULL leaves out what only out needs: enough to recompute the activations for
 * the backward pass. */
enum sptx_code sptx_block_forward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                  const struct sptx_block_scratch *scratch, void *out,
                                  const struct sptx_norm_forward_args *next, sptx_error *error);
struct sptx_dropout sptx_block_dropout(const struct sptx_block *block, uint32_t branch);
/* Turns d_h from the gradient of the block's output into that of its input, and writes the gradients of the
 * block's parameters, all but contract_bias. The norm after the block has made scratch->d_branch and the sums
 * for contract_bias; the block does so for the one below, whose feed-forward branch has the dropout `below`;
 * NULL for the first block. */
enum sptx_code sptx_block_backward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                   const struct sptx_block_scratch *scratch, const struct sptx_dropout *below,
                                   void *d_h, sptx_error *error);

/* y (rows, out) = x (rows, in) W^T. Weights are (out, in). */
enum sptx_code sptx_linear_forward(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                   int64_t out, const void *x, const void *weight, void *y, sptx_dtype y_type,
                                   sptx_error *error);
/* d_weight = d_y^T x, and d_x = d_y W unless d_x is NULL. */
enum sptx_code sptx_linear_backward(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                    int64_t out, const void *x, const void *weight, const void *d_y,
                                    float *d_weight, void *d_x, sptx_error *error);
/* The backward pass of a norm, d_y being scratch->branch. Of args the caller fills x, d_residual, d_x, gain,
 * mean, rstd, gain_partial and bias_partial. dropout: of the branch that was added to make x, whose bias lies
 * before the gain; its gradient lands in scratch->d_branch, or, without dropout, equals d_x. NULL: no branch.
 */
enum sptx_code sptx_norm_backward(const struct sptx_block *block, const struct sptx_block_scratch *scratch,
                                  struct sptx_norm_backward_args args, const struct sptx_dropout *dropout,
                                  sptx_error *error);
/* gradients[begin..end) = the sums over chunks of `partial`, a column of scratch->partial, and the next ones.
 */
enum sptx_code sptx_fold(const struct sptx_block *block, const struct sptx_block_scratch *scratch,
                         const float *partial, int64_t begin, int64_t end, sptx_error *error);

#endif
