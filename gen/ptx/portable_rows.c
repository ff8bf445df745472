/* The rows of a CTA and the columns that they attend to, the same for queries that look at keys and for keys
 * that look back at queries: bounds never fall, so that the columns of a row are a range either way. */
#include "gen/predicate.h"
#include "gen/ptx/portable.h"

static bool wants_positions(const sptx_portable *p) {
  return p->spec->alibi || p->spec->predicate;
}

static sptx_value row_position(sptx_portable *p, sptx_value row) {
  return p->columns_are_keys ? sptx_query_position(p, row) : sptx_key_position(p, row);
}

static sptx_value column_position(sptx_portable *p, sptx_value column) {
  return p->columns_are_keys ? sptx_key_position(p, column) : sptx_query_position(p, column);
}

/* ---- steps ---- */

static void steps_of_tiles(sptx_portable *p, sptx_portable_rows *rows) {
  sptx_gpu_emitter *e = p->e;
  int parts = SPTX_GENERIC_TILE / p->spec->columns;
  sptx_value table = SPTX_PARAM64(p, tile_start);
  sptx_value line = sptx_udiv(e, rows->first_row, sptx_i32(e, SPTX_GENERIC_TILE));
  rows->step_size = 1;
  rows->step_begin = sptx_muli(e, sptx_constant_i32(p, table, line), parts);
  rows->step_end = sptx_muli(e, sptx_constant_i32(p, table, sptx_addi(e, line, 1)), parts);
}

/* The union of the rows' key ranges, and the part that all rows share. A tile with rows beyond the end may
 * count as full: their results are not stored. */
static void steps_of_queries(sptx_portable *p, sptx_portable_rows *rows) {
  sptx_gpu_emitter *e = p->e;
  sptx_value last = sptx_min(e, sptx_addi(e, rows->first_row, p->rows), p->query_end);
  last = sptx_addi(e, last, -1);
  rows->step_begin = sptx_bound_lo(p, rows->first_row);
  rows->step_end = sptx_bound_hi(p, last);
  rows->full_begin = sptx_bound_lo(p, last);
  rows->full_end = sptx_bound_hi(p, rows->first_row);
}

static void steps_of_keys(sptx_portable *p, sptx_portable_rows *rows) {
  sptx_gpu_emitter *e = p->e;
  sptx_value field[4], first = sptx_muli(e, p->tile, 4);
  for (int i = 0; i < 4; i++) {
    field[i] = sptx_constant_i32(p, SPTX_PARAM64(p, range_table), sptx_addi(e, first, i));
    field[i] = sptx_min(e, sptx_max(e, field[i], p->query_begin), p->query_end);
  }
  rows->step_begin = field[0];
  rows->full_begin = field[1];
  rows->full_end = field[2];
  rows->step_end = field[3];
}

void sptx_rows_steps(sptx_portable *p, sptx_portable_rows *rows) {
  rows->first_row = sptx_muli(p->e, p->tile, p->rows);
  if (p->spec->kind == SPTX_PIECE_TILES) {
    steps_of_tiles(p, rows);
    return;
  }
  rows->step_size = p->spec->columns;
  if (!p->columns_are_keys) {
    steps_of_keys(p, rows);
    return;
  }
  rows->first_row = sptx_add(p->e, rows->first_row, p->query_begin);
  steps_of_queries(p, rows);
}

sptx_value sptx_step_column(sptx_portable *p, const sptx_portable_rows *rows, sptx_value step) {
  sptx_gpu_emitter *e = p->e;
  if (p->spec->kind == SPTX_PIECE_BAND)
    return step;
  int parts = SPTX_GENERIC_TILE / p->spec->columns;
  sptx_value last = sptx_max(e, sptx_addi(e, rows->step_end, -1), sptx_i32(e, 0));
  step = sptx_min(e, step, last);
  sptx_value entry = sptx_udiv(e, step, sptx_i32(e, parts));
  sptx_value part = sptx_urem(e, step, sptx_i32(e, parts));
  sptx_value tile = sptx_constant_i32(p, SPTX_PARAM64(p, tile_index), entry);
  return sptx_add(e, sptx_muli(e, tile, SPTX_GENERIC_TILE), sptx_muli(e, part, p->spec->columns));
}

/* ---- rows ---- */

static sptx_value row_in_cta(sptx_portable *p) {
  return sptx_add(p->e, sptx_muli(p->e, p->warp, 16 * p->spec->row_blocks), p->group);
}

sptx_value sptx_row_inner(sptx_portable *p, const sptx_portable_rows *rows, int block, int half) {
  return sptx_addi(p->e, sptx_add(p->e, rows->first_row, row_in_cta(p)), block * 16 + half * 8);
}

/* One bisection for all rows of the lane, towards the first query whose bound exceeds the key. Its length is
 * the same for all threads. */
static void bisect(sptx_portable *p, const sptx_portable_rows *rows, sptx_value row[2][2],
                   sptx_value (*bound)(sptx_portable *, sptx_value), sptx_value result[2][2]) {
  sptx_gpu_emitter *e = p->e;
  sptx_value count = sptx_max(e, sptx_sub(e, rows->step_end, rows->step_begin), sptx_i32(e, 0));
  sptx_value operands[2] = {sptx_addi(e, count, -1), LLVMConstInt(e->i1, 0, 0)};
  sptx_value zeros = sptx_intrinsic(e, "llvm.ctlz", &e->i32, 1, operands, 2);
  sptx_value some = sptx_icmp(e, LLVMIntSGT, count, sptx_i32(e, 1)), slots[2][2];
  sptx_value rounds = sptx_select(e, some, sptx_sub(e, sptx_i32(e, 32), zeros), sptx_i32(e, 0));
  sptx_value length = sptx_slot(e, e->i32, count);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      slots[m][h] = sptx_slot(e, e->i32, rows->step_begin);
  sptx_loop loop = sptx_loop_begin(e, sptx_i32(e, 0), rounds, sptx_i32(e, 1));
  sptx_value half = sptx_shri(e, sptx_get(e, length), 1);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value base = sptx_get(e, slots[m][h]), middle = sptx_add(e, base, half);
      sptx_value at = bound(p, sptx_addi(e, middle, -1));
      sptx_value above = sptx_icmp(e, LLVMIntSGT, at, row[m][h]);
      sptx_set_slot(e, slots[m][h], sptx_select(e, above, base, middle));
    }
  sptx_set_slot(e, length, sptx_sub(e, sptx_get(e, length), half));
  sptx_loop_end(e, &loop);
  some = sptx_icmp(e, LLVMIntSGT, count, sptx_i32(e, 0));
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value base = sptx_get(e, slots[m][h]);
      sptx_value below = sptx_icmp(e, LLVMIntSLE, bound(p, base), row[m][h]);
      below = sptx_and(e, below, some);
      result[m][h] = sptx_add(e, base, LLVMBuildZExt(e->builder, below, e->i32, ""));
    }
}

static void ranges_of_queries(sptx_portable *p, sptx_portable_rows *rows) {
  sptx_gpu_emitter *e = p->e;
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value x = sptx_row_inner(p, rows, m, h), inside = sptx_icmp(e, LLVMIntSLT, x, p->query_end);
      sptx_value lo = sptx_bound_lo(p, x), hi = sptx_bound_hi(p, x);
      sptx_value span = sptx_max(e, sptx_sub(e, hi, lo), sptx_i32(e, 0));
      rows->begin[m][h] = lo;
      rows->span[m][h] = sptx_select(e, inside, span, sptx_i32(e, 0));
    }
}

/* Query x attends to key y where hi(x) > y and not lo(x) > y. */
static void ranges_of_keys(sptx_portable *p, sptx_portable_rows *rows) {
  sptx_gpu_emitter *e = p->e;
  sptx_value row[2][2], end[2][2];
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      row[m][h] = sptx_row_inner(p, rows, m, h);
  bisect(p, rows, row, sptx_bound_hi, rows->begin);
  bisect(p, rows, row, sptx_bound_lo, end);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value inside = sptx_and(e, sptx_icmp(e, LLVMIntSLT, row[m][h], p->key_end),
                                   sptx_icmp(e, LLVMIntSGE, row[m][h], p->key_begin));
      sptx_value span = sptx_max(e, sptx_sub(e, end[m][h], rows->begin[m][h]), sptx_i32(e, 0));
      rows->span[m][h] = sptx_select(e, inside, span, sptx_i32(e, 0));
    }
}

void sptx_rows_begin(sptx_portable *p, sptx_portable_rows *rows) {
  if (p->spec->kind == SPTX_PIECE_BAND && p->columns_are_keys)
    ranges_of_queries(p, rows);
  if (p->spec->kind == SPTX_PIECE_BAND && !p->columns_are_keys)
    ranges_of_keys(p, rows);
  if (!wants_positions(p))
    return;
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      rows->position[m][h] = row_position(p, sptx_row_inner(p, rows, m, h));
}

/* ---- scores ---- */

/* This lane's first column of a tile; the others follow at n * 8 + c. */
static sptx_value lane_column(sptx_portable *p, sptx_value column) {
  return sptx_add(p->e, column, sptx_muli(p->e, p->quad, 2));
}

void sptx_rows_scores(sptx_portable *p, const sptx_portable_rows *rows, const sptx_score *score,
                      sptx_accumulator *s, sptx_value column, sptx_accumulator *slope) {
  sptx_gpu_emitter *e = p->e;
  if (!sptx_scales_first(p->spec))
    return;
  for (int n = 0; n < s->blocks; n++)
    for (int c = 0; c < 2; c++) {
      sptx_value position = NULL;
      if (p->spec->alibi)
        position = column_position(p, sptx_addi(e, lane_column(p, column), n * 8 + c));
      for (int m = 0; m < p->spec->row_blocks; m++)
        for (int h = 0; h < 2; h++) {
          sptx_value *value = &s->at[m][n][2 * h + c], distance = NULL;
          if (position && p->columns_are_keys)
            distance = sptx_sub(e, position, rows->position[m][h]);
          else if (position)
            distance = sptx_sub(e, rows->position[m][h], position);
          *value = sptx_score_apply(p, score, *value, distance, slope ? &slope->at[m][n][2 * h + c] : NULL);
        }
    }
}

/* ---- masks ---- */

sptx_value sptx_predicate_holds(sptx_portable *p, sptx_value query, sptx_value key) {
  sptx_gpu_emitter *e = p->e;
  sptx_ir ir = {.context = e->context,
                .module = e->module,
                .builder = e->builder,
                .function = e->function,
                .void_type = e->void_type,
                .i1 = e->i1,
                .i8 = e->i8,
                .i16 = e->i16,
                .i32 = e->i32,
                .i64 = e->i64,
                .f16 = e->f16,
                .bf16 = e->bf16,
                .f32 = e->f32,
                .pointer = e->pointer};
  return sptx_predicate_emit(&ir, p->spec->predicate, query, key);
}

/* Bit 2n + c of bits[m][h]: is the element's pair in the predicate's set? A loop, since its code may be long.
 */
static void predicate_bits(sptx_portable *p, const sptx_portable_rows *rows, int blocks, sptx_value column,
                           sptx_value bits[2][2]) {
  sptx_gpu_emitter *e = p->e;
  sptx_value slots[2][2], first = lane_column(p, column);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      slots[m][h] = sptx_slot(e, e->i32, sptx_i32(e, 0));
  sptx_loop loop = sptx_loop_begin(e, sptx_i32(e, 0), sptx_i32(e, blocks), sptx_i32(e, 1));
  for (int c = 0; c < 2; c++) {
    sptx_value place = sptx_addi(e, sptx_add(e, first, sptx_muli(e, loop.index, 8)), c);
    sptx_value position = column_position(p, place);
    sptx_value shift = sptx_addi(e, sptx_muli(e, loop.index, 2), c);
    for (int m = 0; m < p->spec->row_blocks; m++)
      for (int h = 0; h < 2; h++) {
        sptx_value row = rows->position[m][h];
        sptx_value query = p->columns_are_keys ? row : position, key = p->columns_are_keys ? position : row;
        sptx_value member = sptx_predicate_holds(p, query, key);
        member = LLVMBuildShl(e->builder, LLVMBuildZExt(e->builder, member, e->i32, ""), shift, "");
        sptx_set_slot(e, slots[m][h], sptx_or(e, sptx_get(e, slots[m][h]), member));
      }
  }
  sptx_loop_end(e, &loop);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++)
      bits[m][h] = sptx_get(e, slots[m][h]);
}

static void mask_band(sptx_portable *p, const sptx_portable_rows *rows, sptx_accumulator *s,
                      sptx_value column, sptx_value fill) {
  sptx_gpu_emitter *e = p->e;
  sptx_value start = lane_column(p, column), bits[2][2];
  if (p->spec->predicate)
    predicate_bits(p, rows, s->blocks, column, bits);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int h = 0; h < 2; h++) {
      sptx_value offset = sptx_sub(e, start, rows->begin[m][h]);
      for (int n = 0; n < s->blocks; n++)
        for (int c = 0; c < 2; c++) {
          sptx_value *value = &s->at[m][n][2 * h + c];
          sptx_value inside = sptx_icmp(e, LLVMIntULT, sptx_addi(e, offset, n * 8 + c), rows->span[m][h]);
          if (p->spec->predicate) {
            sptx_value bit = sptx_andi(e, bits[m][h], (int64_t)1 << (2 * n + c));
            inside = sptx_and(e, inside, sptx_icmp(e, LLVMIntNE, bit, sptx_i32(e, 0)));
          }
          *value = sptx_select(e, inside, *value, fill);
        }
    }
}

/* Masks hold one word for each key, one bit for each query: see sptx_tile_list. */
static void mask_tile(sptx_portable *p, const sptx_portable_rows *rows, sptx_accumulator *s, sptx_value mask,
                      sptx_value column, sptx_value fill) {
  sptx_gpu_emitter *e = p->e;
  sptx_value base = sptx_add(e, SPTX_ARG(p, i64, constants), SPTX_PARAM64(p, masks));
  base = sptx_add(e, base, sptx_muli(e, sptx_sext64(e, mask), SPTX_GENERIC_TILE * 8));
  sptx_value row = sptx_andi(e, sptx_row_inner(p, rows, 0, 0), SPTX_GENERIC_TILE - 1);
  sptx_value first = sptx_andi(e, lane_column(p, column), SPTX_GENERIC_TILE - 1);
  sptx_value key = p->columns_are_keys ? first : row, query = p->columns_are_keys ? row : first;
  sptx_value shift = sptx_zext64(e, query);
  base = sptx_add(e, base, sptx_muli(e, sptx_zext64(e, key), 8));
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < s->blocks; n++)
      for (int i = 0; i < 4; i++) {
        int across = n * 8 + i % 2, along = m * 16 + i / 2 * 8;
        int keys = p->columns_are_keys ? across : along, queries = p->columns_are_keys ? along : across;
        sptx_value word = sptx_load_constant(e, e->i64, sptx_addi(e, base, keys * 8), 8);
        word = LLVMBuildLShr(e->builder, word, shift, "");
        sptx_value bit = sptx_andi(e, word, (int64_t)1 << queries);
        sptx_value inside = sptx_icmp(e, LLVMIntNE, bit, sptx_i64(e, 0));
        s->at[m][n][i] = sptx_select(e, inside, s->at[m][n][i], fill);
      }
}

static sptx_value step_mask(sptx_portable *p, sptx_value step) {
  int parts = SPTX_GENERIC_TILE / p->spec->columns;
  return sptx_constant_i32(p, SPTX_PARAM64(p, tile_mask), sptx_udiv(p->e, step, sptx_i32(p->e, parts)));
}

/* A tile that is not full. Columns are cut at the end of the rows' common range, where it is no query's
 * fault.
 */
static sptx_value is_partial(sptx_portable *p, const sptx_portable_rows *rows, sptx_value mask,
                             sptx_value column) {
  sptx_gpu_emitter *e = p->e;
  if (p->spec->kind == SPTX_PIECE_TILES)
    return sptx_icmp(e, LLVMIntSGE, mask, sptx_i32(e, 0));
  if (p->spec->predicate)
    return LLVMConstInt(e->i1, 1, 0);
  sptx_value end = sptx_addi(e, column, p->spec->columns);
  return sptx_or(e, sptx_icmp(e, LLVMIntSLT, column, rows->full_begin),
                 sptx_icmp(e, LLVMIntSGT, end, rows->full_end));
}

typedef sptx_value mask_slots[2][SPTX_PORTABLE_MAX_COLUMNS / 8][4];

static void put_scores(sptx_portable *p, const sptx_accumulator *s, mask_slots slots) {
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < s->blocks; n++)
      for (int i = 0; i < 4; i++)
        sptx_set_slot(p->e, slots[m][n][i], s->at[m][n][i]);
}

void sptx_rows_mask(sptx_portable *p, const sptx_portable_rows *rows, sptx_accumulator *s, sptx_value step,
                    sptx_value column, double fill) {
  sptx_gpu_emitter *e = p->e;
  bool tiles = p->spec->kind == SPTX_PIECE_TILES;
  sptx_value mask = tiles ? step_mask(p, step) : NULL, outside = sptx_f32(e, fill);
  mask_slots slots;
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < s->blocks; n++)
      for (int i = 0; i < 4; i++)
        slots[m][n][i] = sptx_slot(e, e->f32, NULL);
  put_scores(p, s, slots);
  sptx_if branch = sptx_if_begin(e, is_partial(p, rows, mask, column));
  if (tiles)
    mask_tile(p, rows, s, mask, column, outside);
  else
    mask_band(p, rows, s, column, outside);
  put_scores(p, s, slots);
  sptx_if_end(e, &branch);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < s->blocks; n++)
      for (int i = 0; i < 4; i++)
        s->at[m][n][i] = sptx_get(e, slots[m][n][i]);
}
