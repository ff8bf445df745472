/* Tiles of scratch as bfloat16, laid out for products that take their depth in pairs. */
#ifndef SPTX_GEN_X86_PAIRS_H
#define SPTX_GEN_X86_PAIRS_H

#include "gen/x86/emit.h"

typedef struct sptx_x86_pairs {
  LLVMValueRef interleave, round; /* emitted functions */
} sptx_x86_pairs;

/* void pair_rows(rows, count, target): target[k / 2][d] = the pair of bfloat16 (rows[k][d], rows[k + 1][d]);
 * where count is odd, the table must have one row more. Common to kernels, as e->pair_rows. */
void sptx_x86_emit_pair_rows(sptx_x86_emitter *e);
/* Calls it for a table of scratch. */
void sptx_x86_pairs_rows(sptx_x86_emitter *e, int64_t table, LLVMValueRef count, int64_t target);
void sptx_x86_pairs_emit_functions(sptx_x86_emitter *e, sptx_x86_pairs *pairs);

/* count rounded up to the products' step in depth: pairs, or whole tiles of AMX. */
LLVMValueRef sptx_x86_pairs_padded(sptx_x86_emitter *e, LLVMValueRef count);
LLVMValueRef sptx_x86_pairs_count(sptx_x86_emitter *e, LLVMValueRef count); /* of padded pairs */
/* Pairs of bfloat16 (low, high), lane by lane, from two vectors of floats. */
LLVMValueRef sptx_x86_pairs_of(sptx_x86_emitter *e, LLVMValueRef low, LLVMValueRef high);
/* Zeros in rows begin .. end of a [row][query] panel of floats. */
void sptx_x86_clear_rows(sptx_x86_emitter *e, int64_t tile, LLVMValueRef begin, LLVMValueRef end);
/* target[row / 2][query] = the pair of rows row and row + 1 of a [row][query] panel of floats; count is even.
 */
void sptx_x86_pairs_interleave(sptx_x86_emitter *e, const sptx_x86_pairs *pairs, LLVMValueRef source,
                               LLVMValueRef count, int64_t target);
/* target[row][query] = the tile of floats, rounded. */
void sptx_x86_pairs_round(sptx_x86_emitter *e, const sptx_x86_pairs *pairs, int64_t source,
                          LLVMValueRef count, int64_t target);
/* A tile packed to [dim][query] floats, panel by panel (unscaled: bfloat16 then holds it exactly) to pairs of
 * dims, padded with zeros to the products' step. */
void sptx_x86_pairs_dims(sptx_x86_emitter *e, const sptx_x86_pairs *pairs, int64_t source, int64_t target);

#endif
