/* LayerNorm (Ba et al. 2016) and the residual addition it follows, forward beside backward. */
#include "target.h"

INLINE void norm_row(const struct sptx_norm_forward_args *a, int64_t row, const element *x) {
  int64_t width = a->width;
  element *y = (element *)a->y + row * width;
  pack sum = {0}, squares = {0};
  EACH_PACK(i, width)
  sum += load_pack(x + i);
  float mean = lane_sum(pack_sum(sum)) / (float)width;
  EACH_PACK(i, width) {
    pack centred = load_pack(x + i) - mean;
    squares += centred * centred;
  }
  float rstd = 1.0f / __builtin_sqrtf(lane_sum(pack_sum(squares)) / (float)width + a->epsilon);
  EACH_PACK(i, width)
  store_pack(y + i, (load_pack(x + i) - mean) * rstd * load_floats(a->gain + i) + load_floats(a->bias + i));
  FIRST_LANE {
    a->mean[row] = mean;
    a->rstd[row] = rstd;
  }
}

KERNEL(norm_forward) {
  EACH_ROW(row)
  norm_row(&a, row, (const element *)a.x + row * a.width);
}

KERNEL(residual_forward) {
  int64_t width = a.norm.width;
  EACH_ROW(row) {
    const element *x = (const element *)a.x + row * width, *branch = (const element *)a.branch + row * width;
    element *out = (element *)a.out + row * width;
    EACH_PACK(i, width) {
      pack value = load_pack(branch + i) + load_floats(a.branch_bias + i);
      if (a.dropout.threshold)
        value = drop(&a.dropout, (a.dropout.first_row + row) * width + i, value);
      store_pack(out + i, load_pack(x + i) + value);
    }
    SYNC_LANES;
    if (a.norm.y)
      norm_row(&a.norm, row, out);
  }
}

KERNEL(norm_backward) {
  int64_t width = a.width;
  EACH_ROW(chunk) {
    float *partial = a.partial + chunk * 2 * width;
    int64_t begin_row = chunk * a.chunk_rows, end_row = begin_row + a.chunk_rows;
    end_row = end_row < a.rows ? end_row : a.rows;
    EACH_COLUMN_BLOCK(first, width) {
      COLUMN_SUMS(d_gain, partial, width);
      COLUMN_SUMS(d_bias, partial + width, width);
      for (int64_t row = begin_row; row < end_row; row++) {
        const element *x = (const element *)a.x + row * width, *d_y = (const element *)a.d_y + row * width;
        const element *d_residual = a.d_residual ? (const element *)a.d_residual + row * width : NULL;
        element *d_x = (element *)a.d_x + row * width;
        float mean = a.mean[row], rstd = a.rstd[row];
        pack sums = {0}, dots = {0};
        EACH_PACK(i, width) {
          pack gradient = load_pack(d_y + i) * load_floats(a.gain + i);
          sums += gradient;
          dots += gradient * ((load_pack(x + i) - mean) * rstd);
        }
        float sum = lane_sum(pack_sum(sums)) / (float)width, dot = lane_sum(pack_sum(dots)) / (float)width;
        EACH_COLUMN_PACK(p, i, first, width) {
          pack normal = (load_pack(x + i) - mean) * rstd, gradient = load_pack(d_y + i);
          ADD_COLUMNS(d_gain, p, i, gradient * normal);
          ADD_COLUMNS(d_bias, p, i, gradient);
          pack change = (gradient * load_floats(a.gain + i) - sum - normal * dot) * rstd;
          store_pack(d_x + i, d_residual ? load_pack(d_residual + i) + change : change);
        }
      }
      KEEP_COLUMNS(d_gain, partial, first, width);
      KEEP_COLUMNS(d_bias, partial + width, first, width);
    }
  }
}

KERNEL(residual_backward) {
  int64_t width = a.width;
  EACH_ROW(chunk) {
    float *partial = a.partial + chunk * width;
    int64_t begin_row = chunk * a.chunk_rows, end_row = begin_row + a.chunk_rows;
    end_row = end_row < a.rows ? end_row : a.rows;
    EACH_COLUMN_BLOCK(first, width) {
      COLUMN_SUMS(sums, partial, width);
      for (int64_t row = begin_row; row < end_row; row++) {
        const element *d_out = (const element *)a.d_out + row * width;
        element *d_branch = a.d_branch ? (element *)a.d_branch + row * width : NULL;
        EACH_COLUMN_PACK(p, i, first, width) {
          pack value = load_pack(d_out + i);
          if (d_branch) {
            value = drop(&a.dropout, (a.dropout.first_row + row) * width + i, value);
            store_pack(d_branch + i, value);
          }
          ADD_COLUMNS(sums, p, i, value);
        }
      }
      KEEP_COLUMNS(sums, partial, first, width);
    }
  }
}
