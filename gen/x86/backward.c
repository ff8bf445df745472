/* The backward kernel of one piece. An item owns a range of keys of one shared value and key/value head, and
 * walks all query tiles that see it, so that dK and dV are added up by one thread in a fixed order; dQ goes
 * to one of several buffers, summed afterwards in a fixed order: ranges that a query tile may see at once
 * have one each. The result is the same, bit for bit, for any number of threads.
 *
 * With the final log-sum-exp, P = exp(S - lse); dP = dO V^T; dS = P * (dP - D), D = rowsum(dO * O) (Dao et
 * al. 2022, appendix B). For each tile: S^T = K Q^T, dP^T = V dO^T, then dV += P^T dO, dK += dS^T Q and
 * dQ^T += K^T dS^T. The scale is folded into dO^T and D. In bfloat16 (AVX-512 BF16) it is applied to dP, so
 * that dO stays exact; P and dS are rounded, sums are float32. */
#include "gen/x86/forward.h"

#include "gen/x86/amx.h"

#include <math.h>

typedef struct sptx_backward_functions {
  LLVMValueRef scores, d_query, d_query_rest, unpack;
  LLVMValueRef finite_keys, finite_queries, careful, careful_rows;
  sptx_x86_pairs pairs;
  sptx_x86_amx amx;
  LLVMValueRef key_products[3]; /* along the dims: whole groups, the rest of the vectors, the last 8 floats */
  int key_offset[3], key_product_count;
} sptx_backward_functions;

/* dK and dV: rows are keys, lanes are dims. */
static void emit_key_products(sptx_x86_emitter *e, sptx_backward_functions *f) {
  int vectors = e->lanes == 16 ? 4 : 2, whole = e->dim / ((int)e->lanes * vectors), offset = 0;
  int rest = e->dim / (int)e->lanes % vectors, last = e->dim % (int)e->lanes;
  bool pairs = e->products == SPTX_X86_PAIRS;
  sptx_x86_product product = {.rows = e->rows % 6 == 0 ? 6 : 4,
                              .lanes = e->lanes,
                              .a_stride = e->query_tile * (pairs ? 2 : 4),
                              .b_stride = e->dim * 4,
                              .accumulate = true,
                              .pairs = pairs};
  const struct {
    const char *name;
    int vectors, groups;
    unsigned lanes;
  } parts[] = {{"keys", vectors, whole, e->lanes}, {"keys_rest", rest, 1, e->lanes}, {"keys_last", 1, 1, 8}};
  const bool present[] = {whole > 0, rest > 0, last > 0};
  f->key_product_count = 0;
  for (int k = 0; k < 3; k++) {
    if (!present[k])
      continue;
    product.name = parts[k].name;
    product.vectors = parts[k].vectors;
    product.groups = parts[k].groups;
    product.lanes = parts[k].lanes;
    f->key_offset[f->key_product_count] = offset;
    f->key_products[f->key_product_count++] = sptx_x86_emit_product(e, &product);
    offset += 4 * parts[k].vectors * parts[k].groups * (int)parts[k].lanes;
  }
}

static void emit_products(sptx_x86_emitter *e, sptx_backward_functions *f) {
  int groups = e->query_tile / ((int)e->lanes * e->vectors), tile_bytes = e->query_tile * 4;
  sptx_x86_product product = {.name = "scores",
                              .rows = e->rows,
                              .vectors = e->vectors,
                              .groups = groups,
                              .lanes = e->lanes,
                              .b_stride = tile_bytes,
                              .c_stride = tile_bytes,
                              .pairs = e->products == SPTX_X86_PAIRS};
  f->scores = sptx_x86_emit_product(e, &product);
  product.name = "d_query";
  product.a_by_k = product.accumulate = true;
  product.a_stride = product.pairs ? e->dim * 4 : 0;
  f->d_query = sptx_x86_emit_product(e, &product);
  product.name = "d_query_rest";
  product.rows = 4;
  f->d_query_rest = sptx_x86_main_rows(e) < e->dim ? sptx_x86_emit_product(e, &product) : NULL;
  emit_key_products(e, f);
}

static void emit_functions(sptx_x86_emitter *e, sptx_backward_functions *f) {
  bool floats = e->products == SPTX_X86_FLOATS;
  if (e->products == SPTX_X86_TILES)
    sptx_x86_amx_emit_functions(e, &f->amx);
  else
    emit_products(e, f);
  f->finite_queries = sptx_x86_emit_finite(e, SPTX_ELEMENT_F32);
  f->finite_keys = floats ? f->finite_queries : sptx_x86_emit_finite(e, e->shape->element);
  if (!floats) {
    sptx_x86_emit_pair_rows(e);
    sptx_x86_pairs_emit_functions(e, &f->pairs);
  }
  f->careful = sptx_x86_emit_careful(e);
  f->careful_rows = sptx_x86_emit_careful_rows(e);
  f->unpack = sptx_x86_emit_unpack(e, SPTX_ELEMENT_F32);
}

static LLVMValueRef argument(sptx_x86_emitter *e, size_t field) {
  return sptx_x86_arg(e, (int64_t)field, e->ir.pointer);
}

LLVMValueRef sptx_x86_accumulator(sptx_x86_emitter *e, int64_t field, size_t output, LLVMValueRef batch,
                                  LLVMValueRef head) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef offset = sptx_x86_param(e, field);
  LLVMValueRef direct = sptx_ir_compare(ir, LLVMIntSLT, offset, sptx_ir_i64(ir, 0));
  LLVMValueRef inside = sptx_ir_at(ir, argument(e, offsetof(sptx_x86_args, workspace)), offset);
  LLVMValueRef base = sptx_ir_select(ir, direct, argument(e, output), inside);
  return sptx_x86_head_base(e, base, field + 8, batch, head);
}

/* What one item works on. */
typedef struct sptx_backward {
  sptx_x86_emitter *e;
  const sptx_backward_functions *f;
  sptx_x86_item item;
  LLVMValueRef chunk, key_begin, key_end;
  LLVMValueRef d_key_base, d_value_base;
  LLVMValueRef factor, scale; /* vectors: what is left to do to S and dP; NULL: nothing */
} sptx_backward;

/* lse in powers of two and D, lane by lane. A lane without a query, or whose query attends to nothing, gets
 * lse +inf, so that its P is 0. */
static void load_statistics(sptx_backward *b) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef scale = sptx_x86_arg(e, offsetof(sptx_x86_args, scale), ir->f32),
               infinite = sptx_ir_f32(ir, INFINITY);
  LLVMValueRef delta = sptx_ir_at(ir, argument(e, offsetof(sptx_x86_args, workspace)),
                                  sptx_x86_param(e, SPTX_X86_FIELD(delta)));
  LLVMValueRef distance =
      sptx_ir_sub(ir, LLVMBuildPtrToInt(ir->builder, delta, ir->i64, ""),
                  LLVMBuildPtrToInt(ir->builder, argument(e, offsetof(sptx_x86_args, lse)), ir->i64, ""));
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile), sptx_ir_i64(ir, 1), true,
                     NULL, 0);
  LLVMValueRef slot = sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 8));
  LLVMValueRef row =
      sptx_ir_load(ir, ir->pointer, sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.lse_row), slot), 8);
  LLVMValueRef lse = sptx_ir_fmul(ir, sptx_ir_load(ir, ir->f32, row, 4), sptx_ir_f32(ir, M_LOG2E));
  LLVMValueRef x = sptx_ir_add(ir, b->item.first, loop.index);
  LLVMValueRef outside = LLVMBuildOr(ir->builder, sptx_ir_compare(ir, LLVMIntSLT, x, b->item.queries.begin),
                                     sptx_ir_compare(ir, LLVMIntSGE, x, b->item.queries.end), "");
  LLVMValueRef empty = sptx_ir_fcompare(ir, LLVMRealOEQ, lse, sptx_ir_f32(ir, -INFINITY));
  lse = sptx_ir_select(ir, LLVMBuildOr(ir->builder, outside, empty, ""), infinite, lse);
  LLVMValueRef sum = sptx_ir_fmul(ir, sptx_ir_load(ir, ir->f32, sptx_ir_at(ir, row, distance), 4), scale);
  LLVMValueRef lane = sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 4));
  sptx_ir_store(ir, lse, sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.lse), lane), 4);
  sptx_ir_store(ir, sum, sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.delta), lane), 4);
  sptx_ir_loop_end(ir, &loop);
}

static void tensor_rows(sptx_backward *b, LLVMValueRef base, LLVMValueRef stride, int64_t table) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef before =
      sptx_ir_sub(ir, sptx_x86_param(e, SPTX_X86_FIELD(n_q)), sptx_x86_param(e, SPTX_X86_FIELD(n_k)));
  base = sptx_ir_at(ir, base, sptx_ir_mul(ir, before, stride));
  sptx_x86_rows(e, sptx_x86_scratch(e, e->layout.query_position), sptx_ir_i64(ir, e->query_tile), base,
                stride, sptx_x86_scratch(e, table));
}

/* Rows of Q, dO, dQ and lse of the tile's queries. */
static void query_rows(sptx_backward *b) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  const sptx_x86_item *item = &b->item;
  LLVMValueRef base = sptx_x86_head_base(e, argument(e, offsetof(sptx_x86_args, q)), SPTX_X86_FIELD(q),
                                         item->batch, item->head);
  tensor_rows(b, base, sptx_x86_param(e, SPTX_X86_FIELD(q) + 16), e->layout.query_row);
  base = sptx_x86_head_base(e, argument(e, offsetof(sptx_x86_args, d_o)), SPTX_X86_FIELD(o), item->batch,
                            item->head);
  tensor_rows(b, base, sptx_x86_param(e, SPTX_X86_FIELD(o) + 16), e->layout.d_output_row);
  base = sptx_x86_accumulator(e, SPTX_X86_FIELD(d_q), offsetof(sptx_x86_args, d_q), item->batch, item->head);
  LLVMValueRef partial =
      LLVMBuildURem(ir->builder, b->chunk, sptx_x86_param(e, SPTX_X86_FIELD(partials)), "");
  base = sptx_ir_at(ir, base, sptx_ir_mul(ir, partial, sptx_x86_param(e, SPTX_X86_FIELD(d_q_partial))));
  tensor_rows(b, base, sptx_x86_param(e, SPTX_X86_FIELD(d_q) + 24), e->layout.output_row);
  tensor_rows(b, base, sptx_x86_param(e, SPTX_X86_FIELD(d_q) + 24), e->layout.input_row);
  LLVMValueRef head =
      sptx_ir_add(ir, sptx_ir_mul(ir, item->batch, sptx_x86_param(e, SPTX_X86_FIELD(heads))), item->head);
  LLVMValueRef entry =
      sptx_ir_mul(ir, sptx_ir_mul(ir, head, sptx_x86_param(e, SPTX_X86_FIELD(n_q))), sptx_ir_i64(ir, 4));
  base = sptx_ir_at(ir, argument(e, offsetof(sptx_x86_args, lse)), entry);
  tensor_rows(b, base, sptx_ir_i64(ir, 4), e->layout.lse_row);
}

static void fill_ones(sptx_x86_emitter *e, int64_t table) {
  for (int lane = 0; lane < e->query_tile; lane += (int)e->lanes)
    sptx_ir_store(&e->ir, sptx_ir_splat(&e->ir, sptx_ir_f32(&e->ir, 1), e->lanes),
                  sptx_x86_scratch(e, table + 4 * lane), 32);
}

/* Q or dO: transposed, and natural copies as float32. */
static void load_rows(sptx_backward *b, LLVMValueRef factor, int64_t table, int64_t packed, int64_t copies) {
  sptx_x86_emitter *e = b->e;
  LLVMValueRef rows = sptx_x86_scratch(e, table), tile = sptx_ir_i64(&e->ir, e->query_tile);
  sptx_x86_pack(e, rows, factor, packed, e->query_tile);
  sptx_x86_call(e, e->copy_rows, (LLVMValueRef[]){rows, tile, sptx_x86_scratch(e, copies)}, 3);
}

/* The same in pairs; the float32 copies are for tiles that are not finite. */
static void load_pairs(sptx_backward *b) {
  sptx_x86_emitter *e = b->e;
  const sptx_x86_layout *l = &e->layout;
  LLVMValueRef one = sptx_ir_f32(&e->ir, 1), tile = sptx_ir_i64(&e->ir, e->query_tile);
  sptx_x86_pairs_rows(e, l->query_row, tile, l->query_pairs);
  sptx_x86_pairs_rows(e, l->d_output_row, tile, l->d_output_pairs);
  load_rows(b, one, l->query_row, l->q, l->queries);
  load_rows(b, one, l->d_output_row, l->d_o, l->d_outputs);
  sptx_x86_pairs_dims(e, &b->f->pairs, l->q, l->q_pairs);
  sptx_x86_pairs_dims(e, &b->f->pairs, l->d_o, l->d_o_pairs);
}

/* Everything about the tile's queries: transposed and natural copies, statistics, an empty dQ^T. */
static void load_queries(sptx_backward *b) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef scale = sptx_x86_arg(e, offsetof(sptx_x86_args, scale), ir->f32);
  query_rows(b);
  load_statistics(b);
  sptx_x86_guard_rows(e, LLVMConstInt(ir->i1, 1, false), b->item.first, b->item.queries.begin,
                      b->item.queries.end);
  if (e->products != SPTX_X86_FLOATS) {
    load_pairs(b);
  } else {
    load_rows(b, sptx_x86_query_factor(e), e->layout.query_row, e->layout.q, e->layout.queries);
    load_rows(b, scale, e->layout.d_output_row, e->layout.d_o, e->layout.d_outputs);
  }
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, (int64_t)e->dim * e->query_tile * 4),
                     sptx_ir_i64(ir, e->lanes * 4), true, NULL, 0);
  sptx_ir_store(ir, LLVMConstNull(e->vector),
                sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.output), loop.index), 32);
  sptx_ir_loop_end(ir, &loop);
}

static LLVMValueRef tile_row(sptx_x86_emitter *e, int64_t array, LLVMValueRef key, LLVMValueRef vector) {
  LLVMValueRef row = sptx_ir_mul(&e->ir, key, sptx_ir_i64(&e->ir, (int64_t)e->query_tile * 4));
  return sptx_ir_at(&e->ir, sptx_x86_lane_vector(e, array, vector), row);
}

/* One vector of one key: P over the score, dS over dP. */
static void emit_pair_vector(sptx_backward *b, const sptx_x86_mask *mask, LLVMValueRef key,
                             LLVMValueRef vector, LLVMValueRef lse, LLVMValueRef delta, bool masked) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef p_cell = tile_row(e, e->layout.scores, key, vector), tangent = NULL;
  LLVMValueRef d_cell = tile_row(e, e->layout.d_scores, key, vector);
  LLVMValueRef score = sptx_ir_load(ir, e->vector, p_cell, 32);
  if (b->factor)
    score = sptx_ir_fmul(ir, score, b->factor);
  score = sptx_x86_adjust(e, score, mask, vector, &tangent);
  LLVMValueRef p = sptx_x86_exp2(e, sptx_ir_fsub(ir, score, lse));
  LLVMValueRef d_p = sptx_ir_load(ir, e->vector, d_cell, 32);
  LLVMValueRef change = b->scale ? sptx_ir_fma(ir, d_p, b->scale, LLVMBuildFNeg(ir->builder, delta, ""))
                                 : sptx_ir_fsub(ir, d_p, delta);
  LLVMValueRef d_s = sptx_ir_fmul(ir, p, change);
  if (tangent) {
    LLVMValueRef one = sptx_ir_splat(ir, sptx_ir_f32(ir, 1), e->lanes);
    d_s = sptx_ir_fmul(ir, d_s, sptx_ir_fma(ir, LLVMBuildFNeg(ir->builder, tangent, ""), tangent, one));
  }
  /* Last, not by a score of -inf: lse, dP and D may be NaN for pairs that do not exist. */
  if (masked) {
    LLVMValueRef member = sptx_x86_mask_lanes(e, mask, vector), zero = LLVMConstNull(e->vector);
    p = sptx_ir_select(ir, member, p, zero);
    d_s = sptx_ir_select(ir, member, d_s, zero);
  }
  sptx_ir_store(ir, p, p_cell, 32);
  sptx_ir_store(ir, d_s, d_cell, 32);
}

static void emit_pairs(sptx_backward *b, const sptx_x86_key_walk *walk, bool masked) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  sptx_ir_loop groups, keys;
  if (e->products != SPTX_X86_FLOATS) {
    LLVMValueRef scale = sptx_x86_arg(e, offsetof(sptx_x86_args, scale), ir->f32);
    b->factor = sptx_ir_splat(ir, sptx_x86_query_factor(e), e->lanes);
    b->scale = sptx_ir_splat(ir, scale, e->lanes);
  }
  sptx_ir_loop_begin(ir, &groups, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile / (int)e->lanes),
                     sptx_ir_i64(ir, e->vectors), true, NULL, 0);
  LLVMValueRef lse[8], delta[8], vector[8];
  for (int v = 0; v < e->vectors; v++) {
    vector[v] = sptx_ir_add(ir, groups.index, sptx_ir_i64(ir, v));
    lse[v] = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.lse, vector[v]), 32);
    delta[v] = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.delta, vector[v]), 32);
  }
  sptx_ir_loop_begin(ir, &keys, sptx_ir_i64(ir, 0), walk->count, sptx_ir_i64(ir, 1), true, NULL, 0);
  sptx_x86_mask mask;
  sptx_x86_key_of(e, walk, b->item.first, keys.index, masked, &mask);
  for (int v = 0; v < e->vectors; v++)
    emit_pair_vector(b, &mask, keys.index, vector[v], lse[v], delta[v], masked);
  sptx_ir_loop_end(ir, &keys);
  sptx_ir_loop_end(ir, &groups);
}

/* i1: some input of a masked tile is not finite. */
static LLVMValueRef odd_tile(sptx_backward *b, const sptx_x86_key_walk *walk) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef count = sptx_ir_select(ir, walk->masked, sptx_ir_i64(ir, e->query_tile), sptx_ir_i64(ir, 0));
  LLVMValueRef odd =
      sptx_x86_if_not_finite(e, b->f->finite_keys, walk, sptx_x86_scratch(e, e->layout.key_row));
  const int64_t tables[] = {e->layout.query_row, e->layout.d_output_row};
  for (int k = 0; k < 2; k++) {
    LLVMValueRef fine =
        sptx_x86_call(e, b->f->finite_queries, (LLVMValueRef[]){sptx_x86_scratch(e, tables[k]), count}, 2);
    odd = LLVMBuildOr(ir->builder, odd, LLVMBuildNot(ir->builder, fine, ""), "");
  }
  return odd;
}

/* What the products of the gradients read. */
typedef struct sptx_operands {
  LLVMValueRef weights[2], others[2];    /* P and dS, dO and Q: for dV and dK */
  LLVMValueRef keys, d_s;                /* for dQ */
  LLVMValueRef queries_depth, key_depth; /* elements of the first, of the second */
} sptx_operands;

static sptx_operands float_operands(sptx_backward *b, const sptx_x86_key_walk *walk) {
  sptx_x86_emitter *e = b->e;
  const sptx_x86_layout *l = &e->layout;
  return (sptx_operands){{sptx_x86_scratch(e, l->scores), sptx_x86_scratch(e, l->d_scores)},
                         {sptx_x86_scratch(e, l->d_outputs), sptx_x86_scratch(e, l->queries)},
                         sptx_x86_scratch(e, l->key_row),
                         sptx_x86_scratch(e, l->d_scores),
                         sptx_ir_i64(&e->ir, e->query_tile),
                         walk->count};
}

/* Pairs of queries for dV and dK: neighbours in a row of P and dS. Pairs of keys for dQ. */
static sptx_operands pair_operands(sptx_backward *b, const sptx_x86_key_walk *walk) {
  sptx_x86_emitter *e = b->e;
  const sptx_x86_layout *l = &e->layout;
  LLVMValueRef padded = sptx_x86_block_padded(e, walk->count), even = sptx_x86_pairs_padded(e, walk->count);
  sptx_x86_pairs_round(e, &b->f->pairs, l->scores, padded, l->p_rounded);
  sptx_x86_pairs_round(e, &b->f->pairs, l->d_scores, padded, l->d_s_rounded);
  sptx_x86_clear_rows(e, l->d_scores, walk->count, even);
  sptx_x86_pairs_interleave(e, &b->f->pairs, sptx_x86_scratch(e, l->d_scores), even, l->weight_pairs);
  sptx_x86_pairs_rows(e, l->key_row, walk->count, l->row_pairs);
  return (sptx_operands){{sptx_x86_scratch(e, l->p_rounded), sptx_x86_scratch(e, l->d_s_rounded)},
                         {sptx_x86_scratch(e, l->d_output_pairs), sptx_x86_scratch(e, l->query_pairs)},
                         sptx_x86_scratch(e, l->row_pairs),
                         sptx_x86_scratch(e, l->weight_pairs),
                         sptx_ir_i64(&e->ir, e->query_tile / 2),
                         sptx_x86_pairs_count(e, walk->count)};
}

static void careful_gradients(sptx_backward *b, const sptx_x86_key_walk *walk, LLVMValueRef *targets) {
  sptx_x86_emitter *e = b->e;
  const sptx_backward_functions *f = b->f;
  sptx_operands o = float_operands(b, walk);
  LLVMValueRef tile = sptx_ir_i64(&e->ir, e->query_tile), d_q = sptx_x86_scratch(e, e->layout.output);
  if (e->products != SPTX_X86_FLOATS) /* the rows are still those of the tensor */
    sptx_x86_call(e, e->copy_rows, (LLVMValueRef[]){o.keys, walk->count, sptx_x86_scratch(e, e->layout.keys)},
                  3);
  for (int k = 0; k < 2; k++)
    sptx_x86_call(e, f->careful_rows,
                  (LLVMValueRef[]){o.weights[k], o.others[k], targets[k], walk->count, tile}, 5);
  sptx_x86_call(e, f->careful, (LLVMValueRef[]){o.keys, o.d_s, d_q, walk->count, tile}, 5);
}

static void vector_gradients(sptx_backward *b, const sptx_x86_key_walk *walk, LLVMValueRef *targets) {
  sptx_x86_emitter *e = b->e;
  const sptx_backward_functions *f = b->f;
  sptx_ir *ir = &e->ir;
  LLVMValueRef zero = sptx_ir_i64(ir, 0), middle = sptx_ir_i64(ir, sptx_x86_main_rows(e)),
               end = sptx_ir_i64(ir, e->dim), d_q = sptx_x86_scratch(e, e->layout.output);
  sptx_operands o = e->products == SPTX_X86_PAIRS ? pair_operands(b, walk) : float_operands(b, walk);
  for (int k = 0; k < 2; k++)
    for (int part = 0; part < f->key_product_count; part++)
      sptx_x86_call(e, f->key_products[part],
                    (LLVMValueRef[]){o.weights[k], o.others[k], targets[k], zero, walk->count,
                                     o.queries_depth, sptx_ir_i64(ir, f->key_offset[part])},
                    7);
  sptx_x86_call(e, f->d_query, (LLVMValueRef[]){o.keys, o.d_s, d_q, zero, middle, o.key_depth, zero}, 7);
  if (f->d_query_rest)
    sptx_x86_call(e, f->d_query_rest, (LLVMValueRef[]){o.keys, o.d_s, d_q, middle, end, o.key_depth, zero},
                  7);
}

/* The keys that pad the tile get P and dS of 0. */
static void tile_gradients(sptx_backward *b, const sptx_x86_key_walk *walk, LLVMValueRef *targets) {
  sptx_x86_emitter *e = b->e;
  const sptx_x86_layout *l = &e->layout;
  LLVMValueRef padded = sptx_x86_pairs_padded(e, walk->count);
  const int64_t floats[] = {l->scores, l->d_scores}, rounded[] = {l->p_rounded, l->d_s_rounded},
                others[] = {l->d_output_pairs, l->query_pairs};
  for (int k = 0; k < 2; k++) {
    sptx_x86_clear_rows(e, floats[k], walk->count, padded);
    sptx_x86_pairs_round(e, &b->f->pairs, floats[k], padded, rounded[k]);
    sptx_x86_amx_gradient(e, &b->f->amx, sptx_x86_scratch(e, rounded[k]), sptx_x86_scratch(e, others[k]),
                          targets[k], walk->count);
  }
  sptx_x86_pairs_interleave(e, &b->f->pairs, sptx_x86_scratch(e, l->d_scores), padded, l->weight_pairs);
  sptx_x86_amx_output(e, &b->f->amx, sptx_x86_scratch(e, l->output), sptx_ir_i64(&e->ir, 0), walk->count);
}

static void emit_gradients(sptx_backward *b, const sptx_x86_key_walk *walk) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef targets[] = {sptx_x86_scratch(e, e->layout.d_value_row),
                            sptx_x86_scratch(e, e->layout.d_key_row)};
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, odd_tile(b, walk));
  careful_gradients(b, walk, targets);
  sptx_ir_else(ir, &branch);
  if (e->products == SPTX_X86_TILES)
    tile_gradients(b, walk, targets);
  else
    vector_gradients(b, walk, targets);
  sptx_ir_end_if(ir, &branch);
}

/* The rows that pad the tile to whole register blocks are written where nobody reads: they are keys of other
 * tiles, perhaps of other threads, and 0 times a NaN of dO is no 0. */
static void gradient_rows(sptx_backward *b, const sptx_x86_key_walk *walk) {
  sptx_x86_emitter *e = b->e;
  LLVMValueRef positions = sptx_x86_scratch(e, e->layout.key_position);
  LLVMValueRef padded = sptx_x86_block_padded(e, walk->count);
  sptx_x86_rows(e, positions, walk->count, b->d_key_base, sptx_x86_param(e, SPTX_X86_FIELD(d_k) + 24),
                sptx_x86_scratch(e, e->layout.d_key_row));
  sptx_x86_rows(e, positions, walk->count, b->d_value_base, sptx_x86_param(e, SPTX_X86_FIELD(d_v) + 24),
                sptx_x86_scratch(e, e->layout.d_value_row));
  sptx_x86_point_rows(e, e->layout.d_key_row, walk->count, padded, e->layout.dump_row);
  sptx_x86_point_rows(e, e->layout.d_value_row, walk->count, padded, e->layout.dump_row);
}

/* S^T = K Q^T and dP^T = V dO^T. */
static void vector_scores(sptx_backward *b, const sptx_x86_key_walk *walk) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  const sptx_x86_layout *l = &e->layout;
  bool pairs = e->products == SPTX_X86_PAIRS;
  const int64_t rows[] = {l->key_row, l->value_row}, scores[] = {l->scores, l->d_scores},
                queries[] = {pairs ? l->q_pairs : l->q, pairs ? l->d_o_pairs : l->d_o};
  LLVMValueRef zero = sptx_ir_i64(ir, 0), dim = sptx_ir_i64(ir, pairs ? e->dim / 2 : e->dim);
  for (int k = 0; k < 2; k++) {
    LLVMValueRef arguments[] = {sptx_x86_scratch(e, rows[k]),
                                sptx_x86_scratch(e, queries[k]),
                                sptx_x86_scratch(e, scores[k]),
                                zero,
                                walk->count,
                                dim,
                                zero};
    sptx_x86_call(e, b->f->scores, arguments, 7);
  }
}

static void emit_step(sptx_backward *b, const sptx_x86_key_walk *walk) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  sptx_ir_branch branch, kind;
  sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntSGT, walk->count, sptx_ir_i64(ir, 0)));
  sptx_x86_key_rows(e, &b->item.keys, walk, b->item.bases[0], b->item.bases[1]);
  gradient_rows(b, walk);
  if (e->products == SPTX_X86_TILES)
    sptx_x86_amx_backward_scores(e, &b->f->amx, walk->count);
  else
    vector_scores(b, walk);
  sptx_ir_if(ir, &kind, walk->masked);
  emit_pairs(b, walk, true);
  sptx_ir_else(ir, &kind);
  emit_pairs(b, walk, false);
  sptx_ir_end_if(ir, &kind);
  emit_gradients(b, walk);
  sptx_ir_end_if(ir, &branch);
}

/* Has the tile any key in this item's range? Listed tiles are asked one by one. */
static LLVMValueRef tile_sees_keys(sptx_backward *b) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  if (e->shape->listed)
    return LLVMConstInt(ir->i1, 1, false);
  LLVMValueRef sees = NULL;
  LLVMValueRef low[2], high[2];
  for (int end = 0; end < 2; end++) {
    int lane = end * (e->query_tile - 1);
    low[end] = sptx_ir_load(ir, ir->i32, sptx_x86_scratch(e, e->layout.low + 4 * lane), 4);
    high[end] = sptx_ir_add(ir, low[end],
                            sptx_ir_load(ir, ir->i32, sptx_x86_scratch(e, e->layout.width + 4 * lane), 4));
    low[end] = LLVMBuildSExt(ir->builder, low[end], ir->i64, "");
    high[end] = LLVMBuildSExt(ir->builder, high[end], ir->i64, "");
  }
  LLVMValueRef begin = sptx_ir_max(ir, sptx_ir_min(ir, low[0], low[1]), b->key_begin);
  LLVMValueRef end = sptx_ir_min(ir, sptx_ir_max(ir, high[0], high[1]), b->key_end);
  sees = sptx_ir_compare(ir, LLVMIntSLT, begin, end);
  return sees;
}

static void emit_query_tile(sptx_backward *b) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  if (!e->shape->listed)
    sptx_x86_bounds(e, &b->item.queries, &b->item.keys, b->item.first);
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, tile_sees_keys(b));
  sptx_x86_positions(e, &b->item.queries, b->item.first, sptx_ir_i64(ir, e->query_tile),
                     sptx_x86_scratch(e, e->layout.query_position));
  load_queries(b);
  sptx_x86_key_walk walk;
  sptx_x86_key_walk_begin(e, &b->item.keys, b->item.first, b->key_begin, b->key_end, &walk);
  emit_step(b, &walk);
  sptx_x86_key_walk_end(e, &walk);
  sptx_x86_unpack(e, b->f->unpack, e->query_tile);
  sptx_ir_end_if(ir, &branch);
}

/* Items count shared values fastest, then units, batches, and ranges of keys last: under a causal band the
 * first range costs most and so comes first. */
static LLVMValueRef open_item(sptx_backward *b) {
  sptx_x86_emitter *e = b->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef rest = e->item;
  LLVMValueRef shared = sptx_x86_take_digit(e, &rest, sptx_x86_param(e, SPTX_X86_FIELD(shared_total)));
  LLVMValueRef unit = sptx_x86_take_digit(e, &rest, sptx_x86_param(e, SPTX_X86_FIELD(unit_count)));
  LLVMValueRef batches = sptx_x86_param(e, SPTX_X86_FIELD(batches));
  b->item.batch = sptx_x86_take_digit(e, &rest, batches);
  b->chunk = rest;
  b->item.kv_head = sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, kv_head));
  sptx_x86_query_side(e, shared, &b->item.queries);
  sptx_x86_key_side(e, shared, &b->item.keys);
  LLVMValueRef keys = sptx_x86_param(e, SPTX_X86_FIELD(chunk_keys));
  b->key_begin = sptx_ir_max(ir, sptx_ir_mul(ir, b->chunk, keys), b->item.keys.begin);
  b->key_end =
      sptx_ir_min(ir, sptx_ir_mul(ir, sptx_ir_add(ir, b->chunk, sptx_ir_i64(ir, 1)), keys), b->item.keys.end);
  sptx_ir_return_if(ir, sptx_ir_compare(ir, LLVMIntSGE, b->key_begin, b->key_end));
  sptx_x86_key_bases(e, &b->item);
  b->d_key_base = sptx_x86_accumulator(e, SPTX_X86_FIELD(d_k), offsetof(sptx_x86_args, d_k), b->item.batch,
                                       b->item.kv_head);
  b->d_value_base = sptx_x86_accumulator(e, SPTX_X86_FIELD(d_v), offsetof(sptx_x86_args, d_v), b->item.batch,
                                         b->item.kv_head);
  return unit;
}

void sptx_x86_emit_backward(sptx_x86_emitter *e, const char *symbol) {
  sptx_ir *ir = &e->ir;
  sptx_backward_functions f;
  sptx_x86_emit_view_functions(e);
  if (!e->shape->listed)
    sptx_x86_emit_bound(e);
  sptx_x86_emit_pack(e);
  sptx_x86_emit_copy_rows(e);
  sptx_x86_emit_fetch(e);
  sptx_x86_emit_key_rows(e);
  emit_functions(e, &f);
  sptx_x86_emitter_kernel(e, symbol);
  sptx_backward b = {.e = e, .f = &f};
  LLVMValueRef unit = open_item(&b), first = sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, first));
  LLVMValueRef last = sptx_ir_add(ir, first, sptx_x86_unit_field(e, unit, offsetof(sptx_x86_unit, count)));
  sptx_x86_key_rows_begin(e);
  if (e->products == SPTX_X86_TILES)
    sptx_x86_amx_configure(e);
  fill_ones(e, e->layout.weight);
  fill_ones(e, e->layout.earlier);
  sptx_ir_loop heads, tiles;
  sptx_ir_loop_begin(ir, &heads, first, last, sptx_ir_i64(ir, 1), true, NULL, 0);
  b.item.head = sptx_x86_head_number(e, unit, heads.index);
  if (e->shape->alibi)
    sptx_x86_fill_slopes(e, b.item.head);
  LLVMValueRef tile = sptx_ir_i64(ir, e->query_tile), origin = b.item.queries.begin;
  if (e->shape->listed) /* on the list's grid */
    origin = sptx_ir_mul(ir, sptx_ir_div(ir, origin, tile), tile);
  /* From the last tile on: under a causal band it sees the keys of all others, whose copies then stand ready.
   */
  LLVMValueRef length = sptx_ir_sub(ir, b.item.queries.end, origin), one = sptx_ir_i64(ir, 1);
  LLVMValueRef count = sptx_ir_div(ir, sptx_ir_add(ir, length, sptx_ir_sub(ir, tile, one)), tile);
  sptx_ir_loop_begin(ir, &tiles, sptx_ir_i64(ir, 0), count, one, false, NULL, 0);
  LLVMValueRef index = sptx_ir_sub(ir, sptx_ir_sub(ir, count, one), tiles.index);
  b.item.first = sptx_ir_add(ir, origin, sptx_ir_mul(ir, index, tile));
  emit_query_tile(&b);
  sptx_ir_loop_end(ir, &tiles);
  sptx_ir_loop_end(ir, &heads);
  if (e->products == SPTX_X86_TILES)
    sptx_x86_amx_release(e);
  LLVMBuildRetVoid(ir->builder);
}
