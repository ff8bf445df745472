/* Samples the query tiles of the first shared value; the others are as long, up to one row. */
#include "gen/workload.h"

#include "patterns/integer.h"

static void of_list(const sptx_piece *piece, int query_tile, sptx_workload *work) {
  const sptx_tile_list *tiles = &piece->tiles;
  double per_row = (double)SPTX_GENERIC_TILE / query_tile, partial = 0, longest = 0;
  for (int64_t t = 0; t < tiles->tile_count; t++)
    partial += tiles->mask[t] >= 0;
  for (int64_t row = 0; row < tiles->query_tiles; row++)
    longest = max64((int64_t)longest, tiles->row_start[row + 1] - tiles->row_start[row]);
  work->tiles = (double)tiles->query_tiles * per_row;
  work->steps = (double)tiles->tile_count * per_row;
  work->masked = partial * per_row;
  work->keys = work->steps * SPTX_GENERIC_TILE;
  work->keys_of_longest = longest * SPTX_GENERIC_TILE;
}

/* Adds one tile of queries first .. last of a band. */
static void add_tile(const sptx_piece *piece, int64_t first, int64_t last, int64_t key_end, int key_tile,
                     sptx_workload *work) {
  int64_t low = max64(0, sptx_bound_at(&piece->lo, first));
  int64_t high = min64(key_end, sptx_bound_at(&piece->hi, last));
  int64_t keys = max64(0, high - low), steps = ceil_div(keys, key_tile);
  int64_t all_low = max64(0, sptx_bound_at(&piece->lo, last));
  int64_t all_high = min64(key_end, sptx_bound_at(&piece->hi, first));
  int64_t full = piece->predicate ? 0 : max64(0, min64(all_high, high) - max64(all_low, low)) / key_tile;
  work->keys += (double)keys;
  work->steps += (double)steps;
  work->masked += (double)max64(0, steps - full);
  if ((double)keys > work->keys_of_longest)
    work->keys_of_longest = (double)keys;
}

void sptx_workload_of(const sptx_problem *problem, const sptx_piece *piece, int query_tile, int key_tile,
                      sptx_workload *work) {
  enum { SAMPLES = 64 };
  *work = (sptx_workload){.lanes = (double)sptx_view_shared_total(&piece->query)};
  if (piece->kind == SPTX_PIECE_TILES) {
    of_list(piece, query_tile, work);
  } else {
    int64_t begin, end, key_begin, key_end;
    sptx_view_inner_range(&piece->query, 0, problem->n_k - problem->n_q, problem->n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, 0, 0, problem->n_k, &key_begin, &key_end);
    int64_t tiles = ceil_div(end - begin, query_tile), samples = min64(tiles, SAMPLES);
    for (int64_t s = 0; s < samples; s++) {
      int64_t first = begin + (s * tiles + tiles / 2) / samples * query_tile;
      add_tile(piece, first, min64(first + query_tile, end) - 1, key_end, key_tile, work);
    }
    double weight = samples ? (double)tiles / (double)samples : 0;
    work->tiles = (double)tiles;
    work->keys *= weight, work->steps *= weight, work->masked *= weight;
  }
  work->tiles *= work->lanes, work->keys *= work->lanes;
  work->steps *= work->lanes, work->masked *= work->lanes;
}
