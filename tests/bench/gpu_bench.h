/* Timing attention on a GPU: device tensors of one shape, attentions made in parallel, medians over CUDA
 * events with the L2 cache overwritten before each call. */
#ifndef SPTX_TESTS_GPU_BENCH_H
#define SPTX_TESTS_GPU_BENCH_H

#include "runtime/cuda_device.h"
#include "tuner/bench_device.h"

typedef struct gpu_bench {
  sptx_context *context;
  sptx_cuda_driver driver;
  sptx_cuda_device device;
  sptx_bench_device *timer;
  sptx_cu_stream stream; /* the timer's */
  char where[200];       /* the GPU, the driver */
} gpu_bench;

enum sptx_code gpu_bench_open(const char *device, gpu_bench *bench, sptx_error *error);
void gpu_bench_close(gpu_bench *bench);

/* One shape, bfloat16, contiguous. */
typedef struct gpu_shape {
  const char *pattern, *parameter; /* a file's path; "name=value" or NULL */
  int64_t step, batch, heads, n, head_dim;
} gpu_shape;

enum gpu_pass { GPU_FORWARD, GPU_BACKWARD, GPU_DETERMINISTIC, GPU_PASSES }; /* the last two are backwards */
extern const char *const gpu_pass_names[];

/* Creates an attention for the shape; schedule is text, or NULL for the default. */
enum sptx_code gpu_attention_create(gpu_bench *bench, const gpu_shape *shape, enum gpu_pass pass,
                                    const char *schedule, sptx_attention **attention, sptx_error *error);

/* (batch, heads, n, head_dim) and (batch, heads, n) on the device. */
typedef struct gpu_tensors {
  sptx_cu_pointer q, k, v, o, d_o, d_q, d_k, d_v, lse;
  size_t bytes, lse_bytes;
} gpu_tensors;

/* q, k, v, d_o are normal random numbers; gradients exist only with backward. */
enum sptx_code gpu_tensors_create(gpu_bench *bench, const gpu_shape *shape, bool backward,
                                  gpu_tensors *tensors, sptx_error *error);
void gpu_tensors_clear(gpu_bench *bench, gpu_tensors *tensors);
enum sptx_code gpu_tensors_poison(gpu_bench *bench, const gpu_tensors *tensors, sptx_error *error);

enum sptx_code gpu_enqueue(gpu_bench *bench, const sptx_attention *attention, enum gpu_pass pass,
                           const gpu_tensors *tensors, sptx_error *error);
/* Median milliseconds of `samples` calls. */
enum sptx_code gpu_time(gpu_bench *bench, const sptx_attention *attention, enum gpu_pass pass,
                        const gpu_tensors *tensors, int samples, double *ms, sptx_error *error);
/* Median microseconds that the host spends in one forward call. */
enum sptx_code gpu_host_time(gpu_bench *bench, const sptx_attention *attention, const gpu_tensors *tensors,
                             double *us, sptx_error *error);
/* Captures a forward call in a graph, launches it, and compares its o and lse with a plain call's. */
enum sptx_code gpu_check_capture(gpu_bench *bench, const sptx_attention *attention,
                                 const gpu_tensors *tensors, sptx_error *error);
/* Compares what the device holds with float64, on a sample of rows. */
enum sptx_code gpu_verify(gpu_bench *bench, const gpu_shape *shape, bool backward, const gpu_tensors *tensors,
                          sptx_bench_check *check, bool *exact, sptx_error *error);

#endif
