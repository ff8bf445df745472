/* CUDA devices: context, assembly by the driver, loading and launching; see cuda_device.h. */
#include "runtime/cuda_device.h"
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#define LOG_BYTES 8192

/* Calls a driver function and forwards its failure, or jumps with `code` set. */
#define CU_TRY(device, function, ...)                                                                        \
  SPTX_TRY(sptx_cuda_check((device)->driver, (device)->driver->function(__VA_ARGS__), "cu" #function, error))
#define CU_TRY_GOTO(device, label, function, ...)                                                            \
  SPTX_TRY_GOTO(                                                                                             \
      sptx_cuda_check((device)->driver, (device)->driver->function(__VA_ARGS__), "cu" #function, error),     \
      label)

static enum sptx_code enter(const sptx_cuda_device *device, sptx_error *error) {
  CU_TRY(device, CtxPushCurrent, device->context);
  return SPTX_CODE_OK;
}

static void leave(const sptx_cuda_device *device) {
  sptx_cu_context previous;
  device->driver->CtxPopCurrent(&previous);
}

static enum sptx_code read_properties(sptx_cuda_device *device, sptx_error *error) {
  CU_TRY(device, DeviceGetName, device->name, (int)sizeof device->name, device->handle);
  CU_TRY(device, DriverGetVersion, &device->driver_version);
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
    CU_TRY(device, DeviceGetAttribute, wanted[i].value, wanted[i].attribute, device->handle);
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
  CU_TRY(device, MemPoolCreate, &device->pool, (const struct CUmemPoolProps_st *)(void *)&properties);
  enum sptx_code code = sptx_cuda_check(
      device->driver,
      device->driver->MemPoolSetAttribute(device->pool, SPTX_CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep),
      "cuMemPoolSetAttribute", error);
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
  CU_TRY(device, DeviceGetCount, &count);
  if (ordinal < 0 || ordinal >= count)
    return sptx_fail(error, SPTX_CODE_NO_DEVICE, "no device cuda:%d: this machine has %d CUDA device%s",
                     ordinal, count, count == 1 ? "" : "s");
  CU_TRY(device, DeviceGet, &device->handle, ordinal);
  SPTX_TRY(read_properties(device, error));
  CU_TRY(device, DevicePrimaryCtxRetain, &device->context, device->handle);
  enum sptx_code code = enter(device, error);
  if (code == SPTX_CODE_OK) {
    code = create_pool(device, error);
    leave(device);
  }
  if (code != SPTX_CODE_OK)
    driver->DevicePrimaryCtxRelease(device->handle);
  return code;
}

void sptx_cuda_device_close(sptx_cuda_device *device) {
  sptx_error ignored;
  if (enter(device, &ignored) == SPTX_CODE_OK) {
    device->driver->MemPoolDestroy(device->pool);
    leave(device);
  }
  device->driver->DevicePrimaryCtxRelease(device->handle);
}

enum sptx_ptx_target sptx_cuda_device_target(const sptx_cuda_device *device) {
  return device->major == 9 && device->minor == 0 ? SPTX_PTX_SM90A : SPTX_PTX_SM80;
}

static enum sptx_code link_ptx(const sptx_cuda_device *device, const char *ptx, char *log, void **cubin,
                               size_t *cubin_bytes, sptx_error *error) {
  unsigned options[] = {SPTX_CU_JIT_ERROR_LOG_BUFFER, SPTX_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {log, (void *)(uintptr_t)LOG_BYTES};
  sptx_cu_link link = NULL;
  void *image = NULL;
  size_t bytes = 0;
  enum sptx_code code;
  CU_TRY(device, LinkCreate, 2, options, values, &link);
  CU_TRY_GOTO(device, done, LinkAddData, link, SPTX_CU_JIT_INPUT_PTX, (void *)(uintptr_t)ptx, strlen(ptx) + 1,
              "sptx", 0, NULL, NULL);
  CU_TRY_GOTO(device, done, LinkComplete, link, &image, &bytes);
  *cubin = malloc(bytes);
  if (*cubin) {
    memcpy(*cubin, image, bytes);
    *cubin_bytes = bytes;
  } else {
    code = sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a kernel of %zu bytes", bytes);
  }
done:
  device->driver->LinkDestroy(link);
  return code;
}

enum sptx_code sptx_cuda_assemble(const sptx_cuda_device *device, const char *ptx, void **cubin,
                                  size_t *cubin_bytes, sptx_error *error) {
  *cubin = NULL;
  char *log = calloc(1, LOG_BYTES);
  if (!log)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the driver's log");
  enum sptx_code code = enter(device, error);
  if (code == SPTX_CODE_OK) {
    sptx_error inner = {0};
    code = link_ptx(device, ptx, log, cubin, cubin_bytes, &inner);
    leave(device);
    log[LOG_BYTES - 1] = '\0';
    if (code == SPTX_CODE_DEVICE && log[0])
      code = sptx_fail(error, SPTX_CODE_COMPILE, "the driver (CUDA %d.%d) rejects the kernel: %.200s: %.700s",
                       device->driver_version / 1000, device->driver_version % 1000 / 10, inner.message, log);
    else if (code != SPTX_CODE_OK && error)
      *error = inner;
  }
  free(log);
  return code;
}

static enum sptx_code upload_constants(const sptx_cuda_device *device, sptx_cuda_program *program,
                                       sptx_error *error) {
  const sptx_gpu_plan *plan = program->plan;
  if (plan->constants_bytes == 0)
    return SPTX_CODE_OK;
  CU_TRY(device, MemAlloc, &program->constants, plan->constants_bytes);
  CU_TRY(device, MemcpyHtoD, program->constants, plan->constants, plan->constants_bytes);
  return SPTX_CODE_OK;
}

static enum sptx_code load_functions(const sptx_cuda_device *device, sptx_cuda_program *program,
                                     const void *cubin, sptx_error *error) {
  const sptx_gpu_plan *plan = program->plan;
  program->functions = calloc((size_t)plan->kernel_count + 1, sizeof *program->functions);
  if (!program->functions)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for %d kernels", plan->kernel_count);
  CU_TRY(device, ModuleLoadDataEx, &program->module, cubin, 0, NULL, NULL);
  for (int i = 0; i < plan->kernel_count; i++)
    CU_TRY(device, ModuleGetFunction, &program->functions[i], program->module, plan->kernels[i].symbol);
  for (int i = 0; i < plan->launch_count; i++) {
    const sptx_gpu_launch *launch = &plan->launches[i];
    if (launch->shared_bytes > (uint32_t)device->shared_limit)
      return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                       "kernel %s needs %u bytes of shared memory, %s has %d: use a smaller tile",
                       plan->kernels[launch->kernel].symbol, launch->shared_bytes, device->name,
                       device->shared_limit);
    CU_TRY(device, FuncSetAttribute, program->functions[launch->kernel],
           SPTX_CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)launch->shared_bytes);
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_cuda_program_load(const sptx_cuda_device *device, const sptx_gpu_plan *plan,
                                      const void *cubin, size_t lse_bytes, sptx_cuda_program *program,
                                      sptx_error *error) {
  memset(program, 0, sizeof *program);
  program->plan = plan;
  program->lse_bytes = lse_bytes;
  SPTX_TRY(enter(device, error));
  enum sptx_code code = load_functions(device, program, cubin, error);
  if (code == SPTX_CODE_OK)
    code = upload_constants(device, program, error);
  leave(device);
  if (code != SPTX_CODE_OK)
    sptx_cuda_program_unload(device, program);
  return code;
}

void sptx_cuda_program_unload(const sptx_cuda_device *device, sptx_cuda_program *program) {
  sptx_error ignored;
  if (enter(device, &ignored) == SPTX_CODE_OK) {
    if (program->constants)
      device->driver->MemFree(program->constants);
    if (program->module)
      device->driver->ModuleUnload(program->module);
    leave(device);
  }
  free(program->functions);
  memset(program, 0, sizeof *program);
}

static const struct {
  const char *name;
  size_t offset;
} tensors[] = {
    [SPTX_GPU_Q] = {"q", offsetof(sptx_gpu_args, q)},
    [SPTX_GPU_K] = {"k", offsetof(sptx_gpu_args, k)},
    [SPTX_GPU_V] = {"v", offsetof(sptx_gpu_args, v)},
    [SPTX_GPU_O] = {"o", offsetof(sptx_gpu_args, o)},
    [SPTX_GPU_LSE] = {"lse", offsetof(sptx_gpu_args, lse)},
    [SPTX_GPU_D_O] = {"d_o", offsetof(sptx_gpu_args, d_o)},
    [SPTX_GPU_D_Q] = {"d_q", offsetof(sptx_gpu_args, d_q)},
    [SPTX_GPU_D_K] = {"d_k", offsetof(sptx_gpu_args, d_k)},
    [SPTX_GPU_D_V] = {"d_v", offsetof(sptx_gpu_args, d_v)},
    [SPTX_GPU_WORKSPACE] = {"workspace", offsetof(sptx_gpu_args, workspace)},
};

static uint64_t tensor_address(const sptx_gpu_args *args, enum sptx_gpu_tensor tensor) {
  uint64_t address;
  memcpy(&address, (const char *)args + tensors[tensor].offset, sizeof address);
  return address;
}

static enum sptx_code check_pointers(const sptx_cuda_device *device, const sptx_gpu_args *args,
                                     sptx_error *error) {
  for (int i = SPTX_GPU_Q; i <= SPTX_GPU_D_V; i++) {
    uint64_t address = tensor_address(args, (enum sptx_gpu_tensor)i);
    if (address == 0)
      continue;
    unsigned type = 0;
    if (address % (i == SPTX_GPU_LSE ? 4 : 16) != 0)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s is not aligned to %d bytes", tensors[i].name,
                       i == SPTX_GPU_LSE ? 4 : 16);
    if (device->driver->PointerGetAttribute(&type, SPTX_CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) != 0 ||
        type != SPTX_CU_MEMORYTYPE_DEVICE)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s is not device memory: copy it to cuda:%d first",
                       tensors[i].name, device->ordinal);
  }
  return SPTX_CODE_OK;
}

typedef struct tensor_map {
  alignas(64) uint64_t words[16];
} tensor_map;

static unsigned map_data_type(enum sptx_element element) {
  if (element == SPTX_ELEMENT_F16)
    return SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return element == SPTX_ELEMENT_BF16 ? SPTX_CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                      : SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

static enum sptx_code encode_map(const sptx_cuda_device *device, const sptx_gpu_map *map,
                                 const sptx_gpu_args *args, tensor_map *encoded, sptx_error *error) {
  static const uint32_t ones[SPTX_GPU_MAP_RANK] = {1, 1, 1, 1, 1};
  unsigned swizzle = map->swizzle_bytes == 128 ? 3 : map->swizzle_bytes == 64 ? 2 : map->swizzle_bytes == 32;
  uint64_t address = tensor_address(args, map->tensor) + (uint64_t)map->byte_offset;
  CU_TRY(device, TensorMapEncodeTiled, (struct CUtensorMap_st *)(void *)encoded, map_data_type(map->element),
         (unsigned)map->rank, (void *)(uintptr_t)address, map->size, map->stride + 1, map->box, ones, 0,
         swizzle, SPTX_CU_TENSOR_MAP_L2_PROMOTION_L2_256B, 0);
  return SPTX_CODE_OK;
}

static enum sptx_code run_launch(const sptx_cuda_device *device, const sptx_cuda_program *program,
                                 const sptx_gpu_launch *launch, sptx_gpu_args *args, sptx_cu_stream stream,
                                 sptx_error *error) {
  tensor_map maps[SPTX_GPU_MAX_MAPS];
  void *parameters[SPTX_GPU_MAX_MAPS + 2] = {args, launch->params};
  for (int i = 0; i < launch->map_count; i++) {
    SPTX_TRY(encode_map(device, &launch->maps[i], args, &maps[i], error));
    parameters[i + 2] = &maps[i];
  }
  if (launch->clear_bytes > 0)
    CU_TRY(device, MemsetD32Async, args->workspace + launch->clear_offset, 0, launch->clear_bytes / 4,
           stream);
  CU_TRY(device, LaunchKernel, program->functions[launch->kernel], launch->grid[0], launch->grid[1],
         launch->grid[2], launch->block, 1, 1, launch->shared_bytes, stream, parameters, NULL);
  return SPTX_CODE_OK;
}

static enum sptx_code run_all(const sptx_cuda_device *device, const sptx_cuda_program *program,
                              sptx_gpu_args *args, sptx_cu_stream stream, sptx_error *error) {
  const sptx_gpu_plan *plan = program->plan;
  size_t lent = args->lse ? 0 : program->lse_bytes, scratch = plan->workspace_bytes + lent;
  if (scratch > 0) {
    sptx_cu_pointer pointer = 0;
    CU_TRY(device, MemAllocFromPoolAsync, &pointer, scratch, device->pool, stream);
    args->workspace = pointer;
    if (lent > 0)
      args->lse = pointer + plan->workspace_bytes;
  }
  enum sptx_code code = SPTX_CODE_OK;
  for (int i = 0; i < plan->launch_count && code == SPTX_CODE_OK; i++)
    code = run_launch(device, program, &plan->launches[i], args, stream, error);
  if (scratch > 0) {
    sptx_cu_result freed = device->driver->MemFreeAsync(args->workspace, stream);
    if (code == SPTX_CODE_OK)
      code = sptx_cuda_check(device->driver, freed, "cuMemFreeAsync", error);
  }
  return code;
}

enum sptx_code sptx_cuda_program_run(const sptx_cuda_device *device, const sptx_cuda_program *program,
                                     const sptx_gpu_args *args, sptx_cu_stream stream, sptx_error *error) {
  sptx_gpu_args filled = *args;
  filled.constants = program->constants;
  SPTX_TRY(enter(device, error));
  enum sptx_code code = check_pointers(device, args, error);
  if (code == SPTX_CODE_OK)
    code = run_all(device, program, &filled, stream, error);
  leave(device);
  return code;
}

enum sptx_code sptx_cuda_stream_create(const sptx_cuda_device *device, sptx_cu_stream *stream,
                                       sptx_error *error) {
  *stream = NULL;
  SPTX_TRY(enter(device, error));
  enum sptx_code code =
      sptx_cuda_check(device->driver, device->driver->StreamCreate(stream, 0), "cuStreamCreate", error);
  leave(device);
  return code;
}

void sptx_cuda_stream_destroy(const sptx_cuda_device *device, sptx_cu_stream stream) {
  sptx_error ignored;
  if (stream && enter(device, &ignored) == SPTX_CODE_OK) {
    device->driver->StreamDestroy(stream);
    leave(device);
  }
}

enum sptx_code sptx_cuda_stream_synchronize(const sptx_cuda_device *device, sptx_cu_stream stream,
                                            sptx_error *error) {
  SPTX_TRY(enter(device, error));
  enum sptx_code code = sptx_cuda_check(device->driver, device->driver->StreamSynchronize(stream),
                                        "cuStreamSynchronize", error);
  leave(device);
  return code;
}

enum sptx_code sptx_cuda_alloc(const sptx_cuda_device *device, size_t bytes, sptx_cu_pointer *pointer,
                               sptx_error *error) {
  SPTX_TRY(enter(device, error));
  enum sptx_code code = sptx_cuda_check(device->driver, device->driver->MemAlloc(pointer, bytes ? bytes : 1),
                                        "cuMemAlloc", error);
  leave(device);
  return code;
}

void sptx_cuda_free(const sptx_cuda_device *device, sptx_cu_pointer pointer) {
  sptx_error ignored;
  if (pointer && enter(device, &ignored) == SPTX_CODE_OK) {
    device->driver->MemFree(pointer);
    leave(device);
  }
}

enum sptx_code sptx_cuda_upload(const sptx_cuda_device *device, sptx_cu_pointer to, const void *from,
                                size_t bytes, sptx_error *error) {
  SPTX_TRY(enter(device, error));
  enum sptx_code code =
      sptx_cuda_check(device->driver, device->driver->MemcpyHtoD(to, from, bytes), "cuMemcpyHtoD", error);
  leave(device);
  return code;
}

enum sptx_code sptx_cuda_download(const sptx_cuda_device *device, void *to, sptx_cu_pointer from,
                                  size_t bytes, sptx_error *error) {
  SPTX_TRY(enter(device, error));
  enum sptx_code code =
      sptx_cuda_check(device->driver, device->driver->MemcpyDtoH(to, from, bytes), "cuMemcpyDtoH", error);
  leave(device);
  return code;
}
