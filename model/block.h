/* One restructured residual block (paper, section 5.2):
 *   s = h + dropout(attention(norm1(h))),  out = s + dropout(feed_forward(norm2(s))).
 * Everything a block computes lands in buffers that transformer.c lays out, so a step allocates nothing. */
#ifndef SPTX_MODEL_BLOCK_H
#define SPTX_MODEL_BLOCK_H

#include "model/device.h"
#include "model/parameters.h"

/* What the forward pass of a block keeps for its backward pass; rows = batch * length. */
struct sptx_block_activations {
  void *h;                              /* (rows, width): the block's input */
  void *normal1;                        /* (rows, width) */
  void *qkv;                            /* (rows, 3 * width): queries, keys, values, each (heads, head_dim) */
  void *attended;                       /* (rows, width) */
  float *lse;                           /* (batch, heads, length) */
  void *s, *normal2;                    /* (rows, width) */
  void *inner, *gated;                  /* (rows, inner): before the bias, after bias and GELU */
  float *mean1, *rstd1, *mean2, *rstd2; /* (rows) */
};

/* Buffers that no block keeps. */
struct sptx_block_scratch {
  void *branch;     /* (rows, width): a branch's output before the residual addition */
  void *d_inner;    /* (rows, inner) */
  void *d_normal;   /* (rows, width) */
  void *d_branch;   /* (rows, width), with dropout */
  void *d_qkv;      /* (rows, 3 * width) */
  void *d_attended; /* (rows, width) */
  float *partial;   /* (chunks, largest width of a reduction) */
};

struct sptx_block {
  sptx_device *device;
  sptx_dtype type;
  int64_t rows, width, inner;
  float norm_epsilon;
  const sptx_attention *attention;
  const void *cache; /* NULL, or when decoding one row at `position`: (length, 3 * width), kept->qkv in it */
  int64_t position;
  const struct sptx_layer_offsets *at;
  const float *weights;        /* flat, float32: biases and norms */
  const void *matrices;        /* the flat buffer in the compute type: matrix products */
  float *gradients;            /* flat, float32 */
  struct sptx_dropout dropout; /* stream: that of the attention branch; the other one's is stream + 1 */
};

/* out (rows, width) may be the next block's h; it must not be this block's. NULL leaves out what only out
 * needs: enough to recompute the activations for the backward pass. */
enum sptx_code sptx_block_forward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                  const struct sptx_block_scratch *scratch, void *out, sptx_error *error);
/* Turns d_h from the gradient of the block's output into that of its input, and writes the gradients of the
 * block's parameters. */
enum sptx_code sptx_block_backward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                   const struct sptx_block_scratch *scratch, void *d_h, sptx_error *error);

/* y (rows, out) = x (rows, in) W^T. Weights are (out, in). */
enum sptx_code sptx_linear_forward(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                   int64_t out, const void *x, const void *weight, void *y, sptx_dtype y_type,
                                   sptx_error *error);
/* d_weight = d_y^T x, and d_x = d_y W unless d_x is NULL. */
enum sptx_code sptx_linear_backward(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                    int64_t out, const void *x, const void *weight, const void *d_y,
                                    float *d_weight, void *d_x, sptx_error *error);
/* Gradients of a norm: d_x = d_residual + ..., and those of gain and bias, which follow each other in both
 * the parameters and the gradients. */
enum sptx_code sptx_norm_backward(sptx_device *device, sptx_dtype type,
                                  const struct sptx_norm_backward_args *args, float *d_gain,
                                  sptx_error *error);

#endif
