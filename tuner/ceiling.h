/* The ceilings of this machine that kernels are measured against, taken in the same run as the kernels, and
 * those that the cost model scales by. */
#ifndef SPTX_TUNER_CEILING_H
#define SPTX_TUNER_CEILING_H

#include "gen/rates.h"
#include "patterns/error.h"
#include "runtime/clock.h"

/* Rows and columns of the square float32 product that stands for the machine's GEMM rate. */
#define SPTX_GEMM_SIZE 2048

typedef struct sptx_gemm sptx_gemm;

/* threads >= 1. Sets OpenBLAS's thread count, which is one for the whole process. */
enum sptx_code sptx_gemm_create(int threads, sptx_gemm **gemm, sptx_error *error);
void sptx_gemm_free(sptx_gemm *gemm); /* NULL is allowed */
/* Multiplies once (OpenBLAS sgemm) and returns the seconds it took. */
double sptx_gemm_run(sptx_gemm *gemm);
/* Operations of one run: a multiplication and an addition each count as one. */
double sptx_gemm_operations(void);

/* All ceilings that the x86 cost model scales by, in about a second. Starts threads. */
enum sptx_code sptx_ceiling_measure(int threads, sptx_rates *rates, sptx_error *error);

#endif
