/* Sums losses over sequences of a part, or over overlapping windows of a whole data set. */
#include "model/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double sptx_evaluation_bits(const sptx_evaluation *evaluation) {
  return evaluation->nats / (double)evaluation->positions / M_LN2;
}

static const struct sptx_model_pass NO_DROPOUT = {0, 0, false};

static enum sptx_code take_tokens(const sptx_transformer *t, uint8_t **tokens, sptx_error *error) {
  *tokens = malloc((size_t)t->rows);
  return *tokens ? SPTX_CODE_OK
                 : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a batch of tokens");
}

static enum sptx_code batch_nats(sptx_transformer *t, const uint8_t *tokens, double *nats,
                                 sptx_error *error) {
  SPTX_TRY(sptx_transformer_forward(t, tokens, &NO_DROPOUT, error));
  return sptx_transformer_loss(t, 1, nats, error);
}

enum sptx_code sptx_evaluate_sequences(sptx_transformer *t, const sptx_data *data, enum sptx_data_part part,
                                       int64_t count, sptx_communicator *communicator,
                                       sptx_evaluation *evaluation, sptx_error *error) {
  uint8_t *tokens;
  enum sptx_code code;
  double sum = 0;
  int64_t rounds = (count + t->batch * communicator->size - 1) / (t->batch * communicator->size);
  SPTX_TRY(take_tokens(t, &tokens, error));
  for (int64_t round = 0; round < rounds; round++) {
    int64_t first = (round * communicator->size + communicator->rank) * t->batch;
    double nats;
    SPTX_TRY_GOTO(sptx_data_batch(data, part, 0, first, t->batch, tokens, error), done);
    SPTX_TRY_GOTO(batch_nats(t, tokens, &nats, error), done);
    sum += nats;
  }
  SPTX_TRY_GOTO(communicator->ops->sum_values(communicator, &sum, 1, error), done);
  *evaluation = (sptx_evaluation){sum, rounds * communicator->size * t->rows};
done:
  free(tokens);
  return code;
}

/* The windows of a data set: window w covers positions start..start + length - 1, of which those from
 * `scored` on count; the ones before are context. */
struct windows {
  int64_t positions, length, shift, count;
};

static struct windows windows_of(const sptx_transformer *t, int64_t positions, int64_t context) {
  struct windows windows = {positions, t->config.length, t->config.length - context, 0};
  int64_t after_first = positions > windows.length ? positions - windows.length : 0;
  windows.count = positions ? 1 + (after_first + windows.shift - 1) / windows.shift : 0;
  return windows;
}

/* The last window is moved back to end with the data: more context, never less. */
static int64_t start_of(const struct windows *windows, int64_t window) {
  int64_t start = window * windows->shift, last = windows->positions - windows->length;
  return start < last ? start : last > 0 ? last : 0;
}

static int64_t first_scored(const struct windows *windows, int64_t window) {
  return window ? (window - 1) * windows->shift + windows->length : 0;
}

static int64_t end_scored(const struct windows *windows, int64_t window) {
  int64_t end = window * windows->shift + windows->length;
  return end < windows->positions ? end : windows->positions;
}

/* Reads the windows of a batch; what a short file or a short last batch leaves free becomes zeros, which
 * causal attention keeps from the positions before. */
static enum sptx_code read_windows(const sptx_transformer *t, const sptx_data *data,
                                   const struct windows *windows, int64_t first, uint8_t *tokens,
                                   sptx_error *error) {
  memset(tokens, 0, (size_t)t->rows);
  for (int64_t row = 0; row < t->batch && first + row < windows->count; row++) {
    int64_t start = start_of(windows, first + row), left = windows->positions - start;
    SPTX_TRY(sptx_data_read(data, SPTX_DATA_WHOLE, start, left < windows->length ? left : windows->length,
                            tokens + row * windows->length, error));
  }
  return SPTX_CODE_OK;
}

static void add_losses(const sptx_transformer *t, const struct windows *windows, int64_t first,
                       const float *losses, sptx_evaluation *evaluation) {
  for (int64_t row = 0; row < t->batch && first + row < windows->count; row++) {
    int64_t window = first + row, start = start_of(windows, window);
    int64_t from = first_scored(windows, window), to = end_scored(windows, window);
    for (int64_t position = from; position < to; position++)
      evaluation->nats += (double)losses[row * windows->length + position - start];
    evaluation->positions += to - from;
  }
}

enum sptx_code sptx_evaluate_all(sptx_transformer *t, const sptx_data *data, int64_t context,
                                 void (*progress)(void *user, const sptx_evaluation *so_far), void *user,
                                 sptx_evaluation *evaluation, sptx_error *error) {
  int64_t most = sptx_config_is_image(&t->config) ? 0 : t->config.length - 1;
  *evaluation = (sptx_evaluation){0, 0};
  if (context < 0 || context > most)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "a minimum context of %ld; it must be 0 to %ld%s",
                     (long)context, (long)most, most ? ", one less than the model's length" : " for images");
  struct windows windows = windows_of(t, sptx_data_positions(data, SPTX_DATA_WHOLE), context);
  uint8_t *tokens = NULL;
  float *losses = malloc((size_t)t->rows * sizeof *losses);
  enum sptx_code code =
      losses ? SPTX_CODE_OK : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a batch of losses");
  if (code == SPTX_CODE_OK)
    code = take_tokens(t, &tokens, error);
  for (int64_t first = 0; first < windows.count && code == SPTX_CODE_OK; first += t->batch) {
    double nats;
    SPTX_TRY_GOTO(read_windows(t, data, &windows, first, tokens, error), done);
    SPTX_TRY_GOTO(batch_nats(t, tokens, &nats, error), done);
    SPTX_TRY_GOTO(
        t->device->ops->copy_out(t->device, losses, t->losses, (size_t)t->rows * sizeof *losses, error),
        done);
    add_losses(t, &windows, first, losses, evaluation);
    if (progress)
      progress(user, evaluation);
  }
done:
  free(losses);
  free(tokens);
  return code;
}
