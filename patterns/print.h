/* The text forms of the first two levels: a pattern with every number resolved, and its pieces. README.md
 * specifies both. */
#ifndef SPTX_PATTERNS_PRINT_H
#define SPTX_PATTERNS_PRINT_H

#include "patterns/step.h"
#include <stdio.h>

/* `--dump pattern`: the set of each step and class of heads. */
enum sptx_code sptx_print_pattern(const sptx_pattern *pattern, const sptx_selection *selection, FILE *stream,
                                  sptx_error *error);
/* `--dump pieces`: one line for each piece, counted in tiles of the given size (0: SPTX_GENERIC_TILE). */
enum sptx_code sptx_print_pieces(const sptx_pattern *pattern, const sptx_selection *selection,
                                 int64_t query_tile, int64_t key_tile, FILE *stream, sptx_error *error);

/* A view as "i = r + 128*a, r < 128 shared, a < 64": shared digits are r, s, t, u, inner digits a, b, c, d,
 * the last of them varying fastest; position is 'i' or 'j'. */
void sptx_view_print(const sptx_view *view, char position, FILE *stream);
/* A bound as a function of x, without the cut to the keys that exist. */
void sptx_bound_print(const sptx_bound *bound, FILE *stream);
/* A set on one line, in YAML's flow style. */
void sptx_set_print_line(const sptx_set *set, FILE *stream);

#endif
