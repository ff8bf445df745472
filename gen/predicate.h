/* Sets as code: membership of (query, key) pairs, for predicates of pieces on both targets. */
#ifndef SPTX_GEN_PREDICATE_H
#define SPTX_GEN_PREDICATE_H

#include "gen/ir.h"
#include "patterns/set.h"

/* i and j are positions >= 0 as i32 scalars or vectors, at least one of them a vector when the result is to
 * be one (the other is spread over its lanes). Returns i1 or a vector of i1: is (i, j) in the set? The set
 * holds no `where`, `random` or `layout` (patterns/piece.h). Numbers of the set become constants of the code.
 */
LLVMValueRef sptx_predicate_emit(sptx_ir *ir, const sptx_set *set, LLVMValueRef i, LLVMValueRef j);
/* Can the set be emitted (no `where`, `random`, `layout` in it, all numbers below 2^31)? */
int sptx_predicate_supported(const sptx_set *set);
/* Equal sets have equal hashes; names kernels. */
uint64_t sptx_predicate_hash(const sptx_set *set);

#endif
