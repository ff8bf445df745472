/* Pictures of patterns, after figure 3 of Child et al. 2019: for each step what it attends to for one query,
 * on the sequence laid out as rows of a grid, and the connectivity matrix; pieces have colours and a legend.
 */
#ifndef SPTX_PATTERNS_DRAW_H
#define SPTX_PATTERNS_DRAW_H

#include "patterns/step.h"

#define SPTX_DRAW_MAX_N 65536

typedef struct sptx_draw_request {
  int64_t n_q, n_k, heads;
  const char *step; /* NULL: all steps, side by side */
  int64_t query;    /* the query that the upper pictures show, 0 <= query < n_q; -1: one in the last third */
  int64_t row;      /* positions in a row of the upper pictures; 0: what the pattern's views suggest */
} sptx_draw_request;

/* Draws the pattern into path, which ends in .svg or .png (else SPTX_CODE_INVALID_ARGUMENT). Heads that
 * differ are drawn one below the other, at most SPTX_DRAW_MAX_CLASSES of them. The file appears whole or not
 * at all. Fails besides: SPTX_CODE_INVALID_ARGUMENT (n_k above SPTX_DRAW_MAX_N), SPTX_CODE_IO,
 * SPTX_CODE_OUT_OF_MEMORY, what resolving and lowering may give. */
#define SPTX_DRAW_MAX_CLASSES 4
enum sptx_code sptx_draw(const sptx_pattern *pattern, const sptx_draw_request *request, const char *path,
                         sptx_error *error);

#endif
