/* LayerNorm (Ba et al. 2016) and the residual addition it follows, forward beside backward. */
#include "target.h"

INLINE void norm_row(const struct sptx_norm_forward_args *a, int64_t row, const element *x) {
  int64_t width = a->width;
  element *y = (element *)a->y + row * width;
  float sum = 0, squares = 0;
  EACH_LANE(i, width)
  sum += load(x[i]);
  float mean = lane_sum(sum) / (float)width;
  EACH_LANE(i, width) {
    float centred = load(x[i]) - mean;
    squares += centred * centred;
  }
  float rstd = 1.0f / __builtin_sqrtf(lane_sum(squares) / (float)width + a->epsilon);
  EACH_LANE(i, width)
  y[i] = store((load(x[i]) - mean) * rstd * a->gain[i] + a->bias[i]);
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
    if (a.dropout.threshold == 0) {
      EACH_LANE(i, width)
      out[i] = store(load(x[i]) + load(branch[i]) + a.branch_bias[i]);
    } else {
      EACH_LANE(quad, width / 4) {
        uint32_t word[4];
        dropout_words(&a.dropout, (a.dropout.first_row + row) * (width / 4) + quad, word);
        for (int k = 0; k < 4; k++) {
          int64_t i = 4 * quad + k;
          float value = (load(branch[i]) + a.branch_bias[i]) * a.dropout.scale;
          out[i] = store(load(x[i]) + (word[k] >= a.dropout.threshold ? value : 0.0f));
        }
      }
    }
    /* Each lane wrote what other lanes now read. */
#ifdef __NVPTX__
    __nvvm_bar_warp_sync(-1);
#endif
    if (a.norm.y)
      norm_row(&a.norm, row, out);
  }
}

KERNEL(norm_backward) {
  int64_t width = a.width;
  EACH_ROW(chunk) {
    float *d_gain = a.partial + chunk * 2 * width, *d_bias = d_gain + width;
    EACH_LANE(i, 2 * width)
    d_gain[i] = 0;
#ifdef __NVPTX__
    __nvvm_bar_warp_sync(-1);
#endif
    int64_t last = (chunk + 1) * a.chunk_rows < a.rows ? (chunk + 1) * a.chunk_rows : a.rows;
    for (int64_t row = chunk * a.chunk_rows; row < last; row++) {
      const element *x = (const element *)a.x + row * width, *d_y = (const element *)a.d_y + row * width;
      element *d_x = (element *)a.d_x + row * width;
      float mean = a.mean[row], rstd = a.rstd[row], sum = 0, dot = 0;
      EACH_LANE(i, width) {
        float normal = (load(x[i]) - mean) * rstd, gradient = load(d_y[i]);
        d_gain[i] += gradient * normal;
        d_bias[i] += gradient;
        sum += gradient * a.gain[i];
        dot += gradient * a.gain[i] * normal;
      }
      sum = lane_sum(sum) / (float)width;
      dot = lane_sum(dot) / (float)width;
      const element *d_residual = a.d_residual ? (const element *)a.d_residual + row * width : NULL;
      if (d_residual) {
        EACH_LANE(i, width) {
          float normal = (load(x[i]) - mean) * rstd;
          d_x[i] = store(load(d_residual[i]) + (load(d_y[i]) * a.gain[i] - sum - normal * dot) * rstd);
        }
      } else {
        EACH_LANE(i, width) {
          float normal = (load(x[i]) - mean) * rstd;
          d_x[i] = store((load(d_y[i]) * a.gain[i] - sum - normal * dot) * rstd);
        }
      }
    }
  }
}

KERNEL(residual_backward) {
  int64_t width = a.width;
  EACH_ROW(chunk) {
    float *partial = a.partial + chunk * width;
    EACH_LANE(i, width)
    partial[i] = 0;
#ifdef __NVPTX__
    __nvvm_bar_warp_sync(-1);
#endif
    int64_t last = (chunk + 1) * a.chunk_rows < a.rows ? (chunk + 1) * a.chunk_rows : a.rows;
    for (int64_t row = chunk * a.chunk_rows; row < last; row++) {
      const element *d_out = (const element *)a.d_out + row * width;
      if (!a.d_branch) {
        EACH_LANE(i, width)
        partial[i] += load(d_out[i]);
        continue;
      }
      element *d_branch = (element *)a.d_branch + row * width;
      EACH_LANE(quad, width / 4) {
        uint32_t word[4];
        dropout_words(&a.dropout, (a.dropout.first_row + row) * (width / 4) + quad, word);
        for (int k = 0; k < 4; k++) {
          int64_t i = 4 * quad + k;
          float value = word[k] >= a.dropout.threshold ? load(d_out[i]) * a.dropout.scale : 0.0f;
          d_branch[i] = store(value);
          partial[i] += value;
        }
      }
    }
  }
}
