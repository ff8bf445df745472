/* Canonical forms of pieces and shapes. Texts too long for a key end in a hash of the whole. */
#include "runtime/wisdom_key.h"

#include "gen/problem.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Numbers that grow with n (ends of sequences, "no bound") are left out by their size. */
static const int64_t far_away = (int64_t)1 << 40;

/* The digit with the greatest stride is cut only by n, so its size says nothing. */
static bool is_outermost(const sptx_view *view, int64_t stride) {
  int64_t greatest = 0;
  for (int k = 0; k < view->shared_count; k++)
    greatest = view->shared_stride[k] > greatest ? view->shared_stride[k] : greatest;
  for (int k = 0; k < view->inner_count; k++)
    greatest = view->inner_stride[k] > greatest ? view->inner_stride[k] : greatest;
  return stride == greatest;
}

static void write_digit(const sptx_view *view, int64_t size, int64_t stride, FILE *text) {
  if (is_outermost(view, stride))
    fprintf(text, " *x%" PRId64, stride);
  else
    fprintf(text, " %" PRId64 "x%" PRId64, size, stride);
}

static void write_view(const sptx_view *view, FILE *text) {
  fputs(" [", text);
  for (int k = 0; k < view->shared_count; k++)
    write_digit(view, view->shared_size[k], view->shared_stride[k], text);
  fputs(" |", text);
  for (int k = 0; k < view->inner_count; k++)
    write_digit(view, view->inner_size[k], view->inner_stride[k], text);
  fputs(" ]", text);
}

static void write_bound(const sptx_bound *bound, FILE *text) {
  const int64_t numbers[] = {bound->mult,      bound->shift,    bound->period,
                             bound->ramp_from, bound->ramp_max, bound->add};
  fputs(" (", text);
  for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
    if (numbers[k] > -far_away && numbers[k] < far_away)
      fprintf(text, " %" PRId64, numbers[k]);
    else
      fputs(" far", text);
  }
  fputs(" )", text);
}

static void write_piece(const sptx_piece *piece, FILE *text) {
  fprintf(text, " %s", piece->name);
  write_view(&piece->query, text);
  write_view(&piece->key, text);
  if (piece->kind == SPTX_PIECE_TILES) {
    /* A list has no form of its own: how full its rows are stands for it. */
    int64_t rows = piece->tiles.query_tiles ? piece->tiles.query_tiles : 1;
    fprintf(text, " tiles %" PRId64 " a row", (piece->tiles.tile_count + rows - 1) / rows);
    return;
  }
  write_bound(&piece->lo, text);
  write_bound(&piece->hi, text);
  if (piece->predicate)
    fputs(" predicate", text);
}

static enum sptx_code write_pieces(const sptx_piece_list *lists, int class_count, char *piece,
                                   sptx_error *error) {
  char *whole = NULL;
  size_t size = 0;
  FILE *text = open_memstream(&whole, &size);
  if (!text)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a wisdom key");
  for (int c = 0; c < class_count; c++) {
    fputs(c ? " ;" : "", text);
    for (int k = 0; k < lists[c].count; k++)
      write_piece(&lists[c].pieces[k], text);
  }
  bool written = !ferror(text);
  if (fclose(text) != 0 || !written) {
    free(whole);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a wisdom key");
  }
  const char *from = whole + strspn(whole, " ");
  if (strlen(from) < SPTX_WISDOM_TEXT)
    strcpy(piece, from);
  else
    snprintf(piece, SPTX_WISDOM_TEXT, "%.*s ... %016" PRIx64, SPTX_WISDOM_TEXT - 32, from,
             (uint64_t)XXH3_64bits(from, strlen(from)));
  free(whole);
  return SPTX_CODE_OK;
}

/* floor(log2(value)); value > 0. */
static int class_of(int64_t value) {
  return 63 - __builtin_clzll((uint64_t)value);
}

enum sptx_code sptx_wisdom_key_make(const sptx_problem *problem, enum sptx_pass pass,
                                    const sptx_piece_list *lists, int class_count, const char *device,
                                    sptx_wisdom_texts *texts, sptx_error *error) {
  SPTX_TRY(write_pieces(lists, class_count, texts->piece, error));
  snprintf(texts->shape, sizeof texts->shape,
           "queries 2^%d keys 2^%d heads 2^%d group %" PRId64 " head_dim %d%s%s%s%s", class_of(problem->n_q),
           class_of(problem->n_k), class_of(problem->batch * problem->heads),
           problem->heads / problem->kv_heads, problem->head_dim, problem->soft_cap ? " soft_cap" : "",
           problem->alibi ? " alibi" : "", problem->negative_scale ? " negative_scale" : "",
           problem->deterministic ? "" : " nondeterministic");
  texts->key = (sptx_wisdom_key){.piece = texts->piece,
                                 .shape = texts->shape,
                                 .element = sptx_element_name(problem->element),
                                 .pass = sptx_pass_name(pass),
                                 .device = device};
  return SPTX_CODE_OK;
}
