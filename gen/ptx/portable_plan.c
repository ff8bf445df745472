/* From a piece to portable kernels: choosing tiles, filling the parameter block, adding the launch. */
#include "gen/ptx/portable_plan.h"
#include "gen/predicate.h"
#include "gen/ptx/portable.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARED_LIMIT 101376 /* 99 KB: what every chip from sm_80 on, sm_86 and sm_89 too, gives a CTA */
#define INDEX_LIMIT ((int64_t)1 << 30) /* positions and inner indices are 32-bit in kernels */

static const char *const element_names[] = {"f32", "f16", "bf16"};
static const char *const role_names[] = {"forward", "d_q", "d_kv", "decode"};
static const char *const f32_names[] = {"", "_tf32x3", "_ffma", "_tf32"};

static int64_t saturate(int64_t value) {
  return value > INDEX_LIMIT ? INDEX_LIMIT : value < -INDEX_LIMIT ? -INDEX_LIMIT : value;
}

static int64_t floor_quotient(int64_t a, int64_t b) {
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

/* A bound in 32 bits, and the simplest form that says the same for 0 <= x < length. */
static enum sptx_code narrow_bound(const sptx_bound *bound, int64_t length, sptx_portable_bound *narrow,
                                   enum sptx_portable_bound_kind *kind, sptx_error *error) {
  int64_t turns = floor_quotient(bound->shift, bound->period), shift = bound->shift - turns * bound->period;
  int64_t add = bound->add + bound->mult * turns, from = bound->ramp_from, ramp = bound->ramp_max;
  bool flat = ramp == 0 || from >= bound->period;
  if (bound->period == 1 && flat)
    add += bound->mult * shift, shift = 0;
  int64_t most = bound->mult * ((length + shift) / bound->period + 1);
  if (llabs(most) > INDEX_LIMIT || llabs(add) > 2 * INDEX_LIMIT || bound->period > INDEX_LIMIT)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "GPU kernels index with 32 bits: the bound of this piece "
                     "does not fit; use fewer than 2^30 positions");
  int64_t value = sptx_bound_at(bound, 0);
  *kind = SPTX_BOUND_GENERAL;
  if (bound->period == 1 && flat)
    *kind = SPTX_BOUND_AFFINE;
  if (value == sptx_bound_at(bound, length > 0 ? length - 1 : 0)) { /* monotonic: constant in between */
    *kind = SPTX_BOUND_CONSTANT;
    *narrow = (sptx_portable_bound){.low = (int32_t)saturate(value), .period = 1};
    return SPTX_CODE_OK;
  }
  *narrow = (sptx_portable_bound){
      (int32_t)bound->mult,    (int32_t)shift, (int32_t)bound->period,        (int32_t)saturate(from),
      (int32_t)saturate(ramp), (int32_t)add,   (int32_t)saturate(bound->low), (int32_t)saturate(bound->high),
  };
  return SPTX_CODE_OK;
}

/* Strides in bytes; *loose is set where rows are no multiples of 16 bytes apart. */
static enum sptx_code fill_strides(const sptx_problem *problem, const sptx_strides *strides, const char *name,
                                   int64_t out[3], bool *loose, sptx_error *error) {
  const int64_t in[3] = {strides->batch, strides->head, strides->position};
  const int64_t extent[3] = {problem->batch, problem->heads, 2};
  int64_t bytes = problem->element == SPTX_ELEMENT_F32 ? 4 : 2;
  for (int i = 0; i < 3; i++) {
    if (__builtin_mul_overflow(in[i], bytes, &out[i]))
      return sptx_fail(error, SPTX_CODE_OVERFLOW, "a stride of %s does not fit 63 bits", name);
    *loose |= extent[i] > 1 && out[i] % 16 != 0;
  }
  return SPTX_CODE_OK;
}

static enum sptx_code fill_views(const sptx_piece *piece, sptx_portable_params *params, sptx_error *error) {
  for (int d = 0; d < SPTX_MAX_DIGITS; d++) {
    params->query_size[d] = (int32_t)saturate(d < piece->query.inner_count ? piece->query.inner_size[d] : 1);
    params->key_size[d] = (int32_t)saturate(d < piece->key.inner_count ? piece->key.inner_size[d] : 1);
    params->query_stride[d] =
        (int32_t)saturate(d < piece->query.inner_count ? piece->query.inner_stride[d] : 0);
    params->key_stride[d] = (int32_t)saturate(d < piece->key.inner_count ? piece->key.inner_stride[d] : 0);
  }
  if (params->n_k >= INDEX_LIMIT)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "GPU kernels take fewer than 2^30 positions");
  return SPTX_CODE_OK;
}

/* The table of shared values, and how long the longest rows and columns are. */
static enum sptx_code add_shared_table(sptx_gpu_planner *planner, const sptx_piece *piece,
                                       sptx_portable_extent *extent, sptx_portable_params *params,
                                       sptx_error *error) {
  int64_t total = sptx_view_shared_total(&piece->query);
  int64_t first = planner->problem->n_k - planner->problem->n_q, last = planner->problem->n_k;
  if (total >= INDEX_LIMIT)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "too many shared values for a GPU launch");
  sptx_portable_shared *table = calloc((size_t)total + 1, sizeof *table);
  if (!table)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  *extent = (sptx_portable_extent){.query_begin = INT64_MAX, .key_begin = INT64_MAX};
  for (int64_t s = 0; s < total; s++) {
    int64_t qb, qe, kb, ke;
    sptx_view_inner_range(&piece->query, s, first, last, &qb, &qe);
    sptx_view_inner_range(&piece->key, s, 0, last, &kb, &ke);
    table[s] = (sptx_portable_shared){(int32_t)qb,
                                      (int32_t)qe,
                                      (int32_t)kb,
                                      (int32_t)ke,
                                      (int32_t)sptx_view_position(&piece->query, s, 0),
                                      (int32_t)sptx_view_position(&piece->key, s, 0),
                                      {0, 0}};
    extent->query_begin = qb < extent->query_begin ? qb : extent->query_begin;
    extent->query_end = qe > extent->query_end ? qe : extent->query_end;
    extent->queries = qe - qb > extent->queries ? qe - qb : extent->queries;
    extent->key_begin = kb < extent->key_begin ? kb : extent->key_begin;
    extent->keys = ke - kb > extent->keys ? ke - kb : extent->keys;
    extent->key_end = ke > extent->key_end ? ke : extent->key_end;
  }
  size_t offset;
  enum sptx_code code = sptx_gpu_add_constants(planner, table, (size_t)total * sizeof *table, &offset, error);
  free(table);
  params->shared_table = (int64_t)offset;
  params->shared_total = (int32_t)total;
  return code;
}

enum sptx_code sptx_portable_fill_problem(const sptx_gpu_planner *planner, sptx_portable_spec *spec,
                                          sptx_portable_params *params, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  SPTX_TRY(fill_strides(problem, &problem->q, "q", params->q, &spec->loose, error));
  SPTX_TRY(fill_strides(problem, &problem->k, "k", params->k, &spec->loose, error));
  SPTX_TRY(fill_strides(problem, &problem->v, "v", params->v, &spec->loose, error));
  SPTX_TRY(fill_strides(problem, &problem->o, "o", params->o, &spec->loose, error));
  params->heads = (int32_t)problem->heads;
  params->kv_heads = (int32_t)problem->kv_heads;
  params->n_q = (int32_t)saturate(problem->n_q);
  params->n_k = (int32_t)saturate(problem->n_k);
  spec->element = problem->element;
  spec->head_dim = problem->head_dim;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_portable_params_begin(sptx_gpu_planner *planner, const sptx_piece *piece,
                                          sptx_portable_spec *spec, sptx_portable_params *params,
                                          sptx_portable_extent *extent, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  SPTX_TRY(sptx_portable_fill_problem(planner, spec, params, error));
  SPTX_TRY(fill_views(piece, params, error));
  SPTX_TRY(add_shared_table(planner, piece, extent, params, error));
  spec->kind = piece->kind;
  spec->query_digits = piece->query.inner_count;
  spec->key_digits = piece->key.inner_count;
  spec->soft_cap = problem->soft_cap;
  spec->alibi = problem->alibi;
  spec->negative_scale = problem->negative_scale;
  if (problem->element == SPTX_ELEMENT_F32)
    spec->f32_mode =
        planner->schedule.f32_mode ? (enum sptx_portable_f32)planner->schedule.f32_mode : SPTX_F32_TF32X3;
  if (piece->predicate && !sptx_predicate_supported(piece->predicate))
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "GPU kernels cannot do the predicate of piece '%s': it has numbers above 2^31",
                     piece->name);
  if (piece->predicate)
    SPTX_TRY(sptx_gpu_keep_set(planner, piece->predicate, &spec->predicate, error));
  if (piece->kind != SPTX_PIECE_BAND)
    return SPTX_CODE_OK;
  SPTX_TRY(narrow_bound(&piece->lo, extent->query_end, &params->lo, &spec->lo, error));
  return narrow_bound(&piece->hi, extent->query_end, &params->hi, &spec->hi, error);
}

/* Tiles by default: rows as long as the problem allows, few enough registers not to spill. */
static void default_tiles(sptx_portable_spec *spec, int64_t row_length, int64_t column_length) {
  bool f32 = spec->element == SPTX_ELEMENT_F32, forward = spec->role == SPTX_PORTABLE_FORWARD;
  spec->warps = 4;
  spec->stages = 2;
  spec->row_blocks = forward && !f32 && spec->head_dim <= 128 ? 2 : 1;
  spec->columns = spec->head_dim <= 128 ? 64 : 32;
  if (f32)
    spec->columns = spec->head_dim <= 128 ? 32 : 16;
  if (!f32 && spec->head_dim > 64 && (!forward || spec->head_dim > 96))
    spec->columns = 32;
  if (spec->kind == SPTX_PIECE_TILES)
    spec->warps = 4 / spec->row_blocks;
  while (spec->kind == SPTX_PIECE_BAND && spec->row_blocks * spec->warps * 16 >= 2 * row_length &&
         spec->row_blocks * spec->warps > 1) {
    if (spec->row_blocks > 1)
      spec->row_blocks = 1;
    else
      spec->warps /= 2;
  }
  while (spec->columns >= 2 * column_length && spec->columns > 16)
    spec->columns /= 2;
}

/* Smaller tiles until they fit in shared memory; what the schedule asks for stays. */
static void shrink_tiles(const sptx_ptx_schedule *wanted, int rows, int columns, sptx_portable_spec *spec) {
  while (sptx_portable_shared_bytes(spec) > SHARED_LIMIT) {
    if (!columns && spec->columns > 16)
      spec->columns /= 2;
    else if (!wanted->stages && spec->stages > 1)
      spec->stages = 1;
    else if (!rows && !wanted->warps && spec->warps > 1)
      spec->warps /= 2;
    else
      return;
  }
}

enum sptx_code sptx_portable_tiles(const sptx_gpu_planner *planner, sptx_portable_spec *spec,
                                   const sptx_portable_extent *extent, sptx_error *error) {
  const sptx_ptx_schedule *wanted = &planner->schedule;
  bool columns_are_keys = spec->role != SPTX_PORTABLE_D_KV, band = spec->kind == SPTX_PIECE_BAND;
  default_tiles(spec, columns_are_keys ? extent->queries : extent->keys,
                columns_are_keys ? extent->keys : extent->queries);
  int rows = columns_are_keys ? wanted->query_tile : wanted->key_tile;
  int columns = spec->role == SPTX_PORTABLE_FORWARD ? wanted->key_tile : 0;
  if (!band && (rows > SPTX_GENERIC_TILE || SPTX_GENERIC_TILE % (rows ? rows : 16)))
    rows = 0; /* a schedule for the pattern's bands: a listed tile is not cut so */
  if (!band && (columns > SPTX_GENERIC_TILE || SPTX_GENERIC_TILE % (columns ? columns : 16)))
    columns = 0;
  if (wanted->warps && (band || rows))
    spec->warps = wanted->warps;
  if (rows)
    spec->row_blocks = rows / (16 * spec->warps);
  if (rows && spec->role != SPTX_PORTABLE_FORWARD && spec->row_blocks > 1 && spec->columns > 32)
    spec->columns = 32; /* as many registers as one block of rows and 64 columns */
  if (columns)
    spec->columns = columns;
  if (wanted->stages)
    spec->stages = wanted->stages;
  shrink_tiles(wanted, rows, columns, spec);
  spec->hold_rows = spec->role == SPTX_PORTABLE_FORWARD && spec->element != SPTX_ELEMENT_F32 &&
                    spec->head_dim * spec->row_blocks <= 128;
  bool legal = spec->warps >= 1 && spec->warps <= 16 && spec->row_blocks >= 1 && spec->row_blocks <= 2 &&
               spec->columns >= 16 && spec->columns <= SPTX_PORTABLE_MAX_COLUMNS && spec->columns % 16 == 0 &&
               spec->stages >= 1 && spec->stages <= 2;
  if (!legal || (rows && rows != 16 * spec->warps * spec->row_blocks))
    return sptx_fail(
        error, SPTX_CODE_UNSUPPORTED,
        "this schedule is impossible: a warp has 16 or 32 rows, columns are 16 to %d by 16, stages "
        "1 or 2",
        SPTX_PORTABLE_MAX_COLUMNS);
  if (sptx_portable_shared_bytes(spec) > SHARED_LIMIT)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "this schedule needs %zu bytes of shared memory of %d",
                     sptx_portable_shared_bytes(spec), SHARED_LIMIT);
  return SPTX_CODE_OK;
}

static void write_symbol(const sptx_portable_spec *s, char *symbol, size_t size) {
  char flags[80], predicate[32] = "";
  if (s->predicate)
    snprintf(predicate, sizeof predicate, "_p%016llx", (unsigned long long)sptx_predicate_hash(s->predicate));
  if (s->role == SPTX_PORTABLE_DECODE)
    snprintf(predicate + strlen(predicate), sizeof predicate - strlen(predicate), "_g%d_h%d", s->view_digits,
             s->group);
  snprintf(flags, sizeof flags, "%s%s%s%s%s%s%s%s%s%s%s%s", s->soft_cap ? "_cap" : "",
           s->alibi ? "_alibi" : "", s->negative_scale ? "_negative" : "", s->merge ? "_merge" : "",
           s->want_d_k && !s->want_d_v ? "_dk" : "", s->want_d_v && !s->want_d_k ? "_dv" : "",
           s->add ? "_add" : "", s->final ? "_final" : "", s->hold_rows ? "_held" : "",
           s->role != SPTX_PORTABLE_FORWARD && s->stages == 1 ? "_s1" : "", s->loose ? "_loose" : "",
           predicate);
  snprintf(symbol, size, "sptx_%s_%s_sm80_d%d_r%dx%d_c%d_%s%d%d_v%d%d%s%s", element_names[s->element],
           role_names[s->role], s->head_dim, s->warps, s->row_blocks * 16, s->columns,
           s->kind == SPTX_PIECE_BAND ? "band" : "tiles", (int)s->lo, (int)s->hi, s->query_digits,
           s->key_digits, f32_names[s->f32_mode], flags);
}

enum sptx_code sptx_portable_launch(sptx_gpu_planner *planner, const sptx_portable_spec *spec,
                                    const sptx_portable_params *params,
                                    enum sptx_code (*emit)(struct sptx_gpu_emitter *, const char *,
                                                           const void *, sptx_error *),
                                    sptx_error *error) {
  int64_t items = (int64_t)params->shared_total * params->tiles;
  if (__builtin_mul_overflow(items, params->heads_here * planner->problem->batch, &items) ||
      items > INT32_MAX)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "more than 2^31 tiles for one GPU launch: split the batch");
  if (items == 0)
    return SPTX_CODE_OK;
  char symbol[128];
  int kernel;
  sptx_gpu_launch *launch;
  write_symbol(spec, symbol, sizeof symbol);
  SPTX_TRY(sptx_gpu_add_kernel(planner, symbol, emit, spec, sizeof *spec, &kernel, error));
  SPTX_TRY(sptx_gpu_add_launch(planner, kernel, params, sizeof *params, &launch, error));
  launch->grid[0] = (uint32_t)items;
  launch->grid[1] = launch->grid[2] = 1;
  launch->block = (uint32_t)spec->warps * 32;
  launch->shared_bytes = (uint32_t)sptx_portable_shared_bytes(spec);
  return SPTX_CODE_OK;
}

void sptx_portable_free_key_heads(sptx_portable_key_heads *keys) {
  free(keys->table);
  free(keys->list);
}

/* Query heads ascend, so those of one key head are neighbours. */
enum sptx_code sptx_portable_find_key_heads(sptx_gpu_planner *planner, const sptx_gpu_job *job, int32_t most,
                                            sptx_portable_key_heads *keys, sptx_error *error) {
  int64_t group = planner->problem->heads / planner->problem->kv_heads;
  keys->table = calloc((size_t)job->head_count * 4 + 1, sizeof *keys->table);
  keys->list = calloc((size_t)job->head_count + 1, sizeof *keys->list);
  if (!keys->table || !keys->list)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t i = 0; i < job->head_count; i++) {
    int32_t head = (int32_t)(job->heads[i] / group), *entry = keys->table + 3 * keys->count;
    if (keys->count > 0 && entry[-3] == head && entry[-1] < most) {
      entry[-1]++;
      continue;
    }
    keys->list[keys->count++] = head;
    entry[0] = head;
    entry[1] = (int32_t)i;
    entry[2] = 1;
  }
  memcpy(keys->table + 3 * keys->count, job->heads, (size_t)job->head_count * sizeof *keys->table);
  size_t bytes = (size_t)(3 * keys->count + job->head_count) * sizeof *keys->table, offset;
  SPTX_TRY(sptx_gpu_add_constants(planner, keys->table, bytes, &offset, error));
  keys->offset = (int64_t)offset;
  return SPTX_CODE_OK;
}

/* The tile list by rows as it stands, row_start and tables narrowed to 32 bits. */
enum sptx_code sptx_portable_add_tile_rows(sptx_gpu_planner *planner, const sptx_tile_list *tiles,
                                           sptx_portable_params *params, sptx_error *error) {
  if (tiles->tile_count >= INDEX_LIMIT)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "too many tiles for one GPU launch");
  int32_t *start = calloc((size_t)tiles->query_tiles + 1, sizeof *start);
  if (!start)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t t = 0; t <= tiles->query_tiles; t++)
    start[t] = (int32_t)tiles->row_start[t];
  enum sptx_code code = sptx_portable_add_tiles(planner, tiles, tiles->query_tiles, start, tiles->key_tile,
                                                tiles->mask, params, error);
  free(start);
  return code;
}

enum sptx_code sptx_portable_add_tiles(sptx_gpu_planner *planner, const sptx_tile_list *tiles, int64_t lines,
                                       const int32_t *start, const int32_t *index, const int32_t *mask,
                                       sptx_portable_params *params, sptx_error *error) {
  const struct {
    const void *data;
    size_t bytes;
    int64_t *offset;
  } tables[] = {
      {start, (size_t)(lines + 1) * 4, &params->tile_start},
      {index, (size_t)tiles->tile_count * 4, &params->tile_index},
      {mask, (size_t)tiles->tile_count * 4, &params->tile_mask},
      {tiles->masks, (size_t)tiles->mask_count * SPTX_GENERIC_TILE * 8, &params->masks},
  };
  for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
    size_t offset;
    static const int32_t nothing = 0; /* every table has an entry: kernels may read one ahead */
    bool empty = tables[i].bytes == 0;
    SPTX_TRY(sptx_gpu_add_constants(planner, empty ? &nothing : tables[i].data,
                                    empty ? sizeof nothing : tables[i].bytes, &offset, error));
    *tables[i].offset = (int64_t)offset;
  }
  return SPTX_CODE_OK;
}

void sptx_portable_row_tiles(const sptx_portable_spec *spec, const sptx_portable_extent *extent,
                             sptx_portable_params *params) {
  int64_t rows = spec->warps * spec->row_blocks * 16;
  bool keys = spec->role == SPTX_PORTABLE_D_KV;
  int64_t begin = keys ? extent->key_begin : extent->query_begin;
  int64_t end = keys ? extent->key_end : extent->query_end;
  if (spec->kind == SPTX_PIECE_BAND && !keys) {
    params->tiles = (int32_t)((extent->queries + rows - 1) / rows);
    return;
  }
  params->first_tile = end > begin ? (int32_t)(begin / rows) : 0;
  params->tiles = end > begin ? (int32_t)((end + rows - 1) / rows) - params->first_tile : 0;
}

enum sptx_code sptx_portable_add_forward(sptx_gpu_planner *planner, const sptx_gpu_job *job,
                                         sptx_error *error) {
  sptx_portable_spec spec;
  sptx_portable_params params;
  sptx_portable_extent extent;
  size_t offset;
  memset(&spec, 0, sizeof spec);
  memset(&params, 0, sizeof params);
  spec.role = SPTX_PORTABLE_FORWARD;
  spec.merge = job->merge;
  SPTX_TRY(sptx_portable_params_begin(planner, job->piece, &spec, &params, &extent, error));
  SPTX_TRY(sptx_portable_tiles(planner, &spec, &extent, error));
  SPTX_TRY(sptx_gpu_add_constants(planner, job->heads, (size_t)job->head_count * 4, &offset, error));
  params.head_table = (int64_t)offset;
  params.heads_here = (int32_t)job->head_count;
  sptx_portable_row_tiles(&spec, &extent, &params);
  if (spec.kind == SPTX_PIECE_TILES)
    SPTX_TRY(sptx_portable_add_tile_rows(planner, &job->piece->tiles, &params, error));
  return sptx_portable_launch(planner, &spec, &params, sptx_emit_portable_forward, error);
}
