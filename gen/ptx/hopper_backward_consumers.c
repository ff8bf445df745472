/* The consumer warpgroups of the Hopper backward kernel: 64 keys each, all products and the softmax between.
 */
#include "gen/ptx/hopper_backward_kernel.h"
#include <math.h>

enum { SCORES = BLOCK / 2 }; /* of S or dP, that a thread holds */

static sptx_value own_keys(sptx_backward *b, bool values) {
  sptx_gpu_emitter *e = b->e;
  sptx_value place = sptx_add(e, sptx_ring_buffer(e, &b->keys),
                              sptx_muli(e, sptx_recompute(e, b->consumer), b->layout.group_bytes));
  return values ? sptx_addi(e, place, b->layout.v - b->layout.k) : place;
}

/* Q or dO of the block; packed: of this consumer's group. */
static sptx_value own_queries(sptx_backward *b, const sptx_ring *ring) {
  sptx_value place = sptx_ring_buffer(b->e, ring);
  if (!b->spec->packed)
    return place;
  return sptx_add(b->e, place, sptx_muli(b->e, b->consumer, b->layout.group_bytes));
}

/* Narrow heads keep their K and V as operands in registers, which saves half of the shared memory that S and
 * dP read; there, not the tensor cores, is the limit. */
static bool holds_keys(const sptx_backward *b) {
  return b->spec->head_dim <= 64 && !b->spec->packed;
}

/* Whether S of the next block is computed while this one's gradients leave: where registers allow, and not
 * for narrow heads that add dQ up, which it makes slower. */
static bool looks_ahead(const sptx_backward *b) {
  bool adds = b->spec->d_q == SPTX_HOPPER_ADD, low = b->spec->lower != SPTX_HOPPER_NONE;
  return b->spec->head_dim <= 64 ? !adds : sptx_backward_is_large(b->spec) && !low;
}

static int score_slabs(const sptx_backward *b) {
  return (b->spec->head_dim + 15) / 16;
}

static void load_keys(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  if (!holds_keys(b))
    return;
  for (int values = 0; values < 2; values++) {
    sptx_value place = sptx_fragment_address(e, &b->at, own_keys(b, values));
    for (int slab = 0; slab < score_slabs(b); slab++)
      sptx_ldmatrix(e, sptx_fragment_slab(e, place, slab, 8192), b->held[values] + 4 * slab, 4);
  }
}

/* K Q^T or V dO^T: 64 own keys by the block's queries. */
static void multiply_scores(sptx_backward *b, bool values, sptx_value queries, sptx_value *s) {
  sptx_gpu_emitter *e = b->e;
  sptx_value q = sptx_descriptor_k_major(e, queries);
  sptx_value a = holds_keys(b) ? NULL : sptx_descriptor_k_major(e, own_keys(b, values));
  sptx_wgmma shape = {b->spec->element, BLOCK, false, false};
  for (int slab = 0; slab < score_slabs(b); slab++) {
    int offset = slab % 4 * 2 + slab / 4 * (8192 >> 4);
    if (holds_keys(b))
      sptx_wgmma_registers(e, shape, slab > 0, s, b->held[values] + 4 * slab, sptx_addi(e, q, offset));
    else
      sptx_wgmma_shared(e, shape, slab > 0, s, sptx_addi(e, a, offset), sptx_addi(e, q, offset));
  }
  sptx_wgmma_commit(e);
}

/* sum (+)= packed (64 keys x queries, registers) * rows (queries x head_dim). */
static void multiply_rows(sptx_backward *b, const sptx_value *packed, sptx_value rows, sptx_value *sum,
                          bool accumulate) {
  sptx_gpu_emitter *e = b->e;
  sptx_value r = sptx_descriptor_mn_major(e, rows, 8192);
  sptx_wgmma shape = {b->spec->element, b->spec->head_dim, false, true};
  for (int slab = 0; slab < BLOCK / 16; slab++)
    sptx_wgmma_registers(e, shape, accumulate || slab > 0, sum, packed + 4 * slab,
                         sptx_addi(e, r, slab * (2048 >> 4)));
  sptx_wgmma_commit(e);
}

static void multiply_d_q(sptx_backward *b, sptx_value *d_q, bool accumulate) {
  sptx_gpu_emitter *e = b->e;
  sptx_value scores = sptx_ring_buffer(e, &b->scores), keys = sptx_ring_buffer(e, &b->keys);
  if (b->spec->packed) {
    scores = sptx_add(e, scores, sptx_muli(e, b->consumer, 8192));
    keys = sptx_add(e, keys, sptx_muli(e, b->consumer, b->layout.group_bytes));
  } else {
    keys = sptx_add(e, keys, sptx_muli(e, sptx_recompute(e, b->consumer), b->layout.chunks == 1 ? 64 : 8192));
  }
  sptx_value a = sptx_descriptor_mn_major(e, scores, 8192);
  sptx_value k = sptx_descriptor_mn_major(e, keys, 8192);
  sptx_wgmma shape = {b->spec->element, sptx_backward_d_q_columns(b), true, true};
  for (int slab = 0; slab < (b->spec->packed ? 4 : 4 * CONSUMERS); slab++)
    sptx_wgmma_shared(e, shape, accumulate || slab > 0, d_q, sptx_addi(e, a, slab * (2048 >> 4)),
                      sptx_addi(e, k, slab % 4 * (2048 >> 4) + slab / 4 * (b->layout.group_bytes >> 4)));
  sptx_wgmma_commit(e);
}

/* Two neighbouring columns' values of a row field. */
static sptx_value row_pairs(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place at = sptx_backward_place(b);
  sptx_value place = sptx_add(e, sptx_ring_buffer(e, &b->row_data), sptx_muli(e, at.quad, 8));
  return b->spec->packed ? sptx_add(e, place, sptx_muli(e, b->consumer, 256)) : place;
}

static void row_pair(sptx_backward *b, sptx_value pairs, LLVMTypeRef type, int field, int column,
                     sptx_value out[2]) {
  sptx_gpu_emitter *e = b->e;
  sptx_value place = sptx_addi(e, pairs, 4 * (field * b->layout.rows + column));
  sptx_value pair = sptx_shared_load(e, LLVMVectorType(type, 2), place, 8);
  for (int i = 0; i < 2; i++)
    out[i] = LLVMBuildExtractElement(e->builder, pair, sptx_i32(e, i), "");
}

/* The assembler moves arithmetic past a wait for products, exponentials past the wait for dP^T: their overlap
 * is lost. It does not past a loop, and this one never turns: queries have come before scores. */
static void keep_order(sptx_backward *b) {
  sptx_ring_wait_full(b->e, &b->q);
}

static void probabilities(sptx_backward *b, bool masked, sptx_value *s) {
  sptx_gpu_emitter *e = b->e;
  sptx_value row = sptx_backward_place(b).row, pairs = row_pairs(b);
  if (!b->spec->packed)
    row = sptx_add(
        e, row,
        sptx_muli(e, sptx_add(e, sptx_muli(e, sptx_recompute(e, b->key_tile), CONSUMERS), b->consumer), 64));
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

static void score_gradients(sptx_backward *b, const sptx_value *p, sptx_value *ds) {
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

/* dS^T of this consumer's keys to shared memory. Each lane gives back the row data that it has read. */
static void share_scores(sptx_backward *b, const sptx_value *packed) {
  sptx_gpu_emitter *e = b->e;
  sptx_value own = sptx_muli(e, sptx_recompute(e, b->consumer), 8192);
  sptx_value region = sptx_add(e, sptx_ring_buffer(e, &b->scores), own);
  sptx_thread_place at = sptx_backward_place(b);
  sptx_value place = sptx_fragment_address(e, &at, region);
  for (int slab = 0; slab < BLOCK / 16; slab++)
    sptx_stmatrix(e, sptx_fragment_slab(e, place, slab, 8192), packed + 4 * slab, 4, false);
  sptx_fence_proxy_async(e);
  if (b->spec->packed) {
    sptx_backward_group_sync(b);
  } else {
    sptx_warp_sync(e);
    sptx_mbarrier_arrive_if(e, sptx_ring_full(e, &b->scores), b->at.first_lane);
  }
  sptx_ring_release(e, &b->row_data, sptx_i32(e, 1));
}

/* A packed item is one block: each gradient leaves its registers before the next needs them. */
static void accumulate_packed(sptx_backward *b, const sptx_value *p, const sptx_value *ds) {
  sptx_gpu_emitter *e = b->e;
  int outputs = b->spec->head_dim / 2;
  sptx_value d_v[64], d_k[64], d_q[64];
  sptx_wgmma_fence(e);
  multiply_rows(b, p, own_queries(b, &b->d_o), d_v, false);
  share_scores(b, ds);
  sptx_wgmma_wait(e, 0, d_v, outputs);
  sptx_ring_release(e, &b->d_o, b->at.first_lane);
  sptx_backward_write_d_v(b, d_v);
  sptx_wgmma_fence(e);
  multiply_d_q(b, d_q, false);
  sptx_wgmma_wait(e, 0, d_q, outputs);
  sptx_backward_write_d_q(b, d_q);
  sptx_wgmma_fence(e);
  multiply_rows(b, ds, own_queries(b, &b->q), d_k, false);
  sptx_wgmma_wait(e, 0, d_k, outputs);
  sptx_ring_release(e, &b->q, b->at.first_lane);
  sptx_ring_advance(e, &b->q);
  sptx_backward_write_d_k(b, d_k);
}

/* Issues the products K Q^T or V dO^T of the ring's stage. */
static void issue_scores(sptx_backward *b, const sptx_ring *ring, bool values, sptx_value *s) {
  sptx_gpu_emitter *e = b->e;
  sptx_ring_wait_full(e, ring);
  sptx_wgmma_fence(e); /* after the wait, a loop: ptxas wants the fence in the product's own block */
  multiply_scores(b, values, own_queries(b, ring), s);
}

/* S of the block after this one. After the tile's last one nobody reads it: this one's, once more. */
static void issue_scores_ahead(sptx_backward *b, sptx_value first, sptx_value *s) {
  sptx_gpu_emitter *e = b->e;
  sptx_value end = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, last));
  sptx_value is_last = sptx_icmp(e, LLVMIntSGE, sptx_addi(e, first, BLOCK), sptx_muli(e, end, BLOCK));
  sptx_ring ahead = sptx_ring_ahead(e, &b->q, is_last);
  issue_scores(b, &ahead, false, s);
}

static void packed_step(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value s[SCORES], ds[SCORES], packed_p[16], packed_ds[16];
  issue_scores(b, &b->q, false, s);
  issue_scores(b, &b->d_o, true, ds);
  sptx_ring_wait_full(e, &b->row_data);
  sptx_wgmma_wait(e, 1, s, SCORES);
  probabilities(b, true, s);
  keep_order(b);
  sptx_wgmma_wait(e, 0, ds, SCORES);
  score_gradients(b, s, ds);
  sptx_backward_pack(b, s, packed_p, BLOCK / 4);
  sptx_backward_pack(b, ds, packed_ds, BLOCK / 4);
  accumulate_packed(b, packed_p, packed_ds);
}

/* Issues dQ of the block whose dS comes next, once both consumers have shared it. d_q: what is carried of it.
 */
static void issue_d_q(sptx_backward *b, sptx_value *d_q) {
  sptx_gpu_emitter *e = b->e;
  bool carry = b->spec->d_q == SPTX_HOPPER_CARRY;
  sptx_ring_wait_full(e, &b->scores);
  if (carry)
    sptx_backward_take_carried(b, d_q);
  sptx_wgmma_fence(e);
  multiply_d_q(b, d_q, carry);
  sptx_ring_advance(e, &b->scores);
}

static void read_carried(sptx_backward *b, sptx_value *d_q) {
  if (b->spec->d_q == SPTX_HOPPER_CARRY)
    sptx_backward_read_carried(b, d_q);
}

/* dP^T of a wide head, whose registers dQ of the block before must leave first. */
static void issue_wide(sptx_backward *b, bool later, sptx_value *d_q, sptx_value *ds) {
  if (later) {
    sptx_wgmma_wait(b->e, 0, d_q, sptx_backward_d_q_columns(b) / 2);
    if (sptx_backward_adds_by_warps(b->spec))
      sptx_backward_stage_d_q(b, d_q);
    else
      sptx_backward_write_d_q(b, d_q);
  }
  issue_scores(b, &b->d_o, true, ds);
}

/* One block while its step is written, and dQ of the block before (later: there is one). */
typedef struct block_step {
  bool masked, later;
  bool narrow;          /* narrow heads have the registers to issue dP^T at once */
  bool adds;            /* each warp adds its part of dQ up */
  bool ahead;           /* S has been issued in the step before, and is for the next block in this one */
  bool after;           /* what is carried of dQ comes during the exponentials */
  int outputs, queries; /* accumulators of a thread: of dK or dV, of dQ */
  sptx_value s[SCORES], with_d_q[64], both[128];
  sptx_value *ds, *d_q, *d_v, *d_k; /* within the two above */
} block_step;

static void begin_step(sptx_backward *b, bool masked, bool later, block_step *step) {
  bool narrow = b->spec->head_dim <= 64;
  *step = (block_step){.masked = masked,
                       .later = later,
                       .narrow = narrow,
                       .adds = sptx_backward_adds_by_warps(b->spec),
                       .ahead = looks_ahead(b),
                       .after = later && narrow && b->spec->d_q == SPTX_HOPPER_CARRY,
                       .outputs = b->spec->head_dim / 2,
                       .queries = sptx_backward_d_q_columns(b) / 2};
  step->ds = step->with_d_q;
  step->d_q = step->with_d_q + SCORES;
  step->d_v = step->both;
  step->d_k = step->both + step->outputs;
  sptx_get_slots(b->e, b->d_v, step->d_v, step->outputs);
  sptx_get_slots(b->e, b->d_k, step->d_k, step->outputs);
  if (later && step->ahead)
    sptx_get_slots(b->e, b->scores_ahead, step->s, SCORES);
}

/* S, of narrow heads dP^T, and dQ of the block before. */
static void issue_products(sptx_backward *b, block_step *step) {
  if (step->later && step->narrow)
    read_carried(b, step->d_q);
  if (!step->later || !step->ahead)
    issue_scores(b, &b->q, false, step->s);
  if (step->narrow)
    issue_scores(b, &b->d_o, true, step->ds);
  else if (step->later)
    read_carried(b, step->d_q);
  if (step->later && !step->after)
    issue_d_q(b, step->d_q);
}

/* P^T, and with it dV. */
static void add_d_v(sptx_backward *b, block_step *step) {
  sptx_value packed[16];
  sptx_ring_wait_full(b->e, &b->row_data);
  if (!step->later || !step->ahead)
    sptx_wgmma_wait(b->e, step->narrow + (step->later && !step->after), step->s, SCORES);
  probabilities(b, step->masked, step->s);
  keep_order(b);
  if (!step->narrow)
    issue_wide(b, step->later, step->d_q, step->ds);
  if (step->after)
    issue_d_q(b, step->d_q);
  sptx_backward_pack(b, step->s, packed, BLOCK / 4);
  sptx_wgmma_fence(b->e);
  multiply_rows(b, packed, own_queries(b, &b->d_o), step->d_v, true);
}

/* dS^T, and with it dK; then S of the next block. first: this block's first query. */
static void add_d_k(sptx_backward *b, block_step *step, sptx_value first) {
  sptx_value packed[16];
  bool staged = step->narrow && step->later && step->adds;
  sptx_wgmma_wait(b->e, 1, step->ds, staged ? SCORES + step->queries : SCORES);
  score_gradients(b, step->s, step->ds);
  if (staged)
    sptx_backward_stage_d_q(b, step->d_q);
  sptx_backward_pack(b, step->ds, packed, BLOCK / 4);
  share_scores(b, packed);
  sptx_wgmma_fence(b->e);
  multiply_rows(b, packed, own_queries(b, &b->q), step->d_k, true);
  if (step->ahead)
    issue_scores_ahead(b, first, step->s);
}

/* dQ of the block before leaves, and nothing is under way any more. */
static void end_step(sptx_backward *b, block_step *step) {
  sptx_gpu_emitter *e = b->e;
  if (step->later && step->adds)
    sptx_backward_add_d_q(b);
  if (step->narrow && step->later && !step->adds) {
    sptx_wgmma_wait(e, 3, step->d_q, step->queries); /* dV, dK and S are under way */
    sptx_backward_write_d_q(b, step->d_q);
  }
  sptx_wgmma_wait(e, 0, step->both, 2 * step->outputs);
  if (step->ahead) {
    sptx_wgmma_wait(e, 0, step->s, SCORES);
    sptx_set_slots(e, b->scores_ahead, step->s, SCORES);
  }
  sptx_set_slots(e, b->d_v, step->d_v, step->outputs);
  sptx_set_slots(e, b->d_k, step->d_k, step->outputs);
  sptx_ring_release(e, &b->d_o, b->at.first_lane);
  sptx_ring_release(e, &b->q, b->at.first_lane);
  sptx_ring_advance(e, &b->q);
}

/* The tensor cores compute dQ of the block before while this one's exponentials are taken, dV during dS, and
 * S of the next block while that dQ leaves. */
static void walk_block(sptx_backward *b, bool masked, bool later) {
  block_step step;
  sptx_value first = b->query.first;
  b->query.first = sptx_addi(b->e, first, -BLOCK); /* dQ's */
  begin_step(b, masked, later, &step);
  issue_products(b, &step);
  add_d_v(b, &step);
  add_d_k(b, &step, first);
  end_step(b, &step);
  b->query.first = first;
}

static void steps(sptx_backward *b, sptx_value first, sptx_value last, bool masked) {
  sptx_loop blocks = sptx_backward_block_loop(b, first, last);
  walk_block(b, masked, true);
  sptx_loop_end(b->e, &blocks);
}

/* A limit of the item's blocks, but not its first one, which is done apart. */
static sptx_value limit_after_first(sptx_backward *b, size_t field) {
  sptx_value second =
      sptx_addi(b->e, sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, first)), 1);
  return sptx_max(b->e, sptx_backward_block_limit(b, field), second);
}

static void walk_blocks(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  size_t full_first = offsetof(sptx_hopper_block_range, full_first);
  size_t full_last = offsetof(sptx_hopper_block_range, full_last);
  size_t first = offsetof(sptx_hopper_block_range, first), last = offsetof(sptx_hopper_block_range, last);
  b->query.first = sptx_muli(e, b->first, BLOCK);
  walk_block(b, true, false);
  steps(b, limit_after_first(b, first), limit_after_first(b, full_first), true);
  steps(b, limit_after_first(b, full_first), limit_after_first(b, full_last), false);
  if (b->spec->lower != SPTX_HOPPER_NONE)
    steps(b, limit_after_first(b, full_last), limit_after_first(b, last), true);
}

static void release_keys(sptx_backward *b) {
  sptx_warp_sync(b->e);
  sptx_ring_release(b->e, &b->keys, b->at.first_lane);
}

static void next_tile(sptx_backward *b) {
  if (!b->spec->packed)
    sptx_ring_release(b->e, &b->ranges, sptx_i32(b->e, 1));
  sptx_ring_advance(b->e, &b->keys);
}

/* dK or dV of the tile, where this run owns it. */
static void write_key_gradient(sptx_backward *b, bool values) {
  sptx_gpu_emitter *e = b->e;
  bool carries = b->spec->d_q == SPTX_HOPPER_CARRY;
  sptx_if mine;
  if (carries) {
    sptx_value owns = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, owns_keys));
    mine = sptx_if_begin(e, sptx_icmp(e, LLVMIntNE, owns, sptx_i32(e, 0)));
  }
  sptx_value x[64] = {NULL};
  sptx_get_slots(e, values ? b->d_v : b->d_k, x, b->spec->head_dim / 2);
  if (values)
    sptx_backward_write_d_v(b, x);
  else
    sptx_backward_write_d_k(b, x);
  if (carries)
    sptx_if_end(e, &mine);
}

/* dQ of the tile's last block; then the keys may be replaced, while the gradients leave. Of narrow heads dV
 * leaves while what is carried of dQ arrives; wide ones have no second stage of keys, which wait for this. */
static void finish_blocks(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value d_q[32] = {NULL};
  sptx_value end = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, last));
  b->query.first = sptx_muli(e, sptx_addi(e, end, -1), BLOCK);
  read_carried(b, d_q);
  if (b->spec->head_dim <= 64)
    write_key_gradient(b, true);
  issue_d_q(b, d_q);
  sptx_wgmma_wait(e, 0, d_q, sptx_backward_d_q_columns(b) / 2);
  release_keys(b);
  if (!sptx_backward_adds_by_warps(b->spec)) {
    sptx_backward_write_d_q(b, d_q);
    return;
  }
  sptx_backward_stage_d_q(b, d_q);
  sptx_fence_proxy_async(e);
  sptx_warp_sync(e);
  sptx_backward_add_d_q(b);
}

static void consume_tile(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  int outputs = b->spec->head_dim / 2;
  bool narrow = b->spec->head_dim <= 64;
  sptx_ring_wait_full(e, &b->keys);
  if (b->spec->packed) {
    packed_step(b);
    release_keys(b);
    next_tile(b);
    return;
  }
  for (int i = 0; i < outputs; i++) {
    sptx_set_slot(e, b->d_k[i], sptx_f32(e, 0));
    sptx_set_slot(e, b->d_v[i], sptx_f32(e, 0));
  }
  sptx_value some = sptx_icmp(e, LLVMIntSLT, b->first, b->last);
  load_keys(b);
  sptx_if computed = sptx_if_begin(e, some);
  walk_blocks(b);
  finish_blocks(b);
  sptx_if_else(e, &computed);
  release_keys(b);
  if (narrow)
    write_key_gradient(b, true);
  sptx_if_end(e, &computed);
  if (!narrow)
    write_key_gradient(b, true);
  write_key_gradient(b, false);
  next_tile(b);
}

void sptx_backward_consume(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_set_registers(e, sptx_backward_is_large(b->spec) ? MORE_CONSUMER_REGISTERS : CONSUMER_REGISTERS, true);
  b->at = sptx_thread_place_of(e);
  b->consumer = sptx_addi(e, b->at.group, -1);
  sptx_backward_open_rings(b, false);
  for (int i = 0; i < b->spec->head_dim / 2; i++) {
    b->d_k[i] = sptx_slot(e, e->f32, NULL);
    b->d_v[i] = sptx_slot(e, e->f32, NULL);
  }
  for (int i = 0; i < SCORES; i++)
    b->scores_ahead[i] = sptx_slot(e, e->f32, NULL);
  b->scale = sptx_load_arg(e, e->f32, offsetof(sptx_gpu_args, scale));
  b->scale_log2 = sptx_mul(e, b->scale, sptx_f32(e, M_LOG2E));
  sptx_backward_tiles tiles = sptx_backward_tiles_begin(b);
  consume_tile(b);
  sptx_backward_tiles_end(b, &tiles);
  sptx_bulk_wait(e);
}
