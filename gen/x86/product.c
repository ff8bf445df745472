/* The inner kernel of all products: a register block of rows by vectors, accumulated over k with one vector
 * load for each vector and one broadcast for each row, so that a block of 6 by 4 does 24 multiply-adds on 10
 * loads. An element of A and B has 4 bytes: one float32 or a pair of bfloat16. */
#include "gen/x86/emit.h"

static LLVMValueRef slot(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef index, int k) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef address = sptx_ir_at(ir, table, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 8)));
  return sptx_ir_load(ir, ir->pointer, sptx_ir_at_constant(ir, address, 8 * k), 8);
}

typedef struct sptx_product_block {
  const sptx_x86_product *product;
  LLVMValueRef a, b, c, row, k_count; /* b and c at the block's first lane */
  LLVMValueRef lane_offset;           /* bytes from a row's start to that lane */
  LLVMValueRef factor;                /* NULL: none */
} sptx_product_block;

/* The addresses of A(row + i, k) for i = 0.. */
static void a_addresses(sptx_x86_emitter *e, const sptx_product_block *block, LLVMValueRef *row_pointer,
                        LLVMValueRef k, LLVMValueRef *address) {
  const sptx_x86_product *product = block->product;
  sptx_ir *ir = &e->ir;
  LLVMValueRef column = sptx_ir_mul(ir, k, sptx_ir_i64(ir, 4));
  if (product->a_by_k) {
    LLVMValueRef stride = sptx_ir_i64(ir, product->a_stride);
    LLVMValueRef start =
        product->a_stride ? sptx_ir_at(ir, block->a, sptx_ir_mul(ir, k, stride)) : slot(e, block->a, k, 0);
    column = sptx_ir_at(ir, start, sptx_ir_mul(ir, block->row, sptx_ir_i64(ir, 4)));
  }
  for (int i = 0; i < product->rows; i++)
    address[i] =
        product->a_by_k ? sptx_ir_at_constant(ir, column, 4 * i) : sptx_ir_at(ir, row_pointer[i], column);
}

static LLVMValueRef b_address(sptx_x86_emitter *e, const sptx_product_block *block, LLVMValueRef k) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef row;
  if (block->product->b_stride)
    row = sptx_ir_at(ir, block->b, sptx_ir_mul(ir, k, sptx_ir_i64(ir, block->product->b_stride)));
  else
    row = slot(e, block->b, k, 0);
  return sptx_ir_at(ir, row, block->lane_offset);
}

static LLVMValueRef c_address(sptx_x86_emitter *e, const sptx_product_block *block, int i) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef row;
  if (block->product->c_stride) {
    int64_t stride = block->product->c_stride;
    row = sptx_ir_at(ir, block->c, sptx_ir_mul(ir, block->row, sptx_ir_i64(ir, stride)));
    row = sptx_ir_at_constant(ir, row, i * stride);
  } else {
    row = slot(e, block->c, block->row, i);
  }
  return sptx_ir_at(ir, row, block->lane_offset);
}

/* c + a b, or with both halves of each pair: the sums are rounded to float32 one after the other. */
static LLVMValueRef multiply_add(sptx_x86_emitter *e, const sptx_x86_product *product, LLVMValueRef a,
                                 LLVMValueRef b, LLVMValueRef c) {
  sptx_ir *ir = &e->ir;
  if (!product->pairs)
    return sptx_ir_fma(ir, a, b, c);
  LLVMTypeRef halves = LLVMVectorType(ir->bf16, 2 * product->lanes);
  LLVMValueRef arguments[] = {c, LLVMBuildBitCast(ir->builder, b, halves, ""),
                              LLVMBuildBitCast(ir->builder, a, halves, "")};
  const char *name =
      product->lanes == 16 ? "llvm.x86.avx512bf16.dpbf16ps.512" : "llvm.x86.avx512bf16.dpbf16ps.256";
  return sptx_ir_intrinsic(ir, name, NULL, arguments, 3);
}

/* Row after row, because rows of the padding may be one and the same. factor may be NULL. */
static void store_block(sptx_x86_emitter *e, const sptx_product_block *block, LLVMValueRef *sums,
                        bool accumulate, LLVMValueRef *factor) {
  const sptx_x86_product *product = block->product;
  sptx_ir *ir = &e->ir;
  for (int i = 0; i < product->rows; i++) {
    LLVMValueRef target = c_address(e, block, i);
    for (int v = 0; v < product->vectors; v++) {
      LLVMValueRef cell = sptx_ir_at_constant(ir, target, 4 * v * (int)product->lanes);
      LLVMValueRef sum = sums[i * product->vectors + v];
      if (accumulate) {
        LLVMValueRef old = sptx_ir_load(ir, LLVMTypeOf(sum), cell, 4);
        sum = factor ? sptx_ir_fma(ir, old, factor[v], sum) : sptx_ir_fadd(ir, old, sum);
      }
      sptx_ir_store(ir, sum, cell, 4);
    }
  }
}

static void emit_block(sptx_x86_emitter *e, const sptx_product_block *block) {
  const sptx_x86_product *product = block->product;
  sptx_ir *ir = &e->ir;
  LLVMTypeRef vector = LLVMVectorType(ir->f32, product->lanes), element = product->pairs ? ir->i32 : ir->f32;
  LLVMValueRef sums[SPTX_IR_CARRIED], row_pointer[SPTX_IR_CARRIED], address[SPTX_IR_CARRIED], b[8];
  int rows = product->rows, vectors = product->vectors;
  for (int i = 0; i < rows * vectors; i++)
    sums[i] = LLVMConstNull(vector);
  for (int i = 0; i < rows && !product->a_by_k; i++) {
    LLVMValueRef stride = sptx_ir_i64(ir, product->a_stride);
    LLVMValueRef row = sptx_ir_add(ir, block->row, sptx_ir_i64(ir, i));
    row_pointer[i] = product->a_stride ? sptx_ir_at(ir, block->a, sptx_ir_mul(ir, row, stride))
                                       : slot(e, block->a, block->row, i);
  }
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), block->k_count, sptx_ir_i64(ir, 1), true, sums,
                     (unsigned)(rows * vectors));
  a_addresses(e, block, row_pointer, loop.index, address);
  LLVMValueRef b_row = b_address(e, block, loop.index);
  unsigned whole = product->lanes * 4;
  unsigned align = product->b_stride && product->b_stride % (int)whole == 0 ? whole : 4;
  for (int v = 0; v < vectors; v++)
    b[v] = sptx_ir_load(ir, LLVMVectorType(element, product->lanes),
                        sptx_ir_at_constant(ir, b_row, 4 * v * (int)product->lanes), align);
  for (int i = 0; i < rows; i++) {
    LLVMValueRef a =
        sptx_ir_splat(ir, sptx_ir_load(ir, element, address[i], product->pairs ? 2 : 4), product->lanes);
    for (int v = 0; v < vectors; v++)
      loop.carried[i * vectors + v] = multiply_add(e, product, a, b[v], loop.carried[i * vectors + v]);
  }
  sptx_ir_loop_end(ir, &loop);
  if (!product->rescale) {
    store_block(e, block, loop.carried, product->accumulate, NULL);
    return;
  }
  sptx_ir_branch branch;
  LLVMValueRef none = sptx_ir_compare(ir, LLVMIntEQ, block->factor, LLVMConstNull(ir->pointer)), factor[8];
  sptx_ir_if(ir, &branch, none);
  store_block(e, block, loop.carried, false, NULL);
  sptx_ir_else(ir, &branch);
  for (int v = 0; v < vectors; v++)
    factor[v] =
        sptx_ir_load(ir, vector, sptx_ir_at_constant(ir, block->factor, 4 * v * (int)product->lanes), 4);
  store_block(e, block, loop.carried, true, factor);
  sptx_ir_end_if(ir, &branch);
}

LLVMValueRef sptx_x86_emit_product(sptx_x86_emitter *e, const sptx_x86_product *product) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->pointer, ir->i64,    ir->i64,
                         ir->i64,     ir->i64,     ir->pointer, ir->pointer};
  unsigned count = 7 + product->rescale + product->fetches;
  LLVMValueRef function = sptx_x86_local_function(e, product->name, ir->void_type, types, count), p[9] = {0};
  LLVMGetParams(function, p);
  sptx_ir_loop rows, groups;
  int64_t group_bytes = (int64_t)product->vectors * product->lanes * 4;
  sptx_ir_loop_begin(ir, &rows, p[3], p[4], sptx_ir_i64(ir, product->rows), false, NULL, 0);
  LLVMValueRef end = sptx_ir_add(ir, p[6], sptx_ir_i64(ir, product->groups * group_bytes));
  sptx_ir_loop_begin(ir, &groups, p[6], end, sptx_ir_i64(ir, group_bytes), true, NULL, 0);
  if (product->fetches)
    sptx_x86_fetch(e, p[count - 1]);
  sptx_product_block block = {product, p[0], p[1], p[2], rows.index, p[5], groups.index, p[7]};
  emit_block(e, &block);
  sptx_ir_loop_end(ir, &groups);
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
  return function;
}
