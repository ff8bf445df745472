/* The CUDA driver API as a table of pointers. The library is opened at run time, so that sptx builds and runs
 * without CUDA, and tests can put their own functions into the table. The declarations are our own;
 * tests/runtime/test_cuda_driver.c checks every one against cuda.h where that is present. Handles carry the
 * driver's own struct tags; enumerations are unsigned int. */
#ifndef SPTX_RUNTIME_CUDA_DRIVER_H
#define SPTX_RUNTIME_CUDA_DRIVER_H

#include "patterns/error.h"
#include <stddef.h>
#include <stdint.h>

typedef unsigned int sptx_cu_result; /* 0 is success */
typedef int sptx_cu_device;
typedef unsigned long long sptx_cu_pointer;
typedef struct CUctx_st *sptx_cu_context;
typedef struct CUmod_st *sptx_cu_module;
typedef struct CUfunc_st *sptx_cu_function;
typedef struct CUstream_st *sptx_cu_stream;
typedef struct CUevent_st *sptx_cu_event;
typedef struct CUmemPoolHandle_st *sptx_cu_pool;
typedef struct CUgraph_st *sptx_cu_graph;
typedef struct CUgraphExec_st *sptx_cu_executable;
struct CUtensorMap_st;
struct CUmemPoolProps_st;

/* X(name, symbol in the library, parameters). Symbols are the versions that these declarations describe. */
#define SPTX_CU_FUNCTIONS(X)                                                                                 \
  X(Init, "cuInit", (unsigned int))                                                                          \
  X(DriverGetVersion, "cuDriverGetVersion", (int *))                                                         \
  X(GetErrorName, "cuGetErrorName", (sptx_cu_result, const char **))                                         \
  X(GetErrorString, "cuGetErrorString", (sptx_cu_result, const char **))                                     \
  X(DeviceGet, "cuDeviceGet", (sptx_cu_device *, int))                                                       \
  X(DeviceGetCount, "cuDeviceGetCount", (int *))                                                             \
  X(DeviceGetName, "cuDeviceGetName", (char *, int, sptx_cu_device))                                         \
  X(DeviceGetAttribute, "cuDeviceGetAttribute", (int *, unsigned int, sptx_cu_device))                       \
  X(DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (sptx_cu_context *, sptx_cu_device))                 \
  X(DevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (sptx_cu_device))                               \
  X(CtxPushCurrent, "cuCtxPushCurrent_v2", (sptx_cu_context))                                                \
  X(CtxPopCurrent, "cuCtxPopCurrent_v2", (sptx_cu_context *))                                                \
  X(ModuleLoadDataEx, "cuModuleLoadDataEx",                                                                  \
    (sptx_cu_module *, const void *, unsigned int, unsigned int *, void **))                                 \
  X(ModuleUnload, "cuModuleUnload", (sptx_cu_module))                                                        \
  X(ModuleGetFunction, "cuModuleGetFunction", (sptx_cu_function *, sptx_cu_module, const char *))            \
  X(FuncSetAttribute, "cuFuncSetAttribute", (sptx_cu_function, unsigned int, int))                           \
  X(LaunchKernel, "cuLaunchKernel",                                                                          \
    (sptx_cu_function, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int,   \
     unsigned int, sptx_cu_stream, void **, void **))                                                        \
  X(MemAlloc, "cuMemAlloc_v2", (sptx_cu_pointer *, size_t))                                                  \
  X(MemFree, "cuMemFree_v2", (sptx_cu_pointer))                                                              \
  X(MemPoolCreate, "cuMemPoolCreate", (sptx_cu_pool *, const struct CUmemPoolProps_st *))                    \
  X(MemPoolDestroy, "cuMemPoolDestroy", (sptx_cu_pool))                                                      \
  X(MemPoolSetAttribute, "cuMemPoolSetAttribute", (sptx_cu_pool, unsigned int, void *))                      \
  X(MemAllocFromPoolAsync, "cuMemAllocFromPoolAsync",                                                        \
    (sptx_cu_pointer *, size_t, sptx_cu_pool, sptx_cu_stream))                                               \
  X(MemFreeAsync, "cuMemFreeAsync", (sptx_cu_pointer, sptx_cu_stream))                                       \
  X(MemcpyHtoD, "cuMemcpyHtoD_v2", (sptx_cu_pointer, const void *, size_t))                                  \
  X(MemcpyDtoH, "cuMemcpyDtoH_v2", (void *, sptx_cu_pointer, size_t))                                        \
  X(MemsetD32Async, "cuMemsetD32Async", (sptx_cu_pointer, unsigned int, size_t, sptx_cu_stream))             \
  X(PointerGetAttributes, "cuPointerGetAttributes",                                                          \
    (unsigned int, unsigned int *, void **, sptx_cu_pointer))                                                \
  X(StreamCreate, "cuStreamCreate", (sptx_cu_stream *, unsigned int))                                        \
  X(StreamDestroy, "cuStreamDestroy_v2", (sptx_cu_stream))                                                   \
  X(StreamSynchronize, "cuStreamSynchronize", (sptx_cu_stream))                                              \
  X(StreamWaitEvent, "cuStreamWaitEvent", (sptx_cu_stream, sptx_cu_event, unsigned int))                     \
  X(StreamBeginCapture, "cuStreamBeginCapture_v2", (sptx_cu_stream, unsigned int))                           \
  X(StreamEndCapture, "cuStreamEndCapture", (sptx_cu_stream, sptx_cu_graph *))                               \
  X(GraphInstantiate, "cuGraphInstantiateWithFlags",                                                         \
    (sptx_cu_executable *, sptx_cu_graph, unsigned long long))                                               \
  X(GraphLaunch, "cuGraphLaunch", (sptx_cu_executable, sptx_cu_stream))                                      \
  X(GraphExecDestroy, "cuGraphExecDestroy", (sptx_cu_executable))                                            \
  X(GraphDestroy, "cuGraphDestroy", (sptx_cu_graph))                                                         \
  X(EventCreate, "cuEventCreate", (sptx_cu_event *, unsigned int))                                           \
  X(EventDestroy, "cuEventDestroy_v2", (sptx_cu_event))                                                      \
  X(EventRecord, "cuEventRecord", (sptx_cu_event, sptx_cu_stream))                                           \
  X(EventQuery, "cuEventQuery", (sptx_cu_event))                                                             \
  X(EventSynchronize, "cuEventSynchronize", (sptx_cu_event))                                                 \
  X(EventElapsedTime, "cuEventElapsedTime", (float *, sptx_cu_event, sptx_cu_event))                         \
  X(TensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                                          \
    (struct CUtensorMap_st *, unsigned int, unsigned int, void *, const uint64_t *, const uint64_t *,        \
     const uint32_t *, const uint32_t *, unsigned int, unsigned int, unsigned int, unsigned int))

typedef struct sptx_cuda_driver {
#define SPTX_CU_FIELD(name, symbol, parameters) sptx_cu_result(*name) parameters;
  SPTX_CU_FUNCTIONS(SPTX_CU_FIELD)
#undef SPTX_CU_FIELD
  void *library; /* of dlopen; NULL in a table that a test made */
} sptx_cuda_driver;

/* Constants of cuda.h that we use; the test compares them too. */
enum {
  SPTX_CU_ERROR_OUT_OF_MEMORY = 2,
  SPTX_CU_ERROR_NO_BINARY = 209,
  SPTX_CU_ERROR_INVALID_PTX = 218,
  SPTX_CU_ERROR_UNSUPPORTED_PTX_VERSION = 222,
  SPTX_CU_ERROR_NOT_READY = 600,
  SPTX_CU_STREAM_NON_BLOCKING = 1,
  SPTX_CU_EVENT_DISABLE_TIMING = 2,
  SPTX_CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
  SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
  SPTX_CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
  SPTX_CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
  SPTX_CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
  SPTX_CU_JIT_ERROR_LOG_BUFFER = 5,
  SPTX_CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6,
  SPTX_CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
  SPTX_CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
  SPTX_CU_MEMORYTYPE_DEVICE = 2,
  SPTX_CU_MEMPOOL_ATTR_RELEASE_THRESHOLD = 4,
  SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6,
  SPTX_CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7,
  SPTX_CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9,
  SPTX_CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3,
};

/* Opens libcuda.so.1 and fills the table, and calls cuInit. Fails with SPTX_CODE_NO_DEVICE in one sentence:
 * no driver, too old a driver (a function is missing), or no GPU. Thread safe; close when done. */
enum sptx_code sptx_cuda_driver_open(sptx_cuda_driver *driver, sptx_error *error);
void sptx_cuda_driver_close(sptx_cuda_driver *driver);

/* Turns a result into an error value: "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY, out of memory (what)". */
enum sptx_code sptx_cuda_check(const sptx_cuda_driver *driver, sptx_cu_result result, const char *call,
                               sptx_error *error);

#endif
