/* Query blocks of key tiles and runs of tiles; see hopper_runs.h. */
#include "gen/ptx/hopper_runs.h"
#include "gen/ptx/hopper_tile.h"
#include "patterns/integer.h"
#include <stdlib.h>
#include <string.h>

enum { KEY_TILE = 64 * SPTX_HOPPER_BACKWARD_CONSUMERS, MOST_RUNS = 256 };
#define CARRY_BYTES ((int64_t)24 << 20) /* of all CTAs: half of the L2 cache */

/* First x in [0, count) whose bound exceeds value; count where none does. Bounds never fall. */
static int64_t first_above(const sptx_bound *bound, int64_t count, int64_t value) {
  int64_t low = 0, high = count;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (sptx_bound_at(bound, middle) > value)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* every: also blocks whose queries have no key here, for a kernel that stores dQ. */
static sptx_hopper_block_range range_of(const sptx_hopper_part *part, int64_t tile, bool every) {
  const int64_t block = SPTX_HOPPER_BACKWARD_BLOCK;
  int64_t begin = tile * KEY_TILE, end = begin + KEY_TILE, count = part->query_count;
  int64_t last_key = (end < part->key_count ? end : part->key_count) - 1;
  int64_t first = every ? 0 : first_above(&part->hi, count, begin) / block;
  int64_t last = ceil_div(every ? count : first_above(&part->lo, count, last_key), block);
  if (last < first)
    last = first;
  int64_t full_first = end > part->key_count ? last : ceil_div(first_above(&part->hi, count, end - 1), block);
  int64_t low_end = first_above(&part->lo, count, begin); /* rows from here on miss the first key */
  int64_t full_last = low_end == count ? last : low_end / block;
  full_first = clamp(full_first, first, last);
  full_last = clamp(full_last, full_first, last);
  return (sptx_hopper_block_range){.first = (int32_t)first,
                                   .full_first = (int32_t)full_first,
                                   .full_last = (int32_t)full_last,
                                   .last = (int32_t)last,
                                   .tile = (int32_t)tile,
                                   .owns_keys = 1};
}

enum sptx_code sptx_hopper_tile_ranges(const sptx_hopper_part *part, bool every, sptx_hopper_runs *runs,
                                       sptx_error *error) {
  memset(runs, 0, sizeof *runs);
  runs->range_count = runs->run_count = ceil_div(part->key_count, KEY_TILE);
  runs->ranges = malloc((size_t)runs->range_count * sizeof *runs->ranges);
  if (!runs->ranges)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t tile = 0; tile < runs->range_count; tile++)
    runs->ranges[tile] = range_of(part, tile, every);
  return SPTX_CODE_OK;
}

void sptx_hopper_runs_clear(sptx_hopper_runs *runs) {
  free(runs->ranges);
  free(runs->first);
  memset(runs, 0, sizeof *runs);
}

/* Whether every query block meets a tile, and tiles meet blocks in order. */
static bool in_order(const sptx_hopper_part *part, const sptx_hopper_runs *tiles) {
  const sptx_hopper_block_range *r = tiles->ranges;
  int64_t blocks = ceil_div(part->query_count, SPTX_HOPPER_BACKWARD_BLOCK), end = 0;
  for (int64_t i = 0; i < tiles->range_count; i++) {
    if (r[i].first > end || r[i].last < end || (i > 0 && r[i].first < r[i - 1].first))
      return false;
    end = r[i].last;
  }
  return end == blocks;
}

static int64_t first_tile(const sptx_hopper_runs *tiles, int64_t run, int64_t count) {
  return tiles->range_count * run / count;
}

/* The query blocks whose dQ run `run` of `count` writes: those whose last tile is in it. */
static int64_t own_begin(const sptx_hopper_runs *tiles, int64_t run, int64_t count) {
  if (run == count)
    return tiles->ranges[tiles->range_count - 1].last;
  return run == 0 ? 0 : tiles->ranges[first_tile(tiles, run, count)].first;
}

/* The first tile that any of those blocks meets. */
static int64_t first_met(const sptx_hopper_runs *tiles, int64_t run, int64_t count) {
  int64_t tile = first_tile(tiles, run, count), begin = own_begin(tiles, run, count);
  while (tile > 0 && tiles->ranges[tile - 1].last > begin)
    tile--;
  return tile;
}

static int32_t cut(int32_t x, int64_t begin, int64_t end) {
  return (int32_t)clamp(x, begin, end);
}

/* The range of `tile` in a run that begins with first_own; earlier tiles only add to the run's own dQ. */
static sptx_hopper_block_range range_in_run(const sptx_hopper_runs *tiles, int64_t tile, int64_t first_own,
                                            int64_t begin, int64_t end) {
  sptx_hopper_block_range r = tiles->ranges[tile];
  if (tile < first_own) {
    r.owns_keys = 0;
    r.first = cut(r.first, begin, end);
    r.full_first = cut(r.full_first, begin, end);
    r.full_last = cut(r.full_last, begin, end);
    r.last = cut(r.last, begin, end);
  }
  r.own_end = (int32_t)end;
  return r;
}

/* Steps of the longest run; a tile costs about two blocks beside its own. */
static int64_t longest_run(const sptx_hopper_runs *tiles, int64_t count) {
  int64_t longest = 0;
  for (int64_t run = 0; run < count; run++) {
    int64_t first = first_tile(tiles, run, count), steps = 0;
    int64_t begin = own_begin(tiles, run, count), end = own_begin(tiles, run + 1, count);
    for (int64_t i = first_met(tiles, run, count); i < first_tile(tiles, run + 1, count); i++) {
      sptx_hopper_block_range r = range_in_run(tiles, i, first, begin, end);
      steps += r.last - r.first + 2;
    }
    longest = steps > longest ? steps : longest;
  }
  return longest;
}

/* The number of runs with the shortest queue; 0 where even that is much longer than a fair share. */
static int64_t best_count(const sptx_hopper_runs *tiles, int64_t lanes) {
  int64_t best = 0, shortest = INT64_MAX, all = longest_run(tiles, 1) * lanes;
  for (int64_t count = 1; count <= min64(tiles->range_count, MOST_RUNS); count++) {
    int64_t queue = ceil_div(lanes * count, SPTX_HOPPER_MULTIPROCESSORS) * longest_run(tiles, count);
    if (queue < shortest) {
      shortest = queue;
      best = count;
    }
  }
  int64_t tile_queue = ceil_div(lanes * tiles->range_count, SPTX_HOPPER_MULTIPROCESSORS);
  int64_t share = all * tile_queue / (lanes * tiles->range_count);
  return shortest <= share + share / 4 ? best : 0;
}

static int64_t blocks_at_a_time(const sptx_hopper_runs *tiles) {
  int64_t most = 1;
  for (int64_t i = 0; i < tiles->range_count; i++)
    while (most < tiles->ranges[i].last - tiles->ranges[i].first)
      most *= 2;
  return most;
}

static enum sptx_code cut_runs(const sptx_hopper_runs *tiles, int64_t count, sptx_hopper_runs *runs,
                               sptx_error *error) {
  int64_t total = 0;
  for (int64_t run = 0; run < count; run++)
    total += first_tile(tiles, run + 1, count) - first_met(tiles, run, count);
  runs->ranges = malloc((size_t)total * sizeof *runs->ranges);
  runs->first = malloc((size_t)(count + 1) * sizeof *runs->first);
  if (!runs->ranges || !runs->first)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t run = 0; run < count; run++) {
    int64_t begin = own_begin(tiles, run, count), end = own_begin(tiles, run + 1, count);
    int64_t first = first_met(tiles, run, count), last = first_tile(tiles, run + 1, count);
    sptx_hopper_block_range *r = runs->ranges + runs->range_count;
    runs->first[run] = (int32_t)runs->range_count;
    for (int64_t i = first; i < last; i++)
      r[i - first] = range_in_run(tiles, i, first_tile(tiles, run, count), begin, end);
    for (int64_t i = 0; i < last - first; i++) {
      r[i].carried = i > 0 ? r[i - 1].last : 0;
      r[i].kept = i + 1 < last - first ? (int32_t)min64(r[i + 1].first, end) : (int32_t)end;
    }
    runs->range_count += last - first;
  }
  runs->first[count] = (int32_t)runs->range_count;
  runs->run_count = count;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_hopper_carry_runs(const sptx_hopper_part *part, int64_t lanes, int head_dim,
                                      sptx_hopper_runs *runs, sptx_error *error) {
  sptx_hopper_runs tiles;
  memset(runs, 0, sizeof *runs);
  SPTX_TRY(sptx_hopper_tile_ranges(part, false, &tiles, error));
  runs->carry_blocks = blocks_at_a_time(&tiles);
  int64_t row_bytes = 256 * ceil_div(head_dim, 64);
  int64_t bytes = SPTX_HOPPER_MULTIPROCESSORS * runs->carry_blocks * SPTX_HOPPER_BACKWARD_BLOCK * row_bytes;
  int64_t count = in_order(part, &tiles) && bytes <= CARRY_BYTES ? best_count(&tiles, lanes) : 0;
  enum sptx_code code = count > 0 ? cut_runs(&tiles, count, runs, error) : SPTX_CODE_OK;
  sptx_hopper_runs_clear(&tiles);
  if (code != SPTX_CODE_OK)
    sptx_hopper_runs_clear(runs);
  return code;
}
