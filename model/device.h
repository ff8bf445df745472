/* What the model asks of a device: memory, matrix products, and the kernels of model/kernels. The model's
 * layers are written once against this table; device_cpu.c fills it with OpenBLAS and OpenMP,
 * device_cuda.c with cuBLASLt and PTX. Calls are
 * ordered as on one stream; only copy_out and synchronize wait. */
#ifndef SPTX_MODEL_DEVICE_H
#define SPTX_MODEL_DEVICE_H

#include "model/kernels/kernels.h"
#include "patterns/error.h"
#include "runtime/sptx.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Element [r][c] of the stored matrix is data[r * stride + c]; transposed says how a product reads it. */
typedef struct sptx_matrix {
  void *data;
  int64_t stride;
  sptx_dtype type;
  bool transposed;
} sptx_matrix;

/* The same values twice: in float32, and in the compute type. */
struct sptx_bias {
  const float *floats;
  const void *elements;
};

typedef struct sptx_device sptx_device;

struct sptx_device_ops {
  enum sptx_code (*allocate)(sptx_device *device, size_t bytes, void **memory,
                             sptx_error *error); /* zeroed */
  void (*release)(sptx_device *device, void *memory);
  enum sptx_code (*copy_in)(sptx_device *device, void *to, const void *host, size_t bytes, sptx_error *error);
  enum sptx_code (*copy_out)(sptx_device *device, void *host, const void *from, size_t bytes,
                             sptx_error *error);
  /* c (m x n) = op(a) (m x k) * op(b) (k x n) + (accumulate ? c : 0); float32 accumulation. */
  enum sptx_code (*multiply)(sptx_device *device, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                             sptx_matrix b, sptx_matrix c, bool accumulate, sptx_error *error);
  /* c (m x n) = a (m x k) * op(b) (k x n) + bias, which has n entries, in each row. */
  enum sptx_code (*multiply_add)(sptx_device *device, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                                 sptx_matrix b, sptx_matrix c, struct sptx_bias bias, sptx_error *error);
  /* Runs a kernel of the given element type over indices 0..count with its argument struct. */
  enum sptx_code (*launch)(sptx_device *device, enum sptx_kernel kernel, sptx_dtype type, int64_t count,
                           const void *arguments, size_t arguments_size, sptx_error *error);
  enum sptx_code (*synchronize)(sptx_device *device, sptx_error *error);
  void (*destroy)(sptx_device *device);
};

struct sptx_device {
  const struct sptx_device_ops *ops;
  void *stream;                          /* for sptx_attention_*; NULL on the CPU */
  const struct sptx_cuda_driver *driver; /* of a GPU; NULL on the CPU */
  int64_t chunk_rows, block_columns;     /* of kernels that reduce over rows: see sptx_chunks */
  bool deterministic;                    /* no choice of algorithms by a clock */
  size_t bytes, peak_bytes;
};

/* threads 0: all usable cores. Several devices may live side by side; one is used by one thread at a time.
 * Fails: SPTX_CODE_OUT_OF_MEMORY. */
enum sptx_code sptx_device_create_cpu(int threads, sptx_device **device, sptx_error *error);
/* A GPU; its context is current in the calling thread, the only one to use the device, until it is destroyed.
 * Fails: SPTX_CODE_NO_DEVICE (no driver, no such GPU, no cuBLASLt), SPTX_CODE_DEVICE,
 * SPTX_CODE_DEVICE_MEMORY, SPTX_CODE_OUT_OF_MEMORY. */
enum sptx_code sptx_device_create_cuda(int ordinal, sptx_device **device, sptx_error *error);
/* name: "cpu" or "cuda:N". Fails: SPTX_CODE_INVALID_ARGUMENT, SPTX_CODE_NO_DEVICE. */
enum sptx_code sptx_device_create(const char *name, int threads, sptx_device **device, sptx_error *error);
void sptx_device_destroy(sptx_device *device); /* NULL is allowed */
/* One process a device: of the processes of a machine, number local_rank takes the GPU that many places after
 * the named one. name (size bytes) becomes its name; any other stays. */
void sptx_device_choose(char *name, size_t size, int local_rank);

static inline size_t sptx_dtype_size(sptx_dtype type) {
  return type == SPTX_F32 ? 4 : 2;
}

#define SPTX_LAUNCH(device, kernel, type, count, arguments, error)                                           \
  (device)->ops->launch(device, SPTX_KERNEL_##kernel, type, count, arguments, sizeof *(arguments), error)

#endif
