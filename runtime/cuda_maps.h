/* The tensor maps of a program's launches as the driver encodes them. An encoded map stays until its tensor
 * moves: a training loop calls with the same pointers again and again, and encoding is a fifth of a call's
 * host time. */
#ifndef SPTX_RUNTIME_CUDA_MAPS_H
#define SPTX_RUNTIME_CUDA_MAPS_H

#include "runtime/cuda_device.h"

#include <pthread.h>
#include <stdalign.h>

/* The layout of CUtensorMap. */
typedef struct sptx_cuda_map {
  alignas(64) uint64_t words[16];
} sptx_cuda_map;

typedef struct sptx_cuda_maps {
  pthread_mutex_t lock; /* of what follows: programs run from many threads at once */
  sptx_cuda_map *maps;  /* of every launch, one after another */
  uint64_t *addresses;  /* what each is encoded for; 0: nothing yet */
  int *first;           /* of each launch */
} sptx_cuda_maps;

enum sptx_code sptx_cuda_maps_create(const sptx_gpu_plan *plan, sptx_cuda_maps *maps, sptx_error *error);
/* A zeroed one is allowed. */
void sptx_cuda_maps_clear(sptx_cuda_maps *maps);

/* Copies the launch's maps for tensors at these addresses (one for each map) to encoded. */
enum sptx_code sptx_cuda_maps_take(sptx_cuda_maps *maps, const sptx_cuda_device *device,
                                   const sptx_gpu_plan *plan, int launch, const uint64_t *addresses,
                                   sptx_cuda_map *encoded, sptx_error *error);

#endif
