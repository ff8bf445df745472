/* Sampling: probabilities in float64, so that the order of two tokens never hangs on rounding; see sample.h.
 */
#include "model/sample.h"
#include "model/random.h"

#include <math.h>
#include <stdlib.h>

struct candidate {
  double probability; /* after temperature */
  int token;
};

/* The likeliest first; of equal ones the lower token. */
static int by_probability(const void *a, const void *b) {
  const struct candidate *x = a, *y = b;
  return x->probability != y->probability ? (x->probability < y->probability ? 1 : -1) : x->token - y->token;
}

static void softmax(const float *logits, double temperature, struct candidate *candidates) {
  double largest = -INFINITY, sum = 0;
  for (int token = 0; token < SPTX_VOCABULARY; token++)
    largest = fmax(largest, logits[token]);
  for (int token = 0; token < SPTX_VOCABULARY; token++) {
    candidates[token] = (struct candidate){exp((logits[token] - largest) / temperature), token};
    sum += candidates[token].probability;
  }
  for (int token = 0; token < SPTX_VOCABULARY; token++)
    candidates[token].probability /= sum;
}

/* How many of the sorted candidates stay, and the sum of their probabilities. */
static int nucleus(const struct candidate *candidates, double top_p, double *sum) {
  int count = 0;
  *sum = 0;
  do
    *sum += candidates[count++].probability;
  while (count < SPTX_VOCABULARY && *sum < top_p);
  return count;
}

enum sptx_code sptx_sample_token(const float *logits, const sptx_sampling *sampling, int64_t position,
                                 uint8_t *token, double *bits, sptx_error *error) {
  struct candidate candidates[SPTX_VOCABULARY];
  double probabilities[SPTX_VOCABULARY], sum;
  for (int k = 0; k < SPTX_VOCABULARY; k++)
    if (!isfinite(logits[k]))
      return sptx_fail(
          error, SPTX_CODE_FORMAT,
          "position %ld: the model's logit of token %d is %g; its weights are damaged, or float16 is "
          "too narrow for it (try --set precision=float32)",
          (long)position, k, (double)logits[k]);
  softmax(logits, 1, candidates);
  for (int k = 0; k < SPTX_VOCABULARY; k++)
    probabilities[k] = candidates[k].probability;
  if (sampling->temperature > 0)
    softmax(logits, sampling->temperature, candidates);
  qsort(candidates, SPTX_VOCABULARY, sizeof *candidates, by_probability);
  int count = sampling->temperature > 0 ? nucleus(candidates, sampling->top_p, &sum) : 1, chosen = 0;
  if (count > 1) {
    double left = sum * sptx_random_uniform(sampling->seed, SPTX_RANDOM_SAMPLING, 0, (uint64_t)position);
    while (chosen < count - 1 && left >= candidates[chosen].probability)
      left -= candidates[chosen++].probability;
  }
  *token = (uint8_t)candidates[chosen].token;
  *bits = -log2(probabilities[*token]);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_sample_sequence(sptx_transformer *decoder, const sptx_sampling *sampling, int64_t given,
                                    int64_t length, uint8_t *tokens, double *bits,
                                    sptx_sample_progress *progress, void *user, sptx_error *error) {
  float logits[SPTX_VOCABULARY];
  double drawn = 0, of_token;
  if (length < 1 || length > decoder->config.length || given < 0 || given > length)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%ld given and %ld drawn positions do not fit the model's length of %ld", (long)given,
                     (long)(length - given), (long)decoder->config.length);
  for (int64_t position = 0; position < length; position++) {
    uint8_t before = position ? tokens[position - 1] : 0;
    SPTX_TRY(sptx_transformer_decode(decoder, position, before, logits, error));
    if (position >= given) {
      SPTX_TRY(sptx_sample_token(logits, sampling, position, &tokens[position], &of_token, error));
      drawn += of_token;
    }
    if (progress)
      progress(user, position, tokens[position]);
  }
  if (bits)
    *bits = drawn;
  return SPTX_CODE_OK;
}
