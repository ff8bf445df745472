/* The forward kernel, and decode, which is the same with the heads of a group in the lanes instead of the
 * queries of a tile. Online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) in powers of two: q is
 * scaled by scale * log2(e) when it is packed.
 *
 * For each tile of keys: S^T = K Q^T, the lanes' maxima, P^T = exp2(S^T - max), O^T += V^T P^T. */
#include "gen/x86/forward.h"

#include "gen/x86/amx.h"

#include <float.h>
#include <math.h>

static LLVMValueRef number(sptx_x86_emitter *e, double value) {
  return sptx_ir_splat(&e->ir, sptx_ir_f32(&e->ir, value), e->lanes);
}

static int64_t vector_bytes(const sptx_x86_emitter *e) {
  return (int64_t)e->lanes * 4;
}

/* void rescale(args, params, item, scratch, the panel's first vector, i1 fresh): O^T *= factor; a fresh panel
 * becomes 0, whatever it held. */
static LLVMValueRef emit_rescale(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->i64, ir->i1};
  LLVMValueRef function = sptx_x86_bound_function(e, "rescale", types, 2);
  LLVMValueRef vector = LLVMGetParam(function, 4), fresh = LLVMGetParam(function, 5);
  LLVMValueRef panel =
      sptx_x86_lane_vector(e, e->layout.output, sptx_ir_mul(ir, vector, sptx_ir_i64(ir, e->dim)));
  sptx_ir_loop vectors, rows;
  sptx_ir_branch branch;
  sptx_ir_loop_begin(ir, &vectors, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->panel / (int)e->lanes),
                     sptx_ir_i64(ir, 1), true, NULL, 0);
  LLVMValueRef lanes = sptx_x86_lane_vector(e, e->layout.factor, sptx_ir_add(ir, vector, vectors.index));
  LLVMValueRef alpha = sptx_ir_load(ir, e->vector, lanes, 32);
  LLVMTypeRef flags = LLVMIntTypeInContext(ir->context, e->lanes);
  LLVMValueRef differs = sptx_ir_fcompare(ir, LLVMRealUNE, alpha, number(e, 1));
  differs = LLVMBuildBitCast(ir->builder, differs, flags, "");
  LLVMValueRef some = sptx_ir_compare(ir, LLVMIntNE, differs, LLVMConstNull(flags));
  sptx_ir_if(ir, &branch, LLVMBuildOr(ir->builder, some, fresh, ""));
  sptx_ir_loop_begin(ir, &rows, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, (int64_t)e->dim * e->panel * 4),
                     sptx_ir_i64(ir, (int64_t)e->panel * 4), true, NULL, 0);
  LLVMValueRef address = sptx_ir_at(ir, panel, rows.index);
  address = sptx_ir_at(ir, address, sptx_ir_mul(ir, vectors.index, sptx_ir_i64(ir, vector_bytes(e))));
  LLVMValueRef value = sptx_ir_fmul(ir, sptx_ir_load(ir, e->vector, address, 32), alpha);
  sptx_ir_store(ir, sptx_ir_select(ir, fresh, number(e, 0), value), address, 32);
  sptx_ir_loop_end(ir, &rows);
  sptx_ir_end_if(ir, &branch);
  sptx_ir_loop_end(ir, &vectors);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* The functions that main calls: products of the two steps, and the careful product. */
typedef struct sptx_forward_functions {
  LLVMValueRef scores, softmax, rescale, values, values_rest, finite, careful, panels, epilogue;
  sptx_x86_pairs pairs;
  sptx_x86_amx amx;
} sptx_forward_functions;

/* dim = rows * a + 4 * b; the second product takes what blocks of `rows` leave. */
int sptx_x86_main_rows(const sptx_x86_emitter *e) {
  int main = e->dim / e->rows * e->rows;
  while ((e->dim - main) % 4)
    main -= e->rows;
  return main;
}

/* One panel of a tile of keys: which of the tile's keys its queries see, and where its part of the scratch
 * lies. */
typedef struct sptx_panel {
  LLVMValueRef first, vector; /* its first query and vector in the tile */
  LLVMValueRef begin, end, common_begin, common_end;
  LLVMValueRef fresh; /* i1: nothing stands in its output yet */
  LLVMValueRef q, output;
} sptx_panel;

static LLVMValueRef clamped(sptx_x86_emitter *e, LLVMValueRef key, const sptx_x86_key_walk *walk,
                            LLVMValueRef low, LLVMValueRef high) {
  sptx_ir *ir = &e->ir;
  return sptx_ir_min(ir, sptx_ir_max(ir, sptx_ir_sub(ir, key, walk->first), low), high);
}

/* Does a panel's first product overwrite what is in its output? Else the output is 0 before the first. */
static bool starts_fresh(const sptx_x86_emitter *e) {
  return !e->shape->listed && e->products != SPTX_X86_TILES;
}

static void open_panel(sptx_x86_emitter *e, const sptx_x86_key_walk *walk, LLVMValueRef first,
                       sptx_panel *panel) {
  sptx_ir *ir = &e->ir;
  bool floats = e->products == SPTX_X86_FLOATS, tiles = e->products == SPTX_X86_TILES;
  int64_t depth = tiles ? (e->dim + 31) / 32 * 32 : e->dim;
  LLVMValueRef zero = sptx_ir_i64(ir, 0), q = sptx_x86_scratch(e, floats ? e->layout.q : e->layout.q_pairs);
  LLVMValueRef bytes = sptx_ir_mul(ir, first, sptx_ir_i64(ir, (int64_t)e->dim * 4));
  LLVMValueRef q_bytes = sptx_ir_mul(ir, first, sptx_ir_i64(ir, depth * (floats ? 4 : 2)));
  *panel = (sptx_panel){.first = first,
                        .vector = sptx_ir_div(ir, first, sptx_ir_i64(ir, e->lanes)),
                        .begin = zero,
                        .end = walk->count,
                        .common_begin = zero,
                        .fresh = LLVMConstInt(ir->i1, 0, false),
                        .q = sptx_ir_at(ir, q, q_bytes),
                        .output = sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.output), bytes)};
  if (e->shape->listed) {
    panel->common_end = sptx_ir_select(ir, walk->masked, zero, walk->count);
    return;
  }
  sptx_x86_range range;
  sptx_x86_lane_range(e, first, e->panel, &range);
  panel->begin = clamped(e, range.begin, walk, zero, walk->count);
  panel->end = clamped(e, range.end, walk, zero, walk->count);
  if (starts_fresh(e))
    panel->fresh = sptx_ir_compare(ir, LLVMIntSGE, range.begin, walk->first);
  panel->common_begin = clamped(e, range.common_begin, walk, panel->begin, panel->end);
  panel->common_end = clamped(e, range.common_end, walk, panel->common_begin, panel->end);
  if (tiles) { /* whole tiles: the keys before are masked */
    LLVMValueRef some = sptx_ir_compare(ir, LLVMIntSLT, panel->begin, panel->end);
    LLVMValueRef whole = LLVMBuildAnd(ir->builder, panel->begin, sptx_ir_i64(ir, -32), "");
    panel->begin = sptx_ir_select(ir, some, whole, panel->begin);
  }
  if (e->shape->predicate)
    panel->common_begin = panel->common_end = panel->begin;
}

static void emit_scores(sptx_x86_emitter *e, const sptx_forward_functions *f, const sptx_panel *panel) {
  sptx_ir *ir = &e->ir;
  if (e->products == SPTX_X86_TILES) {
    sptx_x86_amx_scores(e, &f->amx, panel->q, panel->begin, panel->end);
    return;
  }
  LLVMValueRef arguments[] = {sptx_x86_scratch(e, e->layout.key_row),
                              panel->q,
                              sptx_x86_scratch(e, e->layout.scores),
                              panel->begin,
                              panel->end,
                              sptx_ir_i64(ir, e->products == SPTX_X86_PAIRS ? e->dim / 2 : e->dim),
                              sptx_ir_i64(ir, 0),
                              sptx_x86_scratch(e, e->layout.fetch)};
  sptx_x86_call(e, f->scores, arguments, 8);
}

static void call_rescale(sptx_x86_emitter *e, const sptx_forward_functions *f, const sptx_panel *panel) {
  sptx_x86_call(e, f->rescale,
                (LLVMValueRef[]){e->args, e->params, e->item, e->scratch, panel->vector, panel->fresh}, 6);
}

/* i1: pairs of the tile are masked, and V's rows are not all finite. bfloat16 rows are still those of the
 * tensor: the careful product needs them as float32, the other one interleaved. */
static LLVMValueRef odd_values(sptx_x86_emitter *e, const sptx_forward_functions *f,
                               const sptx_x86_key_walk *walk) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef table = sptx_x86_scratch(e, e->layout.value_row);
  LLVMValueRef odd = sptx_x86_if_not_finite(e, f->finite, walk, table);
  if (e->products == SPTX_X86_FLOATS)
    return odd;
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, odd);
  sptx_x86_call(e, e->copy_rows, (LLVMValueRef[]){table, walk->count, sptx_x86_scratch(e, e->layout.values)},
                3);
  if (e->products == SPTX_X86_PAIRS) {
    sptx_ir_else(ir, &branch);
    sptx_x86_pairs_rows(e, e->layout.value_row, walk->count, e->layout.row_pairs);
  }
  sptx_ir_end_if(ir, &branch);
  return odd;
}

/* What V^T P^T reads: the depth is count keys, or pairs of keys. */
typedef struct sptx_value_operands {
  LLVMValueRef values, weights, count;
} sptx_value_operands;

/* Pairs of keys begin at even keys of the tile. Where the panel's keys do not, a row of zeros joins them; its
 * partner in V is finite, or zeros at the tile's end. */
static sptx_value_operands interleaved_pairs(sptx_x86_emitter *e, const sptx_forward_functions *f,
                                             const sptx_panel *panel) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef pair = sptx_ir_div(ir, panel->begin, sptx_ir_i64(ir, 2));
  LLVMValueRef first = sptx_ir_mul(ir, pair, sptx_ir_i64(ir, 2));
  LLVMValueRef last = sptx_x86_pairs_padded(e, panel->end), count = sptx_ir_sub(ir, last, first);
  sptx_x86_clear_rows(e, e->layout.scores, first, panel->begin);
  sptx_x86_clear_rows(e, e->layout.scores, panel->end, last);
  LLVMValueRef scores = sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.scores),
                                   sptx_ir_mul(ir, first, sptx_ir_i64(ir, (int64_t)e->panel * 4)));
  sptx_x86_pairs_interleave(e, &f->pairs, scores, count, e->layout.weight_pairs);
  LLVMValueRef offset = sptx_ir_mul(ir, pair, sptx_ir_i64(ir, (int64_t)e->dim * 4));
  return (sptx_value_operands){sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.row_pairs), offset),
                               sptx_x86_scratch(e, e->layout.weight_pairs),
                               sptx_ir_div(ir, count, sptx_ir_i64(ir, 2))};
}

static void emit_value_products(sptx_x86_emitter *e, const sptx_forward_functions *f, const sptx_panel *panel,
                                const sptx_value_operands *o) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef factor = sptx_x86_lane_vector(e, e->layout.factor, panel->vector), zero = sptx_ir_i64(ir, 0);
  factor = sptx_ir_select(ir, panel->fresh, LLVMConstNull(ir->pointer), factor);
  LLVMValueRef queue = sptx_x86_scratch(e, e->layout.fetch);
  LLVMValueRef middle = sptx_ir_i64(ir, sptx_x86_main_rows(e)), end = sptx_ir_i64(ir, e->dim);
  sptx_x86_call(
      e, f->values,
      (LLVMValueRef[]){o->values, o->weights, panel->output, zero, middle, o->count, zero, factor, queue}, 9);
  if (f->values_rest)
    sptx_x86_call(
        e, f->values_rest,
        (LLVMValueRef[]){o->values, o->weights, panel->output, middle, end, o->count, zero, factor, queue},
        9);
}

/* O^T = O^T * factor + V^T P^T. Where pairs are masked and V holds an infinity or NaN, 0 * V must not reach
 * the lanes that do not attend to it: the careful product leaves P = 0 out. */
static void emit_values(sptx_x86_emitter *e, const sptx_forward_functions *f, const sptx_panel *panel,
                        LLVMValueRef odd) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef table = sptx_x86_scratch(e, e->layout.value_row);
  LLVMValueRef weights = sptx_x86_scratch(e, e->layout.scores);
  LLVMValueRef count = sptx_ir_sub(ir, panel->end, panel->begin);
  table = sptx_ir_at(ir, table, sptx_ir_mul(ir, panel->begin, sptx_ir_i64(ir, 8)));
  weights = sptx_ir_at(ir, weights, sptx_ir_mul(ir, panel->begin, sptx_ir_i64(ir, (int64_t)e->panel * 4)));
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, odd);
  call_rescale(e, f, panel);
  sptx_x86_call(e, f->careful,
                (LLVMValueRef[]){table, weights, panel->output, count, sptx_ir_i64(ir, e->panel)}, 5);
  sptx_ir_else(ir, &branch);
  sptx_value_operands operands = {table, weights, count};
  if (e->products == SPTX_X86_PAIRS)
    operands = interleaved_pairs(e, f, panel);
  if (e->products == SPTX_X86_TILES) {
    LLVMValueRef pairs = sptx_ir_div(ir, sptx_ir_add(ir, panel->end, sptx_ir_i64(ir, 1)), sptx_ir_i64(ir, 2));
    sptx_x86_clear_rows(e, e->layout.weight_pairs, pairs, sptx_x86_pairs_count(e, panel->end));
    call_rescale(e, f, panel);
    sptx_x86_amx_output(e, &f->amx, panel->output, panel->begin, panel->end);
  } else {
    emit_value_products(e, f, panel, &operands);
  }
  sptx_ir_end_if(ir, &branch);
}

/* void panels(args, params, first query, scratch, first key, count, masked, odd, bits): a tile of keys, panel
 * by panel, each with those keys only that its own queries see. */
static LLVMValueRef emit_panels(sptx_x86_emitter *e, const sptx_forward_functions *f) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->i64, ir->i64, ir->i1, ir->i1, ir->pointer};
  LLVMValueRef function = sptx_x86_bound_function(e, "panels", types, 5), p[9];
  LLVMGetParams(function, p);
  sptx_x86_key_walk walk = {.first = p[4], .count = p[5], .masked = p[6], .bits = p[8]};
  sptx_ir_loop loop;
  sptx_ir_branch branch;
  sptx_panel panel;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), sptx_ir_i64(ir, e->panel),
                     true, NULL, 0);
  open_panel(e, &walk, loop.index, &panel);
  sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntSLT, panel.begin, panel.end));
  emit_scores(e, f, &panel);
  LLVMValueRef softmax[] = {e->args,    e->params,   e->item,   e->scratch,         panel.vector,
                            walk.first, panel.begin, panel.end, panel.common_begin, panel.common_end,
                            walk.bits};
  sptx_x86_call(e, f->softmax, softmax, 11);
  emit_values(e, f, &panel, p[7]);
  sptx_ir_end_if(ir, &branch);
  sptx_ir_loop_end(ir, &loop);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

static void emit_functions(sptx_x86_emitter *e, sptx_forward_functions *f) {
  int panel_bytes = e->panel * 4;
  sptx_x86_product product = {.name = "scores",
                              .rows = e->rows,
                              .vectors = e->vectors,
                              .groups = 1,
                              .lanes = e->lanes,
                              .b_stride = panel_bytes,
                              .c_stride = panel_bytes,
                              .pairs = e->products == SPTX_X86_PAIRS,
                              .fetches = true};
  bool floats = e->products == SPTX_X86_FLOATS;
  f->softmax = sptx_x86_emit_softmax(e);
  f->rescale = emit_rescale(e);
  f->epilogue = sptx_x86_emit_epilogue(e);
  f->finite = sptx_x86_emit_finite(e, floats ? SPTX_ELEMENT_F32 : e->shape->element);
  f->careful = sptx_x86_emit_careful(e);
  if (!floats)
    sptx_x86_pairs_emit_functions(e, &f->pairs);
  if (product.pairs)
    sptx_x86_emit_pair_rows(e);
  if (e->products == SPTX_X86_TILES) {
    sptx_x86_amx_emit_functions(e, &f->amx);
  } else {
    f->scores = sptx_x86_emit_product(e, &product);
    product.name = "values";
    product.a_by_k = product.rescale = true;
    product.a_stride = product.pairs ? e->dim * 4 : 0;
    f->values = sptx_x86_emit_product(e, &product);
    product.name = "values_rest";
    product.rows = 4;
    f->values_rest = sptx_x86_main_rows(e) < e->dim ? sptx_x86_emit_product(e, &product) : NULL;
  }
  f->panels = emit_panels(e, f);
}

static void emit_step(sptx_x86_emitter *e, const sptx_forward_functions *f, const sptx_x86_side *keys,
                      const sptx_x86_key_walk *walk, LLVMValueRef query_first, LLVMValueRef *bases) {
  sptx_ir *ir = &e->ir;
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntSGT, walk->count, sptx_ir_i64(ir, 0)));
  sptx_x86_key_rows(e, keys, walk, bases[0], bases[1]);
  LLVMValueRef bits = walk->bits ? walk->bits : LLVMConstNull(ir->pointer);
  if (e->products == SPTX_X86_TILES)
    sptx_x86_amx_operands(e, &f->amx, walk->count);
  LLVMValueRef panels[] = {e->args,     e->params,   query_first,  e->scratch,
                           walk->first, walk->count, walk->masked, odd_values(e, f, walk),
                           bits};
  sptx_x86_call(e, f->panels, panels, 9);
  sptx_ir_end_if(ir, &branch);
}

static void fill(sptx_x86_emitter *e, LLVMValueRef array, int64_t bytes, double value) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, bytes), sptx_ir_i64(ir, vector_bytes(e)),
                     true, NULL, 0);
  sptx_ir_store(ir, number(e, value), sptx_ir_at(ir, array, loop.index), 32);
  sptx_ir_loop_end(ir, &loop);
}

/* The output starts as 0 where no first product will overwrite it: in panels without any key. */
static void clear_output(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  int64_t bytes = (int64_t)e->dim * e->panel * 4;
  LLVMValueRef empty = LLVMConstInt(ir->i1, 1, false);
  sptx_x86_range range;
  sptx_ir_loop loop;
  sptx_ir_branch branch;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), sptx_ir_i64(ir, e->panel),
                     true, NULL, 0);
  if (starts_fresh(e)) {
    sptx_x86_lane_range(e, loop.index, e->panel, &range);
    empty = sptx_ir_compare(ir, LLVMIntSGE, range.begin, range.end);
  }
  sptx_ir_if(ir, &branch, empty);
  LLVMValueRef panel = sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, (int64_t)e->dim * 4));
  fill(e, sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.output), panel), bytes, 0);
  sptx_ir_end_if(ir, &branch);
  sptx_ir_loop_end(ir, &loop);
}

/* The next tile's rows of q and o; key_rows sees to those of k and v. */
static void ask_for_next(sptx_x86_emitter *e) {
  LLVMValueRef queue = sptx_x86_scratch(e, e->layout.fetch), count = sptx_ir_i64(&e->ir, e->query_tile);
  sptx_x86_fetch_begin(e, (int64_t)e->query_tile * 4);
  sptx_x86_ask(e, queue, sptx_x86_scratch(e, e->layout.query_row), count,
               sptx_x86_param(e, SPTX_X86_FIELD(ahead_q)));
  sptx_x86_ask(e, queue, sptx_x86_scratch(e, e->layout.output_row), count,
               sptx_x86_param(e, SPTX_X86_FIELD(ahead_o)));
}

/* One query tile (or one unit of heads): void tile(args, params, number, scratch), with everything inlined
 * that is not a function already. */
static LLVMValueRef emit_tile(sptx_x86_emitter *e, const sptx_forward_functions *f) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef function = sptx_x86_bound_function(e, "tile", NULL, 0);
  sptx_x86_item item;
  if (e->shape->family == SPTX_X86_DECODE)
    sptx_x86_decode_item(e, &item);
  else
    sptx_x86_tile_item(e, &item);
  LLVMValueRef table = sptx_x86_scratch(e, e->layout.query_row);
  bool floats = e->products == SPTX_X86_FLOATS; /* bfloat16 holds q exactly as long as it is not scaled */
  LLVMValueRef factor = floats ? sptx_x86_query_factor(e) : sptx_ir_f32(ir, 1);
  sptx_x86_pack(e, table, factor, e->layout.q, e->panel);
  ask_for_next(e);
  if (!floats)
    sptx_x86_pairs_dims(e, &f->pairs, e->layout.q, e->layout.q_pairs);
  clear_output(e);
  fill(e, sptx_x86_scratch(e, e->layout.maximum), (int64_t)e->query_tile * 4, -INFINITY);
  fill(e, sptx_x86_scratch(e, e->layout.sum), (int64_t)e->query_tile * 4, 0);
  sptx_x86_key_walk walk;
  sptx_x86_key_walk_begin(e, &item.keys, item.first, item.keys.begin, item.keys.end, &walk);
  emit_step(e, f, &item.keys, &walk, item.first, item.bases);
  sptx_x86_key_walk_end(e, &walk);
  sptx_x86_call(e, f->epilogue, (LLVMValueRef[]){e->args, e->params, e->item, e->scratch}, 4);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

void sptx_x86_emit_forward(sptx_x86_emitter *e, const char *symbol) {
  sptx_ir *ir = &e->ir;
  sptx_forward_functions f;
  sptx_x86_emit_view_functions(e);
  if (!e->shape->listed)
    sptx_x86_emit_bound(e);
  sptx_x86_emit_pack(e);
  sptx_x86_emit_copy_rows(e);
  sptx_x86_emit_fetch(e);
  sptx_x86_emit_key_rows(e);
  e->unpack = sptx_x86_emit_unpack(e, e->shape->element);
  e->unpack_running =
      e->shape->element == SPTX_ELEMENT_F32 ? NULL : sptx_x86_emit_unpack(e, SPTX_ELEMENT_F32);
  emit_functions(e, &f);
  LLVMValueRef tile = emit_tile(e, &f);
  sptx_x86_emitter_kernel(e, symbol);
  sptx_x86_key_rows_begin(e);
  /* Neighbouring tiles and shared values stay on one core: their rows lie in the same pages and lines. */
  LLVMValueRef count = sptx_x86_param(e, SPTX_X86_FIELD(tile_items)), begin = sptx_ir_mul(ir, e->item, count);
  LLVMValueRef end =
      sptx_ir_min(ir, sptx_ir_add(ir, begin, count), sptx_x86_param(e, SPTX_X86_FIELD(total_tiles)));
  sptx_ir_loop loop;
  if (e->products == SPTX_X86_TILES)
    sptx_x86_amx_configure(e);
  sptx_ir_loop_begin(ir, &loop, begin, end, sptx_ir_i64(ir, 1), false, NULL, 0);
  sptx_x86_call(e, tile, (LLVMValueRef[]){e->args, e->params, loop.index, e->scratch}, 4);
  sptx_ir_loop_end(ir, &loop);
  if (e->products == SPTX_X86_TILES)
    sptx_x86_amx_release(e);
  LLVMBuildRetVoid(ir->builder);
}
