/* Planning decode: for each piece of a class CTAs that share a query's keys, then one launch that combines
 * what they leave. */
#include "gen/ptx/portable_plan.h"
#include <stdio.h>
#include <string.h>

enum { WARPS = 4, KEYS_OF_CTA = 256, ENOUGH_CTAS = 512, MAX_SPLITS = 64, SAMPLES = 64 };

/* Keys of the longest row, near enough to choose how many CTAs share it. */
static int64_t most_keys(const sptx_problem *problem, const sptx_piece *piece) {
  int64_t most = 0, begin, end;
  const sptx_tile_list *tiles = &piece->tiles;
  for (int64_t row = 0; piece->kind == SPTX_PIECE_TILES && row < tiles->query_tiles; row++) {
    int64_t keys = (tiles->row_start[row + 1] - tiles->row_start[row]) * SPTX_GENERIC_TILE;
    most = keys > most ? keys : most;
  }
  if (piece->kind == SPTX_PIECE_TILES)
    return most;
  sptx_view_inner_range(&piece->query, 0, 0, problem->n_k, &begin, &end);
  for (int64_t i = 0; i <= SAMPLES; i++) {
    int64_t x = begin + (end - 1 - begin) * i / SAMPLES;
    int64_t low = sptx_bound_at(&piece->lo, x), high = sptx_bound_at(&piece->hi, x);
    low = low < 0 ? 0 : low;
    high = high > problem->n_k ? problem->n_k : high;
    most = high - low > most ? high - low : most;
  }
  return most;
}

static int32_t choose_splits(const sptx_problem *problem, const sptx_piece *piece, int64_t groups) {
  int64_t rows = problem->batch * groups;
  int64_t wanted = (most_keys(problem, piece) + KEYS_OF_CTA - 1) / KEYS_OF_CTA;
  int64_t enough = (ENOUGH_CTAS + rows - 1) / rows;
  wanted = wanted > enough ? enough : wanted;
  return (int32_t)(wanted < 1 ? 1 : wanted > MAX_SPLITS ? MAX_SPLITS : wanted);
}

static int32_t narrow(int64_t value) {
  return value > INT32_MAX ? INT32_MAX : (int32_t)value;
}

/* The digits of the query view by falling stride, each with its weight in (shared, inner). */
static void fill_digits(const sptx_view *view, sptx_portable_spec *spec, sptx_portable_params *params) {
  sptx_portable_digit *digits = params->digits;
  int64_t weight = 1;
  int count = 0;
  for (int k = view->shared_count - 1; k >= 0; weight *= view->shared_size[k--])
    digits[count++] = (sptx_portable_digit){narrow(view->shared_size[k]), narrow(view->shared_stride[k]),
                                            narrow(weight), 0};
  weight = 1;
  for (int k = view->inner_count - 1; k >= 0; weight *= view->inner_size[k--])
    digits[count++] =
        (sptx_portable_digit){narrow(view->inner_size[k]), narrow(view->inner_stride[k]), 0, narrow(weight)};
  for (int a = 0; a < count; a++)
    for (int b = a + 1; b < count; b++)
      if (digits[b].stride > digits[a].stride) {
        sptx_portable_digit kept = digits[a];
        digits[a] = digits[b];
        digits[b] = kept;
      }
  spec->view_digits = count;
  params->query_view_base = (int32_t)view->base;
}

static enum sptx_code add_piece(sptx_gpu_planner *planner, const sptx_piece *piece,
                                const sptx_portable_key_heads *keys, const sptx_portable_params *common,
                                int32_t first_slot, int32_t splits, sptx_error *error) {
  sptx_portable_spec spec;
  sptx_portable_params params = *common;
  sptx_portable_extent extent;
  memset(&spec, 0, sizeof spec);
  spec.role = SPTX_PORTABLE_DECODE;
  SPTX_TRY(sptx_portable_params_begin(planner, piece, &spec, &params, &extent, error));
  spec.f32_mode = 0; /* no matrix products */
  spec.warps = WARPS;
  fill_digits(&piece->query, &spec, &params);
  for (int64_t i = 0; i < keys->count; i++)
    spec.group = keys->table[3 * i + 2] > spec.group ? keys->table[3 * i + 2] : spec.group;
  params.head_table = keys->offset;
  params.heads_here = (int32_t)keys->count;
  params.first_slot = first_slot;
  params.splits = splits;
  if (spec.kind == SPTX_PIECE_TILES && piece->tiles.tile_count > INT32_MAX / SPTX_GENERIC_TILE)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "too many tiles for decoding on a GPU");
  if (spec.kind == SPTX_PIECE_TILES)
    SPTX_TRY(sptx_portable_add_tile_rows(planner, &piece->tiles, &params, error));
  params.tiles = splits;
  params.shared_total = 1;
  return sptx_portable_launch(planner, &spec, &params, sptx_emit_portable_decode, error);
}

static enum sptx_code add_combine(sptx_gpu_planner *planner, const sptx_portable_spec *like,
                                  const sptx_portable_params *common, sptx_error *error) {
  static const char *const elements[] = {"f32", "f16", "bf16"};
  sptx_portable_spec spec = *like;
  char symbol[128];
  int kernel;
  sptx_gpu_launch *launch;
  spec.role = SPTX_PORTABLE_DECODE;
  spec.warps = WARPS;
  snprintf(symbol, sizeof symbol, "sptx_%s_combine_sm80_d%d%s", elements[spec.element], spec.head_dim,
           spec.loose ? "_loose" : "");
  SPTX_TRY(
      sptx_gpu_add_kernel(planner, symbol, sptx_emit_portable_combine, &spec, sizeof spec, &kernel, error));
  SPTX_TRY(sptx_gpu_add_launch(planner, kernel, common, sizeof *common, &launch, error));
  launch->grid[0] = (uint32_t)(planner->problem->batch * common->heads_here);
  launch->grid[1] = launch->grid[2] = 1;
  launch->block = WARPS * 32;
  return SPTX_CODE_OK;
}

static enum sptx_code add_pieces(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                 const sptx_portable_key_heads *keys, sptx_portable_params *params,
                                 sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  size_t offset, rows = (size_t)(problem->batch * problem->heads), dim = (size_t)problem->head_dim;
  int32_t first = 0;
  for (int i = 0; i < list->count; i++)
    params->slots += choose_splits(problem, &list->pieces[i], keys->count);
  SPTX_TRY(sptx_gpu_add_workspace(planner, rows * (size_t)params->slots * dim * 4, &offset, error));
  params->partial_out = (int64_t)offset;
  SPTX_TRY(sptx_gpu_add_workspace(planner, rows * (size_t)params->slots * 8, &offset, error));
  params->partial_sum = (int64_t)offset;
  for (int i = 0; i < list->count; i++) {
    int32_t splits = choose_splits(problem, &list->pieces[i], keys->count);
    SPTX_TRY(add_piece(planner, &list->pieces[i], keys, params, first, splits, error));
    first += splits;
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_portable_add_decode(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                        const sptx_gpu_job *job, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  sptx_portable_spec spec;
  sptx_portable_params params;
  sptx_portable_key_heads keys = {0};
  size_t offset;
  memset(&spec, 0, sizeof spec);
  memset(&params, 0, sizeof params);
  SPTX_TRY(sptx_portable_fill_problem(planner, &spec, &params, error));
  if (problem->batch * problem->heads > INT32_MAX / MAX_SPLITS)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "too many heads for one GPU launch: split the batch");
  enum sptx_code code = sptx_portable_find_key_heads(planner, job, SPTX_DECODE_MAX_GROUP, &keys, error);
  if (code == SPTX_CODE_OK)
    code = add_pieces(planner, list, &keys, &params, error);
  sptx_portable_free_key_heads(&keys);
  if (code != SPTX_CODE_OK)
    return code;
  SPTX_TRY(sptx_gpu_add_constants(planner, job->heads, (size_t)job->head_count * 4, &offset, error));
  params.head_table = (int64_t)offset;
  params.heads_here = (int32_t)job->head_count;
  return add_combine(planner, &spec, &params, error);
}
