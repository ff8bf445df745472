/* CUDA devices: context, assembly by the driver, memory and streams; see cuda_device.h. */
#include "runtime/cuda_device.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LOG_BYTES 8192

enum sptx_code sptx_cuda_enter(const sptx_cuda_device *device, sptx_error *error) {
  SPTX_TRY(SPTX_CU_CALL(device, CtxPushCurrent, device->context));
  return SPTX_CODE_OK;
}

void sptx_cuda_leave(const sptx_cuda_device *device) {
  sptx_cu_context previous;
  device->driver->CtxPopCurrent(&previous);
}

static enum sptx_code read_properties(sptx_cuda_device *device, sptx_error *error) {
  SPTX_TRY(SPTX_CU_CALL(device, DeviceGetName, device->name, (int)sizeof device->name, device->handle));
  SPTX_TRY(SPTX_CU_CALL(device, DriverGetVersion, &device->driver_version));
  const struct {
    unsigned attribute;
    int *value;
  } wanted[] = {
      {SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &device->major},
      {SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &device->minor},
      {SPTX_CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &device->multiprocessors},
      {SPTX_CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &device->shared_limit},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
    SPTX_TRY(SPTX_CU_CALL(device, DeviceGetAttribute, wanted[i].value, wanted[i].attribute, device->handle));
  if (device->major < 8)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "%s has compute capability %d.%d: sptx needs 8.0 or later; use the device \"cpu\"",
                     device->name, device->major, device->minor);
  return SPTX_CODE_OK;
}

/* The layout of CUmemPoolProps: pinned memory on one device, no export, no limit. */
struct pool_properties {
  int type, handles, location_type, location_id;
  void *security;
  size_t max_size;
  unsigned char rest[56];
};

/* A pool of our own that keeps freed scratch, so that a call costs no system allocation. */
static enum sptx_code create_pool(sptx_cuda_device *device, sptx_error *error) {
  struct pool_properties properties = {.type = 1, .location_type = 1, .location_id = device->handle};
  uint64_t keep = UINT64_MAX;
  SPTX_TRY(SPTX_CU_CALL(device, MemPoolCreate, &device->pool,
                        (const struct CUmemPoolProps_st *)(void *)&properties));
  enum sptx_code code =
      SPTX_CU_CALL(device, MemPoolSetAttribute, device->pool, SPTX_CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep);
  if (code != SPTX_CODE_OK)
    device->driver->MemPoolDestroy(device->pool);
  return code;
}

enum sptx_code sptx_cuda_device_open(const sptx_cuda_driver *driver, int ordinal, sptx_cuda_device *device,
                                     sptx_error *error) {
  memset(device, 0, sizeof *device);
  device->driver = driver;
  device->ordinal = ordinal;
  int count = 0;
  SPTX_TRY(SPTX_CU_CALL(device, DeviceGetCount, &count));
  if (ordinal < 0 || ordinal >= count)
    return sptx_fail(error, SPTX_CODE_NO_DEVICE, "no device cuda:%d: this machine has %d CUDA device%s",
                     ordinal, count, count == 1 ? "" : "s");
  SPTX_TRY(SPTX_CU_CALL(device, DeviceGet, &device->handle, ordinal));
  SPTX_TRY(read_properties(device, error));
  SPTX_TRY(SPTX_CU_CALL(device, DevicePrimaryCtxRetain, &device->context, device->handle));
  enum sptx_code code = sptx_cuda_enter(device, error);
  if (code == SPTX_CODE_OK) {
    code = create_pool(device, error);
    sptx_cuda_leave(device);
  }
  if (code != SPTX_CODE_OK)
    driver->DevicePrimaryCtxRelease(device->handle);
  return code;
}

void sptx_cuda_device_close(sptx_cuda_device *device) {
  sptx_error ignored;
  if (sptx_cuda_enter(device, &ignored) == SPTX_CODE_OK) {
    device->driver->MemPoolDestroy(device->pool);
    sptx_cuda_leave(device);
  }
  device->driver->DevicePrimaryCtxRelease(device->handle);
}

enum sptx_ptx_target sptx_cuda_device_target(const sptx_cuda_device *device) {
  return device->major == 9 && device->minor == 0 ? SPTX_PTX_SM90A : SPTX_PTX_SM80;
}

enum sptx_code sptx_cuda_module_load(const sptx_cuda_device *device, const char *ptx, sptx_cu_module *module,
                                     sptx_error *error) {
  unsigned options[] = {SPTX_CU_JIT_ERROR_LOG_BUFFER, SPTX_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  char log[LOG_BYTES] = "";
  void *values[] = {log, (void *)(uintptr_t)LOG_BYTES};
  sptx_error inner = {0};
  enum sptx_code code =
      sptx_cuda_check(device->driver, device->driver->ModuleLoadDataEx(module, ptx, 2, options, values),
                      "cuModuleLoadDataEx", &inner);
  log[LOG_BYTES - 1] = '\0';
  bool rejected = code == SPTX_CODE_DEVICE || code == SPTX_CODE_UNSUPPORTED;
  if (rejected && log[0])
    return sptx_fail(error, code == SPTX_CODE_DEVICE ? SPTX_CODE_COMPILE : code,
                     "the driver (CUDA %d.%d) rejects the kernel: %.200s: %.700s",
                     device->driver_version / 1000, device->driver_version % 1000 / 10, inner.message, log);
  if (code != SPTX_CODE_OK && error)
    *error = inner;
  return code;
}

enum sptx_code sptx_cuda_stream_create(const sptx_cuda_device *device, sptx_cu_stream *stream,
                                       sptx_error *error) {
  *stream = NULL;
  SPTX_TRY(sptx_cuda_enter(device, error));
  enum sptx_code code = SPTX_CU_CALL(device, StreamCreate, stream, 0);
  sptx_cuda_leave(device);
  return code;
}

void sptx_cuda_stream_destroy(const sptx_cuda_device *device, sptx_cu_stream stream) {
  sptx_error ignored;
  if (stream && sptx_cuda_enter(device, &ignored) == SPTX_CODE_OK) {
    device->driver->StreamDestroy(stream);
    sptx_cuda_leave(device);
  }
}

enum sptx_code sptx_cuda_stream_synchronize(const sptx_cuda_device *device, sptx_cu_stream stream,
                                            sptx_error *error) {
  SPTX_TRY(sptx_cuda_enter(device, error));
  enum sptx_code code = SPTX_CU_CALL(device, StreamSynchronize, stream);
  sptx_cuda_leave(device);
  return code;
}

enum sptx_code sptx_cuda_alloc(const sptx_cuda_device *device, size_t bytes, sptx_cu_pointer *pointer,
                               sptx_error *error) {
  SPTX_TRY(sptx_cuda_enter(device, error));
  enum sptx_code code = SPTX_CU_CALL(device, MemAlloc, pointer, bytes ? bytes : 1);
  sptx_cuda_leave(device);
  return code;
}

void sptx_cuda_free(const sptx_cuda_device *device, sptx_cu_pointer pointer) {
  sptx_error ignored;
  if (pointer && sptx_cuda_enter(device, &ignored) == SPTX_CODE_OK) {
    device->driver->MemFree(pointer);
    sptx_cuda_leave(device);
  }
}

enum sptx_code sptx_cuda_upload(const sptx_cuda_device *device, sptx_cu_pointer to, const void *from,
                                size_t bytes, sptx_error *error) {
  SPTX_TRY(sptx_cuda_enter(device, error));
  enum sptx_code code = SPTX_CU_CALL(device, MemcpyHtoD, to, from, bytes);
  sptx_cuda_leave(device);
  return code;
}

enum sptx_code sptx_cuda_download(const sptx_cuda_device *device, void *to, sptx_cu_pointer from,
                                  size_t bytes, sptx_error *error) {
  SPTX_TRY(sptx_cuda_enter(device, error));
  enum sptx_code code = SPTX_CU_CALL(device, MemcpyDtoH, to, from, bytes);
  sptx_cuda_leave(device);
  return code;
}
