/* The CUDA path without a GPU: a fake driver counts what it hands out; the n-th call fails, for every n, and
 * nothing may leak. Where cuda.h is present, our declarations are compared with it. */
#include "runtime/cuda_program.h"
#include "tests/runtime/fake_driver.h"
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
SAME(SPTX_CU_ERROR_NO_BINARY, CUDA_ERROR_NO_BINARY_FOR_GPU);
SAME(SPTX_CU_ERROR_INVALID_PTX, CUDA_ERROR_INVALID_PTX);
SAME(SPTX_CU_ERROR_UNSUPPORTED_PTX_VERSION, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
SAME(SPTX_CU_ERROR_NOT_READY, CUDA_ERROR_NOT_READY);
SAME(SPTX_CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(SPTX_CU_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(SPTX_CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
     CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
SAME(SPTX_CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME(SPTX_CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER);
SAME(SPTX_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
SAME(SPTX_CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME(SPTX_CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
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

/* Opens, loads, runs and closes; stops at the first failure and cleans up. */
static enum sptx_code whole_life(sptx_error *error) {
  sptx_cuda_device device;
  sptx_cuda_program program = {0};
  sptx_gpu_args args = {.q = 4096};
  SPTX_TRY(sptx_cuda_device_open(&fake_driver, 0, &device, error));
  enum sptx_code code = sptx_cuda_program_create(&device, &plan, 64, &program, error);
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_program_load(&program, 0, "good", error);
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_program_run(&program, &args, NULL, error);
  sptx_cuda_program_clear(&program);
  sptx_cuda_device_close(&device);
  return code;
}

Test(cuda_driver, every_call_may_fail) {
  for (int n = 0;; n++) {
    cr_assert_lt(n, 100);
    sptx_error error = {0};
    fake_reset(n);
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
  fake_reset(-1);
  cr_assert_eq(sptx_cuda_device_open(&fake_driver, 3, &device, &error), SPTX_CODE_NO_DEVICE);
  cr_assert(strstr(error.message, "no device cuda:3"));
  cr_assert_eq(sptx_cuda_device_open(&fake_driver, 0, &device, &error), SPTX_CODE_OK);
  sptx_cuda_program program;
  cr_assert_eq(sptx_cuda_program_create(&device, &plan, 64, &program, &error), SPTX_CODE_OK);
  fake.rejection = SPTX_CU_ERROR_INVALID_PTX;
  cr_assert_eq(sptx_cuda_program_load(&program, 0, "bad", &error), SPTX_CODE_COMPILE);
  cr_assert(strstr(error.message, "line 7: unknown instruction"), "%s", error.message);
  fake.rejection = SPTX_CU_ERROR_UNSUPPORTED_PTX_VERSION;
  cr_assert_eq(sptx_cuda_program_load(&program, 0, "new", &error), SPTX_CODE_UNSUPPORTED);
  cr_assert(strstr(error.message, "(CUDA 12.4)") && strstr(error.message, "too old"), "%s", error.message);
  sptx_gpu_args args = {.q = 4100};
  cr_assert_eq(sptx_cuda_program_run(&program, &args, NULL, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert(strstr(error.message, "q is not aligned"));
  args.q = 4096;
  fake.memory_ordinal = 1;
  cr_assert_eq(sptx_cuda_program_run(&program, &args, NULL, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert(strstr(error.message, "q is memory of cuda:1"));
  fake.memory_type = 0;
  cr_assert_eq(sptx_cuda_program_run(&program, &args, NULL, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert(strstr(error.message, "q is not device memory"));
  sptx_cuda_program_clear(&program);
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
