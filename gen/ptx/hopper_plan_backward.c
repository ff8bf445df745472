/* Planning the Hopper backward pass of one class of heads: all its pieces, or none. */
#include "gen/ptx/hopper.h"
#include "gen/ptx/hopper_backward.h"
#include "gen/ptx/hopper_tile.h"
#include "gen/ptx/rows.h"
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

static int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

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
  spec.stages = problem->head_dim <= 64 ? 3 : spec.packed ? 1 : 2;
  spec.key_stages = problem->head_dim > 64 ? 1 : 2;
  spec.key_runs = piece->key.inner_count == 2;
  spec.d_q = b->query_sink;
  spec.d_kv = b->key_sink;
  spec.lower = sptx_hopper_lower_kind(part);
  spec.upper = sptx_hopper_upper_kind(part);
  return spec;
}

static enum sptx_code check_part(const backward_plan *b, const sptx_piece *piece,
                                 const sptx_hopper_part *part, sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  const char *why = NULL;
  if (problem->head_dim > 128)
    why = "head_dim is above 128";
  else if (problem->deterministic && problem->kv_heads != problem->heads)
    why = "grouped heads add up in no fixed order";
  else if (problem->deterministic && !owns_queries(piece, part))
    why = "dQ adds up in no fixed order";
  else if (!sptx_hopper_tile_fits(piece, 64))
    why = "64 keys cut a run";
  if (why)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "the Hopper backward cannot run piece '%s': %s",
                     piece->name, why);
  return SPTX_CODE_OK;
}

/* First x in [0, count) whose bound exceeds value; count where none does. Bounds never fall. */
static int64_t first_above(const sptx_bound *bound, int64_t count, int64_t value) {
  int64_t low = 0, high = count;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (sptx_bound_at(bound, middle) > value)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

static int64_t clamp64(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

/* every: also blocks whose queries have no key here, for a kernel that stores dQ. */
static sptx_hopper_block_range range_of(const sptx_hopper_part *part, int64_t tile, int64_t block,
                                        bool every) {
  int64_t begin = tile * KEY_TILE, end = begin + KEY_TILE, count = part->query_count;
  int64_t last_key = (end < part->key_count ? end : part->key_count) - 1;
  int64_t first = every ? 0 : first_above(&part->hi, count, begin) / block;
  int64_t last = ceil_div(every ? count : first_above(&part->lo, count, last_key), block);
  if (last < first)
    last = first;
  int64_t full_first = end > part->key_count ? last : ceil_div(first_above(&part->hi, count, end - 1), block);
  int64_t low_end = first_above(&part->lo, count, begin); /* rows from here on miss the first key */
  int64_t full_last = low_end == count ? last : low_end / block;
  full_first = clamp64(full_first, first, last);
  full_last = clamp64(full_last, full_first, last);
  return (sptx_hopper_block_range){(int32_t)first, (int32_t)full_first, (int32_t)full_last, (int32_t)last};
}

static enum sptx_code add_table(backward_plan *b, const sptx_hopper_part *part, int64_t tiles, int64_t block,
                                bool every, int64_t *offset, sptx_error *error) {
  sptx_hopper_block_range *table = malloc((size_t)tiles * sizeof *table);
  if (!table)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t tile = 0; tile < tiles; tile++)
    table[tile] = range_of(part, tile, block, every);
  size_t place = 0;
  enum sptx_code code =
      sptx_gpu_add_constants(b->planner, table, (size_t)tiles * sizeof *table, &place, error);
  free(table);
  *offset = (int64_t)place;
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
  launch->maps[4] = sptx_hopper_query_map(planner, piece, part, SPTX_GPU_D_Q, rows, repeats);
  launch->maps[5] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_D_K, keys, repeats);
  launch->maps[6] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_D_V, keys, repeats);
  launch->map_count = 7;
  if (spec->d_q == SPTX_HOPPER_ADD)
    to_scratch(&launch->maps[4], problem, b->d_q, problem->heads, problem->n_q, problem->q.position);
  if (spec->d_kv == SPTX_HOPPER_ADD) {
    to_scratch(&launch->maps[5], problem, b->d_k, problem->kv_heads, problem->n_k, problem->k.position);
    to_scratch(&launch->maps[6], problem, b->d_v, problem->kv_heads, problem->n_k, problem->v.position);
  }
}

static void name_kernel(const sptx_hopper_backward_spec *spec, char *symbol, size_t size) {
  static const char *const sinks[] = {"store", "add"};
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
  int64_t pack = sptx_hopper_pack(piece, part), tiles = pack ? 1 : ceil_div(part->key_count, KEY_TILE);
  sptx_hopper_params params = {0};
  b->job.piece = piece;
  sptx_hopper_fill_params(planner, &b->job, part, b->head_table, &params);
  params.delta_offset = (int64_t)b->job.delta_offset;
  SPTX_TRY(sptx_hopper_fill_items(planner->problem, part, tiles, pack, SPTX_HOPPER_BACKWARD_CONSUMERS,
                                  &params, error));
  if (!pack)
    SPTX_TRY(add_table(b, part, tiles, SPTX_HOPPER_BACKWARD_BLOCK, spec.d_q == SPTX_HOPPER_STORE,
                       &params.block_table, error));
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
  sptx_hopper_finish_launch(launch, &params, SPTX_HOPPER_BACKWARD_CONSUMERS, 1, layout.total);
  launch->clear_offset = b->scratch;
  launch->clear_bytes = b->scratch_bytes;
  b->scratch_bytes = 0;
  return SPTX_CODE_OK;
}

/* Runs check or add over all parts of all pieces. */
static enum sptx_code each_part(backward_plan *b, bool add, sptx_error *error) {
  for (int i = 0; i < b->list->count; i++) {
    sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS];
    const sptx_piece *piece = &b->list->pieces[i];
    int count;
    SPTX_TRY(sptx_hopper_split(b->planner->problem, piece, parts, &count, error));
    for (int k = 0; k < count; k++)
      SPTX_TRY(add ? add_part(b, piece, &parts[k], error) : check_part(b, piece, &parts[k], error));
  }
  return SPTX_CODE_OK;
}

/* A single piece that reaches every row stores its gradients itself; else they add up in scratch. */
static enum sptx_code choose_sinks(backward_plan *b, sptx_error *error) {
  const sptx_problem *problem = b->planner->problem;
  const sptx_piece *piece = &b->list->pieces[0];
  bool single = b->list->count == 1, owns = single;
  sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS];
  int count;
  SPTX_TRY(sptx_hopper_split(problem, piece, parts, &count, error));
  for (int i = 0; i < count; i++)
    owns = owns && owns_queries(piece, &parts[i]);
  bool all_queries = sptx_piece_covers_queries(piece, problem->n_q, problem->n_k);
  bool own_keys = single && covers_keys(problem, piece) && problem->kv_heads == problem->heads;
  b->query_sink = owns && all_queries ? SPTX_HOPPER_STORE : SPTX_HOPPER_ADD;
  b->key_sink = own_keys ? SPTX_HOPPER_STORE : SPTX_HOPPER_ADD;
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
  SPTX_TRY(each_part(&b, false, error));
  SPTX_TRY(choose_sinks(&b, error));
  SPTX_TRY(sptx_hopper_head_table(planner, job, &b.head_table, error));
  SPTX_TRY(each_part(&b, true, error));
  return convert(&b, error);
}
