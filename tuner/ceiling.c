/* Measures the machine's GEMM rate (OpenBLAS sgemm), the rate of copies beyond the caches and
 * that of exponentials in registers, on a given number of threads. */
#include "tuner/ceiling.h"
#include <cblas.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct sptx_gemm {
  float *a, *b, *c;
};

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

/* Seconds of one product of matrices of n by n. */
static double product(sptx_gemm *gemm, int n) {
  double start = sptx_now();
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, gemm->a, n, gemm->b, n, 0, gemm->c, n);
  return sptx_now() - start;
}

double sptx_gemm_run(sptx_gemm *gemm) {
  return product(gemm, SPTX_GEMM_SIZE);
}

double sptx_gemm_operations(void) {
  return 2.0 * SPTX_GEMM_SIZE * SPTX_GEMM_SIZE * SPTX_GEMM_SIZE;
}

/* What disturbs a measurement only adds to it: the shortest of many short ones counts. */
enum {
  EXPS = 4096,
  EXP_ROUNDS = 256,
  COPY_BYTES = 64 << 20,
  SHORT_GEMM = 512,
  SHORT_TRIES = 80,
  COPY_TRIES = 10
};

typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));

/* values = -2^values / 2 for -100 < value <= 0, as the kernels compute it: the fraction by a polynomial, the
 * rest into the exponent. */
__attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4"))) static void
exponentials_of(floats *values, int count) {
  const float rounding = 12582912; /* 1.5 * 2^23: adding it leaves the integer in the last bits */
  for (int k = 0; k < count; k++) {
    floats shifted = values[k] + rounding, f = values[k] - (shifted - rounding);
    floats power =
        1 + f * (0.693147f + f * (0.240227f + f * (0.0555041f + f * (0.00961813f + f * 0.00133336f))));
    values[k] = -0.5f * (floats)((ints)power + ((ints)shifted << 23));
  }
}

/* Seconds that all threads together take for EXP_ROUNDS * EXPS exponentials each. */
static double exponentials(int threads) {
  double start = sptx_now();
#pragma omp parallel num_threads(threads)
  {
    floats values[EXPS / 16];
    for (int k = 0; k < EXPS / 16; k++)
      values[k] = (floats){0} - (float)k / EXPS;
    for (int round = 0; round < EXP_ROUNDS; round++) {
      exponentials_of(values, EXPS / 16);
      __asm__ volatile("" : : "r"(values) : "memory"); /* the rounds must not be merged */
    }
  }
  return sptx_now() - start;
}

static double copy(char *to, const char *from, int threads) {
  double start = sptx_now();
#pragma omp parallel for num_threads(threads)
  for (int t = 0; t < threads; t++) {
    size_t begin = (size_t)COPY_BYTES / (size_t)threads * (size_t)t, size = COPY_BYTES / (size_t)threads;
    memcpy(to + begin, from + begin, size);
  }
  return sptx_now() - start;
}

/* An empty parallel loop: what each launch costs before it starts. */
static double launch(int threads) {
  volatile int done = 0;
  double start = sptx_now();
#pragma omp parallel num_threads(threads)
  (void)done;
  return sptx_now() - start;
}

static double shortest(double (*measure)(int), int threads) {
  double least = INFINITY;
  for (int k = 0; k < SHORT_TRIES; k++)
    least = fmin(least, measure(threads));
  return least;
}

enum sptx_code sptx_ceiling_measure(int threads, sptx_rates *rates, sptx_error *error) {
  sptx_gemm *gemm = NULL;
  char *memory = calloc(2, COPY_BYTES);
  if (!memory)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory to measure the rate of copies");
  enum sptx_code code = sptx_gemm_create(threads, &gemm, error);
  double multiplying = INFINITY, copying = INFINITY;
  double exps = shortest(exponentials, threads), launching = shortest(launch, threads);
  for (int k = 0; k < COPY_TRIES; k++)
    copying = fmin(copying, copy(memory + COPY_BYTES, memory, threads));
  for (int k = 0; k < SHORT_TRIES && code == SPTX_CODE_OK; k++) /* last: OpenBLAS's threads go on spinning */
    multiplying = fmin(multiplying, product(gemm, SHORT_GEMM));
  *rates = (sptx_rates){.flops = 2.0 * SHORT_GEMM * SHORT_GEMM * SHORT_GEMM / multiplying,
                        .copy = 2.0 * COPY_BYTES / copying,
                        .exp = (double)threads * EXPS * EXP_ROUNDS / exps,
                        .launch = launching,
                        .threads = threads};
  sptx_gemm_free(gemm);
  free(memory);
  return code;
}
