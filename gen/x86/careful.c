/* Products for tiles that are masked and hold an infinity or NaN: a weight of 0 times such a value must not
 * reach queries that do not attend to it. Slow, small, and seldom run. */
#include "gen/x86/forward.h"

static LLVMValueRef row_of(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef index) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef slot = sptx_ir_at(ir, table, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 8)));
  return sptx_ir_load(ir, ir->pointer, slot, 8);
}

/* x * 0 is 0 for finite x and NaN for others, and a sum keeps a NaN. A row is one straight run of code over
 * four sums, because one sum would wait for itself. */
LLVMValueRef sptx_x86_emit_finite(sptx_x86_emitter *e, enum sptx_element element) {
  enum { SUMS = 4, STEP = 8 };
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64}, half = LLVMVectorType(ir->f32, STEP);
  LLVMValueRef function, sums[SUMS + 1];
  const char *name = element == SPTX_ELEMENT_F32 ? "finite" : "finite_elements";
  int64_t bytes = sptx_x86_element_bytes(element);
  if (!sptx_x86_common_function(e, name, ir->i1, types, 2, &function))
    return function;
  for (int k = 0; k < SUMS; k++)
    sums[k] = LLVMConstNull(e->vector);
  sums[SUMS] = LLVMConstNull(half);
  int whole = e->dim / (int)e->lanes;
  sptx_ir_loop rows;
  sptx_ir_loop_begin(ir, &rows, sptx_ir_i64(ir, 0), LLVMGetParam(function, 1), sptx_ir_i64(ir, 1), false,
                     sums, SUMS + 1);
  LLVMValueRef row = row_of(e, LLVMGetParam(function, 0), rows.index);
  for (int v = 0; v < whole; v++) {
    LLVMValueRef address = sptx_ir_at_constant(ir, row, bytes * v * (int)e->lanes);
    LLVMValueRef value = sptx_x86_load_floats(e, element, address, e->lanes);
    rows.carried[v % SUMS] = sptx_ir_fma(ir, value, LLVMConstNull(e->vector), rows.carried[v % SUMS]);
  }
  if (e->dim % (int)e->lanes) {
    LLVMValueRef address = sptx_ir_at_constant(ir, row, bytes * whole * (int)e->lanes);
    LLVMValueRef value = sptx_x86_load_floats(e, element, address, STEP);
    rows.carried[SUMS] = sptx_ir_fma(ir, value, LLVMConstNull(half), rows.carried[SUMS]);
  }
  sptx_ir_loop_end(ir, &rows);
  LLVMValueRef sum = rows.carried[0];
  for (int k = 1; k < SUMS; k++)
    sum = sptx_ir_fadd(ir, sum, rows.carried[k]);
  LLVMTypeRef flags = LLVMIntTypeInContext(ir->context, e->lanes);
  LLVMValueRef odd = sptx_ir_fcompare(ir, LLVMRealUNO, sum, sum);
  odd = sptx_ir_compare(ir, LLVMIntNE, LLVMBuildBitCast(ir->builder, odd, flags, ""), LLVMConstNull(flags));
  LLVMValueRef odd_half = sptx_ir_fcompare(ir, LLVMRealUNO, rows.carried[SUMS], rows.carried[SUMS]);
  odd_half = sptx_ir_compare(ir, LLVMIntNE, LLVMBuildBitCast(ir->builder, odd_half, ir->i8, ""),
                             LLVMConstNull(ir->i8));
  LLVMBuildRet(ir->builder, LLVMBuildNot(ir->builder, LLVMBuildOr(ir->builder, odd, odd_half, ""), ""));
  return function;
}

LLVMValueRef sptx_x86_emit_careful(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64, ir->i64};
  LLVMValueRef function;
  if (!sptx_x86_common_function(e, "careful", ir->void_type, types, 5, &function))
    return function;
  LLVMValueRef zero = sptx_ir_i64(ir, 0), one = sptx_ir_i64(ir, 1), four = sptx_ir_i64(ir, 4);
  LLVMValueRef tile_bytes = sptx_ir_mul(ir, LLVMGetParam(function, 4), four);
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
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64, ir->i64};
  LLVMTypeRef floats = LLVMVectorType(ir->f32, 8);
  LLVMValueRef function;
  if (!sptx_x86_common_function(e, "careful_rows", ir->void_type, types, 5, &function))
    return function;
  LLVMValueRef zero = sptx_ir_i64(ir, 0), one = sptx_ir_i64(ir, 1), four = sptx_ir_i64(ir, 4);
  LLVMValueRef row_bytes = sptx_ir_i64(ir, (int64_t)e->dim * 4), queries = LLVMGetParam(function, 4);
  sptx_ir_loop keys, lanes, dims;
  sptx_ir_loop_begin(ir, &keys, zero, LLVMGetParam(function, 3), one, false, NULL, 0);
  LLVMValueRef target = row_of(e, LLVMGetParam(function, 2), keys.index);
  LLVMValueRef weights = sptx_ir_mul(ir, sptx_ir_mul(ir, keys.index, queries), four);
  weights = sptx_ir_at(ir, LLVMGetParam(function, 0), weights);
  sptx_ir_loop_begin(ir, &lanes, zero, queries, one, true, NULL, 0);
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
