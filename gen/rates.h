/* What a device can do at most: the scale of the cost models. Measured once (tuner/ceiling.c) and remembered
 * with the wisdom; without a measurement the built-in rates stand in, whose ratios are those of a typical
 * device. */
#ifndef SPTX_GEN_RATES_H
#define SPTX_GEN_RATES_H

typedef struct sptx_rates {
  double flops;  /* operations a second of large matrix products: float32 on the CPU, 16-bit on a GPU */
  double copy;   /* bytes a second, read and written, of a large copy */
  double exp;    /* exponentials a second: 2^x as the kernels compute it */
  double launch; /* seconds from one parallel loop, or GPU launch, to the next */
  int threads;   /* CPU threads, or multiprocessors of the GPU, that share these rates */
  int lanes;     /* x86: of the widest vectors, whose rates these are; 0: each instruction set has them */
} sptx_rates;

/* One core with AVX2 at about 3 GHz; a Hopper GPU. */
extern const sptx_rates sptx_x86_rates, sptx_ptx_rates;

#endif
