/* Before and after the backward's pieces, row by row: D = rowsum(dO * O) and cleared accumulators; then the
 * sums of the partial dQ, in the order of their ranges of keys, and the rounding to the element type. */
#include "gen/x86/forward.h"

enum { STEP = 8 };

/* One head's rows of a tile: bytes of head and row in the accumulators and tensors. */
typedef struct sptx_rows {
  sptx_x86_emitter *e;
  LLVMValueRef batch, head, kv_head, begin, query_end, key_end;
  LLVMValueRef owns_keys; /* i1: the first head of its group looks after dK and dV */
} sptx_rows;

static LLVMValueRef argument(sptx_x86_emitter *e, size_t field) {
  return sptx_x86_arg(e, (int64_t)field, e->ir.pointer);
}

static void open_rows(sptx_rows *r) {
  sptx_x86_emitter *e = r->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef rest = e->item;
  LLVMValueRef tile = sptx_x86_take_digit(e, &rest, sptx_x86_param(e, SPTX_X86_FIELD(tiles)));
  r->head = sptx_x86_take_digit(e, &rest, sptx_x86_param(e, SPTX_X86_FIELD(heads)));
  r->batch = rest;
  LLVMValueRef head = r->head, group = sptx_x86_param(e, SPTX_X86_FIELD(group));
  LLVMValueRef within = sptx_x86_take_digit(e, &head, group);
  r->kv_head = head;
  r->owns_keys = sptx_ir_compare(ir, LLVMIntEQ, within, sptx_ir_i64(ir, 0));
  r->begin = sptx_ir_mul(ir, tile, sptx_ir_i64(ir, e->query_tile));
  LLVMValueRef end = sptx_ir_add(ir, r->begin, sptx_ir_i64(ir, e->query_tile));
  r->query_end = sptx_ir_min(ir, end, sptx_x86_param(e, SPTX_X86_FIELD(n_q)));
  r->key_end = sptx_ir_min(ir, end, sptx_x86_param(e, SPTX_X86_FIELD(n_k)));
}

static LLVMValueRef row_address(sptx_x86_emitter *e, LLVMValueRef base, LLVMValueRef row,
                                int64_t stride_field) {
  return sptx_ir_at(&e->ir, base, sptx_ir_mul(&e->ir, row, sptx_x86_param(e, stride_field)));
}

static LLVMValueRef step_address(sptx_x86_emitter *e, LLVMValueRef row, LLVMValueRef d, int64_t bytes) {
  return sptx_ir_at(&e->ir, row, sptx_ir_mul(&e->ir, d, sptx_ir_i64(&e->ir, bytes)));
}

static void begin_dims(sptx_x86_emitter *e, sptx_ir_loop *loop, LLVMValueRef *carried, unsigned count) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop_begin(ir, loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->dim), sptx_ir_i64(ir, STEP), true,
                     carried, count);
}

static void begin_loop(sptx_x86_emitter *e, sptx_ir_loop *loop, LLVMValueRef begin, LLVMValueRef end) {
  sptx_ir_loop_begin(&e->ir, loop, begin, end, sptx_ir_i64(&e->ir, 1), false, NULL, 0);
}

static void clear_row(sptx_x86_emitter *e, LLVMValueRef row) {
  sptx_ir_loop dims;
  begin_dims(e, &dims, NULL, 0);
  sptx_ir_store(&e->ir, LLVMConstNull(LLVMVectorType(e->ir.f32, STEP)), step_address(e, row, dims.index, 4),
                4);
  sptx_ir_loop_end(&e->ir, &dims);
}

/* D of one row, to the workspace. */
static void emit_delta(const sptx_rows *r, LLVMValueRef row) {
  sptx_x86_emitter *e = r->e;
  sptx_ir *ir = &e->ir;
  int64_t bytes = sptx_x86_element_bytes(e->shape->element);
  LLVMValueRef rows[2];
  static const size_t tensors[] = {offsetof(sptx_x86_args, o), offsetof(sptx_x86_args, d_o)};
  for (int k = 0; k < 2; k++) {
    LLVMValueRef base = sptx_x86_head_base(e, argument(e, tensors[k]), SPTX_X86_FIELD(o), r->batch, r->head);
    rows[k] = row_address(e, base, row, SPTX_X86_FIELD(o) + 16);
  }
  sptx_ir_loop dims;
  LLVMValueRef sum = LLVMConstNull(LLVMVectorType(ir->f32, STEP));
  begin_dims(e, &dims, &sum, 1);
  LLVMValueRef o =
      sptx_x86_load_floats(e, e->shape->element, step_address(e, rows[0], dims.index, bytes), STEP);
  LLVMValueRef d_o =
      sptx_x86_load_floats(e, e->shape->element, step_address(e, rows[1], dims.index, bytes), STEP);
  dims.carried[0] = sptx_ir_fma(ir, o, d_o, dims.carried[0]);
  sptx_ir_loop_end(ir, &dims);
  LLVMValueRef total = LLVMBuildExtractElement(ir->builder, dims.carried[0], sptx_ir_i32(ir, 0), "");
  for (int k = 1; k < STEP; k++)
    total = sptx_ir_fadd(ir, total,
                         LLVMBuildExtractElement(ir->builder, dims.carried[0], sptx_ir_i32(ir, k), ""));
  LLVMValueRef entry =
      sptx_ir_add(ir, sptx_ir_mul(ir, r->batch, sptx_x86_param(e, SPTX_X86_FIELD(heads))), r->head);
  entry = sptx_ir_add(ir, sptx_ir_mul(ir, entry, sptx_x86_param(e, SPTX_X86_FIELD(n_q))), row);
  LLVMValueRef delta = sptx_ir_at(ir, argument(e, offsetof(sptx_x86_args, workspace)),
                                  sptx_x86_param(e, SPTX_X86_FIELD(delta)));
  sptx_ir_store(ir, total, sptx_ir_at(ir, delta, sptx_ir_mul(ir, entry, sptx_ir_i64(ir, 4))), 4);
}

void sptx_x86_emit_prepare(sptx_x86_emitter *e, const char *symbol) {
  sptx_ir *ir = &e->ir;
  sptx_x86_emitter_kernel(e, symbol);
  sptx_rows r = {.e = e};
  open_rows(&r);
  LLVMValueRef zero = sptx_ir_i64(ir, 0);
  LLVMValueRef d_q =
      sptx_x86_accumulator(e, SPTX_X86_FIELD(d_q), offsetof(sptx_x86_args, d_q), r.batch, r.head);
  LLVMValueRef d_k =
      sptx_x86_accumulator(e, SPTX_X86_FIELD(d_k), offsetof(sptx_x86_args, d_k), r.batch, r.kv_head);
  LLVMValueRef d_v =
      sptx_x86_accumulator(e, SPTX_X86_FIELD(d_v), offsetof(sptx_x86_args, d_v), r.batch, r.kv_head);
  sptx_ir_loop rows, chunks;
  begin_loop(e, &rows, r.begin, r.query_end);
  emit_delta(&r, rows.index);
  begin_loop(e, &chunks, zero, sptx_x86_param(e, SPTX_X86_FIELD(partials)));
  LLVMValueRef partial =
      sptx_ir_at(ir, d_q, sptx_ir_mul(ir, chunks.index, sptx_x86_param(e, SPTX_X86_FIELD(d_q_partial))));
  clear_row(e, row_address(e, partial, rows.index, SPTX_X86_FIELD(d_q) + 24));
  sptx_ir_loop_end(ir, &chunks);
  sptx_ir_loop_end(ir, &rows);
  begin_loop(e, &rows, r.begin, sptx_ir_select(ir, r.owns_keys, r.key_end, r.begin));
  clear_row(e, row_address(e, d_k, rows.index, SPTX_X86_FIELD(d_k) + 24));
  clear_row(e, row_address(e, d_v, rows.index, SPTX_X86_FIELD(d_v) + 24));
  sptx_ir_loop_end(ir, &rows);
  LLVMBuildRetVoid(ir->builder);
}

/* output[row] = sum over chunks of accumulator[row], when the accumulator lies in the workspace. */
static void emit_rounding(const sptx_rows *r, int64_t field, size_t output, int64_t strides,
                          LLVMValueRef head, LLVMValueRef end, LLVMValueRef chunks) {
  sptx_x86_emitter *e = r->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef outside = sptx_ir_compare(ir, LLVMIntSGE, sptx_x86_param(e, field), sptx_ir_i64(ir, 0));
  LLVMValueRef source = sptx_x86_accumulator(e, field, output, r->batch, head);
  LLVMValueRef target = sptx_x86_head_base(e, argument(e, output), strides, r->batch, head);
  int64_t bytes = sptx_x86_element_bytes(e->shape->element);
  LLVMTypeRef floats = LLVMVectorType(ir->f32, STEP);
  LLVMValueRef zeros = LLVMConstNull(floats);
  sptx_ir_loop rows, dims, parts;
  begin_loop(e, &rows, r->begin, sptx_ir_select(ir, outside, end, r->begin));
  LLVMValueRef from = row_address(e, source, rows.index, field + 24),
               to = row_address(e, target, rows.index, strides + 16);
  begin_dims(e, &dims, NULL, 0);
  sptx_ir_loop_begin(ir, &parts, sptx_ir_i64(ir, 0), chunks, sptx_ir_i64(ir, 1), true, &zeros, 1);
  LLVMValueRef part =
      sptx_ir_at(ir, from, sptx_ir_mul(ir, parts.index, sptx_x86_param(e, SPTX_X86_FIELD(d_q_partial))));
  part = sptx_ir_load(ir, floats, step_address(e, part, dims.index, 4), 4);
  parts.carried[0] = sptx_ir_fadd(ir, parts.carried[0], part);
  sptx_ir_loop_end(ir, &parts);
  sptx_x86_store_floats(e, e->shape->element, parts.carried[0], step_address(e, to, dims.index, bytes));
  sptx_ir_loop_end(ir, &dims);
  sptx_ir_loop_end(ir, &rows);
}

void sptx_x86_emit_finish(sptx_x86_emitter *e, const char *symbol) {
  sptx_ir *ir = &e->ir;
  sptx_x86_emitter_kernel(e, symbol);
  sptx_rows r = {.e = e};
  open_rows(&r);
  LLVMValueRef one = sptx_ir_i64(ir, 1), key_end = sptx_ir_select(ir, r.owns_keys, r.key_end, r.begin);
  emit_rounding(&r, SPTX_X86_FIELD(d_q), offsetof(sptx_x86_args, d_q), SPTX_X86_FIELD(q), r.head, r.query_end,
                sptx_x86_param(e, SPTX_X86_FIELD(partials)));
  emit_rounding(&r, SPTX_X86_FIELD(d_k), offsetof(sptx_x86_args, d_k), SPTX_X86_FIELD(k), r.kv_head, key_end,
                one);
  emit_rounding(&r, SPTX_X86_FIELD(d_v), offsetof(sptx_x86_args, d_v), SPTX_X86_FIELD(v), r.kv_head, key_end,
                one);
  LLVMBuildRetVoid(ir->builder);
}
