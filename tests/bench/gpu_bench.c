/* Device tensors, timing and checks; see gpu_bench.h. */
#include "tests/bench/gpu_bench.h"

#include "gen/schedule_text.h"
#include "runtime/attention.h"
#include "tuner/element.h"
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_SAMPLES = 1000, VALUES = 1048573 /* a prime: rows do not repeat */ };

const char *const gpu_pass_names[] = {"forward", "backward", "deterministic"};

#define DRIVER(bench, function, ...)                                                                         \
  sptx_cuda_check(&(bench)->driver, (bench)->driver.function(__VA_ARGS__), "cu" #function, error)

static enum sptx_code check(const gpu_bench *bench, sptx_status status, sptx_error *error) {
  if (status == SPTX_OK)
    return SPTX_CODE_OK;
  return sptx_fail(error, (enum sptx_code)status, "%s", sptx_last_error(bench->context));
}

enum sptx_code gpu_bench_open(const char *device, gpu_bench *bench, sptx_error *error) {
  memset(bench, 0, sizeof *bench);
  if (strncmp(device, "cuda:", 5) != 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "'%s' is not a CUDA device; use cuda:N", device);
  SPTX_TRY(check(bench, sptx_context_create(&bench->context, device), error));
  sptx_context_set_wisdom(bench->context, NULL);
  sptx_context_set_threads(bench->context, 1);
  SPTX_TRY(sptx_cuda_driver_open(&bench->driver, error));
  SPTX_TRY(sptx_cuda_device_open(&bench->driver, atoi(device + 5), &bench->device, error));
  SPTX_TRY(sptx_bench_device_open(device, 1, &bench->timer, error)); /* its context is current until close */
  bench->stream = sptx_bench_device_stream(bench->timer);
  snprintf(bench->where, sizeof bench->where, "%s, %d multiprocessors, driver %d.%d", bench->device.name,
           bench->device.multiprocessors, bench->device.driver_version / 1000,
           bench->device.driver_version % 1000 / 10);
  return SPTX_CODE_OK;
}

void gpu_bench_close(gpu_bench *bench) {
  sptx_bench_device_close(bench->timer);
  if (bench->device.context)
    sptx_cuda_device_close(&bench->device);
  sptx_cuda_driver_close(&bench->driver);
  sptx_context_destroy(bench->context);
}

enum sptx_code gpu_attention_create(gpu_bench *bench, const gpu_shape *shape, enum gpu_pass pass,
                                    const char *schedule, sptx_attention **attention, sptx_error *error) {
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  sptx_schedule parsed;
  const void *schedules[3] = {NULL, NULL, NULL};
  char name[64] = "";
  sptx_param param = {name, NULL};
  sptx_pattern *pattern;
  if (shape->parameter) {
    snprintf(name, sizeof name, "%s", shape->parameter);
    name[strcspn(name, "=")] = '\0';
    param.value = shape->parameter + strlen(name) + 1;
  }
  desc.flags =
      (pass == GPU_FORWARD ? 0 : SPTX_WITH_BACKWARD) | (pass == GPU_BACKWARD ? SPTX_NONDETERMINISTIC : 0);
  desc.dtype = SPTX_BF16;
  desc.batch = shape->batch;
  desc.heads = shape->heads;
  desc.n_q = desc.n_k = shape->n;
  desc.head_dim = shape->head_dim;
  desc.step = shape->step;
  if (schedule && schedule[0]) {
    SPTX_TRY(sptx_schedule_parse(SPTX_FAMILY_PTX, schedule, &parsed, error));
    schedules[pass == GPU_FORWARD ? SPTX_PASS_FORWARD : SPTX_PASS_BACKWARD] = &parsed;
  }
  SPTX_TRY(check(
      bench, sptx_pattern_load(bench->context, shape->pattern, &param, shape->parameter != NULL, &pattern),
      error));
  enum sptx_code code = check(
      bench, sptx_attention_create_scheduled(bench->context, pattern, &desc, schedules, attention), error);
  sptx_pattern_destroy(pattern);
  return code;
}

/* A block of normal random numbers (Box and Muller 1958), repeated. */
static void fill(uint16_t *values, size_t count, unsigned seed) {
  uint16_t *block = malloc(VALUES * sizeof *block);
  unsigned short state[3] = {(unsigned short)seed, 0x330e, 0x1234};
  for (size_t i = 0; i < VALUES; i++) {
    double radius = sqrt(-2 * log(1 - erand48(state)));
    sptx_element_set(SPTX_BF16, block, i, radius * cos(6.283185307179586 * erand48(state)));
  }
  for (size_t i = 0; i < count; i += VALUES)
    memcpy(values + i, block, (count - i < VALUES ? count - i : VALUES) * sizeof *values);
  free(block);
}

static enum sptx_code random_tensor(gpu_bench *bench, size_t bytes, unsigned seed, sptx_cu_pointer *pointer,
                                    sptx_error *error) {
  uint16_t *values = malloc(bytes);
  if (!values)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a tensor of %zu bytes", bytes);
  fill(values, bytes / sizeof *values, seed);
  enum sptx_code code = sptx_cuda_alloc(&bench->device, bytes, pointer, error);
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_upload(&bench->device, *pointer, values, bytes, error);
  free(values);
  return code;
}

enum sptx_code gpu_tensors_create(gpu_bench *bench, const gpu_shape *shape, bool backward,
                                  gpu_tensors *tensors, sptx_error *error) {
  size_t rows = (size_t)(shape->batch * shape->heads * shape->n);
  memset(tensors, 0, sizeof *tensors);
  tensors->bytes = rows * (size_t)shape->head_dim * 2;
  tensors->lse_bytes = rows * sizeof(float);
  SPTX_TRY(random_tensor(bench, tensors->bytes, 1, &tensors->q, error));
  SPTX_TRY(random_tensor(bench, tensors->bytes, 2, &tensors->k, error));
  SPTX_TRY(random_tensor(bench, tensors->bytes, 3, &tensors->v, error));
  SPTX_TRY(sptx_cuda_alloc(&bench->device, tensors->bytes, &tensors->o, error));
  SPTX_TRY(sptx_cuda_alloc(&bench->device, tensors->lse_bytes, &tensors->lse, error));
  if (!backward)
    return SPTX_CODE_OK;
  SPTX_TRY(random_tensor(bench, tensors->bytes, 4, &tensors->d_o, error));
  SPTX_TRY(sptx_cuda_alloc(&bench->device, tensors->bytes, &tensors->d_q, error));
  SPTX_TRY(sptx_cuda_alloc(&bench->device, tensors->bytes, &tensors->d_k, error));
  return sptx_cuda_alloc(&bench->device, tensors->bytes, &tensors->d_v, error);
}

void gpu_tensors_clear(gpu_bench *bench, gpu_tensors *tensors) {
  const sptx_cu_pointer all[] = {tensors->q,   tensors->k,   tensors->v,   tensors->o,  tensors->d_o,
                                 tensors->d_q, tensors->d_k, tensors->d_v, tensors->lse};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    sptx_cuda_free(&bench->device, all[i]);
  memset(tensors, 0, sizeof *tensors);
}

enum sptx_code gpu_tensors_poison(gpu_bench *bench, const gpu_tensors *tensors, sptx_error *error) {
  const sptx_cu_pointer outputs[] = {tensors->o, tensors->d_q, tensors->d_k, tensors->d_v};
  for (size_t i = 0; i < 4; i++)
    if (outputs[i])
      SPTX_TRY(DRIVER(bench, MemsetD32Async, outputs[i], ~0u, tensors->bytes / 4, bench->stream));
  return DRIVER(bench, MemsetD32Async, tensors->lse, ~0u, tensors->lse_bytes / 4, bench->stream);
}

#define P(pointer) ((void *)(uintptr_t)(pointer))

enum sptx_code gpu_enqueue(gpu_bench *bench, const sptx_attention *attention, enum gpu_pass pass,
                           const gpu_tensors *t, sptx_error *error) {
  sptx_status status =
      pass == GPU_FORWARD
          ? sptx_attention_forward(attention, P(t->q), P(t->k), P(t->v), P(t->o), P(t->lse), bench->stream)
          : sptx_attention_backward(attention, P(t->q), P(t->k), P(t->v), P(t->o), P(t->lse), P(t->d_o),
                                    P(t->d_q), P(t->d_k), P(t->d_v), bench->stream);
  return check(bench, status, error);
}

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *samples, int count) {
  qsort(samples, (size_t)count, sizeof *samples, compare_doubles);
  return samples[count / 2];
}

/* One call to time. */
typedef struct timed_call {
  gpu_bench *bench;
  const sptx_attention *attention;
  enum gpu_pass pass;
  const gpu_tensors *tensors;
} timed_call;

static enum sptx_code enqueue_timed(void *argument, sptx_error *error) {
  const timed_call *call = argument;
  return gpu_enqueue(call->bench, call->attention, call->pass, call->tensors, error);
}

enum sptx_code gpu_time(gpu_bench *bench, const sptx_attention *attention, enum gpu_pass pass,
                        const gpu_tensors *tensors, int samples, double *ms, sptx_error *error) {
  enum { WARM_UPS = 3 };
  timed_call call = {bench, attention, pass, tensors};
  double all[MOST_SAMPLES];
  samples = samples > MOST_SAMPLES ? MOST_SAMPLES : samples;
  for (int i = -WARM_UPS; i < samples; i++)
    SPTX_TRY(sptx_bench_time(bench->timer, enqueue_timed, &call, 1, &all[i < 0 ? 0 : i], error));
  *ms = 1e3 * median(all, samples);
  return SPTX_CODE_OK;
}

static double now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

enum sptx_code gpu_host_time(gpu_bench *bench, const sptx_attention *attention, const gpu_tensors *tensors,
                             double *us, sptx_error *error) {
  enum { BATCHES = 21, CALLS = 100 }; /* fewer calls than the stream's queue holds */
  double all[BATCHES];
  for (int b = 0; b < BATCHES; b++) {
    double start = now_us();
    for (int c = 0; c < CALLS; c++)
      SPTX_TRY(gpu_enqueue(bench, attention, GPU_FORWARD, tensors, error));
    all[b] = (now_us() - start) / CALLS;
    SPTX_TRY(sptx_cuda_stream_synchronize(&bench->device, bench->stream, error));
  }
  *us = median(all, BATCHES);
  return SPTX_CODE_OK;
}

static enum sptx_code replay(gpu_bench *bench, sptx_cu_graph graph, const gpu_tensors *tensors,
                             sptx_error *error) {
  sptx_cu_executable executable;
  SPTX_TRY(DRIVER(bench, GraphInstantiate, &executable, graph, 0));
  enum sptx_code code = SPTX_CODE_OK;
  for (int launch = 0; launch < 2 && code == SPTX_CODE_OK; launch++) {
    code = gpu_tensors_poison(bench, tensors, error);
    if (code == SPTX_CODE_OK)
      code = DRIVER(bench, GraphLaunch, executable, bench->stream);
  }
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_stream_synchronize(&bench->device, bench->stream, error);
  bench->driver.GraphExecDestroy(executable);
  return code;
}

static enum sptx_code capture(gpu_bench *bench, const sptx_attention *attention, const gpu_tensors *tensors,
                              sptx_error *error) {
  sptx_cu_graph graph = NULL;
  SPTX_TRY(DRIVER(bench, StreamBeginCapture, bench->stream, 0));
  enum sptx_code code = gpu_enqueue(bench, attention, GPU_FORWARD, tensors, error);
  sptx_error ignored;
  enum sptx_code ended =
      sptx_cuda_check(&bench->driver, bench->driver.StreamEndCapture(bench->stream, &graph),
                      "cuStreamEndCapture", code == SPTX_CODE_OK ? error : &ignored);
  if (code == SPTX_CODE_OK)
    code = ended;
  if (code == SPTX_CODE_OK)
    code = replay(bench, graph, tensors, error);
  if (graph)
    bench->driver.GraphDestroy(graph);
  return code;
}

enum sptx_code gpu_check_capture(gpu_bench *bench, const sptx_attention *attention,
                                 const gpu_tensors *tensors, sptx_error *error) {
  size_t bytes = tensors->bytes + tensors->lse_bytes;
  char *plain = malloc(bytes), *replayed = malloc(bytes);
  enum sptx_code code = plain && replayed
                            ? gpu_enqueue(bench, attention, GPU_FORWARD, tensors, error)
                            : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the outputs");
  for (int turn = 0; turn < 2 && code == SPTX_CODE_OK; turn++) {
    char *to = turn ? replayed : plain;
    code = turn ? capture(bench, attention, tensors, error)
                : sptx_cuda_stream_synchronize(&bench->device, bench->stream, error);
    if (code == SPTX_CODE_OK)
      code = sptx_cuda_download(&bench->device, to, tensors->o, tensors->bytes, error);
    if (code == SPTX_CODE_OK)
      code = sptx_cuda_download(&bench->device, to + tensors->bytes, tensors->lse, tensors->lse_bytes, error);
  }
  if (code == SPTX_CODE_OK && memcmp(plain, replayed, bytes) != 0)
    code = sptx_fail(error, SPTX_CODE_DEVICE, "the captured call's results differ from a plain call's");
  free(plain);
  free(replayed);
  return code;
}

static enum sptx_code fetch(gpu_bench *bench, sptx_cu_pointer from, size_t bytes, void **to,
                            sptx_error *error) {
  *to = malloc(bytes);
  if (!*to)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a tensor of %zu bytes", bytes);
  return sptx_cuda_download(&bench->device, *to, from, bytes, error);
}

static enum sptx_code fetch_all(gpu_bench *bench, bool backward, const gpu_tensors *from,
                                sptx_bench_tensors *to, sptx_error *error) {
  const struct {
    sptx_cu_pointer from;
    void **to;
  } wanted[] = {{from->q, &to->q},     {from->k, &to->k},     {from->v, &to->v},     {from->o, &to->o},
                {from->d_o, &to->d_o}, {from->d_q, &to->d_q}, {from->d_k, &to->d_k}, {from->d_v, &to->d_v}};
  void *lse;
  enum sptx_code code = fetch(bench, from->lse, from->lse_bytes, &lse, error);
  to->lse = lse;
  for (int i = 0; i < (backward ? 8 : 4) && code == SPTX_CODE_OK; i++)
    code = fetch(bench, wanted[i].from, from->bytes, wanted[i].to, error);
  return code;
}

enum sptx_code gpu_verify(gpu_bench *bench, const gpu_shape *shape, bool backward, const gpu_tensors *tensors,
                          sptx_bench_check *result, bool *exact, sptx_error *error) {
  char name[64] = "";
  sptx_param param = {name, NULL};
  if (shape->parameter) {
    snprintf(name, sizeof name, "%s", shape->parameter);
    name[strcspn(name, "=")] = '\0';
    param.value = shape->parameter + strlen(name) + 1;
  }
  sptx_bench_request request = {.pattern_path = shape->pattern,
                                .params = &param,
                                .param_count = shape->parameter != NULL,
                                .batch = shape->batch,
                                .heads = shape->heads,
                                .kv_heads = shape->heads,
                                .n_q = shape->n,
                                .n_k = shape->n,
                                .head_dim = shape->head_dim,
                                .dtype = SPTX_BF16,
                                .passes = {true, backward},
                                .threads = omp_get_max_threads()};
  sptx_bench_tensors host = {0};
  enum sptx_code code = fetch_all(bench, backward, tensors, &host, error);
  if (code == SPTX_CODE_OK)
    code = sptx_bench_verify(&request, (size_t)shape->step, &host, result, error);
  if (code == SPTX_CODE_OK)
    *exact = sptx_bench_is_exact(&request, result);
  sptx_bench_tensors_clear(&host);
  return code;
}
