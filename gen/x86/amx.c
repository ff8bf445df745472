/* The two products of the bfloat16 forward on AMX tiles. A tile is 16 rows of 64 bytes; one instruction
 * multiplies 16 x 32 by 32 x 16 values into 16 x 16 float32 sums. The right-hand side holds pairs of rows
 * interleaved. Keys and dims are padded to whole tiles with zeros on one side of each product. */
#include "gen/x86/amx.h"

enum { TILE = 16, DEPTH = 32, BLOCK = 8 };

bool sptx_x86_uses_amx(const sptx_x86_shape *shape) {
  const sptx_x86_schedule *schedule = &shape->schedule;
  return schedule->isa == SPTX_ISA_AMX && shape->element == SPTX_ELEMENT_BF16 &&
         shape->family == SPTX_X86_FORWARD && schedule->query_tile % DEPTH == 0 &&
         schedule->key_tile % DEPTH == 0;
}

static int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

static int64_t depth_of(const sptx_x86_emitter *e) {
  return round_up(e->dim, DEPTH);
}

static LLVMValueRef constant(sptx_x86_emitter *e, int64_t value) {
  return sptx_ir_i64(&e->ir, value);
}

static LLVMValueRef scaled(sptx_x86_emitter *e, LLVMValueRef base, LLVMValueRef index, int64_t bytes) {
  return sptx_ir_at(&e->ir, base, sptx_ir_mul(&e->ir, index, constant(e, bytes)));
}

static void tile_zero(sptx_x86_emitter *e, int tile) {
  LLVMValueRef arguments[] = {LLVMConstInt(e->ir.i8, (unsigned)tile, false)};
  sptx_ir_intrinsic(&e->ir, "llvm.x86.tilezero", NULL, arguments, 1);
}

static void tile_move(sptx_x86_emitter *e, const char *name, int tile, LLVMValueRef address, int64_t stride) {
  LLVMValueRef arguments[] = {LLVMConstInt(e->ir.i8, (unsigned)tile, false), address, constant(e, stride)};
  sptx_ir_intrinsic(&e->ir, name, NULL, arguments, 3);
}

static void tile_load(sptx_x86_emitter *e, int tile, LLVMValueRef address, int64_t stride) {
  tile_move(e, "llvm.x86.tileloadd64", tile, address, stride);
}

static void tile_store(sptx_x86_emitter *e, int tile, LLVMValueRef address, int64_t stride) {
  tile_move(e, "llvm.x86.tilestored64", tile, address, stride);
}

static void tile_multiply(sptx_x86_emitter *e, int sum, int left, int right) {
  LLVMValueRef arguments[] = {LLVMConstInt(e->ir.i8, (unsigned)sum, false),
                              LLVMConstInt(e->ir.i8, (unsigned)left, false),
                              LLVMConstInt(e->ir.i8, (unsigned)right, false)};
  sptx_ir_intrinsic(&e->ir, "llvm.x86.tdpbf16ps", NULL, arguments, 3);
}

/* All eight tiles 16 rows of 64 bytes: palette 1, bytes per row from byte 16, rows from byte 48. */
void sptx_x86_amx_configure(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef words[16];
  for (int k = 0; k < 16; k++)
    words[k] = sptx_ir_i32(ir, k == 0               ? 1
                               : k >= 4 && k < 8    ? 0x00400040
                               : k == 12 || k == 13 ? 0x10101010
                                                    : 0);
  LLVMValueRef target = sptx_x86_scratch(e, e->layout.amx_config);
  sptx_ir_store(ir, LLVMConstVector(words, 16), target, 64);
  sptx_ir_intrinsic(ir, "llvm.x86.ldtilecfg", NULL, &target, 1);
}

void sptx_x86_amx_release(sptx_x86_emitter *e) {
  sptx_ir_intrinsic(&e->ir, "llvm.x86.tilerelease", NULL, NULL, 0);
}

/* Two rows of floats as interleaved bfloat16: the first in the low halves. */
static LLVMValueRef interleave(sptx_x86_emitter *e, LLVMValueRef low, LLVMValueRef high) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef halves = LLVMVectorType(ir->bf16, e->lanes), shorts = LLVMVectorType(ir->i16, e->lanes);
  LLVMTypeRef words = LLVMVectorType(ir->i32, e->lanes);
  LLVMValueRef part[] = {low, high};
  for (int k = 0; k < 2; k++) {
    part[k] = LLVMBuildFPTrunc(ir->builder, part[k], halves, "");
    part[k] = LLVMBuildZExt(ir->builder, LLVMBuildBitCast(ir->builder, part[k], shorts, ""), words, "");
  }
  LLVMValueRef sixteen = sptx_ir_splat(ir, sptx_ir_i32(ir, 16), e->lanes);
  return LLVMBuildOr(ir->builder, part[0], LLVMBuildShl(ir->builder, part[1], sixteen, ""), "");
}

/* target[row / 2][lane] = rows row and row + 1 of a [row][query] tile of floats, for rows of 0 .. end. */
static void interleave_rows(sptx_x86_emitter *e, LLVMValueRef source, LLVMValueRef target, LLVMValueRef begin,
                            LLVMValueRef end) {
  sptx_ir *ir = &e->ir;
  int64_t row_bytes = (int64_t)e->query_tile * 4;
  sptx_ir_loop rows, lanes;
  sptx_ir_loop_begin(ir, &rows, begin, end, constant(e, 2), false, NULL, 0);
  LLVMValueRef from = scaled(e, source, rows.index, row_bytes),
               to = scaled(e, target, rows.index, row_bytes / 2);
  sptx_ir_loop_begin(ir, &lanes, constant(e, 0), constant(e, row_bytes), constant(e, e->lanes * 4), true,
                     NULL, 0);
  LLVMValueRef low = sptx_ir_load(ir, e->vector, sptx_ir_at(ir, from, lanes.index), 64);
  LLVMValueRef high =
      sptx_ir_load(ir, e->vector, sptx_ir_at(ir, sptx_ir_at_constant(ir, from, row_bytes), lanes.index), 64);
  sptx_ir_store(ir, interleave(e, low, high), sptx_ir_at(ir, to, lanes.index), 64);
  sptx_ir_loop_end(ir, &lanes);
  sptx_ir_loop_end(ir, &rows);
}

static void clear(sptx_x86_emitter *e, LLVMValueRef base, LLVMValueRef begin, LLVMValueRef end) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, begin, end, constant(e, e->lanes * 4), false, NULL, 0);
  sptx_ir_store(ir, LLVMConstNull(e->vector), sptx_ir_at(ir, base, loop.index), 64);
  sptx_ir_loop_end(ir, &loop);
}

void sptx_x86_amx_queries(sptx_x86_emitter *e) {
  int64_t row_bytes = (int64_t)e->query_tile * 2;
  LLVMValueRef target = sptx_x86_scratch(e, e->layout.amx_q);
  interleave_rows(e, sptx_x86_scratch(e, e->layout.q), target, constant(e, 0), constant(e, e->dim));
  clear(e, target, constant(e, e->dim * row_bytes), constant(e, depth_of(e) * row_bytes));
}

LLVMValueRef sptx_x86_amx_padded(sptx_x86_emitter *e, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef up = sptx_ir_add(ir, count, constant(e, DEPTH - 1));
  return sptx_ir_mul(ir, sptx_ir_div(ir, up, constant(e, DEPTH)), constant(e, DEPTH));
}

/* void amx_keys(rows, count, target): rows as they are, padded to whole tiles with zeros. */
static LLVMValueRef emit_copy_keys(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer}, part = LLVMVectorType(ir->i64, 2);
  LLVMValueRef function = sptx_x86_local_function(e, "amx_keys", ir->void_type, types, 3);
  sptx_ir_loop rows;
  sptx_ir_loop_begin(ir, &rows, constant(e, 0), LLVMGetParam(function, 1), constant(e, 1), false, NULL, 0);
  LLVMValueRef source = sptx_ir_load(ir, ir->pointer, scaled(e, LLVMGetParam(function, 0), rows.index, 8), 8);
  LLVMValueRef target = scaled(e, LLVMGetParam(function, 2), rows.index, depth_of(e) * 2);
  for (int d = 0; d < (int)depth_of(e); d += BLOCK) {
    LLVMValueRef value = LLVMConstNull(part);
    if (d < e->dim)
      value = sptx_ir_load(ir, part, sptx_ir_at_constant(ir, source, 2 * d), 2);
    sptx_ir_store(ir, value, sptx_ir_at_constant(ir, target, 2 * d), 16);
  }
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* void amx_values(rows, count, target): target[d][key], 8 keys by 8 dims at a time. */
static LLVMValueRef emit_transpose_values(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  LLVMValueRef function = sptx_x86_local_function(e, "amx_values", ir->void_type, types, 3), block[BLOCK];
  int64_t row_bytes = (int64_t)e->key_tile * 2;
  sptx_ir_loop keys, dims;
  sptx_ir_loop_begin(ir, &keys, constant(e, 0), LLVMGetParam(function, 1), constant(e, BLOCK), false, NULL,
                     0);
  LLVMValueRef table = scaled(e, LLVMGetParam(function, 0), keys.index, 8), row[BLOCK];
  for (int k = 0; k < BLOCK; k++)
    row[k] = sptx_ir_load(ir, ir->pointer, sptx_ir_at_constant(ir, table, 8 * k), 8);
  sptx_ir_loop_begin(ir, &dims, constant(e, 0), constant(e, e->dim), constant(e, BLOCK), true, NULL, 0);
  for (int k = 0; k < BLOCK; k++)
    block[k] = sptx_x86_load_floats(e, SPTX_ELEMENT_BF16, scaled(e, row[k], dims.index, 2), BLOCK);
  sptx_x86_transpose(e, block);
  LLVMValueRef target = scaled(e, scaled(e, LLVMGetParam(function, 2), dims.index, row_bytes), keys.index, 2);
  for (int k = 0; k < BLOCK; k++) {
    LLVMValueRef half = LLVMBuildFPTrunc(ir->builder, block[k], LLVMVectorType(ir->bf16, BLOCK), "");
    sptx_ir_store(ir, half, sptx_ir_at_constant(ir, target, k * row_bytes), 16);
  }
  sptx_ir_loop_end(ir, &dims);
  sptx_ir_loop_end(ir, &keys);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* void amx_scores(keys, queries, scores, count): S^T = K Q^T, 32 keys by 32 queries at a time. */
static LLVMValueRef emit_scores(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function = sptx_x86_local_function(e, "amx_scores", ir->void_type, types, 4);
  int64_t key_bytes = depth_of(e) * 2, query_bytes = (int64_t)e->query_tile * 4;
  sptx_ir_loop keys, queries, dims;
  sptx_ir_loop_begin(ir, &keys, constant(e, 0), LLVMGetParam(function, 3), constant(e, DEPTH), false, NULL,
                     0);
  sptx_ir_loop_begin(ir, &queries, constant(e, 0), constant(e, e->query_tile), constant(e, DEPTH), true, NULL,
                     0);
  for (int k = 0; k < 4; k++)
    tile_zero(e, k);
  sptx_ir_loop_begin(ir, &dims, constant(e, 0), constant(e, depth_of(e)), constant(e, DEPTH), true, NULL, 0);
  LLVMValueRef left = scaled(e, scaled(e, LLVMGetParam(function, 0), keys.index, key_bytes), dims.index, 2);
  LLVMValueRef right =
      scaled(e, scaled(e, LLVMGetParam(function, 1), dims.index, query_bytes / 2), queries.index, 4);
  for (int k = 0; k < 2; k++) {
    tile_load(e, 4 + k, sptx_ir_at_constant(ir, left, k * TILE * key_bytes), key_bytes);
    tile_load(e, 6 + k, sptx_ir_at_constant(ir, right, (int64_t)k * TILE * 4), query_bytes);
  }
  for (int k = 0; k < 4; k++)
    tile_multiply(e, k, 4 + k / 2, 6 + k % 2);
  sptx_ir_loop_end(ir, &dims);
  LLVMValueRef target =
      scaled(e, scaled(e, LLVMGetParam(function, 2), keys.index, query_bytes), queries.index, 4);
  for (int k = 0; k < 4; k++)
    tile_store(e, k, sptx_ir_at_constant(ir, target, k / 2 * TILE * query_bytes + k % 2 * TILE * 4),
               query_bytes);
  sptx_ir_loop_end(ir, &queries);
  sptx_ir_loop_end(ir, &keys);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* void amx_output(values, weights, output, count): O^T += V^T P^T, 16 dims by 32 queries at a time. */
static LLVMValueRef emit_output(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function = sptx_x86_local_function(e, "amx_output", ir->void_type, types, 4);
  int64_t value_bytes = (int64_t)e->key_tile * 2, query_bytes = (int64_t)e->query_tile * 4;
  sptx_ir_loop dims, queries, keys;
  sptx_ir_loop_begin(ir, &dims, constant(e, 0), constant(e, e->dim), constant(e, TILE), true, NULL, 0);
  sptx_ir_loop_begin(ir, &queries, constant(e, 0), constant(e, e->query_tile), constant(e, DEPTH), true, NULL,
                     0);
  LLVMValueRef target =
      scaled(e, scaled(e, LLVMGetParam(function, 2), dims.index, query_bytes), queries.index, 4);
  for (int k = 0; k < 2; k++)
    tile_load(e, k, sptx_ir_at_constant(ir, target, (int64_t)k * TILE * 4), query_bytes);
  sptx_ir_loop_begin(ir, &keys, constant(e, 0), LLVMGetParam(function, 3), constant(e, DEPTH), false, NULL,
                     0);
  LLVMValueRef left = scaled(e, scaled(e, LLVMGetParam(function, 0), dims.index, value_bytes), keys.index, 2);
  LLVMValueRef right =
      scaled(e, scaled(e, LLVMGetParam(function, 1), keys.index, query_bytes / 2), queries.index, 4);
  tile_load(e, 4, left, value_bytes);
  for (int k = 0; k < 2; k++) {
    tile_load(e, 6 + k, sptx_ir_at_constant(ir, right, (int64_t)k * TILE * 4), query_bytes);
    tile_multiply(e, k, 4, 6 + k);
  }
  sptx_ir_loop_end(ir, &keys);
  for (int k = 0; k < 2; k++)
    tile_store(e, k, sptx_ir_at_constant(ir, target, (int64_t)k * TILE * 4), query_bytes);
  sptx_ir_loop_end(ir, &queries);
  sptx_ir_loop_end(ir, &dims);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

void sptx_x86_amx_emit_functions(sptx_x86_emitter *e, sptx_x86_amx *amx) {
  amx->keys = emit_copy_keys(e);
  amx->values = emit_transpose_values(e);
  amx->scores = emit_scores(e);
  amx->output = emit_output(e);
}

void sptx_x86_amx_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count) {
  LLVMValueRef padded = sptx_x86_amx_padded(e, count), keys = sptx_x86_scratch(e, e->layout.amx_k);
  LLVMValueRef rows[] = {sptx_x86_scratch(e, e->layout.key_row), padded, keys};
  sptx_x86_call(e, amx->keys, rows, 3);
  LLVMValueRef values[] = {sptx_x86_scratch(e, e->layout.value_row), padded,
                           sptx_x86_scratch(e, e->layout.amx_v)};
  sptx_x86_call(e, amx->values, values, 3);
  LLVMValueRef product[] = {keys, sptx_x86_scratch(e, e->layout.amx_q), sptx_x86_scratch(e, e->layout.scores),
                            padded};
  sptx_x86_call(e, amx->scores, product, 4);
}

void sptx_x86_amx_output(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count) {
  int64_t row_bytes = (int64_t)e->query_tile * 4;
  LLVMValueRef padded = sptx_x86_amx_padded(e, count), scores = sptx_x86_scratch(e, e->layout.scores);
  LLVMValueRef weights = sptx_x86_scratch(e, e->layout.amx_p);
  clear(e, scores, sptx_ir_mul(&e->ir, count, constant(e, row_bytes)),
        sptx_ir_mul(&e->ir, padded, constant(e, row_bytes)));
  interleave_rows(e, scores, weights, constant(e, 0), padded);
  LLVMValueRef product[] = {sptx_x86_scratch(e, e->layout.amx_v), weights,
                            sptx_x86_scratch(e, e->layout.output), padded};
  sptx_x86_call(e, amx->output, product, 4);
}
