/* What a GPU can do at most, measured by kernels of its own: the scale of the GPU cost model. */
#ifndef SPTX_TUNER_CEILING_CUDA_H
#define SPTX_TUNER_CEILING_CUDA_H

#include "gen/rates.h"
#include "runtime/cuda_device.h"
#include <stdio.h>

/* Measures in well under a second: bfloat16 matrix products on float32 sums (wgmma on Hopper, mma.sync
 * elsewhere), a copy of 128 MiB, ex2, and empty launches. Fails with SPTX_CODE_DEVICE,
 * SPTX_CODE_DEVICE_MEMORY, SPTX_CODE_COMPILE or SPTX_CODE_UNSUPPORTED, or SPTX_CODE_OUT_OF_MEMORY. */
enum sptx_code sptx_ceiling_cuda(const sptx_cuda_device *device, sptx_rates *rates, sptx_error *error);

/* The kernels that it runs, as PTX; for a test, which has them assembled. */
void sptx_ceiling_ptx(enum sptx_ptx_target target, FILE *stream);

#endif
