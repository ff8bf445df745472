/* The portable forward kernel: one CTA for a tile of queries of one (batch, head, shared value). It walks
 * over the key tiles that its rows attend to, keeps the output and the running softmax in registers, and
 * merges with the rows' earlier pieces at the end.
 *
 * Pipeline: V of a step is loaded while Q K^T and the softmax run, K of the next step while P V runs. */
#include "gen/ptx/portable.h"
#include <math.h>

typedef struct forward {
  sptx_portable p;
  sptx_portable_rows rows;
  sptx_score score;
  sptx_value q_tile, k_tile, v_tile;
  sptx_portable_tensor k, v;
  sptx_value row_max[2][2], row_sum[2][2]; /* slots */
  sptx_value out[2][SPTX_MAX_BLOCKS][4];   /* slots */
  sptx_held_rows held;
} forward;

static void begin_sums(forward *f) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      f->row_max[m][h] = sptx_slot(e, e->f32, sptx_f32(e, -INFINITY));
      f->row_sum[m][h] = sptx_slot(e, e->f32, sptx_f32(e, 0.0));
    }
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < p->spec->head_dim / 8; n++)
      for (int i = 0; i < 4; i++)
        f->out[m][n][i] = sptx_slot(e, e->f32, sptx_f32(e, 0.0));
}

static void load_keys(forward *f, sptx_value tile, sptx_portable_tensor tensor, sptx_value key) {
  sptx_load_tile(&f->p, tile, f->p.spec->columns, tensor, key);
  sptx_async_commit(&f->p);
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
  const sptx_portable_rows *rows = &f->rows;
  sptx_value key_slot = sptx_slot(e, e->i32, sptx_step_column(p, rows, rows->step_begin));
  load_keys(f, f->k_tile, f->k, sptx_get(e, key_slot));
  if (p->spec->hold_rows) {
    sptx_async_wait(p);
    sptx_barrier(e);
    sptx_hold_rows(p, f->q_tile, &f->held);
  }
  sptx_loop loop = sptx_loop_begin(e, rows->step_begin, rows->step_end, sptx_i32(e, rows->step_size));
  sptx_value key = sptx_get(e, key_slot), next_step = sptx_addi(e, loop.index, rows->step_size);
  sptx_value next = sptx_step_column(p, rows, next_step);
  sptx_async_wait(p);
  sptx_barrier(e); /* K is here; every warp is done with the last V */
  load_keys(f, f->v_tile, f->v, key);
  sptx_accumulator s;
  sptx_product_nt(p, &s, f->q_tile, p->spec->hold_rows ? &f->held : NULL, f->k_tile);
  sptx_rows_scores(p, rows, &f->score, &s, key, NULL);
  sptx_rows_mask(p, rows, &s, loop.index, key, -INFINITY);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      soften_row(f, &s, m, h, sptx_score_factor(p, &f->score));
  sptx_async_wait(p);
  sptx_barrier(e); /* V is here; every warp is done with K */
  sptx_if more = sptx_if_begin(e, sptx_icmp(e, LLVMIntSLT, next_step, rows->step_end));
  load_keys(f, f->k_tile, f->k, next);
  sptx_if_end(e, &more);
  accumulate(f, &s);
  sptx_set_slot(e, key_slot, next);
  sptx_loop_end(e, &loop);
  sptx_async_wait(p);
}

/* log-sum-exp of this piece in log2 units; -inf for a row without keys. */
static sptx_value row_log_sum(forward *f, int m, int h, sptx_value *inverse) {
  sptx_gpu_emitter *e = f->p.e;
  sptx_value sum = over_quad(&f->p, sptx_get(e, f->row_sum[m][h]), sptx_add);
  sptx_value some = sptx_fcmp(e, LLVMRealOGT, sum, sptx_f32(e, 0.0));
  sptx_value safe = sptx_select(e, some, sum, sptx_f32(e, 1.0));
  *inverse = sptx_select(e, some, sptx_reciprocal(e, safe), sptx_f32(e, 0.0));
  sptx_value log =
      sptx_fma(e, sptx_get(e, f->row_max[m][h]), sptx_score_factor(&f->p, &f->score), sptx_log2(e, safe));
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
  sptx_value x = sptx_recompute(e, sptx_row_inner(p, &f->rows, m, h)), inverse, old = NULL;
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
      sptx_load_pair(p, p->spec->element, at, earlier);
      for (int c = 0; c < 2; c++)
        value[c] = sptx_fma(e, earlier[c], old, value[c]);
    }
    sptx_store_pair(p, p->spec->element, at, value[0], value[1]);
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

static sptx_portable_tensor key_tensor(sptx_portable *p, sptx_value base, size_t strides) {
  return (sptx_portable_tensor){sptx_tensor_rows(p, base, strides, p->kv_head), strides, false};
}

static void begin_tensors(forward *f) {
  sptx_portable *p = &f->p;
  sptx_gpu_emitter *e = p->e;
  f->q_tile = p->shared;
  f->k_tile = sptx_addi(e, f->q_tile, p->rows * p->row_bytes);
  f->v_tile = sptx_addi(e, f->k_tile, p->spec->columns * p->row_bytes);
  f->k = key_tensor(p, SPTX_ARG(p, i64, k), offsetof(sptx_portable_params, k));
  f->v = key_tensor(p, SPTX_ARG(p, i64, v), offsetof(sptx_portable_params, v));
  f->score = sptx_score_begin(p, p->head);
}

enum sptx_code sptx_emit_portable_forward(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                          sptx_error *error) {
  (void)error;
  forward f = {0};
  sptx_portable *p = &f.p;
  sptx_portable_begin(p, e, symbol, spec);
  sptx_rows_steps(p, &f.rows);
  sptx_value work = sptx_icmp(e, LLVMIntSLT, f.rows.first_row, p->query_end);
  if (p->spec->merge) /* nothing to add: leave the rows alone */
    work = sptx_and(e, work, sptx_icmp(e, LLVMIntSLT, f.rows.step_begin, f.rows.step_end));
  sptx_if branch = sptx_if_begin(e, work);
  begin_tensors(&f);
  sptx_rows_begin(p, &f.rows);
  begin_sums(&f);
  size_t q_strides = offsetof(sptx_portable_params, q);
  sptx_value q_rows = sptx_tensor_rows(p, SPTX_ARG(p, i64, q), q_strides, p->head);
  sptx_load_tile(p, f.q_tile, p->rows, (sptx_portable_tensor){q_rows, q_strides, true}, f.rows.first_row);
  walk_keys(&f);
  store_rows(&f);
  sptx_if_end(e, &branch);
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}
