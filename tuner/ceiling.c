/* Measures the machine's GEMM rate: OpenBLAS sgemm of fixed size on a given number of threads. */
#include "tuner/ceiling.h"
#include <cblas.h>
#include <stdlib.h>
#include <time.h>

struct sptx_gemm {
  float *a, *b, *c;
};

double sptx_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

enum sptx_code sptx_gemm_create(int threads, sptx_gemm **gemm, sptx_error *error) {
  const size_t count = (size_t)SPTX_GEMM_SIZE * SPTX_GEMM_SIZE;
  float *matrices = aligned_alloc(64, 3 * count * sizeof(float));
  *gemm = malloc(sizeof **gemm);
  if (!matrices || !*gemm) {
    free(matrices);
    free(*gemm);
    *gemm = NULL;
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the matrices of the GEMM measurement");
  }
  **gemm = (sptx_gemm){matrices, matrices + count, matrices + 2 * count};
  for (size_t i = 0; i < 2 * count; i++)
    matrices[i] = (float)(i % 17) - 8;
  for (size_t i = 2 * count; i < 3 * count; i++)
    matrices[i] = 0;
  openblas_set_num_threads(threads);
  return SPTX_CODE_OK;
}

void sptx_gemm_free(sptx_gemm *gemm) {
  if (gemm)
    free(gemm->a);
  free(gemm);
}

double sptx_gemm_run(sptx_gemm *gemm) {
  const int n = SPTX_GEMM_SIZE;
  double start = sptx_now();
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, gemm->a, n, gemm->b, n, 0, gemm->c, n);
  return sptx_now() - start;
}

double sptx_gemm_operations(void) {
  return 2.0 * SPTX_GEMM_SIZE * SPTX_GEMM_SIZE * SPTX_GEMM_SIZE;
}
