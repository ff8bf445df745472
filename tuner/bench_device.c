/* Tensors and timing of both kinds of device; see bench_device.h. */
#include "tuner/bench_device.h"

#include "runtime/cuda_device.h"
#include "tuner/ceiling.h"
#include "tuner/element.h"
#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { FLUSH_BYTES = 256 << 20 };

struct sptx_bench_device {
  int threads; /* that calls on the CPU run with */
  bool gpu;
  bool entered; /* the context was made current */
  sptx_cuda_driver driver;
  sptx_cuda_device cuda;
  sptx_cu_stream stream;
  sptx_cu_event begin, end;
  sptx_cu_pointer flush;
};

static enum sptx_code open_gpu(const char *name, sptx_bench_device *device, sptx_error *error) {
  const sptx_cuda_device *cuda = &device->cuda;
  SPTX_TRY(sptx_cuda_driver_open(&device->driver, error));
  SPTX_TRY(sptx_cuda_device_open(&device->driver, atoi(name + strlen("cuda:")), &device->cuda, error));
  device->gpu = true;
  SPTX_TRY(sptx_cuda_stream_create(cuda, &device->stream, error));
  SPTX_TRY(sptx_cuda_alloc(cuda, FLUSH_BYTES, &device->flush, error));
  SPTX_TRY(sptx_cuda_enter(cuda, error));
  device->entered = true;
  SPTX_TRY(SPTX_CU_CALL(cuda, EventCreate, &device->begin, 0));
  return SPTX_CU_CALL(cuda, EventCreate, &device->end, 0);
}

enum sptx_code sptx_bench_device_open(const char *name, int threads, sptx_bench_device **device,
                                      sptx_error *error) {
  *device = calloc(1, sizeof **device);
  if (!*device)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a device");
  (*device)->threads = threads;
  enum sptx_code code =
      strncmp(name, "cuda:", strlen("cuda:")) == 0 ? open_gpu(name, *device, error) : SPTX_CODE_OK;
  if (code != SPTX_CODE_OK) {
    sptx_bench_device_close(*device);
    *device = NULL;
  }
  return code;
}

void sptx_bench_device_close(sptx_bench_device *device) {
  if (!device)
    return;
  if (device->begin)
    device->driver.EventDestroy(device->begin);
  if (device->end)
    device->driver.EventDestroy(device->end);
  if (device->entered)
    sptx_cuda_leave(&device->cuda);
  if (device->gpu) {
    sptx_cuda_free(&device->cuda, device->flush);
    sptx_cuda_stream_destroy(&device->cuda, device->stream);
    sptx_cuda_device_close(&device->cuda);
  }
  sptx_cuda_driver_close(&device->driver);
  free(device);
}

bool sptx_bench_device_is_gpu(const sptx_bench_device *device) {
  return device->gpu;
}

void *sptx_bench_device_stream(const sptx_bench_device *device) {
  return device->stream;
}

enum sptx_code sptx_bench_device_alloc(sptx_bench_device *device, size_t bytes, void **memory,
                                       sptx_error *error) {
  sptx_cu_pointer pointer = 0;
  *memory = NULL;
  if (device->gpu) {
    SPTX_TRY(sptx_cuda_alloc(&device->cuda, bytes, &pointer, error));
    *memory = (void *)(uintptr_t)pointer;
  } else if (!(*memory = malloc(bytes))) {
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a tensor of %zu bytes", bytes);
  }
  return SPTX_CODE_OK;
}

void sptx_bench_device_free(sptx_bench_device *device, void *memory) {
  if (!device || !memory)
    return;
  if (device->gpu)
    sptx_cuda_free(&device->cuda, (uintptr_t)memory);
  else
    free(memory);
}

/* The tensors of a request, one by one. */
typedef struct part {
  size_t offset; /* of the pointer in sptx_bench_tensors */
  size_t bytes;
  bool written; /* by a pass */
} part;

enum { PARTS = 9 };

static void list_parts(const sptx_bench_request *request, part parts[PARTS]) {
  size_t rows = (size_t)(request->batch * request->heads * request->n_q);
  size_t row_bytes = (size_t)request->head_dim * sptx_element_size(request->dtype);
  size_t queries = rows * row_bytes;
  size_t keys = (size_t)(request->batch * request->kv_heads * request->n_k) * row_bytes;
  const part all[PARTS] = {{offsetof(sptx_bench_tensors, q), queries, false},
                           {offsetof(sptx_bench_tensors, k), keys, false},
                           {offsetof(sptx_bench_tensors, v), keys, false},
                           {offsetof(sptx_bench_tensors, o), queries, true},
                           {offsetof(sptx_bench_tensors, lse), rows * 4, true},
                           {offsetof(sptx_bench_tensors, d_o), queries, false},
                           {offsetof(sptx_bench_tensors, d_q), queries, true},
                           {offsetof(sptx_bench_tensors, d_k), keys, true},
                           {offsetof(sptx_bench_tensors, d_v), keys, true}};
  memcpy(parts, all, sizeof all);
}

static void *pointer_of(const sptx_bench_tensors *tensors, const part *which) {
  void *pointer;
  memcpy(&pointer, (const char *)tensors + which->offset, sizeof pointer);
  return pointer;
}

static enum sptx_code place_part(sptx_bench_device *device, const part *which, const sptx_bench_tensors *host,
                                 sptx_bench_tensors *placed, sptx_error *error) {
  void *from = pointer_of(host, which), *to;
  if (!from)
    return SPTX_CODE_OK;
  SPTX_TRY(sptx_bench_device_alloc(device, which->bytes, &to, error));
  memcpy((char *)placed + which->offset, &to, sizeof to);
  return sptx_cuda_upload(&device->cuda, (uintptr_t)to, from, which->bytes, error);
}

enum sptx_code sptx_bench_place(sptx_bench_device *device, const sptx_bench_request *request,
                                const sptx_bench_tensors *host, sptx_bench_tensors *placed,
                                sptx_error *error) {
  part parts[PARTS];
  if (!device->gpu) {
    *placed = *host;
    return SPTX_CODE_OK;
  }
  list_parts(request, parts);
  memset(placed, 0, sizeof *placed);
  for (int i = 0; i < PARTS; i++) {
    enum sptx_code code = place_part(device, &parts[i], host, placed, error);
    if (code != SPTX_CODE_OK) {
      sptx_bench_unplace(device, placed);
      return code;
    }
  }
  return SPTX_CODE_OK;
}

void sptx_bench_unplace(sptx_bench_device *device, sptx_bench_tensors *placed) {
  void *const all[PARTS] = {placed->q,   placed->k,   placed->v,   placed->o,  placed->lse,
                            placed->d_o, placed->d_q, placed->d_k, placed->d_v};
  for (int i = 0; device && device->gpu && i < PARTS; i++)
    sptx_bench_device_free(device, all[i]);
  memset(placed, 0, sizeof *placed);
}

enum sptx_code sptx_bench_fetch(sptx_bench_device *device, const sptx_bench_request *request,
                                const sptx_bench_tensors *placed, sptx_bench_tensors *host,
                                sptx_error *error) {
  part parts[PARTS];
  if (!device->gpu)
    return SPTX_CODE_OK;
  list_parts(request, parts);
  SPTX_TRY(sptx_cuda_stream_synchronize(&device->cuda, device->stream, error));
  for (int i = 0; i < PARTS; i++)
    if (parts[i].written && pointer_of(placed, &parts[i]))
      SPTX_TRY(sptx_cuda_download(&device->cuda, pointer_of(host, &parts[i]),
                                  (uintptr_t)pointer_of(placed, &parts[i]), parts[i].bytes, error));
  return SPTX_CODE_OK;
}

static enum sptx_code time_on_gpu(sptx_bench_device *device, enum sptx_code (*call)(void *, sptx_error *),
                                  void *argument, double *seconds, sptx_error *error) {
  const sptx_cuda_device *cuda = &device->cuda;
  float ms;
  SPTX_TRY(SPTX_CU_CALL(cuda, MemsetD32Async, device->flush, 0, FLUSH_BYTES / 4, device->stream));
  SPTX_TRY(SPTX_CU_CALL(cuda, EventRecord, device->begin, device->stream));
  SPTX_TRY(call(argument, error));
  SPTX_TRY(SPTX_CU_CALL(cuda, EventRecord, device->end, device->stream));
  SPTX_TRY(SPTX_CU_CALL(cuda, EventSynchronize, device->end));
  SPTX_TRY(SPTX_CU_CALL(cuda, EventElapsedTime, &ms, device->begin, device->end));
  *seconds = 1e-3 * ms;
  return SPTX_CODE_OK;
}

/* Thread t alone gets the t-th of the processors; or all threads get all of them back. Linux may wake two
 * threads on one processor and leave them there for several ms, in which every call takes as long as a time
 * slice. */
static void place_threads(int threads, const cpu_set_t *processors, bool apart) {
#pragma omp parallel num_threads(threads)
  {
    cpu_set_t own = *processors;
    int before = omp_get_thread_num();
    for (int k = 0; k < CPU_SETSIZE && apart; k++)
      if (CPU_ISSET(k, processors) && before-- != 0)
        CPU_CLR(k, &own);
    sched_setaffinity(0, sizeof own, &own);
  }
}

static enum sptx_code time_on_cpu(const sptx_bench_device *device,
                                  enum sptx_code (*call)(void *, sptx_error *), void *argument, int calls,
                                  double *seconds, sptx_error *error) {
  cpu_set_t processors;
  bool room =
      sched_getaffinity(0, sizeof processors, &processors) == 0 && CPU_COUNT(&processors) >= device->threads;
  if (room)
    place_threads(device->threads, &processors, true);
  enum sptx_code code = SPTX_CODE_OK;
  double start = sptx_now();
  for (int c = 0; c < calls && code == SPTX_CODE_OK; c++)
    code = call(argument, error);
  *seconds = (sptx_now() - start) / calls;
  if (room)
    place_threads(device->threads, &processors, false);
  return code;
}

enum sptx_code sptx_bench_time(sptx_bench_device *device, enum sptx_code (*call)(void *, sptx_error *),
                               void *argument, int calls, double *seconds, sptx_error *error) {
  double sum = 0, once;
  if (!device->gpu)
    return time_on_cpu(device, call, argument, calls, seconds, error);
  for (int c = 0; c < calls; c++) {
    SPTX_TRY(time_on_gpu(device, call, argument, &once, error));
    sum += once;
  }
  *seconds = sum / calls;
  return SPTX_CODE_OK;
}
