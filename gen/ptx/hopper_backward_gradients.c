/* Finished gradients of the Hopper backward kernel, from registers through shared memory to the tensors. */
#include "gen/ptx/hopper_backward_kernel.h"

void sptx_backward_pack(sptx_backward *b, const sptx_value *x, sptx_value *packed, int count) {
  for (int i = 0; i < count; i++)
    packed[i] = sptx_pack(b->e, b->spec->element, x[2 * i], x[2 * i + 1]);
}

void sptx_backward_group_sync(sptx_backward *b) {
  sptx_named_sync(b->e, sptx_addi(b->e, sptx_recompute(b->e, b->consumer), BARRIER_GROUP), 128);
}

int sptx_backward_d_q_columns(const sptx_backward *b) {
  return b->spec->packed ? b->spec->head_dim : 32 * b->layout.chunks;
}

static sptx_value out_region(sptx_backward *b) {
  sptx_value own = sptx_muli(b->e, sptx_recompute(b->e, b->consumer), SPTX_BACKWARD_OUT_BYTES);
  return sptx_add(b->e, sptx_addi(b->e, b->base, b->layout.out), own);
}

static sptx_if leader_only(sptx_backward *b) {
  return sptx_if_begin(b->e, sptx_icmp(b->e, LLVMIntNE, b->at.leader, sptx_i32(b->e, 0)));
}

/* The staging region may be written again. */
static void open_staging(sptx_backward *b) {
  sptx_if one = leader_only(b);
  sptx_bulk_wait_read(b->e);
  sptx_if_end(b->e, &one);
  sptx_backward_group_sync(b);
}

static void close_staging(sptx_backward *b) {
  sptx_fence_proxy_async(b->e);
  sptx_backward_group_sync(b);
}

/* 64 rows to the caller's tensor. place: coordinates of column 0. */
static void store_rows(sptx_backward *b, const sptx_value *x, int columns, sptx_value map,
                       const sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place now = sptx_backward_place(b);
  sptx_value region = out_region(b), address = sptx_fragment_address(e, &now, region);
  open_staging(b);
  for (int slab = 0; slab < (columns + 15) / 16; slab++) {
    int count = 16 * slab + 16 <= columns ? 4 : 2;
    sptx_value packed[4];
    sptx_backward_pack(b, x + 8 * slab, packed, count);
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

void sptx_backward_stage_boxes(sptx_backward *b, sptx_value region, int box_bytes, const sptx_value *x,
                               int columns) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place now = sptx_backward_place(b);
  sptx_value in_box = sptx_shri(e, now.lane, 2), row = sptx_add(e, region, sptx_muli(e, in_box, 128));
  /* In odd rows, columns 16 apart swap turns: four rows of one store then fill all banks. */
  sptx_value odd = sptx_andi(e, in_box, 1), is_odd = sptx_icmp(e, LLVMIntNE, odd, sptx_i32(e, 0));
  sptx_value turned = LLVMBuildXor(e->builder, in_box, sptx_muli(e, odd, 4), "");
  sptx_value half_unit = sptx_muli(e, sptx_andi(e, now.quad, 1), 8), unit = sptx_shri(e, now.quad, 1);
  for (int column = 0; column < columns; column += 8)
    for (int half = 0; half < 2; half++) {
      bool swaps = column / 32 * 32 + 32 <= columns;
      sptx_value in_row = sptx_addi(e, unit, column % 32 / 4);
      in_row = sptx_muli(e, LLVMBuildXor(e->builder, in_row, swaps ? turned : in_box, ""), 16);
      sptx_value to = sptx_add(e, sptx_add(e, row, half_unit), in_row);
      to = sptx_addi(e, to, column / 32 * box_bytes + half * 1024);
      sptx_value pair = LLVMGetUndef(LLVMVectorType(e->f32, 2));
      for (int i = 0; i < 2; i++) {
        int own = column / 2 + 2 * half + i;
        sptx_value value = swaps ? sptx_select(e, is_odd, x[own ^ 8], x[own]) : x[own];
        pair = LLVMBuildInsertElement(e->builder, pair, value, sptx_i32(e, i), "");
      }
      sptx_shared_store(e, pair, to, 8);
    }
}

/* The same, added to float32 scratch, 64 columns at a time. */
static void add_rows(sptx_backward *b, const sptx_value *x, int columns, sptx_value map,
                     const sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_value region = out_region(b);
  sptx_value own = sptx_add(e, region, sptx_muli(e, b->at.warp, 2048)); /* 16 rows of the first box */
  for (int first = 0; first < columns; first += 64) {
    int end = first + 64 < columns ? first + 64 : columns;
    open_staging(b);
    sptx_backward_stage_boxes(b, own, 8192, x + first / 2, end - first);
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

/* This thread's part of what is carried of dQ of a query block: its registers, four at a time. Only this
 * thread reads it again, so that nothing orders the two. */
static sptx_value carry_address(sptx_backward *b, sptx_value block) {
  sptx_gpu_emitter *e = b->e;
  int quads = sptx_backward_d_q_columns(b) / 8;
  sptx_value blocks = SPTX_HOPPER_PARAM(e, carry_blocks), consumer = sptx_recompute(b->e, b->consumer);
  sptx_value in_ring = LLVMBuildAnd(e->builder, block, sptx_addi(e, blocks, -1), "");
  sptx_value slot = sptx_add(e, sptx_mul(e, sptx_block_index(e), blocks), in_ring);
  slot = sptx_add(e, sptx_muli(e, slot, CONSUMERS), consumer);
  sptx_value thread = sptx_andi(e, sptx_recompute(e, sptx_thread_index(e)), 127);
  sptx_value offset = sptx_muli(e, sptx_add(e, sptx_muli(e, slot, quads * 128), thread), 16);
  sptx_value base = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, workspace)),
                             SPTX_HOPPER_PARAM64(e, carry_offset));
  return sptx_add(e, base, sptx_zext64(e, offset));
}

void sptx_backward_read_carried(sptx_backward *b, sptx_value *d_q) {
  sptx_gpu_emitter *e = b->e;
  size_t carried = offsetof(sptx_hopper_block_range, carried);
  sptx_value block = sptx_shri(e, b->query.first, 6);
  b->carries = sptx_icmp(e, LLVMIntSLT, block, sptx_backward_block_limit(b, carried));
  sptx_value from = carry_address(b, block);
  for (int i = 0; i < sptx_backward_d_q_columns(b) / 2; i += 4) {
    sptx_value quad = sptx_load_global(e, LLVMVectorType(e->f32, 4), sptx_addi(e, from, i * 512), 16);
    for (int k = 0; k < 4; k++)
      d_q[i + k] = LLVMBuildExtractElement(e->builder, quad, sptx_i32(e, k), "");
  }
}

void sptx_backward_take_carried(sptx_backward *b, sptx_value *d_q) {
  for (int i = 0; i < sptx_backward_d_q_columns(b) / 2; i++)
    d_q[i] = sptx_select(b->e, b->carries, d_q[i], sptx_f32(b->e, 0));
}

static void carry(sptx_backward *b, sptx_value block, const sptx_value *d_q) {
  sptx_gpu_emitter *e = b->e;
  sptx_value to = carry_address(b, block);
  for (int i = 0; i < sptx_backward_d_q_columns(b) / 2; i += 4) {
    sptx_value quad = LLVMGetUndef(LLVMVectorType(e->f32, 4));
    for (int k = 0; k < 4; k++)
      quad = LLVMBuildInsertElement(e->builder, quad, d_q[i + k], sptx_i32(e, k), "");
    sptx_store_global(e, quad, sptx_addi(e, to, i * 512), 16);
  }
}

static void write_gradient(sptx_backward *b, enum sptx_hopper_gradient how, const sptx_value *x, int columns,
                           int map, const sptx_value place[5]) {
  if (how != SPTX_HOPPER_ADD)
    store_rows(b, x, columns, b->e->maps[map], place);
  else
    add_rows(b, x, columns, b->e->maps[map], place);
}

/* Half a chunk of dQ from each consumer: one store of the whole chunk, staged in the first one's region. */
static void store_halves(sptx_backward *b, const sptx_value *x, const sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_value all = sptx_i32(e, BARRIER_ALL), consumer = sptx_recompute(b->e, b->consumer);
  sptx_value region = sptx_addi(e, b->base, b->layout.out);
  sptx_thread_place at = sptx_backward_place(b);
  sptx_value address = sptx_fragment_address(e, &at, region);
  address = LLVMBuildXor(e->builder, address, sptx_muli(e, consumer, 64), "");
  sptx_if first = leader_only(b);
  sptx_bulk_wait_read(e);
  sptx_if_end(e, &first);
  sptx_named_sync(e, all, 128 * CONSUMERS);
  for (int slab = 0; slab < 2; slab++) {
    sptx_value packed[4];
    sptx_backward_pack(b, x + 8 * slab, packed, 4);
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

static void finish_d_q(sptx_backward *b, const sptx_value *sum) {
  sptx_gpu_emitter *e = b->e;
  int columns = sptx_backward_d_q_columns(b);
  sptx_value d_q[64] = {NULL};
  for (int i = 0; i < columns / 2; i++)
    d_q[i] = sptx_mul(e, sum[i], b->scale);
  sptx_value place[5], zero = sptx_i32(e, 0), consumer = sptx_recompute(b->e, b->consumer);
  sptx_hopper_place(e, &b->query, b->spec->packed ? consumer : zero, b->query.item.head,
                    b->spec->packed ? zero : sptx_muli(e, consumer, columns), place);
  if (b->spec->d_q != SPTX_HOPPER_ADD && columns == 32 && !b->spec->packed) {
    place[0] = zero;
    store_halves(b, d_q, place);
    return;
  }
  write_gradient(b, b->spec->d_q, d_q, columns, MAP_D_Q, place);
}

void sptx_backward_write_d_q(sptx_backward *b, const sptx_value *d_q) {
  sptx_gpu_emitter *e = b->e;
  if (b->spec->d_q != SPTX_HOPPER_CARRY) {
    finish_d_q(b, d_q);
    return;
  }
  sptx_value block = sptx_shri(e, b->query.first, 6);
  sptx_value kept = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, kept));
  sptx_value end = sptx_backward_block_limit(b, offsetof(sptx_hopper_block_range, own_end));
  sptx_if complete = sptx_if_begin(e, sptx_icmp(e, LLVMIntSLT, block, kept));
  finish_d_q(b, d_q);
  sptx_if_else(e, &complete);
  sptx_if later = sptx_if_begin(e, sptx_icmp(e, LLVMIntSLT, block, end));
  carry(b, block, d_q);
  sptx_if_end(e, &later);
  sptx_if_end(e, &complete);
}

static void key_place(sptx_backward *b, sptx_value place[5]) {
  sptx_gpu_emitter *e = b->e;
  sptx_hopper_place(e, &b->key, b->consumer, b->key.item.kv_head, sptx_i32(e, 0), place);
  if (!b->spec->key_runs)
    return;
  sptx_value run = SPTX_HOPPER_PARAM(e, key_run), first = place[1];
  place[2] = sptx_udiv(e, first, run);
  place[1] = sptx_sub(e, first, sptx_mul(e, place[2], run));
}

void sptx_backward_write_d_v(sptx_backward *b, const sptx_value *d_v) {
  sptx_value place[5];
  key_place(b, place);
  write_gradient(b, b->spec->d_kv, d_v, b->spec->head_dim, MAP_D_V, place);
}

void sptx_backward_write_d_k(sptx_backward *b, sptx_value *d_k) {
  sptx_value place[5];
  key_place(b, place);
  for (int i = 0; i < b->spec->head_dim / 2; i++)
    d_k[i] = sptx_mul(b->e, d_k[i], b->scale);
  write_gradient(b, b->spec->d_kv, d_k, b->spec->head_dim, MAP_D_K, place);
}
