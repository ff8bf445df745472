/* Checkpoints: checkpoint-STEP.safetensors in a run's folder. One holds the weights under their names, Adam's
 * moments as `adam.first.NAME` and `adam.second.NAME`, and the run's counters as metadata. */
#ifndef SPTX_MODEL_CHECKPOINT_H
#define SPTX_MODEL_CHECKPOINT_H

#include "model/device.h"
#include "model/parameters.h"
#include "model/transformer.h"
#include <limits.h>
#include <stdint.h>

/* What a run is besides its weights and moments. */
typedef struct sptx_train_state {
  int64_t step;          /* steps done: the next one's index */
  int64_t updates;       /* of the weights: Adam's t */
  int64_t tokens;        /* trained on, over all processes */
  int64_t skipped_steps; /* without a finite gradient */
  int64_t good_steps;    /* in a row at this loss scale */
  double loss_scale;
  double recent_nats; /* losses since the last multiple of log_every, over recent_tokens of them */
  int64_t recent_tokens;
} sptx_train_state;

/* The parts of a checkpoint; each is as large as the model and laid out as its flat buffer. */
enum sptx_checkpoint_part { SPTX_PART_WEIGHTS, SPTX_PART_FIRST_MOMENTS, SPTX_PART_SECOND_MOMENTS };
enum { SPTX_CHECKPOINT_PARTS = 3 };

/* Writes the folder's checkpoint-STEP.safetensors, atomically. parts: flat buffers on the device, by part. */
enum sptx_code sptx_checkpoint_write(const char *folder, const sptx_parameters *parameters,
                                     sptx_device *device, float *const parts[SPTX_CHECKPOINT_PARTS],
                                     const sptx_train_state *state, sptx_error *error);

typedef struct sptx_checkpoint sptx_checkpoint;

/* Opens a checkpoint of a model with these parameters, which must outlive it. Fails: SPTX_CODE_IO;
 * SPTX_CODE_FORMAT (damaged, cut short, or of another configuration; the sentence says where they differ). */
enum sptx_code sptx_checkpoint_open(const char *path, const sptx_parameters *parameters,
                                    sptx_checkpoint **checkpoint, sptx_error *error);
const sptx_train_state *sptx_checkpoint_state(const sptx_checkpoint *checkpoint);
/* flat: parameters->floats floats on the host; what no tensor covers becomes zero. */
enum sptx_code sptx_checkpoint_read(sptx_checkpoint *checkpoint, enum sptx_checkpoint_part part, float *flat,
                                    sptx_error *error);
void sptx_checkpoint_close(sptx_checkpoint *checkpoint); /* NULL is allowed */

/* The path of the folder's latest checkpoint; "" when it has none. Fails: SPTX_CODE_IO (no such folder). */
enum sptx_code sptx_checkpoint_latest(const char *folder, char path[PATH_MAX], sptx_error *error);
/* Gives the transformer the weights of the folder's latest checkpoint. Fails also with SPTX_CODE_IO when
 * there is none. */
enum sptx_code sptx_checkpoint_load_weights(const char *folder, sptx_transformer *transformer,
                                            sptx_error *error);
/* Removes all but the `keep` latest checkpoints, and what a killed process left unfinished. */
enum sptx_code sptx_checkpoint_prune(const char *folder, int64_t keep, sptx_error *error);

#endif
