/* Polyphase windowed sinc; see resample.h. */
#include "model/resample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Zero crossings of the sinc on each side, and the Kaiser window's shape: about 80 dB below the signal, which
 * 8-bit tokens (38 dB) do not see. */
enum { ZERO_CROSSINGS = 24 };
static const double KAISER = 8.0, PASSED = 0.94; /* share of the band below half the lower rate */

static int64_t greatest_divisor(int64_t a, int64_t b) {
  return b ? greatest_divisor(b, a % b) : a;
}

/* The modified Bessel function of order 0, by its power series. */
static double bessel(double x) {
  double sum = 1, term = 1;
  for (int k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) * (x / (2 * k));
    sum += term;
  }
  return sum;
}

/* The weight of an input sample at distance x, in input samples. */
static double weight(double x, double cutoff, double reach) {
  double share = x / reach, angle = M_PI * cutoff * x;
  if (share * share >= 1)
    return 0;
  return cutoff * (angle == 0 ? 1 : sin(angle) / angle) * bessel(KAISER * sqrt(1 - share * share)) /
         bessel(KAISER);
}

enum sptx_code sptx_resampler_create(int64_t from_rate, int64_t to_rate, struct sptx_resampler *resampler,
                                     sptx_error *error) {
  int64_t divisor = greatest_divisor(from_rate, to_rate);
  struct sptx_resampler r = {.up = to_rate / divisor, .down = from_rate / divisor};
  double cutoff = PASSED * (r.up < r.down ? (double)r.up / (double)r.down : 1);
  r.reach = (int64_t)ceil(ZERO_CROSSINGS / cutoff);
  r.taps = malloc((size_t)(r.up * 2 * r.reach) * sizeof *r.taps);
  if (!r.taps)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory to change %ld Hz into %ld Hz",
                     (long)from_rate, (long)to_rate);
  for (int64_t phase = 0; phase < r.up; phase++)
    for (int64_t k = 0; k < 2 * r.reach; k++)
      r.taps[phase * 2 * r.reach + k] =
          (float)weight((double)(k - r.reach + 1) - (double)phase / (double)r.up, cutoff, (double)r.reach);
  *resampler = r;
  return SPTX_CODE_OK;
}

void sptx_resampler_clear(struct sptx_resampler *resampler) {
  free(resampler->taps);
  *resampler = (struct sptx_resampler){0};
}

int64_t sptx_resampler_length(const struct sptx_resampler *r, int64_t frames) {
  return (frames / r->down) * r->up + (frames % r->down * r->up + r->down - 1) / r->down;
}

/* The input sample at or before output sample n; what is left over, in 1 / up. */
static int64_t input_of(const struct sptx_resampler *r, int64_t n, int64_t *phase) {
  *phase = n % r->up * r->down % r->up;
  return n / r->up * r->down + n % r->up * r->down / r->up;
}

void sptx_resampler_needs(const struct sptx_resampler *r, int64_t first, int64_t count, int64_t *begin,
                          int64_t *end) {
  int64_t phase;
  *begin = input_of(r, first, &phase) - r->reach + 1;
  *end = input_of(r, first + count - 1, &phase) + r->reach + 1;
}

void sptx_resampler_run(const struct sptx_resampler *r, int64_t first, int64_t count, const float *in,
                        float *out) {
  int64_t begin, end, phase;
  sptx_resampler_needs(r, first, count, &begin, &end);
  for (int64_t n = 0; n < count; n++) {
    const float *from = in + (input_of(r, first + n, &phase) - r->reach + 1 - begin);
    const float *taps = r->taps + phase * 2 * r->reach;
    float sum = 0;
    for (int64_t k = 0; k < 2 * r->reach; k++)
      sum += taps[k] * from[k];
    out[n] = sum;
  }
}
