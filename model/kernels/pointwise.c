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

/* Several packs of a lane are loaded before the first is needed. */
KERNEL(gelu_forward) {
  EACH_ROW(row) {
    const element *x = (const element *)a.x + row * a.width;
    element *y = (element *)a.y + row * a.width;
    for (int64_t first = (int64_t)LANE * PACK; first < a.width; first += HELD_PACKS * LANES * PACK) {
      elements held[HELD_PACKS];
      EACH_HELD_PACK(p, i, first, a.width)
      held[p] = load_elements(x + i);
      EACH_HELD_PACK(p, i, first, a.width) {
        pack u = widen(held[p]) + load_floats(a.bias + i);
        store_pack(y + i, u * sigmoids(1.702f * u));
      }
    }
  }
}

KERNEL(gelu_backward) {
  int64_t width = a.chunks.width;
  EACH_CHUNK(chunk, first, a.chunks) {
    float *partial = a.partial + chunk * a.chunks.stride;
    COLUMN_SUMS(sums, partial, first, width);
    EACH_CHUNK_ROW(row, chunk, a.chunks) {
      const element *x = (const element *)a.x + row * width, *d_y = (const element *)a.d_y + row * width;
      element *d_x = (element *)a.d_x + row * width, *y = (element *)a.y + row * width;
      struct held held_x, held_d_y;
      hold_columns(&held_x, x, first, width);
      hold_columns(&held_d_y, d_y, first, width);
      EACH_COLUMN_PACK(p, i, first, width) {
        pack u = held_pack(&held_x, p, i, SUM_PACKS) + load_floats(a.bias + i), s = sigmoids(1.702f * u);
        pack gradient = held_pack(&held_d_y, p, i, SUM_PACKS) * (s + 1.702f * u * s * (1.0f - s));
        store_pack(y + i, u * s);
        store_pack(d_x + i, gradient);
        ADD_COLUMNS(sums, p, i, gradient);
      }
    }
    KEEP_COLUMNS(sums, partial, first, width);
  }
}

KERNEL(column_sum) {
  const element *x = a.x;
  int64_t width = a.chunks.width;
  EACH_CHUNK(chunk, first, a.chunks) {
    float *partial = a.partial + chunk * a.chunks.stride;
    int64_t row0 = chunk * a.chunks.chunk_rows, end_row = smaller(row0 + a.chunks.chunk_rows, a.chunks.rows);
    COLUMN_SUMS(sums, partial, first, width);
    ADD_ROWS(sums, row, row0, end_row, x + row * width, first, width)
    KEEP_COLUMNS(sums, partial, first, width);
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
