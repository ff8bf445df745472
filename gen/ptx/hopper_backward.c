/* The Hopper backward kernel for dK and dV, and where asked for dQ. A CTA holds a tile of keys; scores are
 * computed transposed, S^T = K Q^T, so that both P^T and dS^T are register operands of the next products:
 *
 *   P^T = exp2(S^T c - lse2)   dP^T = V dO^T   dS^T = P^T (dP^T - D)
 *   dV += P^T dO               dK += dS^T Q    dQ = dS K (dS^T through shared memory)
 *
 * Warps 0 and 3 of the producer warpgroup issue the tensor copies of queries and of keys, warps 1 and 2
 * gather LSE, D and the bounds of the query rows, since views may put them 4 bytes at a stride. */
#include "gen/ptx/hopper_backward.h"
#include "gen/ptx/hopper_tile.h"
#include <math.h>

enum { MAP_Q, MAP_D_O, MAP_K, MAP_V, MAP_D_Q, MAP_D_K, MAP_D_V, MAP_COUNT };
enum { BARRIER_GROUP = 1, BARRIER_ALL = 4 };
enum { CONSUMERS = SPTX_HOPPER_BACKWARD_CONSUMERS, BLOCK = SPTX_HOPPER_BACKWARD_BLOCK };
enum { OUT_BYTES = 16384 }; /* staging of each consumer: 64 x 64 float32, or 64 x 128 elements */
enum { ROW_LSE, ROW_DELTA, ROW_LOW, ROW_HIGH, ROW_FIELDS };

/* 128 * 24 + 256 * 240 = 384 * 168, what the CTA starts with. */
enum { PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = 240 };

typedef struct backward {
  sptx_gpu_emitter *e;
  const sptx_hopper_backward_spec *spec;
  sptx_hopper_backward_layout layout;
  sptx_ring keys, q, d_o, row_data;
  sptx_thread_place at;
  sptx_value consumer, base, scale, scale_log2, score_stage /* slot */;
  sptx_hopper_rows query, key; /* rows of the query block and of the key tile */
  sptx_value key_tile;
  sptx_value first, last;      /* query blocks */
  sptx_value d_k[64], d_v[64]; /* slots */
} backward;

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
  l.scores = l.d_o + spec->stages * l.query_bytes;
  l.out = l.scores + (spec->d_q == SPTX_HOPPER_SKIP ? 0 : l.score_stages * l.score_bytes);
  l.row_data = l.out + CONSUMERS * OUT_BYTES;
  l.barriers = l.row_data + spec->stages * l.rows * ROW_FIELDS * 4;
  l.total = l.barriers + 16 * (spec->key_stages + 3 * spec->stages);
  return l;
}

static void open_rings(backward *b, bool producer) {
  const sptx_hopper_backward_spec *spec = b->spec;
  const sptx_hopper_backward_layout *l = &b->layout;
  sptx_gpu_emitter *e = b->e;
  b->base = sptx_shared_base(e);
  int barrier = l->barriers;
#define RING(buffer, bytes, stages)                                                                          \
  sptx_ring_open(e, sptx_addi(e, b->base, buffer), bytes, stages, sptx_addi(e, b->base, barrier),            \
                 sptx_addi(e, b->base, barrier + 8 * (stages)), producer);                                   \
  barrier += 16 * (stages)
  b->keys = RING(l->k, l->key_bytes, spec->key_stages);
  b->q = RING(l->q, l->query_bytes, spec->stages);
  b->d_o = RING(l->d_o, l->query_bytes, spec->stages);
  b->row_data = RING(l->row_data, l->rows * ROW_FIELDS * 4, spec->stages);
#undef RING
  /* These three move together: one stage and parity for all. */
  b->d_o.stage = b->row_data.stage = b->q.stage;
  b->d_o.parity = b->row_data.parity = b->q.parity;
}

/* Rows of packed tiles that no copy writes would hold anything, and 0 * NaN is NaN. */
static void clear_tiles(backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value first = sptx_muli(e, sptx_thread_index(e), 8);
  sptx_loop loop =
      sptx_loop_begin(e, first, sptx_i32(e, b->layout.scores), sptx_i32(e, 8 * 128 * (CONSUMERS + 1)));
  sptx_shared_store(e, sptx_i64(e, 0), sptx_add(e, sptx_shared_base(e), loop.index), 8);
  sptx_loop_end(e, &loop);
  sptx_fence_proxy_async(e);
}

static void initialise(backward *b) {
  sptx_gpu_emitter *e = b->e;
  if (b->spec->packed)
    clear_tiles(b);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, sptx_thread_index(e), sptx_i32(e, 0)));
  sptx_ring_init(e, &b->keys, 1, 4 * CONSUMERS);
  sptx_ring_init(e, &b->q, 1, 4 * CONSUMERS);
  sptx_ring_init(e, &b->d_o, 1, 4 * CONSUMERS);
  sptx_ring_init(e, &b->row_data, 2 * 32, 4 * CONSUMERS);
  sptx_mbarrier_init_fence(e);
  for (int i = 0; i < MAP_COUNT; i++)
    sptx_tensor_prefetch(e, e->maps[i]);
  sptx_if_end(e, &one);
  sptx_barrier(e);
}

/* The same value, computed here: what depends on it is not held in registers across the loop. */
static sptx_value recompute(backward *b, sptx_value x) {
  return sptx_asm(b->e, b->e->i32, "mov.b32 $0, $1;", "=r,r", &x, 1, false);
}

/* This thread's place, from the lane alone. */
static sptx_thread_place place_now(backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place at = b->at;
  at.lane = recompute(b, b->at.lane);
  at.row = sptx_add(e, sptx_muli(e, b->at.warp, 16), sptx_shri(e, at.lane, 2));
  at.quad = sptx_andi(e, at.lane, 3);
  return at;
}

/* A field of the key tile's range of query blocks, loaded where it is needed. */
static sptx_value block_limit(backward *b, size_t field) {
  sptx_gpu_emitter *e = b->e;
  sptx_value table = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, constants)),
                              SPTX_HOPPER_PARAM64(e, block_table));
  sptx_value entry = sptx_muli(e, recompute(b, b->key_tile), sizeof(sptx_hopper_block_range));
  sptx_value address = sptx_addi(e, sptx_add(e, table, sptx_zext64(e, entry)), (int64_t)field);
  return sptx_load_constant(e, e->i32, address, 4);
}

/* The item's key tile and its query blocks. */
static void find_blocks(backward *b, sptx_value index) {
  sptx_gpu_emitter *e = b->e;
  b->query = b->key = (sptx_hopper_rows){.packed = b->spec->packed, .consumers = CONSUMERS};
  b->query.item = b->key.item = sptx_item_decode(e, index);
  /* Items count tiles down; of a causal band, the first tiles of keys have the most queries. */
  b->key_tile = sptx_sub(e, sptx_addi(e, SPTX_HOPPER_PARAM(e, query_tiles), -1), b->key.item.tile);
  b->key.first = sptx_muli(e, b->key_tile, 64 * CONSUMERS);
  b->query.first = sptx_i32(e, 0);
  if (b->spec->packed) {
    b->first = sptx_i32(e, 0);
    b->last = sptx_i32(e, 1);
    return;
  }
  b->first = block_limit(b, offsetof(sptx_hopper_block_range, first));
  b->last = block_limit(b, offsetof(sptx_hopper_block_range, last));
}

/* --- Producers --- */

static void load_keys(backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_ring_fill(e, &b->keys, sptx_muli(e, SPTX_HOPPER_PARAM(e, key_load), 2));
  for (int group = 0; group < CONSUMERS; group++)
    for (int chunk = 0; chunk < b->layout.chunks; chunk++) {
      sptx_value place[5];
      sptx_hopper_place(e, &b->key, sptx_i32(e, group), b->key.item.kv_head, sptx_i32(e, 64 * chunk), place);
      if (b->spec->key_runs) {
        sptx_value run = SPTX_HOPPER_PARAM(e, key_run), first = place[1];
        place[2] = sptx_udiv(e, first, run);
        place[1] = sptx_sub(e, first, sptx_mul(e, place[2], run));
      }
      int offset = group * b->layout.group_bytes + chunk * 8192;
      sptx_value buffer = sptx_addi(e, sptx_ring_buffer(e, &b->keys), offset);
      sptx_tensor_load(e, buffer, e->maps[MAP_K], place, sptx_ring_full(e, &b->keys));
      sptx_tensor_load(e, sptx_addi(e, buffer, b->layout.v - b->layout.k), e->maps[MAP_V], place,
                       sptx_ring_full(e, &b->keys));
    }
  sptx_ring_advance(e, &b->keys);
}

static void load_queries(backward *b, const sptx_ring *ring, sptx_value map) {
  sptx_gpu_emitter *e = b->e;
  sptx_ring_fill(e, ring, SPTX_HOPPER_PARAM(e, query_load));
  for (int group = 0; group < (b->spec->packed ? CONSUMERS : 1); group++) {
    /* A loop, so that few registers hold coordinates at a time. */
    sptx_loop chunks = sptx_loop_begin(e, sptx_i32(e, 0), sptx_i32(e, b->layout.chunks), sptx_i32(e, 1));
    sptx_value place[5], chunk = recompute(b, chunks.index);
    sptx_hopper_place(e, &b->query, sptx_i32(e, group), b->query.item.head, sptx_muli(e, chunk, 64), place);
    sptx_value buffer = sptx_add(e, sptx_ring_buffer(e, ring), sptx_muli(e, chunk, 8192));
    sptx_tensor_load(e, sptx_addi(e, buffer, group * b->layout.group_bytes), map, place,
                     sptx_ring_full(e, ring));
    sptx_loop_end(e, &chunks);
  }
}

static sptx_loop block_loop(backward *b, sptx_value first, sptx_value last) {
  sptx_loop loop = sptx_loop_begin(b->e, first, last, sptx_i32(b->e, 1));
  b->query.first = sptx_muli(b->e, loop.index, b->spec->packed ? 0 : BLOCK);
  return loop;
}

static void produce_keys(backward *b) {
  open_rings(b, true);
  sptx_item_loop items = sptx_item_loop_begin(b->e);
  find_blocks(b, items.index);
  load_keys(b);
  sptx_item_loop_end(b->e, &items);
}

static void produce_queries(backward *b) {
  sptx_gpu_emitter *e = b->e;
  open_rings(b, true);
  sptx_item_loop items = sptx_item_loop_begin(e);
  find_blocks(b, items.index);
  sptx_loop blocks = block_loop(b, b->first, b->last);
  load_queries(b, &b->q, e->maps[MAP_Q]);
  load_queries(b, &b->d_o, e->maps[MAP_D_O]);
  sptx_ring_advance(e, &b->q);
  sptx_loop_end(e, &blocks);
  sptx_item_loop_end(e, &items);
}

static sptx_hopper_row block_row(backward *b, sptx_value row) {
  sptx_gpu_emitter *e = b->e;
  sptx_value group = b->spec->packed ? sptx_shri(e, row, 6) : sptx_i32(e, 0);
  return sptx_hopper_row_of(e, &b->query, group, b->spec->packed ? sptx_andi(e, row, 63) : row);
}

static void put_field(backward *b, int field, sptx_value row, sptx_value value) {
  sptx_gpu_emitter *e = b->e;
  sptx_value buffer = sptx_add(e, sptx_ring_buffer(e, &b->row_data), sptx_muli(e, row, 4));
  sptx_shared_store(e, value, sptx_addi(e, buffer, 4 * field * b->layout.rows), 4);
}

/* LSE in base 2 and D of one query row. Rows that do not exist, or have no key, get the LSE +inf: their
 * probabilities are 0. */
static void write_row_sums(backward *b, sptx_value row) {
  sptx_gpu_emitter *e = b->e;
  sptx_hopper_row r = block_row(b, row);
  sptx_value offset = sptx_muli(e, sptx_hopper_row_index(e, &b->query, &r), 4);
  offset = sptx_select(e, r.exists, offset, sptx_i64(e, 0));
  sptx_value lse = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, lse)), offset);
  sptx_value natural = sptx_load_constant(e, e->f32, lse, 4);
  sptx_value some = sptx_fcmp(e, LLVMRealOGT, natural, sptx_f32(e, -INFINITY));
  sptx_value value = sptx_mul(e, natural, sptx_f32(e, M_LOG2E));
  put_field(b, ROW_LSE, row, sptx_select(e, sptx_and(e, some, r.exists), value, sptx_f32(e, INFINITY)));
  sptx_value delta = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, workspace)),
                              sptx_add(e, SPTX_HOPPER_PARAM64(e, delta_offset), offset));
  put_field(b, ROW_DELTA, row, sptx_load_constant(e, e->f32, delta, 4));
}

static void write_row_bounds(backward *b, sptx_value row) {
  sptx_hopper_row r = block_row(b, row);
  sptx_value low, high;
  sptx_hopper_row_keys(b->e, &b->query, &r, b->spec->lower, b->spec->upper, &low, &high);
  put_field(b, ROW_LOW, row, low);
  put_field(b, ROW_HIGH, row, high);
}

static void write_rows(backward *b, void (*write)(backward *, sptx_value)) {
  sptx_gpu_emitter *e = b->e;
  sptx_value lane = sptx_andi(e, recompute(b, sptx_thread_index(e)), 31);
  sptx_loop rows = sptx_loop_begin(e, lane, sptx_i32(e, b->layout.rows), sptx_i32(e, 32));
  write(b, recompute(b, rows.index));
  sptx_loop_end(e, &rows);
}

static void produce_rows(backward *b, void (*write)(backward *, sptx_value)) {
  sptx_gpu_emitter *e = b->e;
  open_rings(b, true);
  sptx_item_loop items = sptx_item_loop_begin(e);
  find_blocks(b, items.index);
  sptx_loop blocks = block_loop(b, b->first, b->last);
  sptx_ring_wait_empty(e, &b->row_data);
  sptx_item *item = &b->query.item, kept = *item;
  b->query.first = recompute(b, b->query.first);
  item->head = recompute(b, kept.head);
  item->shared_group = recompute(b, kept.shared_group);
  write_rows(b, write);
  *item = kept;
  sptx_mbarrier_arrive_if(e, sptx_ring_full(e, &b->row_data), sptx_i32(e, 1));
  sptx_ring_advance(e, &b->row_data);
  sptx_loop_end(e, &blocks);
  sptx_item_loop_end(e, &items);
}

static void produce_sums(backward *b) {
  produce_rows(b, write_row_sums);
}

static void produce_bounds(backward *b) {
  produce_rows(b, write_row_bounds);
}

/* One role for each warp, so that each fits the producers' registers; copies are issued by one lane. */
static void produce(backward *b) {
  static void (*const roles[4])(backward *) = {produce_queries, produce_sums, produce_bounds, produce_keys};
  sptx_gpu_emitter *e = b->e;
  sptx_set_registers(e, PRODUCER_REGISTERS, false);
  sptx_value thread = sptx_thread_index(e), warp = sptx_shri(e, thread, 5);
  for (int i = 0; i < 4; i++) {
    bool one_lane = i == 0 || i == 3;
    sptx_value mine = sptx_icmp(e, LLVMIntEQ, one_lane ? thread : warp, sptx_i32(e, one_lane ? 32 * i : i));
    sptx_if role = sptx_if_begin(e, mine);
    roles[i](b);
    sptx_if_end(e, &role);
  }
}

/* --- Consumers --- */

static sptx_value own_keys(backward *b, bool values) {
  sptx_gpu_emitter *e = b->e;
  sptx_value place =
      sptx_add(e, sptx_ring_buffer(e, &b->keys), sptx_muli(e, b->consumer, b->layout.group_bytes));
  return values ? sptx_addi(e, place, b->layout.v - b->layout.k) : place;
}

/* Q or dO of the block; packed: of this consumer's group. */
static sptx_value own_queries(backward *b, const sptx_ring *ring) {
  sptx_value place = sptx_ring_buffer(b->e, ring);
  if (!b->spec->packed)
    return place;
  return sptx_add(b->e, place, sptx_muli(b->e, b->consumer, b->layout.group_bytes));
}

/* K Q^T or V dO^T: 64 own keys by the block's queries. */
static void multiply_scores(backward *b, sptx_value keys, sptx_value queries, sptx_value *s) {
  sptx_gpu_emitter *e = b->e;
  sptx_value a = sptx_descriptor_k_major(e, keys), q = sptx_descriptor_k_major(e, queries);
  sptx_wgmma shape = {b->spec->element, BLOCK, false, false};
  for (int slab = 0; slab < (b->spec->head_dim + 15) / 16; slab++) {
    int in_chunk = slab % 4 * 2, chunk = slab / 4;
    sptx_wgmma_shared(e, shape, slab > 0, s, sptx_addi(e, a, in_chunk + chunk * (8192 >> 4)),
                      sptx_addi(e, q, in_chunk + chunk * (8192 >> 4)));
  }
  sptx_wgmma_commit(e);
}

/* sum (+)= packed (64 keys x queries, registers) * rows (queries x head_dim). */
static void multiply_rows(backward *b, const sptx_value *packed, sptx_value rows, sptx_value *sum,
                          bool accumulate) {
  sptx_gpu_emitter *e = b->e;
  sptx_value r = sptx_descriptor_mn_major(e, rows, 8192);
  sptx_wgmma shape = {b->spec->element, b->spec->head_dim, false, true};
  for (int slab = 0; slab < BLOCK / 16; slab++)
    sptx_wgmma_registers(e, shape, accumulate || slab > 0, sum, packed + 4 * slab,
                         sptx_addi(e, r, slab * (2048 >> 4)));
  sptx_wgmma_commit(e);
}

/* Each consumer computes half the columns of a block's dQ, 32 or 64; packed: all columns of its own rows. */
static int d_q_columns(const backward *b) {
  return b->spec->packed ? b->spec->head_dim : 32 * b->layout.chunks;
}

static sptx_value score_buffer(backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value stage = sptx_muli(e, sptx_get(e, b->score_stage), b->layout.score_bytes);
  return sptx_add(e, sptx_addi(e, b->base, b->layout.scores), stage);
}

static void multiply_d_q(backward *b, sptx_value *d_q) {
  sptx_gpu_emitter *e = b->e;
  sptx_value scores = score_buffer(b), keys = sptx_ring_buffer(e, &b->keys);
  if (b->spec->packed) {
    scores = sptx_add(e, scores, sptx_muli(e, b->consumer, 8192));
    keys = sptx_add(e, keys, sptx_muli(e, b->consumer, b->layout.group_bytes));
  } else {
    keys = sptx_add(e, keys, sptx_muli(e, b->consumer, b->layout.chunks == 1 ? 64 : 8192));
  }
  sptx_value a = sptx_descriptor_mn_major(e, scores, 8192);
  sptx_value k = sptx_descriptor_mn_major(e, keys, 8192);
  sptx_wgmma shape = {b->spec->element, d_q_columns(b), true, true};
  for (int slab = 0; slab < (b->spec->packed ? 4 : 4 * CONSUMERS); slab++)
    sptx_wgmma_shared(e, shape, slab > 0, d_q, sptx_addi(e, a, slab * (2048 >> 4)),
                      sptx_addi(e, k, slab % 4 * (2048 >> 4) + slab / 4 * (b->layout.group_bytes >> 4)));
  sptx_wgmma_commit(e);
}

/* Two neighbouring columns' values of a row field. */
static sptx_value row_pairs(backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place at = place_now(b);
  sptx_value place = sptx_add(e, sptx_ring_buffer(e, &b->row_data), sptx_muli(e, at.quad, 8));
  return b->spec->packed ? sptx_add(e, place, sptx_muli(e, b->consumer, 256)) : place;
}

static void row_pair(backward *b, sptx_value pairs, LLVMTypeRef type, int field, int column,
                     sptx_value out[2]) {
  sptx_gpu_emitter *e = b->e;
  sptx_value place = sptx_addi(e, pairs, 4 * (field * b->layout.rows + column));
  sptx_value pair = sptx_shared_load(e, LLVMVectorType(type, 2), place, 8);
  for (int i = 0; i < 2; i++)
    out[i] = LLVMBuildExtractElement(e->builder, pair, sptx_i32(e, i), "");
}

static void probabilities(backward *b, bool masked, sptx_value *s) {
  sptx_gpu_emitter *e = b->e;
  sptx_value row = place_now(b).row, pairs = row_pairs(b);
  if (!b->spec->packed)
    row = sptx_add(
        e, row,
        sptx_muli(e, sptx_add(e, sptx_muli(e, recompute(b, b->key_tile), CONSUMERS), b->consumer), 64));
  sptx_value key[2] = {row, sptx_addi(e, row, 8)}, lse[2], low[2], high[2];
  bool lower = b->spec->packed || b->spec->lower != SPTX_HOPPER_NONE;
  for (int column = 0; column < BLOCK; column += 8) {
    row_pair(b, pairs, e->f32, ROW_LSE, column, lse);
    if (masked)
      row_pair(b, pairs, e->i32, ROW_HIGH, column, high);
    if (masked && lower)
      row_pair(b, pairs, e->i32, ROW_LOW, column, low);
    for (int i = 0; i < 4; i++) {
      sptx_value *x = &s[column / 2 + i];
      *x = sptx_exp2(e, sptx_fma(e, *x, b->scale_log2, LLVMBuildFNeg(e->builder, lse[i % 2], "")));
      if (!masked)
        continue;
      sptx_value seen = sptx_icmp(e, LLVMIntSLT, key[i / 2], high[i % 2]);
      if (lower)
        seen = sptx_and(e, seen, sptx_icmp(e, LLVMIntSGE, key[i / 2], low[i % 2]));
      *x = sptx_select(e, seen, *x, sptx_f32(e, 0));
    }
  }
}

static void score_gradients(backward *b, const sptx_value *p, sptx_value *ds) {
  sptx_gpu_emitter *e = b->e;
  sptx_value pairs = row_pairs(b);
  for (int column = 0; column < BLOCK; column += 8) {
    sptx_value delta[2];
    row_pair(b, pairs, e->f32, ROW_DELTA, column, delta);
    for (int i = 0; i < 4; i++) {
      sptx_value *x = &ds[column / 2 + i];
      *x = sptx_mul(e, p[column / 2 + i], sptx_sub(e, *x, delta[i % 2]));
    }
  }
}

/* count registers of two elements from twice as many values. */
static void pack(backward *b, const sptx_value *x, sptx_value *packed, int count) {
  for (int i = 0; i < count; i++)
    packed[i] = sptx_pack(b->e, b->spec->element, x[2 * i], x[2 * i + 1]);
}

static void group_sync(backward *b) {
  sptx_named_sync(b->e, sptx_addi(b->e, b->consumer, BARRIER_GROUP), 128);
}

/* dS^T of this consumer's keys to shared memory, and waits until the others' is there too. */
static void share_scores(backward *b, const sptx_value *packed) {
  sptx_gpu_emitter *e = b->e;
  sptx_value region = sptx_add(e, score_buffer(b), sptx_muli(e, recompute(b, b->consumer), 8192));
  sptx_thread_place at = place_now(b);
  sptx_value place = sptx_fragment_address(e, &at, region);
  for (int slab = 0; slab < BLOCK / 16; slab++)
    sptx_stmatrix(e, sptx_fragment_slab(e, place, slab, 8192), packed + 4 * slab, 4, false);
  sptx_fence_proxy_async(e);
  if (b->spec->packed)
    group_sync(b);
  else
    sptx_named_sync(e, sptx_i32(e, BARRIER_ALL), 128 * CONSUMERS);
}

static sptx_value out_region(backward *b) {
  sptx_value own = sptx_muli(b->e, recompute(b, b->consumer), OUT_BYTES);
  return sptx_add(b->e, sptx_addi(b->e, b->base, b->layout.out), own);
}

static sptx_if leader_only(backward *b) {
  return sptx_if_begin(b->e, sptx_icmp(b->e, LLVMIntNE, b->at.leader, sptx_i32(b->e, 0)));
}

/* The staging region may be written again. */
static void open_staging(backward *b) {
  sptx_if one = leader_only(b);
  sptx_bulk_wait_read(b->e);
  sptx_if_end(b->e, &one);
  group_sync(b);
}

static void close_staging(backward *b) {
  sptx_fence_proxy_async(b->e);
  group_sync(b);
}

/* 64 rows to the caller's tensor. place: coordinates of column 0. */
static void store_rows(backward *b, const sptx_value *x, int columns, sptx_value map,
                       const sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place now = place_now(b);
  sptx_value region = out_region(b), address = sptx_fragment_address(e, &now, region);
  open_staging(b);
  for (int slab = 0; slab < (columns + 15) / 16; slab++) {
    int count = 16 * slab + 16 <= columns ? 4 : 2;
    sptx_value packed[4];
    pack(b, x + 8 * slab, packed, count);
    sptx_stmatrix(e, sptx_fragment_slab(e, address, slab, 8192), packed, count, false);
  }
  close_staging(b);
  sptx_if one = leader_only(b);
  for (int chunk = 0; chunk < (columns + 63) / 64; chunk++) {
    sptx_value at[5] = {sptx_addi(e, place[0], 64 * chunk), place[1], place[2], place[3], place[4]};
    sptx_tensor_store(e, map, at, sptx_addi(e, region, chunk * 8192));
  }
  sptx_bulk_commit(e);
  sptx_if_end(e, &one);
}

/* 64 rows added to float32 scratch, 64 columns at a time, in boxes of 32 columns (128 bytes, swizzled). */
static void add_rows(backward *b, const sptx_value *x, int columns, sptx_value map,
                     const sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_value region = out_region(b);
  sptx_thread_place now = place_now(b);
  sptx_value row = sptx_add(e, region, sptx_muli(e, now.row, 128));
  sptx_value swizzle = sptx_andi(e, sptx_shri(e, now.lane, 2), 7);
  sptx_value half_unit = sptx_muli(e, sptx_andi(e, now.quad, 1), 8), unit = sptx_shri(e, now.quad, 1);
  for (int first = 0; first < columns; first += 64) {
    int end = first + 64 < columns ? first + 64 : columns;
    open_staging(b);
    for (int column = first; column < end; column += 8)
      for (int half = 0; half < 2; half++) {
        sptx_value in_row = sptx_addi(e, unit, column % 32 / 4);
        in_row = sptx_muli(e, LLVMBuildXor(e->builder, in_row, swizzle, ""), 16);
        sptx_value to = sptx_add(e, sptx_add(e, row, half_unit), in_row);
        to = sptx_addi(e, to, (column - first) / 32 * 8192 + half * 1024);
        sptx_value pair = LLVMGetUndef(LLVMVectorType(e->f32, 2));
        for (int i = 0; i < 2; i++)
          pair = LLVMBuildInsertElement(e->builder, pair, x[column / 2 + 2 * half + i], sptx_i32(e, i), "");
        sptx_shared_store(e, pair, to, 8);
      }
    close_staging(b);
    sptx_if one = leader_only(b);
    for (int column = first; column < end; column += 32) {
      sptx_value at[5] = {sptx_addi(e, place[0], column), place[1], place[2], place[3], place[4]};
      sptx_tensor_reduce_add(e, map, at, sptx_addi(e, region, (column - first) / 32 * 8192));
    }
    sptx_bulk_commit(e);
    sptx_if_end(e, &one);
  }
}

static void write_gradient(backward *b, enum sptx_hopper_gradient how, const sptx_value *x, int columns,
                           int map, const sptx_value place[5]) {
  if (how == SPTX_HOPPER_STORE)
    store_rows(b, x, columns, b->e->maps[map], place);
  else if (how == SPTX_HOPPER_ADD)
    add_rows(b, x, columns, b->e->maps[map], place);
}

/* Half a chunk of dQ from each consumer: one store of the whole chunk, staged in the first one's region. */
static void store_halves(backward *b, const sptx_value *x, const sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_value all = sptx_i32(e, BARRIER_ALL), consumer = recompute(b, b->consumer);
  sptx_value region = sptx_addi(e, b->base, b->layout.out);
  sptx_thread_place at = place_now(b);
  sptx_value address = sptx_fragment_address(e, &at, region);
  address = LLVMBuildXor(e->builder, address, sptx_muli(e, consumer, 64), "");
  sptx_if first = leader_only(b);
  sptx_bulk_wait_read(e);
  sptx_if_end(e, &first);
  sptx_named_sync(e, all, 128 * CONSUMERS);
  for (int slab = 0; slab < 2; slab++) {
    sptx_value packed[4];
    pack(b, x + 8 * slab, packed, 4);
    sptx_stmatrix(e, sptx_fragment_slab(e, address, slab, 0), packed, 4, false);
  }
  sptx_fence_proxy_async(e);
  sptx_named_sync(e, all, 128 * CONSUMERS);
  sptx_value thread = sptx_add(e, sptx_muli(e, b->consumer, 128), b->at.thread);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, thread, sptx_i32(e, 0)));
  sptx_tensor_store(e, e->maps[MAP_D_Q], place, region);
  sptx_bulk_commit(e);
  sptx_if_end(e, &one);
}

static void write_d_q(backward *b, sptx_value *d_q) {
  sptx_gpu_emitter *e = b->e;
  int columns = d_q_columns(b);
  for (int i = 0; i < columns / 2; i++)
    d_q[i] = sptx_mul(e, d_q[i], b->scale);
  sptx_value place[5], zero = sptx_i32(e, 0);
  sptx_hopper_place(e, &b->query, b->spec->packed ? b->consumer : zero, b->query.item.head,
                    b->spec->packed ? zero : sptx_muli(e, b->consumer, columns), place);
  if (b->spec->d_q == SPTX_HOPPER_STORE && columns == 32 && !b->spec->packed) {
    place[0] = zero;
    store_halves(b, d_q, place);
    return;
  }
  write_gradient(b, b->spec->d_q, d_q, columns, MAP_D_Q, place);
}

static void key_place(backward *b, sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_hopper_place(e, &b->key, b->consumer, b->key.item.kv_head, sptx_i32(e, 0), place);
  if (!b->spec->key_runs)
    return;
  sptx_value run = SPTX_HOPPER_PARAM(e, key_run), first = place[1];
  place[2] = sptx_udiv(e, first, run);
  place[1] = sptx_sub(e, first, sptx_mul(e, place[2], run));
}

static void write_d_v(backward *b, const sptx_value *d_v) {
  sptx_value place[5];
  key_place(b, place);
  write_gradient(b, b->spec->d_kv, d_v, b->spec->head_dim, MAP_D_V, place);
}

static void write_d_k(backward *b, sptx_value *d_k) {
  sptx_value place[5];
  key_place(b, place);
  for (int i = 0; i < b->spec->head_dim / 2; i++)
    d_k[i] = sptx_mul(b->e, d_k[i], b->scale);
  write_gradient(b, b->spec->d_kv, d_k, b->spec->head_dim, MAP_D_K, place);
}

static void read_slots(backward *b, const sptx_value *slots, sptx_value *values, int count) {
  for (int i = 0; i < count; i++)
    values[i] = sptx_get(b->e, slots[i]);
}

static void write_slots(backward *b, const sptx_value *slots, const sptx_value *values, int count) {
  for (int i = 0; i < count; i++)
    sptx_set_slot(b->e, slots[i], values[i]);
}

/* Products of one block after its scores: dV, dQ, dK. */
static void accumulate(backward *b, const sptx_value *p, const sptx_value *ds) {
  sptx_gpu_emitter *e = b->e;
  int outputs = b->spec->head_dim / 2, queries = b->spec->d_q == SPTX_HOPPER_SKIP ? 0 : d_q_columns(b) / 2;
  sptx_value both[128], d_k[64], *d_v = both, *d_q = both + outputs;
  read_slots(b, b->d_v, d_v, outputs);
  read_slots(b, b->d_k, d_k, outputs);
  sptx_wgmma_fence(e);
  multiply_rows(b, p, own_queries(b, &b->d_o), d_v, true);
  if (queries) {
    share_scores(b, ds);
    sptx_wgmma_fence(e);
    multiply_d_q(b, d_q);
  }
  multiply_rows(b, ds, own_queries(b, &b->q), d_k, true);
  sptx_wgmma_wait(e, 1, both, outputs + queries);
  sptx_ring_release(e, &b->d_o, b->at.first_lane);
  write_slots(b, b->d_v, d_v, outputs);
  if (queries)
    write_d_q(b, d_q);
  sptx_wgmma_wait(e, 0, d_k, outputs);
  sptx_ring_release(e, &b->q, b->at.first_lane);
  sptx_ring_advance(e, &b->q);
  write_slots(b, b->d_k, d_k, outputs);
  if (queries && b->layout.score_stages == 2)
    sptx_set_slot(e, b->score_stage, sptx_sub(e, sptx_i32(e, 1), sptx_get(e, b->score_stage)));
}

/* The same for a packed item, whose one block is all there is: each gradient leaves its registers before the
 * next needs them. */
static void accumulate_packed(backward *b, const sptx_value *p, const sptx_value *ds) {
  sptx_gpu_emitter *e = b->e;
  int outputs = b->spec->head_dim / 2;
  sptx_value d_v[64], d_k[64], d_q[64];
  sptx_wgmma_fence(e);
  multiply_rows(b, p, own_queries(b, &b->d_o), d_v, false);
  share_scores(b, ds);
  sptx_wgmma_wait(e, 0, d_v, outputs);
  sptx_ring_release(e, &b->d_o, b->at.first_lane);
  write_d_v(b, d_v);
  sptx_wgmma_fence(e);
  multiply_d_q(b, d_q);
  sptx_wgmma_wait(e, 0, d_q, outputs);
  write_d_q(b, d_q);
  sptx_wgmma_fence(e);
  multiply_rows(b, ds, own_queries(b, &b->q), d_k, false);
  sptx_wgmma_wait(e, 0, d_k, outputs);
  sptx_ring_release(e, &b->q, b->at.first_lane);
  sptx_ring_advance(e, &b->q);
  write_d_k(b, d_k);
}

static void step(backward *b, bool masked) {
  sptx_gpu_emitter *e = b->e;
  int scores = BLOCK / 2;
  sptx_value s[64], ds[64], packed_p[32], packed_ds[32];
  sptx_ring_wait_full(e, &b->q);
  sptx_wgmma_fence(e);
  multiply_scores(b, own_keys(b, false), own_queries(b, &b->q), s);
  sptx_ring_wait_full(e, &b->d_o);
  sptx_wgmma_fence(e);
  multiply_scores(b, own_keys(b, true), own_queries(b, &b->d_o), ds);
  sptx_ring_wait_full(e, &b->row_data);
  sptx_wgmma_wait(e, 1, s, scores);
  probabilities(b, masked, s);
  sptx_wgmma_wait(e, 0, ds, scores);
  score_gradients(b, s, ds);
  sptx_ring_release(e, &b->row_data, b->at.first_lane);
  pack(b, s, packed_p, BLOCK / 4);
  pack(b, ds, packed_ds, BLOCK / 4);
  if (b->spec->packed)
    accumulate_packed(b, packed_p, packed_ds);
  else
    accumulate(b, packed_p, packed_ds);
}

static void steps(backward *b, sptx_value first, sptx_value last, bool masked) {
  sptx_loop blocks = block_loop(b, first, last);
  step(b, masked);
  sptx_loop_end(b->e, &blocks);
}

static void release_keys(backward *b) {
  sptx_ring_release(b->e, &b->keys, b->at.first_lane);
  sptx_ring_advance(b->e, &b->keys);
}

static void consume_item(backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value x[64] = {NULL};
  int outputs = b->spec->head_dim / 2;
  sptx_ring_wait_full(e, &b->keys);
  if (b->spec->packed) {
    step(b, true);
    release_keys(b);
    return;
  }
  for (int i = 0; i < outputs; i++) {
    sptx_set_slot(e, b->d_k[i], sptx_f32(e, 0));
    sptx_set_slot(e, b->d_v[i], sptx_f32(e, 0));
  }
  enum { FIELDS = sizeof(sptx_hopper_block_range) / 4 };
  for (int i = 0; i + 1 < FIELDS; i++)
    steps(b, block_limit(b, 4 * (size_t)i), block_limit(b, 4 * (size_t)i + 4), i != 1);
  release_keys(b);
  read_slots(b, b->d_v, x, outputs);
  write_d_v(b, x);
  read_slots(b, b->d_k, x, outputs);
  write_d_k(b, x);
}

static void consume(backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_set_registers(e, CONSUMER_REGISTERS, true);
  b->at = sptx_thread_place_of(e);
  b->consumer = sptx_addi(e, b->at.group, -1);
  open_rings(b, false);
  b->score_stage = sptx_slot(e, e->i32, sptx_i32(e, 0));
  for (int i = 0; i < b->spec->head_dim / 2; i++) {
    b->d_k[i] = sptx_slot(e, e->f32, NULL);
    b->d_v[i] = sptx_slot(e, e->f32, NULL);
  }
  b->scale = sptx_load_arg(e, e->f32, offsetof(sptx_gpu_args, scale));
  b->scale_log2 = sptx_mul(e, b->scale, sptx_f32(e, M_LOG2E));
  sptx_item_loop items = sptx_item_loop_begin(e);
  find_blocks(b, items.index);
  consume_item(b);
  sptx_item_loop_end(e, &items);
  sptx_bulk_wait(e);
}

enum sptx_code sptx_hopper_backward_emit(struct sptx_gpu_emitter *emitter, const char *symbol,
                                         const void *spec, sptx_error *error) {
  (void)error;
  backward b = {.e = emitter, .spec = spec};
  b.layout = sptx_hopper_backward_layout_of(b.spec);
  sptx_kernel_begin(emitter, symbol, sizeof(sptx_hopper_params), MAP_COUNT, 128 * (CONSUMERS + 1), 1, 0);
  open_rings(&b, false);
  initialise(&b);
  sptx_value group = sptx_broadcast(emitter, sptx_shri(emitter, sptx_thread_index(emitter), 7));
  sptx_if producer = sptx_if_begin(emitter, sptx_icmp(emitter, LLVMIntEQ, group, sptx_i32(emitter, 0)));
  produce(&b);
  sptx_if_else(emitter, &producer);
  consume(&b);
  sptx_if_end(emitter, &producer);
  sptx_kernel_end(emitter);
  return SPTX_CODE_OK;
}
