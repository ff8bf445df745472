/* One CUDA device through the driver table: its context, assembling PTX, memory and streams. Uses the
 * device's primary context, which PyTorch and the CUDA runtime share. All functions may be called from many
 * threads; none but enter and leave changes the caller's current context. */
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

/* Makes the device's context the calling thread's current one, as driver functions need it, and back. */
enum sptx_code sptx_cuda_enter(const sptx_cuda_device *device, sptx_error *error);
void sptx_cuda_leave(const sptx_cuda_device *device);

/* Calls a driver function by its name in the table, and turns its result into an error value. */
#define SPTX_CU_CALL(device, function, ...)                                                                  \
  sptx_cuda_check((device)->driver, (device)->driver->function(__VA_ARGS__), "cu" #function, error)

/* Assembles and loads PTX, with the device's context current. The driver keeps machine code in a cache of its
 * own. Its linker, which would hand the code out for ours, assembles for linking with other code, and then
 * ignores setmaxnreg: Hopper kernels spill and take up to four times as long. Fails: SPTX_CODE_COMPILE (with
 * the driver's log), SPTX_CODE_UNSUPPORTED (the driver is too old for it), SPTX_CODE_DEVICE. */
enum sptx_code sptx_cuda_module_load(const sptx_cuda_device *device, const char *ptx, sptx_cu_module *module,
                                     sptx_error *error);

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
