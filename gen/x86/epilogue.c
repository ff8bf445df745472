/* The end of a forward tile: log-sum-exp and weights in vectors, then O^T back into rows. Merging two softmax
 * results by their log-sum-exp is the associative step of online softmax. */
#include "gen/x86/forward.h"

#include <math.h>

static LLVMValueRef number(sptx_x86_emitter *e, double value) {
  return sptx_ir_splat(&e->ir, sptx_ir_f32(&e->ir, value), e->lanes);
}

/* Copies lse entries between the tensor and `earlier` of scratch, lane by lane. */
static void move_lse(sptx_x86_emitter *e, bool write) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), sptx_ir_i64(ir, 1), true,
                     NULL, 0);
  LLVMValueRef slot =
      sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.lse_row), sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 8)));
  LLVMValueRef entry = sptx_ir_load(ir, ir->pointer, slot, 8);
  LLVMValueRef lane =
      sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.lse), sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 4)));
  sptx_ir_store(ir, sptx_ir_load(ir, ir->f32, write ? lane : entry, 4), write ? entry : lane, 4);
  sptx_ir_loop_end(ir, &loop);
}

/* One vector of lanes: from maximum, sum and the earlier lse to weight, earlier and the new lse. */
static void merge_vector(sptx_x86_emitter *e, LLVMValueRef vector) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef zero = number(e, 0), infinite = number(e, -INFINITY), one = number(e, 1);
  LLVMValueRef sum = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.sum, vector), 32);
  LLVMValueRef maximum = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.maximum, vector), 32);
  LLVMValueRef old = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.lse, vector), 32);
  LLVMValueRef empty = sptx_ir_fcompare(ir, LLVMRealOEQ, sum, zero);
  old = sptx_ir_fmul(ir, old, number(e, M_LOG2E));
  LLVMValueRef new = sptx_ir_fadd(ir, maximum, sptx_x86_log2(e, sptx_ir_select(ir, empty, one, sum)));
  new = sptx_ir_select(ir, empty, infinite, new);
  LLVMValueRef top = sptx_ir_max(ir, old, new);
  LLVMValueRef reference = sptx_ir_select(ir, sptx_ir_fcompare(ir, LLVMRealOEQ, top, infinite), zero, top);
  LLVMValueRef old_part = sptx_x86_exp2(e, sptx_ir_fsub(ir, old, reference));
  LLVMValueRef new_part = sptx_x86_exp2(e, sptx_ir_fsub(ir, new, reference));
  if (e->mutant == SPTX_X86_MUTANT_MERGE)
    old_part = zero;
  LLVMValueRef total = sptx_ir_fadd(ir, old_part, new_part);
  LLVMValueRef none = sptx_ir_fcompare(ir, LLVMRealOEQ, total, zero);
  LLVMValueRef inverse = sptx_ir_fdiv(ir, one, sptx_ir_select(ir, none, one, total));
  LLVMValueRef own =
      sptx_ir_fdiv(ir, sptx_ir_fmul(ir, new_part, inverse), sptx_ir_select(ir, empty, one, sum));
  LLVMValueRef lse = sptx_ir_fadd(ir, top, sptx_x86_log2(e, sptx_ir_select(ir, none, one, total)));
  sptx_ir_store(ir, own, sptx_x86_lane_vector(e, e->layout.weight, vector), 32);
  sptx_ir_store(ir, sptx_ir_fmul(ir, old_part, inverse), sptx_x86_lane_vector(e, e->layout.earlier, vector),
                32);
  sptx_ir_store(ir, sptx_ir_fmul(ir, lse, number(e, M_LN2)), sptx_x86_lane_vector(e, e->layout.lse, vector),
                32);
}

static void fill_lse(sptx_x86_emitter *e) {
  for (int lane = 0; lane < e->query_tile; lane += (int)e->lanes)
    sptx_ir_store(&e->ir, number(e, -INFINITY), sptx_x86_scratch(e, e->layout.lse + 4 * lane), 32);
}

LLVMValueRef sptx_x86_emit_epilogue(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef function = sptx_x86_bound_function(e, "epilogue", NULL, 0);
  LLVMValueRef zero = sptx_ir_i64(ir, 0);
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntNE, sptx_x86_param(e, SPTX_X86_FIELD(merge)), zero));
  move_lse(e, false);
  sptx_ir_else(ir, &branch);
  fill_lse(e);
  sptx_ir_end_if(ir, &branch);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, zero, sptx_ir_i64(ir, e->query_tile / (int)e->lanes), sptx_ir_i64(ir, 1),
                     true, NULL, 0);
  merge_vector(e, loop.index);
  sptx_ir_loop_end(ir, &loop);
  move_lse(e, true);
  if (e->unpack_running) {
    LLVMValueRef running = sptx_x86_param(e, SPTX_X86_FIELD(write_running));
    sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntNE, running, zero));
    sptx_x86_unpack(e, e->unpack_running, e->panel);
    sptx_ir_else(ir, &branch);
  }
  sptx_x86_unpack(e, e->unpack, e->panel);
  if (e->unpack_running)
    sptx_ir_end_if(ir, &branch);
  LLVMBuildRetVoid(ir->builder);
  return function;
}
