/* The fake driver's functions; see fake_driver.h. */
#include "tests/runtime/fake_driver.h"

#include "gen/ptx/plan.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fake_state fake;

void fake_reset(int fail_at) {
  fake = (struct fake_state){
      .fail_at = fail_at, .major = 9, .version = 12040, .memory_type = SPTX_CU_MEMORYTYPE_DEVICE};
}

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
  *name = result == SPTX_CU_ERROR_OUT_OF_MEMORY             ? "CUDA_ERROR_OUT_OF_MEMORY"
          : result == SPTX_CU_ERROR_UNSUPPORTED_PTX_VERSION ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
                                                            : "CUDA_ERROR_INVALID_VALUE";
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
  *version = fake.version;
  return 0;
}
static unsigned device_attribute(int *value, unsigned attribute, int device) {
  (void)device;
  FAKE_FAILS;
  *value = attribute == SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR   ? 0
           : attribute == SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? fake.major
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
static unsigned module_load(sptx_cu_module *module, const void *image, unsigned count, unsigned *options,
                            void **values) {
  (void)options;
  cr_assert_eq(count, 2);
  strcpy(values[0], fake.rejection ? "line 7: unknown instruction" : "");
  fake.assembled += strlen(image);
  if (fake.rejection)
    return fake.rejection;
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
  FAKE_FAILS;
  *pointer = (sptx_cu_pointer)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
  fake.live++;
  return 0;
}
static unsigned memory_free(sptx_cu_pointer pointer) {
  free((void *)(uintptr_t)pointer);
  FAKE_GIVES;
}
static unsigned pool_alloc(sptx_cu_pointer *pointer, size_t bytes, sptx_cu_pool pool, sptx_cu_stream stream) {
  (void)pool, (void)stream;
  return memory_alloc(pointer, bytes);
}
static unsigned pool_free(sptx_cu_pointer pointer, sptx_cu_stream stream) {
  (void)stream;
  memory_free(pointer);
  FAKE_FAILS;
  return 0;
}
static unsigned copy_in(sptx_cu_pointer to, const void *from, size_t bytes) {
  FAKE_FAILS;
  memcpy((void *)(uintptr_t)to, from, bytes);
  return 0;
}
static unsigned copy_out(void *to, sptx_cu_pointer from, size_t bytes) {
  FAKE_FAILS;
  memcpy(to, (const void *)(uintptr_t)from, bytes);
  return 0;
}
static unsigned set_words(sptx_cu_pointer to, unsigned value, size_t count, sptx_cu_stream stream) {
  (void)stream;
  FAKE_FAILS;
  for (size_t i = 0; i < count; i++)
    ((unsigned *)(uintptr_t)to)[i] = value;
  fake.clears++;
  return 0;
}
static unsigned pointer_attributes(unsigned count, unsigned *asked, void **answers, sptx_cu_pointer pointer) {
  (void)pointer;
  FAKE_FAILS;
  cr_assert_eq(count, 2);
  cr_assert_eq(asked[0], SPTX_CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
  *(unsigned *)answers[0] = fake.memory_type;
  *(int *)answers[1] = fake.memory_ordinal;
  return 0;
}
static unsigned encode(struct CUtensorMap_st *map, unsigned type, unsigned rank, void *address,
                       const uint64_t *size, const uint64_t *stride, const uint32_t *box,
                       const uint32_t *steps, unsigned interleave, unsigned swizzle, unsigned promotion,
                       unsigned fill) {
  (void)type, (void)size, (void)steps, (void)interleave, (void)promotion, (void)fill;
  FAKE_FAILS;
  cr_assert_eq((uintptr_t)map % 64, 0);
  cr_assert_eq((uintptr_t)address % 16, 0);
  cr_assert_leq(swizzle, 3);
  for (unsigned i = 0; i < rank; i++) {
    cr_assert(box[i] >= 1 && box[i] <= 256);
    cr_assert(i + 1 == rank || (stride[i] % 16 == 0 && stride[i] < (uint64_t)1 << 40));
  }
  fake.encoded++;
  *(void **)(void *)map = address;
  return 0;
}
static unsigned launch_kernel(sptx_cu_function function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                              unsigned by, unsigned bz, unsigned shared, sptx_cu_stream stream, void **params,
                              void **extra) {
  (void)function, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)stream;
  (void)extra;
  FAKE_FAILS;
  const sptx_gpu_args *args = params[0];
  cr_assert(fake.other_kernels || args->lse != 0, "a forward without lse is lent one");
  fake.launches++;
  if (fake.encoded > 0)
    memcpy(&fake.first_map, params[2], sizeof fake.first_map);
  return 0;
}

static unsigned stream_create(sptx_cu_stream *stream, unsigned flags) {
  (void)flags;
  FAKE_TAKES(stream, sptx_cu_stream);
}
static unsigned stream_destroy(sptx_cu_stream stream) {
  (void)stream;
  FAKE_GIVES;
}
static unsigned stream_synchronize(sptx_cu_stream stream) {
  (void)stream;
  FAKE_FAILS;
  usleep(fake.wait_us);
  return 0;
}
static unsigned event_create(sptx_cu_event *event, unsigned flags) {
  (void)flags;
  FAKE_TAKES(event, sptx_cu_event);
}
static unsigned event_destroy(sptx_cu_event event) {
  (void)event;
  FAKE_GIVES;
}
static unsigned event_record(sptx_cu_event event, sptx_cu_stream stream) {
  (void)event, (void)stream;
  FAKE_FAILS;
  return 0;
}
static unsigned event_synchronize(sptx_cu_event event) {
  (void)event;
  FAKE_FAILS;
  return 0;
}
static unsigned event_elapsed(float *ms, sptx_cu_event begin, sptx_cu_event end) {
  (void)begin, (void)end;
  FAKE_FAILS;
  *ms = fake.elapsed_ms;
  return 0;
}

const sptx_cuda_driver fake_driver = {
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
    .LaunchKernel = launch_kernel,
    .MemAlloc = memory_alloc,
    .MemFree = memory_free,
    .MemPoolCreate = pool_create,
    .MemPoolDestroy = pool_destroy,
    .MemPoolSetAttribute = pool_attribute,
    .MemAllocFromPoolAsync = pool_alloc,
    .MemFreeAsync = pool_free,
    .MemcpyHtoD = copy_in,
    .MemcpyDtoH = copy_out,
    .StreamCreate = stream_create,
    .StreamDestroy = stream_destroy,
    .StreamSynchronize = stream_synchronize,
    .EventCreate = event_create,
    .EventDestroy = event_destroy,
    .EventRecord = event_record,
    .EventSynchronize = event_synchronize,
    .EventElapsedTime = event_elapsed,
    .MemsetD32Async = set_words,
    .PointerGetAttributes = pointer_attributes,
    .TensorMapEncodeTiled = encode,
};
