/* Queries without any key, counted by marking those that have one. */
#include "patterns/integer.h"
#include "patterns/piece.h"

#include <stdlib.h>

typedef struct marks {
  uint64_t *words; /* bit q: query q has a key */
  int64_t n_q, n_k, marked;
} marks;

static bool is_marked(const marks *m, int64_t query) {
  return m->words[query / 64] >> (query % 64) & 1;
}

static void mark(marks *m, int64_t query) {
  m->marked += !is_marked(m, query);
  m->words[query / 64] |= (uint64_t)1 << (query % 64);
}

static bool row_has_key(const sptx_piece *piece, int64_t n_k, int64_t shared, int64_t keys, int64_t position,
                        int64_t x) {
  int64_t first = max64(sptx_bound_at(&piece->lo, x), 0), last = min64(sptx_bound_at(&piece->hi, x), keys);
  if (!piece->predicate)
    return first < last;
  for (int64_t y = first; y < last; y++) {
    bool contains = false; /* predicates never fail: piece.h */
    sptx_set_contains(piece->predicate, n_k, position, sptx_view_position(&piece->key, shared, y), &contains,
                      NULL);
    if (contains)
      return true;
  }
  return false;
}

static void mark_band(const sptx_piece *piece, marks *m) {
  int64_t first = m->n_k - m->n_q, total = sptx_view_shared_total(&piece->query);
  bool straight = piece->query.inner_count == 1; /* then positions need no division */
  for (int64_t shared = 0; shared < total && m->marked < m->n_q; shared++) {
    int64_t begin, end, key_begin, keys;
    sptx_view_inner_range(&piece->query, shared, first, m->n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, m->n_k, &key_begin, &keys);
    int64_t start = sptx_view_position(&piece->query, shared, 0);
    for (int64_t x = begin; x < end; x++) {
      int64_t position =
          straight ? start + x * piece->query.inner_stride[0] : sptx_view_position(&piece->query, shared, x);
      if (!is_marked(m, position - first) && row_has_key(piece, m->n_k, shared, keys, position, x))
        mark(m, position - first);
    }
  }
}

static void mark_tiles(const sptx_piece *piece, marks *m) {
  const sptx_tile_list *tiles = &piece->tiles;
  for (int64_t row = 0; row < tiles->query_tiles; row++) {
    uint64_t queries = 0;
    for (int64_t t = tiles->row_start[row]; t < tiles->row_start[row + 1]; t++)
      for (int key = 0; key < SPTX_GENERIC_TILE; key++)
        queries |= tiles->mask[t] < 0 ? ~(uint64_t)0
                                      : tiles->masks[(int64_t)tiles->mask[t] * SPTX_GENERIC_TILE + key];
    for (; queries; queries &= queries - 1)
      mark(m, row * SPTX_GENERIC_TILE + __builtin_ctzll(queries));
  }
}

enum sptx_code sptx_piece_list_empty_rows(const sptx_piece_list *list, int64_t n_q, int64_t n_k,
                                          int64_t *count, sptx_error *error) {
  marks m = {calloc((size_t)ceil_div(n_q, 64), sizeof *m.words), n_q, n_k, 0};
  if (!m.words)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the rows of %lld queries",
                     (long long)n_q);
  for (int pass = 0; pass < 2; pass++) /* those with predicates last: they look at no row that has a key */
    for (int p = 0; p < list->count && m.marked < n_q; p++) {
      const sptx_piece *piece = &list->pieces[p];
      if ((piece->predicate != NULL) != pass)
        continue;
      if (piece->kind == SPTX_PIECE_BAND)
        mark_band(piece, &m);
      else
        mark_tiles(piece, &m);
    }
  *count = n_q - m.marked;
  free(m.words);
  return SPTX_CODE_OK;
}
