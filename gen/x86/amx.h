/* AMX: the bfloat16 forward's products on tile registers. */
#ifndef SPTX_GEN_X86_AMX_H
#define SPTX_GEN_X86_AMX_H

#include "gen/x86/pairs.h"

typedef struct sptx_x86_amx {
  LLVMValueRef keys, values, scores, output, rows, add; /* emitted functions */
} sptx_x86_amx;

/* Scratch for a tile's V^T, or K^T. */
int64_t sptx_x86_amx_transposed_bytes(int dim, int key_tile);
void sptx_x86_amx_emit_functions(sptx_x86_emitter *e, sptx_x86_amx *amx);
/* Around all else in the exported function. */
void sptx_x86_amx_configure(sptx_x86_emitter *e);
void sptx_x86_amx_release(sptx_x86_emitter *e);
/* A tile of K and, transposed, of V: for all panels of queries. In the backward V is not, K is, too. */
void sptx_x86_amx_operands(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count);
/* The scores, not scaled, of keys begin .. end of the tile and a panel of queries, from q's pairs; begin is a
 * multiple of 32. */
void sptx_x86_amx_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef queries,
                         LLVMValueRef begin, LLVMValueRef end);
/* O^T += V^T P^T, from P's pairs. */
void sptx_x86_amx_output(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef output,
                         LLVMValueRef begin, LLVMValueRef end);

/* Backward: S^T and dP^T, not scaled, of all keys of the tile. */
void sptx_x86_amx_backward_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count);
/* Adds P^T dO, or dS^T Q, to the rows of a table. weights: rounded, [key][query]; others: pairs of rows. */
void sptx_x86_amx_gradient(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef weights,
                           LLVMValueRef others, LLVMValueRef targets, LLVMValueRef count);

#endif
