/* Medians and rank correlation, for counts so small that simple loops do. */
#include "runtime/statistics.h"

#include <math.h>
#include <stdlib.h>

static int compare_doubles(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double sptx_median(double *samples, int count) {
  if (count == 0)
    return 0;
  qsort(samples, (size_t)count, sizeof *samples, compare_doubles);
  return count % 2 ? samples[count / 2] : 0.5 * (samples[count / 2 - 1] + samples[count / 2]);
}

/* The mean rank of values[index] among its equals. */
static double rank_of(const double *values, int count, int index) {
  int below = 0, equal = 0;
  for (int k = 0; k < count; k++) {
    below += values[k] < values[index];
    equal += values[k] == values[index];
  }
  return below + 0.5 * (equal - 1);
}

double sptx_spearman(const double *a, const double *b, int count) {
  double mean = 0.5 * (count - 1), ab = 0, aa = 0, bb = 0;
  for (int k = 0; k < count; k++) {
    double x = rank_of(a, count, k) - mean, y = rank_of(b, count, k) - mean;
    ab += x * y, aa += x * x, bb += y * y;
  }
  return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}
