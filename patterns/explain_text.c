/* An explanation as text for people: the same facts as in the JSON form, heads that are equal told once. */
#include "patterns/explanation.h"
#include "patterns/print.h"

#include <inttypes.h>

static void write_piece(const sptx_explanation *e, int number, const sptx_piece *piece,
                        const sptx_piece_facts *facts, FILE *stream) {
  fprintf(stream, "  %d. %s (%s)\n", number, piece->name,
          piece->kind == SPTX_PIECE_TILES ? "generic: a list of tiles" : "band");
  fputs("     queries   ", stream);
  sptx_view_print(&piece->query, 'i', stream);
  fputs("\n     keys      ", stream);
  sptx_view_print(&piece->key, 'j', stream);
  if (piece->kind == SPTX_PIECE_BAND) {
    fputs("\n     band      ", stream);
    sptx_bound_print(&piece->lo, stream);
    fputs(" <= y < ", stream);
    sptx_bound_print(&piece->hi, stream);
  }
  if (piece->predicate) {
    fputs("\n     only      ", stream);
    sptx_set_print_line(piece->predicate, stream);
  }
  fprintf(stream,
          "\n     score     %.2f %% useful: %" PRId64 " of the %" PRId64 " pairs in %" PRId64
          " full and %" PRId64 " partial tiles\n               %" PRId64
          " keys of a tile side by side, %" PRId64 " bytes\n",
          100 * sptx_piece_useful(piece, facts), piece->pairs, facts->tiles.computed_pairs, facts->tiles.full,
          facts->tiles.partial, facts->contiguous_keys, facts->contiguous_keys * e->request.row_bytes);
  fprintf(stream, "     metadata  %" PRId64 " bytes\n", facts->bytes);
  if (*piece->why)
    fprintf(stream, "     why       %s\n", piece->why);
}

static void write_class(const sptx_explanation *e, const sptx_step_facts *step, int class_index,
                        FILE *stream) {
  const sptx_class_facts *facts = &step->classes[class_index];
  const sptx_piece_list *list = &step->step.classes[class_index];
  fputs(*step->step.name ? "\nstep " : "\n", stream);
  fprintf(stream, "%s%sheads ", step->step.name, *step->step.name ? ", " : "");
  sptx_step_print_heads(&step->step.instance, class_index, stream);
  fprintf(stream, ": %" PRId64 " pairs, %.4f %% of all, %.4f %% of dense%s attention", facts->pairs,
          100 * sptx_explanation_density(e, facts->pairs), 100 * (double)facts->pairs / e->dense_pairs,
          e->causal ? " causal" : "");
  if (facts->empty_rows)
    fprintf(stream, "; %" PRId64 " queries attend to nothing", facts->empty_rows);
  fputc('\n', stream);
  for (int p = 0; p < list->count; p++)
    write_piece(e, p + 1, &list->pieces[p], &facts->pieces[p], stream);
}

static void write_reach(const sptx_explanation *e, FILE *stream) {
  const sptx_reach *reach = &e->reach;
  fputs("steps to full: ", stream);
  if (!reach->known)
    fprintf(stream, "unknown (%s)", sptx_explanation_reach_note(e));
  else if (reach->layers == 0)
    fputs("never", stream);
  else
    fprintf(stream, "%" PRId64, reach->layers);
  if (reach->sampled)
    fprintf(stream, ", sampled from %" PRId64 " positions", reach->sources);
  fputc('\n', stream);
}

void sptx_explanation_write_text(const sptx_explanation *e, FILE *stream) {
  const sptx_explain_request *r = &e->request;
  const char *about = sptx_pattern_about(e->pattern);
  fprintf(stream, "%s%s%s\n", sptx_pattern_name(e->pattern), *about ? ": " : "", about);
  fprintf(stream, "%" PRId64 " queries, %" PRId64 " keys%s, tiles of %" PRId64 " x %" PRId64 "\n", r->n_q,
          r->n_k, e->causal ? ", causal" : "", r->query_tile, r->key_tile);
  for (size_t k = 0; k < e->step_count; k++)
    for (int c = 0; c < e->steps[k].step.instance.class_count; c++)
      write_class(e, &e->steps[k], c, stream);
  fprintf(stream, "\nmetadata: %" PRId64 " bytes\n", e->metadata_bytes);
  write_reach(e, stream);
}
