/* Bounds of a band: from what a clause says about a key's position to bounds on its inner index in a view.
 * Internal to patterns/; band.c chooses the views. */
#ifndef SPTX_PATTERNS_BOUND_H
#define SPTX_PATTERNS_BOUND_H

#include "patterns/clause.h"

/* T(i) = i + add (block 0) or block * floor(i / block) + add, add a multiple of block. */
typedef struct sptx_threshold {
  int64_t block, add;
} sptx_threshold;

/* The keys of query i: max(lower(i), key_from) <= j < min(upper(i), key_to). */
typedef struct sptx_key_limits {
  bool has_lower, has_upper;
  sptx_threshold lower, upper;
} sptx_key_limits;

/* Where digits of the views stand: position = base + shared + step * (inner + skip). */
typedef struct sptx_frame {
  int64_t step;                   /* of the one inner digit */
  int64_t first_block;            /* same_block: the first value of the block digit ... */
  int64_t block_total;            /* ... and how many */
  int64_t residue, residues;      /* the residues residue .. residue + residues - 1 of the modulus */
  int64_t query_shift, key_shift; /* phase: what is added to the residue on either side */
} sptx_frame;

/* False where two thresholds cross: then neither is the bound. */
bool sptx_key_limits_find(const sptx_clause *clause, sptx_key_limits *limits);
/* The threshold as a bound on the inner key index; skip is how many inner indices the query view leaves out
 * at its beginning. False where it is no bound of a piece's form. */
bool sptx_bound_make(const sptx_clause *clause, const sptx_frame *f, int64_t skip, sptx_threshold t,
                     sptx_bound *bound);
sptx_bound sptx_bound_constant(int64_t value);
sptx_bound sptx_bound_line(int64_t mult, int64_t shift, int64_t period, int64_t add);

/* Keys of a run below position t. */
int64_t sptx_run_below(sptx_run run, int64_t t);
static inline bool sptx_run_restricts(sptx_run run) {
  return run.count < run.every;
}

#endif
