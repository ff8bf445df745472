/* What a kind of device must be able to do: one table of functions, one row in context.c. The public
 * API validates a call, resolves and lowers the pattern, and hands the rest to the device of the context. */
#ifndef SPTX_RUNTIME_DEVICE_H
#define SPTX_RUNTIME_DEVICE_H

#include "gen/kernel.h"
#include "gen/targets.h"
#include "runtime/sptx.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sptx_cache;

/* What a device makes an attention from. All of it is borrowed for the length of the call. */
typedef struct sptx_request {
  sptx_problem problem;
  float scale, soft_cap;
  const float *alibi_slopes;    /* problem.heads floats, or NULL */
  int threads;                  /* CPU threads that create may use, at least 1 */
  bool backward, decode;        /* passes wanted besides forward */
  const sptx_piece_list *lists; /* one for each class */
  int class_count;
  const int *class_of_head;
  const struct sptx_cache *cache; /* never NULL; it may be one that keeps nothing */
  /* For each enum sptx_pass the device's own schedule struct (sptx_x86_schedule, sptx_ptx_schedule), or NULL
   * for its default. */
  const void *schedules[3];
} sptx_request;

/* The tensors of one call; those that the pass does not use are NULL. */
typedef struct sptx_tensors {
  const void *q, *k, *v;
  void *o;
  float *lse; /* NULL in forward and decode: not wanted */
  const void *d_o;
  void *d_q, *d_k, *d_v;
  int64_t position; /* decode only */
  int threads;      /* CPU threads to use, at least 1 */
  void *stream;
} sptx_tensors;

typedef struct sptx_device_kind {
  const char *name; /* what a device's name starts with, before ':' or its end: "cpu", "cuda" */
  /* name is the whole name, "cuda:1". */
  enum sptx_code (*open)(const char *name, void **device, sptx_error *error);
  void (*close)(void *device);
  /* Plans, compiles and loads the request's passes. May run on one device in several threads at once. */
  enum sptx_code (*create)(void *device, const sptx_request *request, void **attention, sptx_error *error);
  void (*destroy)(void *attention);
  /* Runs one pass, which create has prepared; from many threads at once. */
  enum sptx_code (*run)(void *attention, enum sptx_pass pass, const sptx_tensors *tensors, sptx_error *error);
  /* Fills all but struct_size and create_seconds. */
  void (*info)(void *attention, sptx_attention_info *info);
  /* What times depend on, for wisdom: model, features and threads, or name and compute capability. */
  void (*describe)(void *device, int threads, char *text, size_t size);
  enum sptx_target_family family; /* of its schedules */
  /* For SPTX_TUNE: memory that run's tensors may lie in, and copies that wait for what runs have enqueued. */
  enum sptx_code (*allocate)(void *device, size_t bytes, void **memory, sptx_error *error);
  void (*release)(void *device, void *memory); /* NULL is allowed */
  enum sptx_code (*copy_in)(void *device, void *to, const void *from, size_t bytes, sptx_error *error);
  enum sptx_code (*copy_out)(void *device, void *to, const void *from, size_t bytes, sptx_error *error);
  enum sptx_code (*wait)(void *device, sptx_error *error); /* for runs without a stream */
  /* Of the PTX family: what the device can run. */
  enum sptx_ptx_target (*target)(void *device);
} sptx_device_kind;

extern const sptx_device_kind sptx_cpu_device, sptx_cuda_kind;

#endif
