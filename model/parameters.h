/* The model's weights: names, shapes, initial values, and one flat buffer that holds them all.
 *
 * Matrices are (out, in), row by row, as y = x W^T wants them. In the flat buffer all matrices and tables
 * come first, in layer order, then all vectors (biases, norms, the start vector): weight decay covers the
 * first part only. */
#ifndef SPTX_MODEL_PARAMETERS_H
#define SPTX_MODEL_PARAMETERS_H

#include "model/config.h"
#include "model/kernels/kernels.h"
#include "patterns/error.h"

#define SPTX_VOCABULARY 256

struct sptx_parameter {
  char name[64]; /* of the tensor in a checkpoint */
  int dims;
  int64_t shape[2];
  int64_t offset;   /* in the flat buffer, in floats */
  double deviation; /* of the normal initial values; 0: constant */
  double constant;
};

/* Offsets of one block's parameters. */
struct sptx_layer_offsets {
  int64_t norm1_gain, norm1_bias, qkv_weight, qkv_bias, projection_weight, projection_bias;
  int64_t norm2_gain, norm2_bias, expand_weight, expand_bias, contract_weight, contract_bias;
};

typedef struct sptx_parameters {
  struct sptx_parameter *list;
  int count;
  int64_t floats, decayed_floats; /* of the flat buffer; of its first part */
  int64_t effective;              /* weights that can be other than zero: the model's size */
  struct sptx_layer_offsets *layers;
  int64_t token_table, start, output_weight, norm_gain, norm_bias;
  int position_tables;
  int64_t position_table[SPTX_MAX_POSITION_TABLES], position_size[SPTX_MAX_POSITION_TABLES],
      position_divisor[SPTX_MAX_POSITION_TABLES];
} sptx_parameters;

enum sptx_code sptx_parameters_create(const sptx_config *config, sptx_parameters *parameters,
                                      sptx_error *error);
void sptx_parameters_clear(sptx_parameters *parameters);
/* Fills `flat` (parameters->floats) with the initial weights of the config's seed. */
void sptx_parameters_initialize(const sptx_config *config, const sptx_parameters *parameters, float *flat);

#endif
