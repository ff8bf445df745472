/* The consumer warpgroups of the Hopper forward kernel: 64 queries each, both products and the softmax
 * between. */
#include "gen/ptx/hopper_forward_kernel.h"
#include <math.h>

/* Of a step's tile: none; from the high bounds; the first one, which may have both; from the low bounds. */
enum mask { MASK_NONE, MASK_HIGH, MASK_FIRST, MASK_LOW };

static void find_row_bounds(sptx_forward *f) {
  for (int half = 0; half < 2; half++) {
    sptx_hopper_row row = sptx_forward_row_of(f, half);
    sptx_hopper_row_keys(f->e, &f->rows, &row, f->spec->lower, f->spec->upper, &f->low[half], &f->high[half]);
  }
}

static void multiply_scores(sptx_forward *f, sptx_value *s) {
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

static void multiply_values(sptx_forward *f, sptx_value *o) {
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
static void mask_side(sptx_forward *f, sptx_value tile, bool upper, sptx_value *s) {
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
static void mask_side_if(sptx_forward *f, sptx_value condition, sptx_value tile, bool upper, sptx_value *s) {
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
static void mask_scores(sptx_forward *f, enum mask mask, sptx_value tile, sptx_value *s) {
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

/* Folds every fourth-pair of a row into four chains, then one. */
static sptx_value fold_row(sptx_forward *f, const sptx_value *s, int half, bool maximum) {
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
static void softmax(sptx_forward *f, sptx_value *s, bool masked, sptx_value rescale[2]) {
  sptx_gpu_emitter *e = f->e;
  for (int half = 0; half < 2; half++) {
    sptx_value before = sptx_get(e, f->row_max[half]);
    sptx_value maximum = sptx_max(e, before, sptx_forward_across_quad(e, fold_row(f, s, half, true), true));
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

static void keep_probabilities(sptx_forward *f, const sptx_value *s) {
  for (int i = 0; i < f->spec->key_tile / 4; i++)
    sptx_set_slot(f->e, f->p[i], sptx_pack(f->e, f->spec->element, s[2 * i], s[2 * i + 1]));
}

static void first_step(sptx_forward *f) {
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

static void take_turn(sptx_forward *f, bool arrive) {
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
static void step(sptx_forward *f, sptx_value tile, enum mask mask) {
  sptx_gpu_emitter *e = f->e;
  int scores = f->spec->key_tile / 2, outputs = f->spec->head_dim / 2;
  sptx_value s[128], both[256], rescale[2];
  sptx_value *o = both;
  sptx_get_slots(e, f->accumulator, o, outputs);
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
  sptx_set_slots(e, f->accumulator, o, outputs);
}

/* The tiles [begin, end), from the last to the first. */
static void steps(sptx_forward *f, sptx_value begin, sptx_value end, enum mask mask) {
  sptx_gpu_emitter *e = f->e;
  sptx_loop loop = sptx_loop_begin(e, begin, end, sptx_i32(e, 1));
  sptx_value tile = sptx_sub(e, sptx_addi(e, sptx_add(e, begin, end), -1), loop.index);
  step(f, tile, mask);
  sptx_loop_end(e, &loop);
}

/* Lets `count` tiles pass that only other consumers need. */
static void skip_tiles(sptx_forward *f, sptx_value count) {
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

static void last_product(sptx_forward *f, sptx_value *o) {
  sptx_gpu_emitter *e = f->e;
  int outputs = f->spec->head_dim / 2;
  sptx_get_slots(e, f->accumulator, o, outputs);
  sptx_ring_wait_full(e, &f->v);
  sptx_wgmma_fence(e);
  multiply_values(f, o);
  sptx_wgmma_wait(e, 0, o, outputs);
  sptx_ring_release(e, &f->v, f->at.first_lane);
  sptx_ring_advance(e, &f->v);
}

static void finish(sptx_forward *f) {
  sptx_value o[128];
  sptx_forward_rows rows = sptx_forward_find_rows(f);
  last_product(f, o);
  skip_tiles(f, sptx_sub(f->e, f->first_key, f->item_first));
  sptx_forward_write(f, &rows, o);
}

static void open_slots(sptx_forward *f) {
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

static void consume_item(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  find_row_bounds(f);
  for (int i = 0; i < f->spec->head_dim / 2; i++)
    sptx_set_slot(e, f->accumulator[i], sptx_f32(e, 0));
  for (int half = 0; half < 2; half++) {
    sptx_set_slot(e, f->row_max[half], sptx_f32(e, -INFINITY));
    sptx_set_slot(e, f->row_sum[half], sptx_f32(e, 0));
  }
  sptx_forward_find_own_tiles(f);
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

void sptx_forward_consume(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  sptx_set_registers(e, f->spec->consumer_registers, true);
  f->at = sptx_thread_place_of(e);
  f->consumer = sptx_addi(e, f->at.group, -1);
  sptx_forward_open_rings(f, false);
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
  sptx_forward_find_tiles(f, &items);
  sptx_if useful = sptx_if_begin(e, sptx_forward_has_keys(f));
  consume_item(f);
  sptx_if_end(e, &useful);
  sptx_item_loop_end(e, &items);
  sptx_bulk_wait(e);
}
