/* Exact numbers of pairs. A band's pairs follow from its bounds alone, so shared values of equal lengths are
 * counted once, and straight bounds in closed form. */
#include "patterns/clause.h"
#include "patterns/integer.h"

/* A bound walked along x without divisions. */
typedef struct walk {
  const sptx_bound *bound;
  int64_t base, remainder;
} walk;

static walk walk_from(const sptx_bound *bound, int64_t x) {
  int64_t quotient = floor_div(x + bound->shift, bound->period);
  return (walk){bound, bound->mult * quotient + bound->add, x + bound->shift - quotient * bound->period};
}

static int64_t walk_next(walk *w) {
  const sptx_bound *b = w->bound;
  int64_t value = clamp(w->base + clamp(w->remainder - b->ramp_from, 0, b->ramp_max), b->low, b->high);
  if (++w->remainder == b->period) {
    w->remainder = 0;
    w->base += b->mult;
  }
  return value;
}

/* sum over x in [begin, end) of max(0, min(hi(x), keys) - max(lo(x), 0)). */
static int64_t sum_widths(const sptx_piece *piece, int64_t begin, int64_t end, int64_t keys) {
  walk lo = walk_from(&piece->lo, begin), hi = walk_from(&piece->hi, begin);
  int64_t sum = 0;
  for (int64_t x = begin; x < end; x++)
    sum += max64(0, min64(walk_next(&hi), keys) - max64(walk_next(&lo), 0));
  return sum;
}

static enum sptx_code count_predicated(const sptx_piece *piece, int64_t shared, int64_t begin, int64_t end,
                                       int64_t keys, int64_t n, int64_t *sum, sptx_error *error) {
  for (int64_t x = begin; x < end; x++) {
    int64_t i = sptx_view_position(&piece->query, shared, x);
    int64_t last = min64(sptx_bound_at(&piece->hi, x), keys);
    for (int64_t y = max64(sptx_bound_at(&piece->lo, x), 0); y < last; y++) {
      bool contains;
      SPTX_TRY(sptx_set_contains(piece->predicate, n, i, sptx_view_position(&piece->key, shared, y),
                                 &contains, error));
      *sum += contains;
    }
  }
  return SPTX_CODE_OK;
}

static int64_t count_listed_pairs(const sptx_piece *piece) {
  const sptx_tile_list *tiles = &piece->tiles;
  int64_t pairs = 0;
  for (int64_t t = 0; t < tiles->tile_count; t++) {
    if (tiles->mask[t] < 0) {
      pairs += SPTX_GENERIC_TILE * SPTX_GENERIC_TILE;
      continue;
    }
    const uint64_t *mask = tiles->masks + (int64_t)tiles->mask[t] * SPTX_GENERIC_TILE;
    for (int key = 0; key < SPTX_GENERIC_TILE; key++)
      pairs += __builtin_popcountll(mask[key]);
  }
  return pairs;
}

enum sptx_code sptx_piece_count_pairs(const sptx_piece *piece, int64_t n_q, int64_t n_k, int64_t *pairs,
                                      sptx_error *error) {
  int64_t total = sptx_view_shared_total(&piece->query);
  int64_t last_begin = -1, last_end = -1, last_keys = -1, one = 0;
  *pairs = 0;
  if (piece->kind == SPTX_PIECE_TILES) {
    *pairs = total * count_listed_pairs(piece);
    return SPTX_CODE_OK;
  }
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, key_begin, keys;
    sptx_view_inner_range(&piece->query, shared, n_k - n_q, n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, n_k, &key_begin, &keys);
    if (piece->predicate) {
      SPTX_TRY(count_predicated(piece, shared, begin, end, keys, n_k, pairs, error));
      continue;
    }
    if (begin != last_begin || end != last_end || keys != last_keys)
      one = sum_widths(piece, begin, end, keys);
    last_begin = begin, last_end = end, last_keys = keys;
    *pairs += one;
  }
  return SPTX_CODE_OK;
}
