/* dQ of the Hopper backward kernel where it is added to float32 sums. Each warp stages its own 16 rows and
 * has them added, so that nobody waits for another; the fence that dS needs anyway shows them to the copy. */
#include "gen/ptx/hopper_backward_kernel.h"

/* This warp's rows in its staging region, in boxes of 32 columns. */
static sptx_value staging(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value warp = sptx_add(e, sptx_muli(e, sptx_recompute(e, b->consumer), 4), b->at.warp);
  return sptx_add(e, sptx_addi(e, b->base, b->layout.d_q), sptx_muli(e, warp, b->layout.d_q_bytes));
}

void sptx_backward_stage_d_q(sptx_backward *b, const sptx_value *sum) {
  sptx_gpu_emitter *e = b->e;
  int columns = sptx_backward_d_q_columns(b);
  sptx_value d_q[32] = {NULL};
  for (int i = 0; i < columns / 2; i++)
    d_q[i] = sptx_mul(e, sum[i], b->scale);
  sptx_bulk_wait_read(e);
  sptx_warp_sync(e);
  sptx_backward_stage_boxes(b, staging(b), 2048, d_q, columns);
}

void sptx_backward_add_d_q(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  int columns = sptx_backward_d_q_columns(b);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntNE, b->at.first_lane, sptx_i32(e, 0)));
  sptx_value place[5], first = sptx_muli(e, sptx_recompute(e, b->consumer), columns);
  sptx_hopper_place(e, &b->query, sptx_i32(e, 0), b->query.item.head, first, place);
  place[1] = sptx_add(e, place[1], sptx_muli(e, b->at.warp, 16));
  for (int column = 0; column < columns; column += 32) {
    sptx_value at[5] = {sptx_addi(e, place[0], column), place[1], place[2], place[3], place[4]};
    sptx_tensor_reduce_add(e, e->maps[MAP_D_Q], at, sptx_addi(e, staging(b), column / 32 * 2048));
  }
  sptx_bulk_commit(e);
  sptx_if_end(e, &one);
}
