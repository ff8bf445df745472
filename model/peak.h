/* A device's rate of matrix products, the ceiling that a model's own rate is measured against. */
#ifndef SPTX_MODEL_PEAK_H
#define SPTX_MODEL_PEAK_H

#include "model/device.h"

/* Floating-point operations a second of a square product of the type, large enough to fill the device (at
 * most 8192); the best of three. Takes about 0.1 s. Fails as allocation and products do. */
enum sptx_code sptx_measure_peak(sptx_device *device, sptx_dtype type, double *flops_per_second,
                                 sptx_error *error);

#endif
