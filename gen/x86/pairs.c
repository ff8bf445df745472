/* bfloat16 products take their depth in pairs: the right-hand side holds two rows interleaved, the left-hand
 * side two neighbours of a row, which is how tensors lie in memory. Depths that are no multiple of the step
 * are padded with zeros on both sides, because the padding may not bring in an infinity. */
#include "gen/x86/pairs.h"

enum { PAIR = 2, AMX_DEPTH = 32 };

enum sptx_x86_products sptx_x86_products_of(const sptx_x86_shape *shape) {
  const sptx_x86_schedule *schedule = &shape->schedule;
  if (schedule->isa < SPTX_ISA_AVX512_BF16 || shape->element != SPTX_ELEMENT_BF16 ||
      shape->family == SPTX_X86_PREPARE || shape->family == SPTX_X86_FINISH)
    return SPTX_X86_FLOATS;
  if (schedule->isa == SPTX_ISA_AVX512_BF16)
    return SPTX_X86_PAIRS;
  /* Processors with AMX start vdpbf16ps a quarter as often as an FMA: what has no tiles is float32 there. */
  int width = sptx_x86_lanes(schedule->isa) * schedule->register_vectors;
  bool whole =
      shape->family == SPTX_X86_FORWARD ? width % AMX_DEPTH == 0 : shape->family == SPTX_X86_BACKWARD;
  bool tiles = whole && schedule->query_tile % AMX_DEPTH == 0 && schedule->key_tile % AMX_DEPTH == 0;
  return tiles ? SPTX_X86_TILES : SPTX_X86_FLOATS;
}

static LLVMValueRef constant(sptx_x86_emitter *e, int64_t value) {
  return sptx_ir_i64(&e->ir, value);
}

static int64_t step_of(const sptx_x86_emitter *e) {
  return e->products == SPTX_X86_TILES ? AMX_DEPTH : PAIR;
}

static int64_t row_bytes(const sptx_x86_emitter *e) {
  return (int64_t)e->panel * 4;
}

LLVMValueRef sptx_x86_pairs_padded(sptx_x86_emitter *e, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef step = constant(e, step_of(e)), up = sptx_ir_add(ir, count, constant(e, step_of(e) - 1));
  return sptx_ir_mul(ir, sptx_ir_div(ir, up, step), step);
}

LLVMValueRef sptx_x86_pairs_count(sptx_x86_emitter *e, LLVMValueRef count) {
  return sptx_ir_div(&e->ir, sptx_x86_pairs_padded(e, count), constant(e, PAIR));
}

/* Elements 0, lanes, 1, lanes + 1, .. of low and high side by side. */
static LLVMValueRef take_turns(sptx_x86_emitter *e, LLVMValueRef low, LLVMValueRef high, unsigned lanes) {
  int index[32];
  for (int k = 0; k < 2 * (int)lanes; k++)
    index[k] = k / 2 + k % 2 * (int)lanes;
  return sptx_ir_shuffle(&e->ir, low, high, index, 2 * lanes);
}

/* Two vectors of floats as one of bfloat16: low's, then high's. Subnormal numbers become 0. */
static LLVMValueRef rounded(sptx_x86_emitter *e, LLVMValueRef low, LLVMValueRef high) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef arguments[] = {high, low};
  LLVMValueRef both = sptx_ir_intrinsic(ir, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", NULL, arguments, 2);
  return LLVMBuildBitCast(ir->builder, both, LLVMVectorType(ir->i16, 2 * e->lanes), "");
}

LLVMValueRef sptx_x86_pairs_of(sptx_x86_emitter *e, LLVMValueRef low, LLVMValueRef high) {
  LLVMValueRef both = rounded(e, low, high);
  return take_turns(e, both, both, e->lanes);
}

static LLVMValueRef load_floats(sptx_x86_emitter *e, LLVMValueRef address) {
  return sptx_ir_load(&e->ir, e->vector, address, 64);
}

/* void interleave(source, count, target) */
static LLVMValueRef emit_interleave(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  LLVMValueRef function = sptx_x86_local_function(e, "interleave", ir->void_type, types, 3);
  LLVMValueRef zero = constant(e, 0), row = constant(e, row_bytes(e)), vector = constant(e, e->lanes * 4);
  LLVMValueRef at[] = {LLVMGetParam(function, 0), LLVMGetParam(function, 2)};
  sptx_ir_loop rows, lanes;
  sptx_ir_loop_begin(ir, &rows, zero, LLVMGetParam(function, 1), constant(e, PAIR), true, at, 2);
  sptx_ir_loop_begin(ir, &lanes, zero, row, vector, true, NULL, 0);
  LLVMValueRef low = sptx_ir_at(ir, rows.carried[0], lanes.index);
  LLVMValueRef pairs = sptx_x86_pairs_of(e, load_floats(e, low), load_floats(e, sptx_ir_at(ir, low, row)));
  sptx_ir_store(ir, pairs, sptx_ir_at(ir, rows.carried[1], lanes.index), 64);
  sptx_ir_loop_end(ir, &lanes);
  rows.carried[0] = sptx_ir_at_constant(ir, rows.carried[0], 2 * row_bytes(e));
  rows.carried[1] = sptx_ir_at(ir, rows.carried[1], row);
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* void round(source, count, target): count is even, so that two vectors go at a time. */
static LLVMValueRef emit_round(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  LLVMValueRef function = sptx_x86_local_function(e, "round", ir->void_type, types, 3);
  LLVMValueRef end = sptx_ir_mul(ir, LLVMGetParam(function, 1), constant(e, row_bytes(e) / 2));
  LLVMValueRef source = LLVMGetParam(function, 0), vector = constant(e, e->lanes * 4);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, constant(e, 0), end, vector, true, &source, 1);
  LLVMValueRef high = sptx_ir_at(ir, loop.carried[0], vector);
  LLVMValueRef both = rounded(e, load_floats(e, loop.carried[0]), load_floats(e, high));
  sptx_ir_store(ir, both, sptx_ir_at(ir, LLVMGetParam(function, 2), loop.index), 64);
  loop.carried[0] = sptx_ir_at_constant(ir, loop.carried[0], (int64_t)e->lanes * 8);
  sptx_ir_loop_end(ir, &loop);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

void sptx_x86_pairs_emit_functions(sptx_x86_emitter *e, sptx_x86_pairs *pairs) {
  pairs->interleave = emit_interleave(e);
  pairs->round = e->shape->family == SPTX_X86_BACKWARD ? emit_round(e) : NULL;
}

void sptx_x86_emit_pair_rows(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  if (!sptx_x86_common_function(e, "pair_rows", ir->void_type, types, 3, &e->pair_rows))
    return;
  LLVMValueRef at[] = {LLVMGetParam(ir->function, 0), LLVMGetParam(ir->function, 2)}, row[PAIR];
  sptx_ir_loop rows;
  sptx_ir_loop_begin(ir, &rows, constant(e, 0), LLVMGetParam(ir->function, 1), constant(e, PAIR), false, at,
                     2);
  for (int k = 0; k < PAIR; k++)
    row[k] = sptx_ir_load(ir, ir->pointer, sptx_ir_at_constant(ir, rows.carried[0], 8 * k), 8);
  for (int d = 0; d < e->dim;) {
    unsigned lanes = e->dim - d >= (int)e->lanes ? e->lanes : e->lanes / 2;
    LLVMTypeRef part = LLVMVectorType(ir->i16, lanes);
    LLVMValueRef low = sptx_ir_load(ir, part, sptx_ir_at_constant(ir, row[0], 2 * d), 2);
    LLVMValueRef high = sptx_ir_load(ir, part, sptx_ir_at_constant(ir, row[1], 2 * d), 2);
    sptx_ir_store(ir, take_turns(e, low, high, lanes), sptx_ir_at_constant(ir, rows.carried[1], 4 * d), 32);
    d += (int)lanes;
  }
  rows.carried[0] = sptx_ir_at_constant(ir, rows.carried[0], 8 * PAIR);
  rows.carried[1] = sptx_ir_at_constant(ir, rows.carried[1], (int64_t)e->dim * 4);
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
}

void sptx_x86_clear_rows(sptx_x86_emitter *e, int64_t tile, LLVMValueRef begin, LLVMValueRef end) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef row = constant(e, row_bytes(e));
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_mul(ir, begin, row), sptx_ir_mul(ir, end, row),
                     constant(e, e->lanes * 4), false, NULL, 0);
  sptx_ir_store(ir, LLVMConstNull(e->vector), sptx_ir_at(ir, sptx_x86_scratch(e, tile), loop.index), 32);
  sptx_ir_loop_end(ir, &loop);
}

void sptx_x86_pairs_interleave(sptx_x86_emitter *e, const sptx_x86_pairs *pairs, LLVMValueRef source,
                               LLVMValueRef count, int64_t target) {
  LLVMValueRef arguments[] = {source, count, sptx_x86_scratch(e, target)};
  sptx_x86_call(e, pairs->interleave, arguments, 3);
}

void sptx_x86_pairs_round(sptx_x86_emitter *e, const sptx_x86_pairs *pairs, int64_t source,
                          LLVMValueRef count, int64_t target) {
  LLVMValueRef arguments[] = {sptx_x86_scratch(e, source), count, sptx_x86_scratch(e, target)};
  sptx_x86_call(e, pairs->round, arguments, 3);
}

void sptx_x86_pairs_dims(sptx_x86_emitter *e, const sptx_x86_pairs *pairs, int64_t source, int64_t target) {
  int64_t step = step_of(e), depth = (e->dim + step - 1) / step * step;
  for (int64_t panel = 0; panel < e->query_tile / e->panel; panel++) {
    int64_t to = target + panel * depth / PAIR * row_bytes(e);
    sptx_x86_pairs_interleave(e, pairs, sptx_x86_scratch(e, source + panel * e->dim * row_bytes(e)),
                              constant(e, e->dim), to);
    sptx_x86_clear_rows(e, to, constant(e, e->dim / PAIR), constant(e, depth / PAIR));
  }
}

void sptx_x86_pairs_rows(sptx_x86_emitter *e, int64_t table, LLVMValueRef count, int64_t target) {
  LLVMValueRef arguments[] = {sptx_x86_scratch(e, table), count, sptx_x86_scratch(e, target)};
  sptx_x86_call(e, e->pair_rows, arguments, 3);
}
