/* A GPU: matrix products by cuBLASLt, kernels from the same source as the CPU's, which clang compiled to PTX
 * when this was built. Everything is enqueued on the legacy stream, in the device's primary context. */
#include "model/device.h"

#include "model/cublaslt.h"
#include "runtime/cuda_device.h"
#include <stdlib.h>
#include <string.h>

enum { TYPES = 3, CHUNK_ROWS = 128 };
enum { WORKSPACE_BYTES = 32 << 20, GRANULE = 256 };

/* PTX of each element type, ended by NUL; kernels/ptx.S. */
extern const char sptx_model_ptx_f32[], sptx_model_ptx_f16[], sptx_model_ptx_bf16[];

typedef struct kernel_row {
  const char *name;
  int cta, ctas; /* indices that a CTA takes at a time; the most CTAs for a multiprocessor */
} kernel_row;
enum { WARPS = SPTX_CTA_THREADS / 32, MANY = 64, RESIDENT = 6 /* kernels/launch_bounds.sed promises them */ };
#define ROW_OF_ROW(name)                                                                                     \
  { name, WARPS, MANY }
#define ROW_OF_STREAM(name)                                                                                  \
  { name, WARPS, RESIDENT }
#define ROW_OF_GROUP(name)                                                                                   \
  { name, 1, MANY }
#define ROW_OF_ELEMENT(name)                                                                                 \
  { name, SPTX_CTA_THREADS, MANY }
#define KERNEL_ROW(name, range) ROW_OF_##range(#name),
static const kernel_row KERNELS[SPTX_KERNEL_COUNT] = {SPTX_EACH_KERNEL(KERNEL_ROW)};

typedef struct block {
  void *memory;
  size_t bytes;
  struct block *next;
} block;

struct cuda {
  sptx_device base;
  sptx_cuda_driver driver;
  sptx_cuda_device device;
  sptx_cublaslt *products;
  void *workspace;
  sptx_cu_module modules[TYPES];
  sptx_cu_function functions[TYPES][SPTX_KERNEL_COUNT];
  block *blocks;
};

static enum sptx_code allocate(sptx_device *device, size_t bytes, void **memory, sptx_error *error) {
  struct cuda *cuda = (struct cuda *)device;
  sptx_cu_pointer pointer = 0;
  *memory = NULL;
  block *made = malloc(sizeof *made);
  size_t rounded = (bytes + GRANULE) / GRANULE * GRANULE;
  if (!made)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a list of buffers");
  enum sptx_code code = SPTX_CU_CALL(&cuda->device, MemAlloc, &pointer, rounded);
  if (code == SPTX_CODE_OK)
    code = SPTX_CU_CALL(&cuda->device, MemsetD32Async, pointer, 0, rounded / 4, NULL);
  if (code != SPTX_CODE_OK) {
    if (pointer)
      cuda->driver.MemFree(pointer);
    free(made);
    return code == SPTX_CODE_DEVICE_MEMORY
               ? sptx_fail(error, code, "no device memory for %.1f MiB; lower batch, or set recompute: true",
                           (double)bytes / 1048576)
               : code;
  }
  *made = (block){(void *)(uintptr_t)pointer, bytes, cuda->blocks};
  cuda->blocks = made;
  *memory = made->memory;
  device->bytes += bytes;
  if (device->bytes > device->peak_bytes)
    device->peak_bytes = device->bytes;
  return SPTX_CODE_OK;
}

static void release(sptx_device *device, void *memory) {
  struct cuda *cuda = (struct cuda *)device;
  for (block **at = &cuda->blocks; *at; at = &(*at)->next)
    if ((*at)->memory == memory) {
      block *found = *at;
      *at = found->next;
      device->bytes -= found->bytes;
      cuda->driver.MemFree((uintptr_t)memory);
      free(found);
      return;
    }
}

static enum sptx_code copy_in(sptx_device *device, void *to, const void *host, size_t bytes,
                              sptx_error *error) {
  struct cuda *cuda = (struct cuda *)device;
  return SPTX_CU_CALL(&cuda->device, MemcpyHtoD, (uintptr_t)to, host, bytes);
}

static enum sptx_code copy_out(sptx_device *device, void *host, const void *from, size_t bytes,
                               sptx_error *error) {
  struct cuda *cuda = (struct cuda *)device;
  return SPTX_CU_CALL(&cuda->device, MemcpyDtoH, host, (uintptr_t)from, bytes);
}

static enum sptx_code multiply(sptx_device *device, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                               sptx_matrix b, sptx_matrix c, bool accumulate, sptx_error *error) {
  struct cuda *cuda = (struct cuda *)device;
  return sptx_cublaslt_multiply(cuda->products, m, n, k, a, b, c, accumulate, NULL, error);
}

static enum sptx_code multiply_add(sptx_device *device, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                                   sptx_matrix b, sptx_matrix c, struct sptx_bias bias, sptx_error *error) {
  struct cuda *cuda = (struct cuda *)device;
  return sptx_cublaslt_multiply(cuda->products, m, n, k, a, b, c, false, bias.elements, error);
}

static enum sptx_code load_module(struct cuda *cuda, sptx_dtype type, sptx_error *error) {
  static const char *const sources[TYPES] = {
      [SPTX_F32] = sptx_model_ptx_f32, [SPTX_F16] = sptx_model_ptx_f16, [SPTX_BF16] = sptx_model_ptx_bf16};
  static const char *const names[TYPES] = {[SPTX_F32] = "f32", [SPTX_F16] = "f16", [SPTX_BF16] = "bf16"};
  SPTX_TRY(sptx_cuda_module_load(&cuda->device, sources[type], &cuda->modules[type], error));
  for (int k = 0; k < SPTX_KERNEL_COUNT; k++) {
    char symbol[64];
    snprintf(symbol, sizeof symbol, "sptx_%s_%s", KERNELS[k].name, names[type]);
    SPTX_TRY(SPTX_CU_CALL(&cuda->device, ModuleGetFunction, &cuda->functions[type][k], cuda->modules[type],
                          symbol));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code launch(sptx_device *device, enum sptx_kernel kernel, sptx_dtype type, int64_t count,
                             const void *arguments, size_t arguments_size, sptx_error *error) {
  (void)arguments_size; /* the module knows it */
  struct cuda *cuda = (struct cuda *)device;
  if (!cuda->functions[type][kernel])
    SPTX_TRY(load_module(cuda, type, error));
  int64_t begin = 0, ctas = (count + KERNELS[kernel].cta - 1) / KERNELS[kernel].cta,
          most = (int64_t)cuda->device.multiprocessors * KERNELS[kernel].ctas;
  void *parameters[] = {&begin, &count, (void *)arguments};
  if (ctas == 0)
    return SPTX_CODE_OK;
  return SPTX_CU_CALL(&cuda->device, LaunchKernel, cuda->functions[type][kernel],
                      (unsigned)(ctas < most ? ctas : most), 1, 1, SPTX_CTA_THREADS, 1, 1, 0, NULL,
                      parameters, NULL);
}

static enum sptx_code synchronize(sptx_device *device, sptx_error *error) {
  struct cuda *cuda = (struct cuda *)device;
  return SPTX_CU_CALL(&cuda->device, StreamSynchronize, NULL);
}

static void destroy(sptx_device *device) {
  struct cuda *cuda = (struct cuda *)device;
  sptx_cublaslt_close(cuda->products);
  while (cuda->blocks)
    release(device, cuda->blocks->memory);
  for (int type = 0; type < TYPES; type++)
    if (cuda->modules[type])
      cuda->driver.ModuleUnload(cuda->modules[type]);
  sptx_cuda_leave(&cuda->device);
  sptx_cuda_device_close(&cuda->device);
  sptx_cuda_driver_close(&cuda->driver);
  free(cuda);
}

static const struct sptx_device_ops CUDA_OPS = {allocate,     release, copy_in,     copy_out, multiply,
                                                multiply_add, launch,  synchronize, destroy};

/* The device's context stays current in this thread until destroy: the model is used by one thread. */
static enum sptx_code open_device(struct cuda *cuda, int ordinal, sptx_error *error) {
  SPTX_TRY(sptx_cuda_driver_open(&cuda->driver, error));
  enum sptx_code code = sptx_cuda_device_open(&cuda->driver, ordinal, &cuda->device, error);
  if (code == SPTX_CODE_OK) {
    code = sptx_cuda_enter(&cuda->device, error);
    if (code != SPTX_CODE_OK)
      sptx_cuda_device_close(&cuda->device);
  }
  if (code != SPTX_CODE_OK)
    sptx_cuda_driver_close(&cuda->driver);
  return code;
}

enum sptx_code sptx_device_create_cuda(int ordinal, sptx_device **device, sptx_error *error) {
  *device = NULL;
  struct cuda *cuda = calloc(1, sizeof *cuda);
  if (!cuda)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a device");
  cuda->base.ops = &CUDA_OPS;
  cuda->base.chunk_rows = CHUNK_ROWS;
  cuda->base.block_columns = SPTX_CTA_COLUMNS;
  cuda->base.driver = &cuda->driver;
  enum sptx_code code = open_device(cuda, ordinal, error);
  if (code != SPTX_CODE_OK) {
    free(cuda);
    return code;
  }
  code = allocate(&cuda->base, WORKSPACE_BYTES, &cuda->workspace, error);
  if (code == SPTX_CODE_OK)
    code = sptx_cublaslt_open(&cuda->base, cuda->workspace, WORKSPACE_BYTES, &cuda->products, error);
  if (code != SPTX_CODE_OK) {
    destroy(&cuda->base);
    return code;
  }
  *device = &cuda->base;
  return SPTX_CODE_OK;
}
