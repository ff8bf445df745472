/* Plans the backward: prepare, the pieces of every class, finish. The number of ranges that keys are split
 * into depends on the problem alone, never on threads, so that results do not either. */
#include "gen/x86/planner.h"
#include "patterns/integer.h"

#include <stdlib.h>

enum { ROW_TILE = 64, WANTED_ITEMS = 16, MOST_CHUNKS = 8, FEWEST_KEYS = 256 };

/* Inner keys of the longest shared value. */
static int64_t longest_keys(const sptx_problem *problem, const sptx_piece *piece) {
  int64_t total = sptx_view_shared_total(&piece->key), longest = 0;
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end;
    sptx_view_inner_range(&piece->key, shared, 0, problem->n_k, &begin, &end);
    longest = max64(longest, end);
  }
  return longest;
}

/* Ranges of keys for a piece that has `items` items without them. */
static int64_t chunk_count(int64_t keys, int64_t items) {
  int64_t wanted = min64(MOST_CHUNKS, ceil_div(WANTED_ITEMS, max64(1, items)));
  return max64(1, min64(wanted, keys / FEWEST_KEYS));
}

static int64_t kv_heads_of(const sptx_problem *problem, const int64_t *heads, int64_t count) {
  int64_t group = problem->heads / problem->kv_heads, units = 0;
  for (int64_t k = 0; k < count; k++)
    units += k == 0 || heads[k] / group != heads[k - 1] / group;
  return units;
}

int64_t sptx_planner_ranges(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                            const sptx_piece *piece, int64_t kv_heads) {
  int64_t keys = longest_keys(problem, piece);
  if (schedule->key_ranges)
    return max64(1, min64(schedule->key_ranges, keys / FEWEST_KEYS));
  return chunk_count(keys, problem->batch * kv_heads * sptx_view_shared_total(&piece->query));
}

static int64_t keys_of_range(const sptx_problem *problem, const sptx_piece *piece, int64_t ranges) {
  return ceil_div(ceil_div(longest_keys(problem, piece), ranges), SPTX_GENERIC_TILE) * SPTX_GENERIC_TILE;
}

/* The keys from the first to the last that a query tile of a band sees, wherever the tile starts: those of
 * two tiles that start at a multiple. */
static int64_t longest_span(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                            const sptx_piece *piece) {
  int64_t total = sptx_view_shared_total(&piece->query), last = 0, longest = 0;
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end;
    sptx_view_inner_range(&piece->query, shared, problem->n_k - problem->n_q, problem->n_k, &begin, &end);
    last = max64(last, end);
  }
  int64_t keys = longest_keys(problem, piece), tiles = 2 * schedule->query_tile;
  for (int64_t x = 0; x < last; x += schedule->query_tile)
    longest = max64(longest, sptx_planner_band_keys(piece, x, min64(x + tiles, last) - 1, keys));
  return longest;
}

int64_t sptx_planner_partials(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                              const sptx_piece *piece, int64_t ranges) {
  if (ranges == 1 || piece->kind != SPTX_PIECE_BAND)
    return ranges;
  int64_t span = longest_span(schedule, problem, piece);
  return min64(ranges, max64(0, span - 2) / keys_of_range(problem, piece, ranges) + 2);
}

static int64_t ranges_of(const sptx_problem *problem, const sptx_x86_schedule *schedule,
                         const sptx_piece *piece, const int64_t *heads, int64_t head_count) {
  return sptx_planner_ranges(schedule, problem, piece, kv_heads_of(problem, heads, head_count));
}

/* The piece's schedule without zeros; the search for the best tiles is worth keeping for plan_class. */
static enum sptx_code fill_schedule(sptx_planner *planner, const sptx_piece *piece,
                                    sptx_x86_schedule *schedule, sptx_error *error) {
  size_t bytes = (size_t)(planner->filled_count + 1) * sizeof *planner->filled;
  sptx_x86_schedule *grown = realloc(planner->filled, bytes);
  if (!grown)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a plan's schedules");
  planner->filled = grown;
  *schedule = planner->schedule;
  sptx_x86_schedule_fill(schedule, &planner->data->problem, SPTX_PASS_BACKWARD, piece);
  planner->filled[planner->filled_count++] = *schedule;
  return sptx_x86_schedule_check(schedule, piece, error);
}

static enum sptx_code count_class(sptx_planner *planner, const sptx_piece_list *list, const int64_t *heads,
                                  int64_t head_count, sptx_error *error) {
  const sptx_problem *problem = &planner->data->problem;
  for (int k = 0; k < list->count; k++) {
    const sptx_piece *piece = &list->pieces[k];
    sptx_x86_schedule schedule;
    SPTX_TRY(fill_schedule(planner, piece, &schedule, error));
    int64_t ranges = ranges_of(problem, &schedule, piece, heads, head_count);
    planner->partials = max64(planner->partials, sptx_planner_partials(&schedule, problem, piece, ranges));
  }
  return SPTX_CODE_OK;
}

static int64_t reserve(sptx_planner *planner, int64_t bytes) {
  int64_t offset = (int64_t)planner->data->plan.workspace_bytes;
  planner->data->plan.workspace_bytes += (size_t)ceil_div(bytes, 64) * 64;
  return offset;
}

/* An accumulator: the output itself, or contiguous float32 in the workspace. */
static void place(sptx_planner *planner, bool direct, const int64_t strides[3], int64_t heads, int64_t rows,
                  int64_t copies, int64_t field[4]) {
  const sptx_problem *problem = &planner->data->problem;
  int64_t row = (int64_t)problem->head_dim * 4;
  if (direct) {
    field[0] = -1;
    for (int k = 0; k < 3; k++)
      field[k + 1] = strides[k];
    return;
  }
  field[0] = reserve(planner, copies * problem->batch * heads * rows * row);
  field[1] = heads * rows * row;
  field[2] = rows * row;
  field[3] = row;
}

static void place_accumulators(sptx_planner *planner) {
  const sptx_problem *problem = &planner->data->problem;
  sptx_x86_params *params = &planner->gradients;
  bool exact = problem->element == SPTX_ELEMENT_F32;
  sptx_planner_params(problem, NULL, params);
  params->delta = reserve(planner, problem->batch * problem->heads * problem->n_q * 4);
  place(planner, exact && planner->partials == 1, params->q, problem->heads, problem->n_q, planner->partials,
        params->d_q);
  place(planner, exact, params->k, problem->kv_heads, problem->n_k, 1, params->d_k);
  place(planner, exact, params->v, problem->kv_heads, problem->n_k, 1, params->d_v);
  params->d_q_partial = problem->batch * problem->heads * problem->n_q * problem->head_dim * 4;
}

static enum sptx_code plan_class(sptx_planner *planner, const sptx_piece_list *list, const int64_t *heads,
                                 int64_t head_count, sptx_error *error) {
  const sptx_problem *problem = &planner->data->problem;
  const sptx_x86_params *gradients = &planner->gradients;
  for (int k = 0; k < list->count; k++) {
    const sptx_piece *piece = &list->pieces[k];
    const sptx_x86_schedule schedule = planner->filled[planner->next++];
    sptx_x86_params params;
    int64_t ranges = ranges_of(problem, &schedule, piece, heads, head_count);
    sptx_planner_params(problem, piece, &params);
    for (int f = 0; f < 4; f++) {
      params.d_q[f] = gradients->d_q[f];
      params.d_k[f] = gradients->d_k[f];
      params.d_v[f] = gradients->d_v[f];
    }
    params.delta = gradients->delta;
    params.d_q_partial = gradients->d_q_partial;
    sptx_planner_copies(&schedule, &params);
    params.chunks = ranges;
    params.chunk_keys = keys_of_range(problem, piece, ranges);
    params.partials = sptx_planner_partials(&schedule, problem, piece, ranges);
    planner->data->plan.useful_pairs += piece->pairs * head_count * problem->batch;
    int64_t tiles, computed;
    sptx_planner_count_tiles(problem, piece, schedule.query_tile, &tiles, &computed);
    planner->data->plan.computed_pairs += computed * head_count * problem->batch;
    SPTX_TRY(sptx_planner_add(planner, SPTX_X86_BACKWARD, piece, &schedule, &params, heads, head_count,
                              head_count, error));
  }
  return SPTX_CODE_OK;
}

/* Prepare or finish: every head's rows in tiles. */
static enum sptx_code plan_rows(sptx_planner *planner, enum sptx_x86_family family, sptx_error *error) {
  const sptx_problem *problem = &planner->data->problem;
  sptx_x86_schedule schedule = {.isa = planner->schedule.isa, .query_tile = ROW_TILE};
  sptx_x86_schedule_fill(&schedule, problem, SPTX_PASS_BACKWARD, NULL);
  sptx_x86_params params = planner->gradients;
  params.tiles = ceil_div(max64(problem->n_q, problem->n_k), ROW_TILE);
  params.chunks = 1; /* one item for each tile; the ranges are walked inside */
  params.partials = planner->partials;
  int64_t *heads = malloc((size_t)problem->heads * sizeof *heads);
  if (!heads)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a plan's heads");
  for (int64_t h = 0; h < problem->heads; h++)
    heads[h] = h;
  enum sptx_code code =
      sptx_planner_add(planner, family, NULL, &schedule, &params, heads, problem->heads, 1, error);
  free(heads);
  return code;
}

static enum sptx_code plan_backward(sptx_planner *planner, const sptx_piece_list *lists,
                                    const int *class_of_head, sptx_error *error) {
  planner->partials = 1;
  SPTX_TRY(sptx_planner_for_each_class(planner, lists, class_of_head, count_class, error));
  place_accumulators(planner);
  SPTX_TRY(plan_rows(planner, SPTX_X86_PREPARE, error));
  SPTX_TRY(sptx_planner_for_each_class(planner, lists, class_of_head, plan_class, error));
  bool all_direct = planner->gradients.d_q[0] < 0 && planner->gradients.d_k[0] < 0;
  return all_direct ? SPTX_CODE_OK : plan_rows(planner, SPTX_X86_FINISH, error);
}

enum sptx_code sptx_planner_backward(sptx_planner *planner, const sptx_piece_list *lists,
                                     const int *class_of_head, sptx_error *error) {
  enum sptx_code code = plan_backward(planner, lists, class_of_head, error);
  free(planner->filled);
  return code;
}
