/* AMX: the bfloat16 forward's products on tile registers. */
#ifndef SPTX_GEN_X86_AMX_H
#define SPTX_GEN_X86_AMX_H

#include "gen/x86/pairs.h"

typedef struct sptx_x86_amx {
  LLVMValueRef keys, values, scores, output; /* emitted functions */
} sptx_x86_amx;

/* Scratch for a tile's V^T. */
int64_t sptx_x86_amx_value_bytes(int dim, int key_tile);
void sptx_x86_amx_emit_functions(sptx_x86_emitter *e, sptx_x86_amx *amx);
/* Around all else in the exported function. */
void sptx_x86_amx_configure(sptx_x86_emitter *e);
void sptx_x86_amx_release(sptx_x86_emitter *e);
/* A tile of K and, transposed, of V: for all panels of queries. */
void sptx_x86_amx_operands(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count);
/* The scores, not scaled, of keys begin .. end of the tile and a panel of queries, from q's pairs; begin is a
 * multiple of 32. */
void sptx_x86_amx_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef queries,
                         LLVMValueRef begin, LLVMValueRef end);
/* O^T += V^T P^T, from P's pairs. */
void sptx_x86_amx_output(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef output,
                         LLVMValueRef begin, LLVMValueRef end);

#endif
