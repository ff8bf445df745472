/* The model's passes, forward beside backward; its buffers are laid out in transformer_create.c. */
#include "model/transformer.h"

#include <math.h>
#include <string.h>

enum { SUM_CHUNK = 4096, START = 256 };

static struct sptx_block block_of(const sptx_transformer *t, int64_t layer,
                                  const struct sptx_model_pass *pass) {
  struct sptx_block block = {
      .device = t->device,
      .type = t->type,
      .rows = t->rows,
      .width = t->config.width,
      .inner = sptx_config_inner(&t->config),
      .attention = t->attention[sptx_pattern_step_of_layer(t->pattern, layer) % t->attention_count],
      .at = &t->parameters.layers[layer],
      .weights = t->weights,
      .matrices = t->matrices,
      .gradients = t->gradients,
  };
  if (pass->dropout && t->config.dropout > 0) {
    const uint64_t seed = (uint64_t)t->config.seed;
    const uint32_t threshold = (uint32_t)(t->config.dropout * 0x1p16);
    block.dropout = (struct sptx_dropout){.threshold = threshold,
                                          .scale = 0x1p16f / (float)(0x1p16 - threshold),
                                          .key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
                                          .stream = (uint32_t)(2 * layer),
                                          .step = (uint32_t)pass->step,
                                          .first_row = pass->first_row};
  }
  return block;
}

static struct sptx_block_activations kept_of(const sptx_transformer *t, int64_t layer) {
  struct sptx_block_activations kept = t->kept[t->kept_count == 1 ? 0 : layer];
  kept.h = t->h[layer];
  if (t->attended[layer]) {
    kept.attended = t->attended[layer];
    kept.lse = t->lse[layer];
  }
  return kept;
}

/* The norm before the layer; after the last one, the final norm. */
static struct sptx_norm_forward_args norm_before(const sptx_transformer *t, int64_t layer,
                                                 const struct sptx_model_pass *pass) {
  if (layer < t->config.layers) {
    const struct sptx_block block = block_of(t, layer, pass);
    const struct sptx_block_activations kept = kept_of(t, layer);
    return sptx_block_norm(&block, &kept);
  }
  return (struct sptx_norm_forward_args){.x = t->h[layer],
                                         .y = t->scratch.branch,
                                         .gain = t->weights + t->parameters.norm_gain,
                                         .bias = t->weights + t->parameters.norm_bias,
                                         .mean = t->mean,
                                         .rstd = t->rstd,
                                         .width = t->config.width,
                                         .epsilon = SPTX_NORM_EPSILON};
}

static enum sptx_code embed_forward(sptx_transformer *t, int64_t first_position, sptx_error *error) {
  const sptx_parameters *p = &t->parameters;
  struct sptx_embed_forward_args args = {.h = t->h[0],
                                         .tokens = t->tokens + first_position,
                                         .token_table = t->weights + p->token_table,
                                         .start = t->weights + p->start,
                                         .position_tables = p->position_tables,
                                         .length = t->config.length,
                                         .width = t->config.width,
                                         .first_position = first_position};
  for (int k = 0; k < p->position_tables; k++)
    args.positions[k] = (struct sptx_position_table){t->weights + p->position_table[k], p->position_size[k],
                                                     p->position_divisor[k]};
  return SPTX_LAUNCH(t->device, embed_forward, t->type, t->rows, &args, error);
}

/* Lists, for each token, the rows that saw it; row r sees the token before it, or the start vector. */
static void index_tokens(const sptx_transformer *t, const uint8_t *tokens) {
  int32_t *begin = t->host_index, *rows_of = begin + START + 2, count[START + 2] = {0};
  for (int64_t row = 0; row < t->rows; row++)
    count[(row % t->config.length ? tokens[row - 1] : START) + 1]++;
  for (int token = 0; token <= START; token++)
    count[token + 1] += count[token];
  memcpy(begin, count, sizeof count);
  for (int64_t row = 0; row < t->rows; row++)
    rows_of[count[row % t->config.length ? tokens[row - 1] : START]++] = (int32_t)row;
}

static enum sptx_code tokens_backward(sptx_transformer *t, int64_t blocks, sptx_error *error) {
  const sptx_parameters *p = &t->parameters;
  const int64_t width = t->config.width, rows = START + 1, parts = sptx_token_parts(t);
  float *table = t->gradients + p->token_table, *start = t->gradients + p->start,
        *partial = t->scratch.partial;
  struct sptx_embed_backward_tokens_args args = {
      t->d_h, t->token_begin, t->token_rows, table, start, partial, parts, width, t->device->block_columns};
  SPTX_TRY(SPTX_LAUNCH(t->device, embed_backward_tokens, t->type, parts * rows * blocks, &args, error));
  if (parts == 1)
    return SPTX_CODE_OK;
  struct sptx_fold_args fold = {partial, table, parts, rows * width};
  SPTX_TRY(SPTX_LAUNCH(t->device, fold, t->type, START * width / SPTX_FOLD_COLUMNS, &fold, error));
  fold.partial = partial + START * width;
  fold.out = start;
  return SPTX_LAUNCH(t->device, fold, t->type, width / SPTX_FOLD_COLUMNS, &fold, error);
}

static enum sptx_code embed_backward(sptx_transformer *t, sptx_error *error) {
  const sptx_parameters *p = &t->parameters;
  int64_t width = t->config.width, block = t->device->block_columns, blocks = (width + block - 1) / block;
  SPTX_TRY(tokens_backward(t, blocks, error));
  for (int k = 0; k < p->position_tables; k++) {
    struct sptx_embed_backward_positions_args args = {
        t->d_h,   {t->gradients + p->position_table[k], p->position_size[k], p->position_divisor[k]},
        t->batch, t->config.length,
        width,    block};
    SPTX_TRY(SPTX_LAUNCH(t->device, embed_backward_positions, t->type, p->position_size[k] * blocks, &args,
                         error));
  }
  return SPTX_CODE_OK;
}

/* Embedding and the blocks before `layers`, with the norm that follows them. */
static enum sptx_code run_blocks(sptx_transformer *t, int64_t first_position, int64_t layers,
                                 const struct sptx_model_pass *pass, sptx_error *error) {
  struct sptx_norm_forward_args norm = norm_before(t, 0, pass);
  SPTX_TRY(embed_forward(t, first_position, error));
  SPTX_TRY(SPTX_LAUNCH(t->device, norm_forward, t->type, t->rows, &norm, error));
  for (int64_t layer = 0; layer < layers; layer++) {
    struct sptx_block block = block_of(t, layer, pass);
    struct sptx_block_activations kept = kept_of(t, layer);
    if (t->mode == SPTX_TRANSFORMER_DECODE) {
      block.cache = t->cache[layer];
      block.position = first_position;
      kept.qkv =
          (char *)t->cache[layer] + (size_t)(first_position * 3 * t->config.width) * sptx_dtype_size(t->type);
    }
    norm = norm_before(t, layer + 1, pass);
    SPTX_TRY(sptx_block_forward(&block, &kept, &t->scratch, t->h[layer + 1], &norm, error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code output_forward(sptx_transformer *t, sptx_error *error) {
  const char *matrices = t->matrices;
  return sptx_linear_forward(t->device, t->type, t->rows, t->config.width, SPTX_VOCABULARY, t->scratch.branch,
                             matrices + (size_t)t->parameters.output_weight * sptx_dtype_size(t->type),
                             t->logits, SPTX_F32, error);
}

static enum sptx_code output_backward(sptx_transformer *t, const struct sptx_model_pass *pass,
                                      sptx_error *error) {
  const char *matrices = t->matrices;
  const sptx_parameters *p = &t->parameters;
  SPTX_TRY(sptx_linear_backward(t->device, t->type, t->rows, t->config.width, SPTX_VOCABULARY,
                                t->scratch.branch,
                                matrices + (size_t)p->output_weight * sptx_dtype_size(t->type), t->d_logits,
                                t->gradients + p->output_weight, t->scratch.branch, error));
  const struct sptx_block last = block_of(t, t->config.layers - 1, pass);
  const struct sptx_dropout dropout = sptx_block_dropout(&last, 1);
  int64_t vector = p->norm_bias - p->norm_gain;
  struct sptx_norm_backward_args norm = {.x = t->h[t->config.layers],
                                         .d_x = t->d_h,
                                         .gain = t->weights + p->norm_gain,
                                         .mean = t->mean,
                                         .rstd = t->rstd,
                                         .gain_partial = t->scratch.partial + vector,
                                         .bias_partial = t->scratch.partial + 2 * vector};
  SPTX_TRY(sptx_norm_backward(&last, &t->scratch, norm, &dropout, error));
  return sptx_fold(&last, &t->scratch, t->scratch.partial, p->norm_gain - vector, p->norm_bias + vector,
                   error);
}

enum sptx_code sptx_transformer_forward(sptx_transformer *t, const uint8_t *tokens,
                                        const struct sptx_model_pass *pass, sptx_error *error) {
  sptx_device *device = t->device;
  SPTX_TRY(device->ops->copy_in(device, t->tokens, tokens, (size_t)t->rows, error));
  SPTX_TRY(run_blocks(t, 0, t->config.layers, pass, error));
  SPTX_TRY(output_forward(t, error));
  if (t->mode != SPTX_TRANSFORMER_TRAIN)
    return SPTX_CODE_OK;
  index_tokens(t, tokens); /* while a GPU is at work */
  SPTX_TRY(device->ops->copy_in(device, t->token_begin, t->host_index, (START + 2) * sizeof(int32_t), error));
  return device->ops->copy_in(device, t->token_rows, t->host_index + START + 2,
                              (size_t)t->rows * sizeof(int32_t), error);
}

enum sptx_code sptx_transformer_projections(sptx_transformer *t, const uint8_t *tokens, int64_t layer,
                                            float *qkv, sptx_error *error) {
  sptx_device *device = t->device;
  if (t->mode != SPTX_TRANSFORMER_EVALUATE || t->type != SPTX_F32 || layer < 0 || layer >= t->config.layers)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "layer %ld of a model with %ld layers: queries and keys are copied out of an evaluating "
                     "float32 model",
                     (long)layer, (long)t->config.layers);
  const struct sptx_model_pass pass = {0};
  SPTX_TRY(device->ops->copy_in(device, t->tokens, tokens, (size_t)t->rows, error));
  SPTX_TRY(run_blocks(t, 0, layer + 1, &pass, error));
  return device->ops->copy_out(device, qkv, kept_of(t, layer).qkv,
                               (size_t)(t->rows * 3 * t->config.width) * sizeof(float), error);
}

/* Adds float32 values (or their squares) up in float64: fixed chunks on the device, then in order here. */
static enum sptx_code sum_floats(sptx_transformer *t, const float *x, int64_t count, bool squares,
                                 double *sum, sptx_error *error) {
  int64_t chunks = (count + SUM_CHUNK - 1) / SUM_CHUNK;
  struct sptx_sum_args args = {x, t->sums, count, SUM_CHUNK, squares};
  SPTX_TRY(SPTX_LAUNCH(t->device, sum, SPTX_F32, chunks, &args, error));
  SPTX_TRY(
      t->device->ops->copy_out(t->device, t->host_sums, t->sums, (size_t)chunks * sizeof(double), error));
  *sum = 0;
  for (int64_t chunk = 0; chunk < chunks; chunk++)
    *sum += t->host_sums[chunk];
  return SPTX_CODE_OK;
}

enum sptx_code sptx_transformer_sum_squares(sptx_transformer *t, const float *x, int64_t count, double *sum,
                                            sptx_error *error) {
  return sum_floats(t, x, count, true, sum, error);
}

enum sptx_code sptx_transformer_loss(sptx_transformer *t, float scale, double *nats, sptx_error *error) {
  struct sptx_cross_entropy_args args = {.logits = t->logits,
                                         .tokens = t->tokens,
                                         .d_logits = t->d_logits,
                                         .loss = t->losses,
                                         .classes = SPTX_VOCABULARY,
                                         .scale = scale};
  SPTX_TRY(SPTX_LAUNCH(t->device, cross_entropy, t->type, t->rows, &args, error));
  return sum_floats(t, t->losses, t->rows, false, nats, error);
}

/* A layer's matrices lie together in the flat buffer. */
static enum sptx_code layer_ready(sptx_transformer *t, int64_t layer, sptx_gradients_ready *ready, void *user,
                                  sptx_error *error) {
  if (!ready)
    return SPTX_CODE_OK;
  int64_t begin = t->parameters.layers[layer].qkv_weight;
  int64_t end =
      layer + 1 < t->config.layers ? t->parameters.layers[layer + 1].qkv_weight : t->parameters.output_weight;
  return ready(user, begin, end - begin, error);
}

enum sptx_code sptx_transformer_backward(sptx_transformer *t, const struct sptx_model_pass *pass,
                                         sptx_gradients_ready *ready, void *user, sptx_error *error) {
  const sptx_parameters *p = &t->parameters;
  SPTX_TRY(output_backward(t, pass, error));
  if (ready)
    SPTX_TRY(ready(user, p->output_weight, p->decayed_floats - p->output_weight, error));
  for (int64_t layer = t->config.layers - 1; layer >= 0; layer--) {
    struct sptx_block block = block_of(t, layer, pass);
    const struct sptx_block_activations kept = kept_of(t, layer);
    block.attended = t->attended[layer] != NULL;
    /* The last layer's activations are still there from the forward pass. */
    if (t->kept_count == 1 && layer != t->config.layers - 1) {
      const struct sptx_norm_forward_args norm = norm_before(t, layer, pass);
      SPTX_TRY(SPTX_LAUNCH(t->device, norm_forward, t->type, t->rows, &norm, error));
      SPTX_TRY(sptx_block_forward(&block, &kept, &t->scratch, NULL, NULL, error));
    }
    const struct sptx_block lower = block_of(t, layer > 0 ? layer - 1 : 0, pass);
    const struct sptx_dropout below = sptx_block_dropout(&lower, 1);
    SPTX_TRY(sptx_block_backward(&block, &kept, &t->scratch, layer > 0 ? &below : NULL, t->d_h, error));
    SPTX_TRY(layer_ready(t, layer, ready, user, error));
  }
  SPTX_TRY(embed_backward(t, error));
  if (!ready)
    return SPTX_CODE_OK;
  SPTX_TRY(ready(user, 0, p->layers[0].qkv_weight, error));
  return ready(user, p->decayed_floats, p->floats - p->decayed_floats, error);
}

enum sptx_code sptx_transformer_decode(sptx_transformer *t, int64_t position, uint8_t token, float *logits,
                                       sptx_error *error) {
  sptx_device *device = t->device;
  if (position < 0 || position >= t->config.length)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "position %ld is outside the model's length %ld",
                     (long)position, (long)t->config.length);
  if (position > 0)
    SPTX_TRY(device->ops->copy_in(device, t->tokens + position - 1, &token, 1, error));
  const struct sptx_model_pass pass = {0};
  SPTX_TRY(run_blocks(t, position, t->config.layers, &pass, error));
  SPTX_TRY(output_forward(t, error));
  return device->ops->copy_out(device, logits, t->logits, SPTX_VOCABULARY * sizeof(float), error);
}

enum sptx_code sptx_transformer_set_weights(sptx_transformer *t, const float *flat, sptx_error *error) {
  SPTX_TRY(t->device->ops->copy_in(t->device, t->weights, flat, (size_t)t->parameters.floats * sizeof(float),
                                   error));
  if (t->type == SPTX_F32)
    return SPTX_CODE_OK;
  struct sptx_cast_args args = {t->weights, t->matrices};
  return SPTX_LAUNCH(t->device, cast, t->type, t->parameters.floats, &args, error);
}
