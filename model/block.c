/* The residual block: forward beside backward. Each backward line undoes the forward line it names. */
#include "model/block.h"

static const void *matrix_at(const struct sptx_block *block, int64_t offset) {
  return (const char *)block->matrices + (size_t)offset * sptx_dtype_size(block->type);
}

enum sptx_code sptx_linear_forward(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                   int64_t out, const void *x, const void *weight, void *y, sptx_dtype y_type,
                                   sptx_error *error) {
  return device->ops->multiply(device, rows, out, in, (sptx_matrix){(void *)x, in, type, false},
                               (sptx_matrix){(void *)weight, in, type, true},
                               (sptx_matrix){y, out, y_type, false}, false, error);
}

enum sptx_code sptx_linear_backward(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                    int64_t out, const void *x, const void *weight, const void *d_y,
                                    float *d_weight, void *d_x, sptx_error *error) {
  SPTX_TRY(device->ops->multiply(device, out, in, rows, (sptx_matrix){(void *)d_y, out, type, true},
                                 (sptx_matrix){(void *)x, in, type, false},
                                 (sptx_matrix){d_weight, in, SPTX_F32, false}, false, error));
  if (!d_x)
    return SPTX_CODE_OK;
  return device->ops->multiply(device, rows, in, out, (sptx_matrix){(void *)d_y, out, type, false},
                               (sptx_matrix){(void *)weight, in, type, false},
                               (sptx_matrix){d_x, in, type, false}, false, error);
}

static int64_t chunks_of(const sptx_device *device, int64_t rows) {
  return (rows + device->chunk_rows - 1) / device->chunk_rows;
}

/* out (width) = the sum over chunks of columns first..first + width of partial (chunks, stride). */
static enum sptx_code fold(sptx_device *device, sptx_dtype type, int64_t rows, const float *partial,
                           int64_t stride, int64_t width, float *out, sptx_error *error) {
  struct sptx_fold_args args = {partial, out, chunks_of(device, rows), stride, width};
  return SPTX_LAUNCH(device, fold, type, (width + SPTX_FOLD_COLUMNS - 1) / SPTX_FOLD_COLUMNS, &args, error);
}

enum sptx_code sptx_norm_backward(sptx_device *device, sptx_dtype type,
                                  const struct sptx_norm_backward_args *args, float *d_gain,
                                  sptx_error *error) {
  SPTX_TRY(SPTX_LAUNCH(device, norm_backward, type, chunks_of(device, args->rows), args, error));
  return fold(device, type, args->rows, args->partial, 2 * args->width, 2 * args->width, d_gain, error);
}

/* libsptx's codes are ours: runtime/sptx.h and patterns/error.h publish the same numbers. */
static enum sptx_code check_attention(sptx_status status, sptx_error *error) {
  if (status == SPTX_OK)
    return SPTX_CODE_OK;
  return sptx_fail(error, (enum sptx_code)status, "attention: %s", sptx_last_error(NULL));
}

static struct sptx_dropout dropout_of(const struct sptx_block *block, uint32_t branch) {
  struct sptx_dropout dropout = block->dropout;
  dropout.stream += branch;
  return dropout;
}

static const void *head_columns(const struct sptx_block *block, const void *qkv, int64_t which) {
  return (const char *)qkv + (size_t)(which * block->width) * sptx_dtype_size(block->type);
}

static enum sptx_code attend(const struct sptx_block *block, const struct sptx_block_activations *kept,
                             sptx_error *error) {
  void *stream = block->device->stream;
  if (block->cache)
    return check_attention(sptx_attention_decode(block->attention, block->position, kept->qkv,
                                                 head_columns(block, block->cache, 1),
                                                 head_columns(block, block->cache, 2), kept->attended, NULL,
                                                 stream),
                           error);
  return check_attention(
      sptx_attention_forward(block->attention, kept->qkv, head_columns(block, kept->qkv, 1),
                             head_columns(block, kept->qkv, 2), kept->attended, kept->lse, stream),
      error);
}

static enum sptx_code attention_forward(const struct sptx_block *block,
                                        const struct sptx_block_activations *kept, void *branch,
                                        sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width;
  struct sptx_norm_forward_args norm = {kept->h,
                                        kept->normal1,
                                        block->weights + at->norm1_gain,
                                        block->weights + at->norm1_bias,
                                        kept->mean1,
                                        kept->rstd1,
                                        width,
                                        block->norm_epsilon};
  SPTX_TRY(SPTX_LAUNCH(device, norm_forward, block->type, rows, &norm, error));
  SPTX_TRY(device->ops->multiply_add(
      device, rows, 3 * width, width, (sptx_matrix){kept->normal1, width, block->type, false},
      (sptx_matrix){(void *)matrix_at(block, at->qkv_weight), width, block->type, true},
      (sptx_matrix){kept->qkv, 3 * width, block->type, false},
      (struct sptx_bias){block->weights + at->qkv_bias, matrix_at(block, at->qkv_bias)}, error));
  SPTX_TRY(attend(block, kept, error));
  return sptx_linear_forward(device, block->type, rows, width, width, kept->attended,
                             matrix_at(block, at->projection_weight), branch, block->type, error);
}

enum sptx_code sptx_block_forward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                  const struct sptx_block_scratch *scratch, void *out, sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width, inner = block->inner;
  SPTX_TRY(attention_forward(block, kept, scratch->branch, error));
  struct sptx_residual_forward_args first = {kept->h,
                                             scratch->branch,
                                             block->weights + at->projection_bias,
                                             kept->s,
                                             dropout_of(block, 0),
                                             {NULL, kept->normal2, block->weights + at->norm2_gain,
                                              block->weights + at->norm2_bias, kept->mean2, kept->rstd2,
                                              width, block->norm_epsilon}};
  SPTX_TRY(SPTX_LAUNCH(device, residual_forward, block->type, rows, &first, error));
  SPTX_TRY(sptx_linear_forward(device, block->type, rows, width, inner, kept->normal2,
                               matrix_at(block, at->expand_weight), kept->inner, block->type, error));
  struct sptx_gelu_forward_args gelu = {kept->inner, kept->gated, block->weights + at->expand_bias, inner};
  SPTX_TRY(SPTX_LAUNCH(device, gelu_forward, block->type, rows, &gelu, error));
  if (!out)
    return SPTX_CODE_OK;
  SPTX_TRY(sptx_linear_forward(device, block->type, rows, inner, width, kept->gated,
                               matrix_at(block, at->contract_weight), scratch->branch, block->type, error));
  struct sptx_residual_forward_args second = {.x = kept->s,
                                              .branch = scratch->branch,
                                              .branch_bias = block->weights + at->contract_bias,
                                              .out = out,
                                              .dropout = dropout_of(block, 1),
                                              .norm = {.width = width}};
  return SPTX_LAUNCH(device, residual_forward, block->type, rows, &second, error);
}

/* The gradient of a branch's output and of its bias, from that of the residual sum. */
static enum sptx_code residual_backward(const struct sptx_block *block,
                                        const struct sptx_block_scratch *scratch, uint32_t branch,
                                        const void *d_out, float *d_bias, const void **d_branch,
                                        sptx_error *error) {
  struct sptx_dropout dropout = dropout_of(block, branch);
  struct sptx_residual_backward_args args = {d_out,
                                             dropout.threshold ? scratch->d_branch : NULL,
                                             scratch->partial,
                                             dropout,
                                             block->rows,
                                             block->device->chunk_rows,
                                             block->width};
  *d_branch = dropout.threshold ? scratch->d_branch : d_out;
  SPTX_TRY(SPTX_LAUNCH(block->device, residual_backward, block->type, chunks_of(block->device, block->rows),
                       &args, error));
  return fold(block->device, block->type, block->rows, scratch->partial, block->width, block->width, d_bias,
              error);
}

/* d_h holds the gradient of out; on return that of s. */
static enum sptx_code feed_forward_backward(const struct sptx_block *block,
                                            const struct sptx_block_activations *kept,
                                            const struct sptx_block_scratch *scratch, void *d_h,
                                            sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width, inner = block->inner;
  float *gradients = block->gradients;
  const void *d_branch;
  SPTX_TRY(residual_backward(block, scratch, 1, d_h, gradients + at->contract_bias, &d_branch, error));
  SPTX_TRY(sptx_linear_backward(device, block->type, rows, inner, width, kept->gated,
                                matrix_at(block, at->contract_weight), d_branch,
                                gradients + at->contract_weight, scratch->d_inner, error));
  struct sptx_gelu_backward_args gelu = {kept->inner,        scratch->d_inner,
                                         scratch->d_inner,   block->weights + at->expand_bias,
                                         scratch->partial,   rows,
                                         device->chunk_rows, inner};
  SPTX_TRY(SPTX_LAUNCH(device, gelu_backward, block->type, chunks_of(device, rows), &gelu, error));
  SPTX_TRY(
      fold(device, block->type, rows, scratch->partial, inner, inner, gradients + at->expand_bias, error));
  SPTX_TRY(sptx_linear_backward(device, block->type, rows, width, inner, kept->normal2,
                                matrix_at(block, at->expand_weight), scratch->d_inner,
                                gradients + at->expand_weight, scratch->d_normal, error));
  struct sptx_norm_backward_args norm = {kept->s,
                                         scratch->d_normal,
                                         d_h,
                                         d_h,
                                         block->weights + at->norm2_gain,
                                         kept->mean2,
                                         kept->rstd2,
                                         scratch->partial,
                                         rows,
                                         device->chunk_rows,
                                         width};
  return sptx_norm_backward(device, block->type, &norm, gradients + at->norm2_gain, error);
}

/* d_h holds the gradient of s; on return that of h. */
static enum sptx_code attention_backward(const struct sptx_block *block,
                                         const struct sptx_block_activations *kept,
                                         const struct sptx_block_scratch *scratch, void *d_h,
                                         sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width;
  float *gradients = block->gradients;
  const void *d_branch;
  SPTX_TRY(residual_backward(block, scratch, 0, d_h, gradients + at->projection_bias, &d_branch, error));
  SPTX_TRY(sptx_linear_backward(device, block->type, rows, width, width, kept->attended,
                                matrix_at(block, at->projection_weight), d_branch,
                                gradients + at->projection_weight, scratch->d_attended, error));
  SPTX_TRY(
      check_attention(sptx_attention_backward(block->attention, kept->qkv, head_columns(block, kept->qkv, 1),
                                              head_columns(block, kept->qkv, 2), kept->attended, kept->lse,
                                              scratch->d_attended, scratch->d_qkv,
                                              (void *)head_columns(block, scratch->d_qkv, 1),
                                              (void *)head_columns(block, scratch->d_qkv, 2), device->stream),
                      error));
  struct sptx_column_sum_args sum = {scratch->d_qkv, scratch->partial, rows, device->chunk_rows, 3 * width};
  SPTX_TRY(SPTX_LAUNCH(device, column_sum, block->type, chunks_of(device, rows), &sum, error));
  SPTX_TRY(fold(device, block->type, rows, scratch->partial, 3 * width, 3 * width, gradients + at->qkv_bias,
                error));
  SPTX_TRY(sptx_linear_backward(device, block->type, rows, width, 3 * width, kept->normal1,
                                matrix_at(block, at->qkv_weight), scratch->d_qkv, gradients + at->qkv_weight,
                                scratch->d_normal, error));
  struct sptx_norm_backward_args norm = {kept->h,
                                         scratch->d_normal,
                                         d_h,
                                         d_h,
                                         block->weights + at->norm1_gain,
                                         kept->mean1,
                                         kept->rstd1,
                                         scratch->partial,
                                         rows,
                                         device->chunk_rows,
                                         width};
  return sptx_norm_backward(device, block->type, &norm, gradients + at->norm1_gain, error);
}

enum sptx_code sptx_block_backward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                   const struct sptx_block_scratch *scratch, void *d_h, sptx_error *error) {
  SPTX_TRY(feed_forward_backward(block, kept, scratch, d_h, error));
  return attention_backward(block, kept, scratch, d_h, error);
}
