/* Schedules: the register blocks that fit each instruction set, the tile sizes worth trying for a piece, what
 * they are expected to cost, and the scratch memory a kernel of a given shape needs. */
#include "gen/x86/amx.h"
#include "gen/x86/emit.h"
#include "gen/x86/planner.h"
#include "patterns/integer.h"

#include <string.h>

enum { MOST_RANGES = 64 };

/* Keys of queries x .. x + count - 1 (bounds are monotonic), and of one shared value. */
int64_t sptx_planner_band_keys(const sptx_piece *piece, int64_t first, int64_t last, int64_t key_end) {
  int64_t low = min64(sptx_bound_at(&piece->lo, first), sptx_bound_at(&piece->lo, last));
  int64_t high = max64(sptx_bound_at(&piece->hi, first), sptx_bound_at(&piece->hi, last));
  return max64(0, min64(high, key_end) - max64(low, 0));
}

void sptx_x86_schedule_fill(sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                            const sptx_piece *piece) {
  int lanes = sptx_x86_lanes(schedule->isa), rows, vectors;
  if (piece && pass != SPTX_PASS_DECODE && (!schedule->query_tile || !schedule->key_tile))
    sptx_x86_best_tiles(schedule, problem, pass, piece);
  if (!schedule->query_tile)
    schedule->query_tile = 64;
  if (!schedule->key_tile)
    schedule->key_tile = 96;
  if (!schedule->register_rows && !schedule->register_vectors &&
      sptx_x86_best_block(lanes, schedule->query_tile, &rows, &vectors)) {
    schedule->register_rows = rows;
    schedule->register_vectors = vectors;
  }
}

enum sptx_code sptx_x86_schedule_check(const sptx_x86_schedule *schedule, const sptx_piece *piece,
                                       sptx_error *error) {
  int lanes = sptx_x86_lanes(schedule->isa), width = lanes * schedule->register_vectors;
  int sums = schedule->register_rows * schedule->register_vectors;
  bool listed = piece && piece->kind == SPTX_PIECE_TILES;
  if (schedule->query_tile < lanes || schedule->query_tile > 256 || width <= 0 ||
      schedule->query_tile % width)
    return sptx_fail(
        error, SPTX_CODE_INVALID_ARGUMENT,
        "schedule: query_tile %d must be a multiple of %d lanes times register_vectors %d, and at "
        "most 256",
        schedule->query_tile, lanes, schedule->register_vectors);
  if (schedule->key_tile < 8 || schedule->key_tile > 1024 || schedule->key_tile % 8)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "schedule: key_tile %d must be a multiple of 8 from 8 to 1024", schedule->key_tile);
  if (schedule->register_rows < 4 || sums > 28 ||
      (schedule->register_rows % 4 && schedule->register_rows % 6))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "schedule: register_rows %d must be a multiple of 4 or 6, and times register_vectors %d "
                     "at most 28",
                     schedule->register_rows, schedule->register_vectors);
  if (schedule->tile_items < 0 || schedule->copy_rows < 0 || schedule->copy_rows > 3 ||
      schedule->key_ranges < 0 || schedule->key_ranges > MOST_RANGES)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "schedule: tile_items %d must not be negative, copy_rows %d be from 0 to 3, key_ranges "
                     "%d from 0 to %d",
                     schedule->tile_items, schedule->copy_rows, schedule->key_ranges, MOST_RANGES);
  if (listed && (SPTX_GENERIC_TILE % schedule->query_tile || schedule->key_tile < SPTX_GENERIC_TILE))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "schedule: a generic piece needs a query_tile that divides %d and a key_tile no less",
                     SPTX_GENERIC_TILE);
  return SPTX_CODE_OK;
}

int sptx_x86_panel(const sptx_x86_shape *shape) {
  const sptx_x86_schedule *schedule = &shape->schedule;
  /* AMX writes 16 dims at a time: half of them would fall into the next panel. */
  bool overlaps = sptx_x86_products_of(shape) == SPTX_X86_TILES && shape->dim % 16;
  bool whole = shape->family == SPTX_X86_BACKWARD || overlaps;
  return whole ? schedule->query_tile : sptx_x86_lanes(schedule->isa) * schedule->register_vectors;
}

static int64_t take(int64_t *bytes, int64_t size) {
  int64_t offset = *bytes;
  *bytes += ceil_div(size, 64) * 64;
  return offset;
}

/* Tiles of bfloat16. AMX pads dims to whole tiles. */
static void take_pairs(const sptx_x86_shape *shape, int64_t keys, sptx_x86_layout *layout, int64_t *bytes) {
  int64_t queries = shape->schedule.query_tile, dim = shape->dim, depth = ceil_div(dim, 32) * 32;
  enum sptx_x86_products products = sptx_x86_products_of(shape);
  if (products == SPTX_X86_FLOATS)
    return;
  layout->q_pairs = take(bytes, depth * queries * 2);
  layout->weight_pairs = take(bytes, keys * sptx_x86_panel(shape) * 2);
  if (products == SPTX_X86_PAIRS) {
    layout->row_pairs = take(bytes, keys * dim * 2);
  } else {
    layout->amx_keys = take(bytes, keys * depth * 2);
    if (shape->family == SPTX_X86_BACKWARD) {
      layout->amx_value_rows = take(bytes, keys * depth * 2);
      layout->amx_sums = take(bytes, keys * depth * 4);
    }
    layout->amx_transposed = take(bytes, sptx_x86_amx_transposed_bytes(shape->dim, shape->schedule.key_tile));
    layout->amx_config = take(bytes, 64);
  }
  if (shape->family == SPTX_X86_BACKWARD) {
    layout->d_o_pairs = take(bytes, depth * queries * 2);
    layout->query_pairs = take(bytes, queries * dim * 2);
    layout->d_output_pairs = take(bytes, queries * dim * 2);
    layout->p_rounded = take(bytes, keys * queries * 2);
    layout->d_s_rounded = take(bytes, keys * queries * 2);
  }
}

/* Tables of keys have room for the padding to whole register blocks and for stores of 8 entries. */
void sptx_x86_layout_of(const sptx_x86_shape *shape, sptx_x86_layout *layout) {
  int64_t queries = shape->schedule.query_tile, dim = shape->dim, bytes = 0;
  int64_t keys = shape->schedule.key_tile + 32, lane_floats = queries * 4, lane_pointers = (queries + 8) * 8;
  memset(layout, 0, sizeof *layout);
  int64_t *const lane_tables[] = {&layout->maximum, &layout->sum,   &layout->factor,         &layout->low,
                                  &layout->width,   &layout->slope, &layout->query_position, &layout->weight,
                                  &layout->earlier, &layout->lse,   &layout->delta};
  int64_t *const row_tables[] = {&layout->query_row, &layout->input_row, &layout->output_row,
                                 &layout->lse_row, &layout->d_output_row};
  int64_t *const key_tables[] = {&layout->key_row, &layout->value_row, &layout->d_key_row,
                                 &layout->d_value_row, &layout->key_position};
  layout->q = take(&bytes, queries * dim * 4);
  layout->scores = take(&bytes, keys * sptx_x86_panel(shape) * 4);
  layout->output = take(&bytes, queries * ceil_div(dim, 16) * 16 * 4); /* AMX writes whole tiles */
  for (size_t k = 0; k < sizeof lane_tables / sizeof *lane_tables; k++)
    *lane_tables[k] = take(&bytes, lane_floats + 32);
  for (size_t k = 0; k < sizeof row_tables / sizeof *row_tables; k++)
    *row_tables[k] = take(&bytes, lane_pointers);
  for (size_t k = 0; k < sizeof key_tables / sizeof *key_tables; k++)
    *key_tables[k] = take(&bytes, keys * 8);
  layout->keys = take(&bytes, keys * dim * 4);
  layout->values = take(&bytes, keys * dim * 4);
  layout->kept_keys = take(&bytes, 32);
  layout->kept_values = take(&bytes, 32);
  layout->fetch = take(&bytes, sptx_x86_fetch_bytes(4 * queries));
  layout->zero_row = take(&bytes, dim * 4);
  layout->dump_row = take(&bytes, dim * 4);
  if (shape->family == SPTX_X86_BACKWARD) {
    layout->d_o = take(&bytes, queries * dim * 4);
    layout->d_scores = take(&bytes, keys * queries * 4);
    layout->queries = take(&bytes, queries * dim * 4);
    layout->d_outputs = take(&bytes, queries * dim * 4);
  }
  take_pairs(shape, keys, layout, &bytes);
  layout->bytes = bytes;
}
