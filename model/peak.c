/* Times square matrix products, doubled in size until one is long enough to time; the best rate counts. */
#include "model/peak.h"

#include "runtime/clock.h"

static const double LONG_ENOUGH = 0.02;
enum { SMALLEST = 512, LARGEST = 8192, RUNS = 3 };

static enum sptx_code time_product(sptx_device *device, sptx_dtype type, int64_t size, void *memory,
                                   double *seconds, sptx_error *error) {
  sptx_matrix a = {memory, size, type, false}, b = a, c = a;
  b.transposed = true; /* as a layer's forward pass reads its weights */
  c.data = (char *)memory + (size_t)(size * size) * sptx_dtype_size(type);
  SPTX_TRY(device->ops->synchronize(device, error));
  double start = sptx_now();
  SPTX_TRY(device->ops->multiply(device, size, size, size, a, b, c, false, error));
  SPTX_TRY(device->ops->synchronize(device, error));
  *seconds = sptx_now() - start;
  return SPTX_CODE_OK;
}

static enum sptx_code measure_size(sptx_device *device, sptx_dtype type, int64_t size, double *best,
                                   sptx_error *error) {
  void *memory; /* zeros: no product of them is faster or slower */
  SPTX_TRY(device->ops->allocate(device, 2 * (size_t)(size * size) * sptx_dtype_size(type), &memory, error));
  enum sptx_code code = SPTX_CODE_OK;
  *best = 1e9;
  for (int run = 0; run < RUNS && code == SPTX_CODE_OK; run++) {
    double seconds;
    code = time_product(device, type, size, memory, &seconds, error);
    if (code == SPTX_CODE_OK && seconds < *best)
      *best = seconds;
  }
  device->ops->release(device, memory);
  return code;
}

enum sptx_code sptx_measure_peak(sptx_device *device, sptx_dtype type, double *flops_per_second,
                                 sptx_error *error) {
  double seconds = 0;
  *flops_per_second = 0;
  for (int64_t size = SMALLEST; seconds < LONG_ENOUGH && size <= LARGEST; size *= 2) {
    SPTX_TRY(measure_size(device, type, size, &seconds, error));
    double rate = 2 * (double)size * (double)size * (double)size / seconds;
    if (rate > *flops_per_second)
      *flops_per_second = rate;
  }
  return SPTX_CODE_OK;
}
