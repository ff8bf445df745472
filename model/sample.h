/* Draws sequences from a trained model, position by position: each one costs the pattern's keys of that
 * position, not a pass over all of them. */
#ifndef SPTX_MODEL_SAMPLE_H
#define SPTX_MODEL_SAMPLE_H

#include "model/transformer.h"

typedef struct sptx_sampling {
  uint64_t seed;
  double temperature; /* the logits are divided by it; 0 takes the likeliest token */
  double top_p;       /* 0..1: only the likeliest tokens whose probabilities reach this sum (Holtzman 2019) */
} sptx_sampling;

/* Draws token number `position` of a sequence by its 256 logits; the same seed, position and logits always
 * give the same token. *bits becomes -log2 of the token's probability under the model itself, before
 * temperature and top_p. Fails: SPTX_CODE_FORMAT (a logit is no finite number). */
enum sptx_code sptx_sample_token(const float *logits, const sptx_sampling *sampling, int64_t position,
                                 uint8_t *token, double *bits, sptx_error *error);

/* Called after each position; a sequence's first positions are given, not drawn. */
typedef void sptx_sample_progress(void *user, int64_t position, uint8_t token);

/* tokens (length): the first `given` are known, the others are drawn. The transformer is a decoder. *bits
 * (may be NULL): the sum over the drawn ones. progress may be NULL. */
enum sptx_code sptx_sample_sequence(sptx_transformer *decoder, const sptx_sampling *sampling, int64_t given,
                                    int64_t length, uint8_t *tokens, double *bits,
                                    sptx_sample_progress *progress, void *user, sptx_error *error);

#endif
