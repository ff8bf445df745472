/* The model's loss in plain float64 loops, written from the paper alone: the oracle of the model's tests. */
#ifndef SPTX_TESTS_MODEL_REFERENCE_H
#define SPTX_TESTS_MODEL_REFERENCE_H

#include "model/config.h"
#include "model/parameters.h"

typedef bool reference_mask(const char *pattern, int64_t layer, int64_t head, int64_t i, int64_t j);

/* Mean loss in nats of tokens (batch, length) without dropout; logits (batch * length, 256) unless NULL.
 * weights is the flat buffer of the parameters. */
double reference_loss(const sptx_config *config, const sptx_parameters *parameters, const float *weights,
                      const uint8_t *tokens, int64_t batch, reference_mask *mask, double *logits);

#endif
