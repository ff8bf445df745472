/* The piece walker: from a work item to positions, rows, the bounds of each query and the tiles of keys. It
 * mirrors patterns/piece.c in emitted code, which its tests compare. */
#include "gen/x86/emit.h"

#define VIEW(name) ((int64_t)offsetof(sptx_x86_view, name))

static LLVMValueRef field_at(sptx_x86_emitter *e, LLVMValueRef view, int64_t offset, LLVMValueRef index) {
  LLVMValueRef address = sptx_ir_at_constant(&e->ir, view, offset);
  if (index)
    address = sptx_ir_at(&e->ir, address, sptx_ir_mul(&e->ir, index, sptx_ir_i64(&e->ir, 8)));
  return sptx_ir_load(&e->ir, e->ir.i64, address, 8);
}

/* i64 origin(view, shared): the position that all inner indices of a shared value count from. */
static void emit_origin(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64};
  if (!sptx_x86_common_function(e, "origin", ir->i64, types, 2, &e->view_origin))
    return;
  LLVMValueRef view = LLVMGetParam(ir->function, 0), one = sptx_ir_i64(ir, 1);
  LLVMValueRef count = field_at(e, view, VIEW(shared_count), NULL);
  sptx_ir_loop loop;
  LLVMValueRef carried[] = {field_at(e, view, VIEW(base), NULL), LLVMGetParam(ir->function, 1)};
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), count, one, false, carried, 2);
  LLVMValueRef digit = sptx_ir_sub(ir, sptx_ir_sub(ir, count, one), loop.index); /* last digit first */
  LLVMValueRef size = field_at(e, view, VIEW(shared_size), digit);
  LLVMValueRef quotient = sptx_ir_div(ir, loop.carried[1], size);
  LLVMValueRef value = sptx_ir_sub(ir, loop.carried[1], sptx_ir_mul(ir, quotient, size));
  LLVMValueRef stride = field_at(e, view, VIEW(shared_stride), digit);
  loop.carried[0] = sptx_ir_add(ir, loop.carried[0], sptx_ir_mul(ir, value, stride));
  loop.carried[1] = quotient;
  sptx_ir_loop_end(ir, &loop);
  LLVMBuildRet(ir->builder, loop.carried[0]);
}

/* The product of the sizes of the inner digits after the first: how many indices one outer step spans. */
static LLVMValueRef inner_span(sptx_x86_emitter *e, LLVMValueRef view, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop loop;
  LLVMValueRef one = sptx_ir_i64(ir, 1);
  sptx_ir_loop_begin(ir, &loop, one, count, one, false, &one, 1);
  loop.carried[0] = sptx_ir_mul(ir, loop.carried[0], field_at(e, view, VIEW(inner_size), loop.index));
  sptx_ir_loop_end(ir, &loop);
  return loop.carried[0];
}

/* i64 below(view, limit): how many inner indices stand at offsets below limit from the origin. Once a digit
 * is past its size, all further ones count in full: limit becomes so large that each takes its size. */
static void emit_below(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64};
  if (!sptx_x86_common_function(e, "below", ir->i64, types, 2, &e->view_below))
    return;
  LLVMValueRef view = LLVMGetParam(ir->function, 0), one = sptx_ir_i64(ir, 1), zero = sptx_ir_i64(ir, 0);
  LLVMValueRef count = field_at(e, view, VIEW(inner_count), NULL), last = sptx_ir_sub(ir, count, one);
  sptx_ir_loop loop;
  LLVMValueRef limit = sptx_ir_max(ir, LLVMGetParam(ir->function, 1), zero);
  LLVMValueRef carried[] = {limit, zero, inner_span(e, view, count)};
  sptx_ir_loop_begin(ir, &loop, zero, count, one, false, carried, 3);
  LLVMValueRef size = field_at(e, view, VIEW(inner_size), loop.index);
  LLVMValueRef stride = field_at(e, view, VIEW(inner_stride), loop.index);
  LLVMValueRef is_last = sptx_ir_compare(ir, LLVMIntEQ, loop.index, last);
  LLVMValueRef up = sptx_ir_select(ir, is_last, sptx_ir_sub(ir, stride, one), zero);
  LLVMValueRef digit = sptx_ir_div(ir, sptx_ir_add(ir, loop.carried[0], up), stride);
  LLVMValueRef past = sptx_ir_compare(ir, LLVMIntSGE, digit, size);
  LLVMValueRef added = sptx_ir_mul(ir, sptx_ir_min(ir, digit, size), loop.carried[2]);
  LLVMValueRef rest = sptx_ir_sub(ir, loop.carried[0], sptx_ir_mul(ir, digit, stride));
  loop.carried[0] = sptx_ir_select(ir, past, zero, rest);
  loop.carried[1] = sptx_ir_add(ir, loop.carried[1], added);
  LLVMValueRef next = sptx_ir_add(ir, loop.index, one);
  LLVMValueRef next_index = sptx_ir_min(ir, next, last);
  loop.carried[2] = sptx_ir_div(
      ir, loop.carried[2], sptx_ir_select(ir, is_last, one, field_at(e, view, VIEW(inner_size), next_index)));
  sptx_ir_loop_end(ir, &loop);
  LLVMBuildRet(ir->builder, loop.carried[1]);
}

/* One digit: positions of 8 indices at a time. */
static void emit_positions_affine(sptx_x86_emitter *e, LLVMValueRef *p, LLVMValueRef stride) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), p[3], sptx_ir_i64(ir, 8), false, NULL, 0);
  LLVMValueRef x =
      sptx_ir_add(ir, sptx_ir_splat(ir, sptx_ir_add(ir, p[2], loop.index), 8), sptx_ir_iota(ir, ir->i64, 8));
  x = sptx_ir_max(ir, x, sptx_ir_splat(ir, p[4], 8));
  x = sptx_ir_min(ir, x, sptx_ir_splat(ir, sptx_ir_sub(ir, p[5], sptx_ir_i64(ir, 1)), 8));
  LLVMTypeRef narrow = LLVMVectorType(ir->i32, 8);
  LLVMValueRef scaled = sptx_ir_mul(ir, LLVMBuildTrunc(ir->builder, x, narrow, ""),
                                    sptx_ir_splat(ir, LLVMBuildTrunc(ir->builder, stride, ir->i32, ""), 8));
  LLVMValueRef origin = sptx_ir_splat(ir, LLVMBuildTrunc(ir->builder, p[1], ir->i32, ""), 8);
  LLVMValueRef target = sptx_ir_at(ir, p[6], sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 4)));
  sptx_ir_store(ir, sptx_ir_add(ir, scaled, origin), target, 4);
  sptx_ir_loop_end(ir, &loop);
}

/* The position of index x and how many indices from x on differ in the last digit only. */
static LLVMValueRef split_digits(sptx_x86_emitter *e, LLVMValueRef *p, LLVMValueRef count, LLVMValueRef x,
                                 LLVMValueRef *run) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef one = sptx_ir_i64(ir, 1), last = sptx_ir_sub(ir, count, one);
  LLVMValueRef last_size = field_at(e, p[0], VIEW(inner_size), last);
  LLVMValueRef beyond = sptx_ir_sub(ir, x, sptx_ir_mul(ir, sptx_ir_div(ir, x, last_size), last_size));
  *run = sptx_ir_sub(ir, last_size, beyond);
  sptx_ir_loop loop;
  LLVMValueRef carried[] = {p[1], x};
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), last, one, false, carried, 2);
  LLVMValueRef digit = sptx_ir_sub(ir, last, loop.index), size = field_at(e, p[0], VIEW(inner_size), digit);
  LLVMValueRef quotient = sptx_ir_div(ir, loop.carried[1], size);
  LLVMValueRef value = sptx_ir_sub(ir, loop.carried[1], sptx_ir_mul(ir, quotient, size));
  loop.carried[0] =
      sptx_ir_add(ir, loop.carried[0], sptx_ir_mul(ir, value, field_at(e, p[0], VIEW(inner_stride), digit)));
  loop.carried[1] = quotient;
  sptx_ir_loop_end(ir, &loop);
  LLVMValueRef outer = sptx_ir_mul(ir, loop.carried[1], field_at(e, p[0], VIEW(inner_stride), NULL));
  return sptx_ir_add(ir, loop.carried[0], outer);
}

/* Several digits: a division for each run of the last digit, then 8 at a time (and up to 7 past the run,
 * which the next run overwrites; the target has room). */
static void emit_positions_digits(sptx_x86_emitter *e, LLVMValueRef *p, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef one = sptx_ir_i64(ir, 1), last = sptx_ir_sub(ir, p[5], one), run;
  LLVMValueRef stride = field_at(e, p[0], VIEW(inner_stride), sptx_ir_sub(ir, count, one));
  stride = LLVMBuildTrunc(ir->builder, stride, ir->i32, "");
  LLVMValueRef steps = sptx_ir_mul(ir, sptx_ir_iota(ir, ir->i32, 8), sptx_ir_splat(ir, stride, 8));
  sptx_ir_loop loop, inner;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), p[3], one, false, NULL, 0);
  LLVMValueRef wanted = sptx_ir_add(ir, p[2], loop.index);
  LLVMValueRef x = sptx_ir_min(ir, sptx_ir_max(ir, wanted, p[4]), last);
  LLVMValueRef position = split_digits(e, p, count, x, &run);
  /* Cut indices stand still: they are written one by one. */
  LLVMValueRef cut = sptx_ir_compare(ir, LLVMIntNE, x, wanted);
  run = sptx_ir_min(ir, run, sptx_ir_sub(ir, p[5], x));
  run = sptx_ir_min(ir, sptx_ir_select(ir, cut, one, run), sptx_ir_sub(ir, p[3], loop.index));
  LLVMValueRef target = sptx_ir_at(ir, p[6], sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 4)));
  position = LLVMBuildTrunc(ir->builder, position, ir->i32, "");
  sptx_ir_loop_begin(ir, &inner, sptx_ir_i64(ir, 0), run, sptx_ir_i64(ir, 8), true, NULL, 0);
  LLVMValueRef done = sptx_ir_mul(ir, LLVMBuildTrunc(ir->builder, inner.index, ir->i32, ""), stride);
  LLVMValueRef value = sptx_ir_add(ir, sptx_ir_splat(ir, sptx_ir_add(ir, position, done), 8), steps);
  sptx_ir_store(ir, value, sptx_ir_at(ir, target, sptx_ir_mul(ir, inner.index, sptx_ir_i64(ir, 4))), 4);
  sptx_ir_loop_end(ir, &inner);
  loop.step = run;
  sptx_ir_loop_end(ir, &loop);
}

/* void positions(view, origin, first, count, begin, end, target) */
static void emit_positions(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->i64, ir->i64, ir->i64, ir->i64, ir->pointer};
  if (!sptx_x86_common_function(e, "positions", ir->void_type, types, 7, &e->view_positions))
    return;
  LLVMValueRef p[7];
  LLVMGetParams(ir->function, p);
  LLVMValueRef count = field_at(e, p[0], VIEW(inner_count), NULL);
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntEQ, count, sptx_ir_i64(ir, 1)));
  emit_positions_affine(e, p, field_at(e, p[0], VIEW(inner_stride), NULL));
  sptx_ir_else(ir, &branch);
  emit_positions_digits(e, p, count);
  sptx_ir_end_if(ir, &branch);
  LLVMBuildRetVoid(ir->builder);
}

/* void rows(positions, count, base, stride, target): target[k] = base + positions[k] * stride */
static void emit_rows(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer, ir->i64, ir->pointer},
              wide = LLVMVectorType(ir->i64, 8);
  if (!sptx_x86_common_function(e, "rows", ir->void_type, types, 5, &e->view_rows))
    return;
  LLVMValueRef p[5];
  LLVMGetParams(ir->function, p);
  LLVMValueRef start = LLVMBuildPtrToInt(ir->builder, p[2], ir->i64, "");
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), p[1], sptx_ir_i64(ir, 8), false, NULL, 0);
  LLVMValueRef source = sptx_ir_at(ir, p[0], sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 4)));
  LLVMValueRef position = sptx_ir_load(ir, LLVMVectorType(ir->i32, 8), source, 4);
  position = LLVMBuildSExt(ir->builder, position, wide, "");
  LLVMValueRef address = sptx_ir_mul(ir, position, sptx_ir_splat(ir, p[3], 8));
  address = sptx_ir_add(ir, address, sptx_ir_splat(ir, start, 8));
  sptx_ir_store(ir, address, sptx_ir_at(ir, p[4], sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 8))), 8);
  sptx_ir_loop_end(ir, &loop);
  LLVMBuildRetVoid(ir->builder);
}

void sptx_x86_emit_view_functions(sptx_x86_emitter *e) {
  emit_origin(e);
  emit_below(e);
  emit_positions(e);
  emit_rows(e);
}

LLVMValueRef sptx_x86_origin(sptx_x86_emitter *e, int64_t view_field, LLVMValueRef shared) {
  LLVMValueRef arguments[] = {sptx_ir_at_constant(&e->ir, e->params, view_field), shared};
  return sptx_x86_call(e, e->view_origin, arguments, 2);
}

LLVMValueRef sptx_x86_below(sptx_x86_emitter *e, int64_t view_field, LLVMValueRef limit) {
  LLVMValueRef arguments[] = {sptx_ir_at_constant(&e->ir, e->params, view_field), limit};
  return sptx_x86_call(e, e->view_below, arguments, 2);
}

static void fill_side(sptx_x86_emitter *e, LLVMValueRef shared, LLVMValueRef first, LLVMValueRef last,
                      sptx_x86_side *side) {
  side->origin = sptx_x86_origin(e, side->view_field, shared);
  side->begin = sptx_x86_below(e, side->view_field, sptx_ir_sub(&e->ir, first, side->origin));
  side->end = sptx_x86_below(e, side->view_field, sptx_ir_sub(&e->ir, last, side->origin));
}

void sptx_x86_query_side(sptx_x86_emitter *e, LLVMValueRef shared, sptx_x86_side *side) {
  LLVMValueRef last = sptx_x86_param(e, SPTX_X86_FIELD(n_k));
  side->view_field = SPTX_X86_FIELD(query_view);
  fill_side(e, shared, sptx_ir_sub(&e->ir, last, sptx_x86_param(e, SPTX_X86_FIELD(n_q))), last, side);
}

void sptx_x86_key_side(sptx_x86_emitter *e, LLVMValueRef shared, sptx_x86_side *side) {
  side->view_field = SPTX_X86_FIELD(key_view);
  fill_side(e, shared, sptx_ir_i64(&e->ir, 0), sptx_x86_param(e, SPTX_X86_FIELD(n_k)), side);
}

void sptx_x86_positions(sptx_x86_emitter *e, const sptx_x86_side *side, LLVMValueRef first,
                        LLVMValueRef count, LLVMValueRef target) {
  LLVMValueRef view = sptx_ir_at_constant(&e->ir, e->params, side->view_field);
  LLVMValueRef arguments[] = {view, side->origin, first, count, side->begin, side->end, target};
  sptx_x86_call(e, e->view_positions, arguments, 7);
}

void sptx_x86_rows(sptx_x86_emitter *e, LLVMValueRef positions, LLVMValueRef count, LLVMValueRef base,
                   LLVMValueRef stride, LLVMValueRef rows) {
  sptx_x86_call(e, e->view_rows, (LLVMValueRef[]){positions, count, base, stride, rows}, 5);
}
