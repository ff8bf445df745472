/* Changes a sound's sample rate by a windowed sinc (Smith & Gossett 1984). Output sample n depends on the
 * input near it and on nothing else, so any run of samples can be made by itself, always with the same
 * values; that is why no streaming library serves here. */
#ifndef SPTX_MODEL_RESAMPLE_H
#define SPTX_MODEL_RESAMPLE_H

#include "patterns/error.h"
#include <stdint.h>

struct sptx_resampler {
  int64_t up, down; /* output sample n stands at input sample n * down / up */
  int64_t reach;    /* input samples on each side that it depends on */
  float *taps;      /* (up, 2 * reach): weights for each fraction of an input sample */
};

/* Rates in Hz. Fails: SPTX_CODE_OUT_OF_MEMORY. */
enum sptx_code sptx_resampler_create(int64_t from_rate, int64_t to_rate, struct sptx_resampler *resampler,
                                     sptx_error *error);
void sptx_resampler_clear(struct sptx_resampler *resampler);
/* How many output samples `frames` input samples make. */
int64_t sptx_resampler_length(const struct sptx_resampler *resampler, int64_t frames);
/* Output samples first..first + count - 1 depend on input samples *begin..*end - 1, which may lie outside
 * the sound: those are silence. */
void sptx_resampler_needs(const struct sptx_resampler *resampler, int64_t first, int64_t count,
                          int64_t *begin, int64_t *end);
/* in: the input samples that sptx_resampler_needs names. */
void sptx_resampler_run(const struct sptx_resampler *resampler, int64_t first, int64_t count, const float *in,
                        float *out);

#endif
