/* Rows of tensors to tiles of scratch and back: transposition in blocks of 8 by 8 or 8 by 16, conversion to
 * float32, and copies of rows that lie badly for the cache. */
#include "gen/x86/emit.h"

#include <string.h>

enum { BLOCK = 8, WIDEST = 16 };

/* Transposes 8 vectors of `width` floats, each group of 8 by itself: pairs of rows are interleaved by floats,
 * by pairs of floats, and by halves of a group, each step one instruction for each vector. */
static void transpose(sptx_x86_emitter *e, LLVMValueRef block[BLOCK], int width) {
  static const int lanes[3][2][BLOCK] = {{{0, 8, 1, 9, 4, 12, 5, 13}, {2, 10, 3, 11, 6, 14, 7, 15}},
                                         {{0, 1, 8, 9, 4, 5, 12, 13}, {2, 3, 10, 11, 6, 7, 14, 15}},
                                         {{0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}}};
  static const int place[3][2] = {
      {1, 1}, {2, 1}, {4, 4}}; /* from a row to its partner, to their second result */
  for (int step = 0; step < 3; step++) {
    LLVMValueRef from[BLOCK];
    int partner = place[step][0];
    memcpy(from, block, sizeof from);
    for (int k = 0, done = 0; k < BLOCK; k++) {
      if (k & partner)
        continue;
      int target = place[step][1] == 1 ? 2 * done : k;
      for (int half = 0; half < 2; half++) {
        int index[WIDEST];
        for (int l = 0; l < width; l++) {
          int lane = lanes[step][half][l % BLOCK];
          index[l] = lane % BLOCK + l / BLOCK * BLOCK + lane / BLOCK * width;
        }
        block[target + half * place[step][1]] =
            sptx_ir_shuffle(&e->ir, from[k], from[k + partner], index, (unsigned)width);
      }
      done++;
    }
  }
}

/* Floats first .. first + 7 of a vector of 16, or both halves as one. */
static LLVMValueRef half_of(sptx_x86_emitter *e, LLVMValueRef value, int first) {
  int index[BLOCK];
  for (int k = 0; k < BLOCK; k++)
    index[k] = first + k;
  return sptx_ir_shuffle(&e->ir, value, value, index, BLOCK);
}

static LLVMValueRef joined(sptx_x86_emitter *e, LLVMValueRef low, LLVMValueRef high) {
  int index[WIDEST];
  for (int k = 0; k < WIDEST; k++)
    index[k] = k;
  return sptx_ir_shuffle(&e->ir, low, high, index, WIDEST);
}

static LLVMValueRef table_pointer(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef index, int k) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef slot = sptx_ir_at(ir, table, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 8)));
  return sptx_ir_load(ir, ir->pointer, sptx_ir_at_constant(ir, slot, 8 * k), 8);
}

/* The addresses of base[d + k][query], k < 8, in a tile of `queries` lanes. */
static void tile_addresses(sptx_x86_emitter *e, LLVMValueRef base, LLVMValueRef d, LLVMValueRef query,
                           LLVMValueRef queries, LLVMValueRef address[BLOCK]) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef stride = sptx_ir_mul(ir, queries, sptx_ir_i64(ir, 4));
  LLVMValueRef offset =
      sptx_ir_add(ir, sptx_ir_mul(ir, d, stride), sptx_ir_mul(ir, query, sptx_ir_i64(ir, 4)));
  for (int half = 0; half < BLOCK; half += BLOCK / 2) { /* one register and its multiples reach four rows */
    address[half] = half ? sptx_ir_at(ir, address[0], sptx_ir_mul(ir, stride, sptx_ir_i64(ir, half)))
                         : sptx_ir_at(ir, base, offset);
    for (int k = 1; k < BLOCK / 2; k++)
      address[half + k] = sptx_ir_at(ir, address[half], sptx_ir_mul(ir, stride, sptx_ir_i64(ir, k)));
  }
}

/* 8 rows by `width` dims from d on, to target[dim][query]. */
static void pack_block(sptx_x86_emitter *e, const LLVMValueRef rows[BLOCK], LLVMValueRef factor,
                       LLVMValueRef target, LLVMValueRef d, LLVMValueRef query, LLVMValueRef queries,
                       int width) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef block[BLOCK], cells[BLOCK];
  LLVMValueRef offset = sptx_ir_mul(ir, d, sptx_ir_i64(ir, sptx_x86_element_bytes(e->shape->element)));
  LLVMValueRef factors = sptx_ir_splat(ir, factor, (unsigned)width);
  for (int k = 0; k < BLOCK; k++) {
    LLVMValueRef row =
        sptx_x86_load_floats(e, e->shape->element, sptx_ir_at(ir, rows[k], offset), (unsigned)width);
    block[k] = sptx_ir_fmul(ir, row, factors);
  }
  transpose(e, block, width);
  for (int part = 0; part < width; part += BLOCK) {
    tile_addresses(e, target, sptx_ir_add(ir, d, sptx_ir_i64(ir, part)), query, queries, cells);
    for (int k = 0; k < BLOCK; k++)
      sptx_ir_store(ir, width == BLOCK ? block[k] : half_of(e, block[k], part), cells[k], 32);
  }
}

void sptx_x86_emit_pack(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->f32, ir->pointer, ir->i64};
  if (!sptx_x86_common_function(e, "pack", ir->void_type, types, 4, &e->pack))
    return;
  LLVMValueRef p[4], zero = sptx_ir_i64(ir, 0), rows[BLOCK];
  int width = (int)e->lanes, whole = e->dim / width * width;
  sptx_ir_loop queries, dims;
  LLVMGetParams(ir->function, p);
  sptx_ir_loop_begin(ir, &queries, zero, p[3], sptx_ir_i64(ir, BLOCK), true, NULL, 0);
  for (int k = 0; k < BLOCK; k++)
    rows[k] = table_pointer(e, p[0], queries.index, k);
  sptx_ir_loop_begin(ir, &dims, zero, sptx_ir_i64(ir, whole), sptx_ir_i64(ir, width), true, NULL, 0);
  pack_block(e, rows, p[1], p[2], dims.index, queries.index, p[3], width);
  sptx_ir_loop_end(ir, &dims);
  if (whole < e->dim)
    pack_block(e, rows, p[1], p[2], sptx_ir_i64(ir, whole), queries.index, p[3], BLOCK);
  sptx_ir_loop_end(ir, &queries);
  LLVMBuildRetVoid(ir->builder);
}

/* base + index * bytes */
static LLVMValueRef at_index(sptx_x86_emitter *e, LLVMValueRef base, LLVMValueRef index, int64_t bytes) {
  return sptx_ir_at(&e->ir, base, sptx_ir_mul(&e->ir, index, sptx_ir_i64(&e->ir, bytes)));
}

void sptx_x86_pack(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef factor, int64_t target, int panel) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef width = sptx_ir_i64(ir, panel);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), width, true, NULL, 0);
  LLVMValueRef packed = at_index(e, sptx_x86_scratch(e, target), loop.index, (int64_t)e->dim * 4);
  LLVMValueRef arguments[] = {at_index(e, table, loop.index, 8), factor, packed, width};
  sptx_x86_call(e, e->pack, arguments, 4);
  sptx_ir_loop_end(ir, &loop);
}

/* void unpack(weight, earlier, input rows, source, output rows, count of queries) */
enum { U_WEIGHT, U_EARLIER, U_INPUTS, U_SOURCE, U_OUTPUTS, U_QUERIES, U_COUNT };

/* One block of 8 queries by `width` dims on its way out. */
static void unpack_block(sptx_x86_emitter *e, enum sptx_element element, LLVMValueRef *p, LLVMValueRef query,
                         LLVMValueRef d, int width) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef floats = LLVMVectorType(ir->f32, BLOCK), wide = LLVMVectorType(ir->f32, (unsigned)width);
  LLVMValueRef lane = sptx_ir_mul(ir, query, sptx_ir_i64(ir, 4)), block[BLOCK], cells[WIDEST];
  LLVMValueRef weight = sptx_ir_load(ir, floats, sptx_ir_at(ir, p[U_WEIGHT], lane), 32);
  LLVMValueRef earlier = sptx_ir_at(ir, p[U_EARLIER], lane);
  LLVMValueRef bytes = sptx_ir_mul(ir, d, sptx_ir_i64(ir, sptx_x86_element_bytes(element)));
  LLVMValueRef input_bytes = sptx_ir_mul(ir, d, sptx_ir_i64(ir, 4));
  for (int part = 0; part < width; part += BLOCK)
    tile_addresses(e, p[U_SOURCE], sptx_ir_add(ir, d, sptx_ir_i64(ir, part)), query, p[U_QUERIES],
                   cells + part);
  for (int k = 0; k < BLOCK; k++) {
    block[k] = sptx_ir_fmul(ir, sptx_ir_load(ir, floats, cells[k], 32), weight);
    if (width > BLOCK)
      block[k] =
          joined(e, block[k], sptx_ir_fmul(ir, sptx_ir_load(ir, floats, cells[BLOCK + k], 32), weight));
  }
  transpose(e, block, width);
  for (int k = 0; k < BLOCK; k++) {
    LLVMValueRef share = sptx_ir_load(ir, ir->f32, sptx_ir_at_constant(ir, earlier, 4 * k), 4);
    LLVMValueRef input = sptx_ir_at(ir, table_pointer(e, p[U_INPUTS], query, k), input_bytes);
    LLVMValueRef value = sptx_ir_fma(ir, sptx_ir_load(ir, wide, input, 4),
                                     sptx_ir_splat(ir, share, (unsigned)width), block[k]);
    sptx_x86_store_floats(e, element, value, sptx_ir_at(ir, table_pointer(e, p[U_OUTPUTS], query, k), bytes));
  }
}

LLVMValueRef sptx_x86_emit_unpack(sptx_x86_emitter *e, enum sptx_element element) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[U_COUNT] = {ir->pointer, ir->pointer, ir->pointer, ir->pointer, ir->pointer, ir->i64};
  LLVMValueRef function, p[U_COUNT];
  const char *name = element == SPTX_ELEMENT_F32 ? "unpack_float" : "unpack";
  if (!sptx_x86_common_function(e, name, ir->void_type, types, U_COUNT, &function))
    return function;
  LLVMGetParams(function, p);
  LLVMValueRef zero = sptx_ir_i64(ir, 0);
  int width = (int)e->lanes, whole = e->dim / width * width;
  sptx_ir_loop queries, dims;
  sptx_ir_loop_begin(ir, &queries, zero, p[U_QUERIES], sptx_ir_i64(ir, BLOCK), true, NULL, 0);
  sptx_ir_loop_begin(ir, &dims, zero, sptx_ir_i64(ir, whole), sptx_ir_i64(ir, width), true, NULL, 0);
  unpack_block(e, element, p, queries.index, dims.index, width);
  sptx_ir_loop_end(ir, &dims);
  if (whole < e->dim)
    unpack_block(e, element, p, queries.index, sptx_ir_i64(ir, whole), BLOCK);
  sptx_ir_loop_end(ir, &queries);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

void sptx_x86_unpack(sptx_x86_emitter *e, LLVMValueRef unpack, int panel) {
  const sptx_x86_layout *l = &e->layout;
  sptx_ir *ir = &e->ir;
  LLVMValueRef width = sptx_ir_i64(ir, panel);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), width, true, NULL, 0);
  const struct {
    int64_t array, bytes;
  } parts[] = {{l->weight, 4},
               {l->earlier, 4},
               {l->input_row, 8},
               {l->output, (int64_t)e->dim * 4},
               {l->output_row, 8}};
  LLVMValueRef arguments[U_COUNT] = {[U_QUERIES] = width};
  for (int k = U_WEIGHT; k < U_QUERIES; k++)
    arguments[k] = at_index(e, sptx_x86_scratch(e, parts[k].array), loop.index, parts[k].bytes);
  sptx_x86_call(e, unpack, arguments, U_COUNT);
  sptx_ir_loop_end(ir, &loop);
}

void sptx_x86_emit_copy_rows(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->i64, ir->pointer};
  if (!sptx_x86_common_function(e, "copy_rows", ir->void_type, types, 3, &e->copy_rows))
    return;
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
