/* The planner: from pieces to ordered launches with their parameter blocks. Passes over the pieces of each
 * class: order them so that the first (and for rounded outputs the last) covers every query, choose a
 * schedule for each, fill its block. */
#include "gen/x86/planner.h"

#include "gen/predicate.h"
#include "patterns/integer.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Positions are 32-bit in vectors; everything else sptx_problem_check has seen to. */
static enum sptx_code check_problem(const sptx_problem *problem, sptx_error *error) {
  if (problem->n_k > INT_MAX / 2)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "n_k is %" PRId64 "; on the CPU it may be at most %d",
                     problem->n_k, INT_MAX / 2);
  return SPTX_CODE_OK;
}

static void byte_strides(const sptx_strides *strides, int64_t bytes, int64_t target[3]) {
  target[0] = strides->batch * bytes;
  target[1] = strides->head * bytes;
  target[2] = strides->position * bytes;
}

static void fill_view(const sptx_view *view, sptx_x86_view *target) {
  *target = (sptx_x86_view){
      .base = view->base, .shared_count = view->shared_count, .inner_count = view->inner_count};
  memcpy(target->shared_size, view->shared_size, sizeof view->shared_size);
  memcpy(target->shared_stride, view->shared_stride, sizeof view->shared_stride);
  memcpy(target->inner_size, view->inner_size, sizeof view->inner_size);
  memcpy(target->inner_stride, view->inner_stride, sizeof view->inner_stride);
}

/* The digits of the query view by falling stride, each with its weight in (shared, inner). */
static void fill_digits(const sptx_view *view, sptx_x86_params *params) {
  int64_t weight = 1;
  int count = 0;
  for (int k = view->shared_count - 1; k >= 0; weight *= view->shared_size[k--])
    params->digits[count++] = (sptx_x86_digit){view->shared_size[k], view->shared_stride[k], weight, 0};
  weight = 1;
  for (int k = view->inner_count - 1; k >= 0; weight *= view->inner_size[k--])
    params->digits[count++] = (sptx_x86_digit){view->inner_size[k], view->inner_stride[k], 0, weight};
  for (int a = 0; a < count; a++)
    for (int b = a + 1; b < count; b++)
      if (params->digits[b].stride > params->digits[a].stride) {
        sptx_x86_digit kept = params->digits[a];
        params->digits[a] = params->digits[b];
        params->digits[b] = kept;
      }
  params->digit_count = count;
}

/* Rows a page or more apart fall into few sets of the first-level cache: those tiles are copied. */
bool sptx_planner_lies_badly(const sptx_view *view, int64_t row_bytes) {
  enum { FAR_BYTES = 2048 };
  return llabs(view->inner_stride[view->inner_count - 1] * row_bytes) >= FAR_BYTES;
}

void sptx_planner_count_tiles(const sptx_problem *problem, const sptx_piece *piece, int query_tile,
                              int64_t *tiles, int64_t *computed) {
  int64_t total = sptx_view_shared_total(&piece->query), last[3] = {-1, -1, -1}, pairs = 0;
  *tiles = *computed = 0;
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, key_begin, key_end;
    sptx_view_inner_range(&piece->query, shared, problem->n_k - problem->n_q, problem->n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, problem->n_k, &key_begin, &key_end);
    int64_t origin = piece->kind == SPTX_PIECE_TILES ? 0 : begin;
    *tiles = max64(*tiles, ceil_div(end - origin, query_tile));
    if (begin != last[0] || end != last[1] || key_end != last[2]) {
      pairs = 0;
      for (int64_t x = begin; x < end && piece->kind == SPTX_PIECE_BAND; x += query_tile)
        pairs += query_tile * sptx_planner_band_keys(piece, x, min64(x + query_tile, end) - 1, key_end);
      last[0] = begin, last[1] = end, last[2] = key_end;
    }
    *computed += pairs;
  }
  if (piece->kind == SPTX_PIECE_TILES)
    *computed = piece->tiles.tile_count * SPTX_GENERIC_TILE * SPTX_GENERIC_TILE * total;
}

/* A block under construction: the struct, then its tables. */
typedef struct sptx_block {
  char *bytes;
  size_t size;
  bool failed;
} sptx_block;

static int64_t append(sptx_block *block, const void *table, size_t size) {
  size_t offset = block->size, padded = (size + 7) / 8 * 8;
  char *grown = block->failed ? NULL : realloc(block->bytes, offset + padded);
  if (!grown) {
    block->failed = true;
    return 0;
  }
  memset(grown + offset, 0, padded);
  if (size)
    memcpy(grown + offset, table, size);
  block->bytes = grown;
  block->size = offset + padded;
  return (int64_t)offset;
}

/* Units of heads: one head each, or for decode and the backward all heads of the class with one key/value
 * head, at most unit_heads together. */
static int64_t append_units(sptx_block *block, const sptx_problem *problem, const int64_t *heads,
                            int64_t count, int64_t unit_heads, sptx_x86_params *params) {
  int64_t table = append(block, heads, (size_t)count * sizeof *heads), units = 0,
          group = problem->heads / problem->kv_heads;
  for (int64_t first = 0, last; first < count; first = last, units++) {
    for (last = first + 1;
         last < count && last - first < unit_heads && heads[last] / group == heads[first] / group;)
      last++;
    sptx_x86_unit unit = {first, last - first, heads[first] / group, table};
    int64_t offset = append(block, &unit, sizeof unit);
    if (units == 0)
      params->units = offset;
  }
  params->unit_count = units;
  return units;
}

static void append_lists(sptx_block *block, const sptx_tile_list *tiles, sptx_x86_params *params) {
  params->row_start = append(block, tiles->row_start, (size_t)(tiles->query_tiles + 1) * 8);
  params->key_tile = append(block, tiles->key_tile, (size_t)tiles->tile_count * 4);
  params->mask = append(block, tiles->mask, (size_t)tiles->tile_count * 4);
  params->masks = append(block, tiles->masks, (size_t)tiles->mask_count * SPTX_GENERIC_TILE * 8);
  params->query_tiles = tiles->query_tiles;
}

void sptx_planner_params(const sptx_problem *problem, const sptx_piece *piece, sptx_x86_params *params) {
  int64_t bytes = problem->element == SPTX_ELEMENT_F32 ? 4 : 2;
  *params = (sptx_x86_params){.n_q = problem->n_q,
                              .n_k = problem->n_k,
                              .batches = problem->batch,
                              .heads = problem->heads,
                              .kv_heads = problem->kv_heads,
                              .group = problem->heads / problem->kv_heads,
                              .tiles = 1,
                              .tile_items = 1,
                              .shared_total = 1,
                              .chunks = 1};
  byte_strides(&problem->q, bytes, params->q);
  byte_strides(&problem->k, bytes, params->k);
  byte_strides(&problem->v, bytes, params->v);
  byte_strides(&problem->o, bytes, params->o);
  if (!piece)
    return;
  fill_view(&piece->query, &params->query_view);
  fill_view(&piece->key, &params->key_view);
  params->shared_total = sptx_view_shared_total(&piece->query);
  params->copy_k = sptx_planner_lies_badly(&piece->key, params->k[2]);
  params->copy_v = sptx_planner_lies_badly(&piece->key, params->v[2]);
  if (piece->kind == SPTX_PIECE_BAND) {
    params->lo = piece->lo;
    params->hi = piece->hi;
  }
  fill_digits(&piece->query, params);
}

void sptx_planner_copies(const sptx_x86_schedule *schedule, sptx_x86_params *params) {
  if (!schedule->copy_rows)
    return;
  params->copy_k = schedule->copy_rows == 3;
  params->copy_v = schedule->copy_rows >= 2;
}

static enum sptx_code copy_predicate(sptx_planner *planner, const sptx_piece *piece, sptx_x86_shape *shape,
                                     sptx_error *error) {
  if (!piece || piece->kind != SPTX_PIECE_BAND || !piece->predicate)
    return SPTX_CODE_OK;
  if (!sptx_predicate_supported(piece->predicate))
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "a predicate of piece '%s' has no code on x86",
                     piece->name);
  sptx_x86_plan_data *data = planner->data;
  for (int k = 0; k < data->predicate_count && !shape->predicate; k++)
    if (sptx_set_equal(data->predicates[k], piece->predicate))
      shape->predicate = data->predicates[k];
  if (shape->predicate)
    return SPTX_CODE_OK;
  sptx_set **grown = realloc(data->predicates, (size_t)(data->predicate_count + 1) * sizeof *grown);
  if (!grown)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a plan's predicates");
  data->predicates = grown;
  SPTX_TRY(sptx_set_copy(piece->predicate, &grown[data->predicate_count], error));
  shape->predicate = grown[data->predicate_count++];
  return SPTX_CODE_OK;
}

static const char *const elements[] = {"f32", "f16", "bf16"};

void sptx_x86_common_name(const sptx_x86_shape *shape, char *name, size_t size) {
  snprintf(name, size, "sptx_%s_common_%s_d%d", elements[shape->element], sptx_isa_name(shape->schedule.isa),
           shape->dim);
}

static void name_kernel(const sptx_x86_shape *shape, char *symbol, size_t size) {
  const sptx_x86_schedule *schedule = &shape->schedule;
  int length =
      snprintf(symbol, size, "sptx_%s_%s_%s_d%d_q%dk%d_r%dx%d%s%s%s", elements[shape->element],
               sptx_x86_family_name(shape->family), sptx_isa_name(schedule->isa), shape->dim,
               schedule->query_tile, schedule->key_tile, schedule->register_rows, schedule->register_vectors,
               shape->listed ? "_list" : "", shape->soft_cap ? "_cap" : "", shape->alibi ? "_alibi" : "");
  if (shape->predicate)
    snprintf(symbol + length, size - (size_t)length, "_p%016" PRIx64, sptx_predicate_hash(shape->predicate));
}

enum sptx_code sptx_planner_add(sptx_planner *planner, enum sptx_x86_family family, const sptx_piece *piece,
                                const sptx_x86_schedule *schedule, const sptx_x86_params *params,
                                const int64_t *heads, int64_t head_count, int64_t unit_heads,
                                sptx_error *error) {
  sptx_x86_plan_data *data = planner->data;
  size_t count = (size_t)data->plan.launch_count;
  sptx_x86_launch *launches = realloc(data->plan.launches, (count + 1) * sizeof *launches);
  if (launches)
    data->plan.launches = launches;
  sptx_x86_shape *shapes = realloc(data->shapes, (count + 1) * sizeof *shapes);
  if (shapes)
    data->shapes = shapes;
  if (!launches || !shapes)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a plan's launches");
  const sptx_problem *problem = &data->problem;
  sptx_x86_shape shape = {.family = family,
                          .element = problem->element,
                          .schedule = *schedule,
                          .dim = problem->head_dim,
                          .listed = piece && piece->kind == SPTX_PIECE_TILES,
                          .soft_cap = problem->soft_cap,
                          .alibi = problem->alibi};
  SPTX_TRY(copy_predicate(planner, piece, &shape, error));
  sptx_x86_params filled = *params;
  sptx_block block = {0};
  append(&block, &filled, sizeof filled);
  int64_t units = append_units(&block, problem, heads, head_count, unit_heads, &filled);
  if (shape.listed)
    append_lists(&block, &piece->tiles, &filled);
  if (block.failed) {
    free(block.bytes);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a launch's parameters");
  }
  filled.total_tiles = problem->batch * units * filled.shared_total * filled.tiles * filled.chunks;
  memcpy(block.bytes, &filled, sizeof filled);
  sptx_x86_layout layout;
  sptx_x86_layout_of(&shape, &layout);
  data->shapes[count] = shape;
  sptx_x86_launch *launch = &data->plan.launches[count];
  *launch = (sptx_x86_launch){.params = block.bytes,
                              .params_bytes = block.size,
                              .scratch_bytes = (size_t)layout.bytes,
                              .items = ceil_div(filled.total_tiles, filled.tile_items)};
  name_kernel(&shape, launch->symbol, sizeof launch->symbol);
  if (family != SPTX_X86_PREPARE && family != SPTX_X86_FINISH)
    sptx_x86_common_name(&shape, launch->common, sizeof launch->common);
  data->plan.launch_count++;
  return SPTX_CODE_OK;
}

/* The band without keys, over all queries in their natural order: it stands first (or last) where no piece
 * covers every query, writes o = 0 and lse = -inf, or rounds the running output. */
static sptx_piece empty_piece(int64_t n_k) {
  sptx_view natural = {.inner_count = 1, .inner_size = {n_k}, .inner_stride = {1}};
  return (sptx_piece){.kind = SPTX_PIECE_BAND,
                      .name = "empty",
                      .query = natural,
                      .key = natural,
                      .lo = {.period = 1},
                      .hi = {.period = 1}};
}

/* The order of launches: some covering piece first; for rounded outputs another one last. The first and last
 * are NULL where the empty piece must stand in. */
static void order_pieces(sptx_planner *planner, const sptx_piece_list *list, const sptx_piece **order,
                         int *count) {
  const sptx_problem *problem = &planner->data->problem;
  bool rounded = problem->element != SPTX_ELEMENT_F32;
  const sptx_piece *first = NULL, *last = NULL;
  for (int k = 0; k < list->count; k++) {
    if (!sptx_piece_covers_queries(&list->pieces[k], planner->cover_n_q, problem->n_k))
      continue;
    if (!first)
      first = &list->pieces[k];
    else
      last = &list->pieces[k];
  }
  *count = 0;
  order[(*count)++] = first;
  for (int k = 0; k < list->count; k++)
    if (&list->pieces[k] != first && &list->pieces[k] != last)
      order[(*count)++] = &list->pieces[k];
  if (last || (rounded && *count > 1))
    order[(*count)++] = last;
}

/* How many neighbouring tiles make one item: tiles with few keys are put together, with those of the next
 * shared values, as long as enough items are left to share out. */
int64_t sptx_planner_group(const sptx_problem *problem, int64_t tiles, int64_t shared_total, double computed,
                           int64_t heads) {
  enum { FEW_KEYS = 512, NEIGHBOURS = 16, ITEMS_LEFT = 64 };
  int64_t total = problem->batch * heads * tiles * shared_total;
  if (computed / (double)problem->n_q >= FEW_KEYS)
    return 1;
  return max64(1, min64(total / ITEMS_LEFT, shared_total > 1 ? tiles * NEIGHBOURS : NEIGHBOURS));
}

/* Where the next tile of an item finds its rows: beside these, in the next shared value, or (tiles run
 * backwards) one tile before these. */
static void look_ahead(const sptx_piece *piece, int query_tile, sptx_x86_params *params) {
  const sptx_view *view = &piece->key;
  int64_t positions = -query_tile * view->inner_stride[view->inner_count - 1];
  if (view->shared_count > 0) {
    positions = view->shared_stride[view->shared_count - 1];
    params->ahead_last = 1;
  }
  params->ahead_q = positions * params->q[2];
  params->ahead_k = positions * params->k[2];
  params->ahead_v = positions * params->v[2];
  params->ahead_o = positions * params->o[2];
}

static enum sptx_code plan_piece(sptx_planner *planner, const sptx_piece *piece, int index, int count,
                                 const int64_t *heads, int64_t head_count, sptx_error *error) {
  const sptx_problem *problem = &planner->data->problem;
  bool decode = planner->data->pass == SPTX_PASS_DECODE, rounded = problem->element != SPTX_ELEMENT_F32;
  sptx_piece empty = empty_piece(problem->n_k);
  if (!piece)
    piece = &empty;
  sptx_x86_schedule schedule = planner->schedule;
  if (decode)
    schedule = (sptx_x86_schedule){.isa = schedule.isa,
                                   .query_tile = sptx_x86_lanes(schedule.isa) *
                                                 (schedule.isa == SPTX_ISA_AVX2 ? 2 : 1)};
  sptx_x86_schedule_fill(&schedule, problem, planner->data->pass, piece);
  SPTX_TRY(sptx_x86_schedule_check(&schedule, piece, error));
  sptx_x86_params params;
  int64_t computed = 0;
  sptx_planner_params(problem, piece, &params);
  sptx_planner_copies(&schedule, &params);
  if (decode) {
    params.shared_total = 1;
  } else {
    const sptx_x86_shape shape = {.family = SPTX_X86_FORWARD,
                                  .element = problem->element,
                                  .schedule = schedule,
                                  .dim = problem->head_dim};
    sptx_planner_count_tiles(problem, piece, sptx_x86_panel(&shape), &params.tiles, &computed);
    params.tiles = ceil_div(params.tiles * sptx_x86_panel(&shape), schedule.query_tile);
    params.tile_items = schedule.tile_items ? schedule.tile_items
                                            : sptx_planner_group(problem, params.tiles, params.shared_total,
                                                                 (double)computed, head_count);
    if (params.tile_items > 1)
      look_ahead(piece, schedule.query_tile, &params);
  }
  params.merge = index > 0;
  params.read_running = rounded && index > 0;
  params.write_running = rounded && index + 1 < count;
  planner->data->plan.useful_pairs += piece->pairs * head_count * problem->batch;
  planner->data->plan.computed_pairs += computed * head_count * problem->batch;
  return sptx_planner_add(planner, decode ? SPTX_X86_DECODE : SPTX_X86_FORWARD, piece, &schedule, &params,
                          heads, head_count, decode ? schedule.query_tile : 1, error);
}

static enum sptx_code plan_forward_class(sptx_planner *planner, const sptx_piece_list *list,
                                         const int64_t *heads, int64_t head_count, sptx_error *error) {
  const sptx_problem *problem = &planner->data->problem;
  const sptx_piece **order = malloc((size_t)(list->count + 2) * sizeof *order);
  if (!order)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the order of a plan's pieces");
  int count;
  enum sptx_code code = SPTX_CODE_OK;
  order_pieces(planner, list, order, &count);
  if (problem->element != SPTX_ELEMENT_F32 && count > 1)
    planner->data->plan.workspace_bytes =
        (size_t)(problem->batch * problem->heads * problem->n_q) * (size_t)problem->head_dim * 4;
  for (int k = 0; k < count && code == SPTX_CODE_OK; k++)
    code = plan_piece(planner, order[k], k, count, heads, head_count, error);
  free(order);
  return code;
}

enum sptx_code sptx_planner_for_each_class(sptx_planner *planner, const sptx_piece_list *lists,
                                           const int *class_of_head, sptx_plan_class *plan,
                                           sptx_error *error) {
  int64_t count = planner->data->problem.heads;
  int classes = 0;
  int64_t *heads = malloc((size_t)count * sizeof *heads);
  if (!heads)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a plan's heads");
  for (int64_t h = 0; h < count; h++)
    classes = class_of_head[h] >= classes ? class_of_head[h] + 1 : classes;
  enum sptx_code code = SPTX_CODE_OK;
  for (int c = 0; c < classes && code == SPTX_CODE_OK; c++) {
    int64_t members = 0;
    for (int64_t h = 0; h < count; h++)
      if (class_of_head[h] == c)
        heads[members++] = h;
    if (members)
      code = plan(planner, &lists[c], heads, members, error);
  }
  free(heads);
  return code;
}

enum sptx_code sptx_x86_plan_create(const sptx_problem *problem, enum sptx_pass pass,
                                    const sptx_piece_list *lists, const int *class_of_head,
                                    const sptx_x86_schedule *schedule, sptx_x86_plan **plan,
                                    sptx_error *error) {
  *plan = NULL;
  SPTX_TRY(check_problem(problem, error));
  sptx_x86_plan_data *data = calloc(1, sizeof *data);
  if (!data)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a plan");
  data->problem = *problem;
  data->pass = pass;
  sptx_planner planner = {.data = data, .cover_n_q = problem->n_q};
  if (schedule)
    planner.schedule = *schedule;
  else
    planner.schedule.isa = sptx_x86_host_isa();
  /* Decode's pieces are those of the whole sequence, its position comes at run time. */
  if (pass == SPTX_PASS_DECODE)
    planner.cover_n_q = problem->n_k;
  enum sptx_code code =
      pass == SPTX_PASS_BACKWARD
          ? sptx_planner_backward(&planner, lists, class_of_head, error)
          : sptx_planner_for_each_class(&planner, lists, class_of_head, plan_forward_class, error);
  if (code == SPTX_CODE_OK)
    *plan = &data->plan;
  else
    sptx_x86_plan_free(&data->plan);
  return code;
}

void sptx_x86_plan_free(sptx_x86_plan *plan) {
  if (!plan)
    return;
  sptx_x86_plan_data *data = (sptx_x86_plan_data *)plan;
  for (int k = 0; k < plan->launch_count; k++)
    free(plan->launches[k].params);
  for (int k = 0; k < data->predicate_count; k++)
    sptx_set_free(data->predicates[k]);
  free(data->predicates);
  free(plan->launches);
  free(data->shapes);
  free(data);
}

void sptx_x86_plan_print(const sptx_x86_plan *plan, FILE *stream) {
  for (int k = 0; k < plan->launch_count; k++) {
    const sptx_x86_launch *launch = &plan->launches[k];
    const sptx_x86_params *params = launch->params;
    fprintf(stream,
            "launch %d: %s items %" PRId64 " shared %" PRId64 " tiles %" PRId64 " units %" PRId64
            " scratch %zu%s\n",
            k, launch->symbol, launch->items, params->shared_total, params->tiles, params->unit_count,
            launch->scratch_bytes, params->merge ? " merge" : "");
  }
  fprintf(stream, "workspace %zu bytes, useful pairs %" PRId64 ", computed pairs %" PRId64 "\n",
          plan->workspace_bytes, plan->useful_pairs, plan->computed_pairs);
}
