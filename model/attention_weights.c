/* One query's softmax over the pattern's keys, in float64; see attention_weights.h. */
#include "model/attention_weights.h"
#include "patterns/pattern.h"

#include <math.h>
#include <stdlib.h>

/* attends[j]: does the query at `position` attend to key j in this layer and head? */
static enum sptx_code find_keys(const sptx_config *config, int64_t layer, int64_t head, int64_t position,
                                bool *attends, sptx_error *error) {
  sptx_override params[SPTX_CONFIG_MAX_PARAMS];
  for (size_t k = 0; k < config->pattern_param_count; k++)
    params[k] = (sptx_override){config->pattern_params[k].name, config->pattern_params[k].value};
  sptx_pattern *pattern;
  SPTX_TRY(sptx_pattern_read(config->pattern, params, config->pattern_param_count, &pattern, error));
  sptx_instance instance;
  enum sptx_code code = sptx_pattern_resolve(pattern, sptx_pattern_layer_step(pattern, layer), config->heads,
                                             config->length, config->length, &instance, error);
  if (code == SPTX_CODE_OK) {
    for (int64_t key = 0; key < config->length && code == SPTX_CODE_OK; key++)
      code = sptx_instance_contains(&instance, head, position, key, &attends[key], error);
    sptx_instance_clear(&instance);
  }
  sptx_pattern_release(pattern);
  return code;
}

/* Rows of qkv are (3, heads, head_dim). */
static void softmax(const sptx_config *config, const float *qkv, int64_t head, int64_t position,
                    const bool *attends, double *weights) {
  int64_t width = config->width, dim = sptx_config_head_dim(config);
  const float *query = qkv + position * 3 * width + head * dim;
  double scale = 1 / sqrt((double)sptx_config_query_key_dim(config)), largest = -INFINITY, sum = 0;
  for (int64_t j = 0; j < config->length; j++) {
    const float *key = qkv + j * 3 * width + width + head * dim;
    weights[j] = 0;
    for (int64_t c = 0; attends[j] && c < dim; c++)
      weights[j] += scale * query[c] * key[c];
    if (attends[j])
      largest = fmax(largest, weights[j]);
  }
  for (int64_t j = 0; j < config->length; j++)
    sum += weights[j] = attends[j] ? exp(weights[j] - largest) : 0;
  for (int64_t j = 0; sum > 0 && j < config->length; j++)
    weights[j] /= sum;
}

enum sptx_code sptx_attention_weights(sptx_transformer *t, const uint8_t *tokens, int64_t layer, int64_t head,
                                      int64_t position, double *weights, sptx_error *error) {
  const sptx_config *config = &t->config;
  if (layer < 0 || layer >= config->layers || head < 0 || head >= config->heads || position < 0 ||
      position >= config->length || t->batch != 1)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "layer %ld, head %ld, position %ld: the model has layers 0 to %ld, heads 0 to %ld and "
                     "positions 0 to %ld",
                     (long)layer, (long)head, (long)position, (long)config->layers - 1,
                     (long)config->heads - 1, (long)config->length - 1);
  bool *attends = malloc((size_t)config->length * sizeof *attends);
  float *qkv = malloc((size_t)(config->length * 3 * config->width) * sizeof *qkv);
  enum sptx_code code =
      attends && qkv ? find_keys(config, layer, head, position, attends, error)
                     : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a layer's projections");
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_projections(t, tokens, layer, qkv, error);
  if (code == SPTX_CODE_OK)
    softmax(config, qkv, head, position, attends, weights);
  free(attends);
  free(qkv);
  return code;
}
