/* The CPU: matrix products by OpenBLAS, kernels compiled for AVX2 and AVX-512 and chosen at run time.
 *
 * One pool of threads, OpenMP's, serves everything: a product is cut along its larger side and each thread
 * calls a single-threaded OpenBLAS. Two pools would spin against each other, and with this cut no sum is
 * ever split between threads, so results do not depend on their number. */
#include "model/device.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef void kernel_function(int64_t begin, int64_t end, const void *arguments);

#define DECLARE(name, range)                                                                                 \
  kernel_function sptx_##name##_f32_v3, sptx_##name##_f16_v3, sptx_##name##_bf16_v3, sptx_##name##_f32_v4,   \
      sptx_##name##_f16_v4, sptx_##name##_bf16_v4;
SPTX_EACH_KERNEL(DECLARE)

/* [avx512][sptx_dtype][kernel] */
#define ROW_OF(variant, type)                                                                                \
  { SPTX_EACH_KERNEL(ENTRY_##type##_##variant) }
#define ENTRY_f32_v3(name, range) sptx_##name##_f32_v3,
#define ENTRY_f16_v3(name, range) sptx_##name##_f16_v3,
#define ENTRY_bf16_v3(name, range) sptx_##name##_bf16_v3,
#define ENTRY_f32_v4(name, range) sptx_##name##_f32_v4,
#define ENTRY_f16_v4(name, range) sptx_##name##_f16_v4,
#define ENTRY_bf16_v4(name, range) sptx_##name##_bf16_v4,
static kernel_function *const KERNELS[2][3][SPTX_KERNEL_COUNT] = {
    {ROW_OF(v3, f32), ROW_OF(v3, f16), ROW_OF(v3, bf16)},
    {ROW_OF(v4, f32), ROW_OF(v4, f16), ROW_OF(v4, bf16)},
};
#define ROWS_RANGE_ROW true,
#define ROWS_RANGE_STREAM true,
#define ROWS_RANGE_GROUP true,
#define ROWS_RANGE_ELEMENT false,
#define ROWS_OF(name, range) ROWS_RANGE_##range
static const bool COUNTS_ROWS[SPTX_KERNEL_COUNT] = {SPTX_EACH_KERNEL(ROWS_OF)};

struct cpu {
  sptx_device base;
  int threads, avx512;
  float *scratch; /* float32 copies of two operands of a mixed precision product, and of its result */
  size_t scratch_floats;
};

enum { ALIGNMENT = 64 };

/* Stands right before the memory that is handed out. */
struct header {
  void *block;
  size_t bytes;
};

/* From calloc, which gives large blocks as pages that cost nothing until they are written. */
static enum sptx_code allocate(sptx_device *device, size_t bytes, void **memory, sptx_error *error) {
  const size_t before = sizeof(struct header) + ALIGNMENT - 1;
  char *block = bytes > SIZE_MAX - before ? NULL : calloc(1, bytes + before);
  *memory = NULL;
  if (!block)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY,
                     "no memory for %.1f MiB; lower batch, or set recompute: true", (double)bytes / 1048576);
  char *aligned = block + before - (uintptr_t)(block + before) % ALIGNMENT;
  ((struct header *)(void *)aligned)[-1] = (struct header){block, bytes};
  device->bytes += bytes;
  if (device->bytes > device->peak_bytes)
    device->peak_bytes = device->bytes;
  *memory = aligned;
  return SPTX_CODE_OK;
}

static void release(sptx_device *device, void *memory) {
  if (!memory)
    return;
  struct header header = ((struct header *)memory)[-1];
  device->bytes -= header.bytes;
  free(header.block);
}

static enum sptx_code copy(sptx_device *device, void *to, const void *from, size_t bytes, sptx_error *error) {
  (void)device, (void)error;
  memcpy(to, from, bytes);
  return SPTX_CODE_OK;
}

static enum sptx_code launch(sptx_device *device, enum sptx_kernel kernel, sptx_dtype type, int64_t count,
                             const void *arguments, size_t arguments_size, sptx_error *error) {
  (void)arguments_size, (void)error;
  const struct cpu *cpu = (const struct cpu *)device;
  kernel_function *run = KERNELS[cpu->avx512][type][kernel];
  /* Element ranges are cut at multiples of a cache line, and short ones are not worth waking threads. */
  int64_t grain = COUNTS_ROWS[kernel] ? 1 : 4096, pieces = (count + grain - 1) / grain;
  int threads = pieces < cpu->threads ? (int)pieces : cpu->threads;
  if (threads <= 1) {
    run(0, count, arguments);
    return SPTX_CODE_OK;
  }
#pragma omp parallel num_threads(threads)
  {
    int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    int64_t begin = pieces * thread / team * grain, end = pieces * (thread + 1) / team * grain;
    if (begin < count)
      run(begin, end < count ? end : count, arguments);
  }
  return SPTX_CODE_OK;
}

/* One thread's share: rows [r0, r1) of c by columns [c0, c1). */
static void multiply_share(int64_t r0, int64_t r1, int64_t c0, int64_t c1, int64_t k, sptx_matrix a,
                           sptx_matrix b, sptx_matrix c, bool accumulate) {
  const float *pa = (const float *)a.data + (a.transposed ? r0 : r0 * a.stride);
  const float *pb = (const float *)b.data + (b.transposed ? c0 * b.stride : c0);
  float *pc = (float *)c.data + r0 * c.stride + c0;
  if (r1 <= r0 || c1 <= c0)
    return;
  if (r1 - r0 == 1 && b.transposed && !a.transposed) { /* one position: a product by a vector packs nothing */
    cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)(c1 - c0), (int)k, 1.0f, pb, (int)b.stride, pa, 1,
                accumulate ? 1.0f : 0.0f, pc, 1);
    return;
  }
  cblas_sgemm(CblasRowMajor, a.transposed ? CblasTrans : CblasNoTrans,
              b.transposed ? CblasTrans : CblasNoTrans, (int)(r1 - r0), (int)(c1 - c0), (int)k, 1.0f, pa,
              (int)a.stride, pb, (int)b.stride, accumulate ? 1.0f : 0.0f, pc, (int)c.stride);
}

static void multiply_floats(const struct cpu *cpu, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                            sptx_matrix b, sptx_matrix c, bool accumulate) {
  if (cpu->threads == 1 || (double)m * (double)n * (double)k < 1e5) {
    multiply_share(0, m, 0, n, k, a, b, c, accumulate);
    return;
  }
#pragma omp parallel num_threads(cpu->threads)
  {
    int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    int64_t side = m >= n ? m : n, blocks = (side + 15) / 16;
    int64_t begin = blocks * thread / team * 16, end = blocks * (thread + 1) / team * 16;
    end = end < side ? end : side;
    if (m >= n)
      multiply_share(begin, end, 0, n, k, a, b, c, accumulate);
    else
      multiply_share(0, m, begin, end, k, a, b, c, accumulate);
  }
}

static void widen(const struct cpu *cpu, const void *from, sptx_dtype type, int64_t rows, int64_t columns,
                  int64_t stride, float *to) {
#pragma omp parallel for num_threads(cpu->threads) if (rows > 16)
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < columns; i++) {
      if (type == SPTX_BF16) {
        uint32_t bits = (uint32_t)((const uint16_t *)from)[r * stride + i] << 16;
        memcpy(&to[r * columns + i], &bits, sizeof bits);
      } else
        to[r * columns + i] = (float)((const _Float16 *)from)[r * stride + i];
    }
}

/* Float32 view of a stored matrix of rows x columns, through the scratch when it is not float32 already. */
static sptx_matrix as_floats(const struct cpu *cpu, sptx_matrix matrix, int64_t rows, int64_t columns,
                             float **scratch) {
  if (matrix.type == SPTX_F32)
    return matrix;
  widen(cpu, matrix.data, matrix.type, rows, columns, matrix.stride, *scratch);
  sptx_matrix result = {*scratch, columns, SPTX_F32, matrix.transposed};
  *scratch += rows * columns;
  return result;
}

static enum sptx_code multiply(sptx_device *device, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                               sptx_matrix b, sptx_matrix c, bool accumulate, sptx_error *error) {
  struct cpu *cpu = (struct cpu *)device;
  if (a.type == SPTX_F32 && b.type == SPTX_F32 && c.type == SPTX_F32) {
    multiply_floats(cpu, m, n, k, a, b, c, accumulate);
    return SPTX_CODE_OK;
  }
  size_t needed = (size_t)(m * k + k * n + m * n);
  if (needed > cpu->scratch_floats) {
    release(device, cpu->scratch);
    cpu->scratch_floats = 0;
    SPTX_TRY(allocate(device, needed * sizeof(float), (void **)&cpu->scratch, error));
    cpu->scratch_floats = needed;
  }
  float *scratch = cpu->scratch;
  a = as_floats(cpu, a, a.transposed ? k : m, a.transposed ? m : k, &scratch);
  b = as_floats(cpu, b, b.transposed ? n : k, b.transposed ? k : n, &scratch);
  if (c.type == SPTX_F32) {
    multiply_floats(cpu, m, n, k, a, b, c, accumulate);
    return SPTX_CODE_OK;
  }
  /* Results of the compute type are never accumulated into: that would round twice. */
  multiply_floats(cpu, m, n, k, a, b, (sptx_matrix){scratch, n, SPTX_F32, false}, false);
  for (int64_t r = 0; r < m; r++) {
    if (c.stride == n && r > 0)
      break; /* contiguous: one call below took all rows */
    struct sptx_cast_args cast = {scratch + r * n, (uint16_t *)c.data + r * c.stride};
    SPTX_TRY(SPTX_LAUNCH(device, cast, c.type, c.stride == n ? m * n : n, &cast, error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code multiply_add(sptx_device *device, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                                   sptx_matrix b, sptx_matrix c, struct sptx_bias bias, sptx_error *error) {
  SPTX_TRY(multiply(device, m, n, k, a, b, c, false, error));
  struct sptx_bias_forward_args args = {c.data, bias.floats, n};
  return SPTX_LAUNCH(device, bias_forward, c.type, m, &args, error);
}

static enum sptx_code synchronize(sptx_device *device, sptx_error *error) {
  (void)device, (void)error;
  return SPTX_CODE_OK;
}

static void destroy(sptx_device *device) {
  release(device, ((struct cpu *)device)->scratch);
  free(device);
}

static const struct sptx_device_ops CPU_OPS = {allocate,     release, copy,        copy,   multiply,
                                               multiply_add, launch,  synchronize, destroy};

enum sptx_code sptx_device_create_cpu(int threads, sptx_device **device, sptx_error *error) {
  *device = NULL;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return sptx_fail(error, SPTX_CODE_NO_DEVICE,
                     "this processor lacks AVX2, FMA or F16C, which the kernels need");
  struct cpu *cpu = calloc(1, sizeof *cpu);
  if (!cpu)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a device");
  openblas_set_num_threads(1);
  cpu->base.ops = &CPU_OPS;
  cpu->base.chunk_rows = 64;
  cpu->base.block_columns = 1 << 30; /* all: a row lies in the cache */
  cpu->threads = threads > 0 ? threads : omp_get_num_procs();
  cpu->avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  *device = &cpu->base;
  return SPTX_CODE_OK;
}
