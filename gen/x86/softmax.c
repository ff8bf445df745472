/* The softmax of the forward between its two products: scores scaled, capped, biased and masked in their
 * place, the lanes' maxima, exponentials and sums; the changes of scores serve the backward, too. */
#include "gen/x86/forward.h"

#include "gen/x86/pairs.h"

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

/* The inner loops of the softmax over one group of vectors. Of the keys begin .. end of the tile, those of
 * common_begin .. common_end are in every lane's band or list: only the others need a mask. */
typedef struct sptx_softmax {
  sptx_x86_emitter *e;
  const sptx_x86_key_walk *walk;
  LLVMValueRef query_first, begin, end, common_begin, common_end;
  LLVMValueRef first_vector, in_panel; /* of the query tile's vectors; of the panel's */
  LLVMValueRef factor;                 /* what the scores are to be multiplied with; NULL: q was */
} sptx_softmax;

static LLVMValueRef group_vector(const sptx_softmax *softmax, int v) {
  return sptx_ir_add(&softmax->e->ir, softmax->first_vector, sptx_ir_i64(&softmax->e->ir, v));
}

static LLVMValueRef score_address(const sptx_softmax *softmax, LLVMValueRef key, int v) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef row = sptx_ir_mul(ir, key, sptx_ir_i64(ir, (int64_t)e->panel * 4));
  row = sptx_ir_at(ir, sptx_x86_lane_vector(e, e->layout.scores, softmax->in_panel), row);
  return sptx_ir_at_constant(ir, row, v * vector_bytes(e));
}

/* One change of the scores in their place. */
typedef LLVMValueRef sptx_score_change(const sptx_softmax *softmax, const sptx_x86_mask *mask, int v,
                                       LLVMValueRef score);

static LLVMValueRef adjusted(const sptx_softmax *softmax, const sptx_x86_mask *mask, int v,
                             LLVMValueRef score) {
  sptx_x86_emitter *e = softmax->e;
  if (softmax->factor)
    score = sptx_ir_fmul(&e->ir, score, softmax->factor);
  return sptx_x86_adjust(e, score, mask, group_vector(softmax, v), NULL);
}

static LLVMValueRef masked(const sptx_softmax *softmax, const sptx_x86_mask *mask, int v,
                           LLVMValueRef score) {
  sptx_x86_emitter *e = softmax->e;
  LLVMValueRef member = sptx_x86_mask_lanes(e, mask, group_vector(softmax, v));
  return sptx_ir_select(&e->ir, member, score, number(e, -INFINITY));
}

/* Changes the scores of keys begin .. end; the keys skip_begin .. skip_end between them are left out. */
static void change_scores(const sptx_softmax *softmax, LLVMValueRef skip_begin, LLVMValueRef skip_end,
                          sptx_score_change *change) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef one = sptx_ir_i64(ir, 1), skipped = sptx_ir_sub(ir, skip_end, skip_begin);
  LLVMValueRef at_once = sptx_ir_compare(ir, LLVMIntEQ, softmax->begin, skip_begin);
  LLVMValueRef begin = sptx_ir_select(ir, at_once, skip_end, softmax->begin);
  sptx_ir_loop loop;
  sptx_x86_mask mask;
  sptx_ir_loop_begin(ir, &loop, begin, softmax->end, one, false, NULL, 0);
  sptx_x86_key_of(e, softmax->walk, softmax->query_first, loop.index, true, &mask);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = score_address(softmax, loop.index, v);
    sptx_ir_store(ir, change(softmax, &mask, v, sptx_ir_load(ir, e->vector, address, 32)), address, 32);
  }
  LLVMValueRef skips = sptx_ir_compare(ir, LLVMIntEQ, sptx_ir_add(ir, loop.index, one), skip_begin);
  loop.step = sptx_ir_select(ir, skips, sptx_ir_add(ir, skipped, one), one);
  sptx_ir_loop_end(ir, &loop);
}

static LLVMValueRef adjusted_and_masked(const sptx_softmax *softmax, const sptx_x86_mask *mask, int v,
                                        LLVMValueRef score) {
  return masked(softmax, mask, v, adjusted(softmax, mask, v, score));
}

/* The maxima with the scores of keys begin .. end, which are adjusted in their place on the way. */
static void emit_maxima_of(const sptx_softmax *softmax, LLVMValueRef begin, LLVMValueRef end, bool adjusts,
                           bool at_least_once, LLVMValueRef *maxima) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  sptx_x86_mask mask;
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, begin, end, sptx_ir_i64(ir, 1), at_least_once, maxima, (unsigned)e->vectors);
  if (adjusts)
    sptx_x86_key_of(e, softmax->walk, softmax->query_first, loop.index, false, &mask);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = score_address(softmax, loop.index, v);
    LLVMValueRef score = sptx_ir_load(ir, e->vector, address, 32);
    if (adjusts)
      sptx_ir_store(ir, score = adjusted(softmax, &mask, v, score), address, 32);
    loop.carried[v] = sptx_ir_max(ir, loop.carried[v], score);
  }
  sptx_ir_loop_end(ir, &loop);
  for (int v = 0; v < e->vectors; v++)
    maxima[v] = loop.carried[v];
}

/* Adjusted and masked scores go back to their place; then the new maxima. */
static void emit_maxima(const sptx_softmax *softmax, LLVMValueRef *maxima) {
  const sptx_x86_emitter *e = softmax->e;
  LLVMValueRef common_begin = softmax->common_begin, common_end = softmax->common_end;
  if (!softmax->factor && !e->shape->soft_cap && !e->shape->alibi) {
    change_scores(softmax, common_begin, common_end, masked);
    emit_maxima_of(softmax, softmax->begin, softmax->end, false, true, maxima);
    return;
  }
  change_scores(softmax, common_begin, common_end, adjusted_and_masked);
  emit_maxima_of(softmax, softmax->begin, common_begin, false, false, maxima);
  emit_maxima_of(softmax, common_begin, common_end, true, false, maxima);
  emit_maxima_of(softmax, common_end, softmax->end, false, false, maxima);
}

/* exp2(score - reference) in the place of the score of key `key`. */
static LLVMValueRef exponential(const sptx_softmax *softmax, LLVMValueRef key, int v,
                                LLVMValueRef reference) {
  sptx_x86_emitter *e = softmax->e;
  LLVMValueRef address = score_address(softmax, key, v);
  LLVMValueRef score = sptx_ir_load(&e->ir, e->vector, address, 32);
  LLVMValueRef power = sptx_x86_exp2(e, sptx_ir_fsub(&e->ir, score, reference));
  sptx_ir_store(&e->ir, power, address, 32);
  return power;
}

/* A vector of the pair of keys key and key + 1, also as the pairs of bfloat16 that tiles are multiplied with;
 * returns the sum of both. */
static LLVMValueRef exponential_pair(const sptx_softmax *softmax, LLVMValueRef key, int v,
                                     LLVMValueRef reference) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef low = exponential(softmax, key, v, reference);
  LLVMValueRef high = exponential(softmax, sptx_ir_add(ir, key, sptx_ir_i64(ir, 1)), v, reference);
  LLVMValueRef pair = sptx_ir_mul(ir, key, sptx_ir_i64(ir, (int64_t)e->panel * 2));
  LLVMValueRef target = sptx_x86_lane_vector(e, e->layout.weight_pairs, softmax->in_panel);
  target = sptx_ir_at_constant(ir, sptx_ir_at(ir, target, pair), v * vector_bytes(e));
  sptx_ir_store(ir, sptx_x86_pairs_of(e, low, high), target, 64);
  return sptx_ir_fadd(ir, low, high);
}

/* P^T = exp2(S^T - max) in place of the scores, and their sums. */
static void emit_exponentials(const sptx_softmax *softmax, LLVMValueRef *reference, LLVMValueRef *sums) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  bool tiles = e->products == SPTX_X86_TILES;
  for (int v = 0; v < e->vectors; v++) {
    sums[v] = number(e, 0);
    if (tiles) /* the partner of the last of an odd number of keys */
      sptx_ir_store(ir, number(e, -INFINITY), score_address(softmax, softmax->end, v), 32);
  }
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, softmax->begin, softmax->end, sptx_ir_i64(ir, tiles ? 2 : 1), true, sums,
                     (unsigned)e->vectors);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef power = tiles ? exponential_pair(softmax, loop.index, v, reference[v])
                               : exponential(softmax, loop.index, v, reference[v]);
    loop.carried[v] = sptx_ir_fadd(ir, loop.carried[v], power);
  }
  sptx_ir_loop_end(ir, &loop);
  for (int v = 0; v < e->vectors; v++)
    sums[v] = loop.carried[v];
}

/* What the output so far is to be multiplied with goes to `factor` in scratch. */
static void emit_group(const sptx_softmax *softmax) {
  sptx_x86_emitter *e = softmax->e;
  sptx_ir *ir = &e->ir;
  LLVMValueRef maxima[8], reference[8], sums[8], old[8];
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = sptx_x86_lane_vector(e, e->layout.maximum, group_vector(softmax, v));
    maxima[v] = old[v] = sptx_ir_load(ir, e->vector, address, 32);
  }
  emit_maxima(softmax, maxima);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef address = sptx_x86_lane_vector(e, e->layout.maximum, group_vector(softmax, v));
    sptx_ir_store(ir, maxima[v], address, 32);
    /* A lane without any key yet keeps -inf; 0 stands in, since -inf - -inf is no number. */
    LLVMValueRef none = sptx_ir_fcompare(ir, LLVMRealOEQ, maxima[v], number(e, -INFINITY));
    reference[v] = sptx_ir_select(ir, none, number(e, 0), maxima[v]);
  }
  emit_exponentials(softmax, reference, sums);
  for (int v = 0; v < e->vectors; v++) {
    LLVMValueRef alpha = sptx_x86_exp2(e, sptx_ir_fsub(ir, old[v], reference[v]));
    LLVMValueRef address = sptx_x86_lane_vector(e, e->layout.sum, group_vector(softmax, v));
    sptx_ir_store(ir, sptx_ir_fma(ir, sptx_ir_load(ir, e->vector, address, 32), alpha, sums[v]), address, 32);
    sptx_ir_store(ir, alpha, sptx_x86_lane_vector(e, e->layout.factor, group_vector(softmax, v)), 32);
  }
}

LLVMValueRef sptx_x86_emit_softmax(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->i64, ir->i64, ir->i64, ir->i64, ir->i64, ir->i64, ir->pointer};
  LLVMValueRef function = sptx_x86_bound_function(e, "softmax", types, 7), p[11];
  LLVMGetParams(function, p);
  sptx_x86_key_walk walk = {.first = p[5], .bits = p[10]};
  bool scaled = e->products == SPTX_X86_FLOATS; /* when q was packed */
  LLVMValueRef factor = scaled ? NULL : splat(e, sptx_x86_query_factor(e));
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->panel / (int)e->lanes),
                     sptx_ir_i64(ir, e->vectors), true, NULL, 0);
  LLVMValueRef vector = sptx_ir_add(ir, p[4], loop.index);
  sptx_softmax softmax = {e, &walk, e->item, p[6], p[7], p[8], p[9], vector, loop.index, factor};
  emit_group(&softmax);
  sptx_ir_loop_end(ir, &loop);
  LLVMBuildRetVoid(ir->builder);
  return function;
}
