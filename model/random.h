/* Counter-based random numbers (Philox4x32-10, Salmon et al. 2011): word k of stream s under a seed is a pure
 * function of (seed, s, k), so runs resume and split over processes without any generator state. */
#ifndef SPTX_MODEL_RANDOM_H
#define SPTX_MODEL_RANDOM_H

#include <stdint.h>

enum sptx_random_stream {
  SPTX_RANDOM_WEIGHTS = 1,
  SPTX_RANDOM_SHUFFLE = 2,
  SPTX_RANDOM_OFFSET = 3,
  SPTX_RANDOM_SAMPLING = 4,
};

/* 64 random bits. */
uint64_t sptx_random_bits(uint64_t seed, uint32_t stream, uint32_t substream, uint64_t counter);
/* Uniform in [0, 1), 53 bits. */
double sptx_random_uniform(uint64_t seed, uint32_t stream, uint32_t substream, uint64_t counter);
/* Standard normal (Box-Muller). */
double sptx_random_normal(uint64_t seed, uint32_t stream, uint32_t substream, uint64_t counter);
/* Where index (0 <= index < count) goes under the permutation of 0..count-1 that (seed, epoch) names. */
uint64_t sptx_random_permute(uint64_t seed, uint32_t epoch, uint64_t index, uint64_t count);

#endif
