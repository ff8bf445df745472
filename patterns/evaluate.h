/* Evaluation of clauses tile by tile, for the generic piece: which tiles may hold a pair, and the pairs of
 * one tile as bits. Literals that depend on i - j alone are evaluated once for each distance. Internal. */
#ifndef SPTX_PATTERNS_EVALUATE_H
#define SPTX_PATTERNS_EVALUATE_H

#include "patterns/clause.h"

typedef struct sptx_evaluator sptx_evaluator;

/* Borrows the clauses, which are disjoint. */
enum sptx_code sptx_evaluator_create(sptx_lowering *lowering, const sptx_clause_list *clauses,
                                     sptx_evaluator **evaluator);
void sptx_evaluator_free(sptx_evaluator *evaluator); /* NULL is allowed */

/* Sets bit t of marks (ceil(n / 64 / 64) words, zeroed by the caller) for each key tile that may meet the
 * queries first..last-1, at most 64 of them. */
void sptx_evaluator_mark(const sptx_evaluator *evaluator, int64_t first, int64_t last, uint64_t *marks);
/* mask[key] bit query for the tile of queries first..last-1 and the 64 keys from key_first. */
enum sptx_code sptx_evaluator_tile(const sptx_evaluator *evaluator, int64_t first, int64_t last,
                                   int64_t key_first, uint64_t *mask);

#endif
