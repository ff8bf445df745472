/* LayerNorm (Ba et al. 2016) and the residual addition it follows, forward beside backward. */
#include "target.h"
#include <stdbool.h>

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

/* The next row is on its way while one is worked on, here and below. */
INLINE void norm_whole_rows(int64_t begin, int64_t end, const struct sptx_norm_forward_args *a, int packs) {
  const element *x = a->x;
  int64_t width = a->width;
  struct held next;
  if (FIRST_ROW < end)
    hold(&next, x + FIRST_ROW * width, width, packs);
  EACH_ROW(row) {
    const struct held now = next;
    if (row + ROW_STEP < end)
      hold(&next, x + (row + ROW_STEP) * width, width, packs);
    norm_row(a, row, &now, packs);
  }
}

KERNEL(norm_forward) {
  WITH_PACKS(a.width, norm_whole_rows(begin, end, &a, PACKS));
}

/* dropping: a constant, whether there is dropout. */
INLINE void residual_row(const struct sptx_residual_forward_args *a, int64_t row, const struct held *x,
                         const struct held *branch, int packs, bool dropping) {
  int64_t width = a->norm.width;
  element *out = (element *)a->out + row * width;
  struct held sum = {.at = out};
  EACH_NUMBERED_PACK(p, i, width, packs) {
    pack value = held_pack(branch, p, i, packs) + load_floats(a->branch_bias + i);
    if (dropping)
      value = drop(&a->dropout, (a->dropout.first_row + row) * width + i, value);
    elements narrowed = narrow(held_pack(x, p, i, packs) + value);
    store_elements(out + i, narrowed);
    if (packs)
      sum.packs[p] = narrowed;
  }
  if (a->norm.y) /* a lane reads what it has written itself */
    norm_row(&a->norm, row, &sum, packs);
}

INLINE void residual_rows(int64_t begin, int64_t end, const struct sptx_residual_forward_args *a, int packs,
                          bool dropping) {
  const element *x = a->x, *branch = a->branch;
  int64_t width = a->norm.width;
  struct held next_x, next_branch;
  if (FIRST_ROW < end) {
    hold(&next_x, x + FIRST_ROW * width, width, packs);
    hold(&next_branch, branch + FIRST_ROW * width, width, packs);
  }
  EACH_ROW(row) {
    const struct held now_x = next_x, now_branch = next_branch;
    const int64_t next = row + ROW_STEP;
    if (next < end) {
      hold(&next_x, x + next * width, width, packs);
      hold(&next_branch, branch + next * width, width, packs);
    }
    residual_row(a, row, &now_x, &now_branch, packs, dropping);
  }
}

KERNEL(residual_forward) {
  if (a.dropout.threshold)
    WITH_PACKS(a.norm.width, residual_rows(begin, end, &a, PACKS, true));
  else
    WITH_PACKS(a.norm.width, residual_rows(begin, end, &a, PACKS, false));
}

struct norm_backward_row {
  struct held x, d_y, residual;
  float mean, rstd;
};

INLINE void hold_backward_row(struct norm_backward_row *held, const struct sptx_norm_backward_args *a,
                              int64_t row, int packs) {
  const int64_t width = a->chunks.width, at = row * width;
  hold(&held->x, (const element *)a->x + at, width, packs);
  hold(&held->d_y, (const element *)a->d_y + at, width, packs);
  if (a->d_residual)
    hold(&held->residual, (const element *)a->d_residual + at, width, packs);
  held->mean = a->mean[row];
  held->rstd = a->rstd[row];
}

/* Rows of a chunk, columns from `first`. packs and dropping are constants: the packs of a row that is one
 * block, or 0; whether there is d_branch. */
INLINE void norm_backward_chunk(const struct sptx_norm_backward_args *a, int64_t chunk, int64_t first,
                                int packs, bool dropping) {
  int64_t width = a->chunks.width, row0 = chunk * a->chunks.chunk_rows;
  int64_t end_row = smaller(row0 + a->chunks.chunk_rows, a->chunks.rows);
  float *d_gain_to = a->gain_partial + chunk * a->chunks.stride;
  float *d_bias_to = a->bias_partial + chunk * a->chunks.stride;
  float *d_branch_to = a->branch_partial ? a->branch_partial + chunk * a->chunks.stride : NULL;
  COLUMN_SUMS(d_gain, d_gain_to, first, width);
  COLUMN_SUMS(d_bias, d_bias_to, first, width);
  COLUMN_SUMS(d_branch_sums, d_branch_to, first, d_branch_to ? width : 0);
  struct norm_backward_row next = {0}; /* d_residual may not be there */
  if (FIRST_MEMBER(row0) < end_row)
    hold_backward_row(&next, a, FIRST_MEMBER(row0), packs);
  EACH_MEMBER(row, row0, end_row) {
    const struct norm_backward_row now = next;
    if (row + WARPS < end_row)
      hold_backward_row(&next, a, row + WARPS, packs);
    element *d_x = (element *)a->d_x + row * width;
    element *d_branch = dropping ? (element *)a->d_branch + row * width : NULL;
    const float mean = now.mean, rstd = now.rstd;
    pack sums = {0}, dots = {0};
    EACH_NUMBERED_PACK(p, i, width, packs) {
      pack gradient = held_pack(&now.d_y, p, i, packs) * load_floats(a->gain + i);
      sums += gradient;
      dots += gradient * ((held_pack(&now.x, p, i, packs) - mean) * rstd);
    }
    float sum = lane_sum(pack_sum(sums)) / (float)width, dot = lane_sum(pack_sum(dots)) / (float)width;
    EACH_HELD_COLUMN_PACK(p, i, first, width, packs) {
      pack normal = (held_pack(&now.x, p, i, packs) - mean) * rstd;
      pack gradient = held_pack(&now.d_y, p, i, packs);
      ADD_COLUMNS(d_gain, p, i, gradient * normal);
      ADD_COLUMNS(d_bias, p, i, gradient);
      pack change = (gradient * load_floats(a->gain + i) - sum - normal * dot) * rstd;
      if (packs || a->d_residual)
        change += held_pack(&now.residual, p, i, packs);
      store_pack(d_x + i, change);
      if (dropping) {
        change = drop(&a->dropout, (a->dropout.first_row + row) * width + i, change);
        store_pack(d_branch + i, change);
      }
      if (dropping || d_branch_to)
        ADD_COLUMNS(d_branch_sums, p, i, change);
    }
  }
  KEEP_COLUMNS(d_gain, d_gain_to, first, width);
  KEEP_COLUMNS(d_bias, d_bias_to, first, width);
  if (d_branch_to)
    KEEP_COLUMNS(d_branch_sums, d_branch_to, first, width);
}

KERNEL(norm_backward) {
  EACH_CHUNK(chunk, first, a.chunks) {
    if (a.d_branch)
      WITH_PACKS(a.chunks.width, norm_backward_chunk(&a, chunk, first, PACKS, true));
    else
      WITH_PACKS(a.chunks.width, norm_backward_chunk(&a, chunk, first, PACKS, false));
  }
}
