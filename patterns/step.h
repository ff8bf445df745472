/* One step of a pattern, resolved and lowered for a shape: what explain, print, mask and draw show. */
#ifndef SPTX_PATTERNS_STEP_H
#define SPTX_PATTERNS_STEP_H

#include "patterns/pattern.h"
#include "patterns/piece.h"

/* What a tool is asked to show. step is a step's name; NULL means all steps, in turn. */
typedef struct sptx_selection {
  int64_t n_q, n_k, heads;
  const char *step;
} sptx_selection;

typedef struct sptx_step {
  const char *name; /* "" unless the pattern interleaves; the pattern's */
  sptx_instance instance;
  sptx_piece_list *classes; /* instance.class_count lists */
} sptx_step;

/* *first and *count of the steps that a name selects. Fails (SPTX_CODE_INVALID_ARGUMENT, with the names there
 * are) on a name that the pattern does not have. */
enum sptx_code sptx_step_select(const sptx_pattern *pattern, const char *name, size_t *first, size_t *count,
                                sptx_error *error);
/* Step `index` for the selection's shape. On failure *step is empty. */
enum sptx_code sptx_step_lower(const sptx_pattern *pattern, size_t index, const sptx_selection *selection,
                               sptx_step *step, sptx_error *error);
void sptx_step_clear(sptx_step *step);

/* Writes the heads of a class as "0-3,7". */
void sptx_step_print_heads(const sptx_instance *instance, int class_index, FILE *stream);

#endif
