/* Data sets as sequences of byte tokens: text, images, audio. Files are mapped or read where a sequence needs
 * them; which sequence row k of a run is follows from the seed alone, so runs resume and split over processes
 * without any state of the reader. */
#ifndef SPTX_MODEL_DATA_H
#define SPTX_MODEL_DATA_H

#include "model/config.h"
#include "patterns/error.h"

/* The set in its own order is split in three by the config's train_items and validation_items. When neither
 * is given, 100,000,000 raw bytes (enwik8) are split 90, 5 and 5 million; anything else is all for
 * training. */
enum sptx_data_part {
  SPTX_DATA_TRAIN,
  SPTX_DATA_VALIDATION,
  SPTX_DATA_TEST, /* what is left */
  SPTX_DATA_WHOLE,
};

typedef struct sptx_data sptx_data;

/* Opens what config->data names: a file, a folder (all files below it, hidden ones left out) or a glob, the
 * files in the order of their paths. One thread at a time uses a data set. Fails: SPTX_CODE_IO,
 * SPTX_CODE_FORMAT (of another kind, or cut short: the sentence names the file and the sizes),
 * SPTX_CODE_INVALID_ARGUMENT (the split), SPTX_CODE_OUT_OF_MEMORY. */
enum sptx_code sptx_data_open(const sptx_config *config, sptx_data **data, sptx_error *error);
void sptx_data_close(sptx_data *data); /* NULL is allowed */

/* Positions of a part: bytes, samples, or images times the positions of one. */
int64_t sptx_data_positions(const sptx_data *data, enum sptx_data_part part);
/* Sequences of an epoch. Training on bytes or audio: every position occurs, fewer than `length` of them
 * twice. Other parts: as many whole sequences as there are. 0 when the part is shorter than one. */
int64_t sptx_data_items(const sptx_data *data, enum sptx_data_part part);

/* Rows first_index..first_index + count - 1 of an endless list of sequences into tokens (count, length).
 * Training runs through the part in an order shuffled by the seed, anew in each epoch; bytes and audio are
 * cut into windows on a ring (the part's end joined to its start), from a place that changes with the epoch.
 * The other parts come in their own order, again and again, and the seed does not matter. */
enum sptx_code sptx_data_batch(const sptx_data *data, enum sptx_data_part part, uint64_t seed,
                               int64_t first_index, int64_t count, uint8_t *tokens, sptx_error *error);
/* Positions first..first + count - 1 of a part, in its own order. */
enum sptx_code sptx_data_read(const sptx_data *data, enum sptx_data_part part, int64_t first, int64_t count,
                              uint8_t *tokens, sptx_error *error);

#endif
