/* Lays out the model's buffers and prepares its attention. Nothing is taken from memory after this. */
#include "model/transformer.h"

#include <stdlib.h>
#include <string.h>

static enum sptx_code take(sptx_transformer *t, size_t bytes, void *pointer, sptx_error *error) {
  if (t->buffer_count == t->buffer_capacity) {
    int64_t capacity = t->buffer_capacity ? 2 * t->buffer_capacity : 64;
    void **grown = realloc(t->buffers, (size_t)capacity * sizeof *grown);
    if (!grown)
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the model's list of buffers");
    t->buffers = grown;
    t->buffer_capacity = capacity;
  }
  void *memory;
  SPTX_TRY(t->device->ops->allocate(t->device, bytes, &memory, error));
  t->buffers[t->buffer_count++] = memory;
  memcpy(pointer, &memory, sizeof memory);
  return SPTX_CODE_OK;
}

/* (rows, width) elements of the compute type; or floats. */
static enum sptx_code take_elements(sptx_transformer *t, int64_t width, void *pointer, sptx_error *error) {
  return take(t, (size_t)(t->rows * width) * sptx_dtype_size(t->type), pointer, error);
}
static enum sptx_code take_floats(sptx_transformer *t, int64_t count, void *pointer, sptx_error *error) {
  return take(t, (size_t)count * sizeof(float), pointer, error);
}

static enum sptx_code take_kept(sptx_transformer *t, struct sptx_block_activations *kept, sptx_error *error) {
  int64_t width = t->config.width, inner = sptx_config_inner(&t->config);
  SPTX_TRY(take_elements(t, width, &kept->normal1, error));
  if (t->mode != SPTX_TRANSFORMER_DECODE)
    SPTX_TRY(take_elements(t, 3 * width, &kept->qkv, error));
  SPTX_TRY(take_elements(t, width, &kept->attended, error));
  SPTX_TRY(take_elements(t, width, &kept->s, error));
  SPTX_TRY(take_elements(t, width, &kept->normal2, error));
  SPTX_TRY(take_elements(t, inner, &kept->inner, error));
  SPTX_TRY(take_floats(t, t->rows * t->config.heads, &kept->lse, error));
  SPTX_TRY(take_floats(t, t->rows, &kept->mean1, error));
  SPTX_TRY(take_floats(t, t->rows, &kept->rstd1, error));
  SPTX_TRY(take_floats(t, t->rows, &kept->mean2, error));
  return take_floats(t, t->rows, &kept->rstd2, error);
}

static enum sptx_code take_scratch(sptx_transformer *t, sptx_error *error) {
  int64_t width = t->config.width, inner = sptx_config_inner(&t->config);
  const struct sptx_layer_offsets *at = &t->parameters.layers[0];
  SPTX_TRY(take_elements(t, width, &t->scratch.branch, error));
  t->scratch.gated = t->kept[0].inner; /* element by element in place */
  if (t->mode != SPTX_TRANSFORMER_TRAIN)
    return SPTX_CODE_OK;
  /* Logits and their gradients, which are float32's in place, come between the uses of `gated`. */
  const int64_t vocabulary = t->type == SPTX_F32 ? SPTX_VOCABULARY : 3 * SPTX_VOCABULARY;
  const int64_t gated = inner > 3 * width ? inner : 3 * width;
  SPTX_TRY(take_elements(t, gated > vocabulary ? gated : vocabulary, &t->scratch.gated, error));
  t->logits = t->scratch.gated;
  t->d_logits = t->type == SPTX_F32 ? t->scratch.gated : (void *)(t->logits + t->rows * SPTX_VOCABULARY);
  if (t->config.dropout > 0)
    SPTX_TRY(take_elements(t, width, &t->scratch.d_branch, error));
  int64_t chunks = (t->rows + t->device->chunk_rows - 1) / t->device->chunk_rows;
  t->scratch.partial_stride = at->contract_bias - at->norm1_gain + (at->norm1_bias - at->norm1_gain);
  int64_t sums = chunks * t->scratch.partial_stride,
          tokens = sptx_token_parts(t) * (SPTX_VOCABULARY + 1) * width;
  return take_floats(t, sums > tokens ? sums : tokens, &t->scratch.partial, error);
}

static enum sptx_code take_layers(sptx_transformer *t, sptx_error *error) {
  int64_t layers = t->config.layers;
  bool training = t->mode == SPTX_TRANSFORMER_TRAIN;
  t->h = calloc((size_t)layers + 1, sizeof *t->h);
  t->kept_count = training && !t->config.recompute ? layers : 1;
  t->kept = calloc((size_t)t->kept_count, sizeof *t->kept);
  t->cache = calloc((size_t)layers, sizeof *t->cache);
  t->attended = calloc((size_t)layers, sizeof *t->attended);
  t->lse = calloc((size_t)layers, sizeof *t->lse);
  if (!t->h || !t->kept || !t->cache || !t->attended || !t->lse)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %ld layers", (long)layers);
  for (int64_t layer = 0; layer <= layers; layer++)
    if (training || layer < 2)
      SPTX_TRY(take_elements(t, t->config.width, &t->h[layer], error));
    else
      t->h[layer] = t->h[layer % 2];
  for (int64_t k = 0; k < t->kept_count; k++)
    SPTX_TRY(take_kept(t, &t->kept[k], error));
  /* The last layer is never recomputed. */
  for (int64_t k = 0; t->kept_count < layers && training && k < t->config.keep_attention && k < layers - 1;
       k++) {
    SPTX_TRY(take_elements(t, t->config.width, &t->attended[k], error));
    SPTX_TRY(take_floats(t, t->rows * t->config.heads, &t->lse[k], error));
  }
  if (t->mode == SPTX_TRANSFORMER_DECODE)
    for (int64_t layer = 0; layer < layers; layer++)
      SPTX_TRY(take(t, (size_t)(t->config.length * 3 * t->config.width) * sptx_dtype_size(t->type),
                    &t->cache[layer], error));
  return SPTX_CODE_OK;
}

static enum sptx_code take_ends(sptx_transformer *t, sptx_error *error) {
  bool training = t->mode == SPTX_TRANSFORMER_TRAIN;
  int64_t floats = t->parameters.floats,
          tokens = t->mode == SPTX_TRANSFORMER_DECODE ? t->config.length : t->rows;
  SPTX_TRY(take_floats(t, floats, &t->weights, error));
  t->matrices = t->weights;
  if (t->type != SPTX_F32)
    SPTX_TRY(take(t, (size_t)floats * sptx_dtype_size(t->type), &t->matrices, error));
  SPTX_TRY(take_floats(t, t->rows, &t->mean, error));
  SPTX_TRY(take_floats(t, t->rows, &t->rstd, error));
  if (!training)
    SPTX_TRY(take_floats(t, t->rows * SPTX_VOCABULARY, &t->logits, error));
  SPTX_TRY(take_floats(t, t->rows, &t->losses, error));
  SPTX_TRY(take(t, (size_t)tokens, &t->tokens, error));
  t->sum_chunks = (floats > t->rows ? floats : t->rows) / 4096 + 1;
  SPTX_TRY(take(t, (size_t)t->sum_chunks * sizeof(double), &t->sums, error));
  t->host_sums = malloc((size_t)t->sum_chunks * sizeof(double));
  t->host_index = malloc((size_t)(t->rows + SPTX_VOCABULARY + 2) * sizeof(int32_t));
  if (!t->host_sums || !t->host_index)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the model's staging buffers");
  if (!training)
    return SPTX_CODE_OK;
  SPTX_TRY(take_floats(t, floats, &t->gradients, error));
  SPTX_TRY(take_elements(t, t->config.width, &t->d_h, error));
  SPTX_TRY(take(t, (SPTX_VOCABULARY + 2) * sizeof(int32_t), &t->token_begin, error));
  return take(t, (size_t)t->rows * sizeof(int32_t), &t->token_rows, error);
}

static enum sptx_code attention_failed(const sptx_transformer *t, sptx_status status, sptx_error *error) {
  return sptx_fail(error, (enum sptx_code)status, "%s: %s", sptx_config_place(&t->config, "pattern"),
                   sptx_last_error(t->context));
}

static enum sptx_code load_pattern(sptx_transformer *t, sptx_error *error) {
  sptx_param params[SPTX_CONFIG_MAX_PARAMS];
  for (size_t k = 0; k < t->config.pattern_param_count; k++)
    params[k] = (sptx_param){t->config.pattern_params[k].name, t->config.pattern_params[k].value};
  sptx_status status = sptx_context_create(&t->context, t->config.device);
  if (status != SPTX_OK)
    return sptx_fail(error, (enum sptx_code)status, "%s: %s", sptx_config_place(&t->config, "device"),
                     sptx_last_error(NULL));
  status = sptx_context_set_threads(t->context, (int)t->config.threads);
  if (status == SPTX_OK)
    status =
        sptx_pattern_load(t->context, t->config.pattern, params, t->config.pattern_param_count, &t->pattern);
  return status == SPTX_OK ? SPTX_CODE_OK : attention_failed(t, status, error);
}

static enum sptx_code create_attention(sptx_transformer *t, sptx_error *error) {
  SPTX_TRY(load_pattern(t, error));
  size_t steps = sptx_pattern_steps(t->pattern);
  t->attention = calloc(steps, sizeof *t->attention);
  if (!t->attention)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %zu attention steps", steps);
  int64_t width = t->config.width, length = t->config.length, head_dim = sptx_config_head_dim(&t->config);
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = t->mode == SPTX_TRANSFORMER_TRAIN    ? SPTX_WITH_BACKWARD
               : t->mode == SPTX_TRANSFORMER_DECODE ? SPTX_WITH_DECODE
                                                    : 0;
  if (!t->config.deterministic)
    desc.flags |= SPTX_NONDETERMINISTIC;
  desc.dtype = t->type;
  desc.batch = t->batch;
  desc.heads = t->config.heads;
  desc.n_q = desc.n_k = length;
  desc.head_dim = head_dim;
  desc.scale = 1.0f / __builtin_sqrtf((float)sptx_config_query_key_dim(&t->config));
  desc.q = desc.k = desc.v = (sptx_tensor_strides){length * 3 * width, head_dim, 3 * width};
  desc.o = (sptx_tensor_strides){length * width, head_dim, width};
  for (t->attention_count = 0; t->attention_count < steps; t->attention_count++) {
    desc.step = (int64_t)t->attention_count;
    sptx_status status =
        sptx_attention_create(t->context, t->pattern, &desc, &t->attention[t->attention_count]);
    if (status != SPTX_OK)
      return attention_failed(t, status, error);
  }
  return SPTX_CODE_OK;
}

/* Two operations for each weight and row and for each pair and column of Q K^T and of P V; the backward pass
 * takes twice the forward's. Recomputation, masked pairs and embeddings are not counted. */
static double useful_flops(const sptx_transformer *t) {
  double inner = (double)sptx_config_inner(&t->config), width = (double)t->config.width;
  double query_key = (double)(sptx_config_query_key_dim(&t->config) * t->config.heads), pairs = 0;
  double weights =
      width * (2 * query_key + 2 * width + 2 * inner) * (double)t->config.layers + width * SPTX_VOCABULARY;
  for (int64_t layer = 0; layer < t->config.layers; layer++) {
    sptx_attention_info info = {.struct_size = sizeof info};
    if (sptx_attention_get_info(t->attention[sptx_pattern_step_of_layer(t->pattern, layer)], &info) ==
        SPTX_OK)
      pairs += (double)info.useful_pairs;
  }
  double head = (query_key + width) / (double)t->config.heads;
  double forward = 2 * weights * (double)t->rows + 2 * head * pairs;
  return t->mode == SPTX_TRANSFORMER_TRAIN ? 3 * forward : forward;
}

static enum sptx_code initialize(sptx_transformer *t, sptx_error *error) {
  float *flat = malloc((size_t)t->parameters.floats * sizeof(float));
  if (!flat)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %ld weights", (long)t->parameters.floats);
  sptx_parameters_initialize(&t->config, &t->parameters, flat);
  enum sptx_code code = sptx_transformer_set_weights(t, flat, error);
  free(flat);
  return code;
}

enum sptx_code sptx_transformer_create(const sptx_config *config, enum sptx_transformer_mode mode,
                                       int64_t batch, sptx_transformer **transformer, sptx_error *error) {
  sptx_transformer *t = calloc(1, sizeof *t);
  enum sptx_code code;
  *transformer = NULL;
  if (!t)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a model");
  t->config = *config;
  t->mode = mode;
  t->type = (sptx_dtype)config->precision;
  t->batch = mode == SPTX_TRANSFORMER_DECODE ? 1 : batch ? batch : config->batch;
  t->rows = mode == SPTX_TRANSFORMER_DECODE ? 1 : t->batch * config->length;
  SPTX_TRY_GOTO(sptx_device_create(config->device, (int)config->threads, &t->device, error), failed);
  t->device->deterministic = config->deterministic;
  SPTX_TRY_GOTO(sptx_parameters_create(config, &t->parameters, error), failed);
  SPTX_TRY_GOTO(create_attention(t, error), failed);
  SPTX_TRY_GOTO(take_ends(t, error), failed);
  SPTX_TRY_GOTO(take_layers(t, error), failed);
  SPTX_TRY_GOTO(take_scratch(t, error), failed);
  SPTX_TRY_GOTO(initialize(t, error), failed);
  t->flops = useful_flops(t);
  *transformer = t;
  return SPTX_CODE_OK;
failed:
  sptx_transformer_destroy(t);
  return code;
}

void sptx_transformer_destroy(sptx_transformer *t) {
  if (!t)
    return;
  for (int64_t k = 0; k < t->buffer_count; k++)
    t->device->ops->release(t->device, t->buffers[k]);
  for (size_t k = 0; k < t->attention_count; k++)
    sptx_attention_destroy(t->attention[k]);
  sptx_pattern_destroy(t->pattern);
  sptx_context_destroy(t->context);
  sptx_device_destroy(t->device);
  sptx_parameters_clear(&t->parameters);
  free(t->buffers);
  free(t->attention);
  free(t->h);
  free(t->kept);
  free(t->cache);
  free(t->attended);
  free(t->lse);
  free(t->host_sums);
  free(t->host_index);
  free(t);
}
