/* How many layers it takes until information can have passed from everywhere to everywhere it may. */
#ifndef SPTX_PATTERNS_REACH_H
#define SPTX_PATTERNS_REACH_H

#include "patterns/step.h"

#define SPTX_REACH_EXACT 4096              /* up to this n every position is followed */
#define SPTX_REACH_MOST ((int64_t)1 << 24) /* beyond this n none is */

typedef struct sptx_reach {
  int64_t layers;  /* at least 1; 0: never */
  bool known;      /* else the search was given up: n or its work is too large */
  bool sampled;    /* the information of `sources` positions was followed, not of all */
  int64_t sources; /* 0 when all were followed at once */
} sptx_reach;

/* Layer k runs steps[order[k mod order_count]]. The steps are lowered for as many queries as keys, all for
 * the same n. A layer attends through all of its heads and passes on what it had (the residual connection); a
 * causal pattern is done when every position has information of all earlier ones, another one when of all.
 * For n <= exact_up_to (SPTX_REACH_EXACT is a good choice) all positions are followed, through n * n bits of
 * memory for each step. */
enum sptx_code sptx_reach_find(const sptx_step *steps, const size_t *order, size_t order_count,
                               int64_t exact_up_to, sptx_reach *reach, sptx_error *error);

#endif
