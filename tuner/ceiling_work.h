/* What one round of the ceilings' kernels does: for those who write them and those who count. */
#ifndef SPTX_TUNER_CEILING_WORK_H
#define SPTX_TUNER_CEILING_WORK_H

enum {
  SPTX_MMA_CHAINS = 8,  /* products of 16 x 8 x 16 of a warp */
  SPTX_WGMMA_BATCH = 4, /* products of 64 x 256 x 16 of a warpgroup */
  SPTX_EXP_CHAINS = 8   /* exponentials of a thread */
};

#endif
