/* Bits per token of data that the model is not trained on. */
#ifndef SPTX_MODEL_EVALUATE_H
#define SPTX_MODEL_EVALUATE_H

#include "model/communicator.h"
#include "model/data.h"
#include "model/transformer.h"

typedef struct sptx_evaluation {
  double nats; /* the sum over positions */
  int64_t positions;
} sptx_evaluation;

double sptx_evaluation_bits(const sptx_evaluation *evaluation); /* per position */

/* At least `count` sequences of a part, from its start, shared out over the processes: whole batches. */
enum sptx_code sptx_evaluate_sequences(sptx_transformer *transformer, const sptx_data *data,
                                       enum sptx_data_part part, int64_t count,
                                       sptx_communicator *communicator, sptx_evaluation *evaluation,
                                       sptx_error *error);

/* Every position of the data set exactly once. Text and audio are read in overlapping windows of the model's
 * length, so that each position, but for the first ones of the file, has at least `context` (0..length - 1)
 * positions before it (paper, table 3). An image is a window of its own, and context must be 0. progress may
 * be NULL. Fails: SPTX_CODE_INVALID_ARGUMENT (context), and as the model and the data do. */
enum sptx_code sptx_evaluate_all(sptx_transformer *transformer, const sptx_data *data, int64_t context,
                                 void (*progress)(void *user, const sptx_evaluation *so_far), void *user,
                                 sptx_evaluation *evaluation, sptx_error *error);

#endif
