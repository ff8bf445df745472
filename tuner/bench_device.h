/* Where a benchmark's tensors are and what times its calls: host memory and the clock for "cpu", a GPU's
 * memory and CUDA events for "cuda:N". */
#ifndef SPTX_TUNER_BENCH_DEVICE_H
#define SPTX_TUNER_BENCH_DEVICE_H

#include "tuner/bench.h"

typedef struct sptx_bench_device sptx_bench_device;

/* name: "cpu", with the threads that calls run with, or "cuda:N". For use by one thread; on a GPU its context
 * is the thread's current one until close. */
enum sptx_code sptx_bench_device_open(const char *name, int threads, sptx_bench_device **device,
                                      sptx_error *error);
void sptx_bench_device_close(sptx_bench_device *device); /* NULL is allowed */
bool sptx_bench_device_is_gpu(const sptx_bench_device *device);
/* What calls are to be enqueued on; NULL on the CPU. */
void *sptx_bench_device_stream(const sptx_bench_device *device);

enum sptx_code sptx_bench_device_alloc(sptx_bench_device *device, size_t bytes, void **memory,
                                       sptx_error *error);
void sptx_bench_device_free(sptx_bench_device *device, void *memory); /* NULL is allowed */

/* Copies of the host's tensors on the device; on the CPU the tensors themselves. unplace frees copies only.
 */
enum sptx_code sptx_bench_place(sptx_bench_device *device, const sptx_bench_request *request,
                                const sptx_bench_tensors *host, sptx_bench_tensors *placed,
                                sptx_error *error);
void sptx_bench_unplace(sptx_bench_device *device, sptx_bench_tensors *placed);
/* Waits for what is enqueued, and copies what passes write back to the host's tensors. */
enum sptx_code sptx_bench_fetch(sptx_bench_device *device, const sptx_bench_request *request,
                                const sptx_bench_tensors *placed, sptx_bench_tensors *host,
                                sptx_error *error);

/* Seconds of one call, the mean of several. On the CPU each thread has a processor of its own meanwhile,
 * where there are enough. On a GPU each is timed alone, by events around it, after a buffer larger than the
 * L2 cache was overwritten: that keeps the GPU busy while the host enqueues, so that no launch latency is
 * counted. */
enum sptx_code sptx_bench_time(sptx_bench_device *device, enum sptx_code (*call)(void *, sptx_error *),
                               void *argument, int calls, double *seconds, sptx_error *error);

#endif
