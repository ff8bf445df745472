/* A training step of the Sparse Transformer without its attention, kernel by kernel: how often each runs, its
 * milliseconds alone and in the step, and the bytes or operations a second that these come to. Dropout and
 * recomputation are on. Shows where a step's time goes.
 *
 *   model_kernels [DEVICE [ROWS [WIDTH [LAYERS [CHUNK_ROWS]]]]]
 *
 * cuda:0, 49152 rows (4 sequences of 12,288), width 512 and 30 layers, the paper's enwik8 model, unless told;
 * CHUNK_ROWS: of kernels that reduce over rows, in place of the device's choice. */
#include "model/device.h"
#include "model/peak.h"
#include "runtime/clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 20, TOKENS = 256, PARTS = 8 };

typedef struct bench {
  sptx_device *device;
  int64_t rows, width, inner, layers, weights;
  void *x, *y, *z;                                    /* (rows, 4 width) bfloat16 */
  float *floats;                                      /* (rows, 256), or anything else smaller */
  float *partial;                                     /* (chunks, 4 width) */
  float *weight, *first_moment, *second_moment, *sum; /* (weights); sum: its gradient */
  void *half;                                         /* (weights) bfloat16 */
  uint8_t *tokens;
  int32_t *index;
  double kernels_ms, products_ms; /* a step's */
} bench;

static const struct sptx_dropout DROPOUT = {.threshold = 1u << 14, .scale = 1.3333334f};

/* calls: in a step. bytes, flops: of one. */
static enum sptx_code report(bench *b, const char *name, int64_t calls, double start, double bytes,
                             double flops, sptx_error *error) {
  SPTX_TRY(b->device->ops->synchronize(b->device, error));
  double seconds = (sptx_now() - start) / RUNS, ms = 1e3 * seconds * (double)calls;
  printf("%-34s %4ld x %8.4f ms = %7.3f ms", name, (long)calls, 1e3 * seconds, ms);
  if (bytes > 0)
    printf("  %7.0f GB/s", 1e-9 * bytes / seconds);
  if (flops > 0)
    printf("  %7.0f GFLOP/s", 1e-9 * flops / seconds);
  putchar('\n');
  *(flops > 0 ? &b->products_ms : &b->kernels_ms) += ms;
  return SPTX_CODE_OK;
}

/* Runs a kernel once, then RUNS times. */
#define TIME_KERNEL(b, name, calls, kernel, type, count, args, bytes)                                        \
  do {                                                                                                       \
    SPTX_TRY(SPTX_LAUNCH((b)->device, kernel, type, count, args, error));                                    \
    SPTX_TRY((b)->device->ops->synchronize((b)->device, error));                                             \
    double start_ = sptx_now();                                                                              \
    for (int run_ = 0; run_ < RUNS; run_++)                                                                  \
      SPTX_TRY(SPTX_LAUNCH((b)->device, kernel, type, count, args, error));                                  \
    SPTX_TRY(report(b, name, calls, start_, bytes, 0, error));                                               \
  } while (0)

static enum sptx_code time_product(bench *b, const char *name, int64_t calls, int64_t m, int64_t n, int64_t k,
                                   sptx_matrix a, sptx_matrix w, sptx_matrix c, sptx_error *error) {
  double start = 0;
  for (int run = -1; run < RUNS; run++) {
    SPTX_TRY(b->device->ops->multiply(b->device, m, n, k, a, w, c, false, error));
    if (run < 0) {
      SPTX_TRY(b->device->ops->synchronize(b->device, error));
      start = sptx_now();
    }
  }
  return report(b, name, calls, start, 0, 2.0 * (double)m * (double)n * (double)k, error);
}

/* y = x W^T, so often in a step; dx = dy W, dW = dy^T x, once for each of `layers`. */
static enum sptx_code time_layer(bench *b, const char *name, int64_t forwards, int64_t layers, int64_t in,
                                 int64_t out, sptx_error *error) {
  char text[64];
  sptx_matrix x = {b->x, in, SPTX_BF16, false}, weight = {b->z, in, SPTX_BF16, true},
              y = {b->y, out, SPTX_BF16, false};
  snprintf(text, sizeof text, "%s forward", name);
  SPTX_TRY(time_product(b, text, forwards, b->rows, out, in, x, weight, y, error));
  weight.transposed = false;
  snprintf(text, sizeof text, "%s d input", name);
  SPTX_TRY(time_product(b, text, layers, b->rows, in, out, y, weight, x, error));
  y.transposed = true;
  sptx_matrix d_weight = {b->floats, in, SPTX_F32, false};
  snprintf(text, sizeof text, "%s d weight", name);
  return time_product(b, text, layers, out, in, b->rows, y, x, d_weight, error);
}

static enum sptx_code time_forward(bench *b, sptx_error *error) {
  double row = 2.0 * (double)(b->rows * b->width);
  const int64_t layers = b->layers;
  struct sptx_norm_forward_args norm = {b->x,      b->y,      b->floats, b->floats,
                                        b->floats, b->floats, b->width,  1e-5f};
  TIME_KERNEL(b, "norm", layers, norm_forward, SPTX_BF16, b->rows, &norm, 2 * row);
  struct sptx_residual_forward_args residual = {b->x, b->z, b->floats, b->y, DROPOUT, norm};
  residual.norm.y = b->z;
  TIME_KERNEL(b, "residual, norm", 3 * layers - 1, residual_forward, SPTX_BF16, b->rows, &residual, 4 * row);
  residual.dropout.threshold = 0;
  TIME_KERNEL(b, "residual, norm, without dropout", 0, residual_forward, SPTX_BF16, b->rows, &residual,
              4 * row);
  struct sptx_gelu_forward_args gelu = {b->x, b->y, b->floats, b->inner};
  TIME_KERNEL(b, "gelu", layers, gelu_forward, SPTX_BF16, b->rows, &gelu, 8 * row);
  return SPTX_CODE_OK;
}

static enum sptx_code time_backward(bench *b, sptx_error *error) {
  const int64_t layers = b->layers, block = b->device->block_columns, stride = b->inner;
  double row = 2.0 * (double)(b->rows * b->width);
  struct sptx_chunks chunks = {b->rows, b->device->chunk_rows, b->width, block, stride};
  int64_t chunk_count = (b->rows + chunks.chunk_rows - 1) / chunks.chunk_rows;
#define INDICES(columns) (chunk_count * (((columns) + block - 1) / block))
  struct sptx_norm_backward_args norm = {b->x,
                                         b->y,
                                         b->z,
                                         b->z,
                                         b->x,
                                         b->floats,
                                         b->floats,
                                         b->floats,
                                         b->partial,
                                         b->partial + b->width,
                                         b->partial + 2 * b->width,
                                         DROPOUT,
                                         chunks};
  TIME_KERNEL(b, "norm, residual backward", 2 * layers, norm_backward, SPTX_BF16, INDICES(b->width), &norm,
              5 * row);
  norm.d_branch = NULL;
  TIME_KERNEL(b, "the same, without dropout", 0, norm_backward, SPTX_BF16, INDICES(b->width), &norm, 4 * row);
  norm.branch_partial = NULL;
  TIME_KERNEL(b, "norm backward", 1, norm_backward, SPTX_BF16, INDICES(b->width), &norm, 4 * row);
  chunks.width = b->inner;
  struct sptx_gelu_backward_args gelu = {b->x, b->y, b->y, b->x, b->floats, b->partial, chunks};
  TIME_KERNEL(b, "gelu backward", layers, gelu_backward, SPTX_BF16, INDICES(b->inner), &gelu, 16 * row);
  chunks.width = 3 * b->width;
  struct sptx_column_sum_args sum = {b->x, b->partial, chunks};
  TIME_KERNEL(b, "q, k, v bias backward", layers, column_sum, SPTX_BF16, INDICES(3 * b->width), &sum,
              3 * row);
  struct sptx_fold_args fold = {b->partial, b->floats, chunk_count, stride};
  TIME_KERNEL(b, "fold of 4 widths (a layer: 13)", layers * 13 / 4, fold, SPTX_BF16,
              b->inner / SPTX_FOLD_COLUMNS, &fold, 4.0 * (double)(chunk_count * b->inner));
  return SPTX_CODE_OK;
}

/* Tokens as frequent as words of a text: the k-th has a share of 1 / k. */
static enum sptx_code time_embedding(bench *b, sptx_error *error) {
  const int64_t block = b->device->block_columns, blocks = (b->width + block - 1) / block;
  double row = 2.0 * (double)(b->rows * b->width), shares = 0, share = 0;
  int32_t *index = malloc((size_t)(b->rows + TOKENS + 2) * sizeof *index);
  if (!index)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for an index");
  for (int token = 0; token <= TOKENS; token++)
    shares += 1.0 / (token + 1);
  for (int token = 0; token <= TOKENS + 1; share += 1.0 / ++token)
    index[token] = (int32_t)(token > TOKENS ? b->rows : (int64_t)(share / shares * (double)b->rows));
  for (int64_t k = 0; k < b->rows; k++)
    index[TOKENS + 2 + k] = (int32_t)((k * 7919) % b->rows);
  enum sptx_code code = b->device->ops->copy_in(b->device, b->index, index,
                                                (size_t)(b->rows + TOKENS + 2) * sizeof *index, error);
  free(index);
  SPTX_TRY(code);
  struct sptx_embed_backward_tokens_args tokens = {
      b->x,     b->index, b->index + TOKENS + 2, b->floats, b->floats + TOKENS * b->width, b->floats, PARTS,
      b->width, block};
  TIME_KERNEL(b, "token table backward", 1, embed_backward_tokens, SPTX_BF16, PARTS * (TOKENS + 1) * blocks,
              &tokens, row);
  struct sptx_embed_backward_positions_args positions = {b->x, {b->floats, 128, 1}, 1, b->rows, b->width,
                                                         block};
  TIME_KERNEL(b, "position table backward", 2, embed_backward_positions, SPTX_BF16, 128 * blocks, &positions,
              row);
  return SPTX_CODE_OK;
}

static enum sptx_code time_ends(bench *b, sptx_error *error) {
  struct sptx_cross_entropy_args loss = {b->floats, b->tokens, b->x, b->y, TOKENS, 1};
  TIME_KERNEL(b, "cross-entropy", 1, cross_entropy, SPTX_BF16, b->rows, &loss,
              (double)(6 * TOKENS * b->rows));
  struct sptx_sum_args sum = {b->sum, b->x, b->weights, 4096, 1};
  TIME_KERNEL(b, "gradient norm", 1, sum, SPTX_F32, (b->weights + 4095) / 4096, &sum, 4 * (double)b->weights);
  struct sptx_adam_args adam = {.weight = b->weight,
                                .first_moment = b->first_moment,
                                .second_moment = b->second_moment,
                                .gradient = b->sum,
                                .compute_weight = b->half};
  TIME_KERNEL(b, "adam", 1, adam, SPTX_BF16, b->weights, &adam, 30 * (double)b->weights);
  return SPTX_CODE_OK;
}

static enum sptx_code time_products(bench *b, sptx_error *error) {
  const int64_t layers = b->layers, forwards = 2 * layers - 1;
  SPTX_TRY(time_layer(b, "q, k, v", forwards, layers, b->width, 3 * b->width, error));
  SPTX_TRY(time_layer(b, "projection", forwards, layers, b->width, b->width, error));
  SPTX_TRY(time_layer(b, "expand", forwards, layers, b->width, b->inner, error));
  SPTX_TRY(time_layer(b, "contract", layers, layers, b->inner, b->width, error));
  return time_layer(b, "output (logits are bfloat16 here)", 1, 1, b->width, TOKENS, error);
}

static enum sptx_code run(bench *b, sptx_error *error) {
  b->inner = 4 * b->width;
  b->weights = 12 * b->width * b->width * b->layers;
  const size_t elements = (size_t)(b->rows * b->inner) * 2, floats = (size_t)b->weights * 4;
  const size_t chunks = (size_t)((b->rows + b->device->chunk_rows - 1) / b->device->chunk_rows);
  const struct {
    void *pointer;
    size_t bytes;
  } buffers[] = {{&b->x, elements},
                 {&b->y, elements},
                 {&b->z, elements},
                 {&b->floats, (size_t)(b->rows + b->inner * 4) * TOKENS * 4},
                 {&b->partial, chunks * (size_t)b->inner * 4},
                 {&b->weight, floats},
                 {&b->first_moment, floats},
                 {&b->second_moment, floats},
                 {&b->sum, floats},
                 {&b->half, floats / 2},
                 {&b->tokens, (size_t)b->rows},
                 {&b->index, (size_t)(b->rows + TOKENS + 2) * sizeof(int32_t)}};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
    void *memory;
    SPTX_TRY(b->device->ops->allocate(b->device, buffers[i].bytes, &memory, error));
    memcpy(buffers[i].pointer, &memory, sizeof memory);
  }
  printf("%ld rows, width %ld, %ld layers, chunks of %ld rows\n", (long)b->rows, (long)b->width,
         (long)b->layers, (long)b->device->chunk_rows);
  SPTX_TRY(time_forward(b, error));
  SPTX_TRY(time_backward(b, error));
  SPTX_TRY(time_embedding(b, error));
  SPTX_TRY(time_ends(b, error));
  SPTX_TRY(time_products(b, error));
  printf("a step without attention: %.2f ms of kernels, %.2f ms of products\n", b->kernels_ms,
         b->products_ms);
  return SPTX_CODE_OK;
}

int main(int argc, char **argv) {
  bench b = {.rows = argc > 2 ? atoll(argv[2]) : 49152,
             .width = argc > 3 ? atoll(argv[3]) : 512,
             .layers = argc > 4 ? atoll(argv[4]) : 30};
  const int64_t chunk_rows = argc > 5 ? atoll(argv[5]) : 0;
  sptx_error error = {0};
  if (b.rows < 1 || b.width < 8 || b.width % 8 || b.layers < 1 || chunk_rows < 0) {
    fputs("usage: model_kernels [DEVICE [ROWS [WIDTH [LAYERS [CHUNK_ROWS]]]]], WIDTH a multiple of 8\n",
          stderr);
    return 2;
  }
  enum sptx_code code = sptx_device_create(argc > 1 ? argv[1] : "cuda:0", 0, &b.device, &error);
  if (code == SPTX_CODE_OK) {
    if (chunk_rows)
      b.device->chunk_rows = chunk_rows;
    code = run(&b, &error);
    void *buffers[] = {
        b.x,    b.y,      b.z,    b.floats, b.partial, b.weight, b.sum, b.first_moment, b.second_moment,
        b.half, b.tokens, b.index};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
      b.device->ops->release(b.device, buffers[i]);
    sptx_device_destroy(b.device);
  }
  if (code != SPTX_CODE_OK)
    fprintf(stderr, "model_kernels: %s\n", error.message);
  return code == SPTX_CODE_OK ? 0 : 1;
}
