/* Planning the Hopper backward pass of one class of heads: all its pieces, or none. */
#include "gen/ptx/hopper.h"
#include "gen/ptx/hopper_runs.h"
#include "gen/ptx/hopper_tile.h"
#include "gen/ptx/rows.h"
#include "patterns/integer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_TILE = 64 * SPTX_HOPPER_BACKWARD_CONSUMERS, MAX_PIECES = 16 };

/* How the whole class is computed. */
typedef struct backward_plan {
  sptx_gpu_planner *planner;
  const sptx_piece_list *list;
  sptx_gpu_job job;
  size_t scratch, scratch_bytes; /* cleared before the first launch */
  size_t d_q, d_k, d_v;          /* float32 sums in it */
  enum sptx_hopper_gradient query_sink, key_sink;
  int64_t head_table;
} backward_plan;

static bool covers_keys(const sptx_problem *problem, const sptx_piece *piece) {
  int64_t count = 0, begin, end, total = sptx_view_shared_total(&piece->key);
  for (int64_t s = 0; s < total; s++) {
    sptx_view_inner_range(&piece->key, s, 0, problem->n_k, &begin, &end);
    count += end - begin;
  }
  return count == problem->n_k;
}

/* One CTA sees all keys of a query: it can write dQ itself, and in one order. */
static bool owns_queries(const sptx_piece *piece, const sptx_hopper_part *part) {
  return sptx_hopper_pack(piece, part) > 0 || part->key_count <= KEY_TILE;
}

static sptx_hopper_backward_spec spec_of(const backward_plan *b, const sptx_piece *piece,
                                         const sptx_hopper_part *part) {
  const sptx_problem *problem = b->planner->problem;
  sptx_hopper_backward_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.element = problem->element;
  spec.head_dim = problem->head_dim;
  spec.packed = sptx_hopper_pack(piece, part) > 0;
  spec.d_q = b->query_sink;
  /* Packed blocks have twice the rows. Shared memory holds a stage less where it holds O too. */
  int narrow = spec.packed && sptx_backward_makes_delta(spec.d_q) ? 2 : 3;
  spec.stages = problem->head_dim <= 64 ? narrow : spec.packed ? 1 : 2;
  spec.key_stages = problem->head_dim > 64 ? 1 : 2;
  spec.key_runs = piece->key.inner_count == 2;
  spec.d_kv = b->key_sink;
  spec.lower = sptx_hopper_lower_kind(part);
  spec.upper = sptx_hopper_upper_kind(part);
  return spec;
}

static enum sptx_code check_piece(const backward_plan *b, const sptx_piece *piece, sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  const char *why = NULL;
  sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS];
  int count;
  SPTX_TRY(sptx_hopper_split(problem, piece, parts, &count, error));
  if (problem->head_dim > 128)
    why = "head_dim is above 128";
  else if (problem->deterministic && problem->kv_heads != problem->heads)
    why = "grouped heads add up in no fixed order";
  else if (!sptx_hopper_tile_fits(piece, 64))
    why = "64 keys cut a run";
  for (int i = 0; i < count; i++)
    if (problem->deterministic && b->query_sink == SPTX_HOPPER_ADD && !owns_queries(piece, &parts[i]))
      why = "dQ adds up in no fixed order";
  if (why)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "the Hopper backward cannot run piece '%s': %s",
                     piece->name, why);
  return SPTX_CODE_OK;
}

static enum sptx_code find_runs(const backward_plan *b, const sptx_hopper_part *part, sptx_hopper_runs *runs,
                                sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  if (b->query_sink != SPTX_HOPPER_CARRY)
    return sptx_hopper_tile_ranges(part, b->query_sink == SPTX_HOPPER_STORE, runs, error);
  int64_t lanes = part->shared_count * b->job.head_count * problem->batch;
  return sptx_hopper_carry_runs(part, lanes, problem->head_dim, runs, error);
}

static enum sptx_code add_tables(backward_plan *b, const sptx_hopper_runs *runs, sptx_hopper_params *params,
                                 sptx_error *error) {
  size_t place = 0;
  SPTX_TRY(sptx_gpu_add_constants(b->planner, runs->ranges, (size_t)runs->range_count * sizeof *runs->ranges,
                                  &place, error));
  params->block_table = (int64_t)place;
  if (!runs->first)
    return SPTX_CODE_OK;
  size_t bytes = (size_t)(runs->run_count + 1) * sizeof *runs->first;
  SPTX_TRY(sptx_gpu_add_constants(b->planner, runs->first, bytes, &place, error));
  params->run_table = (int64_t)place;
  return SPTX_CODE_OK;
}

/* What CTAs carry of dQ; launches of a plan run one after the other and share nothing of it. */
static enum sptx_code add_carry(backward_plan *b, const sptx_hopper_runs *runs, sptx_hopper_params *params,
                                sptx_error *error) {
  int64_t row = 256 * ceil_div(b->planner->problem->head_dim, 64);
  int64_t bytes = params->ctas * runs->carry_blocks * SPTX_HOPPER_BACKWARD_BLOCK * row;
  size_t place = 0;
  SPTX_TRY(sptx_gpu_add_workspace(b->planner, (size_t)bytes, &place, error));
  params->carry_offset = (int64_t)place;
  params->carry_blocks = (int32_t)runs->carry_blocks;
  return SPTX_CODE_OK;
}

/* A key tile costs its query blocks, and about two more; runs are about equal. */
static enum sptx_code fill_items(const backward_plan *b, const sptx_hopper_part *part,
                                 const sptx_hopper_runs *runs, sptx_hopper_tiling *tiling,
                                 sptx_hopper_params *params, sptx_error *error) {
  int64_t *costs = runs->first ? NULL : malloc((size_t)runs->range_count * sizeof *costs);
  if (!runs->first && !costs)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t i = 0; costs && i < runs->range_count; i++)
    costs[i] = runs->ranges[i].last - runs->ranges[i].first + 2;
  tiling->costs = costs;
  enum sptx_code code = sptx_hopper_fill_items(b->planner->problem, part, tiling, params, error);
  free(costs);
  return code;
}

/* Items of the launch, and their tables. */
static enum sptx_code add_items(backward_plan *b, const sptx_piece *piece, const sptx_hopper_part *part,
                                sptx_hopper_params *params, sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  sptx_hopper_tiling tiling = {.tiles = 1,
                               .consumers = SPTX_HOPPER_BACKWARD_CONSUMERS,
                               .pack = sptx_hopper_pack(piece, part),
                               .ctas = 1,
                               .lane_bytes =
                                   8 * part->query_count * problem->head_dim}; /* Q, dO, sums of dQ */
  if (tiling.pack)
    return sptx_hopper_fill_items(problem, part, &tiling, params, error);
  sptx_hopper_runs runs;
  SPTX_TRY(find_runs(b, part, &runs, error));
  tiling.tiles = runs.run_count;
  enum sptx_code code = fill_items(b, part, &runs, &tiling, params, error);
  if (code == SPTX_CODE_OK)
    code = add_tables(b, &runs, params, error);
  if (code == SPTX_CODE_OK && runs.first)
    code = add_carry(b, &runs, params, error);
  sptx_hopper_runs_clear(&runs);
  return code;
}

/* float32 scratch (batch, heads, n, head_dim) seen through a view: the same map with other strides. */
static void to_scratch(sptx_gpu_map *map, const sptx_problem *problem, size_t offset, int64_t heads,
                       int64_t n, int64_t position_stride) {
  int64_t row = problem->head_dim * 4, old_row = position_stride * 2;
  map->tensor = SPTX_GPU_WORKSPACE;
  map->element = SPTX_ELEMENT_F32;
  map->byte_offset = map->byte_offset / old_row * row + (int64_t)offset;
  for (int i = 1; i <= 2; i++)
    map->stride[i] = map->stride[i] / (uint64_t)old_row * (uint64_t)row;
  map->stride[3] = (uint64_t)(n * row);
  map->stride[4] = (uint64_t)(heads * n * row);
  map->box[0] = 32;
}

static void add_maps(const backward_plan *b, const sptx_piece *piece, const sptx_hopper_part *part,
                     const sptx_hopper_backward_spec *spec, sptx_gpu_launch *launch) {
  const sptx_gpu_planner *planner = b->planner;
  const sptx_problem *problem = planner->problem;
  int pack = (int)sptx_hopper_pack(piece, part), repeats = pack ? pack : 1;
  int rows = pack ? (int)part->query_count : 64, load = pack ? rows : SPTX_HOPPER_BACKWARD_BLOCK;
  int keys = pack ? (int)part->key_count : 64;
  launch->maps[0] = sptx_hopper_query_map(planner, piece, part, SPTX_GPU_Q, load, repeats);
  launch->maps[1] = sptx_hopper_query_map(planner, piece, part, SPTX_GPU_D_O, load, repeats);
  launch->maps[2] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_K, keys, repeats);
  launch->maps[3] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_V, keys, repeats);
  int written = sptx_backward_adds_by_warps(spec) ? 16 : rows;
  launch->maps[4] = sptx_hopper_query_map(planner, piece, part, SPTX_GPU_D_Q, written, repeats);
  launch->maps[5] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_D_K, keys, repeats);
  launch->maps[6] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_D_V, keys, repeats);
  launch->map_count = 7;
  if (sptx_backward_makes_delta(spec->d_q))
    launch->maps[launch->map_count++] =
        sptx_hopper_query_map(planner, piece, part, SPTX_GPU_O, load, repeats);
  if (spec->d_q == SPTX_HOPPER_ADD)
    to_scratch(&launch->maps[4], problem, b->d_q, problem->heads, problem->n_q, problem->q.position);
  if (spec->d_kv == SPTX_HOPPER_ADD) {
    to_scratch(&launch->maps[5], problem, b->d_k, problem->kv_heads, problem->n_k, problem->k.position);
    to_scratch(&launch->maps[6], problem, b->d_v, problem->kv_heads, problem->n_k, problem->v.position);
  }
}

static void name_kernel(const sptx_hopper_backward_spec *spec, char *symbol, size_t size) {
  static const char *const sinks[] = {"store", "add", "carry"};
  static const char *const bounds[] = {"none", "line", "ramp"};
  snprintf(symbol, size, "%s_backward_sm90a_d%d_q%d_k%d_s%d%s%s_dq%s_dkv%s_%s_%s",
           spec->element == SPTX_ELEMENT_BF16 ? "bf16" : "f16", spec->head_dim, SPTX_HOPPER_BACKWARD_BLOCK,
           KEY_TILE, spec->stages, spec->packed ? "_packed" : "", spec->key_runs ? "_runs" : "",
           sinks[spec->d_q], sinks[spec->d_kv], bounds[spec->lower], bounds[spec->upper]);
}

static enum sptx_code add_part(backward_plan *b, const sptx_piece *piece, const sptx_hopper_part *part,
                               sptx_error *error) {
  sptx_gpu_planner *planner = b->planner;
  sptx_hopper_backward_spec spec = spec_of(b, piece, part);
  sptx_hopper_backward_layout layout = sptx_hopper_backward_layout_of(&spec);
  int64_t pack = sptx_hopper_pack(piece, part);
  sptx_hopper_params params = {0};
  b->job.piece = piece;
  sptx_hopper_fill_params(planner, &b->job, part, b->head_table, &params);
  params.delta_offset = (int64_t)b->job.delta_offset;
  SPTX_TRY(add_items(b, piece, part, &params, error));
  int64_t keys = pack ? part->key_count * pack : 64, queries = pack ? part->query_count * pack : 64;
  params.key_load = (int32_t)(SPTX_HOPPER_BACKWARD_CONSUMERS * keys * 128 * layout.chunks);
  params.query_load = (int32_t)(layout.rows / 64 * queries * 128 * layout.chunks);
  char symbol[128];
  int kernel;
  name_kernel(&spec, symbol, sizeof symbol);
  SPTX_TRY(
      sptx_gpu_add_kernel(planner, symbol, sptx_hopper_backward_emit, &spec, sizeof spec, &kernel, error));
  sptx_gpu_launch *launch;
  SPTX_TRY(sptx_gpu_add_launch(planner, kernel, &params, sizeof params, &launch, error));
  add_maps(b, piece, part, &spec, launch);
  sptx_hopper_finish_launch(launch, &params, SPTX_HOPPER_BACKWARD_CONSUMERS, layout.total);
  launch->clear_offset = b->scratch;
  launch->clear_bytes = b->scratch_bytes;
  b->scratch_bytes = 0;
  return SPTX_CODE_OK;
}

static enum sptx_code add_piece(backward_plan *b, const sptx_piece *piece, sptx_error *error) {
  sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS];
  int count;
  SPTX_TRY(sptx_hopper_split(b->planner->problem, piece, parts, &count, error));
  for (int i = 0; i < count; i++)
    SPTX_TRY(add_part(b, piece, &parts[i], error));
  return SPTX_CODE_OK;
}

/* Whether CTAs can carry dQ of every part from tile to tile. */
static enum sptx_code can_carry(const backward_plan *b, const sptx_hopper_part *parts, int count, bool *carry,
                                sptx_error *error) {
  *carry = true;
  for (int i = 0; i < count && *carry; i++) {
    sptx_hopper_runs runs;
    int64_t lanes = parts[i].shared_count * b->job.head_count * b->planner->problem->batch;
    SPTX_TRY(sptx_hopper_carry_runs(&parts[i], lanes, b->planner->problem->head_dim, &runs, error));
    *carry = runs.run_count > 0;
    sptx_hopper_runs_clear(&runs);
  }
  return SPTX_CODE_OK;
}

/* A single piece that reaches every row stores its gradients itself; else they add up in scratch. */
static enum sptx_code choose_sinks(backward_plan *b, sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  const sptx_piece *piece = &b->list->pieces[0];
  bool single = b->list->count == 1, owns = single, packed = false, carry = false;
  sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS];
  int count;
  SPTX_TRY(sptx_hopper_split(problem, piece, parts, &count, error));
  for (int i = 0; i < count; i++) {
    owns = owns && owns_queries(piece, &parts[i]);
    packed = packed || sptx_hopper_pack(piece, &parts[i]) > 0;
  }
  bool all_queries = sptx_piece_covers_queries(piece, problem->n_q, problem->n_k);
  if (single && all_queries && !owns && !packed && piece->key.inner_count == 1)
    SPTX_TRY(can_carry(b, parts, count, &carry, error));
  bool own_keys = single && covers_keys(problem, piece) && problem->kv_heads == problem->heads;
  b->query_sink = owns && all_queries ? SPTX_HOPPER_STORE : carry ? SPTX_HOPPER_CARRY : SPTX_HOPPER_ADD;
  b->key_sink = own_keys ? SPTX_HOPPER_STORE : SPTX_HOPPER_ADD;
  return SPTX_CODE_OK;
}

static enum sptx_code add_scratch(backward_plan *b, sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  size_t row = (size_t)problem->batch * (size_t)problem->head_dim * 4;
  size_t queries = b->query_sink == SPTX_HOPPER_ADD ? row * (size_t)(problem->heads * problem->n_q) : 0;
  size_t keys = b->key_sink == SPTX_HOPPER_ADD ? row * (size_t)(problem->kv_heads * problem->n_k) : 0;
  b->scratch_bytes = queries + 2 * keys;
  SPTX_TRY(sptx_gpu_add_workspace(b->planner, b->scratch_bytes, &b->scratch, error));
  b->d_q = b->scratch;
  b->d_k = b->d_q + queries;
  b->d_v = b->d_k + keys;
  return SPTX_CODE_OK;
}

static enum sptx_code convert(backward_plan *b, sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  if (b->query_sink == SPTX_HOPPER_ADD)
    SPTX_TRY(sptx_rows_add_convert(b->planner, SPTX_GPU_D_Q, b->d_q, b->job.heads, b->job.head_count, error));
  if (b->key_sink == SPTX_HOPPER_STORE)
    return SPTX_CODE_OK;
  int32_t *heads = malloc((size_t)problem->kv_heads * sizeof *heads);
  if (!heads)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  bool same = problem->kv_heads == problem->heads;
  int64_t count = same ? b->job.head_count : problem->kv_heads;
  for (int64_t i = 0; i < count; i++)
    heads[i] = same ? b->job.heads[i] : (int32_t)i;
  enum sptx_code code = sptx_rows_add_convert(b->planner, SPTX_GPU_D_K, b->d_k, heads, count, error);
  if (code == SPTX_CODE_OK)
    code = sptx_rows_add_convert(b->planner, SPTX_GPU_D_V, b->d_v, heads, count, error);
  free(heads);
  return code;
}

enum sptx_code sptx_hopper_backward_add(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                        const sptx_gpu_job *job, sptx_error *error) {
  backward_plan b = {.planner = planner, .list = list, .job = *job};
  if (list->count == 0 || (planner->class_count > 1 && planner->problem->kv_heads != planner->problem->heads))
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "the Hopper backward needs pieces, and heads of one class where heads are grouped");
  SPTX_TRY(choose_sinks(&b, error));
  for (int i = 0; i < list->count; i++)
    SPTX_TRY(check_piece(&b, &list->pieces[i], error));
  SPTX_TRY(add_scratch(&b, error));
  if (!sptx_backward_makes_delta(b.query_sink))
    SPTX_TRY(sptx_rows_add_delta(planner, &b.job, error));
  SPTX_TRY(sptx_hopper_head_table(planner, job, &b.head_table, error));
  for (int i = 0; i < list->count; i++)
    SPTX_TRY(add_piece(&b, &list->pieces[i], error));
  return convert(&b, error);
}
