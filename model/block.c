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

/* d_weight = d_y^T x. */
static enum sptx_code weight_gradient(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                      int64_t out, const void *x, const void *d_y, float *d_weight,
                                      sptx_error *error) {
  return device->ops->multiply(device, out, in, rows, (sptx_matrix){(void *)d_y, out, type, true},
                               (sptx_matrix){(void *)x, in, type, false},
                               (sptx_matrix){d_weight, in, SPTX_F32, false}, false, error);
}

/* d_x = d_y W. */
static enum sptx_code input_gradient(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                     int64_t out, const void *weight, const void *d_y, void *d_x,
                                     sptx_error *error) {
  return device->ops->multiply(device, rows, in, out, (sptx_matrix){(void *)d_y, out, type, false},
                               (sptx_matrix){(void *)weight, in, type, false},
                               (sptx_matrix){d_x, in, type, false}, false, error);
}

enum sptx_code sptx_linear_backward(sptx_device *device, sptx_dtype type, int64_t rows, int64_t in,
                                    int64_t out, const void *x, const void *weight, const void *d_y,
                                    float *d_weight, void *d_x, sptx_error *error) {
  SPTX_TRY(weight_gradient(device, type, rows, in, out, x, d_y, d_weight, error));
  return input_gradient(device, type, rows, in, out, weight, d_y, d_x, error);
}

static struct sptx_chunks chunks_of(const struct sptx_block *block, const struct sptx_block_scratch *scratch,
                                    int64_t width) {
  return (struct sptx_chunks){block->rows, block->device->chunk_rows, width, block->device->block_columns,
                              scratch->partial_stride};
}

static int64_t chunk_count(const struct sptx_block *block) {
  return (block->rows + block->device->chunk_rows - 1) / block->device->chunk_rows;
}

static int64_t indices_of(const struct sptx_block *block, int64_t width) {
  return chunk_count(block) * ((width + block->device->block_columns - 1) / block->device->block_columns);
}

enum sptx_code sptx_fold(const struct sptx_block *block, const struct sptx_block_scratch *scratch,
                         const float *partial, int64_t begin, int64_t end, sptx_error *error) {
  struct sptx_fold_args args = {partial, block->gradients + begin, chunk_count(block),
                                scratch->partial_stride};
  return SPTX_LAUNCH(block->device, fold, block->type, (end - begin) / SPTX_FOLD_COLUMNS, &args, error);
}

enum sptx_code sptx_norm_backward(const struct sptx_block *block, const struct sptx_block_scratch *scratch,
                                  struct sptx_norm_backward_args args, const struct sptx_dropout *dropout,
                                  sptx_error *error) {
  args.d_y = scratch->branch;
  args.chunks = chunks_of(block, scratch, block->width);
  if (dropout) {
    args.dropout = *dropout;
    args.d_branch = dropout->threshold ? scratch->d_branch : NULL;
    args.branch_partial = args.gain_partial - (args.bias_partial - args.gain_partial);
  }
  return SPTX_LAUNCH(block->device, norm_backward, block->type, indices_of(block, block->width), &args,
                     error);
}

/* libsptx's codes are ours: runtime/sptx.h and patterns/error.h publish the same numbers. */
static enum sptx_code check_attention(sptx_status status, sptx_error *error) {
  if (status == SPTX_OK)
    return SPTX_CODE_OK;
  return sptx_fail(error, (enum sptx_code)status, "attention: %s", sptx_last_error(NULL));
}

struct sptx_dropout sptx_block_dropout(const struct sptx_block *block, uint32_t branch) {
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

struct sptx_norm_forward_args sptx_block_norm(const struct sptx_block *block,
                                              const struct sptx_block_activations *kept) {
  const struct sptx_layer_offsets *at = block->at;
  return (struct sptx_norm_forward_args){kept->h,
                                         kept->normal1,
                                         block->weights + at->norm1_gain,
                                         block->weights + at->norm1_bias,
                                         kept->mean1,
                                         kept->rstd1,
                                         block->width,
                                         SPTX_NORM_EPSILON};
}

static enum sptx_code attention_forward(const struct sptx_block *block,
                                        const struct sptx_block_activations *kept, void *branch,
                                        sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width;
  SPTX_TRY(device->ops->multiply_add(
      device, rows, 3 * width, width, (sptx_matrix){kept->normal1, width, block->type, false},
      (sptx_matrix){(void *)matrix_at(block, at->qkv_weight), width, block->type, true},
      (sptx_matrix){kept->qkv, 3 * width, block->type, false},
      (struct sptx_bias){block->weights + at->qkv_bias, matrix_at(block, at->qkv_bias)}, error));
  if (!block->attended)
    SPTX_TRY(attend(block, kept, error));
  return sptx_linear_forward(device, block->type, rows, width, width, kept->attended,
                             matrix_at(block, at->projection_weight), branch, block->type, error);
}

enum sptx_code sptx_block_forward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                  const struct sptx_block_scratch *scratch, void *out,
                                  const struct sptx_norm_forward_args *next, sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width, inner = block->inner;
  SPTX_TRY(attention_forward(block, kept, scratch->branch, error));
  struct sptx_residual_forward_args first = {kept->h,
                                             scratch->branch,
                                             block->weights + at->projection_bias,
                                             kept->s,
                                             sptx_block_dropout(block, 0),
                                             {NULL, kept->normal2, block->weights + at->norm2_gain,
                                              block->weights + at->norm2_bias, kept->mean2, kept->rstd2,
                                              width, SPTX_NORM_EPSILON}};
  SPTX_TRY(SPTX_LAUNCH(device, residual_forward, block->type, rows, &first, error));
  SPTX_TRY(sptx_linear_forward(device, block->type, rows, width, inner, kept->normal2,
                               matrix_at(block, at->expand_weight), kept->inner, block->type, error));
  if (!out) /* the backward pass makes what GELU gives once more */
    return SPTX_CODE_OK;
  struct sptx_gelu_forward_args gelu = {kept->inner, scratch->gated, block->weights + at->expand_bias, inner};
  SPTX_TRY(SPTX_LAUNCH(device, gelu_forward, block->type, rows, &gelu, error));
  SPTX_TRY(sptx_linear_forward(device, block->type, rows, inner, width, scratch->gated,
                               matrix_at(block, at->contract_weight), scratch->branch, block->type, error));
  struct sptx_residual_forward_args second = {.x = kept->s,
                                              .branch = scratch->branch,
                                              .branch_bias = block->weights + at->contract_bias,
                                              .out = out,
                                              .dropout = sptx_block_dropout(block, 1),
                                              .norm = *next};
  return SPTX_LAUNCH(device, residual_forward, block->type, rows, &second, error);
}

/* The gradient of a branch's output, where that of the residual sum is d_h. */
static const void *branch_gradient(const struct sptx_block *block, const struct sptx_block_scratch *scratch,
                                   const void *d_h) {
  return block->dropout.threshold ? scratch->d_branch : d_h;
}

/* Where the sums of the vector at `offset` go. */
static float *partial_at(const struct sptx_block *block, const struct sptx_block_scratch *scratch,
                         int64_t offset) {
  const struct sptx_layer_offsets *at = block->at;
  int64_t vector = at->norm1_bias - at->norm1_gain; /* contract_bias of the layer below comes first */
  return scratch->partial + vector + (offset - at->norm1_gain);
}

/* d_h holds the gradient of out; on return that of s. */
static enum sptx_code feed_forward_backward(const struct sptx_block *block,
                                            const struct sptx_block_activations *kept,
                                            const struct sptx_block_scratch *scratch, void *d_h,
                                            sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width, inner = block->inner;
  const void *d_branch = branch_gradient(block, scratch, d_h);
  void *d_inner = scratch->gated, *gated = kept->inner;
  SPTX_TRY(input_gradient(device, block->type, rows, inner, width, matrix_at(block, at->contract_weight),
                          d_branch, d_inner, error));
  struct sptx_gelu_backward_args gelu = {.x = kept->inner,
                                         .d_y = d_inner,
                                         .d_x = d_inner,
                                         .y = gated,
                                         .bias = block->weights + at->expand_bias,
                                         .partial = partial_at(block, scratch, at->expand_bias),
                                         .chunks = chunks_of(block, scratch, inner)};
  SPTX_TRY(SPTX_LAUNCH(device, gelu_backward, block->type, indices_of(block, inner), &gelu, error));
  SPTX_TRY(weight_gradient(device, block->type, rows, inner, width, gated, d_branch,
                           block->gradients + at->contract_weight, error));
  SPTX_TRY(sptx_linear_backward(device, block->type, rows, width, inner, kept->normal2,
                                matrix_at(block, at->expand_weight), d_inner,
                                block->gradients + at->expand_weight, scratch->branch, error));
  struct sptx_norm_backward_args norm = {.x = kept->s,
                                         .d_residual = d_h,
                                         .d_x = d_h,
                                         .gain = block->weights + at->norm2_gain,
                                         .mean = kept->mean2,
                                         .rstd = kept->rstd2,
                                         .gain_partial = partial_at(block, scratch, at->norm2_gain),
                                         .bias_partial = partial_at(block, scratch, at->norm2_bias)};
  const struct sptx_dropout dropout = sptx_block_dropout(block, 0);
  return sptx_norm_backward(block, scratch, norm, &dropout, error);
}

/* d_h holds the gradient of s; on return that of h. */
static enum sptx_code attention_backward(const struct sptx_block *block,
                                         const struct sptx_block_activations *kept,
                                         const struct sptx_block_scratch *scratch,
                                         const struct sptx_dropout *below, void *d_h, sptx_error *error) {
  sptx_device *device = block->device;
  const struct sptx_layer_offsets *at = block->at;
  int64_t rows = block->rows, width = block->width;
  void *d_attended = scratch->branch, *d_qkv = scratch->gated;
  SPTX_TRY(sptx_linear_backward(device, block->type, rows, width, width, kept->attended,
                                matrix_at(block, at->projection_weight), branch_gradient(block, scratch, d_h),
                                block->gradients + at->projection_weight, d_attended, error));
  SPTX_TRY(
      check_attention(sptx_attention_backward(block->attention, kept->qkv, head_columns(block, kept->qkv, 1),
                                              head_columns(block, kept->qkv, 2), kept->attended, kept->lse,
                                              d_attended, d_qkv, (void *)head_columns(block, d_qkv, 1),
                                              (void *)head_columns(block, d_qkv, 2), device->stream),
                      error));
  struct sptx_column_sum_args sum = {d_qkv, partial_at(block, scratch, at->qkv_bias),
                                     chunks_of(block, scratch, 3 * width)};
  SPTX_TRY(SPTX_LAUNCH(device, column_sum, block->type, indices_of(block, 3 * width), &sum, error));
  SPTX_TRY(sptx_linear_backward(device, block->type, rows, width, 3 * width, kept->normal1,
                                matrix_at(block, at->qkv_weight), d_qkv, block->gradients + at->qkv_weight,
                                scratch->branch, error));
  struct sptx_norm_backward_args norm = {.x = kept->h,
                                         .d_residual = d_h,
                                         .d_x = d_h,
                                         .gain = block->weights + at->norm1_gain,
                                         .mean = kept->mean1,
                                         .rstd = kept->rstd1,
                                         .gain_partial = partial_at(block, scratch, at->norm1_gain),
                                         .bias_partial = partial_at(block, scratch, at->norm1_bias)};
  return sptx_norm_backward(block, scratch, norm, below, error);
}

enum sptx_code sptx_block_backward(const struct sptx_block *block, const struct sptx_block_activations *kept,
                                   const struct sptx_block_scratch *scratch, const struct sptx_dropout *below,
                                   void *d_h, sptx_error *error) {
  const struct sptx_layer_offsets *at = block->at;
  SPTX_TRY(feed_forward_backward(block, kept, scratch, d_h, error));
  SPTX_TRY(attention_backward(block, kept, scratch, below, d_h, error));
  int64_t vector = at->norm1_bias - at->norm1_gain, begin = at->norm1_gain - (below ? vector : 0);
  return sptx_fold(block, scratch, partial_at(block, scratch, begin), begin, at->contract_bias, error);
}
