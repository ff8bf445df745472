/* The CUDA path without a GPU: a fake driver counts what it hands out; the n-th call fails, for every n, and
 * nothing may leak. Where cuda.h is present, our declarations are compared with it. */
#include "runtime/cuda_device.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<cuda.h>)
#include <cuda.h>
#define CHECK(name, symbol, parameters)                                                                      \
  _Static_assert(                                                                                            \
      __builtin_types_compatible_p(__typeof__(((sptx_cuda_driver *)0)->name), __typeof__(&cu##name)),        \
      "cu" #name " differs from cuda.h");
SPTX_CU_FUNCTIONS(CHECK)
#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #theirs)
SAME(SPTX_CU_ERROR_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
     CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
SAME(SPTX_CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME(SPTX_CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
SAME(SPTX_CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER);
SAME(SPTX_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
SAME(SPTX_CU_JIT_INPUT_PTX, CU_JIT_INPUT_PTX);
SAME(SPTX_CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME(SPTX_CU_MEMORYTYPE_DEVICE, CU_MEMORYTYPE_DEVICE);
SAME(SPTX_CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD);
SAME(SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT16, CU_TENSOR_MAP_DATA_TYPE_FLOAT16);
SAME(SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT32, CU_TENSOR_MAP_DATA_TYPE_FLOAT32);
SAME(SPTX_CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16);
SAME(SPTX_CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
_Static_assert(sizeof(CUmemPoolProps) == 88, "create_pool's layout of CUmemPoolProps");
_Static_assert(offsetof(CUmemPoolProps, location) == 8 && offsetof(CUmemPoolProps, maxSize) == 24, "pool");
_Static_assert(sizeof(CUtensorMap) == 128, "a tensor map is 128 bytes");
#endif

static struct {
  int calls, fail_at, live, launches, clears, depth;
  bool host_pointers;
} fake;

static bool failing(void) {
  return fake.calls++ == fake.fail_at;
}

#define FAKE_FAILS                                                                                           \
  if (failing())                                                                                             \
  return SPTX_CU_ERROR_OUT_OF_MEMORY
#define FAKE_TAKES(pointer, type)                                                                            \
  FAKE_FAILS;                                                                                                \
  fake.live++;                                                                                               \
  *(pointer) = (type)(uintptr_t)4096;                                                                        \
  return 0
#define FAKE_GIVES                                                                                           \
  fake.live--;                                                                                               \
  return 0

static unsigned error_name(unsigned result, const char **name) {
  *name = result == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_VALUE";
  return 0;
}
static unsigned device_count(int *count) {
  FAKE_FAILS;
  *count = 1;
  return 0;
}
static unsigned device_get(int *device, int ordinal) {
  FAKE_FAILS;
  *device = ordinal;
  return 0;
}
static unsigned device_name(char *name, int length, int device) {
  (void)device;
  FAKE_FAILS;
  snprintf(name, (size_t)length, "fake");
  return 0;
}
static unsigned driver_version(int *version) {
  FAKE_FAILS;
  *version = 12040;
  return 0;
}
static unsigned device_attribute(int *value, unsigned attribute, int device) {
  (void)device;
  FAKE_FAILS;
  *value = attribute == SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR   ? 0
           : attribute == SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9
                                                                            : 232448;
  return 0;
}
static unsigned context_retain(sptx_cu_context *context, int device) {
  (void)device;
  FAKE_TAKES(context, sptx_cu_context);
}
static unsigned context_release(int device) {
  (void)device;
  FAKE_GIVES;
}
static unsigned context_push(sptx_cu_context context) {
  (void)context;
  fake.depth++;
  return 0;
}
static unsigned context_pop(sptx_cu_context *context) {
  *context = NULL;
  fake.depth--;
  return 0;
}
static unsigned pool_create(sptx_cu_pool *pool, const struct CUmemPoolProps_st *properties) {
  (void)properties;
  FAKE_TAKES(pool, sptx_cu_pool);
}
static unsigned pool_destroy(sptx_cu_pool pool) {
  (void)pool;
  FAKE_GIVES;
}
static unsigned pool_attribute(sptx_cu_pool pool, unsigned attribute, void *value) {
  (void)pool, (void)attribute, (void)value;
  FAKE_FAILS;
  return 0;
}
static unsigned link_create(unsigned count, unsigned *options, void **values, sptx_cu_link *link) {
  (void)count, (void)options;
  strcpy(values[0], "line 7: unknown instruction");
  FAKE_TAKES(link, sptx_cu_link);
}
static unsigned link_add(sptx_cu_link link, unsigned type, void *data, size_t size, const char *name,
                         unsigned count, unsigned *options, void **values) {
  (void)link, (void)type, (void)size, (void)name, (void)count, (void)options, (void)values;
  if (strcmp(data, "bad") == 0)
    return SPTX_CU_ERROR_INVALID_PTX;
  FAKE_FAILS;
  return 0;
}
static unsigned link_complete(sptx_cu_link link, void **image, size_t *bytes) {
  static char code[] = "machine code";
  (void)link;
  FAKE_FAILS;
  *image = code;
  *bytes = sizeof code;
  return 0;
}
static unsigned link_destroy(sptx_cu_link link) {
  (void)link;
  FAKE_GIVES;
}
static unsigned module_load(sptx_cu_module *module, const void *image, unsigned count, unsigned *options,
                            void **values) {
  (void)image, (void)count, (void)options, (void)values;
  FAKE_TAKES(module, sptx_cu_module);
}
static unsigned module_unload(sptx_cu_module module) {
  (void)module;
  FAKE_GIVES;
}
static unsigned module_function(sptx_cu_function *function, sptx_cu_module module, const char *name) {
  (void)module, (void)name;
  FAKE_FAILS;
  *function = NULL;
  return 0;
}
static unsigned function_attribute(sptx_cu_function function, unsigned attribute, int value) {
  (void)function, (void)attribute, (void)value;
  FAKE_FAILS;
  return 0;
}
static unsigned memory_alloc(sptx_cu_pointer *pointer, size_t bytes) {
  (void)bytes;
  FAKE_TAKES(pointer, sptx_cu_pointer);
}
static unsigned memory_free(sptx_cu_pointer pointer) {
  (void)pointer;
  FAKE_GIVES;
}
static unsigned pool_alloc(sptx_cu_pointer *pointer, size_t bytes, sptx_cu_pool pool, sptx_cu_stream stream) {
  (void)bytes, (void)pool, (void)stream;
  FAKE_TAKES(pointer, sptx_cu_pointer);
}
static unsigned pool_free(sptx_cu_pointer pointer, sptx_cu_stream stream) {
  (void)pointer, (void)stream;
  FAKE_GIVES;
}
static unsigned copy_in(sptx_cu_pointer to, const void *from, size_t bytes) {
  (void)to, (void)from, (void)bytes;
  FAKE_FAILS;
  return 0;
}
static unsigned set_words(sptx_cu_pointer to, unsigned value, size_t count, sptx_cu_stream stream) {
  (void)to, (void)value, (void)count, (void)stream;
  FAKE_FAILS;
  fake.clears++;
  return 0;
}
static unsigned pointer_attribute(void *value, unsigned attribute, sptx_cu_pointer pointer) {
  (void)attribute, (void)pointer;
  *(unsigned *)value = fake.host_pointers ? 1 : SPTX_CU_MEMORYTYPE_DEVICE;
  return 0;
}
static unsigned encode(struct CUtensorMap_st *map, unsigned type, unsigned rank, void *address,
                       const uint64_t *size, const uint64_t *stride, const uint32_t *box,
                       const uint32_t *steps, unsigned interleave, unsigned swizzle, unsigned promotion,
                       unsigned fill) {
  (void)map, (void)type, (void)rank, (void)address, (void)size, (void)stride, (void)box, (void)steps;
  (void)interleave, (void)promotion, (void)fill;
  cr_assert_eq(swizzle, 3);
  FAKE_FAILS;
  return 0;
}
static unsigned launch_kernel(sptx_cu_function function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                              unsigned by, unsigned bz, unsigned shared, sptx_cu_stream stream, void **params,
                              void **extra) {
  (void)function, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)stream;
  (void)extra;
  FAKE_FAILS;
  const sptx_gpu_args *args = params[0];
  cr_assert_neq(args->lse, 0, "a forward without lse is lent one");
  fake.launches++;
  return 0;
}

static const sptx_cuda_driver driver = {
    .GetErrorName = error_name,
    .GetErrorString = error_name,
    .DriverGetVersion = driver_version,
    .DeviceGet = device_get,
    .DeviceGetCount = device_count,
    .DeviceGetName = device_name,
    .DeviceGetAttribute = device_attribute,
    .DevicePrimaryCtxRetain = context_retain,
    .DevicePrimaryCtxRelease = context_release,
    .CtxPushCurrent = context_push,
    .CtxPopCurrent = context_pop,
    .ModuleLoadDataEx = module_load,
    .ModuleUnload = module_unload,
    .ModuleGetFunction = module_function,
    .FuncSetAttribute = function_attribute,
    .LinkCreate = link_create,
    .LinkAddData = link_add,
    .LinkComplete = link_complete,
    .LinkDestroy = link_destroy,
    .LaunchKernel = launch_kernel,
    .MemAlloc = memory_alloc,
    .MemFree = memory_free,
    .MemPoolCreate = pool_create,
    .MemPoolDestroy = pool_destroy,
    .MemPoolSetAttribute = pool_attribute,
    .MemAllocFromPoolAsync = pool_alloc,
    .MemFreeAsync = pool_free,
    .MemcpyHtoD = copy_in,
    .MemsetD32Async = set_words,
    .PointerGetAttribute = pointer_attribute,
    .TensorMapEncodeTiled = encode,
};

static sptx_gpu_kernel kernel = {.symbol = "k"};
static char bytes[64];
static sptx_gpu_launch launches[2] = {
    {.grid = {1, 1, 1}, .block = 128, .params = bytes, .clear_bytes = 64},
    {.grid = {1, 1, 1}, .block = 128, .params = bytes, .map_count = 1, .maps = {{.swizzle_bytes = 128}}}};
static const sptx_gpu_plan plan = {.kernels = &kernel,
                                   .kernel_count = 1,
                                   .launches = launches,
                                   .launch_count = 2,
                                   .constants = bytes,
                                   .constants_bytes = sizeof bytes,
                                   .workspace_bytes = 256};

/* Opens, assembles, loads, runs and closes; stops at the first failure and cleans up. */
static enum sptx_code whole_life(sptx_error *error) {
  sptx_cuda_device device;
  sptx_cuda_program program;
  void *cubin = NULL;
  size_t cubin_bytes = 0;
  sptx_gpu_args args = {.q = 4096};
  SPTX_TRY(sptx_cuda_device_open(&driver, 0, &device, error));
  enum sptx_code code = sptx_cuda_assemble(&device, "good", &cubin, &cubin_bytes, error);
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_program_load(&device, &plan, cubin, 64, &program, error);
  if (code == SPTX_CODE_OK) {
    code = sptx_cuda_program_run(&device, &program, &args, NULL, error);
    sptx_cuda_program_unload(&device, &program);
  }
  free(cubin);
  sptx_cuda_device_close(&device);
  return code;
}

static void reset(int fail_at) {
  memset(&fake, 0, sizeof fake);
  fake.fail_at = fail_at;
}

Test(cuda_driver, every_call_may_fail) {
  for (int n = 0;; n++) {
    cr_assert_lt(n, 100);
    sptx_error error = {0};
    reset(n);
    enum sptx_code code = whole_life(&error);
    cr_assert_eq(fake.live, 0, "call %d fails: %d objects leak", n, fake.live);
    cr_assert_eq(fake.depth, 0, "call %d fails: the caller's context is changed", n);
    if (fake.calls <= n) {
      cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
      cr_assert_gt(n, 15);
      break;
    }
    cr_assert_neq(code, SPTX_CODE_OK, "call %d fails unnoticed", n);
    cr_assert_gt(strlen(error.message), 10);
  }
  cr_assert_eq(fake.launches, 2);
  cr_assert_eq(fake.clears, 1);
}

Test(cuda_driver, bad_input_is_a_sentence) {
  sptx_cuda_device device;
  sptx_error error = {0};
  reset(-1);
  cr_assert_eq(sptx_cuda_device_open(&driver, 3, &device, &error), SPTX_CODE_NO_DEVICE);
  cr_assert(strstr(error.message, "no device cuda:3"));
  cr_assert_eq(sptx_cuda_device_open(&driver, 0, &device, &error), SPTX_CODE_OK);
  void *cubin;
  size_t cubin_bytes;
  cr_assert_eq(sptx_cuda_assemble(&device, "bad", &cubin, &cubin_bytes, &error), SPTX_CODE_COMPILE);
  cr_assert(strstr(error.message, "line 7: unknown instruction"), "%s", error.message);
  sptx_cuda_program program;
  cr_assert_eq(sptx_cuda_program_load(&device, &plan, "x", 64, &program, &error), SPTX_CODE_OK);
  sptx_gpu_args args = {.q = 4100};
  cr_assert_eq(sptx_cuda_program_run(&device, &program, &args, NULL, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert(strstr(error.message, "q is not aligned"));
  args.q = 4096;
  fake.host_pointers = true;
  cr_assert_eq(sptx_cuda_program_run(&device, &program, &args, NULL, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert(strstr(error.message, "q is not device memory"));
  sptx_cuda_program_unload(&device, &program);
  sptx_cuda_device_close(&device);
  cr_assert_eq(fake.live, 0);
}

Test(cuda_driver, no_driver_is_a_sentence) {
  sptx_cuda_driver table;
  sptx_error error = {0};
  if (sptx_cuda_driver_open(&table, &error) == SPTX_CODE_OK) {
    sptx_cuda_driver_close(&table);
    cr_skip("this machine has a CUDA driver");
  }
  cr_assert_eq(error.code, SPTX_CODE_NO_DEVICE);
  cr_assert_gt(strlen(error.message), 20);
}
