/* The Sparse Transformer's kernels and matrix products on their own, at one model's sizes: milliseconds, and
 * the bytes or operations a second that they come to. Shows where a training step's time goes.
 *
 *   model_kernels [DEVICE [ROWS [WIDTH]]]      cuda:0, 49152 rows (4 sequences of 12,288), width 512 */
#include "model/device.h"
#include "model/peak.h"
#include "runtime/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 20, TOKENS = 256 };

typedef struct bench {
  sptx_device *device;
  int64_t rows, width, inner, chunks;
  void *x, *y, *z; /* (rows, 4 width) bfloat16 */
  float *floats;   /* (rows, 256), or anything else smaller */
  uint8_t *tokens;
} bench;

static enum sptx_code report(const bench *b, const char *name, double start, double bytes, double flops,
                             sptx_error *error) {
  SPTX_TRY(b->device->ops->synchronize(b->device, error));
  double seconds = (sptx_now() - start) / RUNS;
  printf("%-34s %8.4f ms", name, 1e3 * seconds);
  if (bytes > 0)
    printf("  %7.0f GB/s", 1e-9 * bytes / seconds);
  if (flops > 0)
    printf("  %7.0f GFLOP/s", 1e-9 * flops / seconds);
  putchar('\n');
  return SPTX_CODE_OK;
}

/* Runs a kernel once, then RUNS times. elements: bfloat16 elements read and written for each row and column.
 */
#define TIME_KERNEL(b, kernel, count, args, bytes)                                                           \
  do {                                                                                                       \
    SPTX_TRY(SPTX_LAUNCH((b)->device, kernel, SPTX_BF16, count, args, error));                               \
    SPTX_TRY((b)->device->ops->synchronize((b)->device, error));                                             \
    double start_ = sptx_now();                                                                              \
    for (int run_ = 0; run_ < RUNS; run_++)                                                                  \
      SPTX_TRY(SPTX_LAUNCH((b)->device, kernel, SPTX_BF16, count, args, error));                             \
    SPTX_TRY(report(b, #kernel, start_, bytes, 0, error));                                                   \
  } while (0)

static enum sptx_code time_product(const bench *b, const char *name, int64_t m, int64_t n, int64_t k,
                                   sptx_matrix a, sptx_matrix w, sptx_matrix c, sptx_error *error) {
  double start = 0;
  for (int run = -1; run < RUNS; run++) {
    SPTX_TRY(b->device->ops->multiply(b->device, m, n, k, a, w, c, false, error));
    if (run < 0) {
      SPTX_TRY(b->device->ops->synchronize(b->device, error));
      start = sptx_now();
    }
  }
  return report(b, name, start, 0, 2.0 * (double)m * (double)n * (double)k, error);
}

/* y = x W^T, dx = dy W, dW = dy^T x of one layer's matrix. */
static enum sptx_code time_layer(const bench *b, const char *name, int64_t in, int64_t out,
                                 sptx_error *error) {
  char text[64];
  sptx_matrix x = {b->x, in, SPTX_BF16, false}, weight = {b->z, in, SPTX_BF16, true},
              y = {b->y, out, SPTX_BF16, false};
  snprintf(text, sizeof text, "%s forward", name);
  SPTX_TRY(time_product(b, text, b->rows, out, in, x, weight, y, error));
  weight.transposed = false;
  snprintf(text, sizeof text, "%s d input", name);
  SPTX_TRY(time_product(b, text, b->rows, in, out, y, weight, x, error));
  y.transposed = true;
  sptx_matrix d_weight = {b->floats, in, SPTX_F32, false};
  snprintf(text, sizeof text, "%s d weight", name);
  return time_product(b, text, out, in, b->rows, y, x, d_weight, error);
}

static enum sptx_code time_forward(const bench *b, sptx_error *error) {
  double row = 2.0 * (double)(b->rows * b->width);
  struct sptx_dropout dropout = {.threshold = 1u << 30, .scale = 1.3f};
  struct sptx_norm_forward_args norm = {b->x,      b->y,      b->floats, b->floats,
                                        b->floats, b->floats, b->width,  1e-5f};
  TIME_KERNEL(b, norm_forward, b->rows, &norm, 2 * row);
  struct sptx_residual_forward_args residual = {b->x, b->z, b->floats, b->y, dropout, norm};
  TIME_KERNEL(b, residual_forward, b->rows, &residual, 4 * row);
  residual.norm.y = NULL;
  TIME_KERNEL(b, residual_forward, b->rows, &residual, 3 * row);
  residual.dropout.threshold = 0;
  TIME_KERNEL(b, residual_forward, b->rows, &residual, 3 * row);
  struct sptx_bias_forward_args bias = {b->x, b->floats, 3 * b->width};
  TIME_KERNEL(b, bias_forward, b->rows, &bias, 6 * row);
  struct sptx_gelu_forward_args gelu = {b->x, b->y, b->floats, b->inner};
  TIME_KERNEL(b, gelu_forward, b->rows, &gelu, 8 * row);
  return SPTX_CODE_OK;
}

static enum sptx_code time_backward(const bench *b, sptx_error *error) {
  double row = 2.0 * (double)(b->rows * b->width);
  int64_t chunk = b->device->chunk_rows;
  struct sptx_dropout dropout = {.threshold = 1u << 30, .scale = 1.3f};
  struct sptx_norm_backward_args norm = {b->x,      b->y,      b->z,    b->x,  b->floats, b->floats,
                                         b->floats, b->floats, b->rows, chunk, b->width};
  TIME_KERNEL(b, norm_backward, b->chunks, &norm, 4 * row);
  struct sptx_residual_backward_args residual = {b->x, b->y, b->floats, dropout, b->rows, chunk, b->width};
  TIME_KERNEL(b, residual_backward, b->chunks, &residual, 2 * row);
  struct sptx_gelu_backward_args gelu = {b->x, b->y, b->y, b->floats, b->floats, b->rows, chunk, b->inner};
  TIME_KERNEL(b, gelu_backward, b->chunks, &gelu, 12 * row);
  struct sptx_column_sum_args sum = {b->x, b->floats, b->rows, chunk, 3 * b->width};
  TIME_KERNEL(b, column_sum, b->chunks, &sum, 3 * row);
  struct sptx_fold_args fold = {b->floats, b->y, b->chunks, b->inner, b->inner};
  TIME_KERNEL(b, fold, b->inner / SPTX_FOLD_COLUMNS, &fold, 4.0 * (double)(b->chunks * b->inner));
  struct sptx_cross_entropy_args loss = {b->floats, b->tokens, b->x, b->y, TOKENS, 1};
  TIME_KERNEL(b, cross_entropy, b->rows, &loss, (double)(6 * TOKENS * b->rows));
  struct sptx_adam_args adam = {.weight = b->x,
                                .first_moment = b->y,
                                .second_moment = b->z,
                                .gradient = b->floats,
                                .compute_weight = b->y};
  int64_t weights = b->rows * TOKENS;
  TIME_KERNEL(b, adam, weights, &adam, 30 * (double)weights);
  return SPTX_CODE_OK;
}

static enum sptx_code run(bench *b, sptx_error *error) {
  size_t bytes, floats = (size_t)(b->rows * TOKENS) * 4;
  void *memory;
  b->inner = 4 * b->width;
  bytes = (size_t)(b->rows * b->inner) * 2;
  b->chunks = (b->rows + b->device->chunk_rows - 1) / b->device->chunk_rows;
  SPTX_TRY(b->device->ops->allocate(b->device, bytes, &b->x, error));
  SPTX_TRY(b->device->ops->allocate(b->device, bytes, &b->y, error));
  SPTX_TRY(b->device->ops->allocate(b->device, bytes, &b->z, error));
  SPTX_TRY(b->device->ops->allocate(b->device, floats, &memory, error));
  b->floats = memory;
  SPTX_TRY(b->device->ops->allocate(b->device, (size_t)b->rows, &memory, error));
  b->tokens = memory;
  SPTX_TRY(time_forward(b, error));
  SPTX_TRY(time_backward(b, error));
  SPTX_TRY(time_layer(b, "q, k, v", b->width, 3 * b->width, error));
  SPTX_TRY(time_layer(b, "projection", b->width, b->width, error));
  SPTX_TRY(time_layer(b, "expand", b->width, b->inner, error));
  return time_layer(b, "contract", b->inner, b->width, error);
}

int main(int argc, char **argv) {
  bench b = {.rows = argc > 2 ? atoll(argv[2]) : 49152, .width = argc > 3 ? atoll(argv[3]) : 512};
  sptx_error error = {0};
  if (b.rows < 1 || b.width < 8 || b.width % 8) {
    fputs("usage: model_kernels [DEVICE [ROWS [WIDTH]]], WIDTH a multiple of 8\n", stderr);
    return 2;
  }
  enum sptx_code code = sptx_device_create(argc > 1 ? argv[1] : "cuda:0", 0, &b.device, &error);
  if (code == SPTX_CODE_OK) {
    code = run(&b, &error);
    void *buffers[] = {b.x, b.y, b.z, b.floats, b.tokens};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
      b.device->ops->release(b.device, buffers[i]);
    sptx_device_destroy(b.device);
  }
  if (code != SPTX_CODE_OK)
    fprintf(stderr, "model_kernels: %s\n", error.message);
  return code == SPTX_CODE_OK ? 0 : 1;
}
