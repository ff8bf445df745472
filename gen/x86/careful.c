/* Products for tiles that are masked and hold an infinity or NaN: a weight of 0 times such a value must not
 * reach queries that do not attend to it. Slow, small, and seldom run. */
#include "gen/x86/forward.h"

static LLVMValueRef row_of(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef index) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef slot = sptx_ir_at(ir, table, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 8)));
  return sptx_ir_load(ir, ir->pointer, slot, 8);
}

/* x * 0 is 0 for finite x and NaN for others, and a sum keeps a NaN. */
LLVMValueRef sptx_x86_emit_finite(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef function =
      sptx_x86_local_function(e, "finite", ir->i1, (LLVMTypeRef[]){ir->pointer, ir->i64}, 2);
  LLVMTypeRef floats = LLVMVectorType(ir->f32, 8);
  LLVMValueRef zeros = LLVMConstNull(floats), zero = sptx_ir_i64(ir, 0);
  sptx_ir_loop rows, dims;
  sptx_ir_loop_begin(ir, &rows, zero, LLVMGetParam(function, 1), sptx_ir_i64(ir, 1), false, &zeros, 1);
  LLVMValueRef row = row_of(e, LLVMGetParam(function, 0), rows.index);
  sptx_ir_loop_begin(ir, &dims, zero, sptx_ir_i64(ir, (int64_t)e->dim * 4), sptx_ir_i64(ir, 32), true,
                     rows.carried, 1);
  LLVMValueRef value = sptx_ir_load(ir, floats, sptx_ir_at(ir, row, dims.index), 4);
  dims.carried[0] = sptx_ir_fma(ir, value, zeros, dims.carried[0]);
  sptx_ir_loop_end(ir, &dims);
  rows.carried[0] = dims.carried[0];
  sptx_ir_loop_end(ir, &rows);
  LLVMValueRef odd = sptx_ir_fcompare(ir, LLVMRealUNO, rows.carried[0], rows.carried[0]);
  odd = LLVMBuildBitCast(ir->builder, odd, ir->i8, "");
  LLVMBuildRet(ir->builder, sptx_ir_compare(ir, LLVMIntEQ, odd, LLVMConstNull(ir->i8)));
  return function;
}

LLVMValueRef sptx_x86_emit_careful(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function = sptx_x86_local_function(e, "careful", ir->void_type, types, 4);
  LLVMValueRef zero = sptx_ir_i64(ir, 0), one = sptx_ir_i64(ir, 1), four = sptx_ir_i64(ir, 4);
  LLVMValueRef tile_bytes = sptx_ir_i64(ir, (int64_t)e->query_tile * 4);
  sptx_ir_loop keys, dims, lanes;
  sptx_ir_loop_begin(ir, &keys, zero, LLVMGetParam(function, 3), one, false, NULL, 0);
  LLVMValueRef row = row_of(e, LLVMGetParam(function, 0), keys.index);
  LLVMValueRef weights = sptx_ir_at(ir, LLVMGetParam(function, 1), sptx_ir_mul(ir, keys.index, tile_bytes));
  sptx_ir_loop_begin(ir, &dims, zero, sptx_ir_i64(ir, e->dim), one, true, NULL, 0);
  LLVMValueRef cell = sptx_ir_load(ir, ir->f32, sptx_ir_at(ir, row, sptx_ir_mul(ir, dims.index, four)), 4);
  LLVMValueRef output = sptx_ir_at(ir, LLVMGetParam(function, 2), sptx_ir_mul(ir, dims.index, tile_bytes));
  sptx_ir_loop_begin(ir, &lanes, zero, tile_bytes, sptx_ir_i64(ir, (int64_t)e->lanes * 4), true, NULL, 0);
  LLVMValueRef target = sptx_ir_at(ir, output, lanes.index);
  LLVMValueRef weight = sptx_ir_load(ir, e->vector, sptx_ir_at(ir, weights, lanes.index), 32);
  LLVMValueRef old = sptx_ir_load(ir, e->vector, target, 32);
  LLVMValueRef sum = sptx_ir_fma(ir, sptx_ir_splat(ir, cell, e->lanes), weight, old);
  LLVMValueRef counts = sptx_ir_fcompare(ir, LLVMRealUNE, weight, LLVMConstNull(e->vector));
  sptx_ir_store(ir, sptx_ir_select(ir, counts, sum, old), target, 32);
  sptx_ir_loop_end(ir, &lanes);
  sptx_ir_loop_end(ir, &dims);
  sptx_ir_loop_end(ir, &keys);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

LLVMValueRef sptx_x86_emit_careful_rows(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64}, floats = LLVMVectorType(ir->f32, 8);
  LLVMValueRef function = sptx_x86_local_function(e, "careful_rows", ir->void_type, types, 4);
  LLVMValueRef zero = sptx_ir_i64(ir, 0), one = sptx_ir_i64(ir, 1), four = sptx_ir_i64(ir, 4);
  LLVMValueRef row_bytes = sptx_ir_i64(ir, (int64_t)e->dim * 4);
  sptx_ir_loop keys, lanes, dims;
  sptx_ir_loop_begin(ir, &keys, zero, LLVMGetParam(function, 3), one, false, NULL, 0);
  LLVMValueRef target = row_of(e, LLVMGetParam(function, 2), keys.index);
  LLVMValueRef weights = sptx_ir_mul(ir, keys.index, sptx_ir_i64(ir, (int64_t)e->query_tile * 4));
  weights = sptx_ir_at(ir, LLVMGetParam(function, 0), weights);
  sptx_ir_loop_begin(ir, &lanes, zero, sptx_ir_i64(ir, e->query_tile), one, true, NULL, 0);
  LLVMValueRef weight =
      sptx_ir_load(ir, ir->f32, sptx_ir_at(ir, weights, sptx_ir_mul(ir, lanes.index, four)), 4);
  LLVMValueRef row = sptx_ir_at(ir, LLVMGetParam(function, 1), sptx_ir_mul(ir, lanes.index, row_bytes));
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, sptx_ir_fcompare(ir, LLVMRealUNE, weight, sptx_ir_f32(ir, 0)));
  sptx_ir_loop_begin(ir, &dims, zero, row_bytes, sptx_ir_i64(ir, 32), true, NULL, 0);
  LLVMValueRef cell = sptx_ir_at(ir, target, dims.index);
  LLVMValueRef value = sptx_ir_load(ir, floats, sptx_ir_at(ir, row, dims.index), 4);
  value = sptx_ir_fma(ir, value, sptx_ir_splat(ir, weight, 8), sptx_ir_load(ir, floats, cell, 4));
  sptx_ir_store(ir, value, cell, 4);
  sptx_ir_loop_end(ir, &dims);
  sptx_ir_end_if(ir, &branch);
  sptx_ir_loop_end(ir, &lanes);
  sptx_ir_loop_end(ir, &keys);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

LLVMValueRef sptx_x86_if_not_finite(sptx_x86_emitter *e, LLVMValueRef finite, const sptx_x86_key_walk *walk,
                                    LLVMValueRef table) {
  sptx_ir *ir = &e->ir;
  /* A tile without masked pairs is not looked at: zero rows. */
  LLVMValueRef count = sptx_ir_select(ir, walk->masked, walk->count, sptx_ir_i64(ir, 0));
  LLVMValueRef result = sptx_x86_call(e, finite, (LLVMValueRef[]){table, count}, 2);
  return LLVMBuildNot(ir->builder, result, "");
}
