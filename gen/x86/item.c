/* From the number of a work item to heads, queries and the tables of the lanes. Items count query tiles
 * fastest, last tile first, because under a causal band the last ones cost most. */
#include "gen/x86/forward.h"

#include <math.h>

/* index % size, and index /= size. */
LLVMValueRef sptx_x86_take_digit(sptx_x86_emitter *e, LLVMValueRef *index, LLVMValueRef size) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef quotient = sptx_ir_div(ir, *index, size);
  LLVMValueRef digit = sptx_ir_sub(ir, *index, sptx_ir_mul(ir, quotient, size));
  *index = quotient;
  return digit;
}

LLVMValueRef sptx_x86_unit_field(sptx_x86_emitter *e, LLVMValueRef unit, size_t field) {
  LLVMValueRef table = sptx_x86_table(e, SPTX_X86_FIELD(units));
  LLVMValueRef offset = sptx_ir_mul(&e->ir, unit, sptx_ir_i64(&e->ir, sizeof(sptx_x86_unit)));
  LLVMValueRef address = sptx_ir_at_constant(&e->ir, sptx_ir_at(&e->ir, table, offset), (int64_t)field);
  return sptx_ir_load(&e->ir, e->ir.i64, address, 8);
}

/* The number of head `index` of the launch's table. */
LLVMValueRef sptx_x86_head_number(sptx_x86_emitter *e, LLVMValueRef unit, LLVMValueRef index) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef table =
      sptx_ir_at(ir, e->params, sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, heads)));
  return sptx_ir_load(ir, ir->i64, sptx_ir_at(ir, table, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 8))), 8);
}

LLVMValueRef sptx_x86_head_base(sptx_x86_emitter *e, LLVMValueRef base, int64_t field, LLVMValueRef batch,
                                LLVMValueRef head) {
  sptx_ir *ir = &e->ir;
  base = sptx_ir_at(ir, base, sptx_ir_mul(ir, batch, sptx_x86_param(e, field)));
  return sptx_ir_at(ir, base, sptx_ir_mul(ir, head, sptx_x86_param(e, field + 8)));
}

static LLVMValueRef tensor(sptx_x86_emitter *e, size_t argument) {
  return sptx_x86_arg(e, (int64_t)argument, e->ir.pointer);
}

void sptx_x86_key_bases(sptx_x86_emitter *e, sptx_x86_item *item) {
  item->bases[0] = sptx_x86_head_base(e, tensor(e, offsetof(sptx_x86_args, k)), SPTX_X86_FIELD(k),
                                      item->batch, item->kv_head);
  item->bases[1] = sptx_x86_head_base(e, tensor(e, offsetof(sptx_x86_args, v)), SPTX_X86_FIELD(v),
                                      item->batch, item->kv_head);
}

/* Where rows of o are read from and written to: the output, or the float32 workspace while later pieces are
 * still to come. The workspace is contiguous (batch, heads, n_q, dim). */
typedef struct sptx_output {
  LLVMValueRef base, stride;
} sptx_output;

static sptx_output output_of(sptx_x86_emitter *e, const sptx_x86_item *item, bool running,
                             LLVMValueRef rows) {
  sptx_ir *ir = &e->ir;
  sptx_output output;
  if (running) {
    int64_t row_bytes = (int64_t)e->dim * 4;
    LLVMValueRef base = sptx_ir_at(ir, tensor(e, offsetof(sptx_x86_args, workspace)),
                                   sptx_x86_param(e, SPTX_X86_FIELD(running)));
    LLVMValueRef head =
        sptx_ir_add(ir, sptx_ir_mul(ir, item->batch, sptx_x86_param(e, SPTX_X86_FIELD(heads))), item->head);
    output.stride = sptx_ir_i64(ir, row_bytes);
    output.base = sptx_ir_at(ir, base, sptx_ir_mul(ir, sptx_ir_mul(ir, head, rows), output.stride));
  } else {
    output.stride = sptx_x86_param(e, SPTX_X86_FIELD(o) + 16);
    output.base = sptx_x86_head_base(e, tensor(e, offsetof(sptx_x86_args, o)), SPTX_X86_FIELD(o), item->batch,
                                     item->head);
  }
  return output;
}

/* condition ? the workspace : the output, without a branch. */
static sptx_output choose_output(sptx_x86_emitter *e, const sptx_x86_item *item, int64_t flag,
                                 LLVMValueRef rows) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef chosen = sptx_ir_compare(ir, LLVMIntNE, sptx_x86_param(e, flag), sptx_ir_i64(ir, 0));
  sptx_output running = output_of(e, item, true, rows), direct = output_of(e, item, false, rows);
  return (sptx_output){sptx_ir_select(ir, chosen, running.base, direct.base),
                       sptx_ir_select(ir, chosen, running.stride, direct.stride)};
}

static void store_lane(sptx_x86_emitter *e, int64_t array, LLVMValueRef lane, LLVMValueRef value, int bytes) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef slot = sptx_ir_mul(ir, lane, sptx_ir_i64(ir, bytes));
  sptx_ir_store(ir, value, sptx_ir_at(ir, sptx_x86_scratch(e, array), slot), (unsigned)bytes);
}

static LLVMValueRef merges(sptx_x86_emitter *e) {
  return sptx_ir_compare(&e->ir, LLVMIntNE, sptx_x86_param(e, SPTX_X86_FIELD(merge)), sptx_ir_i64(&e->ir, 0));
}

/* Rows that do not exist are written to a row that nobody reads; the first piece reads a row of zeros. */
void sptx_x86_guard_rows(sptx_x86_emitter *e, LLVMValueRef merge, LLVMValueRef first, LLVMValueRef begin,
                         LLVMValueRef end) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef dump = sptx_x86_scratch(e, e->layout.dump_row),
               zero_row = sptx_x86_scratch(e, e->layout.zero_row);
  LLVMValueRef inside = LLVMBuildAnd(
      ir->builder, sptx_ir_compare(ir, LLVMIntSGE, first, begin),
      sptx_ir_compare(ir, LLVMIntSLE, sptx_ir_add(ir, first, sptx_ir_i64(ir, e->query_tile)), end), "");
  sptx_ir_branch branch;
  sptx_ir_loop loop;
  sptx_ir_if(ir, &branch, LLVMBuildNot(ir->builder, LLVMBuildAnd(ir->builder, inside, merge, ""), ""));
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, (int64_t)e->dim * 4), sptx_ir_i64(ir, 32),
                     true, NULL, 0);
  sptx_ir_store(ir, LLVMConstNull(LLVMVectorType(ir->f32, 8)), sptx_ir_at(ir, zero_row, loop.index), 32);
  sptx_ir_loop_end(ir, &loop);
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), sptx_ir_i64(ir, 1), true,
                     NULL, 0);
  LLVMValueRef x = sptx_ir_add(ir, first, loop.index),
               offset = sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 8));
  LLVMValueRef exists = LLVMBuildAnd(ir->builder, sptx_ir_compare(ir, LLVMIntSGE, x, begin),
                                     sptx_ir_compare(ir, LLVMIntSLT, x, end), "");
  const int64_t written[] = {e->layout.output_row, e->layout.lse_row};
  for (int k = 0; k < 2; k++) {
    LLVMValueRef slot = sptx_ir_at(ir, sptx_x86_scratch(e, written[k]), offset);
    LLVMValueRef row = sptx_ir_load(ir, ir->pointer, slot, 8);
    sptx_ir_store(ir, sptx_ir_select(ir, exists, row, dump), slot, 8);
  }
  LLVMValueRef slot = sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.input_row), offset);
  LLVMValueRef row = sptx_ir_load(ir, ir->pointer, slot, 8);
  LLVMValueRef reads = LLVMBuildAnd(ir->builder, exists, merge, "");
  sptx_ir_store(ir, sptx_ir_select(ir, reads, row, zero_row), slot, 8);
  sptx_ir_loop_end(ir, &loop);
  sptx_ir_end_if(ir, &branch);
}

static LLVMValueRef slope_of(sptx_x86_emitter *e, LLVMValueRef head) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef slopes = tensor(e, offsetof(sptx_x86_args, alibi_slopes));
  LLVMValueRef address = sptx_ir_at(ir, slopes, sptx_ir_mul(ir, head, sptx_ir_i64(ir, 4)));
  return sptx_ir_fmul(ir, sptx_ir_load(ir, ir->f32, address, 4), sptx_ir_f32(ir, M_LOG2E));
}

/* The lanes are queries first .. of one head. Pointers are moved back by the first query's position, since
 * positions count keys. */
static void tile_lanes(sptx_x86_emitter *e, const sptx_x86_item *item) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef lanes = sptx_ir_i64(ir, e->query_tile), rows = sptx_x86_param(e, SPTX_X86_FIELD(n_q));
  LLVMValueRef before = sptx_ir_sub(ir, rows, sptx_x86_param(e, SPTX_X86_FIELD(n_k)));
  LLVMValueRef positions = sptx_x86_scratch(e, e->layout.query_position);
  sptx_x86_positions(e, &item->queries, item->first, lanes, positions);
  LLVMValueRef stride = sptx_x86_param(e, SPTX_X86_FIELD(q) + 16);
  LLVMValueRef base = sptx_x86_head_base(e, tensor(e, offsetof(sptx_x86_args, q)), SPTX_X86_FIELD(q),
                                         item->batch, item->head);
  base = sptx_ir_at(ir, base, sptx_ir_mul(ir, before, stride));
  sptx_x86_rows(e, positions, lanes, base, stride, sptx_x86_scratch(e, e->layout.query_row));
  static const size_t flags[] = {offsetof(sptx_x86_params, read_running),
                                 offsetof(sptx_x86_params, write_running)};
  const int64_t tables[] = {e->layout.input_row, e->layout.output_row};
  for (int k = 0; k < 2; k++) {
    sptx_output output = choose_output(e, item, (int64_t)flags[k], rows);
    base = sptx_ir_at(ir, output.base, sptx_ir_mul(ir, before, output.stride));
    sptx_x86_rows(e, positions, lanes, base, output.stride, sptx_x86_scratch(e, tables[k]));
  }
  LLVMValueRef head =
      sptx_ir_add(ir, sptx_ir_mul(ir, item->batch, sptx_x86_param(e, SPTX_X86_FIELD(heads))), item->head);
  LLVMValueRef entry = sptx_ir_add(ir, sptx_ir_mul(ir, head, rows), before);
  base = sptx_ir_at(ir, tensor(e, offsetof(sptx_x86_args, lse)), sptx_ir_mul(ir, entry, sptx_ir_i64(ir, 4)));
  sptx_x86_rows(e, positions, lanes, base, sptx_ir_i64(ir, 4), sptx_x86_scratch(e, e->layout.lse_row));
  sptx_x86_guard_rows(e, merges(e), item->first, item->queries.begin, item->queries.end);
}

/* Bounds of a band; a list brings its own masks. */
static void lane_bounds(sptx_x86_emitter *e, const sptx_x86_item *item) {
  if (!e->shape->listed)
    sptx_x86_bounds(e, &item->queries, &item->keys, item->first);
}

void sptx_x86_fill_slopes(sptx_x86_emitter *e, LLVMValueRef head) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef slope = sptx_ir_splat(ir, slope_of(e, head), 8);
  for (int lane = 0; lane < e->query_tile; lane += 8)
    sptx_ir_store(ir, slope, sptx_x86_scratch(e, e->layout.slope + 4 * lane), 32);
}

void sptx_x86_tile_item(sptx_x86_emitter *e, sptx_x86_item *item) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef rest = e->item, tiles = sptx_x86_param(e, SPTX_X86_FIELD(tiles));
  LLVMValueRef tile = sptx_x86_take_digit(e, &rest, tiles);
  tile = sptx_ir_sub(ir, sptx_ir_sub(ir, tiles, sptx_ir_i64(ir, 1)), tile);
  LLVMValueRef shared = sptx_x86_take_digit(e, &rest, sptx_x86_param(e, SPTX_X86_FIELD(shared_total)));
  LLVMValueRef unit = sptx_x86_take_digit(e, &rest, sptx_x86_param(e, SPTX_X86_FIELD(unit_count)));
  item->batch = rest;
  item->head = sptx_x86_head_number(e, unit, sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, first)));
  item->kv_head = sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, kv_head));
  sptx_x86_query_side(e, shared, &item->queries);
  sptx_x86_key_side(e, shared, &item->keys);
  LLVMValueRef offset = sptx_ir_mul(ir, tile, sptx_ir_i64(ir, e->query_tile));
  /* Tiles of a list lie on a grid from index 0. */
  item->first = e->shape->listed ? offset : sptx_ir_add(ir, item->queries.begin, offset);
  LLVMValueRef last = sptx_ir_add(ir, item->first, sptx_ir_i64(ir, e->query_tile));
  sptx_ir_return_if(ir,
                    LLVMBuildOr(ir->builder, sptx_ir_compare(ir, LLVMIntSGE, item->first, item->queries.end),
                                sptx_ir_compare(ir, LLVMIntSLE, last, item->queries.begin), ""));
  sptx_x86_key_bases(e, item);
  tile_lanes(e, item);
  lane_bounds(e, item);
  if (e->shape->alibi)
    sptx_x86_fill_slopes(e, item->head);
}

/* (shared, inner) of the query's position; leaves the kernel when the piece's view has no such query. */
static LLVMValueRef locate(sptx_x86_emitter *e, LLVMValueRef *inner) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef zero = sptx_ir_i64(ir, 0), table = sptx_ir_at_constant(ir, e->params, SPTX_X86_FIELD(digits));
  LLVMValueRef base = sptx_x86_param(e, SPTX_X86_FIELD(query_view.base));
  LLVMValueRef rest = sptx_ir_sub(ir, sptx_x86_arg(e, offsetof(sptx_x86_args, position), ir->i64), base);
  sptx_ir_return_if(ir, sptx_ir_compare(ir, LLVMIntSLT, rest, zero));
  LLVMValueRef carried[] = {rest, zero, zero, LLVMConstInt(ir->i1, 0, false), table};
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, zero, sptx_x86_param(e, SPTX_X86_FIELD(digit_count)), sptx_ir_i64(ir, 1),
                     false, carried, 5);
  LLVMValueRef field[4];
  for (int k = 0; k < 4; k++)
    field[k] = sptx_ir_load(ir, ir->i64, sptx_ir_at_constant(ir, loop.carried[4], 8 * k), 8);
  LLVMValueRef digit = sptx_ir_div(ir, loop.carried[0], field[1]);
  LLVMValueRef past = sptx_ir_compare(ir, LLVMIntSGE, digit, field[0]);
  loop.carried[0] = sptx_ir_sub(ir, loop.carried[0], sptx_ir_mul(ir, digit, field[1]));
  for (int k = 0; k < 2; k++)
    loop.carried[1 + k] = sptx_ir_add(ir, loop.carried[1 + k], sptx_ir_mul(ir, digit, field[2 + k]));
  loop.carried[3] = LLVMBuildOr(ir->builder, loop.carried[3], past, "");
  loop.carried[4] = sptx_ir_at_constant(ir, loop.carried[4], sizeof(sptx_x86_digit));
  sptx_ir_loop_end(ir, &loop);
  LLVMValueRef left = sptx_ir_compare(ir, LLVMIntNE, loop.carried[0], zero);
  sptx_ir_return_if(ir, LLVMBuildOr(ir->builder, left, loop.carried[3], ""));
  *inner = loop.carried[2];
  return loop.carried[1];
}

/* The lanes are the heads of the unit, all at one position; lanes past the unit repeat its last head. */
static void decode_lanes(sptx_x86_emitter *e, sptx_x86_item *item, LLVMValueRef unit) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef first = sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, first)), one = sptx_ir_i64(ir, 1);
  LLVMValueRef last = sptx_ir_sub(ir, sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, count)), one);
  LLVMValueRef position = sptx_x86_arg(e, offsetof(sptx_x86_args, position), ir->i64);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), one, true, NULL, 0);
  LLVMValueRef index = sptx_ir_add(ir, first, sptx_ir_min(ir, loop.index, last));
  item->head = sptx_x86_head_number(e, unit, index);
  LLVMValueRef query = sptx_x86_head_base(e, tensor(e, offsetof(sptx_x86_args, q)), SPTX_X86_FIELD(q),
                                          item->batch, item->head);
  store_lane(e, e->layout.query_row, loop.index, query, 8);
  sptx_output input = choose_output(e, item, SPTX_X86_FIELD(read_running), one);
  sptx_output output = choose_output(e, item, SPTX_X86_FIELD(write_running), one);
  store_lane(e, e->layout.input_row, loop.index, input.base, 8);
  store_lane(e, e->layout.output_row, loop.index, output.base, 8);
  LLVMValueRef entry =
      sptx_ir_add(ir, sptx_ir_mul(ir, item->batch, sptx_x86_param(e, SPTX_X86_FIELD(heads))), item->head);
  entry = sptx_ir_at(ir, tensor(e, offsetof(sptx_x86_args, lse)), sptx_ir_mul(ir, entry, sptx_ir_i64(ir, 4)));
  store_lane(e, e->layout.lse_row, loop.index, entry, 8);
  store_lane(e, e->layout.query_position, loop.index, LLVMBuildTrunc(ir->builder, position, ir->i32, ""), 4);
  if (e->shape->alibi)
    store_lane(e, e->layout.slope, loop.index, slope_of(e, item->head), 4);
  sptx_ir_loop_end(ir, &loop);
  sptx_x86_guard_rows(e, merges(e), sptx_ir_i64(ir, 0), sptx_ir_i64(ir, 0), sptx_ir_add(ir, last, one));
}

void sptx_x86_decode_item(sptx_x86_emitter *e, sptx_x86_item *item) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef rest = e->item, inner;
  LLVMValueRef unit = sptx_x86_take_digit(e, &rest, sptx_x86_param(e, SPTX_X86_FIELD(unit_count)));
  item->batch = rest;
  item->kv_head = sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, kv_head));
  LLVMValueRef shared = locate(e, &inner);
  sptx_x86_key_side(e, shared, &item->keys);
  item->queries =
      (sptx_x86_side){SPTX_X86_FIELD(query_view), NULL, inner, sptx_ir_add(ir, inner, sptx_ir_i64(ir, 1))};
  item->first = inner;
  sptx_x86_key_bases(e, item);
  decode_lanes(e, item, unit);
  lane_bounds(e, item);
}
