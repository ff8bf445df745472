/* Encoding tensor maps and keeping them; see cuda_maps.h. */
#include "runtime/cuda_maps.h"

#include <stdlib.h>
#include <string.h>

enum sptx_code sptx_cuda_maps_create(const sptx_gpu_plan *plan, sptx_cuda_maps *maps, sptx_error *error) {
  size_t count = 0, launches = (size_t)plan->launch_count;
  *maps = (sptx_cuda_maps){.first = malloc((launches + 1) * sizeof *maps->first)};
  for (size_t i = 0; maps->first && i < launches; i++) {
    maps->first[i] = (int)count;
    count += (size_t)plan->launches[i].map_count;
  }
  maps->addresses = calloc(count + 1, sizeof *maps->addresses);
  maps->maps = aligned_alloc(alignof(sptx_cuda_map), (count + 1) * sizeof *maps->maps);
  if (maps->first && maps->addresses && maps->maps && pthread_mutex_init(&maps->lock, NULL) == 0)
    return SPTX_CODE_OK;
  free(maps->first), free(maps->addresses), free(maps->maps);
  *maps = (sptx_cuda_maps){0};
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %zu tensor maps", count);
}

void sptx_cuda_maps_clear(sptx_cuda_maps *maps) {
  if (!maps->maps)
    return;
  pthread_mutex_destroy(&maps->lock);
  free(maps->first), free(maps->addresses), free(maps->maps);
  *maps = (sptx_cuda_maps){0};
}

static unsigned data_type(enum sptx_element element) {
  if (element == SPTX_ELEMENT_F16)
    return SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return element == SPTX_ELEMENT_BF16 ? SPTX_CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                      : SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

static enum sptx_code encode(const sptx_cuda_device *device, const sptx_gpu_map *map, uint64_t address,
                             sptx_cuda_map *encoded, sptx_error *error) {
  static const uint32_t ones[SPTX_GPU_MAP_RANK] = {1, 1, 1, 1, 1};
  unsigned swizzle = map->swizzle_bytes == 128 ? 3 : map->swizzle_bytes == 64 ? 2 : map->swizzle_bytes == 32;
  uint64_t origin = address + (uint64_t)map->byte_offset;
  return SPTX_CU_CALL(device, TensorMapEncodeTiled, (struct CUtensorMap_st *)(void *)encoded,
                      data_type(map->element), (unsigned)map->rank, (void *)(uintptr_t)origin, map->size,
                      map->stride + 1, map->box, ones, 0, swizzle, SPTX_CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                      0);
}

enum sptx_code sptx_cuda_maps_take(sptx_cuda_maps *maps, const sptx_cuda_device *device,
                                   const sptx_gpu_plan *plan, int launch, const uint64_t *addresses,
                                   sptx_cuda_map *encoded, sptx_error *error) {
  const sptx_gpu_launch *launched = &plan->launches[launch];
  sptx_cuda_map *kept = maps->maps + maps->first[launch];
  uint64_t *known = maps->addresses + maps->first[launch];
  enum sptx_code code = SPTX_CODE_OK;
  pthread_mutex_lock(&maps->lock);
  for (int i = 0; i < launched->map_count && code == SPTX_CODE_OK; i++) {
    if (known[i] == addresses[i])
      continue;
    known[i] = 0;
    code = encode(device, &launched->maps[i], addresses[i], &kept[i], error);
    if (code == SPTX_CODE_OK)
      known[i] = addresses[i];
  }
  if (code == SPTX_CODE_OK)
    memcpy(encoded, kept, (size_t)launched->map_count * sizeof *kept);
  pthread_mutex_unlock(&maps->lock);
  return code;
}
