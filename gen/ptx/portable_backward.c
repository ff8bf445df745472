/* The portable gradient kernels (Dao et al. 2022, appendix B). D_Q: rows are queries, and a CTA walks over
 * the keys they attend to. D_KV: rows are keys, and a CTA walks over the queries that attend to them, for
 * each query head that shares the keys. With s the changed score, both recompute P = exp(s - LSE) and then dS
 * = P * (dO V^T - D) * ds/d(scaled score), dQ = scale * dS K,   dK = scale * dS^T Q,   dV = P^T dO. Every sum
 * has one order, so that results are the same in each run.
 *
 * The kernels are the same but for the names of operands: rows (Q, dO) and columns (K, V), or rows (K, V) and
 * columns (Q, dO). LSE and D belong to the rows in one and to the columns in the other. */
#include "gen/ptx/portable.h"
#include <math.h>

enum gradient { TO_FIRST, TO_SECOND }; /* dQ or dK; dV */

typedef struct backward {
  sptx_portable p;
  sptx_portable_rows rows;
  sptx_score score;
  sptx_value row_tile[2], column_tile[2]; /* shared memory; columns: of stage 0 */
  sptx_value column_lse, column_delta;    /* D_KV: shared memory, of stage 0 */
  sptx_portable_tensor columns[2];
  sptx_value lse_plane, delta_plane;               /* of the (batch, head) */
  sptx_value row_minus_lse[2][2], row_delta[2][2]; /* D_Q; log2 units */
  sptx_value sum[2][2][SPTX_MAX_BLOCKS][4];        /* slots: [gradient][row block][block][i] */
  sptx_value column_slot, stage_slot;
} backward;

static bool is_d_kv(const backward *b) {
  return b->p.spec->role == SPTX_PORTABLE_D_KV;
}

static bool wants(const backward *b, enum gradient gradient) {
  if (!is_d_kv(b))
    return gradient == TO_FIRST;
  return gradient == TO_FIRST ? b->p.spec->want_d_k : b->p.spec->want_d_v;
}

static int stage_bytes(const backward *b) {
  int columns = b->p.spec->columns;
  return 2 * columns * b->p.row_bytes + (is_d_kv(b) ? 2 * columns * 4 : 0);
}

static void begin_shared(backward *b) {
  const sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  int tile = p->rows * p->row_bytes, columns = p->spec->columns * p->row_bytes;
  b->row_tile[0] = p->shared;
  b->row_tile[1] = sptx_addi(e, p->shared, tile);
  b->column_tile[0] = sptx_addi(e, p->shared, (wants(b, TO_FIRST) ? 2 : 1) * tile);
  b->column_tile[1] = sptx_addi(e, b->column_tile[0], columns);
  b->column_lse = sptx_addi(e, b->column_tile[1], columns);
  b->column_delta = sptx_addi(e, b->column_lse, p->spec->columns * 4);
}

static void begin_sums(backward *b) {
  const sptx_portable *p = &b->p;
  for (int g = 0; g < 2; g++)
    for (int m = 0; wants(b, g) && m < p->spec->row_blocks; m++)
      for (int n = 0; n < p->spec->head_dim / 8; n++)
        for (int i = 0; i < 4; i++)
          b->sum[g][m][n][i] = sptx_slot(p->e, p->e->f32, sptx_f32(p->e, 0.0));
}

/* ---- tensors ---- */

static sptx_portable_tensor query_tensor(sptx_portable *p, sptx_value base, size_t strides) {
  return (sptx_portable_tensor){sptx_tensor_rows(p, base, strides, p->head), strides, true};
}

static sptx_portable_tensor key_tensor(sptx_portable *p, sptx_value base, size_t strides) {
  return (sptx_portable_tensor){sptx_tensor_rows(p, base, strides, p->kv_head), strides, false};
}

static void query_tensors(backward *b, sptx_portable_tensor out[2]) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  out[0] = query_tensor(p, SPTX_ARG(p, i64, q), offsetof(sptx_portable_params, q));
  out[1] = query_tensor(p, SPTX_ARG(p, i64, d_o), offsetof(sptx_portable_params, o));
  sptx_value plane = sptx_add(e, sptx_mul(e, p->batch, SPTX_PARAM32(p, heads)), p->head);
  plane = sptx_mul(e, sptx_zext64(e, plane), sptx_zext64(e, SPTX_PARAM32(p, n_q)));
  plane = sptx_muli(e, plane, 4);
  b->lse_plane = sptx_add(e, SPTX_ARG(p, i64, lse), plane);
  b->delta_plane = sptx_add(e, sptx_add(e, SPTX_ARG(p, i64, workspace), SPTX_PARAM64(p, delta)), plane);
}

static void key_tensors(backward *b, sptx_portable_tensor out[2]) {
  sptx_portable *p = &b->p;
  out[0] = key_tensor(p, SPTX_ARG(p, i64, k), offsetof(sptx_portable_params, k));
  out[1] = key_tensor(p, SPTX_ARG(p, i64, v), offsetof(sptx_portable_params, v));
}

/* Place of a query in the float arrays (batch, heads, n_q), cut to those that exist; *exists may be NULL. */
static sptx_value query_index(sptx_portable *p, sptx_value x, sptx_value *exists) {
  sptx_gpu_emitter *e = p->e;
  if (exists)
    *exists = sptx_icmp(e, LLVMIntSLT, x, p->query_end);
  x = sptx_max(e, sptx_min(e, x, sptx_addi(e, p->query_end, -1)), p->query_begin);
  sptx_value skipped = sptx_sub(e, SPTX_PARAM32(p, n_k), SPTX_PARAM32(p, n_q));
  return sptx_zext64(e, sptx_sub(e, sptx_query_position(p, x), skipped));
}

/* 2^(s - LSE) of a row without keys must vanish whatever s is: its LSE, -inf, counts as +inf. */
static sptx_value minus_log2(backward *b, sptx_value lse) {
  sptx_gpu_emitter *e = b->p.e;
  sptx_value none = sptx_fcmp(e, LLVMRealOEQ, lse, sptx_f32(e, -INFINITY));
  return sptx_select(e, none, lse, sptx_mul(e, lse, sptx_f32(e, -SPTX_LOG2_E)));
}

static void load_row_values(backward *b) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value offset = sptx_muli(e, query_index(p, sptx_row_inner(p, &b->rows, m, h), NULL), 4);
      sptx_value lse = sptx_load_constant(e, e->f32, sptx_add(e, b->lse_plane, offset), 4);
      b->row_minus_lse[m][h] = minus_log2(b, lse);
      b->row_delta[m][h] = sptx_load_constant(e, e->f32, sptx_add(e, b->delta_plane, offset), 4);
    }
}

/* ---- pipeline ---- */

static void load_column_values(backward *b, sptx_value stage, sptx_value column) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  for (int done = 0; done < p->spec->columns; done += p->threads) {
    sptx_value place = sptx_addi(e, p->thread, done), exists;
    sptx_if inside = sptx_if_begin(e, sptx_icmp(e, LLVMIntULT, place, sptx_i32(e, p->spec->columns)));
    sptx_value from = sptx_muli(e, query_index(p, sptx_add(e, column, place), &exists), 4);
    sptx_value to = sptx_add(e, stage, sptx_muli(e, place, 4));
    sptx_copy_word(p, sptx_add(e, b->column_lse, to), sptx_add(e, b->lse_plane, from), exists);
    if (wants(b, TO_FIRST))
      sptx_copy_word(p, sptx_add(e, b->column_delta, to), sptx_add(e, b->delta_plane, from), exists);
    sptx_if_end(e, &inside);
  }
}

static void load_stage(backward *b, sptx_value stage, sptx_value column) {
  sptx_portable *p = &b->p;
  for (int i = 0; i < 2; i++)
    sptx_load_tile(p, sptx_add(p->e, b->column_tile[i], stage), p->spec->columns, b->columns[i], column);
  if (is_d_kv(b))
    load_column_values(b, stage, column);
  sptx_async_commit(p);
}

static void accumulate(backward *b, enum gradient gradient, const sptx_accumulator *weights,
                       sptx_value columns) {
  sptx_portable *p = &b->p;
  sptx_accumulator sum = {.blocks = p->spec->head_dim / 8};
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < sum.blocks; n++)
      for (int i = 0; i < 4; i++)
        sum.at[m][n][i] = sptx_get(p->e, b->sum[gradient][m][n][i]);
  sptx_product_nn(p, &sum, weights, columns);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < sum.blocks; n++)
      for (int i = 0; i < 4; i++)
        sptx_set_slot(p->e, b->sum[gradient][m][n][i], sum.at[m][n][i]);
}

/* The columns' LSE or D, for this lane's two columns of block n. */
static void column_pair(backward *b, sptx_value array, sptx_value stage, int n, sptx_value out[2]) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value at = sptx_add(e, sptx_add(e, array, stage), sptx_muli(e, p->quad, 8));
  sptx_load_shared_pair(p, sptx_addi(e, at, n * 32), out);
}

/* P in place of the scores. */
static void exponentiate(backward *b, sptx_accumulator *s, sptx_value stage) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value factor = sptx_score_factor(p, &b->score);
  for (int n = 0; n < s->blocks; n++) {
    sptx_value minus[2] = {NULL, NULL};
    if (is_d_kv(b)) {
      column_pair(b, b->column_lse, stage, n, minus);
      for (int c = 0; c < 2; c++)
        minus[c] = minus_log2(b, minus[c]);
    }
    for (int m = 0; m < p->spec->row_blocks; m++)
      for (int i = 0; i < 4; i++) {
        sptx_value reference = is_d_kv(b) ? minus[i % 2] : b->row_minus_lse[m][i / 2];
        s->at[m][n][i] = sptx_exp2(e, sptx_fma(e, s->at[m][n][i], factor, reference));
      }
  }
}

/* dS = P * (dP - D) * slope, in place of dP. */
static void differentiate(backward *b, const sptx_accumulator *weights, const sptx_accumulator *slope,
                          sptx_accumulator *d, sptx_value stage) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  for (int n = 0; n < d->blocks; n++) {
    sptx_value delta[2] = {NULL, NULL};
    if (is_d_kv(b))
      column_pair(b, b->column_delta, stage, n, delta);
    for (int m = 0; m < p->spec->row_blocks; m++)
      for (int i = 0; i < 4; i++) {
        sptx_value mean = is_d_kv(b) ? delta[i % 2] : b->row_delta[m][i / 2];
        sptx_value value = sptx_mul(e, weights->at[m][n][i], sptx_sub(e, d->at[m][n][i], mean));
        d->at[m][n][i] = p->spec->soft_cap ? sptx_mul(e, value, slope->at[m][n][i]) : value;
      }
  }
}

static void compute_step(backward *b, sptx_value stage, sptx_value step, sptx_value column) {
  sptx_portable *p = &b->p;
  sptx_value first = sptx_add(p->e, b->column_tile[0], stage);
  sptx_value second = sptx_add(p->e, b->column_tile[1], stage);
  sptx_accumulator s, d, slope;
  sptx_product_nt(p, &s, b->row_tile[0], NULL, first);
  sptx_rows_scores(p, &b->rows, &b->score, &s, column, &slope);
  exponentiate(b, &s, stage);
  sptx_rows_mask(p, &b->rows, &s, step, column, 0.0);
  if (wants(b, TO_SECOND))
    accumulate(b, TO_SECOND, &s, second);
  if (!wants(b, TO_FIRST))
    return;
  sptx_product_nt(p, &d, b->row_tile[1], NULL, second);
  differentiate(b, &s, &slope, &d, stage);
  accumulate(b, TO_FIRST, &d, first);
}

/* All column tiles of the rows, for one head. With two stages the next tile is loaded during this one. */
static void walk_columns(backward *b) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  const sptx_portable_rows *rows = &b->rows;
  bool ahead = p->spec->stages == 2;
  sptx_set_slot(e, b->column_slot, sptx_step_column(p, rows, rows->step_begin));
  sptx_set_slot(e, b->stage_slot, sptx_i32(e, 0));
  load_stage(b, sptx_i32(e, 0), sptx_get(e, b->column_slot));
  sptx_loop loop = sptx_loop_begin(e, rows->step_begin, rows->step_end, sptx_i32(e, rows->step_size));
  sptx_value stage = sptx_get(e, b->stage_slot), column = sptx_get(e, b->column_slot);
  sptx_value next_step = sptx_addi(e, loop.index, rows->step_size);
  sptx_value next = sptx_step_column(p, rows, next_step);
  sptx_value other = ahead ? sptx_sub(e, sptx_i32(e, stage_bytes(b)), stage) : sptx_i32(e, 0);
  sptx_async_wait(p);
  sptx_barrier(e); /* this stage is here; every warp is done with the other one */
  if (!ahead)
    compute_step(b, stage, loop.index, column);
  if (!ahead)
    sptx_barrier(e); /* every warp is done with this stage */
  sptx_if more = sptx_if_begin(e, sptx_icmp(e, LLVMIntSLT, next_step, rows->step_end));
  load_stage(b, other, next);
  sptx_if_end(e, &more);
  if (ahead)
    compute_step(b, stage, loop.index, column);
  sptx_set_slot(e, b->column_slot, next);
  sptx_set_slot(e, b->stage_slot, other);
  sptx_loop_end(e, &loop);
  sptx_async_wait(p);
  sptx_barrier(e); /* the next head may use the stages again */
}

/* ---- results ---- */

typedef struct sink {
  enum gradient gradient;
  sptx_value tensor; /* the caller's, of the (batch, head) */
  size_t strides;
  sptx_value scratch; /* float32 (n, head_dim), of the (batch, head) */
  sptx_value scale;   /* or NULL */
} sink;

static void store_row(backward *b, const sink *to, int m, int h) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  bool keys = is_d_kv(b);
  sptx_value row = sptx_recompute(e, sptx_row_inner(p, &b->rows, m, h)),
             end = keys ? p->key_end : p->query_end;
  sptx_value begin = keys ? p->key_begin : p->query_begin;
  sptx_value exists = sptx_icmp(e, LLVMIntULT, sptx_sub(e, row, begin), sptx_sub(e, end, begin));
  sptx_if inside = sptx_if_begin(e, exists);
  sptx_value place = keys ? sptx_zext64(e, sptx_key_position(p, row)) : query_index(p, row, NULL);
  sptx_value scratch = sptx_add(e, to->scratch, sptx_muli(e, place, 4 * p->spec->head_dim));
  scratch = sptx_add(e, scratch, sptx_zext64(e, sptx_muli(e, p->quad, 8)));
  sptx_value final =
      keys ? sptx_key_row(p, to->tensor, to->strides, row) : sptx_query_row(p, to->tensor, to->strides, row);
  final = sptx_add(e, final, sptx_zext64(e, sptx_muli(e, p->quad, 2 * p->element_bytes)));
  for (int n = 0; n < p->spec->head_dim / 8; n++) {
    sptx_value value[2], earlier[2], at = sptx_addi(e, scratch, n * 32);
    if (p->spec->add)
      sptx_load_pair(p, SPTX_ELEMENT_F32, at, earlier);
    for (int c = 0; c < 2; c++) {
      value[c] = sptx_get(e, b->sum[to->gradient][m][n][2 * h + c]);
      if (to->scale)
        value[c] = sptx_mul(e, value[c], to->scale);
      if (p->spec->add)
        value[c] = sptx_add(e, value[c], earlier[c]);
    }
    if (p->spec->final)
      sptx_store_pair(p, p->spec->element, sptx_addi(e, final, n * 8 * p->element_bytes), value[0], value[1]);
    else
      sptx_store_pair(p, SPTX_ELEMENT_F32, at, value[0], value[1]);
  }
  sptx_if_end(e, &inside);
}

static void store(backward *b, enum gradient gradient, sptx_value tensor, size_t strides, size_t scratch) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  if (!wants(b, gradient))
    return;
  bool keys = is_d_kv(b);
  sptx_value head = sptx_recompute(e, keys ? p->kv_head : p->head), heads = SPTX_PARAM32(p, heads),
             n = SPTX_PARAM32(p, n_q);
  p->batch = sptx_recompute(e, p->batch);
  if (keys) {
    heads = SPTX_PARAM32(p, kv_heads);
    n = SPTX_PARAM32(p, n_k);
  }
  sptx_value plane = sptx_zext64(e, sptx_add(e, sptx_mul(e, p->batch, heads), head));
  plane = sptx_muli(e, sptx_mul(e, plane, sptx_zext64(e, n)), 4 * p->spec->head_dim);
  sptx_value workspace = sptx_add(e, SPTX_ARG(p, i64, workspace), sptx_param64(p, scratch));
  sink to = {.gradient = gradient,
             .tensor = sptx_tensor_rows(p, tensor, strides, head),
             .strides = strides,
             .scratch = sptx_add(e, workspace, plane),
             .scale = gradient == TO_FIRST ? b->score.scale : NULL};
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      store_row(b, &to, m, h);
}

/* ---- kernels ---- */

static void walk_queries_of_heads(backward *b) {
  sptx_portable *p = &b->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value table = SPTX_PARAM64(p, head_table), entry = sptx_muli(e, p->head_index, 3);
  sptx_value first = sptx_constant_i32(p, table, sptx_addi(e, entry, 1));
  sptx_value count = sptx_constant_i32(p, table, sptx_addi(e, entry, 2));
  first = sptx_add(e, first, sptx_muli(e, SPTX_PARAM32(p, heads_here), 3));
  sptx_loop heads = sptx_loop_begin(e, first, sptx_add(e, first, count), sptx_i32(e, 1));
  p->head = sptx_constant_i32(p, table, heads.index);
  b->score = sptx_score_begin(p, p->head);
  query_tensors(b, b->columns);
  walk_columns(b);
  sptx_loop_end(e, &heads);
  b->score.scale = SPTX_ARG(p, f32, scale);
}

static void d_kv(backward *b) {
  sptx_portable *p = &b->p;
  sptx_portable_tensor rows[2];
  key_tensors(b, rows);
  for (int i = 0; i < (p->spec->want_d_k ? 2 : 1); i++)
    sptx_load_tile(p, b->row_tile[i], p->rows, rows[i], b->rows.first_row);
  walk_queries_of_heads(b);
  store(b, TO_FIRST, SPTX_ARG(p, i64, d_k), offsetof(sptx_portable_params, k),
        offsetof(sptx_portable_params, scratch));
  store(b, TO_SECOND, SPTX_ARG(p, i64, d_v), offsetof(sptx_portable_params, v),
        offsetof(sptx_portable_params, scratch_v));
}

static void d_q(backward *b) {
  sptx_portable *p = &b->p;
  sptx_portable_tensor rows[2];
  query_tensors(b, rows);
  key_tensors(b, b->columns);
  for (int i = 0; i < 2; i++)
    sptx_load_tile(p, b->row_tile[i], p->rows, rows[i], b->rows.first_row);
  b->score = sptx_score_begin(p, p->head);
  load_row_values(b);
  walk_columns(b);
  store(b, TO_FIRST, SPTX_ARG(p, i64, d_q), offsetof(sptx_portable_params, q),
        offsetof(sptx_portable_params, scratch));
}

enum sptx_code sptx_emit_portable_gradient(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                           sptx_error *error) {
  (void)error;
  backward b = {0};
  sptx_portable *p = &b.p;
  sptx_portable_begin(p, e, symbol, spec);
  sptx_rows_steps(p, &b.rows);
  bool keys = is_d_kv(&b);
  sptx_value work = sptx_icmp(e, LLVMIntSLT, b.rows.first_row, keys ? p->key_end : p->query_end);
  if (p->spec->add && !p->spec->final) /* nothing to add: leave the sums alone */
    work = sptx_and(e, work, sptx_icmp(e, LLVMIntSLT, b.rows.step_begin, b.rows.step_end));
  sptx_if branch = sptx_if_begin(e, work);
  begin_shared(&b);
  begin_sums(&b);
  b.column_slot = sptx_slot(e, e->i32, NULL);
  b.stage_slot = sptx_slot(e, e->i32, NULL);
  sptx_rows_begin(p, &b.rows);
  if (keys)
    d_kv(&b);
  else
    d_q(&b);
  sptx_if_end(e, &branch);
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}
