/* The device kind "cuda" with a driver table of the caller's choice. */
#ifndef SPTX_RUNTIME_CUDA_KIND_H
#define SPTX_RUNTIME_CUDA_KIND_H

#include "runtime/cuda_device.h"
#include "runtime/device.h"

/* What sptx_cuda_kind.open does once it has found the driver; the table is copied, and closed with the
 * device. Tests hand in a driver of their own. */
enum sptx_code sptx_cuda_kind_open(const sptx_cuda_driver *driver, int ordinal, void **device,
                                   sptx_error *error);

/* The device behind a context of this kind: for tools that allocate its memory. */
const sptx_cuda_device *sptx_cuda_kind_device(const void *device);

#endif
