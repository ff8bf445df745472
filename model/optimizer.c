/* The learning rate, the loss scale, and the update of the weights. */
#include "model/optimizer.h"

#include <math.h>

static const double LARGEST_LOSS_SCALE = 0x1p24, SMALLEST_LOSS_SCALE = 1;

enum sptx_code sptx_optimizer_create(sptx_transformer *t, sptx_optimizer *optimizer, sptx_error *error) {
  size_t bytes = (size_t)t->parameters.floats * sizeof(float);
  *optimizer = (sptx_optimizer){NULL, NULL};
  void *first, *second;
  SPTX_TRY(t->device->ops->allocate(t->device, bytes, &first, error));
  optimizer->first_moments = first;
  SPTX_TRY(t->device->ops->allocate(t->device, bytes, &second, error));
  optimizer->second_moments = second;
  return SPTX_CODE_OK;
}

void sptx_optimizer_clear(sptx_transformer *t, sptx_optimizer *optimizer) {
  if (!t)
    return;
  t->device->ops->release(t->device, optimizer->first_moments);
  t->device->ops->release(t->device, optimizer->second_moments);
  *optimizer = (sptx_optimizer){NULL, NULL};
}

double sptx_learning_rate(const sptx_config *config, int64_t step) {
  if (step < config->warmup)
    return config->learning_rate * (double)(step + 1) / (double)config->warmup;
  double decaying = (double)(config->steps - config->warmup);
  double progress = step >= config->steps ? 1 : (double)(step - config->warmup) / decaying;
  return config->final_learning_rate +
         (config->learning_rate - config->final_learning_rate) * 0.5 * (1 + cos(M_PI * progress));
}

double sptx_first_loss_scale(const sptx_config *config) {
  return config->precision == SPTX_F16 ? config->loss_scale : 1;
}

/* One part of the flat buffer. */
static enum sptx_code update(const sptx_optimizer *optimizer, sptx_transformer *t, struct sptx_adam_args args,
                             int64_t begin, int64_t end, double weight_decay, sptx_error *error) {
  args.weight = t->weights + begin;
  args.first_moment = optimizer->first_moments + begin;
  args.second_moment = optimizer->second_moments + begin;
  args.gradient = t->gradients + begin;
  args.compute_weight =
      t->type == SPTX_F32 ? NULL : (char *)t->matrices + (size_t)begin * sptx_dtype_size(t->type);
  args.weight_decay = (float)weight_decay;
  return SPTX_LAUNCH(t->device, adam, t->type, end - begin, &args, error);
}

static enum sptx_code update_all(const sptx_optimizer *optimizer, sptx_transformer *t,
                                 const sptx_train_state *state, double gradient_scale, sptx_error *error) {
  const sptx_config *config = &t->config;
  double updates = (double)state->updates;
  struct sptx_adam_args args = {.scale = (float)gradient_scale,
                                .learning_rate = (float)sptx_learning_rate(config, state->step),
                                .beta1 = (float)config->beta1,
                                .beta2 = (float)config->beta2,
                                .epsilon = (float)config->epsilon,
                                .correction1 = (float)(1 / (1 - pow(config->beta1, updates))),
                                .correction2 = (float)(1 / (1 - pow(config->beta2, updates)))};
  int64_t decayed = t->parameters.decayed_floats;
  SPTX_TRY(update(optimizer, t, args, 0, decayed, config->weight_decay, error));
  return update(optimizer, t, args, decayed, t->parameters.floats, 0, error);
}

static void adapt_loss_scale(const sptx_config *config, sptx_train_state *state, bool finite) {
  state->good_steps = finite ? state->good_steps + 1 : 0;
  if (config->precision != SPTX_F16)
    return;
  if (!finite) {
    state->loss_scale = fmax(state->loss_scale / 2, SMALLEST_LOSS_SCALE);
  } else if (state->good_steps >= config->loss_scale_window) {
    state->loss_scale = fmin(state->loss_scale * 2, LARGEST_LOSS_SCALE);
    state->good_steps = 0;
  }
}

enum sptx_code sptx_optimizer_step(sptx_optimizer *optimizer, sptx_transformer *t, sptx_train_state *state,
                                   double *gradient_norm, bool *applied, sptx_error *error) {
  double squares, clip = t->config.clip;
  SPTX_TRY(sptx_transformer_sum_squares(t, t->gradients, t->parameters.floats, &squares, error));
  *gradient_norm = sqrt(squares) / state->loss_scale;
  *applied = isfinite(*gradient_norm);
  if (*applied) {
    double clipped = clip > 0 && *gradient_norm > clip ? clip / *gradient_norm : 1;
    state->updates++;
    SPTX_TRY(update_all(optimizer, t, state, clipped / state->loss_scale, error));
  } else
    state->skipped_steps++;
  adapt_loss_scale(&t->config, state, *applied);
  return SPTX_CODE_OK;
}
