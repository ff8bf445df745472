/* The forward kernel, and decode, which is the same with the heads of a group in the lanes instead of the
 * queries of a tile. Online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) in powers of two: q is
 * scaled by scale * log2(e) when it is packed.
 *
 * For each tile of keys: S^T = K Q^T, the lanes' maxima, P^T = exp2(S^T - max), O^T += V^T P^T. */
#include "gen/x86/forward.h"

#include "gen/x86/amx.h"

#include <float.h>
#include <math.h>

static LLVMValueRef splat(sptx_x86_emitter *e, LLVMValueRef scalar) {
  return sptx_ir_splat(&e->ir, scalar, e->lanes);
}

static LLVMValueRef number(sptx_x86_emitter *e, double value) {
  return splat(e, sptx_ir_f32(&e->ir, value));
}

static int64_t vector_bytes(const sptx_x86_emitter *e) {
  return (int64_t)e->lanes * 4;
}

LLVMValueRef sptx_x86_lane_vector(sptx_x86_emitter *e, int64_t array, LLVMValueRef vector) {
  LLVMValueRef bytes = sptx_ir_mul(&e->ir, vector, sptx_ir_i64(&e->ir, vector_bytes(e)));
  return sptx_ir_at(&e->ir, sptx_x86_scratch(e, array), bytes);
}

/* The factor that q is packed with: scores in powers of two, or twice that over the cap for tanh. */
LLVMValueRef sptx_x86_query_factor(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef scale = sptx_x86_arg(e, offsetof(sptx_x86_args, scale), ir->f32);
  if (e->mutant == SPTX_X86_MUTANT_SCALE)
    scale = sptx_ir_f32(ir, 1);
  if (!e->shape->soft_cap)
    return sptx_ir_fmul(ir, scale, sptx_ir_f32(ir, M_LOG2E));
  LLVMValueRef cap = sptx_x86_arg(e, offsetof(sptx_x86_args, soft_cap), ir->f32);
  return sptx_ir_fdiv(ir, sptx_ir_fmul(ir, scale, sptx_ir_f32(ir, 2 * M_LOG2E)), cap);
}

LLVMValueRef sptx_x86_adjust(sptx_x86_emitter *e, LLVMValueRef score, const sptx_x86_mask *mask,
                             LLVMValueRef vector, LLVMValueRef *tangent) {
  sptx_ir *ir = &e->ir;
  if (e->shape->soft_cap) {
    LLVMValueRef cap = sptx_x86_arg(e, offsetof(sptx_x86_args, soft_cap), ir->f32);
    LLVMValueRef t = sptx_x86_tanh(e, score);
    if (tangent)
      *tangent = t;
    score = sptx_ir_fmul(ir, t, splat(e, sptx_ir_fmul(ir, cap, sptx_ir_f32(ir, M_LOG2E))));
  }
  if (e->shape->alibi) {
    LLVMTypeRef integers = LLVMVectorType(ir->i32, e->lanes);
    LLVMValueRef query =
        sptx_ir_load(ir, integers, sptx_x86_lane_vector(e, e->layout.query_position, vector), 32);
    LLVMValueRef distance = sptx_ir_sub(ir, splat(e, mask->key_position), query);
    LLVMValueRef slope = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.slope, vector), 32);
    score = sptx_ir_fma(ir, slope, LLVMBuildSIToFP(ir->builder, distance, e->vector, ""), score);
  }
  return score;
}

/* What a mask or a score change needs to know about key `index` of the tile. */
void sptx_x86_key_of(sptx_x86_emitter *e, const sptx_x86_key_walk *walk, LLVMValueRef query_first,
                     LLVMValueRef index, bool masked, sptx_x86_mask *mask) {
  sptx_ir *ir = &e->ir;
  *mask = (sptx_x86_mask){0};
  LLVMValueRef positions = sptx_x86_scratch(e, e->layout.key_position);
  LLVMValueRef address = sptx_ir_at(ir, positions, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 4)));
  mask->key_position = sptx_ir_load(ir, ir->i32, address, 4);
  mask->key_index = LLVMBuildTrunc(ir->builder, sptx_ir_add(ir, walk->first, index), ir->i32, "");
  if (masked && e->shape->listed) {
    LLVMValueRef row = sptx_ir_at(ir, walk->bits, sptx_ir_mul(ir, index, sptx_ir_i64(ir, 8)));
    LLVMValueRef first = LLVMBuildAnd(ir->builder, query_first, sptx_ir_i64(ir, SPTX_GENERIC_TILE - 1), "");
    mask->bits = LLVMBuildLShr(ir->builder, sptx_ir_load(ir, ir->i64, row, 8), first, "");
    /* All lanes of a decode are the same query. */
    if (e->shape->family == SPTX_X86_DECODE)
      mask->bits =
          LLVMBuildSExt(ir->builder, LLVMBuildTrunc(ir->builder, mask->bits, ir->i1, ""), ir->i64, "");
  }
}

/* The inner loops of the softmax over one group of vectors. */
typedef struct sptx_softmax {
  sptx_x86_emitter *e;
  const sptx_x86_key_walk *walk;
  LLVMValueRef query_first, first_vector;
} sptx_softmax;

static LLVMValueRef group_vector(const sptx_softmax *softmax, int v) {
  return sptx_ir_add(&softmax->e->ir, softmax->first_vector, sptx_ir_i64(&softmax->e->ir, v));
}

static LLVMValueRef score_address(const sptx_softmax *softmax, LLVMValueRef key, int v) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef row = sptx_ir_mul(ir, key, sptx_ir_i64(ir, (int64_t)e->query_tile * 4));
  row = sptx_ir_at(ir, sptx_x86_lane_vector(e, e->layout.scores, softmax->first_vector), row);
  return sptx_ir_at_constant(ir, row, v * vector_bytes(e));
}

/* New maxima to `factor` in scratch; adjusted and masked scores go back to their place. */
static void emit_maxima(const sptx_softmax *softmax, bool masked) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  bool amx = sptx_x86_uses_amx(e->shape), changes = masked || amx || e->shape->soft_cap || e->shape->alibi;
  LLVMValueRef factor = amx ? splat(e, sptx_x86_query_factor(e)) : NULL; /* q is packed unscaled */
  LLVMValueRef maxima[8];
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = sptx_x86_lane_vector(e, e->layout.maximum, group_vector(softmax, v));
    maxima[v] = sptx_ir_load(ir, e->vector, address, 32);
  }
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), softmax->walk->count, sptx_ir_i64(ir, 1), true, maxima,
                     (unsigned)e->vectors);
  sptx_x86_mask mask;
  if (changes)
    sptx_x86_key_of(e, softmax->walk, softmax->query_first, loop.index, masked, &mask);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = score_address(softmax, loop.index, v);
    LLVMValueRef score = sptx_ir_load(ir, e->vector, address, 32);
    if (amx)
      score = sptx_ir_fmul(ir, score, factor);
    if (changes) {
      score = sptx_x86_adjust(e, score, &mask, group_vector(softmax, v), NULL);
      if (masked) {
        LLVMValueRef member = sptx_x86_mask_lanes(e, &mask, group_vector(softmax, v));
        score = sptx_ir_select(ir, member, score, number(e, -INFINITY));
      }
      sptx_ir_store(ir, score, address, 32);
    }
    loop.carried[v] = sptx_ir_max(ir, loop.carried[v], score);
  }
  sptx_ir_loop_end(ir, &loop);
  for (int v = 0; v < e->vectors; v++)
    sptx_ir_store(ir, loop.carried[v], sptx_x86_lane_vector(e, e->layout.factor, group_vector(softmax, v)),
                  32);
}

/* P^T = exp2(S^T - max) in place of the scores, and their sums. */
static void emit_exponentials(const sptx_softmax *softmax, LLVMValueRef *reference, LLVMValueRef *sums) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  for (int v = 0; v < e->vectors; v++)
    sums[v] = number(e, 0);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), softmax->walk->count, sptx_ir_i64(ir, 1), true, sums,
                     (unsigned)e->vectors);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = score_address(softmax, loop.index, v);
    LLVMValueRef score = sptx_ir_load(ir, e->vector, address, 32);
    LLVMValueRef power = sptx_x86_exp2(e, sptx_ir_fsub(ir, score, reference[v]));
    sptx_ir_store(ir, power, address, 32);
    loop.carried[v] = sptx_ir_fadd(ir, loop.carried[v], power);
  }
  sptx_ir_loop_end(ir, &loop);
  for (int v = 0; v < e->vectors; v++)
    sums[v] = loop.carried[v];
}

/* O^T *= alpha for the lanes of the group. */
static void emit_rescale(const sptx_softmax *softmax, LLVMValueRef *alpha) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, (int64_t)e->dim * e->query_tile * 4),
                     sptx_ir_i64(ir, (int64_t)e->query_tile * 4), true, NULL, 0);
  LLVMValueRef row =
      sptx_ir_at(ir, sptx_x86_lane_vector(e, e->layout.output, softmax->first_vector), loop.index);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = sptx_ir_at_constant(ir, row, v * vector_bytes(e));
    sptx_ir_store(ir, sptx_ir_fmul(ir, sptx_ir_load(ir, e->vector, address, 32), alpha[v]), address, 32);
  }
  sptx_ir_loop_end(ir, &loop);
}

static void emit_group(const sptx_softmax *softmax) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, softmax->walk->masked);
  emit_maxima(softmax, true);
  sptx_ir_else(ir, &branch);
  emit_maxima(softmax, false);
  sptx_ir_end_if(ir, &branch);
  LLVMValueRef reference[8], alpha[8], sums[8], grows = LLVMConstInt(ir->i1, 0, false);
  LLVMTypeRef flags = LLVMIntTypeInContext(ir->context, e->lanes);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef vector = group_vector(softmax, v);
    LLVMValueRef old = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.maximum, vector), 32);
    LLVMValueRef maximum = sptx_ir_load(ir, e->vector, sptx_x86_lane_vector(e, e->layout.factor, vector), 32);
    sptx_ir_store(ir, maximum, sptx_x86_lane_vector(e, e->layout.maximum, vector), 32);
    /* A lane without any key yet keeps -inf; 0 stands in, since -inf - -inf is no number. */
    LLVMValueRef none = sptx_ir_fcompare(ir, LLVMRealOEQ, maximum, number(e, -INFINITY));
    reference[v] = sptx_ir_select(ir, none, number(e, 0), maximum);
    alpha[v] = sptx_x86_exp2(e, sptx_ir_fsub(ir, old, reference[v]));
    LLVMValueRef differs = sptx_ir_fcompare(ir, LLVMRealUNE, old, maximum);
    differs = LLVMBuildBitCast(ir->builder, differs, flags, "");
    LLVMValueRef some = sptx_ir_compare(ir, LLVMIntNE, differs, LLVMConstNull(flags));
    grows = LLVMBuildOr(ir->builder, grows, some, "");
  }
  emit_exponentials(softmax, reference, sums);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = sptx_x86_lane_vector(e, e->layout.sum, group_vector(softmax, v));
    sptx_ir_store(ir, sptx_ir_fma(ir, sptx_ir_load(ir, e->vector, address, 32), alpha[v], sums[v]), address,
                  32);
  }
  sptx_ir_if(ir, &branch, grows);
  emit_rescale(softmax, alpha);
  sptx_ir_end_if(ir, &branch);
}

/* void softmax(args, params, first query, scratch, first key, count, masked, bits): of a tile of keys. */
static LLVMValueRef emit_softmax(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->i64, ir->i64, ir->i1, ir->pointer};
  LLVMValueRef function = sptx_x86_bound_function(e, "softmax", types, 4);
  sptx_x86_key_walk walk = {.first = LLVMGetParam(function, 4),
                            .count = LLVMGetParam(function, 5),
                            .masked = LLVMGetParam(function, 6),
                            .bits = LLVMGetParam(function, 7)};
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile / (int)e->lanes),
                     sptx_ir_i64(ir, e->vectors), true, NULL, 0);
  sptx_softmax softmax = {e, &walk, e->item, loop.index};
  emit_group(&softmax);
  sptx_ir_loop_end(ir, &loop);
  LLVMBuildRetVoid(ir->builder);
  return function;
}

/* The functions that main calls: products of the two steps, and the careful product. */
typedef struct sptx_forward_functions {
  LLVMValueRef scores, softmax, values, values_rest, finite, careful, epilogue;
  sptx_x86_amx amx;
} sptx_forward_functions;

/* dim = rows * a + 4 * b; the second product takes what blocks of `rows` leave. */
int sptx_x86_main_rows(const sptx_x86_emitter *e) {
  int main = e->dim / e->rows * e->rows;
  while ((e->dim - main) % 4)
    main -= e->rows;
  return main;
}

static void emit_functions(sptx_x86_emitter *e, sptx_forward_functions *f) {
  int groups = e->query_tile / ((int)e->lanes * e->vectors), tile_bytes = e->query_tile * 4;
  sptx_x86_product product = {.name = "scores",
                              .rows = e->rows,
                              .vectors = e->vectors,
                              .groups = groups,
                              .lanes = e->lanes,
                              .b_stride = tile_bytes,
                              .c_stride = tile_bytes};
  f->softmax = emit_softmax(e);
  f->epilogue = sptx_x86_emit_epilogue(e);
  f->finite = sptx_x86_emit_finite(e);
  f->careful = sptx_x86_emit_careful(e);
  if (sptx_x86_uses_amx(e->shape)) {
    sptx_x86_amx_emit_functions(e, &f->amx);
    return;
  }
  f->scores = sptx_x86_emit_product(e, &product);
  product.name = "values";
  product.a_by_k = product.accumulate = true;
  f->values = sptx_x86_emit_product(e, &product);
  product.name = "values_rest";
  product.rows = 4;
  f->values_rest = sptx_x86_main_rows(e) < e->dim ? sptx_x86_emit_product(e, &product) : NULL;
}

/* O^T += V^T P^T. Where pairs are masked and V holds an infinity or NaN, 0 * V must not reach the lanes that
 * do not attend to it: the careful product leaves P = 0 out. */
static void emit_values(sptx_x86_emitter *e, const sptx_forward_functions *f, const sptx_x86_key_walk *walk) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef table = sptx_x86_scratch(e, e->layout.value_row),
               scores = sptx_x86_scratch(e, e->layout.scores);
  LLVMValueRef output = sptx_x86_scratch(e, e->layout.output), zero = sptx_ir_i64(ir, 0);
  bool amx = sptx_x86_uses_amx(e->shape);
  sptx_ir_branch branch;
  if (amx) { /* the rows are still those of the tensor */
    sptx_ir_if(ir, &branch, walk->masked);
    sptx_x86_call(e, e->copy_rows,
                  (LLVMValueRef[]){table, walk->count, sptx_x86_scratch(e, e->layout.values)}, 3);
    sptx_ir_end_if(ir, &branch);
  }
  LLVMValueRef odd = sptx_x86_if_not_finite(e, f->finite, walk, table);
  sptx_ir_if(ir, &branch, odd);
  sptx_x86_call(e, f->careful,
                (LLVMValueRef[]){table, scores, output, walk->count, sptx_ir_i64(ir, e->query_tile)}, 5);
  sptx_ir_else(ir, &branch);
  LLVMValueRef middle = sptx_ir_i64(ir, sptx_x86_main_rows(e)), end = sptx_ir_i64(ir, e->dim);
  if (amx)
    sptx_x86_amx_output(e, &f->amx, walk->count);
  else
    sptx_x86_call(e, f->values, (LLVMValueRef[]){table, scores, output, zero, middle, walk->count, zero}, 7);
  if (!amx && f->values_rest)
    sptx_x86_call(e, f->values_rest, (LLVMValueRef[]){table, scores, output, middle, end, walk->count, zero},
                  7);
  sptx_ir_end_if(ir, &branch);
}

static void emit_step(sptx_x86_emitter *e, const sptx_forward_functions *f, const sptx_x86_side *keys,
                      const sptx_x86_key_walk *walk, LLVMValueRef query_first, LLVMValueRef *bases) {
  sptx_ir *ir = &e->ir;
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntSGT, walk->count, sptx_ir_i64(ir, 0)));
  sptx_x86_key_rows(e, keys, walk, bases[0], bases[1]);
  LLVMValueRef arguments[] = {sptx_x86_scratch(e, e->layout.key_row),
                              sptx_x86_scratch(e, e->layout.q),
                              sptx_x86_scratch(e, e->layout.scores),
                              sptx_ir_i64(ir, 0),
                              walk->count,
                              sptx_ir_i64(ir, e->dim),
                              sptx_ir_i64(ir, 0)};
  if (sptx_x86_uses_amx(e->shape))
    sptx_x86_amx_scores(e, &f->amx, walk->count);
  else
    sptx_x86_call(e, f->scores, arguments, 7);
  LLVMValueRef bits = walk->bits ? walk->bits : LLVMConstNull(ir->pointer);
  LLVMValueRef softmax[] = {e->args,     e->params,   query_first,  e->scratch,
                            walk->first, walk->count, walk->masked, bits};
  sptx_x86_call(e, f->softmax, softmax, 8);
  emit_values(e, f, walk);
  sptx_ir_end_if(ir, &branch);
}

static void fill(sptx_x86_emitter *e, int64_t array, int64_t bytes, double value) {
  sptx_ir *ir = &e->ir;
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, bytes), sptx_ir_i64(ir, vector_bytes(e)),
                     true, NULL, 0);
  sptx_ir_store(ir, number(e, value), sptx_ir_at(ir, sptx_x86_scratch(e, array), loop.index), 32);
  sptx_ir_loop_end(ir, &loop);
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
  bool amx = sptx_x86_uses_amx(e->shape);
  LLVMValueRef factor = amx ? sptx_ir_f32(ir, 1) : sptx_x86_query_factor(e);
  sptx_x86_pack(e, table, factor, e->layout.q, sptx_x86_param(e, SPTX_X86_FIELD(ahead_q)));
  if (amx)
    sptx_x86_amx_queries(e);
  fill(e, e->layout.output, (int64_t)e->dim * e->query_tile * 4, 0);
  fill(e, e->layout.maximum, (int64_t)e->query_tile * 4, -INFINITY);
  fill(e, e->layout.sum, (int64_t)e->query_tile * 4, 0);
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
  sptx_x86_emit_key_rows(e);
  e->unpack = sptx_x86_emit_unpack(e, e->shape->element);
  e->unpack_running =
      e->shape->element == SPTX_ELEMENT_F32 ? NULL : sptx_x86_emit_unpack(e, SPTX_ELEMENT_F32);
  emit_functions(e, &f);
  LLVMValueRef tile = emit_tile(e, &f);
  sptx_x86_emitter_kernel(e, symbol);
  sptx_x86_forget_copies(e);
  /* Neighbouring tiles and shared values stay on one core: their rows lie in the same pages and lines. */
  LLVMValueRef count = sptx_x86_param(e, SPTX_X86_FIELD(tile_items)), begin = sptx_ir_mul(ir, e->item, count);
  LLVMValueRef end =
      sptx_ir_min(ir, sptx_ir_add(ir, begin, count), sptx_x86_param(e, SPTX_X86_FIELD(total_tiles)));
  sptx_ir_loop loop;
  if (sptx_x86_uses_amx(e->shape))
    sptx_x86_amx_configure(e);
  sptx_ir_loop_begin(ir, &loop, begin, end, sptx_ir_i64(ir, 1), false, NULL, 0);
  sptx_x86_call(e, tile, (LLVMValueRef[]){e->args, e->params, loop.index, e->scratch}, 4);
  sptx_ir_loop_end(ir, &loop);
  if (sptx_x86_uses_amx(e->shape))
    sptx_x86_amx_release(e);
  LLVMBuildRetVoid(ir->builder);
}
