/* What both roles of the Hopper backward kernel go by: the layout of shared memory, its rings, and the loops
 * over key tiles and query blocks with their limits. */
#include "gen/ptx/hopper_backward_kernel.h"

bool sptx_backward_makes_delta(enum sptx_hopper_gradient d_q) {
  return d_q != SPTX_HOPPER_ADD;
}

bool sptx_backward_adds_by_warps(const sptx_hopper_backward_spec *spec) {
  return spec->d_q == SPTX_HOPPER_ADD && !spec->packed;
}

bool sptx_backward_is_large(const sptx_hopper_backward_spec *spec) {
  return spec->head_dim > 64 && sptx_backward_adds_by_warps(spec);
}

sptx_hopper_backward_layout sptx_hopper_backward_layout_of(const sptx_hopper_backward_spec *spec) {
  sptx_hopper_backward_layout l;
  l.chunks = (spec->head_dim + 63) / 64;
  l.group_bytes = 64 * l.chunks * 128;
  l.key_bytes = CONSUMERS * l.group_bytes;
  l.rows = spec->packed ? CONSUMERS * 64 : BLOCK;
  l.query_bytes = l.rows * l.chunks * 128;
  l.score_bytes = CONSUMERS * 8192;
  l.score_stages = spec->packed ? 1 : 2;
  l.k = 0;
  l.v = l.k + spec->key_stages * l.key_bytes;
  l.q = l.v + spec->key_stages * l.key_bytes;
  l.d_o = l.q + spec->stages * l.query_bytes;
  l.o = l.d_o + spec->stages * l.query_bytes;
  l.scores = l.o + (sptx_backward_makes_delta(spec->d_q) ? spec->stages * l.query_bytes : 0);
  l.out = l.scores + l.score_stages * l.score_bytes;
  l.d_q = l.out + CONSUMERS * SPTX_BACKWARD_OUT_BYTES;
  l.d_q_bytes = sptx_backward_adds_by_warps(spec) ? 16 * 32 * l.chunks * 4 : 0;
  l.row_data = l.d_q + 4 * CONSUMERS * l.d_q_bytes;
  l.ranges = l.row_data + spec->stages * l.rows * ROW_FIELDS * 4;
  l.barriers = l.ranges + spec->key_stages * RANGE_BYTES;
  l.total = l.barriers + 16 * (2 * spec->key_stages + 3 * spec->stages + l.score_stages);
  return l;
}

void sptx_backward_open_rings(sptx_backward *b, bool producer) {
  const sptx_hopper_backward_spec *spec = b->spec;
  const sptx_hopper_backward_layout *l = &b->layout;
  sptx_gpu_emitter *e = b->e;
  b->base = sptx_shared_base(e);
  b->producer = producer;
  int barrier = l->barriers;
#define RING(buffer, bytes, stages)                                                                          \
  sptx_ring_open(e, sptx_addi(e, b->base, buffer), bytes, stages, sptx_addi(e, b->base, barrier),            \
                 sptx_addi(e, b->base, barrier + 8 * (stages)), producer);                                   \
  barrier += 16 * (stages)
  b->keys = RING(l->k, l->key_bytes, spec->key_stages);
  b->q = RING(l->q, l->query_bytes, spec->stages);
  b->d_o = RING(l->d_o, l->query_bytes, spec->stages);
  b->row_data = RING(l->row_data, l->rows * ROW_FIELDS * 4, spec->stages);
  b->scores = RING(l->scores, l->score_bytes, l->score_stages);
  b->ranges = RING(l->ranges, RANGE_BYTES, spec->key_stages);
#undef RING
  /* Those of a block move together, and those of a tile: one stage and parity for all. */
  b->ranges.stage = b->keys.stage;
  b->ranges.parity = b->keys.parity;
  b->d_o.stage = b->row_data.stage = b->q.stage;
  b->d_o.parity = b->row_data.parity = b->q.parity;
}

sptx_thread_place sptx_backward_place(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place at = b->at;
  at.lane = sptx_recompute(e, b->at.lane);
  at.row = sptx_add(e, sptx_muli(e, b->at.warp, 16), sptx_shri(e, at.lane, 2));
  at.quad = sptx_andi(e, at.lane, 3);
  return at;
}

static sptx_value table_address(sptx_backward *b, sptx_value offset, sptx_value entry, int64_t entry_bytes) {
  sptx_gpu_emitter *e = b->e;
  sptx_value table = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, constants)), offset);
  return sptx_add(e, table, sptx_zext64(e, sptx_muli(e, entry, entry_bytes)));
}

sptx_value sptx_backward_range_address(sptx_backward *b) {
  sptx_value table = SPTX_HOPPER_PARAM64(b->e, block_table), tile = sptx_recompute(b->e, b->tile);
  return table_address(b, table, tile, RANGE_BYTES);
}

sptx_value sptx_backward_block_limit(sptx_backward *b, size_t field) {
  sptx_gpu_emitter *e = b->e;
  if (b->producer)
    return sptx_load_constant(e, e->i32, sptx_addi(e, sptx_backward_range_address(b), (int64_t)field), 4);
  return sptx_shared_load(e, e->i32, sptx_addi(e, sptx_ring_buffer(e, &b->ranges), (int64_t)field), 4);
}

/* The tiles of a run: its bounds in the block table. */
static sptx_loop run_loop(sptx_backward *b, sptx_value run) {
  sptx_gpu_emitter *e = b->e;
  sptx_value address = table_address(b, SPTX_HOPPER_PARAM64(e, run_table), run, 4);
  sptx_value first = sptx_load_constant(e, e->i32, address, 4);
  return sptx_loop_begin(e, first, sptx_load_constant(e, e->i32, sptx_addi(e, address, 4), 4),
                         sptx_i32(e, 1));
}

static void wait_for_range(sptx_backward *b) {
  if (!b->producer && !b->spec->packed)
    sptx_ring_wait_full(b->e, &b->ranges);
}

/* The key tiles of a run, in a loop; without runs an item is one tile. */
static void find_tile(sptx_backward *b, sptx_backward_tiles *tiles) {
  sptx_gpu_emitter *e = b->e;
  sptx_value run = b->key.item.tile;
  if (b->spec->d_q == SPTX_HOPPER_CARRY) {
    tiles->of_run = run_loop(b, run);
    b->tile = tiles->of_run.index;
    wait_for_range(b);
    b->key_tile = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, tile));
    return;
  }
  /* Items count tiles down; of a causal band, the first tiles of keys have the most queries. */
  wait_for_range(b);
  b->tile = b->key_tile = sptx_sub(e, sptx_addi(e, SPTX_HOPPER_PARAM(e, query_tiles), -1), run);
}

sptx_backward_tiles sptx_backward_tiles_begin(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_backward_tiles tiles = {.items = sptx_item_loop_begin(e)};
  b->query = b->key = (sptx_hopper_rows){.packed = b->spec->packed, .consumers = CONSUMERS};
  b->query.item = b->key.item = sptx_item_decode(e, &tiles.items);
  find_tile(b, &tiles);
  b->key.first = sptx_muli(e, b->key_tile, 64 * CONSUMERS);
  b->query.first = sptx_i32(e, 0);
  if (b->spec->packed) {
    b->first = sptx_i32(e, 0);
    b->last = sptx_i32(e, 1);
  } else {
    b->first = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, first));
    b->last = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, last));
  }
  return tiles;
}

void sptx_backward_tiles_end(sptx_backward *b, sptx_backward_tiles *tiles) {
  if (b->spec->d_q == SPTX_HOPPER_CARRY)
    sptx_loop_end(b->e, &tiles->of_run);
  sptx_item_loop_end(b->e, &tiles->items);
}

sptx_loop sptx_backward_block_loop(sptx_backward *b, sptx_value first, sptx_value last) {
  sptx_loop loop = sptx_loop_begin(b->e, first, last, sptx_i32(b->e, 1));
  b->query.first = sptx_muli(b->e, loop.index, b->spec->packed ? 0 : BLOCK);
  return loop;
}
