/* Rows of tensors to tiles of scratch and back: transposition in blocks of 8 by 8, conversion to float32, and
 * copies of rows that lie badly for the cache. */
#include "gen/x86/emit.h"

enum { BLOCK = 8 };

/* Transposes 8 vectors of 8 floats by three rounds of exchanges at distance 4, 2 and 1. */
void sptx_x86_transpose(sptx_x86_emitter *e, LLVMValueRef block[8]) {
  for (int distance = BLOCK / 2; distance >= 1; distance /= 2)
    for (int k = 0; k < BLOCK; k++) {
      if (k & distance)
        continue;
      int low[BLOCK], high[BLOCK];
      for (int lane = 0; lane < BLOCK; lane++) {
        int from = lane & distance ? BLOCK + lane - distance : lane;
        low[lane] = from;
        high[lane] = from + distance;
      }
      LLVMValueRef a = block[k], b = block[k + distance];
      block[k] = sptx_ir_shuffle(&e->ir, a, b, low, BLOCK);
      block[k + distance] = sptx_ir_shuffle(&e->ir, a, b, high, BLOCK);
    }
}

static LLVMValueRef table_pointer(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef index, int k) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef slot = sptx_ir_at(ir, table, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 8)));
  return sptx_ir_load(ir, ir->pointer, sptx_ir_at_constant(ir, slot, 8 * k), 8);
}

static LLVMValueRef tile_address(sptx_x86_emitter *e, LLVMValueRef base, LLVMValueRef d, LLVMValueRef query,
                                 int k) {
  sptx_ir *ir = &e->ir;
  int64_t stride = (int64_t)e->query_tile * 4;
  LLVMValueRef offset = sptx_ir_add(ir, sptx_ir_mul(ir, d, sptx_ir_i64(ir, stride)),
                                    sptx_ir_mul(ir, query, sptx_ir_i64(ir, 4)));
  return sptx_ir_at_constant(ir, sptx_ir_at(ir, base, offset), k * stride);
}

/* Asks for the lines of `bytes` bytes at an address; an address outside all memory does no harm. */
static void prefetch(sptx_x86_emitter *e, LLVMValueRef address, int64_t bytes, bool write) {
  enum { LINE = 64, KEEP = 3, DATA = 1 };
  sptx_ir *ir = &e->ir;
  for (int64_t line = 0; line < bytes; line += LINE) {
    LLVMValueRef arguments[] = {sptx_ir_at_constant(ir, address, line), sptx_ir_i32(ir, write),
                                sptx_ir_i32(ir, KEEP), sptx_ir_i32(ir, DATA)};
    sptx_ir_intrinsic(ir, "llvm.prefetch", ir->pointer, arguments, 4);
  }
}

void sptx_x86_emit_pack(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->f32, ir->pointer, ir->i64};
  e->pack = sptx_x86_local_function(e, "pack", ir->void_type, types, 4);
  LLVMValueRef table = LLVMGetParam(ir->function, 0), target = LLVMGetParam(ir->function, 2);
  LLVMValueRef factor = sptx_ir_splat(ir, LLVMGetParam(ir->function, 1), BLOCK), zero = sptx_ir_i64(ir, 0);
  LLVMValueRef step = sptx_ir_i64(ir, BLOCK), block[BLOCK], rows[BLOCK];
  int64_t bytes = sptx_x86_element_bytes(e->shape->element);
  sptx_ir_loop queries, dims;
  sptx_ir_loop_begin(ir, &queries, zero, sptx_ir_i64(ir, e->query_tile), step, true, NULL, 0);
  for (int k = 0; k < BLOCK; k++)
    rows[k] = table_pointer(e, table, queries.index, k);
  for (int k = 0; k < BLOCK; k++)
    prefetch(e, sptx_ir_at(ir, rows[k], LLVMGetParam(ir->function, 3)), e->dim * bytes, false);
  sptx_ir_loop_begin(ir, &dims, zero, sptx_ir_i64(ir, e->dim), step, true, NULL, 0);
  LLVMValueRef offset = sptx_ir_mul(ir, dims.index, sptx_ir_i64(ir, bytes));
  for (int k = 0; k < BLOCK; k++) {
    LLVMValueRef row = sptx_x86_load_floats(e, e->shape->element, sptx_ir_at(ir, rows[k], offset), BLOCK);
    block[k] = sptx_ir_fmul(ir, row, factor);
  }
  sptx_x86_transpose(e, block);
  for (int k = 0; k < BLOCK; k++)
    sptx_ir_store(ir, block[k], tile_address(e, target, dims.index, queries.index, k), 32);
  sptx_ir_loop_end(ir, &dims);
  sptx_ir_loop_end(ir, &queries);
  LLVMBuildRetVoid(ir->builder);
}

/* One block of 8 queries by 8 dims on its way out. */
static void unpack_block(sptx_x86_emitter *e, enum sptx_element element, LLVMValueRef scratch,
                         LLVMValueRef query, LLVMValueRef d) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef floats = LLVMVectorType(ir->f32, BLOCK);
  LLVMValueRef lane = sptx_ir_mul(ir, query, sptx_ir_i64(ir, 4)), block[BLOCK];
  LLVMValueRef weights = sptx_ir_at(ir, sptx_ir_at_constant(ir, scratch, e->layout.weight), lane);
  LLVMValueRef weight = sptx_ir_load(ir, floats, weights, 32);
  LLVMValueRef earlier = sptx_ir_at(ir, sptx_ir_at_constant(ir, scratch, e->layout.earlier), lane);
  LLVMValueRef source = LLVMGetParam(ir->function, 1), outputs = LLVMGetParam(ir->function, 2);
  LLVMValueRef inputs = sptx_ir_at_constant(ir, scratch, e->layout.input_row);
  LLVMValueRef bytes = sptx_ir_mul(ir, d, sptx_ir_i64(ir, sptx_x86_element_bytes(element)));
  LLVMValueRef input_bytes = sptx_ir_mul(ir, d, sptx_ir_i64(ir, 4));
  for (int k = 0; k < BLOCK; k++) {
    LLVMValueRef column = sptx_ir_load(ir, floats, tile_address(e, source, d, query, k), 32);
    block[k] = sptx_ir_fmul(ir, column, weight);
  }
  sptx_x86_transpose(e, block);
  for (int k = 0; k < BLOCK; k++) {
    LLVMValueRef share = sptx_ir_load(ir, ir->f32, sptx_ir_at_constant(ir, earlier, 4 * k), 4);
    LLVMValueRef input = sptx_ir_at(ir, table_pointer(e, inputs, query, k), input_bytes);
    LLVMValueRef value =
        sptx_ir_fma(ir, sptx_ir_load(ir, floats, input, 4), sptx_ir_splat(ir, share, BLOCK), block[k]);
    sptx_x86_store_floats(e, element, value, sptx_ir_at(ir, table_pointer(e, outputs, query, k), bytes));
  }
}

LLVMValueRef sptx_x86_emit_unpack(sptx_x86_emitter *e, const char *name, enum sptx_element element) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function = sptx_x86_local_function(e, name, ir->void_type, types, 4);
  LLVMValueRef zero = sptx_ir_i64(ir, 0), step = sptx_ir_i64(ir, BLOCK);
  sptx_ir_loop queries, dims;
  sptx_ir_loop_begin(ir, &queries, zero, sptx_ir_i64(ir, e->query_tile), step, true, NULL, 0);
  for (int k = 0; k < BLOCK; k++) {
    LLVMValueRef row = table_pointer(e, LLVMGetParam(function, 2), queries.index, k);
    prefetch(e, sptx_ir_at(ir, row, LLVMGetParam(function, 3)), e->dim * sptx_x86_element_bytes(element),
             true);
  }
  sptx_ir_loop_begin(ir, &dims, zero, sptx_ir_i64(ir, e->dim), step, true, NULL, 0);
  unpack_block(e, element, LLVMGetParam(function, 0), queries.index, dims.index);
  sptx_ir_loop_end(ir, &dims);
  sptx_ir_loop_end(ir, &queries);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

void sptx_x86_emit_copy_rows(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  e->copy_rows = sptx_x86_local_function(e, "copy_rows", ir->void_type, types, 3);
  LLVMValueRef table = LLVMGetParam(ir->function, 0), zero = sptx_ir_i64(ir, 0);
  int64_t bytes = sptx_x86_element_bytes(e->shape->element);
  sptx_ir_loop rows;
  LLVMValueRef target = LLVMGetParam(ir->function, 2);
  sptx_ir_loop_begin(ir, &rows, zero, LLVMGetParam(ir->function, 1), sptx_ir_i64(ir, 1), false, &target, 1);
  LLVMValueRef source = table_pointer(e, table, rows.index, 0);
  /* A row is one straight run of code, so that many rows are under way at a time. */
  for (int d = 0; d < e->dim;) {
    unsigned lanes = e->dim - d >= (int)e->lanes ? e->lanes : BLOCK;
    LLVMValueRef value =
        sptx_x86_load_floats(e, e->shape->element, sptx_ir_at_constant(ir, source, bytes * d), lanes);
    sptx_ir_store(ir, value, sptx_ir_at_constant(ir, rows.carried[0], 4 * d), 4);
    d += (int)lanes;
  }
  LLVMValueRef slot = sptx_ir_at(ir, table, sptx_ir_mul(ir, rows.index, sptx_ir_i64(ir, 8)));
  sptx_ir_store(ir, rows.carried[0], slot, 8);
  rows.carried[0] = sptx_ir_at_constant(ir, rows.carried[0], (int64_t)e->dim * 4);
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
}

void sptx_x86_prefetch_rows(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef count, LLVMValueRef ahead) {
  sptx_ir *ir = &e->ir;
  int64_t bytes = sptx_x86_element_bytes(e->shape->element) * e->dim;
  sptx_ir_loop rows;
  sptx_ir_loop_begin(ir, &rows, sptx_ir_i64(ir, 0), count, sptx_ir_i64(ir, 1), false, NULL, 0);
  prefetch(e, sptx_ir_at(ir, table_pointer(e, table, rows.index, 0), ahead), bytes, false);
  sptx_ir_loop_end(ir, &rows);
}
