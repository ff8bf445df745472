/* Arithmetic of pieces: where a view's indices lie, what a bound says, which tiles a piece falls into. */
#include "patterns/piece.h"
#include "patterns/integer.h"

#include <stdlib.h>

int64_t sptx_view_shared_total(const sptx_view *view) {
  int64_t total = 1;
  for (int k = 0; k < view->shared_count; k++)
    total *= view->shared_size[k];
  return total;
}

static int64_t shared_offset(const sptx_view *view, int64_t shared) {
  int64_t offset = view->base;
  for (int k = view->shared_count - 1; k >= 0; k--) {
    offset += shared % view->shared_size[k] * view->shared_stride[k];
    shared /= view->shared_size[k];
  }
  return offset;
}

int64_t sptx_view_position(const sptx_view *view, int64_t shared, int64_t inner) {
  int64_t position = shared_offset(view, shared);
  for (int k = view->inner_count - 1; k > 0; k--) {
    position += inner % view->inner_size[k] * view->inner_stride[k];
    inner /= view->inner_size[k];
  }
  return position + inner * view->inner_stride[0];
}

int64_t sptx_bound_at(const sptx_bound *bound, int64_t x) {
  int64_t shifted = x + bound->shift;
  int64_t quotient = floor_div(shifted, bound->period);
  int64_t remainder = shifted - quotient * bound->period;
  int64_t value = bound->mult * quotient + bound->add;
  value += clamp(remainder - bound->ramp_from, 0, bound->ramp_max);
  return clamp(value, bound->low, bound->high);
}

int64_t sptx_bound_first_above(const sptx_bound *bound, int64_t begin, int64_t end, int64_t y) {
  while (begin < end) {
    int64_t middle = begin + (end - begin) / 2;
    if (sptx_bound_at(bound, middle) > y)
      end = middle;
    else
      begin = middle + 1;
  }
  return begin;
}

/* How many inner indices stand at offsets below `limit` from the start of their shared value. */
static int64_t inner_below(const sptx_view *view, int64_t limit) {
  int64_t count = 0, lower = 1;
  for (int k = 1; k < view->inner_count; k++)
    lower *= view->inner_size[k];
  for (int k = 0; k < view->inner_count; k++) {
    if (limit <= 0)
      return count;
    bool last = k == view->inner_count - 1;
    int64_t stride = view->inner_stride[k];
    int64_t digit = last ? (limit + stride - 1) / stride : limit / stride;
    if (digit >= view->inner_size[k])
      return count + view->inner_size[k] * lower;
    count += digit * lower;
    limit -= digit * stride;
    if (!last)
      lower /= view->inner_size[k + 1];
  }
  return count;
}

void sptx_view_inner_range(const sptx_view *view, int64_t shared, int64_t first, int64_t last, int64_t *begin,
                           int64_t *end) {
  int64_t offset = shared_offset(view, shared);
  *begin = inner_below(view, first - offset);
  *end = max64(*begin, inner_below(view, last - offset));
}

bool sptx_view_locate(const sptx_view *view, int64_t position, int64_t *shared, int64_t *inner) {
  int64_t shared_digit[SPTX_MAX_DIGITS] = {0}, inner_digit[SPTX_MAX_DIGITS] = {0};
  int64_t rest = position - view->base;
  int s = 0, k = 0;
  if (rest < 0)
    return false;
  while (s < view->shared_count || k < view->inner_count) {
    bool take_shared =
        k == view->inner_count || (s < view->shared_count && view->shared_stride[s] > view->inner_stride[k]);
    int64_t stride = take_shared ? view->shared_stride[s] : view->inner_stride[k];
    int64_t size = take_shared ? view->shared_size[s] : view->inner_size[k];
    int64_t digit = size == 1 ? 0 : rest / stride; /* digits of one value may share a stride */
    if (digit >= size)
      return false;
    rest -= digit * stride;
    if (take_shared)
      shared_digit[s++] = digit;
    else
      inner_digit[k++] = digit;
  }
  *shared = *inner = 0;
  for (int d = 0; d < view->shared_count; d++)
    *shared = *shared * view->shared_size[d] + shared_digit[d];
  for (int d = 0; d < view->inner_count; d++)
    *inner = *inner * view->inner_size[d] + inner_digit[d];
  return rest == 0;
}

static bool tiles_contain(const sptx_tile_list *tiles, int64_t x, int64_t y) {
  int64_t row = x / SPTX_GENERIC_TILE;
  for (int64_t t = tiles->row_start[row]; t < tiles->row_start[row + 1]; t++)
    if (tiles->key_tile[t] == y / SPTX_GENERIC_TILE)
      return tiles->mask[t] < 0 ||
             tiles->masks[(int64_t)tiles->mask[t] * SPTX_GENERIC_TILE + y % SPTX_GENERIC_TILE] >>
                     (x % SPTX_GENERIC_TILE) &
                 1;
  return false;
}

bool sptx_piece_contains(const sptx_piece *piece, int64_t n_q, int64_t n_k, int64_t i, int64_t j) {
  int64_t query_shared, key_shared, x, y, position = n_k - n_q + i;
  if (!sptx_view_locate(&piece->query, position, &query_shared, &x) ||
      !sptx_view_locate(&piece->key, j, &key_shared, &y) || query_shared != key_shared)
    return false;
  if (piece->kind == SPTX_PIECE_TILES)
    return tiles_contain(&piece->tiles, x, y);
  if (y < sptx_bound_at(&piece->lo, x) || y >= sptx_bound_at(&piece->hi, x))
    return false;
  bool contains = true;
  if (piece->predicate && sptx_set_contains(piece->predicate, n_k, position, j, &contains, NULL) != 0)
    return false;
  return contains;
}

bool sptx_piece_covers_queries(const sptx_piece *piece, int64_t n_q, int64_t n_k) {
  int64_t total = sptx_view_shared_total(&piece->query), covered = 0;
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end;
    sptx_view_inner_range(&piece->query, shared, n_k - n_q, n_k, &begin, &end);
    covered += end - begin;
  }
  return covered == n_q;
}

void sptx_piece_clear(sptx_piece *piece) {
  sptx_set_free(piece->predicate);
  free(piece->tiles.row_start);
  free(piece->tiles.key_tile);
  free(piece->tiles.mask);
  free(piece->tiles.masks);
  *piece = (sptx_piece){0};
}

void sptx_piece_list_clear(sptx_piece_list *list) {
  for (int p = 0; p < list->count; p++)
    sptx_piece_clear(&list->pieces[p]);
  free(list->pieces);
  *list = (sptx_piece_list){0};
}

/* Tiles of one row of tiles, queries first..last-1, whose keys are below key_end. Bounds are monotonic, so
 * the row's keys lie between lo(first) and hi(last - 1), and those common to all between the other two. */
static void count_row(const sptx_piece *piece, int64_t first, int64_t last, int64_t key_end, int64_t key_tile,
                      sptx_tile_counts *counts) {
  int64_t begin = clamp(sptx_bound_at(&piece->lo, first), 0, key_end);
  int64_t end = clamp(sptx_bound_at(&piece->hi, last - 1), 0, key_end);
  if (begin >= end)
    return;
  int64_t first_tile = begin / key_tile, last_tile = ceil_div(end, key_tile);
  int64_t common_begin = clamp(sptx_bound_at(&piece->lo, last - 1), 0, key_end);
  int64_t common_end = clamp(sptx_bound_at(&piece->hi, first), 0, key_end);
  int64_t full_begin = ceil_div(common_begin, key_tile);
  int64_t full_end = common_end == key_end ? ceil_div(key_end, key_tile) : common_end / key_tile;
  int64_t full = piece->predicate ? 0 : max64(0, min64(full_end, last_tile) - max64(full_begin, first_tile));
  counts->full += full;
  counts->partial += last_tile - first_tile - full;
  counts->computed_pairs += (last - first) * (min64(last_tile * key_tile, key_end) - first_tile * key_tile);
}

static void count_band(const sptx_piece *piece, int64_t n_q, int64_t n_k, int64_t query_tile,
                       int64_t key_tile, sptx_tile_counts *counts) {
  int64_t total = sptx_view_shared_total(&piece->query);
  int64_t last_begin = -1, last_end = -1, last_keys = -1;
  sptx_tile_counts one = {0};
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, key_begin, key_end;
    sptx_view_inner_range(&piece->query, shared, n_k - n_q, n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, n_k, &key_begin, &key_end);
    /* Few lengths occur, in long runs: each is counted once. */
    if (begin != last_begin || end != last_end || key_end != last_keys) {
      one = (sptx_tile_counts){0};
      for (int64_t x = begin; x < end; x += query_tile)
        count_row(piece, x, min64(x + query_tile, end), key_end, key_tile, &one);
      last_begin = begin, last_end = end, last_keys = key_end;
    }
    counts->full += one.full;
    counts->partial += one.partial;
    counts->computed_pairs += one.computed_pairs;
  }
}

static void count_listed(const sptx_piece *piece, int64_t n_q, int64_t n_k, sptx_tile_counts *counts) {
  const sptx_tile_list *tiles = &piece->tiles;
  int64_t total = sptx_view_shared_total(&piece->query);
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, key_begin, key_end;
    sptx_view_inner_range(&piece->query, shared, n_k - n_q, n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, n_k, &key_begin, &key_end);
    for (int64_t row = 0; row < tiles->query_tiles; row++)
      for (int64_t t = tiles->row_start[row]; t < tiles->row_start[row + 1]; t++) {
        int64_t queries = min64(SPTX_GENERIC_TILE, end - row * SPTX_GENERIC_TILE);
        int64_t keys = min64(SPTX_GENERIC_TILE, key_end - (int64_t)tiles->key_tile[t] * SPTX_GENERIC_TILE);
        counts->full += tiles->mask[t] < 0;
        counts->partial += tiles->mask[t] >= 0;
        counts->computed_pairs += queries * keys;
      }
  }
}

enum sptx_code sptx_piece_count_tiles(const sptx_piece *piece, int64_t n_q, int64_t n_k, int64_t query_tile,
                                      int64_t key_tile, sptx_tile_counts *counts, sptx_error *error) {
  *counts = (sptx_tile_counts){0};
  if (query_tile <= 0 || key_tile <= 0 || n_q <= 0 || n_k < n_q)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "tiles of %lld x %lld over %lld queries and %lld keys: all must be positive, and there "
                     "must be at least as many keys as queries",
                     (long long)query_tile, (long long)key_tile, (long long)n_q, (long long)n_k);
  if (piece->kind == SPTX_PIECE_BAND)
    count_band(piece, n_q, n_k, query_tile, key_tile, counts);
  else
    count_listed(piece, n_q, n_k, counts);
  return SPTX_CODE_OK;
}
