/* A program with attention kernels that sptx-gen has emitted: it links fixed_merged_forward.o and
 * fixed_merged_backward.o, and neither sptx nor LLVM. It compares them with plain loops over the pattern's
 * definition: own block of 64, and the last 8 positions of every block (Child et al. 2019, section 4.3).
 *
 *   sptx-gen patterns/library/fixed-merged.yaml --n 500 --heads 2 --head-dim 32 --set stride=64 \
 *     --set columns=8 --pass forward,backward -o out
 *   cc -fopenmp -Iout examples/emitted_kernel.c out/fixed_merged_*.o -lm
 */
#include "fixed_merged.h"
#include <math.h>
#include <stdio.h>

enum { HEADS = FIXED_MERGED_HEADS, N = FIXED_MERGED_N_K, D = FIXED_MERGED_HEAD_DIM, COUNT = HEADS * N * D };
enum { STRIDE = 64, COLUMNS = 8 };

static int attends(int i, int j) {
  return j <= i && (i / STRIDE == j / STRIDE || j % STRIDE >= STRIDE - COLUMNS);
}

static float random_number(void) {
  static unsigned state = 1;
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / (1 << 23) - 1;
}

static double dot(const float *a, const float *b) {
  double sum = 0;
  for (int d = 0; d < D; d++)
    sum += (double)a[d] * b[d];
  return sum;
}

/* One query's output and, through d_o, its part of the gradients, in float64. */
static void plain_row(const float *q, const float *k, const float *v, const float *d_o, int i, double scale,
                      double *o, double *d_q, double *d_k, double *d_v) {
  double p[N], total = 0, delta = 0;
  for (int j = 0; j <= i; j++)
    total += p[j] = attends(i, j) ? exp(scale * dot(q, k + j * D)) : 0;
  for (int j = 0; j <= i; j++) {
    p[j] /= total;
    delta += p[j] * dot(d_o, v + j * D);
    for (int d = 0; d < D; d++)
      o[d] += p[j] * v[j * D + d];
  }
  for (int j = 0; j <= i; j++) {
    double d_score = scale * p[j] * (dot(d_o, v + j * D) - delta);
    for (int d = 0; d < D; d++) {
      d_q[d] += d_score * k[j * D + d];
      d_k[j * D + d] += d_score * q[d];
      d_v[j * D + d] += p[j] * d_o[d];
    }
  }
}

static double worst(const float *got, const double *want) {
  double most = 0;
  for (int e = 0; e < COUNT; e++)
    most = fmax(most, isnan(got[e]) ? INFINITY : fabs(got[e] - want[e]));
  return most;
}

int main(void) {
  static float q[COUNT], k[COUNT], v[COUNT], o[COUNT], d_o[COUNT], d_q[COUNT], d_k[COUNT], d_v[COUNT];
  static float lse[HEADS * N];
  static double want_o[COUNT], want_q[COUNT], want_k[COUNT], want_v[COUNT];
  const float scale = 1 / sqrtf(D);
  for (int e = 0; e < COUNT; e++)
    q[e] = random_number(), k[e] = random_number(), v[e] = random_number(), d_o[e] = random_number();

  int status = fixed_merged_forward(q, k, v, o, lse, scale, 0);
  if (status == FIXED_MERGED_DONE)
    status = fixed_merged_backward(q, k, v, o, lse, d_o, d_q, d_k, d_v, scale, 0);
  if (status != FIXED_MERGED_DONE) {
    puts(status == FIXED_MERGED_WRONG_CPU ? "this CPU lacks the kernels' instructions" : "out of memory");
    return 1;
  }

  for (int h = 0; h < HEADS; h++)
    for (int i = 0; i < N; i++) {
      int head = h * N * D, row = head + i * D;
      plain_row(q + row, k + head, v + head, d_o + row, i, scale, want_o + row, want_q + row, want_k + head,
                want_v + head);
    }
  const double errors[] = {worst(o, want_o), worst(d_q, want_q), worst(d_k, want_k), worst(d_v, want_v)};
  printf("greatest differences from float64: o %.1e, d_q %.1e, d_k %.1e, d_v %.1e\n", errors[0], errors[1],
         errors[2], errors[3]);
  for (int t = 0; t < 4; t++)
    if (!(errors[t] < 1e-5))
      return 1;
  return 0;
}
