/* The Hopper forward kernel: one producer warpgroup issues tensor copies of Q, K, V (and of the O to merge
 * with); consumer warpgroups of 64 queries multiply with wgmma and keep S, P and O in registers. CTAs are
 * persistent: the producer already loads the next item while the consumers finish this one.
 *
 * In step j a consumer issues S_j = Q K_j^T and O += P_(j-1) V_(j-1) together and does the softmax of S_j
 * while the second product runs. Key tiles run from the last to the first: masked, full, masked. */
#include "gen/ptx/hopper_forward.h"
#include "gen/ptx/hopper_tile.h"
#include <math.h>

enum { MAP_Q, MAP_K, MAP_V, MAP_O, MAP_COUNT };
enum { BARRIER_GROUP = 1, BARRIER_TURN = 6 }; /* named barriers; one for each consumer */

/* Of a step's tile: none; from the high bounds; the first one, which may have both; from the low bounds. */
enum mask { MASK_NONE, MASK_HIGH, MASK_FIRST, MASK_LOW };

typedef struct forward {
  sptx_gpu_emitter *e;
  const sptx_hopper_forward_spec *spec;
  sptx_hopper_forward_layout layout;
  sptx_ring q, k, v, o;
  sptx_thread_place at;
  sptx_value consumer; /* index of this consumer warpgroup */
  sptx_value scale_log2;
  sptx_hopper_rows rows;
  sptx_value first_key, full_first, full_last, last; /* key tiles: [first, full_first) masked, ... */
  sptx_value high_first;            /* the first tile with a key at or past some row's high bound */
  sptx_value item_first, item_last; /* consumers: the tiles that the producer loads, which others may need */
  sptx_value low[2], high[2];       /* of this thread's rows, in keys */
  sptx_value p[128], accumulator[128], row_max[2], row_sum[2]; /* slots */
} forward;

sptx_hopper_forward_layout sptx_hopper_forward_layout_of(const sptx_hopper_forward_spec *spec) {
  sptx_hopper_forward_layout l;
  l.chunks = (spec->head_dim + 63) / 64;
  l.group_bytes = 64 * l.chunks * 128;
  l.query_bytes = spec->consumers * l.group_bytes;
  l.key_chunk_bytes = (spec->packed ? 64 : spec->key_tile) * 128;
  l.key_bytes = spec->packed ? l.query_bytes : l.chunks * l.key_chunk_bytes;
  l.q = 0;
  l.o = l.q + spec->query_stages * l.query_bytes;
  l.k = l.o + l.query_bytes;
  l.v = l.k + spec->stages * l.key_bytes;
  l.barriers = l.v + spec->stages * l.key_bytes;
  l.total = l.barriers + 8 * (2 * spec->query_stages + 4 * spec->stages + 2);
  return l;
}

static void open_rings(forward *f, bool producer) {
  const sptx_hopper_forward_spec *spec = f->spec;
  sptx_value base = sptx_shared_base(f->e);
  int barrier = f->layout.barriers, key = f->layout.key_bytes;
#define RING(buffer, bytes, stages)                                                                          \
  sptx_ring_open(f->e, sptx_addi(f->e, base, buffer), bytes, stages, sptx_addi(f->e, base, barrier),         \
                 sptx_addi(f->e, base, barrier + 8 * (stages)), producer);                                   \
  barrier += 16 * (stages)
  f->q = RING(f->layout.q, f->layout.query_bytes, spec->query_stages);
  f->k = RING(f->layout.k, key, spec->stages);
  f->v = RING(f->layout.v, key, spec->stages);
  f->o = RING(f->layout.o, f->layout.query_bytes, 1);
#undef RING
}

/* Rows of packed tiles that no copy writes would hold anything, and 0 * NaN is NaN. */
static void clear_keys(forward *f) {
  sptx_gpu_emitter *e = f->e;
  int threads = 128 * (f->spec->consumers + 1);
  int begin = f->layout.k, end = f->layout.barriers;
  sptx_value first = sptx_addi(e, sptx_muli(e, sptx_thread_index(e), 8), begin);
  sptx_loop loop = sptx_loop_begin(e, first, sptx_i32(e, end), sptx_i32(e, 8 * threads));
  sptx_shared_store(e, sptx_i64(e, 0), sptx_add(e, sptx_shared_base(e), loop.index), 8);
  sptx_loop_end(e, &loop);
  sptx_fence_proxy_async(e);
}

static void initialise(forward *f) {
  sptx_gpu_emitter *e = f->e;
  int warps = 4 * f->spec->consumers;
  if (f->spec->packed)
    clear_keys(f);
  sptx_value thread = sptx_thread_index(e);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, thread, sptx_i32(e, 0)));
  sptx_ring_init(e, &f->q, 1, warps);
  sptx_ring_init(e, &f->k, 1, warps);
  sptx_ring_init(e, &f->v, 1, warps);
  sptx_ring_init(e, &f->o, 1, f->spec->consumers);
  sptx_mbarrier_init_fence(e);
  for (int i = 0; i < MAP_COUNT; i++)
    sptx_tensor_prefetch(e, e->maps[i]);
  sptx_if_end(e, &one);
  sptx_barrier(e);
}

static sptx_value bound_at(forward *f, bool upper, sptx_value x) {
  return sptx_hopper_bound_at(f->e, upper ? f->spec->upper : f->spec->lower, upper, x);
}

/* Which key tiles queries first .. first + rows - 1 see; at least one, so that rows without keys are written
 * too. */
static void find_range(forward *f, sptx_value first, int rows) {
  sptx_gpu_emitter *e = f->e;
  int keys = f->spec->key_tile;
  sptx_value end = sptx_addi(e, SPTX_HOPPER_PARAM(e, query_count), -1);
  sptx_value last_query = sptx_min(e, sptx_addi(e, first, rows - 1), end);
  sptx_value width = sptx_i32(e, keys);
  sptx_value tiles = sptx_addi(e, SPTX_HOPPER_PARAM(e, key_tiles), -1);
  f->first_key = sptx_min(e, sptx_udiv(e, bound_at(f, false, first), width), tiles);
  f->last =
      sptx_max(e, sptx_ceil_div_by(e, bound_at(f, true, last_query), keys), sptx_addi(e, f->first_key, 1));
  sptx_value full_first = sptx_ceil_div_by(e, bound_at(f, false, last_query), keys);
  f->high_first = sptx_udiv(e, bound_at(f, true, first), width);
  f->full_first = sptx_clamp(e, full_first, f->first_key, f->last);
  f->full_last = sptx_clamp(e, f->high_first, f->full_first, f->last);
}

/* The item, and the key tiles that any of its queries sees. */
static void find_tiles(forward *f, const sptx_item_loop *items) {
  sptx_gpu_emitter *e = f->e;
  int rows = 64 * f->spec->consumers;
  f->rows.packed = f->spec->packed;
  f->rows.consumers = f->spec->consumers;
  f->rows.item = sptx_item_decode(e, items);
  f->rows.first = sptx_muli(e, f->rows.item.tile, rows);
  if (f->spec->packed) {
    f->first_key = f->full_first = f->full_last = sptx_i32(e, 0);
    f->last = sptx_i32(e, 1);
  } else {
    find_range(f, f->rows.first, rows);
  }
  f->item_first = f->first_key;
  f->item_last = f->last;
}

/* Those that this consumer's own 64 queries see; queries past the end see the item's last tile. */
static void find_own_tiles(forward *f) {
  sptx_gpu_emitter *e = f->e;
  if (f->spec->packed || f->spec->consumers == 1)
    return;
  find_range(f, sptx_add(e, f->rows.first, sptx_muli(e, f->consumer, 64)), 64);
  sptx_value last_tile = sptx_addi(e, f->item_last, -1);
  f->first_key = sptx_min(e, f->first_key, last_tile);
  f->last = sptx_min(e, f->last, f->item_last);
  f->full_first = sptx_clamp(e, f->full_first, f->first_key, f->last);
  f->full_last = sptx_clamp(e, f->full_last, f->full_first, f->last);
}

/* Where O already holds earlier pieces, an item without keys has nothing to do. */
static sptx_value has_keys(forward *f) {
  sptx_gpu_emitter *e = f->e;
  if (!f->spec->merge || f->spec->packed)
    return LLVMConstInt(e->i1, 1, 0);
  sptx_value end = sptx_addi(e, SPTX_HOPPER_PARAM(e, query_count), -1);
  sptx_value last = sptx_addi(e, f->rows.first, 64 * f->spec->consumers - 1);
  return sptx_icmp(e, LLVMIntSLT, bound_at(f, false, f->rows.first),
                   bound_at(f, true, sptx_min(e, last, end)));
}

static void load_queries(forward *f, const sptx_ring *ring, sptx_value map) {
  sptx_gpu_emitter *e = f->e;
  sptx_ring_fill(e, ring, SPTX_HOPPER_PARAM(e, query_load));
  for (int group = 0; group < f->spec->consumers; group++)
    for (int chunk = 0; chunk < f->layout.chunks; chunk++) {
      sptx_value place[5];
      sptx_hopper_place(e, &f->rows, sptx_i32(e, group), f->rows.item.head, sptx_i32(e, 64 * chunk), place);
      int offset = group * f->layout.group_bytes + chunk * 8192;
      sptx_tensor_load(e, sptx_addi(e, sptx_ring_buffer(e, ring), offset), map, place,
                       sptx_ring_full(e, ring));
    }
  sptx_ring_advance(e, ring);
}

static void load_keys(forward *f, const sptx_ring *ring, sptx_value map, sptx_value tile) {
  sptx_gpu_emitter *e = f->e;
  sptx_value place[5] = {NULL, NULL, NULL, f->rows.item.kv_head, f->rows.item.batch};
  sptx_ring_fill(e, ring, SPTX_HOPPER_PARAM(e, key_load));
  int boxes = f->spec->packed ? f->spec->consumers : 1;
  for (int box = 0; box < boxes; box++)
    for (int chunk = 0; chunk < f->layout.chunks; chunk++) {
      sptx_value first = sptx_muli(e, tile, f->spec->key_tile);
      if (f->spec->packed) {
        sptx_hopper_place(e, &f->rows, sptx_i32(e, box), f->rows.item.kv_head, sptx_i32(e, 0), place);
      } else if (f->spec->key_runs) {
        sptx_value run = SPTX_HOPPER_PARAM(e, key_run);
        place[2] = sptx_udiv(e, first, run);
        place[1] = sptx_sub(e, first, sptx_mul(e, place[2], run));
      } else {
        place[1] = first;
        place[2] = f->rows.item.shared_group;
      }
      place[0] = sptx_i32(e, 64 * chunk);
      int offset = box * f->layout.group_bytes + chunk * f->layout.key_chunk_bytes;
      sptx_tensor_load(e, sptx_addi(e, sptx_ring_buffer(e, ring), offset), map, place,
                       sptx_ring_full(e, ring));
    }
  sptx_ring_advance(e, ring);
}

static void produce(forward *f) {
  sptx_gpu_emitter *e = f->e;
  sptx_set_registers(e, f->spec->producer_registers, false);
  sptx_value thread = sptx_thread_index(e);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, thread, sptx_i32(e, 0)));
  open_rings(f, true);
  sptx_item_loop items = sptx_item_loop_begin(e);
  find_tiles(f, &items);
  sptx_if useful = sptx_if_begin(e, has_keys(f));
  load_queries(f, &f->q, e->maps[MAP_Q]);
  sptx_value count = sptx_sub(e, f->last, f->first_key);
  sptx_loop tiles = sptx_loop_begin(e, sptx_i32(e, 0), count, sptx_i32(e, 1));
  sptx_value tile = sptx_sub(e, sptx_addi(e, f->last, -1), tiles.index);
  load_keys(f, &f->k, e->maps[MAP_K], tile);
  load_keys(f, &f->v, e->maps[MAP_V], tile);
  sptx_loop_end(e, &tiles);
  if (f->spec->merge)
    load_queries(f, &f->o, e->maps[MAP_O]);
  sptx_if_end(e, &useful);
  sptx_item_loop_end(e, &items);
  sptx_if_end(e, &one);
}

/* --- Consumers --- */

static sptx_hopper_row row_of(forward *f, int half) {
  return sptx_hopper_row_of(f->e, &f->rows, f->consumer, sptx_addi(f->e, f->at.row, 8 * half));
}

static void find_row_bounds(forward *f) {
  for (int half = 0; half < 2; half++) {
    sptx_hopper_row row = row_of(f, half);
    sptx_hopper_row_keys(f->e, &f->rows, &row, f->spec->lower, f->spec->upper, &f->low[half], &f->high[half]);
  }
}

static void multiply_scores(forward *f, sptx_value *s) {
  sptx_gpu_emitter *e = f->e;
  sptx_value q = sptx_add(e, sptx_ring_buffer(e, &f->q), sptx_muli(e, f->consumer, f->layout.group_bytes));
  sptx_value k = sptx_ring_buffer(e, &f->k);
  if (f->spec->packed)
    k = sptx_add(e, k, sptx_muli(e, f->consumer, f->layout.group_bytes));
  sptx_value a = sptx_descriptor_k_major(e, q), b = sptx_descriptor_k_major(e, k);
  sptx_wgmma shape = {f->spec->element, f->spec->key_tile, false, false};
  for (int slab = 0; slab < (f->spec->head_dim + 15) / 16; slab++) {
    int in_chunk = slab % 4 * 2, chunk = slab / 4;
    sptx_wgmma_shared(e, shape, slab > 0, s, sptx_addi(e, a, in_chunk + chunk * (8192 >> 4)),
                      sptx_addi(e, b, in_chunk + chunk * (f->layout.key_chunk_bytes >> 4)));
  }
  sptx_wgmma_commit(e);
}

static void multiply_values(forward *f, sptx_value *o) {
  sptx_gpu_emitter *e = f->e;
  sptx_value v = sptx_ring_buffer(e, &f->v);
  if (f->spec->packed)
    v = sptx_add(e, v, sptx_muli(e, f->consumer, f->layout.group_bytes));
  sptx_value b = sptx_descriptor_mn_major(e, v, f->layout.key_chunk_bytes);
  sptx_wgmma shape = {f->spec->element, f->spec->head_dim, false, true};
  for (int slab = 0; slab < f->spec->key_tile / 16; slab++) {
    sptx_value a[4];
    for (int i = 0; i < 4; i++)
      a[i] = sptx_get(e, f->p[4 * slab + i]);
    sptx_wgmma_registers(e, shape, true, o, a, sptx_addi(e, b, slab * (2048 >> 4)));
  }
  sptx_wgmma_commit(e);
}

/* Scores of keys at or past the row's high bound, or before its low one, become -inf. */
static void mask_side(forward *f, sptx_value tile, bool upper, sptx_value *s) {
  sptx_gpu_emitter *e = f->e;
  sptx_value first = sptx_add(e, sptx_muli(e, tile, f->spec->key_tile), sptx_muli(e, f->at.quad, 2));
  for (int half = 0; half < 2; half++) {
    sptx_value bound = sptx_sub(e, upper ? f->high[half] : f->low[half], first);
    for (int i = 0; i < f->spec->key_tile / 4; i++) {
      int index = i / 2 * 4 + half * 2 + i % 2;
      sptx_value column = sptx_i32(e, i / 2 * 8 + i % 2);
      sptx_value seen = sptx_icmp(e, upper ? LLVMIntSGT : LLVMIntSLE, bound, column);
      s[index] = sptx_select(e, seen, s[index], sptx_f32(e, -INFINITY));
    }
  }
}

/* The same where a condition that all threads share holds. */
static void mask_side_if(forward *f, sptx_value condition, sptx_value tile, bool upper, sptx_value *s) {
  sptx_gpu_emitter *e = f->e;
  int count = f->spec->key_tile / 2;
  sptx_value slots[128];
  for (int i = 0; i < count; i++)
    slots[i] = sptx_slot(e, e->f32, s[i]);
  sptx_if some = sptx_if_begin(e, condition);
  mask_side(f, tile, upper, s);
  for (int i = 0; i < count; i++)
    sptx_set_slot(e, slots[i], s[i]);
  sptx_if_end(e, &some);
  for (int i = 0; i < count; i++)
    s[i] = sptx_get(e, slots[i]);
}

/* Tiles from full_first on see every low bound passed, tiles before high_first no high bound reached. */
static void mask_scores(forward *f, enum mask mask, sptx_value tile, sptx_value *s) {
  sptx_gpu_emitter *e = f->e;
  if (f->spec->packed) {
    mask_side(f, tile, true, s);
    mask_side(f, tile, false, s);
  } else if (mask == MASK_HIGH) {
    mask_side(f, tile, true, s);
  } else if (mask == MASK_FIRST) {
    mask_side(f, tile, true, s);
    if (f->spec->lower != SPTX_HOPPER_NONE)
      mask_side_if(f, sptx_icmp(e, LLVMIntSLT, tile, f->full_first), tile, false, s);
  } else if (mask == MASK_LOW) {
    mask_side(f, tile, false, s);
    mask_side_if(f, sptx_icmp(e, LLVMIntSGE, tile, f->high_first), tile, true, s);
  }
}

static sptx_value across_quad(sptx_gpu_emitter *e, sptx_value x, bool maximum) {
  for (int mask = 1; mask <= 2; mask *= 2) {
    sptx_value other = sptx_shuffle_xor(e, x, mask);
    x = maximum ? sptx_max(e, x, other) : sptx_add(e, x, other);
  }
  return x;
}

/* Folds every fourth-pair of a row into four chains, then one. */
static sptx_value fold_row(forward *f, const sptx_value *s, int half, bool maximum) {
  sptx_gpu_emitter *e = f->e;
  sptx_value chain[4] = {NULL, NULL, NULL, NULL};
  for (int i = 0; i < f->spec->key_tile / 4; i++) {
    sptx_value x = s[i / 2 * 4 + half * 2 + i % 2], *c = &chain[i % 4];
    *c = !*c ? x : maximum ? sptx_max(e, *c, x) : sptx_add(e, *c, x);
  }
  sptx_value a = maximum ? sptx_max(e, chain[0], chain[1]) : sptx_add(e, chain[0], chain[1]);
  sptx_value b = maximum ? sptx_max(e, chain[2], chain[3]) : sptx_add(e, chain[2], chain[3]);
  return maximum ? sptx_max(e, a, b) : sptx_add(e, a, b);
}

/* Scores to probabilities relative to the row's new maximum; rescale is what earlier sums shrink by. Rows
 * that have seen no key yet keep the maximum -inf and count from 0. */
static void softmax(forward *f, sptx_value *s, bool masked, sptx_value rescale[2]) {
  sptx_gpu_emitter *e = f->e;
  for (int half = 0; half < 2; half++) {
    sptx_value before = sptx_get(e, f->row_max[half]);
    sptx_value maximum = sptx_max(e, before, across_quad(e, fold_row(f, s, half, true), true));
    sptx_set_slot(e, f->row_max[half], maximum);
    if (masked) {
      sptx_value none = sptx_fcmp(e, LLVMRealOEQ, maximum, sptx_f32(e, -INFINITY));
      maximum = sptx_select(e, none, sptx_f32(e, 0), maximum);
    }
    sptx_value offset = LLVMBuildFNeg(e->builder, sptx_mul(e, maximum, f->scale_log2), "");
    rescale[half] = sptx_exp2(e, sptx_fma(e, before, f->scale_log2, offset));
    for (int i = 0; i < f->spec->key_tile / 4; i++) {
      sptx_value *x = &s[i / 2 * 4 + half * 2 + i % 2];
      *x = sptx_exp2(e, sptx_fma(e, *x, f->scale_log2, offset));
    }
    sptx_value sum = sptx_fma(e, sptx_get(e, f->row_sum[half]), rescale[half], fold_row(f, s, half, false));
    sptx_set_slot(e, f->row_sum[half], sum);
  }
}

static void keep_probabilities(forward *f, const sptx_value *s) {
  for (int i = 0; i < f->spec->key_tile / 4; i++)
    sptx_set_slot(f->e, f->p[i], sptx_pack(f->e, f->spec->element, s[2 * i], s[2 * i + 1]));
}

static void read_slots(forward *f, const sptx_value *slots, sptx_value *values, int count) {
  for (int i = 0; i < count; i++)
    values[i] = sptx_get(f->e, slots[i]);
}

static void write_slots(forward *f, const sptx_value *slots, const sptx_value *values, int count) {
  for (int i = 0; i < count; i++)
    sptx_set_slot(f->e, slots[i], values[i]);
}

static void first_step(forward *f) {
  sptx_gpu_emitter *e = f->e;
  sptx_value s[128], rescale[2];
  sptx_ring_wait_full(e, &f->k);
  sptx_wgmma_fence(e);
  multiply_scores(f, s);
  sptx_wgmma_wait(e, 0, s, f->spec->key_tile / 2);
  sptx_ring_release(e, &f->k, f->at.first_lane);
  sptx_ring_advance(e, &f->k);
  mask_scores(f, MASK_FIRST, sptx_addi(e, f->last, -1), s);
  softmax(f, s, true, rescale);
  keep_probabilities(f, s);
}

static void take_turn(forward *f, bool arrive) {
  sptx_gpu_emitter *e = f->e;
  if (!f->spec->ping_pong)
    return;
  if (!arrive) {
    sptx_named_sync(e, sptx_addi(e, f->consumer, BARRIER_TURN), 256);
    return;
  }
  sptx_value next = sptx_addi(e, f->consumer, 1);
  sptx_value wraps = sptx_icmp(e, LLVMIntEQ, next, sptx_i32(e, f->spec->consumers));
  next = sptx_select(e, wraps, sptx_i32(e, 0), next);
  sptx_named_arrive(e, sptx_addi(e, next, BARRIER_TURN), 256);
}

/* One more key tile: its scores, beside the product of the tile before. */
static void step(forward *f, sptx_value tile, enum mask mask) {
  sptx_gpu_emitter *e = f->e;
  int scores = f->spec->key_tile / 2, outputs = f->spec->head_dim / 2;
  sptx_value s[128], both[256], rescale[2];
  sptx_value *o = both;
  read_slots(f, f->accumulator, o, outputs);
  sptx_ring_wait_full(e, &f->k);
  take_turn(f, false);
  sptx_wgmma_fence(e);
  multiply_scores(f, s);
  sptx_ring_wait_full(e, &f->v);
  sptx_wgmma_fence(e); /* again: the wait is a loop, and ptxas wants the fence in the product's own block */
  multiply_values(f, o);
  take_turn(f, true);
  sptx_wgmma_wait(e, 1, s, scores);
  sptx_ring_release(e, &f->k, f->at.first_lane);
  sptx_ring_advance(e, &f->k);
  mask_scores(f, mask, tile, s);
  softmax(f, s, mask != MASK_NONE, rescale);
  for (int i = 0; i < scores; i++)
    both[outputs + i] = s[i];
  sptx_wgmma_wait(e, 0, both, outputs + scores);
  sptx_ring_release(e, &f->v, f->at.first_lane);
  sptx_ring_advance(e, &f->v);
  keep_probabilities(f, both + outputs);
  for (int i = 0; i < outputs; i++)
    o[i] = sptx_mul(e, o[i], rescale[i / 2 % 2]);
  write_slots(f, f->accumulator, o, outputs);
}

/* The tiles [begin, end), from the last to the first. */
static void steps(forward *f, sptx_value begin, sptx_value end, enum mask mask) {
  sptx_gpu_emitter *e = f->e;
  sptx_loop loop = sptx_loop_begin(e, begin, end, sptx_i32(e, 1));
  sptx_value tile = sptx_sub(e, sptx_addi(e, sptx_add(e, begin, end), -1), loop.index);
  step(f, tile, mask);
  sptx_loop_end(e, &loop);
}

/* Lets `count` tiles pass that only other consumers need. */
static void skip_tiles(forward *f, sptx_value count) {
  sptx_gpu_emitter *e = f->e;
  if (f->spec->packed || f->spec->consumers == 1)
    return;
  sptx_loop loop = sptx_loop_begin(e, sptx_i32(e, 0), count, sptx_i32(e, 1));
  const sptx_ring *const rings[] = {&f->k, &f->v};
  for (int i = 0; i < 2; i++) {
    sptx_ring_wait_full(e, rings[i]);
    sptx_ring_release(e, rings[i], f->at.first_lane);
    sptx_ring_advance(e, rings[i]);
  }
  take_turn(f, false);
  take_turn(f, true);
  sptx_loop_end(e, &loop);
}

static void last_product(forward *f, sptx_value *o) {
  sptx_gpu_emitter *e = f->e;
  int outputs = f->spec->head_dim / 2;
  read_slots(f, f->accumulator, o, outputs);
  sptx_ring_wait_full(e, &f->v);
  sptx_wgmma_fence(e);
  multiply_values(f, o);
  sptx_wgmma_wait(e, 0, o, outputs);
  sptx_ring_release(e, &f->v, f->at.first_lane);
  sptx_ring_advance(e, &f->v);
}

static sptx_value lse_address(forward *f, const sptx_hopper_row *row) {
  sptx_value offset = sptx_muli(f->e, sptx_hopper_row_index(f->e, &f->rows, row), 4);
  return sptx_add(f->e, sptx_load_arg(f->e, f->e->i64, offsetof(sptx_gpu_args, lse)), offset);
}

/* The log-sum-exp of each row, in base 2, and the factor that normalises its output. */
static void finish_row(forward *f, int half, sptx_value *lse, sptx_value *factor) {
  sptx_gpu_emitter *e = f->e;
  sptx_value sum = across_quad(e, sptx_get(e, f->row_sum[half]), false);
  sptx_value empty = sptx_fcmp(e, LLVMRealOEQ, sum, sptx_f32(e, 0));
  sptx_value maximum = sptx_mul(e, sptx_get(e, f->row_max[half]), f->scale_log2);
  sptx_value value = sptx_add(e, maximum, sptx_log2(e, sum));
  *lse = sptx_select(e, empty, sptx_f32(e, -INFINITY), value);
  *factor = sptx_select(e, empty, sptx_f32(e, 0), sptx_reciprocal(e, sum));
}

/* Weights of this piece and of the earlier ones: exp(lse - both), where both = log(exp(lse) + exp(before)).
 */
static sptx_value merge_row(forward *f, sptx_value before, sptx_value *lse, sptx_value *factor) {
  sptx_gpu_emitter *e = f->e;
  sptx_value maximum = sptx_max(e, before, *lse);
  sptx_value none = sptx_fcmp(e, LLVMRealOEQ, maximum, sptx_f32(e, -INFINITY));
  sptx_value offset = sptx_select(e, none, sptx_f32(e, 0), maximum);
  sptx_value mine = sptx_exp2(e, sptx_sub(e, *lse, offset));
  sptx_value theirs = sptx_exp2(e, sptx_sub(e, before, offset));
  sptx_value sum = sptx_add(e, mine, theirs);
  sptx_value inverse = sptx_select(e, none, sptx_f32(e, 0), sptx_reciprocal(e, sum));
  *lse = sptx_select(e, none, maximum, sptx_add(e, maximum, sptx_log2(e, sum)));
  *factor = sptx_mul(e, *factor, sptx_mul(e, mine, inverse));
  return sptx_mul(e, theirs, inverse);
}

static void store_lse(forward *f, sptx_value address, sptx_value exists, sptx_value lse) {
  sptx_gpu_emitter *e = f->e;
  sptx_value mine = sptx_icmp(e, LLVMIntEQ, f->at.quad, sptx_i32(e, 0));
  sptx_if writes = sptx_if_begin(e, sptx_and(e, exists, mine));
  sptx_store_global(e, sptx_mul(e, lse, sptx_f32(e, M_LN2)), address, 4);
  sptx_if_end(e, &writes);
}

static void store_slab(forward *f, sptx_value place, int slab, sptx_value *o, const sptx_value factor[2],
                       const sptx_value before[2]) {
  sptx_gpu_emitter *e = f->e;
  int count = 8 * slab + 8 <= f->spec->head_dim / 2 ? 4 : 2;
  sptx_value address = sptx_fragment_slab(e, place, slab, 8192), packed[4];
  if (f->spec->merge)
    sptx_ldmatrix(e, address, packed, count);
  for (int i = 0; i < count; i++) {
    sptx_value pair[2], *x = &o[8 * slab + 2 * i];
    for (int k = 0; k < 2; k++)
      x[k] = sptx_mul(e, x[k], factor[i % 2]);
    if (f->spec->merge) {
      sptx_unpack(e, f->spec->element, packed[i], pair);
      for (int k = 0; k < 2; k++)
        x[k] = sptx_fma(e, pair[k], before[i % 2], x[k]);
    }
    packed[i] = sptx_pack(e, f->spec->element, x[0], x[1]);
  }
  sptx_stmatrix(e, address, packed, count, false);
}

/* O of this warpgroup through its shared region into the tensor. */
static void store_output(forward *f, sptx_value *o, const sptx_value factor[2], const sptx_value before[2]) {
  sptx_gpu_emitter *e = f->e;
  sptx_value region = sptx_add(e, f->o.base, sptx_muli(e, f->consumer, f->layout.group_bytes));
  sptx_value group_barrier = sptx_addi(e, f->consumer, BARRIER_GROUP);
  sptx_value leads = sptx_icmp(e, LLVMIntNE, f->at.leader, sptx_i32(e, 0));
  if (f->spec->merge) {
    sptx_ring_wait_full(e, &f->o);
    sptx_ring_advance(e, &f->o);
  } else {
    sptx_if one = sptx_if_begin(e, leads);
    sptx_bulk_wait_read(e);
    sptx_if_end(e, &one);
    sptx_named_sync(e, group_barrier, 128);
  }
  sptx_value place = sptx_fragment_address(e, &f->at, region);
  for (int slab = 0; slab < (f->spec->head_dim + 15) / 16; slab++)
    store_slab(f, place, slab, o, factor, before);
  sptx_fence_proxy_async(e);
  sptx_named_sync(e, group_barrier, 128);
  sptx_if one = sptx_if_begin(e, leads);
  for (int chunk = 0; chunk < f->layout.chunks; chunk++) {
    sptx_value coordinates[5];
    sptx_hopper_place(e, &f->rows, f->consumer, f->rows.item.head, sptx_i32(e, 64 * chunk), coordinates);
    sptx_tensor_store(e, e->maps[MAP_O], coordinates, sptx_addi(e, region, chunk * 8192));
  }
  sptx_bulk_commit(e);
  if (f->spec->merge) {
    sptx_bulk_wait_read(e);
    sptx_mbarrier_arrive_if(e, f->o.empty, sptx_i32(e, 1));
  }
  sptx_if_end(e, &one);
}

static void finish(forward *f) {
  sptx_gpu_emitter *e = f->e;
  sptx_value o[128], lse[2], factor[2], before[2] = {NULL, NULL}, address[2], exists[2], old[2];
  for (int half = 0; half < 2; half++) {
    sptx_hopper_row row = row_of(f, half);
    address[half] = lse_address(f, &row);
    exists[half] = row.exists;
    if (f->spec->merge) {
      sptx_value safe =
          sptx_select(e, row.exists, address[half], sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, lse)));
      old[half] = sptx_load_global(e, e->f32, safe, 4);
    }
  }
  last_product(f, o);
  skip_tiles(f, sptx_sub(e, f->first_key, f->item_first));
  for (int half = 0; half < 2; half++) {
    finish_row(f, half, &lse[half], &factor[half]);
    if (f->spec->merge)
      before[half] = merge_row(f, sptx_mul(e, old[half], sptx_f32(e, M_LOG2E)), &lse[half], &factor[half]);
    store_lse(f, address[half], exists[half], lse[half]);
  }
  store_output(f, o, factor, before);
}

static void open_slots(forward *f) {
  sptx_gpu_emitter *e = f->e;
  for (int i = 0; i < f->spec->key_tile / 4; i++)
    f->p[i] = sptx_slot(e, e->i32, NULL);
  for (int i = 0; i < f->spec->head_dim / 2; i++)
    f->accumulator[i] = sptx_slot(e, e->f32, NULL);
  for (int half = 0; half < 2; half++) {
    f->row_max[half] = sptx_slot(e, e->f32, NULL);
    f->row_sum[half] = sptx_slot(e, e->f32, NULL);
  }
}

static void consume_item(forward *f) {
  sptx_gpu_emitter *e = f->e;
  find_row_bounds(f);
  for (int i = 0; i < f->spec->head_dim / 2; i++)
    sptx_set_slot(e, f->accumulator[i], sptx_f32(e, 0));
  for (int half = 0; half < 2; half++) {
    sptx_set_slot(e, f->row_max[half], sptx_f32(e, -INFINITY));
    sptx_set_slot(e, f->row_sum[half], sptx_f32(e, 0));
  }
  find_own_tiles(f);
  skip_tiles(f, sptx_sub(e, f->item_last, f->last));
  sptx_ring_wait_full(e, &f->q);
  first_step(f);
  if (!f->spec->packed) {
    sptx_value before_last = sptx_addi(e, f->last, -1);
    sptx_value full_last = sptx_min(e, f->full_last, before_last);
    sptx_value full_first = sptx_min(e, f->full_first, full_last);
    steps(f, full_last, before_last, MASK_HIGH);
    steps(f, full_first, full_last, MASK_NONE);
    if (f->spec->lower != SPTX_HOPPER_NONE)
      steps(f, f->first_key, full_first, MASK_LOW);
  }
  sptx_ring_release(e, &f->q, f->at.first_lane);
  sptx_ring_advance(e, &f->q);
  finish(f);
}

static void consume(forward *f) {
  sptx_gpu_emitter *e = f->e;
  sptx_set_registers(e, f->spec->consumer_registers, true);
  f->at = sptx_thread_place_of(e);
  f->consumer = sptx_addi(e, f->at.group, -1);
  open_rings(f, false);
  open_slots(f);
  sptx_value scale = sptx_load_arg(e, e->f32, offsetof(sptx_gpu_args, scale));
  f->scale_log2 = sptx_mul(e, scale, sptx_f32(e, M_LOG2E));
  if (f->spec->ping_pong) {
    sptx_value is_last = sptx_icmp(e, LLVMIntEQ, f->consumer, sptx_i32(e, f->spec->consumers - 1));
    sptx_if last = sptx_if_begin(e, is_last);
    sptx_named_arrive(e, sptx_i32(e, BARRIER_TURN), 256);
    sptx_if_end(e, &last);
  }
  sptx_item_loop items = sptx_item_loop_begin(e);
  find_tiles(f, &items);
  sptx_if useful = sptx_if_begin(e, has_keys(f));
  consume_item(f);
  sptx_if_end(e, &useful);
  sptx_item_loop_end(e, &items);
  sptx_bulk_wait(e);
}

enum sptx_code sptx_hopper_forward_emit(struct sptx_gpu_emitter *emitter, const char *symbol,
                                        const void *spec, sptx_error *error) {
  (void)error;
  forward f = {.e = emitter, .spec = spec};
  f.layout = sptx_hopper_forward_layout_of(f.spec);
  sptx_kernel_begin(emitter, symbol, sizeof(sptx_hopper_params), MAP_COUNT, 128 * (f.spec->consumers + 1),
                    f.spec->ctas, 0);
  open_rings(&f, false);
  initialise(&f);
  sptx_value group = sptx_broadcast(emitter, sptx_shri(emitter, sptx_thread_index(emitter), 7));
  sptx_if producer = sptx_if_begin(emitter, sptx_icmp(emitter, LLVMIntEQ, group, sptx_i32(emitter, 0)));
  produce(&f);
  sptx_if_else(emitter, &producer);
  consume(&f);
  sptx_if_end(emitter, &producer);
  sptx_kernel_end(emitter);
  return SPTX_CODE_OK;
}
