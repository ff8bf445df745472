/* Text forms of patterns and pieces, as README.md specifies them; golden files pin them. */
#include "patterns/print.h"
#include "patterns/clause.h"
#include "patterns/primitives.h"

#include <inttypes.h>

static void print_digit(int64_t stride, char letter, FILE *stream) {
  if (stride == 1)
    fputc(letter, stream);
  else
    fprintf(stream, "%" PRId64 "*%c", stride, letter);
}

void sptx_view_print(const sptx_view *view, char position, FILE *stream) {
  static const char shared_letters[] = "rstu", inner_letters[] = "abcd";
  _Static_assert(sizeof shared_letters == SPTX_MAX_DIGITS + 1, "a letter for each digit");
  fprintf(stream, "%c = ", position);
  if (view->base)
    fprintf(stream, "%" PRId64 " + ", view->base);
  for (int k = 0; k < view->shared_count; k++) {
    print_digit(view->shared_stride[k], shared_letters[k], stream);
    fputs(" + ", stream);
  }
  for (int k = 0; k < view->inner_count; k++) {
    fputs(k ? " + " : "", stream);
    print_digit(view->inner_stride[k], inner_letters[k], stream);
  }
  for (int k = 0; k < view->shared_count; k++)
    fprintf(stream, ", %c < %" PRId64 " shared", shared_letters[k], view->shared_size[k]);
  for (int k = 0; k < view->inner_count; k++)
    fprintf(stream, ", %c < %" PRId64, inner_letters[k], view->inner_size[k]);
}

static void print_offset(int64_t offset, FILE *stream) {
  if (offset)
    fprintf(stream, offset < 0 ? " - %" PRId64 : " + %" PRId64, offset < 0 ? -offset : offset);
}

/* x + shift, in brackets where it has two terms. */
static void print_shifted(int64_t shift, FILE *stream) {
  fputs(shift ? "(x" : "x", stream);
  print_offset(shift, stream);
  fputs(shift ? ")" : "", stream);
}

static void print_steps(const sptx_bound *b, FILE *stream) {
  if (b->mult != 1)
    fprintf(stream, "%" PRId64 "*", b->mult);
  if (b->period == 1) {
    print_shifted(b->shift, stream);
  } else {
    fputs("floor(", stream);
    print_shifted(b->shift, stream);
    fprintf(stream, " / %" PRId64 ")", b->period);
  }
  if (b->ramp_max == 0)
    return;
  fputs(" + clamp(", stream);
  print_shifted(b->shift, stream);
  fprintf(stream, " mod %" PRId64, b->period);
  print_offset(-b->ramp_from, stream);
  fprintf(stream, ", 0, %" PRId64 ")", b->ramp_max);
}

void sptx_bound_print(const sptx_bound *b, FILE *stream) {
  if (b->low == b->high || (b->mult == 0 && b->ramp_max == 0)) {
    int64_t value = b->add < b->low ? b->low : b->add > b->high ? b->high : b->add;
    fprintf(stream, "%" PRId64, b->low == b->high ? b->low : value);
    return;
  }
  bool cut = b->low > 0 || b->high < SPTX_FAR; /* below 0 there are no keys, and none beyond SPTX_FAR */
  fputs(cut ? "clamp(" : "", stream);
  if (b->mult == 1 && b->period == 1 && b->ramp_max == 0) {
    fputc('x', stream);
    print_offset(b->shift + b->add, stream);
  } else {
    print_steps(b, stream);
    print_offset(b->add, stream);
  }
  if (!cut)
    return;
  fprintf(stream, ", %" PRId64 ", ", b->low);
  fprintf(stream, b->high < SPTX_FAR ? "%" PRId64 ")" : "n)", b->high);
}

void sptx_set_print_line(const sptx_set *set, FILE *stream) {
  if (set->kind < SPTX_SET_ANY) {
    bool bare = sptx_primitive_of(set->kind)->print == NULL;
    fputs(bare ? "" : "{", stream);
    sptx_set_print(set, 0, stream);
    fputs(bare ? "" : "}", stream);
    return;
  }
  if (set->kind == SPTX_SET_NOT) {
    fputs("{not: ", stream);
    sptx_set_print_line(set->children[0], stream);
    fputc('}', stream);
    return;
  }
  fputs(set->kind == SPTX_SET_ANY ? "{any: [" : "{all_of: [", stream);
  for (int k = 0; k < set->child_count; k++) {
    fputs(k ? ", " : "", stream);
    sptx_set_print_line(set->children[k], stream);
  }
  fputs("]}", stream);
}

static void print_heading(const sptx_pattern *pattern, const sptx_instance *instance, FILE *stream) {
  fprintf(stream, "pattern %s, n_q %" PRId64 ", n_k %" PRId64 "%s\n", sptx_pattern_name(pattern),
          instance->n_q, instance->n_k, instance->causal ? ", causal" : "");
}

static void print_step_heading(const sptx_pattern *pattern, size_t step, const sptx_instance *instance,
                               int class_index, FILE *stream) {
  const char *name = sptx_pattern_step_name(pattern, step);
  fprintf(stream, "%s%s, heads ", *name ? "step " : "attend", name);
  sptx_step_print_heads(instance, class_index, stream);
}

enum sptx_code sptx_print_pattern(const sptx_pattern *pattern, const sptx_selection *selection, FILE *stream,
                                  sptx_error *error) {
  enum { INDENT = 2 };
  size_t first, count;
  SPTX_TRY(sptx_step_select(pattern, selection->step, &first, &count, error));
  for (size_t step = first; step < first + count; step++) {
    sptx_instance instance;
    SPTX_TRY(sptx_pattern_resolve(pattern, step, selection->heads, selection->n_q, selection->n_k, &instance,
                                  error));
    if (step == first)
      print_heading(pattern, &instance, stream);
    for (int k = 0; k < instance.class_count; k++) {
      print_step_heading(pattern, step, &instance, k, stream);
      fprintf(stream, "\n%*s", INDENT, "");
      sptx_set_print(instance.classes[k], INDENT, stream);
      fputc('\n', stream);
    }
    sptx_instance_clear(&instance);
  }
  return SPTX_CODE_OK;
}

static void print_band(const sptx_piece *piece, FILE *stream) {
  fputs(" | ", stream);
  sptx_bound_print(&piece->lo, stream);
  fputs(" <= y < ", stream);
  sptx_bound_print(&piece->hi, stream);
  fputs(" | ", stream);
  if (piece->predicate)
    sptx_set_print_line(piece->predicate, stream);
  else
    fputs("no predicate", stream);
}

static enum sptx_code print_piece(const sptx_piece *piece, const sptx_selection *s, int64_t query_tile,
                                  int64_t key_tile, FILE *stream, sptx_error *error) {
  sptx_tile_counts counts;
  SPTX_TRY(sptx_piece_count_tiles(piece, s->n_q, s->n_k, query_tile, key_tile, &counts, error));
  fprintf(stream, "  %s %s | ", piece->kind == SPTX_PIECE_BAND ? "band" : "tiles", piece->name);
  sptx_view_print(&piece->query, 'i', stream);
  fputs(" | ", stream);
  sptx_view_print(&piece->key, 'j', stream);
  if (piece->kind == SPTX_PIECE_BAND)
    print_band(piece, stream);
  else
    fprintf(stream, " | %" PRId64 " listed, %" PRId64 " masks", piece->tiles.tile_count,
            piece->tiles.mask_count);
  fprintf(stream, " | %" PRId64 " pairs, %" PRId64 " computed, %" PRId64 " full, %" PRId64 " partial\n",
          piece->pairs, counts.computed_pairs, counts.full, counts.partial);
  return SPTX_CODE_OK;
}

static enum sptx_code print_step_pieces(const sptx_pattern *pattern, size_t index, const sptx_selection *s,
                                        int64_t query_tile, int64_t key_tile, bool heading, FILE *stream,
                                        sptx_error *error) {
  sptx_step step;
  SPTX_TRY(sptx_step_lower(pattern, index, s, &step, error));
  enum sptx_code code = SPTX_CODE_OK;
  if (heading)
    print_heading(pattern, &step.instance, stream);
  for (int k = 0; k < step.instance.class_count && code == SPTX_CODE_OK; k++) {
    const sptx_piece_list *list = &step.classes[k];
    print_step_heading(pattern, index, &step.instance, k, stream);
    fprintf(stream, ", pieces %d, tiles %" PRId64 " x %" PRId64 "\n", list->count, query_tile, key_tile);
    for (int p = 0; p < list->count && code == SPTX_CODE_OK; p++)
      code = print_piece(&list->pieces[p], s, query_tile, key_tile, stream, error);
  }
  sptx_step_clear(&step);
  return code;
}

enum sptx_code sptx_print_pieces(const sptx_pattern *pattern, const sptx_selection *selection,
                                 int64_t query_tile, int64_t key_tile, FILE *stream, sptx_error *error) {
  size_t first, count;
  SPTX_TRY(sptx_step_select(pattern, selection->step, &first, &count, error));
  query_tile = query_tile ? query_tile : SPTX_GENERIC_TILE;
  key_tile = key_tile ? key_tile : SPTX_GENERIC_TILE;
  for (size_t step = first; step < first + count; step++)
    SPTX_TRY(print_step_pieces(pattern, step, selection, query_tile, key_tile, step == first, stream, error));
  return SPTX_CODE_OK;
}
