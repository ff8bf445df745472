/* What `sptx-gen --check` says: which pieces a pattern becomes for a shape, how much of what they compute is
 * useful, what is generic and why, and after how many steps information can have passed everywhere. */
#ifndef SPTX_PATTERNS_EXPLAIN_H
#define SPTX_PATTERNS_EXPLAIN_H

#include "patterns/step.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct sptx_explain_request {
  int64_t n_q, n_k, heads;
  const char *step;             /* NULL: all steps, in turn */
  bool json;                    /* one JSON object instead of text */
  int64_t query_tile, key_tile; /* that the counts are for; 0: SPTX_GENERIC_TILE */
  int64_t row_bytes;            /* of one key: head_dim * element size; 0: 256, which is 64 float32 */
} sptx_explain_request;

/* Writes the explanation. The JSON object has
 *
 *   name, about, n (keys), n_q, causal, step (the one selected, or null), tile ([queries, keys])
 *   heads: for each selected step, in turn, for each head an object of
 *     step (or null), head, pairs, density (pairs / (n_q * n_k)), share (pairs / the pairs of dense
 * attention, causal if the pattern is), empty_rows, pieces: a list of name, kind ("band", or "generic" for
 * listed tiles), query_view, key_view (sptx_view_print), band
 *       ("lo <= y < hi", or null), predicate (or null), pairs, computed_pairs, useful (pairs /
 * computed_pairs), tiles_full, tiles_partial, contiguous_keys and contiguous_bytes (that one load of a tile's
 * keys finds side by side), bytes (of metadata), why (generic or predicated: why; else "") pairs, empty_rows:
 * sums over heads; metadata_bytes: of all pieces, each class of equal heads once steps_to_full: the least
 * number of layers after which every position has information of every position that it may attend to (all
 * earlier ones and itself if the pattern is causal, else all), or null: never. Layers run the steps in the
 * pattern's order (with `step`: that step again and again), a layer attends through all its heads, and passes
 * on what it had (the residual connection). steps_to_full_sampled: false when exact (n <= SPTX_REACH_EXACT),
 * else true: then the information of steps_to_full_sources positions was followed steps_to_full_note: "", or
 * why steps_to_full is not known though it is null
 *
 * With one step (attend, heads, merge, or `step`) `heads` has one entry for each head; of an interleaved
 * pattern it has those of the first step, then of the second, and so on. Fails: what resolving and lowering
 * may give, SPTX_CODE_INVALID_ARGUMENT (a step nobody knows, tiles <= 0), SPTX_CODE_OUT_OF_MEMORY,
 * SPTX_CODE_IO when the stream refuses. */
enum sptx_code sptx_explain(const sptx_pattern *pattern, const sptx_explain_request *request, FILE *stream,
                            sptx_error *error);

#endif
