/* dQ of the Hopper backward kernel where it is added to float32 sums. Each warp stages its own 16 rows and
 * has them added, so that nobody waits for another; the fence that dS needs anyway shows them to the copy. */
#include "gen/ptx/hopper_backward_kernel.h"

/* This warp's rows in its staging region, in boxes of 32 columns: 128 bytes, swizzled. */
static sptx_value staging(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value warp = sptx_add(e, sptx_muli(e, sptx_backward_recompute(b, b->consumer), 4), b->at.warp);
  return sptx_add(e, sptx_addi(e, b->base, b->layout.d_q), sptx_muli(e, warp, b->layout.d_q_bytes));
}

void sptx_backward_stage_d_q(sptx_backward *b, const sptx_value *sum) {
  sptx_gpu_emitter *e = b->e;
  sptx_thread_place now = sptx_backward_place(b);
  sptx_value in_box = sptx_shri(e, now.lane, 2);
  sptx_value row = sptx_add(e, staging(b), sptx_muli(e, in_box, 128));
  /* In odd rows, columns 16 apart swap turns: four rows of one store then fill all banks. */
  sptx_value odd = sptx_andi(e, in_box, 1), is_odd = sptx_icmp(e, LLVMIntNE, odd, sptx_i32(e, 0));
  sptx_value turned = LLVMBuildXor(e->builder, in_box, sptx_muli(e, odd, 4), "");
  sptx_value half_unit = sptx_muli(e, sptx_andi(e, now.quad, 1), 8), unit = sptx_shri(e, now.quad, 1);
  sptx_value d_q[32] = {NULL};
  for (int i = 0; i < sptx_backward_d_q_columns(b) / 2; i++)
    d_q[i] = sptx_mul(e, sum[i], b->scale);
  sptx_bulk_wait_read(e);
  sptx_warp_sync(e);
  for (int column = 0; column < sptx_backward_d_q_columns(b); column += 8)
    for (int half = 0; half < 2; half++) {
      sptx_value in_row = sptx_addi(e, unit, column % 32 / 4);
      in_row = sptx_muli(e, LLVMBuildXor(e->builder, in_row, turned, ""), 16);
      sptx_value to = sptx_add(e, sptx_add(e, row, half_unit), in_row);
      to = sptx_addi(e, to, column / 32 * 2048 + half * 1024);
      sptx_value pair = LLVMGetUndef(LLVMVectorType(e->f32, 2));
      for (int i = 0; i < 2; i++) {
        int own = column / 2 + 2 * half + i;
        sptx_value x = sptx_select(e, is_odd, d_q[own ^ 8], d_q[own]);
        pair = LLVMBuildInsertElement(e->builder, pair, x, sptx_i32(e, i), "");
      }
      sptx_shared_store(e, pair, to, 8);
    }
}

void sptx_backward_add_d_q(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  int columns = sptx_backward_d_q_columns(b);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntNE, b->at.first_lane, sptx_i32(e, 0)));
  sptx_value place[5], first = sptx_muli(e, sptx_backward_recompute(b, b->consumer), columns);
  sptx_hopper_place(e, &b->query, sptx_i32(e, 0), b->query.item.head, first, place);
  place[1] = sptx_add(e, place[1], sptx_muli(e, b->at.warp, 16));
  for (int column = 0; column < columns; column += 32) {
    sptx_value at[5] = {sptx_addi(e, place[0], column), place[1], place[2], place[3], place[4]};
    sptx_tensor_reduce_add(e, e->maps[MAP_D_Q], at, sptx_addi(e, staging(b), column / 32 * 2048));
  }
  sptx_bulk_commit(e);
  sptx_if_end(e, &one);
}
