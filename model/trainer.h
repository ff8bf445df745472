/* Training: the loop over steps, its checkpoints, metrics and evaluations. Prints nothing: what happens goes
 * to callbacks. */
#ifndef SPTX_MODEL_TRAINER_H
#define SPTX_MODEL_TRAINER_H

#include "model/checkpoint.h"
#include "model/communicator.h"
#include "model/config.h"

/* What is known after a step. */
typedef struct sptx_progress {
  int64_t step, last_step, skipped_steps;
  double bits;          /* per token: the mean since the last row of metrics.csv */
  double gradient_norm; /* of this step, before clipping */
  double learning_rate, loss_scale;
  double seconds, seconds_left; /* since the run's start, all its resumptions together; as it now looks */
  double tokens_per_second;     /* of all processes; recent */
  double flops_per_second;      /* useful ones of this process; recent */
  double peak_flops_per_second; /* of this process's device: a large matrix product, measured at the start */
  bool logged;                  /* a row of metrics.csv was written for this step */
} sptx_progress;

typedef struct sptx_train_options {
  const char *folder; /* made when missing */
  bool resume;        /* continue from the folder's latest checkpoint, where it has one */
  int64_t last_step;  /* stop after this many steps; below 0: the config's. 0 saves the first weights */
  double seconds;     /* stop after this time in this call; 0: never */
  sptx_communicator *communicator;   /* its processes make the same call */
  const volatile sig_atomic_t *stop; /* not 0: stop after this step; may be NULL */
  /* Only called in the process of rank 0. warn: a sentence about what went wrong but did not stop the run. */
  void (*progress)(void *user, const sptx_progress *progress);
  void (*warn)(void *user, const char *sentence);
  void *user;
} sptx_train_options;

typedef struct sptx_train_result {
  sptx_train_state state;
  double seconds;         /* the run's, all its resumptions together */
  double bits;            /* the last row of metrics.csv */
  double validation_bits; /* the last evaluation; NAN: none was made */
} sptx_train_result;

/* Trains config's model until it is done or told to stop; a checkpoint of the last step is always written,
 * also when a later step fails while the weights are sound. Errors name their place. Fails as the model, the
 * data and checkpoints do, and with SPTX_CODE_INVALID_ARGUMENT (the folder holds another run),
 * SPTX_CODE_DEVICE (max_bad_steps in a row without a finite gradient, or another process is lost). */
enum sptx_code sptx_train(const sptx_config *config, const sptx_train_options *options,
                          sptx_train_result *result, sptx_error *error);

#endif
