/* The products of the bfloat16 forward and backward on AMX tiles. A tile is 16 rows of 64 bytes; one
 * instruction multiplies 16 x 32 by 32 x 16 values into 16 x 16 float32 sums. The right-hand side holds pairs
 * of rows interleaved. Keys and dims are padded to whole tiles with zeros on one side of each product. */
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

int64_t sptx_x86_amx_transposed_bytes(int dim, int key_tile) {
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

/* Opens void name(rows, count, scratch) and its loop over rows: the row of the table, and the place in
 * scratch, `stride` bytes from one to the next. */
static LLVMValueRef begin_rows(sptx_x86_emitter *e, const char *name, int64_t stride, sptx_ir_loop *rows,
                               LLVMValueRef *row, LLVMValueRef *place) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  LLVMValueRef function = sptx_x86_local_function(e, name, ir->void_type, types, 3);
  sptx_ir_loop_begin(ir, rows, constant(e, 0), LLVMGetParam(function, 1), constant(e, 1), false, NULL, 0);
  *row = sptx_ir_load(ir, ir->pointer, scaled(e, LLVMGetParam(function, 0), rows->index, 8), 8);
  *place = scaled(e, LLVMGetParam(function, 2), rows->index, stride);
  return function;
}

/* void amx_keys(rows, count, target): rows as they are, padded to whole tiles with zeros. */
static LLVMValueRef emit_copy_keys(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop rows;
  LLVMValueRef source, target;
  LLVMValueRef function = begin_rows(e, "amx_keys", depth_of(e) * 2, &rows, &source, &target);
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

/* A product of tiles: C[row][column] = A(row, k) * B(k, column), strides in bytes. Columns and depth are
 * multiples of 32. */
typedef struct tile_product {
  const char *name;
  int64_t a_stride, b_stride, c_stride; /* of a row of A, a pair of rows of B, a row of C */
  int64_t columns, depth;
} tile_product;

/* void name(a, b, c, rows): 32 rows by 32 columns at a time. */
static LLVMValueRef emit_product(sptx_x86_emitter *e, const tile_product *product) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function = sptx_x86_local_function(e, product->name, ir->void_type, types, 4), p[4];
  int64_t a_stride = product->a_stride, c_stride = product->c_stride;
  sptx_ir_loop rows, columns, depth;
  LLVMGetParams(function, p);
  sptx_ir_loop_begin(ir, &rows, constant(e, 0), p[3], constant(e, DEPTH), false, NULL, 0);
  sptx_ir_loop_begin(ir, &columns, constant(e, 0), constant(e, product->columns), constant(e, DEPTH), true,
                     NULL, 0);
  for (int k = 0; k < 4; k++)
    tile_zero(e, k);
  sptx_ir_loop_begin(ir, &depth, constant(e, 0), constant(e, product->depth), constant(e, DEPTH), true, NULL,
                     0);
  LLVMValueRef left = scaled(e, scaled(e, p[0], rows.index, a_stride), depth.index, 2);
  LLVMValueRef right = scaled(e, scaled(e, p[1], depth.index, product->b_stride / 2), columns.index, 4);
  for (int k = 0; k < 2; k++) {
    tile_load(e, 4 + k, sptx_ir_at_constant(ir, left, k * TILE * a_stride), a_stride);
    tile_load(e, 6 + k, sptx_ir_at_constant(ir, right, (int64_t)k * TILE * 4), product->b_stride);
  }
  for (int k = 0; k < 4; k++)
    tile_multiply(e, k, 4 + k / 2, 6 + k % 2);
  sptx_ir_loop_end(ir, &depth);
  LLVMValueRef target = scaled(e, scaled(e, p[2], rows.index, c_stride), columns.index, 4);
  for (int k = 0; k < 4; k++)
    tile_store(e, k, sptx_ir_at_constant(ir, target, k / 2 * TILE * c_stride + k % 2 * TILE * 4), c_stride);
  sptx_ir_loop_end(ir, &columns);
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* S^T = K Q^T, and dP^T = V dO^T. */
static LLVMValueRef emit_scores(sptx_x86_emitter *e) {
  int64_t row = (int64_t)e->panel * 4;
  const tile_product product = {"amx_scores", depth_of(e) * 2, row, row, e->panel, depth_of(e)};
  return emit_product(e, &product);
}

/* P^T dO and dS^T Q, which are then added to rows of dV and dK. Columns beyond the dims hold anything. */
static LLVMValueRef emit_rows(sptx_x86_emitter *e) {
  const tile_product product = {"amx_rows",          (int64_t)e->query_tile * 2,
                                (int64_t)e->dim * 4, depth_of(e) * 4,
                                depth_of(e),         e->query_tile};
  return emit_product(e, &product);
}

/* void amx_add(rows, count, sums): adds to each row those sums. */
static LLVMValueRef emit_add(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop rows;
  LLVMValueRef source, target;
  LLVMValueRef function = begin_rows(e, "amx_add", depth_of(e) * 4, &rows, &target, &source);
  for (int d = 0, lanes; d < e->dim; d += lanes) {
    lanes = e->dim - d >= TILE ? TILE : BLOCK;
    LLVMTypeRef part = LLVMVectorType(ir->f32, (unsigned)lanes);
    LLVMValueRef cell = sptx_ir_at_constant(ir, target, 4 * d);
    LLVMValueRef change = sptx_ir_load(ir, part, sptx_ir_at_constant(ir, source, 4 * d), 32);
    sptx_ir_store(ir, sptx_ir_fadd(ir, sptx_ir_load(ir, part, cell, 4), change), cell, 4);
  }
  sptx_ir_loop_end(ir, &rows);
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
  bool backward = e->shape->family == SPTX_X86_BACKWARD;
  amx->keys = emit_copy_keys(e);
  amx->values = emit_transpose_values(e);
  amx->scores = emit_scores(e);
  amx->output = emit_output(e);
  amx->rows = backward ? emit_rows(e) : NULL;
  amx->add = backward ? emit_add(e) : NULL;
}

/* A tile's rows, of one of the tables, as they are or transposed. */
static void take_rows(sptx_x86_emitter *e, LLVMValueRef function, int64_t table, LLVMValueRef padded,
                      int64_t target) {
  LLVMValueRef arguments[] = {sptx_x86_scratch(e, table), padded, sptx_x86_scratch(e, target)};
  sptx_x86_call(e, function, arguments, 3);
}

void sptx_x86_amx_operands(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count) {
  const sptx_x86_layout *l = &e->layout;
  LLVMValueRef padded = sptx_x86_pairs_padded(e, count);
  bool backward = e->shape->family == SPTX_X86_BACKWARD;
  take_rows(e, amx->keys, l->key_row, padded, l->amx_keys);
  if (backward)
    take_rows(e, amx->keys, l->value_row, padded, l->amx_value_rows);
  take_rows(e, amx->values, backward ? l->key_row : l->value_row, padded, l->amx_transposed);
}

static void call_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, int64_t rows, LLVMValueRef queries,
                        int64_t scores, LLVMValueRef begin, LLVMValueRef end) {
  LLVMValueRef count = sptx_ir_sub(&e->ir, end, begin);
  LLVMValueRef product[] = {scaled(e, sptx_x86_scratch(e, rows), begin, depth_of(e) * 2), queries,
                            scaled(e, sptx_x86_scratch(e, scores), begin, (int64_t)e->panel * 4),
                            sptx_x86_pairs_padded(e, count)};
  sptx_x86_call(e, amx->scores, product, 4);
}

void sptx_x86_amx_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef queries,
                         LLVMValueRef begin, LLVMValueRef end) {
  call_scores(e, amx, e->layout.amx_keys, queries, e->layout.scores, begin, end);
}

void sptx_x86_amx_output(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef output,
                         LLVMValueRef begin, LLVMValueRef end) {
  LLVMValueRef count = sptx_ir_sub(&e->ir, end, begin), weights = sptx_x86_scratch(e, e->layout.weight_pairs);
  LLVMValueRef product[] = {scaled(e, sptx_x86_scratch(e, e->layout.amx_transposed), begin, 2),
                            scaled(e, weights, begin, (int64_t)e->panel * 2), output,
                            sptx_x86_pairs_padded(e, count)};
  sptx_x86_call(e, amx->output, product, 4);
}

void sptx_x86_amx_backward_scores(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef count) {
  const sptx_x86_layout *l = &e->layout;
  sptx_x86_amx_operands(e, amx, count);
  call_scores(e, amx, l->amx_keys, sptx_x86_scratch(e, l->q_pairs), l->scores, constant(e, 0), count);
  call_scores(e, amx, l->amx_value_rows, sptx_x86_scratch(e, l->d_o_pairs), l->d_scores, constant(e, 0),
              count);
}

void sptx_x86_amx_gradient(sptx_x86_emitter *e, const sptx_x86_amx *amx, LLVMValueRef weights,
                           LLVMValueRef others, LLVMValueRef targets, LLVMValueRef count) {
  LLVMValueRef sums = sptx_x86_scratch(e, e->layout.amx_sums);
  sptx_x86_call(e, amx->rows, (LLVMValueRef[]){weights, others, sums, sptx_x86_pairs_padded(e, count)}, 4);
  sptx_x86_call(e, amx->add, (LLVMValueRef[]){targets, count, sums}, 3);
}
