/* K and V rows of a tile of keys: positions, tables of row pointers, and copies in scratch where rows are
 * converted or lie badly for the cache. Tiles of queries of one shared value follow each other with ever
 * fewer keys, so copies are kept and serve all tiles whose keys are among them. */
#include "gen/x86/forward.h"

#include "gen/x86/pairs.h"

/* What copies are in scratch: of rows from this base (0: none), of keys first <= y < end from this origin. */
typedef struct sptx_kept {
  int64_t base, origin, first, end;
} sptx_kept;

/* K or V as the function key_rows gets them. */
typedef struct sptx_key_side {
  LLVMValueRef base, stride;        /* the tensor */
  LLVMValueRef table, copies, kept; /* scratch */
  LLVMValueRef copy, ahead, ahead_last, ahead_most, queue;
} sptx_key_side;

static LLVMValueRef kept_field(sptx_x86_emitter *e, const sptx_key_side *side, size_t field) {
  return sptx_ir_at_constant(&e->ir, side->kept, (int64_t)field);
}

void sptx_x86_key_rows_begin(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  sptx_ir_store(ir, sptx_ir_i64(ir, 0), sptx_x86_scratch(e, e->layout.kept_keys), 8);
  sptx_ir_store(ir, sptx_ir_i64(ir, 0), sptx_x86_scratch(e, e->layout.kept_values), 8);
  for (int d = 0; d < e->dim && e->products != SPTX_X86_FLOATS; d += 8)
    sptx_ir_store(ir, LLVMConstNull(LLVMVectorType(ir->f32, 8)),
                  sptx_x86_scratch(e, e->layout.zero_row + 4 * d), 32);
}

/* Asks for the rows that the item's next tile will want. */
static void look_ahead(sptx_x86_emitter *e, const sptx_key_side *side, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef zero = sptx_ir_i64(ir, 0);
  LLVMValueRef wanted = sptx_ir_min(ir, count, side->ahead_most);
  LLVMValueRef last = sptx_ir_compare(ir, LLVMIntNE, side->ahead_last, zero);
  LLVMValueRef start = sptx_ir_select(ir, last, sptx_ir_sub(ir, count, wanted), zero);
  LLVMValueRef table = sptx_ir_at(ir, side->table, sptx_ir_mul(ir, start, sptx_ir_i64(ir, 8)));
  sptx_x86_ask(e, side->queue, table, wanted, side->ahead);
}

/* Are rows first .. first + count of these keys already copied? */
static LLVMValueRef is_kept(sptx_x86_emitter *e, const sptx_key_side *side, LLVMValueRef origin,
                            LLVMValueRef first, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef base = LLVMBuildPtrToInt(ir->builder, side->base, ir->i64, "");
  LLVMValueRef wanted[4] = {base, origin, first, sptx_ir_add(ir, first, count)};
  static const LLVMIntPredicate rule[4] = {LLVMIntEQ, LLVMIntEQ, LLVMIntSLE, LLVMIntSGE};
  LLVMValueRef kept = LLVMConstInt(ir->i1, 1, false);
  for (int k = 0; k < 4; k++) {
    LLVMValueRef have = sptx_ir_load(ir, ir->i64, kept_field(e, side, 8 * (size_t)k), 8);
    kept = LLVMBuildAnd(ir->builder, kept, sptx_ir_compare(ir, rule[k], have, wanted[k]), "");
  }
  return kept;
}

static void keep(sptx_x86_emitter *e, const sptx_key_side *side, LLVMValueRef origin, LLVMValueRef first,
                 LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef base = LLVMBuildPtrToInt(ir->builder, side->base, ir->i64, "");
  LLVMValueRef fields[4] = {base, origin, first, sptx_ir_add(ir, first, count)};
  for (int k = 0; k < 4; k++)
    sptx_ir_store(ir, fields[k], kept_field(e, side, 8 * (size_t)k), 8);
}

/* The table points at kept copies. */
static void point_at_copies(sptx_x86_emitter *e, const sptx_key_side *side, LLVMValueRef first,
                            LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef skipped =
      sptx_ir_sub(ir, first, sptx_ir_load(ir, ir->i64, kept_field(e, side, offsetof(sptx_kept, first)), 8));
  LLVMValueRef row_bytes = sptx_ir_i64(ir, (int64_t)e->dim * 4);
  LLVMValueRef row = sptx_ir_at(ir, side->copies, sptx_ir_mul(ir, skipped, row_bytes));
  sptx_ir_loop rows;
  sptx_ir_loop_begin(ir, &rows, sptx_ir_i64(ir, 0), count, sptx_ir_i64(ir, 1), false, &row, 1);
  LLVMValueRef slot = sptx_ir_at(ir, side->table, sptx_ir_mul(ir, rows.index, sptx_ir_i64(ir, 8)));
  sptx_ir_store(ir, rows.carried[0], slot, 8);
  rows.carried[0] = sptx_ir_at(ir, rows.carried[0], row_bytes);
  sptx_ir_loop_end(ir, &rows);
}

static void copy_or_reuse(sptx_x86_emitter *e, const sptx_key_side *side, LLVMValueRef origin,
                          LLVMValueRef first, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  sptx_ir_branch reuse;
  sptx_ir_if(ir, &reuse, is_kept(e, side, origin, first, count));
  point_at_copies(e, side, first, count);
  sptx_ir_else(ir, &reuse);
  sptx_x86_call(e, e->copy_rows, (LLVMValueRef[]){side->table, count, side->copies}, 3);
  keep(e, side, origin, first, count);
  sptx_ir_end_if(ir, &reuse);
}

/* The last register block of a product begins at any key and may reach past the tile: it finds the first row
 * there. */
static void pad_table(sptx_x86_emitter *e, const sptx_key_side *side, LLVMValueRef count) {
  enum { MOST_ROWS = 16, STEP = 4 };
  sptx_ir *ir = &e->ir;
  LLVMValueRef end = sptx_ir_at(ir, side->table, sptx_ir_mul(ir, count, sptx_ir_i64(ir, 8)));
  LLVMValueRef first = sptx_ir_splat(ir, sptx_ir_load(ir, ir->i64, side->table, 8), STEP);
  for (int k = 0; k < MOST_ROWS; k += STEP)
    sptx_ir_store(ir, first, sptx_ir_at_constant(ir, end, 8 * k), 8);
}

void sptx_x86_emit_key_rows(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef pointer = ir->pointer, word = ir->i64;
  LLVMTypeRef types[] = {pointer, word,    word, word, word, pointer, word,   pointer,
                         pointer, pointer, word, word, word, word,    pointer};
  enum { PARAMETERS = sizeof types / sizeof *types };
  if (!sptx_x86_common_function(e, "key_rows", ir->void_type, types, PARAMETERS, &e->key_rows))
    return;
  LLVMValueRef p[PARAMETERS];
  LLVMGetParams(ir->function, p);
  LLVMValueRef positions = p[0], origin = p[1], first = p[2], count = p[3], padded = p[4];
  sptx_key_side side = {p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14]};
  sptx_x86_rows(e, positions, padded, side.base, side.stride, side.table);
  look_ahead(e, &side, count);
  sptx_ir_branch copies;
  sptx_ir_if(ir, &copies, sptx_ir_compare(ir, LLVMIntNE, side.copy, sptx_ir_i64(ir, 0)));
  copy_or_reuse(e, &side, origin, first, count);
  sptx_ir_end_if(ir, &copies);
  pad_table(e, &side, count);
  LLVMBuildRetVoid(ir->builder);
}

/* bfloat16 products make their own copies; else what is not float32 is always converted. */
static LLVMValueRef copies_rows(sptx_x86_emitter *e, int64_t field) {
  if (e->products != SPTX_X86_FLOATS)
    return sptx_ir_i64(&e->ir, 0);
  return e->shape->element == SPTX_ELEMENT_F32 ? sptx_x86_param(e, field) : sptx_ir_i64(&e->ir, 1);
}

LLVMValueRef sptx_x86_block_padded(sptx_x86_emitter *e, LLVMValueRef count) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef rows = sptx_ir_i64(ir, e->rows), up = sptx_ir_add(ir, count, sptx_ir_i64(ir, e->rows - 1));
  return sptx_ir_mul(ir, sptx_ir_div(ir, up, rows), rows);
}

void sptx_x86_point_rows(sptx_x86_emitter *e, int64_t table, LLVMValueRef begin, LLVMValueRef end,
                         int64_t row) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop rows;
  sptx_ir_loop_begin(ir, &rows, begin, end, sptx_ir_i64(ir, 1), false, NULL, 0);
  LLVMValueRef slot = sptx_ir_mul(ir, rows.index, sptx_ir_i64(ir, 8));
  sptx_ir_store(ir, sptx_x86_scratch(e, row), sptx_ir_at(ir, sptx_x86_scratch(e, table), slot), 8);
  sptx_ir_loop_end(ir, &rows);
}

void sptx_x86_key_rows(sptx_x86_emitter *e, const sptx_x86_side *keys, const sptx_x86_key_walk *walk,
                       LLVMValueRef k_base, LLVMValueRef v_base) {
  sptx_ir *ir = &e->ir;
  const sptx_x86_layout *l = &e->layout;
  LLVMValueRef positions = sptx_x86_scratch(e, l->key_position);
  LLVMValueRef padded = e->products == SPTX_X86_TILES ? sptx_x86_pairs_padded(e, walk->count)
                                                      : sptx_x86_block_padded(e, walk->count);
  sptx_x86_positions(e, keys, walk->first, padded, positions);
  const struct {
    int64_t stride, copy, ahead, table, copies, kept;
    LLVMValueRef base;
  } sides[] = {{SPTX_X86_FIELD(k) + 16, SPTX_X86_FIELD(copy_k), SPTX_X86_FIELD(ahead_k), l->key_row, l->keys,
                l->kept_keys, k_base},
               {SPTX_X86_FIELD(v) + 16, SPTX_X86_FIELD(copy_v), SPTX_X86_FIELD(ahead_v), l->value_row,
                l->values, l->kept_values, v_base}};
  for (int k = 0; k < 2; k++) {
    int64_t stride = e->mutant == SPTX_X86_MUTANT_STRIDE ? SPTX_X86_FIELD(q) + 16 : sides[k].stride;
    LLVMValueRef arguments[] = {positions,
                                keys->origin,
                                walk->first,
                                walk->count,
                                padded,
                                sides[k].base,
                                sptx_x86_param(e, stride),
                                sptx_x86_scratch(e, sides[k].table),
                                sptx_x86_scratch(e, sides[k].copies),
                                sptx_x86_scratch(e, sides[k].kept),
                                copies_rows(e, sides[k].copy),
                                sptx_x86_param(e, sides[k].ahead),
                                sptx_x86_param(e, SPTX_X86_FIELD(ahead_last)),
                                sptx_ir_i64(ir, e->query_tile),
                                sptx_x86_scratch(e, l->fetch)};
    sptx_x86_call(e, e->key_rows, arguments, sizeof arguments / sizeof *arguments);
    if (e->products != SPTX_X86_FLOATS) /* where depths are padded, no infinity may come in */
      sptx_x86_point_rows(e, sides[k].table, walk->count, sptx_x86_pairs_padded(e, walk->count), l->zero_row);
  }
}
