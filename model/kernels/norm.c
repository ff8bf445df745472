/* LayerNorm (Ba et al. 2016) and the residual addition it follows, forward beside backward. */
#include "target.h"

INLINE void norm_row(const struct sptx_norm_forward_args *a, int64_t row, const struct held *x, int packs) {
  int64_t width = a->width;
  element *y = (element *)a->y + row * width;
  pack sum = {0}, squares = {0};
  EACH_NUMBERED_PACK(p, i, width, packs)
  sum += held_pack(x, p, i, packs);
  float mean = lane_sum(pack_sum(sum)) / (float)width;
  EACH_NUMBERED_PACK(p, i, width, packs) {
    pack centred = held_pack(x, p, i, packs) - mean;
    squares += centred * centred;
  }
  float rstd = 1.0f / __builtin_sqrtf(lane_sum(pack_sum(squares)) / (float)width + a->epsilon);
  EACH_NUMBERED_PACK(p, i, width, packs)
  store_pack(y + i,
             (held_pack(x, p, i, packs) - mean) * rstd * load_floats(a->gain + i) + load_floats(a->bias + i));
  FIRST_LANE {
    a->mean[row] = mean;
    a->rstd[row] = rstd;
  }
}

INLINE void norm_whole_row(const struct sptx_norm_forward_args *a, int64_t row, int packs) {
  struct held x;
  hold(&x, (const element *)a->x + row * a->width, a->width, packs);
  norm_row(a, row, &x, packs);
}

KERNEL(norm_forward) {
  EACH_ROW(row)
  WITH_PACKS(a.width, norm_whole_row(&a, row, PACKS));
}

INLINE void residual_row(const struct sptx_residual_forward_args *a, int64_t row, int packs) {
  int64_t width = a->norm.width;
  element *out = (element *)a->out + row * width;
  struct held x, branch, sum = {.at = out};
  hold(&x, (const element *)a->x + row * width, width, packs);
  hold(&branch, (const element *)a->branch + row * width, width, packs);
  EACH_NUMBERED_PACK(p, i, width, packs) {
    pack value = held_pack(&branch, p, i, packs) + load_floats(a->branch_bias + i);
    if (a->dropout.threshold)
      value = drop(&a->dropout, (a->dropout.first_row + row) * width + i, value);
    elements narrowed = narrow(held_pack(&x, p, i, packs) + value);
    store_elements(out + i, narrowed);
    if (packs)
      sum.packs[p] = narrowed;
  }
  if (a->norm.y) /* a lane reads what it has written itself */
    norm_row(&a->norm, row, &sum, packs);
}

KERNEL(residual_forward) {
  EACH_ROW(row)
  WITH_PACKS(a.norm.width, residual_row(&a, row, PACKS));
}

/* Rows of a chunk, columns from `first`. packs: 0, or the packs of a row that is one block. */
INLINE void norm_backward_chunk(const struct sptx_norm_backward_args *a, int64_t chunk, int64_t first,
                                int packs) {
  int64_t width = a->chunks.width;
  float *d_gain_to = a->gain_partial + chunk * a->chunks.stride;
  float *d_bias_to = a->bias_partial + chunk * a->chunks.stride;
  float *d_branch_to = a->branch_partial ? a->branch_partial + chunk * a->chunks.stride : NULL;
  COLUMN_SUMS(d_gain, d_gain_to, first, width);
  COLUMN_SUMS(d_bias, d_bias_to, first, width);
  COLUMN_SUMS(d_branch_sums, d_branch_to, first, d_branch_to ? width : 0);
  EACH_CHUNK_ROW(row, chunk, a->chunks) {
    const element *d_residual = a->d_residual ? (const element *)a->d_residual + row * width : NULL;
    element *d_x = (element *)a->d_x + row * width;
    element *d_branch = a->d_branch ? (element *)a->d_branch + row * width : NULL;
    struct held x, d_y, residual;
    hold(&x, (const element *)a->x + row * width, width, packs);
    hold(&d_y, (const element *)a->d_y + row * width, width, packs);
    hold(&residual, d_residual, d_residual ? width : 0, packs);
    float mean = a->mean[row], rstd = a->rstd[row];
    pack sums = {0}, dots = {0};
    EACH_NUMBERED_PACK(p, i, width, packs) {
      pack gradient = held_pack(&d_y, p, i, packs) * load_floats(a->gain + i);
      sums += gradient;
      dots += gradient * ((held_pack(&x, p, i, packs) - mean) * rstd);
    }
    float sum = lane_sum(pack_sum(sums)) / (float)width, dot = lane_sum(pack_sum(dots)) / (float)width;
    EACH_COLUMN_PACK(p, i, first, width) {
      pack normal = (held_pack(&x, p, i, packs) - mean) * rstd, gradient = held_pack(&d_y, p, i, packs);
      ADD_COLUMNS(d_gain, p, i, gradient * normal);
      ADD_COLUMNS(d_bias, p, i, gradient);
      pack change = (gradient * load_floats(a->gain + i) - sum - normal * dot) * rstd;
      if (d_residual)
        change += held_pack(&residual, p, i, packs);
      store_pack(d_x + i, change);
      if (d_branch) {
        change = drop(&a->dropout, (a->dropout.first_row + row) * width + i, change);
        store_pack(d_branch + i, change);
      }
      if (d_branch_to)
        ADD_COLUMNS(d_branch_sums, p, i, change);
    }
  }
  KEEP_COLUMNS(d_gain, d_gain_to, first, width);
  KEEP_COLUMNS(d_bias, d_bias_to, first, width);
  if (d_branch_to)
    KEEP_COLUMNS(d_branch_sums, d_branch_to, first, width);
}

KERNEL(norm_backward) {
  EACH_CHUNK(chunk, first, a.chunks)
  WITH_PACKS(a.chunks.width, norm_backward_chunk(&a, chunk, first, PACKS));
}
