/* The training loop. A step is a function of the weights, the moments, the state and the config alone, so
 * that a resumed run repeats on the CPU, bit for bit, what the interrupted one would have done. */
#include "model/trainer.h"

#include "model/causality.h"
#include "model/evaluate.h"
#include "model/metrics.h"
#include "model/nccl.h"
#include "model/optimizer.h"
#include "model/peak.h"
#include "runtime/clock.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* This call's share of the time since the last row of metrics.csv. */
struct recent {
  double seconds;
  int64_t steps;
};

struct trainer {
  sptx_config config;
  const sptx_train_options *options;
  sptx_communicator *communicator; /* of the processes; or of their devices, once these are connected */
  sptx_nccl nccl;
  sptx_transformer *transformer;
  sptx_optimizer optimizer;
  sptx_data *data;
  sptx_metrics metrics, validation;
  sptx_train_state state;
  double seconds; /* of the run, all its resumptions together, evaluations and checkpoints left out */
  struct recent recent;
  sptx_progress progress;
  double validation_bits;
  uint8_t *tokens;
  int64_t saved_step, bad_steps;
  double start_seconds; /* of this call, on the monotonic clock */
  bool weights_sound;   /* no update is half done */
};

static bool leads(const struct trainer *trainer) {
  return trainer->communicator->rank == 0;
}

static float *const *parts_of(const struct trainer *trainer, float *parts[SPTX_CHECKPOINT_PARTS]) {
  parts[SPTX_PART_WEIGHTS] = trainer->transformer->weights;
  parts[SPTX_PART_FIRST_MOMENTS] = trainer->optimizer.first_moments;
  parts[SPTX_PART_SECOND_MOMENTS] = trainer->optimizer.second_moments;
  return parts;
}

/* Writes the checkpoint of this step, then removes old ones: the folder always holds a whole one. */
static enum sptx_code save(struct trainer *trainer, sptx_error *error) {
  float *parts[SPTX_CHECKPOINT_PARTS];
  const sptx_transformer *t = trainer->transformer;
  if (!leads(trainer) || trainer->saved_step == trainer->state.step)
    return SPTX_CODE_OK;
  SPTX_TRY(sptx_checkpoint_write(trainer->options->folder, &t->parameters, t->device,
                                 parts_of(trainer, parts), &trainer->state, error));
  trainer->saved_step = trainer->state.step;
  return sptx_checkpoint_prune(trainer->options->folder, trainer->config.keep, error);
}

static void warn(const struct trainer *trainer, const char *what, const sptx_error *error) {
  char sentence[sizeof error->message + 128];
  snprintf(sentence, sizeof sentence, "%s%s", error->message, what);
  if (leads(trainer) && trainer->options->warn)
    trainer->options->warn(trainer->options->user, sentence);
}

static enum sptx_code restore_parts(struct trainer *trainer, sptx_checkpoint *checkpoint, sptx_error *error) {
  sptx_transformer *t = trainer->transformer;
  float *parts[SPTX_CHECKPOINT_PARTS];
  size_t bytes = (size_t)t->parameters.floats * sizeof(float);
  float *flat = malloc(bytes);
  if (!flat)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory to read a checkpoint");
  parts_of(trainer, parts);
  enum sptx_code code = sptx_checkpoint_read(checkpoint, SPTX_PART_WEIGHTS, flat, error);
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_set_weights(t, flat, error);
  for (int part = SPTX_PART_FIRST_MOMENTS; part < SPTX_CHECKPOINT_PARTS && code == SPTX_CODE_OK; part++) {
    code = sptx_checkpoint_read(checkpoint, (enum sptx_checkpoint_part)part, flat, error);
    if (code == SPTX_CODE_OK)
      code = t->device->ops->copy_in(t->device, parts[part], flat, bytes, error);
  }
  if (code == SPTX_CODE_OK)
    code = t->device->ops->synchronize(t->device, error);
  free(flat);
  return code;
}

static enum sptx_code restore(struct trainer *trainer, const char *path, sptx_error *error) {
  sptx_checkpoint *checkpoint;
  SPTX_TRY(sptx_checkpoint_open(path, &trainer->transformer->parameters, &checkpoint, error));
  enum sptx_code code = restore_parts(trainer, checkpoint, error);
  trainer->state = *sptx_checkpoint_state(checkpoint);
  trainer->saved_step = trainer->state.step;
  sptx_checkpoint_close(checkpoint);
  return code;
}

/* Starts anew or resumes; a folder with another run in it is never mixed up with this one. */
static enum sptx_code begin_state(struct trainer *trainer, sptx_error *error) {
  char path[PATH_MAX];
  const char *folder = trainer->options->folder;
  trainer->saved_step = -1;
  trainer->state.loss_scale = sptx_first_loss_scale(&trainer->config);
  if (mkdir(folder, 0777) && errno != EEXIST)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", folder, strerror(errno));
  SPTX_TRY(sptx_checkpoint_latest(folder, path, error));
  if (!path[0])
    return SPTX_CODE_OK;
  if (!trainer->options->resume)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s is already there; continue that run with --resume, or choose another folder", path);
  return restore(trainer, path, error);
}

static enum sptx_code check_data(const struct trainer *trainer, sptx_error *error) {
  const sptx_config *config = &trainer->config;
  if (sptx_data_items(trainer->data, SPTX_DATA_TRAIN) < 1)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s: the training part of %s has fewer than the %ld positions of one sequence",
                     sptx_config_place(config, "data"), config->data, (long)config->length);
  if (config->evaluate_every && sptx_data_items(trainer->data, SPTX_DATA_VALIDATION) < 1)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s: evaluate_every needs at least one sequence of %ld positions in validation_items",
                     sptx_config_place(config, "evaluate_every"), (long)config->length);
  return SPTX_CODE_OK;
}

static enum sptx_code write_config(const struct trainer *trainer, sptx_error *error) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/config.yaml", trainer->options->folder) >= (int)sizeof path)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%.200s...: the path is too long",
                     trainer->options->folder);
  return sptx_config_write(&trainer->config, path, error);
}

static enum sptx_code connect_devices(struct trainer *trainer, sptx_error *error) {
  const sptx_device *device = trainer->transformer->device;
  if (!device->driver || trainer->communicator->size == 1)
    return SPTX_CODE_OK;
  SPTX_TRY(sptx_nccl_open(SPTX_NCCL_LIBRARY, &trainer->nccl, error));
  sptx_communicator *devices;
  SPTX_TRY(
      sptx_communicator_create_nccl(trainer->communicator, device->driver, &trainer->nccl, &devices, error));
  trainer->communicator = devices;
  return SPTX_CODE_OK;
}

static enum sptx_code begin(struct trainer *trainer, sptx_error *error) {
  const sptx_config *config = &trainer->config;
  SPTX_TRY(sptx_data_open(config, &trainer->data, error));
  SPTX_TRY(check_data(trainer, error));
  sptx_device_choose(trainer->config.device, sizeof trainer->config.device,
                     trainer->communicator->local_rank);
  SPTX_TRY(sptx_transformer_create(config, SPTX_TRANSFORMER_TRAIN, 0, &trainer->transformer, error));
  SPTX_TRY(connect_devices(trainer, error));
  SPTX_TRY(sptx_optimizer_create(trainer->transformer, &trainer->optimizer, error));
  SPTX_TRY(sptx_check_causality(trainer->transformer, error));
  trainer->tokens = malloc((size_t)trainer->transformer->rows);
  if (!trainer->tokens)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a batch of tokens");
  SPTX_TRY(begin_state(trainer, error));
  if (trainer->options->progress)
    SPTX_TRY(sptx_measure_peak(trainer->transformer->device, trainer->transformer->type,
                               &trainer->progress.peak_flops_per_second, error));
  if (!leads(trainer))
    return SPTX_CODE_OK;
  SPTX_TRY(write_config(trainer, error));
  SPTX_TRY(sptx_metrics_open(&trainer->metrics, trainer->options->folder, "metrics.csv",
                             "step,seconds,tokens,bits,grad_norm,lr", trainer->state.step, error));
  trainer->seconds = trainer->metrics.seconds;
  if (!config->evaluate_every)
    return SPTX_CODE_OK;
  return sptx_metrics_open(&trainer->validation, trainer->options->folder, "validation.csv",
                           "step,seconds,bits", trainer->state.step, error);
}

static enum sptx_code gradients_ready(void *user, int64_t offset, int64_t floats, sptx_error *error) {
  struct trainer *trainer = user;
  return sptx_communicator_add(trainer->communicator, trainer->transformer->gradients + offset, floats,
                               error);
}

/* Gradients of the mean loss over the global batch, times the loss scale; nats: this process's sum. */
static enum sptx_code compute_gradients(struct trainer *trainer, double *nats, sptx_error *error) {
  sptx_transformer *t = trainer->transformer;
  sptx_communicator *communicator = trainer->communicator;
  int64_t step = trainer->state.step, batch = t->batch;
  int64_t first = (step * communicator->size + communicator->rank) * batch;
  struct sptx_model_pass pass = {
      .step = step, .first_row = communicator->rank * t->rows, .dropout = trainer->config.dropout > 0};
  float scale = (float)(trainer->state.loss_scale / ((double)t->rows * communicator->size));
  SPTX_TRY(sptx_data_batch(trainer->data, SPTX_DATA_TRAIN, (uint64_t)trainer->config.seed, first, batch,
                           trainer->tokens, error));
  SPTX_TRY(sptx_transformer_forward(t, trainer->tokens, &pass, error));
  SPTX_TRY(sptx_transformer_loss(t, scale, nats, error));
  SPTX_TRY(sptx_transformer_backward(t, &pass, gradients_ready, trainer, error));
  return sptx_communicator_finish(communicator, error);
}

static enum sptx_code count_bad_step(struct trainer *trainer, bool applied, sptx_error *error) {
  trainer->bad_steps = applied ? 0 : trainer->bad_steps + 1;
  if (trainer->bad_steps < trainer->config.max_bad_steps)
    return SPTX_CODE_OK;
  return sptx_fail(error, SPTX_CODE_DEVICE,
                   "step %ld: the gradient was not finite for %ld steps in a row (max_bad_steps); lower "
                   "learning_rate or raise warmup, and resume from the last checkpoint",
                   (long)trainer->state.step, (long)trainer->bad_steps);
}

/* One step on all processes. stop: some process wants to stop after it. */
static enum sptx_code train_step(struct trainer *trainer, bool *stop, sptx_error *error) {
  const sptx_train_options *options = trainer->options;
  int64_t tokens = trainer->transformer->rows * trainer->communicator->size;
  double start = sptx_now(), sums[2];
  bool applied;
  trainer->progress.learning_rate = sptx_learning_rate(&trainer->config, trainer->state.step);
  SPTX_TRY(compute_gradients(trainer, &sums[0], error));
  sums[1] = (options->stop && *options->stop) ||
            (options->seconds > 0 && sptx_now() - trainer->start_seconds >= options->seconds);
  SPTX_TRY(trainer->communicator->ops->sum_values(trainer->communicator, sums, 2, error));
  trainer->weights_sound = false;
  SPTX_TRY(sptx_optimizer_step(&trainer->optimizer, trainer->transformer, &trainer->state,
                               &trainer->progress.gradient_norm, &applied, error));
  SPTX_TRY(trainer->transformer->device->ops->synchronize(trainer->transformer->device, error));
  trainer->weights_sound = true;
  double seconds = sptx_now() - start;
  trainer->state.step++;
  trainer->state.tokens += tokens;
  trainer->seconds += seconds;
  if (isfinite(sums[0])) {
    trainer->state.recent_nats += sums[0];
    trainer->state.recent_tokens += tokens;
  }
  trainer->recent.seconds += seconds;
  trainer->recent.steps++;
  *stop = sums[1] > 0;
  return count_bad_step(trainer, applied, error);
}

static void fill_progress(struct trainer *trainer) {
  sptx_progress *progress = &trainer->progress;
  const struct recent *recent = &trainer->recent;
  progress->step = trainer->state.step;
  progress->skipped_steps = trainer->state.skipped_steps;
  progress->loss_scale = trainer->state.loss_scale;
  progress->bits = trainer->state.recent_nats / (double)trainer->state.recent_tokens / M_LN2;
  progress->seconds = trainer->seconds;
  progress->tokens_per_second =
      (double)(recent->steps * trainer->transformer->rows * trainer->communicator->size) / recent->seconds;
  progress->flops_per_second = trainer->transformer->flops * (double)recent->steps / recent->seconds;
  progress->seconds_left =
      (double)(progress->last_step - progress->step) * recent->seconds / (double)recent->steps;
  if (trainer->options->seconds > 0)
    progress->seconds_left =
        fmin(progress->seconds_left, trainer->start_seconds + trainer->options->seconds - sptx_now());
}

/* A full disk must not end a run: what could not be written is said, and tried again at the next occasion. */
static void log_step(struct trainer *trainer, bool last) {
  sptx_progress *progress = &trainer->progress;
  sptx_error error;
  fill_progress(trainer);
  progress->logged = last || progress->step % trainer->config.log_every == 0;
  if (progress->logged && leads(trainer)) {
    double row[] = {progress->seconds, (double)trainer->state.tokens, progress->bits, progress->gradient_norm,
                    progress->learning_rate};
    if (sptx_metrics_add(&trainer->metrics, progress->step, row, 5, &error) != SPTX_CODE_OK)
      warn(trainer, "; training goes on", &error);
  }
  if (leads(trainer) && trainer->options->progress)
    trainer->options->progress(trainer->options->user, progress);
  if (progress->step % trainer->config.log_every == 0) {
    trainer->recent = (struct recent){0};
    trainer->state.recent_nats = 0;
    trainer->state.recent_tokens = 0;
  }
}

static enum sptx_code evaluate(struct trainer *trainer, sptx_error *error) {
  sptx_evaluation evaluation;
  sptx_error unwritten;
  SPTX_TRY(sptx_evaluate_sequences(trainer->transformer, trainer->data, SPTX_DATA_VALIDATION,
                                   trainer->config.evaluate_items, trainer->communicator, &evaluation,
                                   error));
  double row[] = {trainer->seconds, trainer->validation_bits = sptx_evaluation_bits(&evaluation)};
  if (leads(trainer) &&
      sptx_metrics_add(&trainer->validation, trainer->state.step, row, 2, &unwritten) != SPTX_CODE_OK)
    warn(trainer, "; training goes on", &unwritten);
  return SPTX_CODE_OK;
}

static enum sptx_code loop(struct trainer *trainer, sptx_error *error) {
  const sptx_config *config = &trainer->config;
  bool stop = false;
  while (trainer->state.step < trainer->progress.last_step && !stop) {
    SPTX_TRY(train_step(trainer, &stop, error));
    int64_t step = trainer->state.step;
    bool last = stop || step == trainer->progress.last_step;
    log_step(trainer, last);
    if (config->evaluate_every && (last || step % config->evaluate_every == 0))
      SPTX_TRY(evaluate(trainer, error));
    sptx_error unsaved;
    if (!last && step % config->save_every == 0 && save(trainer, &unsaved) != SPTX_CODE_OK)
      warn(trainer, "; training goes on, older checkpoints stay", &unsaved);
  }
  return save(trainer, error);
}

static void clear(struct trainer *trainer) {
  sptx_metrics_close(&trainer->metrics);
  sptx_metrics_close(&trainer->validation);
  if (trainer->communicator != trainer->options->communicator)
    sptx_communicator_destroy(trainer->communicator);
  sptx_nccl_close(&trainer->nccl);
  sptx_optimizer_clear(trainer->transformer, &trainer->optimizer);
  sptx_transformer_destroy(trainer->transformer);
  sptx_data_close(trainer->data);
  free(trainer->tokens);
}

enum sptx_code sptx_train(const sptx_config *config, const sptx_train_options *options,
                          sptx_train_result *result, sptx_error *error) {
  struct trainer trainer = {.config = *config,
                            .options = options,
                            .communicator = options->communicator,
                            .validation_bits = NAN,
                            .start_seconds = sptx_now(),
                            .progress = {.last_step = options->last_step, .bits = NAN}};
  if (options->last_step < 0)
    trainer.progress.last_step = config->steps;
  if (trainer.progress.last_step > config->steps) /* a longer run decays over all of it */
    trainer.config.steps = trainer.progress.last_step;
  trainer.communicator->interrupted = options->stop;
  enum sptx_code code = begin(&trainer, error);
  if (code == SPTX_CODE_OK) {
    trainer.weights_sound = true;
    code = loop(&trainer, error);
    sptx_error unsaved;
    bool diverged = trainer.bad_steps >= trainer.config.max_bad_steps;
    if (code != SPTX_CODE_OK && trainer.weights_sound && !diverged)
      (void)save(&trainer, &unsaved); /* the first error is the one to report */
  }
  *result =
      (sptx_train_result){trainer.state, trainer.seconds, trainer.progress.bits, trainer.validation_bits};
  clear(&trainer);
  return code;
}
