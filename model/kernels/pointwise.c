/* Bias and GELU, forward beside backward, and the sums over rows that their bias gradients need. */
#include "target.h"

INLINE pack sigmoids(pack x) {
  for (int k = 0; k < PACK; k++)
    x[k] = sigmoid(x[k]);
  return x;
}

KERNEL(bias_forward) {
  EACH_ROW(row) {
    element *x = (element *)a.x + row * a.width;
    EACH_PACK(i, a.width)
    store_pack(x + i, load_pack(x + i) + load_floats(a.bias + i));
  }
}

KERNEL(gelu_forward) {
  EACH_ROW(row) {
    const element *x = (const element *)a.x + row * a.width;
    element *y = (element *)a.y + row * a.width;
    EACH_PACK(i, a.width) {
      pack u = load_pack(x + i) + load_floats(a.bias + i);
      store_pack(y + i, u * sigmoids(1.702f * u));
    }
  }
}

KERNEL(gelu_backward) {
  EACH_ROW(chunk) {
    float *partial = a.partial + chunk * a.width;
    int64_t begin_row = chunk * a.chunk_rows, end_row = begin_row + a.chunk_rows;
    end_row = end_row < a.rows ? end_row : a.rows;
    EACH_COLUMN_BLOCK(first, a.width) {
      COLUMN_SUMS(sums, partial, a.width);
      for (int64_t row = begin_row; row < end_row; row++) {
        const element *x = (const element *)a.x + row * a.width,
                      *d_y = (const element *)a.d_y + row * a.width;
        element *d_x = (element *)a.d_x + row * a.width;
        EACH_COLUMN_PACK(p, i, first, a.width) {
          pack u = load_pack(x + i) + load_floats(a.bias + i), s = sigmoids(1.702f * u);
          pack gradient = load_pack(d_y + i) * (s + 1.702f * u * s * (1.0f - s));
          store_pack(d_x + i, gradient);
          ADD_COLUMNS(sums, p, i, gradient);
        }
      }
      KEEP_COLUMNS(sums, partial, first, a.width);
    }
  }
}

KERNEL(column_sum) {
  EACH_ROW(chunk) {
    float *partial = a.partial + chunk * a.width;
    int64_t begin_row = chunk * a.chunk_rows, end_row = begin_row + a.chunk_rows;
    end_row = end_row < a.rows ? end_row : a.rows;
    EACH_COLUMN_BLOCK(first, a.width) {
      COLUMN_SUMS(sums, partial, a.width);
      for (int64_t row = begin_row; row < end_row; row++)
        EACH_COLUMN_PACK(p, i, first, a.width)
      ADD_COLUMNS(sums, p, i, load_pack((const element *)a.x + row * a.width + i));
      KEEP_COLUMNS(sums, partial, first, a.width);
    }
  }
}

KERNEL(fold) {
  EACH_ROW(block) {
    int64_t first = block * SPTX_FOLD_COLUMNS;
    pack sum = {0};
    EACH_LANE_IN_ORDER(chunk, a.chunks)
    sum += load_floats(a.partial + chunk * a.stride + first);
    sum = lane_sum_pack(sum);
    FIRST_LANE store_floats(a.out + first, sum);
  }
}
