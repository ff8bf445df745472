/* Philox on the host: weights, the data's order, sampling. The kernels' dropout has its own copy of the
 * rounds in kernels/target.h, which is compiled without any library. */
#include "model/random.h"

#include <math.h>

static void philox(uint32_t counter[4], uint64_t seed) {
  uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
    uint64_t a = (uint64_t)0xD2511F53u * counter[0], b = (uint64_t)0xCD9E8D57u * counter[2];
    counter[0] = (uint32_t)(b >> 32) ^ counter[1] ^ key0;
    counter[2] = (uint32_t)(a >> 32) ^ counter[3] ^ key1;
    counter[1] = (uint32_t)b;
    counter[3] = (uint32_t)a;
  }
}

uint64_t sptx_random_bits(uint64_t seed, uint32_t stream, uint32_t substream, uint64_t counter) {
  uint32_t word[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), substream, stream};
  philox(word, seed);
  return (uint64_t)word[1] << 32 | word[0];
}

double sptx_random_uniform(uint64_t seed, uint32_t stream, uint32_t substream, uint64_t counter) {
  return (double)(sptx_random_bits(seed, stream, substream, counter) >> 11) * 0x1p-53;
}

double sptx_random_normal(uint64_t seed, uint32_t stream, uint32_t substream, uint64_t counter) {
  uint32_t word[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), substream, stream};
  philox(word, seed);
  double radius = ((double)word[0] + 0.5) * 0x1p-32, angle = (double)word[1] * 0x1p-32;
  return sqrt(-2.0 * log(radius)) * cos(2.0 * 3.14159265358979323846 * angle);
}

/* A Feistel network of four rounds permutes the next even power of two; walking its cycle until the value is
 * below count restricts it to a permutation of 0..count-1 (Black & Rogaway 2002). */
uint64_t sptx_random_permute(uint64_t seed, uint32_t epoch, uint64_t index, uint64_t count) {
  int half = 1;
  while (half < 32 && (uint64_t)1 << (2 * half) < count)
    half++;
  uint64_t mask = ((uint64_t)1 << half) - 1;
  do {
    uint64_t left = index >> half, right = index & mask;
    for (uint64_t round = 0; round < 4; round++) {
      uint64_t next = left ^ (sptx_random_bits(seed, SPTX_RANDOM_SHUFFLE, epoch, right << 2 | round) & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= count);
  return index;
}
