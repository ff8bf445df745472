/* Hopper's own instructions (sm_90a) as functions that write inline assembly: wgmma, mbarrier, tensor copies,
 * named barriers, register reallocation, stmatrix. LLVM 19 has no intrinsics for them. Shared addresses are
 * i32 values of the shared window; parities, lanes and coordinates are i32. */
#ifndef SPTX_GEN_PTX_HOPPER_ASM_H
#define SPTX_GEN_PTX_HOPPER_ASM_H

#include "gen/ptx/emitter.h"

/* A warpgroup's matrix product D (64 x n, float32) += A (64 x 16) * B (16 x n). Thread fragments: with w the
 * warp of the warpgroup, g = lane / 4, q = lane % 4, d[4j], d[4j+1] are row 16w+g, columns 8j+2q, +1, and
 * d[4j+2], d[4j+3] the same columns of row 16w+g+8. accumulate false: d need not be set, and is overwritten.
 * The results are only valid after commit and wait. */
typedef struct sptx_wgmma {
  enum sptx_element element;     /* of A and B: F16 or BF16 */
  int n;                         /* 8..256, a multiple of 8 */
  bool transpose_a, transpose_b; /* the operand's contiguous dimension is not k (shared operands only) */
} sptx_wgmma;
void sptx_wgmma_shared(sptx_gpu_emitter *e, sptx_wgmma shape, bool accumulate, sptx_value *d,
                       sptx_value a_descriptor, sptx_value b_descriptor);
void sptx_wgmma_registers(sptx_gpu_emitter *e, sptx_wgmma shape, bool accumulate, sptx_value *d,
                          const sptx_value a[4], sptx_value b_descriptor);
void sptx_wgmma_fence(sptx_gpu_emitter *e);
void sptx_wgmma_commit(sptx_gpu_emitter *e);
/* Waits until at most `pending` groups are in flight. The values d are what the wait protects: they pass
 * through it, so that nothing reads them earlier. */
void sptx_wgmma_wait(sptx_gpu_emitter *e, int pending, sptx_value *d, int count);

/* Descriptor of a tile of chunks of 64 elements (128 bytes, 128-byte swizzle) at a 1024-byte aligned shared
 * address. k_major: the product's k runs along the chunk. Otherwise k runs along rows, and chunk_bytes is the
 * distance of one chunk to the next. Advance by adding bytes / 16. */
sptx_value sptx_descriptor_k_major(sptx_gpu_emitter *e, sptx_value address);
sptx_value sptx_descriptor_mn_major(sptx_gpu_emitter *e, sptx_value address, int chunk_bytes);

void sptx_mbarrier_init(sptx_gpu_emitter *e, sptx_value barrier, int count);
void sptx_mbarrier_init_fence(sptx_gpu_emitter *e);
void sptx_mbarrier_expect(sptx_gpu_emitter *e, sptx_value barrier, sptx_value bytes);        /* and arrives */
void sptx_mbarrier_arrive_if(sptx_gpu_emitter *e, sptx_value barrier, sptx_value condition); /* i32, not 0 */
void sptx_mbarrier_wait(sptx_gpu_emitter *e, sptx_value barrier, sptx_value parity);

/* Tensor copies through a five-dimensional map; coordinates innermost first. */
void sptx_tensor_prefetch(sptx_gpu_emitter *e, sptx_value map);
void sptx_tensor_load(sptx_gpu_emitter *e, sptx_value shared, sptx_value map, const sptx_value coordinates[5],
                      sptx_value barrier);
void sptx_tensor_store(sptx_gpu_emitter *e, sptx_value map, const sptx_value coordinates[5],
                       sptx_value shared);
void sptx_tensor_reduce_add(sptx_gpu_emitter *e, sptx_value map, const sptx_value coordinates[5],
                            sptx_value shared);
void sptx_bulk_commit(sptx_gpu_emitter *e);
void sptx_bulk_wait(sptx_gpu_emitter *e);      /* all stores are done */
void sptx_bulk_wait_read(sptx_gpu_emitter *e); /* their shared memory may be written again */
/* Ordinary shared stores before it are seen by wgmma and tensor copies after the next barrier. */
void sptx_fence_proxy_async(sptx_gpu_emitter *e);

void sptx_named_sync(sptx_gpu_emitter *e, sptx_value id, int threads);
void sptx_named_arrive(sptx_gpu_emitter *e, sptx_value id, int threads);
void sptx_warp_sync(sptx_gpu_emitter *e);
void sptx_set_registers(sptx_gpu_emitter *e, int count, bool increase);
sptx_value sptx_broadcast(sptx_gpu_emitter *e, sptx_value i32); /* lane 0's value: uniform to the assembler */

/* Two float32 rounded to two 16-bit elements in an i32, lo in the low half; and back. */
sptx_value sptx_pack(sptx_gpu_emitter *e, enum sptx_element element, sptx_value lo, sptx_value hi);
void sptx_unpack(sptx_gpu_emitter *e, enum sptx_element element, sptx_value packed, sptx_value out[2]);

/* 8 x 8 matrices of 16-bit elements between fragments and shared memory; count 2 or 4. Lane i gives the
 * address of row i % 8 of matrix i / 8. */
void sptx_stmatrix(sptx_gpu_emitter *e, sptx_value address, const sptx_value *values, int count,
                   bool transpose);
void sptx_ldmatrix(sptx_gpu_emitter *e, sptx_value address, sptx_value *values, int count);

sptx_value sptx_shared_load(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value address, int align);
void sptx_shared_store(sptx_gpu_emitter *e, sptx_value value, sptx_value address, int align);

#endif
