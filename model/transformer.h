/* The Sparse Transformer (Child et al. 2019): embedding, residual blocks, final norm, logits, loss; forward
 * and backward. All buffers are taken when it is created; a step allocates nothing. */
#ifndef SPTX_MODEL_TRANSFORMER_H
#define SPTX_MODEL_TRANSFORMER_H

#include "model/block.h"
#include "model/config.h"
#include "model/device.h"
#include "model/parameters.h"

enum sptx_transformer_mode {
  SPTX_TRANSFORMER_TRAIN,    /* forward, loss, backward */
  SPTX_TRANSFORMER_EVALUATE, /* forward and loss */
  SPTX_TRANSFORMER_DECODE,   /* one position after the other, with a cache of keys and values */
};

typedef struct sptx_transformer {
  sptx_config config;
  sptx_device *device;
  enum sptx_transformer_mode mode;
  sptx_dtype type;     /* of activations and matrix products */
  int64_t batch, rows; /* rows = batch * length, or 1 when decoding */
  sptx_parameters parameters;
  float *weights, *gradients; /* device, flat; gradients only for training */
  void *matrices;             /* the weights in the compute type; equals weights for float32 */
  float *logits;              /* (rows, 256); gone after the backward pass */
  float *losses;              /* (rows): nats */
  double flops; /* useful floating-point operations of a step: forward, and backward if training */

  sptx_context *context;
  sptx_pattern *pattern;
  sptx_attention **attention; /* one for each step of the pattern */
  size_t attention_count;
  void **h;                            /* layers + 1 entries */
  struct sptx_block_activations *kept; /* kept_count entries: one, or one for each layer */
  int64_t kept_count;
  void **attended; /* (layers): what takes the place of kept's with recomputation; NULL where nothing does */
  float **lse;
  struct sptx_block_scratch scratch;
  void *d_logits, *d_h;
  float *mean, *rstd;
  void **cache; /* decoding: (length, 3 * width) for each layer */
  uint8_t *tokens;
  int32_t *token_begin, *token_rows, *host_index;
  double *sums, *host_sums;
  int64_t sum_chunks;
  void **buffers; /* all device memory, for destroy */
  int64_t buffer_count, buffer_capacity;
} sptx_transformer;

/* What a pass needs beside tokens. */
struct sptx_model_pass {
  int64_t step, first_row; /* for dropout: the step, and this process's first row within the global batch */
  bool dropout;
};

/* Called when `floats` gradients from `offset` are complete, so that they can be reduced meanwhile. */
typedef enum sptx_code sptx_gradients_ready(void *user, int64_t offset, int64_t floats, sptx_error *error);

/* The config is copied; the weights are initialised from its seed. A batch of 0 takes the config's. */
enum sptx_code sptx_transformer_create(const sptx_config *config, enum sptx_transformer_mode mode,
                                       int64_t batch, sptx_transformer **transformer, sptx_error *error);
void sptx_transformer_destroy(sptx_transformer *transformer); /* NULL is allowed */

/* On a GPU the rows that saw a token are shared out in parts; see sptx_embed_backward_tokens_args. */
static inline int64_t sptx_token_parts(const sptx_transformer *t) {
  return t->device->driver ? 8 : 1;
}
/* Copies float32 weights (parameters.floats of them) to the device, and to the compute type. */
enum sptx_code sptx_transformer_set_weights(sptx_transformer *transformer, const float *flat,
                                            sptx_error *error);
/* tokens: (batch, length) on the host. Afterwards logits are ready. */
enum sptx_code sptx_transformer_forward(sptx_transformer *transformer, const uint8_t *tokens,
                                        const struct sptx_model_pass *pass, sptx_error *error);
/* Evaluating: runs the blocks up to `layer` on tokens and copies its queries, keys and values, each (heads,
 * head_dim), to qkv (batch * length, 3 * width) on the host. Needs float32. */
enum sptx_code sptx_transformer_projections(sptx_transformer *transformer, const uint8_t *tokens,
                                            int64_t layer, float *qkv, sptx_error *error);
/* The sum of the losses over all rows, in nats; losses holds each. When training also starts the backward
 * pass with gradients of (sum of losses) * scale. */
enum sptx_code sptx_transformer_loss(sptx_transformer *transformer, float scale, double *nats,
                                     sptx_error *error);
/* Overwrites gradients. ready may be NULL. */
enum sptx_code sptx_transformer_backward(sptx_transformer *transformer, const struct sptx_model_pass *pass,
                                         sptx_gradients_ready *ready, void *user, sptx_error *error);
/* Sum of squares of count floats on the device; a NaN or infinity among them comes through. */
enum sptx_code sptx_transformer_sum_squares(sptx_transformer *transformer, const float *x, int64_t count,
                                            double *sum, sptx_error *error);
/* Decoding: tokens[0..position - 1] are known; logits (256, on the host) become those of tokens[position].
 * Positions must come in order from 0; token is tokens[position - 1] (ignored at 0). */
enum sptx_code sptx_transformer_decode(sptx_transformer *transformer, int64_t position, uint8_t token,
                                       float *logits, sptx_error *error);

#endif
