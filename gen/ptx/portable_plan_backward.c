/* Planning the portable backward pass: for each piece a dQ kernel and a dK/dV kernel. What is a sum over
 * several launches is kept in float32 scratch, added up in launch order: results never vary. */
#include "gen/ptx/portable_plan.h"
#include "gen/ptx/rows.h"
#include <stdlib.h>
#include <string.h>

#define FUSED_HEAD_DIM 128 /* above, dK and dV do not fit in registers together */

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
}

/* The table of ranges for all shared values: kernels cut them to the queries that exist. */
static enum sptx_code add_ranges(sptx_gpu_planner *planner, const sptx_piece *piece,
                                 const sptx_portable_spec *spec, const sptx_portable_extent *extent,
                                 sptx_portable_params *params, sptx_error *error) {
  int64_t rows = spec->warps * spec->row_blocks * 16, low = extent->query_begin, high = extent->query_end;
  sptx_portable_range *table = calloc((size_t)params->tiles + 1, sizeof *table);
  if (!table)
    return no_memory(error);
  for (int64_t t = 0; t < params->tiles; t++) {
    int64_t first = (params->first_tile + t) * rows, last = first + rows - 1;
    if (last >= extent->key_end)
      last = extent->key_end - 1;
    table[t] = (sptx_portable_range){(int32_t)sptx_bound_first_above(&piece->hi, low, high, first),
                                     (int32_t)sptx_bound_first_above(&piece->hi, low, high, last),
                                     (int32_t)sptx_bound_first_above(&piece->lo, low, high, first),
                                     (int32_t)sptx_bound_first_above(&piece->lo, low, high, last)};
  }
  size_t offset;
  enum sptx_code code =
      sptx_gpu_add_constants(planner, table, (size_t)params->tiles * sizeof *table, &offset, error);
  free(table);
  params->range_table = (int64_t)offset - params->first_tile * (int64_t)sizeof(sptx_portable_range);
  return code;
}

/* The tile list by columns: the same tiles and masks, each column's tiles in ascending order of query tile.
 */
static enum sptx_code add_tile_columns(sptx_gpu_planner *planner, const sptx_tile_list *tiles,
                                       sptx_portable_params *params, sptx_error *error) {
  if (tiles->tile_count >= INT32_MAX)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "too many tiles for one GPU launch");
  int32_t *start = calloc((size_t)tiles->key_tiles + 2, sizeof *start);
  int32_t *index = calloc((size_t)tiles->tile_count + 1, sizeof *index);
  int32_t *mask = calloc((size_t)tiles->tile_count + 1, sizeof *mask);
  enum sptx_code code = start && index && mask ? SPTX_CODE_OK : no_memory(error);
  if (code == SPTX_CODE_OK) {
    int32_t *next = start + 1; /* next[k] ends as the start of column k + 1 */
    for (int64_t t = 0; t < tiles->tile_count; t++)
      next[tiles->key_tile[t] + 1]++;
    for (int64_t k = 1; k <= tiles->key_tiles; k++)
      next[k] += next[k - 1];
    for (int64_t row = 0; row < tiles->query_tiles; row++)
      for (int64_t t = tiles->row_start[row]; t < tiles->row_start[row + 1]; t++) {
        int32_t place = next[tiles->key_tile[t]]++;
        index[place] = (int32_t)row;
        mask[place] = tiles->mask[t];
      }
    code = sptx_portable_add_tiles(planner, tiles, tiles->key_tiles, start, index, mask, params, error);
  }
  free(start);
  free(index);
  free(mask);
  return code;
}

/* One gradient of a class over its pieces: what is read, added and written by the piece at hand. */
typedef struct chain {
  size_t offset, bytes; /* float32 scratch; none: one piece writes the caller's tensor */
  bool add, final;
} chain;

static bool covers_keys(const sptx_piece *piece, int64_t n_k) {
  int64_t count = 0, begin, end, total = sptx_view_shared_total(&piece->key);
  for (int64_t s = 0; s < total; s++) {
    sptx_view_inner_range(&piece->key, s, 0, n_k, &begin, &end);
    count += end - begin;
  }
  return count == n_k;
}

static bool covers(const sptx_gpu_planner *planner, const sptx_piece *piece, bool keys) {
  const sptx_problem *problem = planner->problem;
  return keys ? covers_keys(piece, problem->n_k)
              : sptx_piece_covers_queries(piece, problem->n_q, problem->n_k);
}

/* A piece that reaches every row may start the sum instead of adding, and end it in the caller's tensor. */
static void chain_at(const sptx_gpu_planner *planner, const sptx_piece_list *list, int i, bool keys,
                     chain *sum) {
  bool whole = covers(planner, &list->pieces[i], keys);
  sum->add = i > 0 || !whole;
  sum->final = i == list->count - 1 && whole;
}

static bool needs_clear(const sptx_gpu_planner *planner, const sptx_piece_list *list, bool keys) {
  return list->count == 0 || !covers(planner, &list->pieces[0], keys);
}

static bool needs_convert(const sptx_gpu_planner *planner, const sptx_piece_list *list, bool keys) {
  return list->count == 0 || !covers(planner, &list->pieces[list->count - 1], keys);
}

static void begin_spec(enum sptx_portable_role role, const chain *sum, sptx_portable_spec *spec) {
  memset(spec, 0, sizeof *spec);
  spec->role = role;
  spec->add = sum->add;
  spec->final = sum->final;
}

static enum sptx_code add_d_q(sptx_gpu_planner *planner, const sptx_gpu_job *job, int64_t head_table,
                              const chain *sum, sptx_error *error) {
  sptx_portable_spec spec;
  sptx_portable_params params;
  sptx_portable_extent extent;
  memset(&params, 0, sizeof params);
  begin_spec(SPTX_PORTABLE_D_Q, sum, &spec);
  SPTX_TRY(sptx_portable_params_begin(planner, job->piece, &spec, &params, &extent, error));
  SPTX_TRY(sptx_portable_tiles(planner, &spec, &extent, error));
  params.head_table = head_table;
  params.heads_here = (int32_t)job->head_count;
  params.delta = (int64_t)job->delta_offset;
  params.scratch = (int64_t)job->d_q_offset;
  sptx_portable_row_tiles(&spec, &extent, &params);
  if (spec.kind == SPTX_PIECE_TILES)
    SPTX_TRY(sptx_portable_add_tile_rows(planner, &job->piece->tiles, &params, error));
  return sptx_portable_launch(planner, &spec, &params, sptx_emit_portable_gradient, error);
}

static enum sptx_code add_d_kv(sptx_gpu_planner *planner, const sptx_gpu_job *job,
                               const sptx_portable_key_heads *keys, const chain *sum, bool d_k, bool d_v,
                               sptx_error *error) {
  sptx_portable_spec spec;
  sptx_portable_params params;
  sptx_portable_extent extent;
  memset(&params, 0, sizeof params);
  begin_spec(SPTX_PORTABLE_D_KV, sum, &spec);
  spec.want_d_k = d_k;
  spec.want_d_v = d_v;
  SPTX_TRY(sptx_portable_params_begin(planner, job->piece, &spec, &params, &extent, error));
  SPTX_TRY(sptx_portable_tiles(planner, &spec, &extent, error));
  params.head_table = keys->offset;
  params.heads_here = (int32_t)keys->count;
  params.delta = (int64_t)job->delta_offset;
  params.scratch = (int64_t)job->d_k_offset;
  params.scratch_v = (int64_t)job->d_v_offset;
  sptx_portable_row_tiles(&spec, &extent, &params);
  if (spec.kind == SPTX_PIECE_TILES)
    SPTX_TRY(add_tile_columns(planner, &job->piece->tiles, &params, error));
  else
    SPTX_TRY(add_ranges(planner, job->piece, &spec, &extent, &params, error));
  return sptx_portable_launch(planner, &spec, &params, sptx_emit_portable_gradient, error);
}

/* Clears scratch before the first launch from `from` on; launches of empty work are not in the plan. */
static void clear_before(sptx_gpu_planner *planner, int from, size_t offset, size_t bytes) {
  if (from >= planner->plan->launch_count)
    return;
  planner->plan->launches[from].clear_offset = offset;
  planner->plan->launches[from].clear_bytes = bytes;
}

static enum sptx_code add_queries(sptx_gpu_planner *planner, const sptx_piece_list *list, sptx_gpu_job *job,
                                  sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  size_t bytes = (size_t)(problem->batch * problem->heads * problem->n_q * problem->head_dim) * 4, offset;
  bool clear = needs_clear(planner, list, false), convert = needs_convert(planner, list, false);
  int first = planner->plan->launch_count;
  chain sum = {0};
  if (clear || convert || list->count > 1)
    SPTX_TRY(sptx_gpu_share_scratch(planner, SPTX_SCRATCH_D_Q, bytes, &job->d_q_offset, error));
  SPTX_TRY(sptx_gpu_add_constants(planner, job->heads, (size_t)job->head_count * 4, &offset, error));
  for (int i = 0; i < list->count; i++) {
    job->piece = &list->pieces[i];
    chain_at(planner, list, i, false, &sum);
    SPTX_TRY(add_d_q(planner, job, (int64_t)offset, &sum, error));
  }
  if (convert)
    SPTX_TRY(
        sptx_rows_add_convert(planner, SPTX_GPU_D_Q, job->d_q_offset, job->heads, job->head_count, error));
  if (clear)
    clear_before(planner, first, job->d_q_offset, bytes);
  return SPTX_CODE_OK;
}

static enum sptx_code add_keys_of_pieces(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                         sptx_gpu_job *job, const sptx_portable_key_heads *keys, bool mixed,
                                         sptx_error *error) {
  chain sum = {.add = true};
  bool fused = planner->problem->head_dim <= FUSED_HEAD_DIM;
  for (int i = 0; i < list->count; i++) {
    job->piece = &list->pieces[i];
    if (!mixed)
      chain_at(planner, list, i, true, &sum);
    SPTX_TRY(add_d_kv(planner, job, keys, &sum, true, fused, error));
    if (!fused)
      SPTX_TRY(add_d_kv(planner, job, keys, &sum, false, true, error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code add_keys(sptx_gpu_planner *planner, const sptx_piece_list *list, sptx_gpu_job *job,
                               const sptx_portable_key_heads *keys, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  size_t bytes = (size_t)(problem->batch * problem->kv_heads * problem->n_k * problem->head_dim) * 4;
  bool clear = needs_clear(planner, list, true), convert = needs_convert(planner, list, true);
  int first = planner->plan->launch_count;
  if (clear || convert || list->count > 1) {
    SPTX_TRY(sptx_gpu_share_scratch(planner, SPTX_SCRATCH_D_KV, 2 * bytes, &job->d_k_offset, error));
    job->d_v_offset = job->d_k_offset + bytes;
  }
  SPTX_TRY(add_keys_of_pieces(planner, list, job, keys, false, error));
  if (convert) {
    SPTX_TRY(sptx_rows_add_convert(planner, SPTX_GPU_D_K, job->d_k_offset, keys->list, keys->count, error));
    SPTX_TRY(sptx_rows_add_convert(planner, SPTX_GPU_D_V, job->d_v_offset, keys->list, keys->count, error));
  }
  if (clear)
    clear_before(planner, first, job->d_k_offset, 2 * bytes);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_portable_add_backward(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                          const sptx_gpu_job *given, bool mixed, sptx_error *error) {
  sptx_gpu_job job = *given;
  sptx_portable_key_heads keys = {0};
  enum sptx_code code = sptx_rows_add_delta(planner, &job, error);
  if (code == SPTX_CODE_OK)
    code = add_queries(planner, list, &job, error);
  if (code == SPTX_CODE_OK)
    code = sptx_portable_find_key_heads(planner, &job, INT32_MAX, &keys, error);
  if (code == SPTX_CODE_OK)
    code = mixed ? add_keys_of_pieces(planner, list, &job, &keys, true, error)
                 : add_keys(planner, list, &job, &keys, error);
  sptx_portable_free_key_heads(&keys);
  return code;
}
