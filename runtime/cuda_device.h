/* One CUDA device through the driver table: its context, assembled plans ("programs"), and launching them on
 * the caller's stream. Uses the device's primary context, which PyTorch and the CUDA runtime share.
 * All functions may be called from many threads; none changes the caller's current context. */
#ifndef SPTX_RUNTIME_CUDA_DEVICE_H
#define SPTX_RUNTIME_CUDA_DEVICE_H

#include "gen/ptx/plan.h"
#include "runtime/cuda_driver.h"

typedef struct sptx_cuda_device {
  const sptx_cuda_driver *driver; /* borrowed */
  sptx_cu_device handle;
  sptx_cu_context context;
  sptx_cu_pool pool; /* scratch memory, reused between calls in stream order */
  int ordinal, major, minor, driver_version, multiprocessors, shared_limit;
  char name[96];
} sptx_cuda_device;

/* Fails: SPTX_CODE_NO_DEVICE (no such ordinal), SPTX_CODE_UNSUPPORTED (compute capability below 8.0),
 * SPTX_CODE_DEVICE. The driver table must stay until close. */
enum sptx_code sptx_cuda_device_open(const sptx_cuda_driver *driver, int ordinal, sptx_cuda_device *device,
                                     sptx_error *error);
void sptx_cuda_device_close(sptx_cuda_device *device);
enum sptx_ptx_target sptx_cuda_device_target(const sptx_cuda_device *device); /* the best it can run */

/* PTX -> machine code for this device; *cubin is freed with free(). An error carries the driver's log. */
enum sptx_code sptx_cuda_assemble(const sptx_cuda_device *device, const char *ptx, void **cubin,
                                  size_t *cubin_bytes, sptx_error *error);

/* A plan's kernels and constants on the device. The plan is borrowed. */
typedef struct sptx_cuda_program {
  const sptx_gpu_plan *plan;
  sptx_cu_module module;
  sptx_cu_function *functions; /* one for each kernel of the plan */
  sptx_cu_pointer constants;
  size_t lse_bytes; /* lent where the caller gives none */
} sptx_cuda_program;

enum sptx_code sptx_cuda_program_load(const sptx_cuda_device *device, const sptx_gpu_plan *plan,
                                      const void *cubin, size_t lse_bytes, sptx_cuda_program *program,
                                      sptx_error *error);
void sptx_cuda_program_unload(const sptx_cuda_device *device, sptx_cuda_program *program);

/* Enqueues the launches on stream. args holds the call's device pointers (0 where unused), scale, cap and
 * position; workspace and constants are filled in here. Fails with SPTX_CODE_INVALID_ARGUMENT for a host
 * pointer or one that is not a multiple of 16 bytes. Can be captured in a graph. */
enum sptx_code sptx_cuda_program_run(const sptx_cuda_device *device, const sptx_cuda_program *program,
                                     const sptx_gpu_args *args, sptx_cu_stream stream, sptx_error *error);

/* Streams for tests and tools. synchronize waits for what is enqueued, and reports its failures. */
enum sptx_code sptx_cuda_stream_create(const sptx_cuda_device *device, sptx_cu_stream *stream,
                                       sptx_error *error);
void sptx_cuda_stream_destroy(const sptx_cuda_device *device, sptx_cu_stream stream); /* NULL is allowed */
enum sptx_code sptx_cuda_stream_synchronize(const sptx_cuda_device *device, sptx_cu_stream stream,
                                            sptx_error *error);

/* Device memory for tests, tools and tables. */
enum sptx_code sptx_cuda_alloc(const sptx_cuda_device *device, size_t bytes, sptx_cu_pointer *pointer,
                               sptx_error *error);
void sptx_cuda_free(const sptx_cuda_device *device, sptx_cu_pointer pointer); /* 0 is allowed */
enum sptx_code sptx_cuda_upload(const sptx_cuda_device *device, sptx_cu_pointer to, const void *from,
                                size_t bytes, sptx_error *error);
enum sptx_code sptx_cuda_download(const sptx_cuda_device *device, void *to, sptx_cu_pointer from,
                                  size_t bytes, sptx_error *error);

#endif
