/* Bias and GELU, forward beside backward, and the sums over rows that their bias gradients need. */
#include "target.h"

INLINE float sigmoid(float x) {
  return 1.0f / (1.0f + exp_float(-x));
}

KERNEL(bias_forward) {
  EACH_ROW(row) {
    element *x = (element *)a.x + row * a.width;
    EACH_LANE(i, a.width)
    x[i] = store(load(x[i]) + a.bias[i]);
  }
}

KERNEL(gelu_forward) {
  EACH_ROW(row) {
    const element *x = (const element *)a.x + row * a.width;
    element *y = (element *)a.y + row * a.width;
    EACH_LANE(i, a.width) {
      float u = load(x[i]) + a.bias[i];
      y[i] = store(u * sigmoid(1.702f * u));
    }
  }
}

KERNEL(gelu_backward) {
  EACH_ROW(chunk) {
    float *partial = a.partial + chunk * a.width;
    EACH_LANE(i, a.width)
    partial[i] = 0;
    int64_t last = (chunk + 1) * a.chunk_rows < a.rows ? (chunk + 1) * a.chunk_rows : a.rows;
    for (int64_t row = chunk * a.chunk_rows; row < last; row++) {
      const element *x = (const element *)a.x + row * a.width, *d_y = (const element *)a.d_y + row * a.width;
      element *d_x = (element *)a.d_x + row * a.width;
      EACH_LANE(i, a.width) {
        float u = load(x[i]) + a.bias[i], s = sigmoid(1.702f * u);
        float gradient = load(d_y[i]) * (s + 1.702f * u * s * (1.0f - s));
        d_x[i] = store(gradient);
        partial[i] += gradient;
      }
    }
  }
}

KERNEL(column_sum) {
  EACH_ROW(chunk) {
    float *partial = a.partial + chunk * a.width;
    EACH_LANE(i, a.width)
    partial[i] = 0;
    int64_t last = (chunk + 1) * a.chunk_rows < a.rows ? (chunk + 1) * a.chunk_rows : a.rows;
    for (int64_t row = chunk * a.chunk_rows; row < last; row++) {
      const element *x = (const element *)a.x + row * a.width;
      EACH_LANE(i, a.width)
      partial[i] += load(x[i]);
    }
  }
}

KERNEL(fold) {
  EACH_ROW(block) {
    int64_t first = block * SPTX_FOLD_COLUMNS, left = a.width - first;
    int64_t columns = left < SPTX_FOLD_COLUMNS ? left : SPTX_FOLD_COLUMNS;
    float *out = a.out + first;
    EACH_LANE(i, columns)
    out[i] = 0;
    for (int64_t chunk = 0; chunk < a.chunks; chunk++) {
      const float *partial = a.partial + chunk * a.stride + first;
      EACH_LANE(i, columns)
      out[i] += partial[i];
    }
  }
}
