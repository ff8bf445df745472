/* Rows of the tile after the present one, asked for while this one is computed: a queue of row addresses in
 * scratch, of which each register block of a product takes a few. All at once they would wait for each
 * other, since a core has some twenty lines under way at a time. */
#include "gen/x86/emit.h"

typedef struct sptx_fetch {
  int64_t next, end, limit; /* addresses of entries: the next one, behind the last one, behind all */
  int64_t entries[];
} sptx_fetch;

enum { LINE = 64, ROWS = 2, STEP = 4 }; /* ROWS: taken at a time; STEP: entries written at a time */

int64_t sptx_x86_fetch_bytes(int64_t rows) {
  return (int64_t)sizeof(sptx_fetch) + (rows + ROWS + STEP) * 8;
}

static LLVMValueRef field(sptx_x86_emitter *e, LLVMValueRef queue, size_t offset) {
  return sptx_ir_at_constant(&e->ir, queue, (int64_t)offset);
}

static LLVMValueRef load_pointer(sptx_x86_emitter *e, LLVMValueRef address) {
  return sptx_ir_load(&e->ir, e->ir.pointer, address, 8);
}

static LLVMValueRef below(sptx_x86_emitter *e, LLVMValueRef a, LLVMValueRef b) {
  return sptx_ir_compare(&e->ir, LLVMIntULT, a, b);
}

/* void fetch(queue): of a queue that is not empty. */
static void emit_take(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer};
  if (!sptx_x86_common_function(e, "fetch", ir->void_type, types, 1, &e->fetch))
    return;
  LLVMValueRef queue = LLVMGetParam(ir->function, 0);
  LLVMValueRef next = load_pointer(e, field(e, queue, offsetof(sptx_fetch, next)));
  for (int k = 0; k < ROWS; k++) {
    LLVMValueRef row = load_pointer(e, sptx_ir_at_constant(ir, next, 8 * k));
    for (int64_t line = 0; line < e->dim * sptx_x86_element_bytes(e->shape->element); line += LINE) {
      LLVMValueRef arguments[] = {sptx_ir_at_constant(ir, row, line), sptx_ir_i32(ir, 0), sptx_ir_i32(ir, 3),
                                  sptx_ir_i32(ir, 1)};
      sptx_ir_intrinsic(ir, "llvm.prefetch", ir->pointer, arguments, 4);
    }
  }
  sptx_ir_store(ir, sptx_ir_at_constant(ir, next, 8 * ROWS), field(e, queue, offsetof(sptx_fetch, next)), 8);
  LLVMBuildRetVoid(ir->builder);
}

/* void ask(queue, rows, count, ahead) */
static void emit_ask(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->i64, ir->i64}, wide = LLVMVectorType(ir->i64, STEP);
  if (!sptx_x86_common_function(e, "ask", ir->void_type, types, 4, &e->ask))
    return;
  LLVMValueRef p[4], zero = sptx_ir_i64(ir, 0);
  LLVMGetParams(ir->function, p);
  LLVMValueRef end = load_pointer(e, field(e, p[0], offsetof(sptx_fetch, end)));
  LLVMValueRef limit = load_pointer(e, field(e, p[0], offsetof(sptx_fetch, limit)));
  LLVMValueRef grown = sptx_ir_at(ir, end, sptx_ir_mul(ir, p[2], sptx_ir_i64(ir, 8)));
  sptx_ir_return_if(
      ir, LLVMBuildOr(ir->builder, sptx_ir_compare(ir, LLVMIntEQ, p[3], zero), below(e, limit, grown), ""));
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, zero, p[2], sptx_ir_i64(ir, STEP), false, NULL, 0);
  LLVMValueRef offset = sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 8));
  LLVMValueRef rows = sptx_ir_load(ir, wide, sptx_ir_at(ir, p[1], offset), 8);
  sptx_ir_store(ir, sptx_ir_add(ir, rows, sptx_ir_splat(ir, p[3], STEP)), sptx_ir_at(ir, end, offset), 8);
  sptx_ir_loop_end(ir, &loop);
  sptx_ir_store(ir, grown, field(e, p[0], offsetof(sptx_fetch, end)), 8);
  LLVMBuildRetVoid(ir->builder);
}

void sptx_x86_emit_fetch(sptx_x86_emitter *e) {
  emit_take(e);
  emit_ask(e);
}

void sptx_x86_fetch_begin(sptx_x86_emitter *e, int64_t rows) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef queue = sptx_x86_scratch(e, e->layout.fetch);
  LLVMValueRef entries = field(e, queue, offsetof(sptx_fetch, entries));
  sptx_ir_store(ir, entries, field(e, queue, offsetof(sptx_fetch, next)), 8);
  sptx_ir_store(ir, entries, field(e, queue, offsetof(sptx_fetch, end)), 8);
  sptx_ir_store(ir, sptx_ir_at_constant(ir, entries, rows * 8), field(e, queue, offsetof(sptx_fetch, limit)),
                8);
}

void sptx_x86_fetch(sptx_x86_emitter *e, LLVMValueRef queue) {
  sptx_ir *ir = &e->ir;
  sptx_ir_branch branch;
  LLVMValueRef next = load_pointer(e, field(e, queue, offsetof(sptx_fetch, next)));
  LLVMValueRef end = load_pointer(e, field(e, queue, offsetof(sptx_fetch, end)));
  sptx_ir_if(ir, &branch, below(e, next, end));
  sptx_x86_call(e, e->fetch, &queue, 1);
  sptx_ir_end_if(ir, &branch);
}

void sptx_x86_ask(sptx_x86_emitter *e, LLVMValueRef queue, LLVMValueRef rows, LLVMValueRef count,
                  LLVMValueRef ahead) {
  sptx_x86_call(e, e->ask, (LLVMValueRef[]){queue, rows, count, ahead}, 4);
}
