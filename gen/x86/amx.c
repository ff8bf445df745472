/* The two products of the bfloat16 forward on AMX tiles. A tile is 16 rows of 64 bytes; one instruction
 * multiplies 16 x 32 by 32 x 16 values into 16 x 16 float32 sums. The right-hand side holds pairs of rows
 * interleaved. Keys and dims are padded to whole tiles with zeros on one side of each product. */
#include "gen/x86/amx.h"

enum { TILE = 16, DEPTH = 32, BLOCK = 8 };

static int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

static int64_t depth_of(const sptx_x86_emitter *e) {
  return round_up(e->dim, DEPTH);
}

/* A row of V^T; one line more than its keys take, so that 16 rows do not share few sets of the cache. */
static int64_t values_row_bytes(int key_tile) {
  return 2 * (key_tile + DEPTH);
}

int64_t sptx_x86_amx_value_bytes(int dim, int key_tile) {
  return round_up(dim, TILE) * values_row_bytes(key_tile);
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

/* void amx_keys(rows, count, target): rows as they are, padded to whole tiles with zeros. */
static LLVMValueRef emit_copy_keys(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  LLVMValueRef function = sptx_x86_local_function(e, "amx_keys", ir->void_type, types, 3);
  sptx_ir_loop rows;
  sptx_ir_loop_begin(ir, &rows, constant(e, 0), LLVMGetParam(function, 1), constant(e, 1), false, NULL, 0);
  LLVMValueRef source = sptx_ir_load(ir, ir->pointer, scaled(e, LLVMGetParam(function, 0), rows.index, 8), 8);
  LLVMValueRef target = scaled(e, LLVMGetParam(function, 2), rows.index, depth_of(e) * 2);
  for (int d = 0, step; d < (int)depth_of(e); d += step) {
    step = e->dim - d >= DEPTH ? DEPTH : BLOCK;
    LLVMTypeRef part = LLVMVectorType(ir->i16, (unsigned)step);
    LLVMValueRef value = LLVMConstNull(part);
    if (d < e->dim)
      value = sptx_ir_load(ir, part, sptx_ir_at_constant(ir, source, 2 * d), 2);
    sptx_ir_store(ir, value, sptx_ir_at_constant(ir, target, 2 * d), 16);
  }
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* Units of `unit` 16-bit elements of a and b in turns, from the low or the high half of each 128-bit lane:
 * one instruction whatever the width. */
static LLVMValueRef unpack(sptx_x86_emitter *e, LLVMValueRef a, LLVMValueRef b, int width, int unit,
                           bool high) {
  int index[DEPTH];
  for (int k = 0; k < width; k++) {
    int lane = k / BLOCK * BLOCK, place = k % BLOCK / unit, within = k % unit;
    index[k] = lane + (high ? BLOCK / 2 : 0) + place / 2 * unit + within + place % 2 * width;
  }
  return sptx_ir_shuffle(&e->ir, a, b, index, (unsigned)width);
}

/* 8 keys by `width` dims, which lie at an offset in the rows; target: of the first dim and key. */
static void transpose_part(sptx_x86_emitter *e, const LLVMValueRef row[BLOCK], LLVMValueRef offset, int width,
                           LLVMValueRef target) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef type = LLVMVectorType(ir->i16, (unsigned)width);
  LLVMValueRef values[BLOCK];
  for (int k = 0; k < BLOCK; k++)
    values[k] = sptx_ir_load(ir, type, sptx_ir_at(ir, row[k], offset), 2);
  for (int half = 0; half < 2; half++) { /* of each lane's 8 dims */
    LLVMValueRef pairs[4], fours[4];
    for (int k = 0; k < 4; k++)
      pairs[k] = unpack(e, values[2 * k], values[2 * k + 1], width, 1, half);
    for (int k = 0; k < 4; k++)
      fours[k] = unpack(e, pairs[k / 2 * 2], pairs[k / 2 * 2 + 1], width, 2, k % 2);
    for (int k = 0; k < 4; k++) {
      LLVMValueRef keys = unpack(e, fours[k / 2], fours[k / 2 + 2], width, 4, k % 2);
      for (int lane = 0; lane < width; lane += BLOCK) {
        int index[BLOCK];
        for (int i = 0; i < BLOCK; i++)
          index[i] = lane + i;
        int64_t dim = lane + 4 * half + k;
        sptx_ir_store(ir, sptx_ir_shuffle(ir, keys, keys, index, BLOCK),
                      sptx_ir_at_constant(ir, target, dim * values_row_bytes(e->key_tile)), 16);
      }
    }
  }
}

/* void amx_values(rows, count, target): target[d][key], 8 keys by 32 dims at a time. */
static LLVMValueRef emit_transpose_values(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  LLVMValueRef function = sptx_x86_local_function(e, "amx_values", ir->void_type, types, 3);
  int64_t row_bytes = values_row_bytes(e->key_tile);
  int whole = e->dim / DEPTH * DEPTH;
  sptx_ir_loop keys, dims;
  sptx_ir_loop_begin(ir, &keys, constant(e, 0), LLVMGetParam(function, 1), constant(e, BLOCK), false, NULL,
                     0);
  LLVMValueRef table = scaled(e, LLVMGetParam(function, 0), keys.index, 8), row[BLOCK];
  LLVMValueRef target = scaled(e, LLVMGetParam(function, 2), keys.index, 2);
  for (int k = 0; k < BLOCK; k++)
    row[k] = sptx_ir_load(ir, ir->pointer, sptx_ir_at_constant(ir, table, 8 * k), 8);
  if (whole > 0) {
    sptx_ir_loop_begin(ir, &dims, constant(e, 0), constant(e, whole), constant(e, DEPTH), true, NULL, 0);
    transpose_part(e, row, sptx_ir_mul(ir, dims.index, constant(e, 2)), DEPTH,
                   scaled(e, target, dims.index, row_bytes));
    sptx_ir_loop_end(ir, &dims);
  }
  for (int d = whole; d < e->dim; d += BLOCK)
    transpose_part(e, row, constant(e, 2 * d), BLOCK, sptx_ir_at_constant(ir, target, d * row_bytes));
  sptx_ir_loop_end(ir, &keys);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* void amx_scores(keys, queries, scores, count): S^T = K Q^T, 32 keys by 32 queries at a time. */
static LLVMValueRef emit_scores(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function = sptx_x86_local_function(e, "amx_scores", ir->void_type, types, 4);
  int64_t key_bytes = depth_of(e) * 2, query_bytes = (int64_t)e->panel * 4;
  sptx_ir_loop keys, queries, dims;
  sptx_ir_loop_begin(ir, &keys, constant(e, 0), LLVMGetParam(function, 3), constant(e, DEPTH), false, NULL,
                     0);
  sptx_ir_loop_begin(ir, &queries, constant(e, 0), constant(e, e->panel), constant(e, DEPTH), true, NULL, 0);
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

/* 16 or 32 dims (rows: 1 or 2 tiles) from `dim` on by 32 queries. One tile of sums would wait for its last
 * product: four hide that. */
static void output_block(sptx_x86_emitter *e, LLVMValueRef function, LLVMValueRef dim, int rows) {
  sptx_ir *ir = &e->ir;
  int64_t value_bytes = values_row_bytes(e->key_tile), query_bytes = (int64_t)e->panel * 4;
  sptx_ir_loop queries, keys;
  sptx_ir_loop_begin(ir, &queries, constant(e, 0), constant(e, e->panel), constant(e, DEPTH), true, NULL, 0);
  LLVMValueRef target = scaled(e, scaled(e, LLVMGetParam(function, 2), dim, query_bytes), queries.index, 4);
  LLVMValueRef sums[4];
  for (int k = 0; k < 2 * rows; k++) {
    sums[k] = sptx_ir_at_constant(ir, target, k / 2 * TILE * query_bytes + k % 2 * TILE * 4);
    tile_load(e, k, sums[k], query_bytes);
  }
  sptx_ir_loop_begin(ir, &keys, constant(e, 0), LLVMGetParam(function, 3), constant(e, DEPTH), false, NULL,
                     0);
  LLVMValueRef left = scaled(e, scaled(e, LLVMGetParam(function, 0), dim, value_bytes), keys.index, 2);
  LLVMValueRef right =
      scaled(e, scaled(e, LLVMGetParam(function, 1), keys.index, query_bytes / 2), queries.index, 4);
  for (int k = 0; k < rows; k++)
    tile_load(e, 4 + k, sptx_ir_at_constant(ir, left, k * TILE * value_bytes), value_bytes);
  for (int k = 0; k < 2; k++)
    tile_load(e, 6 + k, sptx_ir_at_constant(ir, right, (int64_t)k * TILE * 4), query_bytes);
  for (int k = 0; k < 2 * rows; k++)
    tile_multiply(e, k, 4 + k / 2, 6 + k % 2);
  sptx_ir_loop_end(ir, &keys);
  for (int k = 0; k < 2 * rows; k++)
    tile_store(e, k, sums[k], query_bytes);
  sptx_ir_loop_end(ir, &queries);
}

/* void amx_output(values, weights, output, count): O^T += V^T P^T, 32 dims by 32 queries at a time. */
static LLVMValueRef emit_output(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function = sptx_x86_local_function(e, "amx_output", ir->void_type, types, 4);
  int64_t padded = round_up(e->dim, TILE), whole = padded / DEPTH * DEPTH;
  sptx_ir_loop dims;
  if (whole > 0) {
    sptx_ir_loop_begin(ir, &dims, constant(e, 0), constant(e, whole), constant(e, DEPTH), true, NULL, 0);
    output_block(e, function, dims.index, 2);
    sptx_ir_loop_end(ir, &dims);
  }
  if (whole < padded)
    output_block(e, function, constant(e, whole), 1);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

void sptx_x86_amx_emit_functions(sptx_x86_emitter *e, sptx_x86_amx *amx) {
  amx->keys = emit_copy_keys(e);
  amx->values = emit_transpose_values(e);
  amx->scores = emit_scores(e);
  amx->output = emit_output(e);
}

void sptx_x86_amx_operands(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count) {
  LLVMValueRef padded = sptx_x86_pairs_padded(e, count);
  sptx_x86_call(e, amx->keys,
                (LLVMValueRef[]){sptx_x86_scratch(e, e->layout.key_row), padded,
                                 sptx_x86_scratch(e, e->layout.amx_keys)},
                3);
  sptx_x86_call(e, amx->values,
                (LLVMValueRef[]){sptx_x86_scratch(e, e->layout.value_row), padded,
                                 sptx_x86_scratch(e, e->layout.amx_values)},
                3);
}

void sptx_x86_amx_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef queries,
                         LLVMValueRef begin, LLVMValueRef end) {
  LLVMValueRef count = sptx_ir_sub(&e->ir, end, begin);
  LLVMValueRef product[] = {scaled(e, sptx_x86_scratch(e, e->layout.amx_keys), begin, depth_of(e) * 2),
                            queries,
                            scaled(e, sptx_x86_scratch(e, e->layout.scores), begin, (int64_t)e->panel * 4),
                            sptx_x86_pairs_padded(e, count)};
  sptx_x86_call(e, amx->scores, product, 4);
}

void sptx_x86_amx_output(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef output,
                         LLVMValueRef begin, LLVMValueRef end) {
  LLVMValueRef count = sptx_ir_sub(&e->ir, end, begin), weights = sptx_x86_scratch(e, e->layout.weight_pairs);
  LLVMValueRef product[] = {scaled(e, sptx_x86_scratch(e, e->layout.amx_values), begin, 2),
                            scaled(e, weights, begin, (int64_t)e->panel * 2), output,
                            sptx_x86_pairs_padded(e, count)};
  sptx_x86_call(e, amx->output, product, 4);
}
