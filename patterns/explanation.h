/* The facts that an explanation is made of, gathered once (explain.c) and written as text (explain_text.c) or
 * as JSON (explain_json.c). Internal to patterns/. */
#ifndef SPTX_PATTERNS_EXPLANATION_H
#define SPTX_PATTERNS_EXPLANATION_H

#include "patterns/explain.h"
#include "patterns/reach.h"

typedef struct sptx_piece_facts {
  sptx_tile_counts tiles;
  int64_t contiguous_keys; /* side by side in memory, as far as a tile reaches */
  int64_t bytes;           /* of metadata */
} sptx_piece_facts;

typedef struct sptx_class_facts {
  int64_t pairs, empty_rows;
  sptx_piece_facts *pieces; /* one for each piece of the class */
} sptx_class_facts;

typedef struct sptx_step_facts {
  sptx_step step;
  sptx_class_facts *classes; /* step.instance.class_count */
} sptx_step_facts;

typedef struct sptx_explanation {
  const sptx_pattern *pattern;
  sptx_explain_request request; /* with the defaults filled in */
  sptx_step_facts *steps;
  size_t step_count;
  int64_t pairs, empty_rows; /* of all heads of all steps */
  int64_t metadata_bytes;
  double dense_pairs; /* of one head that attends to all that it may */
  bool causal;
  sptx_reach reach;
} sptx_explanation;

static inline double sptx_explanation_density(const sptx_explanation *e, int64_t pairs) {
  return (double)pairs / ((double)e->request.n_q * (double)e->request.n_k);
}

/* Pairs of the piece over the pairs that its tiles compute. */
static inline double sptx_piece_useful(const sptx_piece *piece, const sptx_piece_facts *facts) {
  return facts->tiles.computed_pairs ? (double)piece->pairs / (double)facts->tiles.computed_pairs : 0;
}

/* "" unless reach is unknown. */
const char *sptx_explanation_reach_note(const sptx_explanation *e);

void sptx_explanation_write_text(const sptx_explanation *e, FILE *stream);
enum sptx_code sptx_explanation_write_json(const sptx_explanation *e, FILE *stream, sptx_error *error);

#endif
