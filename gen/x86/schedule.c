/* Schedules: the register blocks that fit each instruction set, the tile sizes worth trying for a piece, what
 * they are expected to cost, and the scratch memory a kernel of a given shape needs. */
#include "gen/x86/planner.h"
#include "patterns/integer.h"

#include <string.h>

/* Register blocks: rows * vectors sums, one vector of B for each column and a broadcast must fit the file
 * (16 registers with AVX2, else 32). One row for each block that is offered. */
typedef struct sptx_register_block {
  int lanes, rows, vectors;
  double cost; /* cycles per multiply-add of one vector, relative to the best block */
} sptx_register_block;

static const sptx_register_block blocks[] = {
    {16, 6, 4, 1.00},  {16, 8, 3, 1.02}, {16, 12, 2, 1.10},
    {16, 16, 1, 1.45}, {8, 6, 2, 1.00},  {8, 8, 1, 1.50},
};
enum { BLOCK_COUNT = sizeof blocks / sizeof *blocks };

static const sptx_register_block *find_block(int lanes, int query_tile) {
  for (int k = 0; k < BLOCK_COUNT; k++)
    if (blocks[k].lanes == lanes && query_tile % (lanes * blocks[k].vectors) == 0)
      return &blocks[k];
  return NULL;
}

/* Keys of queries x .. x + count - 1 (bounds are monotonic), and of one shared value. */
int64_t sptx_planner_band_keys(const sptx_piece *piece, int64_t first, int64_t last, int64_t key_end) {
  int64_t low = min64(sptx_bound_at(&piece->lo, first), sptx_bound_at(&piece->lo, last));
  int64_t high = max64(sptx_bound_at(&piece->hi, first), sptx_bound_at(&piece->hi, last));
  return max64(0, min64(high, key_end) - max64(low, 0));
}

/* Expected cycles of one head's forward, from a sample of its tiles: products, the softmax's share for each
 * pair, packing for each query, and a fixed part for each tile. */
double sptx_x86_schedule_cost(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                              const sptx_piece *piece) {
  enum { SAMPLES = 64, TILE_CYCLES = 1500, QUERY_CYCLES = 40 };
  int lanes = sptx_x86_lanes(schedule->isa), tile = schedule->query_tile;
  const sptx_register_block *block = find_block(lanes, tile);
  int64_t begin, end, key_begin, key_end, total = sptx_view_shared_total(&piece->query);
  sptx_view_inner_range(&piece->query, 0, problem->n_k - problem->n_q, problem->n_k, &begin, &end);
  sptx_view_inner_range(&piece->key, 0, 0, problem->n_k, &key_begin, &key_end);
  int64_t tiles = ceil_div(end - begin, tile), step = max64(1, tiles / SAMPLES), sampled = 0;
  double cycles = 0, pair_cycles = (2.0 * problem->head_dim * block->cost / 2 + 8) / lanes;
  for (int64_t t = 0; t < tiles; t += step, sampled++) {
    int64_t first = begin + t * tile, keys = key_end;
    if (piece->kind == SPTX_PIECE_BAND)
      keys = sptx_planner_band_keys(piece, first, min64(first + tile, end) - 1, key_end);
    cycles += TILE_CYCLES + QUERY_CYCLES * tile + (double)keys * tile * pair_cycles;
  }
  return sampled ? cycles / (double)sampled * (double)tiles * (double)total : 0;
}

int sptx_x86_schedule_space(const sptx_problem *problem, enum sptx_pass pass, const sptx_piece *piece,
                            enum sptx_isa isa, sptx_x86_schedule *schedules, int capacity) {
  static const int query_tiles[] = {16, 32, 48, 64}, key_tiles[] = {96, 48, 192};
  int lanes = sptx_x86_lanes(isa), count = 0;
  (void)problem;
  for (size_t q = 0; q < sizeof query_tiles / sizeof *query_tiles; q++) {
    const sptx_register_block *block = find_block(lanes, query_tiles[q]);
    bool divides = SPTX_GENERIC_TILE % query_tiles[q] == 0;
    if (!block || (piece->kind == SPTX_PIECE_TILES && !divides) || (pass == SPTX_PASS_DECODE && q > 0))
      continue;
    for (size_t k = 0; k < sizeof key_tiles / sizeof *key_tiles; k++) {
      bool short_tile = piece->kind == SPTX_PIECE_TILES && key_tiles[k] < SPTX_GENERIC_TILE;
      if (count < capacity && !short_tile)
        schedules[count++] =
            (sptx_x86_schedule){isa, query_tiles[q], key_tiles[k], block->rows, block->vectors};
    }
  }
  return count;
}

void sptx_x86_schedule_fill(sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                            const sptx_piece *piece) {
  sptx_x86_schedule space[16];
  int lanes = sptx_x86_lanes(schedule->isa), query_tile = 64;
  if (!schedule->query_tile && piece) {
    int count = sptx_x86_schedule_space(problem, pass, piece, schedule->isa, space, 16);
    double best = 0;
    for (int k = 0; k < count; k++) {
      double cost = sptx_x86_schedule_cost(&space[k], problem, piece);
      if (k == 0 || cost < best)
        best = cost, query_tile = space[k].query_tile;
    }
  }
  if (!schedule->query_tile)
    schedule->query_tile = query_tile;
  if (!schedule->key_tile)
    schedule->key_tile = 96;
  const sptx_register_block *block = find_block(lanes, schedule->query_tile);
  if (block && !schedule->register_rows)
    schedule->register_rows = block->rows;
  if (block && !schedule->register_vectors)
    schedule->register_vectors = block->vectors;
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
  if (schedule->register_rows < 4 || sums > 28 || schedule->register_rows % 2)
    return sptx_fail(
        error, SPTX_CODE_INVALID_ARGUMENT,
        "schedule: register_rows %d must be even, at least 4, and times register_vectors %d at most 28",
        schedule->register_rows, schedule->register_vectors);
  if (listed && (SPTX_GENERIC_TILE % schedule->query_tile || schedule->key_tile < SPTX_GENERIC_TILE))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "schedule: a generic piece needs a query_tile that divides %d and a key_tile no less",
                     SPTX_GENERIC_TILE);
  return SPTX_CODE_OK;
}

static int64_t take(int64_t *bytes, int64_t size) {
  int64_t offset = *bytes;
  *bytes += ceil_div(size, 64) * 64;
  return offset;
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
  layout->scores = take(&bytes, keys * queries * 4);
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
  layout->zero_row = take(&bytes, dim * 4);
  layout->dump_row = take(&bytes, dim * 4);
  if (shape->family == SPTX_X86_BACKWARD) {
    layout->d_o = take(&bytes, queries * dim * 4);
    layout->d_scores = take(&bytes, keys * queries * 4);
    layout->queries = take(&bytes, queries * dim * 4);
    layout->d_outputs = take(&bytes, queries * dim * 4);
  }
  if (sptx_x86_uses_amx(shape)) {
    int64_t depth = ceil_div(dim, 32) * 32;
    layout->amx_q = take(&bytes, depth * queries * 2);
    layout->amx_k = take(&bytes, keys * depth * 2);
    layout->amx_v = take(&bytes, ceil_div(dim, 16) * 16 * shape->schedule.key_tile * 2);
    layout->amx_p = take(&bytes, keys * queries * 2);
    layout->amx_config = take(&bytes, 64);
  }
  layout->bytes = bytes;
}
