/* Lists the weights of a configuration and gives them their initial values (paper, sections 5.2 and 6). */
#include "model/parameters.h"

#include "model/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FLOATS_ALIGNMENT = 16 }; /* one cache line */

struct builder {
  sptx_parameters *parameters;
  const sptx_config *config;
  bool vectors; /* which of the two passes: matrices and tables, then vectors */
};

/* N(0, 0.125 / fan_in), in the configured reading of the second number. */
static double deviation_of(const sptx_config *config, double fan_in) {
  return config->initialization == SPTX_INIT_VARIANCE ? sqrt(0.125 / fan_in) : 0.125 / sqrt(fan_in);
}

static void add(struct builder *builder, int64_t *offset, int64_t rows, int64_t columns, double deviation,
                double constant, const char *name, int layer) {
  if (builder->vectors != (columns == 0))
    return;
  sptx_parameters *all = builder->parameters;
  struct sptx_parameter *parameter = &all->list[all->count++];
  if (layer >= 0)
    snprintf(parameter->name, sizeof parameter->name, "layers.%d.%s", layer, name);
  else
    snprintf(parameter->name, sizeof parameter->name, "%s", name);
  parameter->dims = columns ? 2 : 1;
  parameter->shape[0] = rows;
  parameter->shape[1] = columns;
  parameter->deviation = deviation;
  parameter->constant = constant;
  parameter->offset = *offset = all->floats;
  int64_t size = rows * (columns ? columns : 1);
  all->effective += size;
  all->floats += (size + FLOATS_ALIGNMENT - 1) / FLOATS_ALIGNMENT * FLOATS_ALIGNMENT;
}

static void add_layer(struct builder *builder, int layer) {
  const sptx_config *config = builder->config;
  struct sptx_layer_offsets *at = &builder->parameters->layers[layer];
  int64_t width = config->width, inner = sptx_config_inner(config);
  double matrix = deviation_of(config, (double)width), depth = sqrt(2.0 * (double)config->layers);
  add(builder, &at->norm1_gain, width, 0, 0, 1, "norm1.gain", layer);
  add(builder, &at->norm1_bias, width, 0, 0, 0, "norm1.bias", layer);
  add(builder, &at->qkv_weight, 3 * width, width, matrix, 0, "attention.qkv.weight", layer);
  add(builder, &at->qkv_bias, 3 * width, 0, 0, 0, "attention.qkv.bias", layer);
  add(builder, &at->projection_weight, width, width, matrix / depth, 0, "attention.projection.weight", layer);
  add(builder, &at->projection_bias, width, 0, 0, 0, "attention.projection.bias", layer);
  add(builder, &at->norm2_gain, width, 0, 0, 1, "norm2.gain", layer);
  add(builder, &at->norm2_bias, width, 0, 0, 0, "norm2.bias", layer);
  add(builder, &at->expand_weight, inner, width, matrix, 0, "feed_forward.expand.weight", layer);
  add(builder, &at->expand_bias, inner, 0, 0, 0, "feed_forward.expand.bias", layer);
  add(builder, &at->contract_weight, width, inner, deviation_of(config, (double)inner) / depth, 0,
      "feed_forward.contract.weight", layer);
  add(builder, &at->contract_bias, width, 0, 0, 0, "feed_forward.contract.bias", layer);
}

static void add_all(struct builder *builder) {
  const sptx_config *config = builder->config;
  sptx_parameters *all = builder->parameters;
  int64_t width = config->width;
  double position = deviation_of(config, (double)width * all->position_tables);
  if (config->initialization == SPTX_INIT_DEVIATION) /* 0.125 / sqrt(d n_emb) */
    position = 0.125 / sqrt((double)width * all->position_tables);
  add(builder, &all->token_table, SPTX_VOCABULARY, width, deviation_of(config, (double)width), 0,
      "embedding.token", -1);
  add(builder, &all->start, width, 0, deviation_of(config, (double)width), 0, "embedding.start", -1);
  for (int k = 0; k < all->position_tables; k++) {
    char name[32];
    snprintf(name, sizeof name, "embedding.position.%d", k);
    add(builder, &all->position_table[k], all->position_size[k], width, position, 0, name, -1);
  }
  for (int layer = 0; layer < config->layers; layer++)
    add_layer(builder, layer);
  add(builder, &all->norm_gain, width, 0, 0, 1, "norm.gain", -1);
  add(builder, &all->norm_bias, width, 0, 0, 0, "norm.bias", -1);
  add(builder, &all->output_weight, SPTX_VOCABULARY, width, 0, 0, "output.weight", -1);
}

/* Images: row, column, channel. Text and audio: row and column of a matrix as wide as the stride. */
static void choose_positions(const sptx_config *config, sptx_parameters *all) {
  if (sptx_config_is_image(config)) {
    int64_t side = config->format == SPTX_DATA_CIFAR10 ? 32 : 64;
    int64_t size[3] = {side, side, 3}, divisor[3] = {side * 3, 3, 1};
    all->position_tables = 3;
    memcpy(all->position_size, size, sizeof size);
    memcpy(all->position_divisor, divisor, sizeof divisor);
    return;
  }
  all->position_tables = 2;
  all->position_size[0] = (config->length + config->position_width - 1) / config->position_width;
  all->position_divisor[0] = config->position_width;
  all->position_size[1] = config->position_width;
  all->position_divisor[1] = 1;
}

enum sptx_code sptx_parameters_create(const sptx_config *config, sptx_parameters *parameters,
                                      sptx_error *error) {
  memset(parameters, 0, sizeof *parameters);
  parameters->list = calloc((size_t)config->layers * 12 + 16, sizeof *parameters->list);
  parameters->layers = calloc((size_t)config->layers, sizeof *parameters->layers);
  if (!parameters->list || !parameters->layers) {
    sptx_parameters_clear(parameters);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %ld layers", (long)config->layers);
  }
  choose_positions(config, parameters);
  struct builder builder = {parameters, config, false};
  add_all(&builder);
  parameters->decayed_floats = parameters->floats;
  builder.vectors = true;
  add_all(&builder);
  int64_t missing = config->heads * (sptx_config_head_dim(config) - sptx_config_query_key_dim(config));
  parameters->effective -= config->layers * 2 * missing * (config->width + 1);
  return SPTX_CODE_OK;
}

void sptx_parameters_clear(sptx_parameters *parameters) {
  free(parameters->list);
  free(parameters->layers);
  memset(parameters, 0, sizeof *parameters);
}

/* With narrow queries and keys the kernels still see heads as wide as the values': the missing columns are
 * zero in both. Their gradients are then exactly zero too, so Adam leaves them at zero for ever. */
static void clear_missing_columns(const sptx_config *config, const struct sptx_parameter *qkv, float *flat) {
  int64_t head_dim = sptx_config_head_dim(config), kept = sptx_config_query_key_dim(config);
  for (int64_t head = 0; head < 2 * config->heads; head++)
    memset(flat + qkv->offset + (head * head_dim + kept) * config->width, 0,
           (size_t)((head_dim - kept) * config->width) * sizeof(float));
}

void sptx_parameters_initialize(const sptx_config *config, const sptx_parameters *parameters, float *flat) {
  memset(flat, 0, (size_t)parameters->floats * sizeof(float));
  for (int p = 0; p < parameters->count; p++) {
    const struct sptx_parameter *parameter = &parameters->list[p];
    int64_t size = parameter->shape[0] * (parameter->dims == 2 ? parameter->shape[1] : 1);
    for (int64_t i = 0; i < size; i++)
      flat[parameter->offset + i] =
          (float)(parameter->constant +
                  (parameter->deviation == 0
                       ? 0
                       : parameter->deviation * sptx_random_normal((uint64_t)config->seed,
                                                                   SPTX_RANDOM_WEIGHTS, (uint32_t)p,
                                                                   (uint64_t)i)));
    if (strstr(parameter->name, "attention.qkv.weight"))
      clear_missing_columns(config, parameter, flat);
  }
}
