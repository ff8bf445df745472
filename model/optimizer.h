/* Adam as the paper trains (section 6): linear warm-up, cosine decay, gradient clipping by norm, decoupled
 * weight decay, and a dynamic loss scale for float16. */
#ifndef SPTX_MODEL_OPTIMIZER_H
#define SPTX_MODEL_OPTIMIZER_H

#include "model/checkpoint.h"
#include "model/transformer.h"

typedef struct sptx_optimizer {
  float *first_moments, *second_moments; /* on the device, laid out as the weights */
} sptx_optimizer;

enum sptx_code sptx_optimizer_create(sptx_transformer *transformer, sptx_optimizer *optimizer,
                                     sptx_error *error);
void sptx_optimizer_clear(sptx_transformer *transformer, sptx_optimizer *optimizer);

/* The learning rate of a step, counted from 0. Linear from learning_rate / warmup to learning_rate over the
 * warm-up, then half a cosine down to final_learning_rate, which the step after the last would reach. */
double sptx_learning_rate(const sptx_config *config, int64_t step);

/* The loss scale that a run starts with: the config's for float16, else 1. */
double sptx_first_loss_scale(const sptx_config *config);

/* Updates the weights from the transformer's gradients, which are those of the mean loss in nats times
 * state->loss_scale. gradient_norm: before clipping, unscaled. Where it is not finite the weights stay,
 * *applied is false and the loss scale halves; after loss_scale_window good steps in a row it doubles.
 * Advances state except for its step, tokens and seconds. */
enum sptx_code sptx_optimizer_step(sptx_optimizer *optimizer, sptx_transformer *transformer,
                                   sptx_train_state *state, double *gradient_norm, bool *applied,
                                   sptx_error *error);

#endif
