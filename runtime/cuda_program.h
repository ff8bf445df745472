/* A GPU plan made ready on a device: its kernels loaded, its tables uploaded; and launching it on the
 * caller's stream. Once loaded, programs run from many threads at once. */
#ifndef SPTX_RUNTIME_CUDA_PROGRAM_H
#define SPTX_RUNTIME_CUDA_PROGRAM_H

#include "runtime/cuda_maps.h"

typedef struct sptx_cuda_program {
  const sptx_cuda_device *device;
  const sptx_gpu_plan *plan;
  sptx_cu_module *modules; /* for each kernel of the plan, NULL until it is loaded */
  sptx_cu_function *functions;
  sptx_cu_pointer constants;
  sptx_cuda_maps maps;
  size_t lse_bytes; /* lent where the caller gives none */
} sptx_cuda_program;

/* Makes room for the plan's kernels and uploads its constants. The plan and the device are borrowed. */
enum sptx_code sptx_cuda_program_create(const sptx_cuda_device *device, const sptx_gpu_plan *plan,
                                        size_t lse_bytes, sptx_cuda_program *program, sptx_error *error);
/* Loads one kernel of the plan from its machine code; all must be loaded before the program runs. */
enum sptx_code sptx_cuda_program_load(sptx_cuda_program *program, int kernel, const char *ptx,
                                      sptx_error *error);
/* A zeroed program is allowed. */
void sptx_cuda_program_clear(sptx_cuda_program *program);

/* Enqueues the launches on stream. args holds the call's device pointers (0 where unused), scale, cap and
 * position; workspace and constants are filled in here. Fails with SPTX_CODE_INVALID_ARGUMENT for a host
 * pointer, one of another device, or one that is not a multiple of 16 bytes. Can be captured in a graph. */
enum sptx_code sptx_cuda_program_run(sptx_cuda_program *program, const sptx_gpu_args *args,
                                     sptx_cu_stream stream, sptx_error *error);

#endif
