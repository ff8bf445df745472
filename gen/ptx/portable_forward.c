/* The portable forward kernel: one CTA for a tile of queries of one (batch, head, shared value). It walks
 * over the key tiles that its rows attend to, keeps the output and the running softmax in registers, and
 * merges with the rows' earlier pieces at the end.
 *
 * Pipeline: V of a step is loaded while Q K^T and the softmax run, K of the next step while P V runs. */
#include "gen/ptx/portable.h"
#include <math.h>

typedef struct forward {
  sptx_portable p;
  sptx_score score;
  sptx_value q_tile, k_tile, v_tile, k_rows, v_rows;
  sptx_value first_row;                    /* inner index of the CTA's first query */
  sptx_value row_lo[2][2], row_span[2][2]; /* keys of this lane's rows: y - lo < span, unsigned */
  sptx_value row_position[2][2];
  sptx_value full_begin, full_end;         /* BAND: key tiles inside are full */
  sptx_value row_max[2][2], row_sum[2][2]; /* slots */
  sptx_value out[2][SPTX_MAX_BLOCKS][4];   /* slots */
  sptx_value step_begin, step_end;         /* key steps: first key (BAND) or entry of the tile list */
  sptx_held_rows held;
} forward;

static sptx_value row_inner(forward *f, int block, int half) {
  sptx_gpu_emitter *e = f->p.e;
  sptx_value row = sptx_add(e, sptx_muli(e, f->p.warp, 16 * f->p.spec->row_blocks), f->p.group);
  return sptx_addi(e, sptx_add(e, f->first_row, row), block * 16 + half * 8);
}

/* Keys of each row, and the rows' positions where a score needs them. Rows beyond the end have no keys. */
static void begin_rows(forward *f) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value x = row_inner(f, m, h), inside = sptx_icmp(e, LLVMIntSLT, x, p->query_end);
      if (p->spec->kind == SPTX_PIECE_BAND) {
        sptx_value lo = sptx_bound_lo(p, x), hi = sptx_bound_hi(p, x);
        sptx_value span = sptx_max(e, sptx_sub(e, hi, lo), sptx_i32(e, 0));
        f->row_lo[m][h] = lo;
        f->row_span[m][h] = sptx_select(e, inside, span, sptx_i32(e, 0));
      }
      if (p->spec->alibi)
        f->row_position[m][h] = sptx_query_position(p, x);
      f->row_max[m][h] = sptx_slot(e, e->f32, sptx_f32(e, -INFINITY));
      f->row_sum[m][h] = sptx_slot(e, e->f32, sptx_f32(e, 0.0));
    }
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < p->spec->head_dim / 8; n++)
      for (int i = 0; i < 4; i++)
        f->out[m][n][i] = sptx_slot(e, e->f32, sptx_f32(e, 0.0));
}

/* The union of the rows' key ranges, and the part that all rows share: bounds never decrease. */
static void begin_steps(forward *f) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  if (p->spec->kind == SPTX_PIECE_TILES) {
    sptx_value table = SPTX_PARAM64(p, tile_start);
    f->step_begin = sptx_constant_i32(p, table, p->tile);
    f->step_end = sptx_constant_i32(p, table, sptx_addi(e, p->tile, 1));
    return;
  }
  sptx_value last = sptx_min(e, sptx_addi(e, f->first_row, p->rows), p->query_end);
  last = sptx_addi(e, last, -1);
  f->step_begin = sptx_bound_lo(p, f->first_row);
  f->step_end = sptx_bound_hi(p, last);
  f->full_begin = sptx_bound_lo(p, last);
  f->full_end = sptx_bound_hi(p, f->first_row);
  /* A tile with rows beyond the end may count as full: their results are not stored. */
}

static sptx_value first_key(forward *f, sptx_value step) {
  sptx_portable *p = &f->p;
  if (p->spec->kind == SPTX_PIECE_BAND)
    return step;
  sptx_value last = sptx_max(p->e, sptx_addi(p->e, f->step_end, -1), sptx_i32(p->e, 0));
  sptx_value tile = sptx_constant_i32(p, SPTX_PARAM64(p, tile_index), sptx_min(p->e, step, last));
  return sptx_muli(p->e, tile, SPTX_GENERIC_TILE);
}

static void load_keys(forward *f, sptx_value tile, sptx_value rows, size_t strides, sptx_value key) {
  sptx_load_tile(&f->p, tile, f->p.spec->columns, rows, strides, false, key, f->p.key_end);
  sptx_async_commit(&f->p);
}

/* Scores of the tile in log2 units where a transform is wanted; else they stay raw and the exponent scales.
 */
static void transform(forward *f, sptx_accumulator *s, sptx_value key) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  if (!p->spec->soft_cap && !p->spec->alibi)
    return;
  for (int n = 0; n < s->blocks; n++)
    for (int c = 0; c < 2; c++) {
      sptx_value position = NULL;
      if (p->spec->alibi) {
        sptx_value y = sptx_addi(e, sptx_add(e, key, sptx_muli(e, p->quad, 2)), n * 8 + c);
        position = sptx_key_position(p, y);
      }
      for (int m = 0; m < p->spec->row_blocks; m++)
        for (int h = 0; h < 2; h++) {
          sptx_value *value = &s->at[m][n][2 * h + c];
          sptx_value distance = position ? sptx_sub(e, position, f->row_position[m][h]) : NULL;
          *value = sptx_score_apply(p, &f->score, *value, distance, NULL);
        }
    }
}

/* Whether the lane's element (block m, half h; column block n, column c) is a pair of the piece. */
static void mask_band(forward *f, sptx_accumulator *s, sptx_value key) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value start = sptx_add(e, key, sptx_muli(e, p->quad, 2));
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value offset = sptx_sub(e, start, f->row_lo[m][h]);
      for (int n = 0; n < s->blocks; n++)
        for (int c = 0; c < 2; c++) {
          sptx_value *value = &s->at[m][n][2 * h + c];
          sptx_value inside = sptx_icmp(e, LLVMIntULT, sptx_addi(e, offset, n * 8 + c), f->row_span[m][h]);
          *value = sptx_select(e, inside, *value, sptx_f32(e, -INFINITY));
        }
    }
}

static void mask_tile(forward *f, sptx_accumulator *s, sptx_value mask) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value base = sptx_add(e, SPTX_ARG(p, i64, constants), SPTX_PARAM64(p, masks));
  sptx_value column = sptx_add(e, sptx_muli(e, mask, SPTX_GENERIC_TILE), sptx_muli(e, p->quad, 2));
  base = sptx_add(e, base, sptx_muli(e, sptx_sext64(e, column), 8));
  sptx_value row = sptx_add(e, sptx_muli(e, p->warp, 16 * p->spec->row_blocks), p->group);
  for (int n = 0; n < s->blocks; n++)
    for (int c = 0; c < 2; c++) {
      sptx_value word = sptx_load_constant(e, e->i64, sptx_addi(e, base, (n * 8 + c) * 8), 8);
      word = LLVMBuildLShr(e->builder, word, sptx_zext64(e, row), "");
      for (int m = 0; m < p->spec->row_blocks; m++)
        for (int h = 0; h < 2; h++) {
          sptx_value bit = sptx_andi(e, word, (int64_t)1 << (m * 16 + h * 8));
          sptx_value *value = &s->at[m][n][2 * h + c];
          *value =
              sptx_select(e, sptx_icmp(e, LLVMIntNE, bit, sptx_i64(e, 0)), *value, sptx_f32(e, -INFINITY));
        }
    }
}

static sptx_value step_mask(forward *f, sptx_value step) {
  return sptx_constant_i32(&f->p, SPTX_PARAM64(&f->p, tile_mask), step);
}

/* Masks inside a branch, so that full tiles skip it; the scores pass through slots. */
static void mask_if_partial(forward *f, sptx_accumulator *s, sptx_value step, sptx_value key) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value mask = NULL, partial;
  if (p->spec->kind == SPTX_PIECE_TILES) {
    mask = step_mask(f, step);
    partial = sptx_icmp(e, LLVMIntSGE, mask, sptx_i32(e, 0));
  } else {
    sptx_value end = sptx_addi(e, key, p->spec->columns);
    partial =
        sptx_or(e, sptx_icmp(e, LLVMIntSLT, key, f->full_begin), sptx_icmp(e, LLVMIntSGT, end, f->full_end));
  }
  sptx_value slots[2][SPTX_PORTABLE_MAX_COLUMNS / 8][4];
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < s->blocks; n++)
      for (int i = 0; i < 4; i++)
        slots[m][n][i] = sptx_slot(e, e->f32, s->at[m][n][i]);
  sptx_if branch = sptx_if_begin(e, partial);
  if (p->spec->kind == SPTX_PIECE_TILES)
    mask_tile(f, s, mask);
  else
    mask_band(f, s, key);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < s->blocks; n++)
      for (int i = 0; i < 4; i++)
        sptx_set_slot(e, slots[m][n][i], s->at[m][n][i]);
  sptx_if_end(e, &branch);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < s->blocks; n++)
      for (int i = 0; i < 4; i++)
        s->at[m][n][i] = sptx_get(e, slots[m][n][i]);
}

static sptx_value over_quad(sptx_portable *p, sptx_value x,
                            sptx_value (*combine)(sptx_gpu_emitter *, sptx_value, sptx_value)) {
  x = combine(p->e, x, sptx_shuffle_xor(p->e, x, 1));
  return combine(p->e, x, sptx_shuffle_xor(p->e, x, 2));
}

/* Replaces scores by weights 2^(score - max) and rescales what was summed under the old maximum. */
static void soften_row(forward *f, sptx_accumulator *s, int m, int h, sptx_value factor) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value most = s->at[m][0][2 * h];
  for (int i = 1; i < 2 * s->blocks; i++)
    most = sptx_max(e, most, s->at[m][i / 2][2 * h + i % 2]);
  most = over_quad(p, most, sptx_max);
  sptx_value old = sptx_get(e, f->row_max[m][h]);
  most = sptx_max(e, most, old);
  sptx_set_slot(e, f->row_max[m][h], most);
  sptx_value none = sptx_fcmp(e, LLVMRealOEQ, most, sptx_f32(e, -INFINITY));
  sptx_value reference = sptx_mul(e, sptx_select(e, none, sptx_f32(e, 0.0), most), factor);
  sptx_value minus = LLVMBuildFNeg(e->builder, reference, "");
  sptx_value shrink = sptx_exp2(e, sptx_fma(e, old, factor, minus));
  sptx_value sum = sptx_mul(e, sptx_get(e, f->row_sum[m][h]), shrink);
  for (int i = 0; i < 2 * s->blocks; i++) {
    sptx_value *value = &s->at[m][i / 2][2 * h + i % 2];
    *value = sptx_exp2(e, sptx_fma(e, *value, factor, minus));
    sum = sptx_add(e, sum, *value);
  }
  sptx_set_slot(e, f->row_sum[m][h], sum);
  for (int n = 0; n < p->spec->head_dim / 8; n++)
    for (int c = 0; c < 2; c++) {
      sptx_value slot = f->out[m][n][2 * h + c];
      sptx_set_slot(e, slot, sptx_mul(e, sptx_get(e, slot), shrink));
    }
}

/* Scores keep the caller's unit until here: raw products times scale * log2(e), or already log2 units. */
static sptx_value exponent_factor(forward *f) {
  bool transformed = f->p.spec->soft_cap || f->p.spec->alibi;
  return transformed ? sptx_f32(f->p.e, 1.0) : f->score.scale_log2;
}

static void accumulate(forward *f, const sptx_accumulator *weights) {
  sptx_portable *p = &f->p;
  sptx_accumulator out = {.blocks = p->spec->head_dim / 8};
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < out.blocks; n++)
      for (int i = 0; i < 4; i++)
        out.at[m][n][i] = sptx_get(p->e, f->out[m][n][i]);
  sptx_product_nn(p, &out, weights, f->v_tile);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < out.blocks; n++)
      for (int i = 0; i < 4; i++)
        sptx_set_slot(p->e, f->out[m][n][i], out.at[m][n][i]);
}

static void walk_keys(forward *f) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  int step_size = p->spec->kind == SPTX_PIECE_BAND ? p->spec->columns : 1;
  size_t k_strides = offsetof(sptx_portable_params, k), v_strides = offsetof(sptx_portable_params, v);
  sptx_value key_slot = sptx_slot(e, e->i32, first_key(f, f->step_begin));
  load_keys(f, f->k_tile, f->k_rows, k_strides, sptx_get(e, key_slot));
  if (p->spec->hold_rows) {
    sptx_async_wait(p);
    sptx_barrier(e);
    sptx_hold_rows(p, f->q_tile, &f->held);
  }
  sptx_loop loop = sptx_loop_begin(e, f->step_begin, f->step_end, sptx_i32(e, step_size));
  sptx_value key = sptx_get(e, key_slot), next = first_key(f, sptx_addi(e, loop.index, step_size));
  sptx_async_wait(p);
  sptx_barrier(e); /* K is here; every warp is done with the last V */
  load_keys(f, f->v_tile, f->v_rows, v_strides, key);
  sptx_accumulator s;
  sptx_product_nt(p, &s, f->q_tile, p->spec->hold_rows ? &f->held : NULL, f->k_tile);
  transform(f, &s, key);
  mask_if_partial(f, &s, loop.index, key);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      soften_row(f, &s, m, h, exponent_factor(f));
  sptx_async_wait(p);
  sptx_barrier(e); /* V is here; every warp is done with K */
  load_keys(f, f->k_tile, f->k_rows, k_strides, next);
  accumulate(f, &s);
  sptx_set_slot(e, key_slot, next);
  sptx_loop_end(e, &loop);
  sptx_async_wait(p);
}

/* Loads two neighbouring elements as floats, or stores them. */
static void load_pair(sptx_portable *p, sptx_value address, sptx_value out[2]) {
  sptx_gpu_emitter *e = p->e;
  LLVMTypeRef type = p->spec->element == SPTX_ELEMENT_F32   ? e->f32
                     : p->spec->element == SPTX_ELEMENT_F16 ? e->f16
                                                            : e->bf16;
  sptx_value pair = sptx_load_global(e, LLVMVectorType(type, 2), address, 2 * p->element_bytes);
  for (int i = 0; i < 2; i++) {
    out[i] = LLVMBuildExtractElement(e->builder, pair, sptx_i32(e, i), "");
    if (type != e->f32)
      out[i] = LLVMBuildFPExt(e->builder, out[i], e->f32, "");
  }
}

static void store_pair(sptx_portable *p, sptx_value address, sptx_value a, sptx_value b) {
  sptx_gpu_emitter *e = p->e;
  if (p->spec->element != SPTX_ELEMENT_F32) {
    sptx_store_global(e, sptx_portable_pack(p, a, b), address, 4);
    return;
  }
  sptx_value pair = LLVMGetUndef(LLVMVectorType(e->f32, 2));
  pair = LLVMBuildInsertElement(e->builder, pair, a, sptx_i32(e, 0), "");
  pair = LLVMBuildInsertElement(e->builder, pair, b, sptx_i32(e, 1), "");
  sptx_store_global(e, pair, address, 8);
}

/* log-sum-exp of this piece in log2 units; -inf for a row without keys. */
static sptx_value row_log_sum(forward *f, int m, int h, sptx_value *inverse) {
  sptx_gpu_emitter *e = f->p.e;
  sptx_value sum = over_quad(&f->p, sptx_get(e, f->row_sum[m][h]), sptx_add);
  sptx_value some = sptx_fcmp(e, LLVMRealOGT, sum, sptx_f32(e, 0.0));
  sptx_value safe = sptx_select(e, some, sum, sptx_f32(e, 1.0));
  *inverse = sptx_select(e, some, sptx_reciprocal(e, safe), sptx_f32(e, 0.0));
  sptx_value log = sptx_fma(e, sptx_get(e, f->row_max[m][h]), exponent_factor(f), sptx_log2(e, safe));
  return sptx_select(e, some, log, sptx_f32(e, -INFINITY));
}

/* Weights of the new and the earlier part of a row under one softmax, and the joint log-sum-exp (log2). */
static sptx_value merge_weights(forward *f, sptx_value now, sptx_value before, sptx_value *of_new,
                                sptx_value *of_old) {
  sptx_gpu_emitter *e = f->p.e;
  sptx_value most = sptx_max(e, now, before), zero = sptx_f32(e, 0.0);
  sptx_value none = sptx_fcmp(e, LLVMRealOEQ, most, sptx_f32(e, -INFINITY));
  sptx_value reference = sptx_select(e, none, zero, most);
  sptx_value a = sptx_exp2(e, sptx_sub(e, now, reference)), b = sptx_exp2(e, sptx_sub(e, before, reference));
  sptx_value total = sptx_select(e, none, sptx_f32(e, 1.0), sptx_add(e, a, b));
  sptx_value inverse = sptx_reciprocal(e, total);
  *of_new = sptx_mul(e, a, inverse);
  *of_old = sptx_mul(e, b, inverse);
  return sptx_add(e, most, sptx_log2(e, total));
}

static void store_row(forward *f, int m, int h, sptx_value o_rows, sptx_value lse_row) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value x = row_inner(f, m, h), inverse, old = NULL;
  sptx_value log = row_log_sum(f, m, h, &inverse); /* shuffles: outside the branch */
  sptx_if inside = sptx_if_begin(e, sptx_icmp(e, LLVMIntSLT, x, p->query_end));
  sptx_value skipped = sptx_sub(e, SPTX_PARAM32(p, n_k), SPTX_PARAM32(p, n_q));
  sptx_value row = sptx_sub(e, sptx_query_position(p, x), skipped);
  sptx_value lse_at = sptx_add(e, lse_row, sptx_muli(e, sptx_zext64(e, row), 4));
  sptx_value scale = inverse;
  if (p->spec->merge) {
    sptx_value before = sptx_mul(e, sptx_load_global(e, e->f32, lse_at, 4), sptx_f32(e, SPTX_LOG2_E));
    log = merge_weights(f, log, before, &scale, &old);
    scale = sptx_mul(e, scale, inverse);
  }
  sptx_value address = sptx_query_row(p, o_rows, offsetof(sptx_portable_params, o), x);
  address = sptx_add(e, address, sptx_zext64(e, sptx_muli(e, p->quad, 2 * p->element_bytes)));
  for (int n = 0; n < p->spec->head_dim / 8; n++) {
    sptx_value at = sptx_addi(e, address, n * 8 * p->element_bytes), value[2], earlier[2];
    for (int c = 0; c < 2; c++)
      value[c] = sptx_mul(e, sptx_get(e, f->out[m][n][2 * h + c]), scale);
    if (p->spec->merge) {
      load_pair(p, at, earlier);
      for (int c = 0; c < 2; c++)
        value[c] = sptx_fma(e, earlier[c], old, value[c]);
    }
    store_pair(p, at, value[0], value[1]);
  }
  sptx_if first = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, p->quad, sptx_i32(e, 0)));
  sptx_store_global(e, sptx_mul(e, log, sptx_f32(e, 1.0 / SPTX_LOG2_E)), lse_at, 4);
  sptx_if_end(e, &first);
  sptx_if_end(e, &inside);
}

static void store_rows(forward *f) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value o_rows = sptx_tensor_rows(p, SPTX_ARG(p, i64, o), offsetof(sptx_portable_params, o), p->head);
  sptx_value index = sptx_add(e, sptx_mul(e, p->batch, SPTX_PARAM32(p, heads)), p->head);
  sptx_value offset = sptx_mul(e, sptx_zext64(e, index), sptx_zext64(e, SPTX_PARAM32(p, n_q)));
  sptx_value lse_row = sptx_add(e, SPTX_ARG(p, i64, lse), sptx_muli(e, offset, 4));
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      store_row(f, m, h, o_rows, lse_row);
}

static void begin_tensors(forward *f) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  f->q_tile = p->shared;
  f->k_tile = sptx_addi(e, f->q_tile, p->rows * p->row_bytes);
  f->v_tile = sptx_addi(e, f->k_tile, p->spec->columns * p->row_bytes);
  f->k_rows = sptx_tensor_rows(p, SPTX_ARG(p, i64, k), offsetof(sptx_portable_params, k), p->kv_head);
  f->v_rows = sptx_tensor_rows(p, SPTX_ARG(p, i64, v), offsetof(sptx_portable_params, v), p->kv_head);
  f->score = sptx_score_begin(p, p->head);
}

enum sptx_code sptx_emit_portable_forward(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                          sptx_error *error) {
  (void)error;
  forward f = {0};
  sptx_portable *p = &f.p;
  sptx_portable_begin(p, e, symbol, spec);
  f.first_row = sptx_muli(e, p->tile, p->rows);
  if (p->spec->kind == SPTX_PIECE_BAND)
    f.first_row = sptx_add(e, f.first_row, p->query_begin);
  begin_steps(&f);
  sptx_value work = sptx_icmp(e, LLVMIntSLT, f.first_row, p->query_end);
  if (p->spec->merge) /* nothing to add: leave the rows alone */
    work = sptx_and(e, work, sptx_icmp(e, LLVMIntSLT, f.step_begin, f.step_end));
  sptx_if branch = sptx_if_begin(e, work);
  begin_tensors(&f);
  begin_rows(&f);
  size_t q_strides = offsetof(sptx_portable_params, q);
  sptx_value q_rows = sptx_tensor_rows(p, SPTX_ARG(p, i64, q), q_strides, p->head);
  sptx_load_tile(p, f.q_tile, p->rows, q_rows, q_strides, true, f.first_row, p->query_end);
  walk_keys(&f);
  store_rows(&f);
  sptx_if_end(e, &branch);
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}
