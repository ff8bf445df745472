/* The loss and what follows the backward pass: cross-entropy, sums for the gradient's norm, Adam, casts. */
#include "target.h"

KERNEL(cross_entropy) {
  EACH_ROW(row) {
    const float *logits = a.logits + row * a.classes;
    float largest = -3.4e38f, sum = 0;
    EACH_LANE_IN_ORDER(i, a.classes)
    largest = __builtin_fmaxf(largest, logits[i]);
    largest = lane_max(largest);
    EACH_LANE(i, a.classes)
    sum += exp_float(logits[i] - largest);
    sum = lane_sum(sum);
    /* A NaN among the logits never wins the comparison above but always reaches the sum. */
    float target = logits[a.tokens[row]];
    FIRST_LANE a.loss[row] = sum == sum ? log_float(sum) + largest - target : sum;
    if (!a.d_logits)
      continue;
    SYNC_LANES;
    element *d_logits = (element *)a.d_logits + row * a.classes;
    float factor = a.scale / sum;
    int64_t hot = a.tokens[row];
    EACH_LANE(i, a.classes)
    d_logits[i] = narrow_one(exp_float(logits[i] - largest) * factor - (i == hot ? a.scale : 0.0f));
  }
}

KERNEL(sum) {
  EACH_ROW(chunk) {
    int64_t first = chunk * a.chunk, count = a.count - first < a.chunk ? a.count - first : a.chunk;
    const float *x = a.x + first;
    double sum = 0;
    if (a.squares) {
      EACH_LANE(i, count)
      sum += (double)x[i] * x[i];
    } else {
      EACH_LANE(i, count)
      sum += x[i];
    }
    sum = lane_sum_double(sum);
    FIRST_LANE a.partial[chunk] = sum;
  }
}

KERNEL(adam) {
  element *compute = a.compute_weight;
  EACH_ELEMENT(i) {
    float gradient = a.gradient[i] * a.scale, weight = a.weight[i];
    float first = a.beta1 * a.first_moment[i] + (1.0f - a.beta1) * gradient;
    float second = a.beta2 * a.second_moment[i] + (1.0f - a.beta2) * gradient * gradient;
    float step = first * a.correction1 / (__builtin_sqrtf(second * a.correction2) + a.epsilon);
    weight -= a.learning_rate * (step + a.weight_decay * weight);
    a.first_moment[i] = first;
    a.second_moment[i] = second;
    a.weight[i] = weight;
    if (compute)
      compute[i] = narrow_one(weight);
  }
}

KERNEL(cast) {
  element *to = a.to;
  EACH_ELEMENT(i)
  to[i] = narrow_one(a.from[i]);
}
