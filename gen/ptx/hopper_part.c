/* Pieces to parts, parameter blocks and tensor maps; see hopper_part.h. */
#include "gen/ptx/hopper_part.h"
#include "patterns/integer.h"
#include <string.h>

#define LIMIT ((int64_t)1 << 30) /* no value in a kernel's 32-bit index arithmetic passes this */

static enum sptx_code refuse(sptx_error *error, const sptx_piece *piece, const char *why) {
  return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "the Hopper kernels cannot run piece '%s': %s", piece->name,
                   why);
}

/* Bounds of x' = x - begin. */
static sptx_bound shifted(sptx_bound bound, int64_t begin) {
  bound.shift += begin;
  if (bound.shift < 0) {
    int64_t turns = (-bound.shift + bound.period - 1) / bound.period;
    bound.shift += turns * bound.period;
    bound.add -= turns * bound.mult;
  }
  bound.low = clamp(bound.low, -LIMIT, LIMIT);
  bound.high = clamp(bound.high, -LIMIT, LIMIT);
  return bound;
}

static bool fits(const sptx_bound *bound, int64_t count) {
  int64_t turns = (count + bound->shift) / bound->period + 1;
  return bound->shift + count < LIMIT && bound->period < LIMIT && bound->ramp_max < LIMIT &&
         bound->add > -LIMIT && bound->add < LIMIT && bound->mult >= 0 && bound->ramp_from > -LIMIT &&
         bound->ramp_from < LIMIT && (bound->mult == 0 || turns < LIMIT / bound->mult);
}

/* The last run of a two-digit key view may be cut by the tensor's end; a map cannot say so. Drops the cut run
 * where no query reaches it. */
static bool cut_runs(const sptx_piece *piece, sptx_hopper_part *part) {
  if (piece->key.inner_count < 2)
    return true;
  int64_t run = piece->key.inner_size[1], whole = part->key_count - part->key_count % run;
  if (whole == part->key_count)
    return true;
  if (sptx_bound_at(&part->hi, part->query_count - 1) > whole)
    return false;
  part->key_count = whole;
  return true;
}

static enum sptx_code check(const sptx_problem *problem, const sptx_piece *piece, sptx_error *error) {
  if (piece->kind != SPTX_PIECE_BAND)
    return refuse(error, piece, "it is a list of tiles");
  if (piece->predicate)
    return refuse(error, piece, "it has a predicate");
  if (problem->element == SPTX_ELEMENT_F32)
    return refuse(error, piece, "the elements are float32");
  if (problem->soft_cap || problem->alibi || problem->negative_scale)
    return refuse(error, piece, "of the score change");
  if (piece->query.inner_count != 1 || piece->query.shared_count > 1 || piece->key.inner_count > 2 ||
      piece->key.inner_count + piece->key.shared_count > 2)
    return refuse(error, piece, "its views have too many digits for a tensor map");
  if (problem->n_q >= LIMIT || problem->n_k >= LIMIT)
    return refuse(error, piece, "positions do not fit 30 bits");
  const sptx_strides *strides[4] = {&problem->q, &problem->k, &problem->v, &problem->o};
  for (int i = 0; i < 4; i++)
    if (strides[i]->batch % 8 || strides[i]->head % 8 || strides[i]->position % 8)
      return refuse(error, piece, "strides are not multiples of 16 bytes");
  return SPTX_CODE_OK;
}

typedef struct ranges {
  int64_t query_begin, query_end, key_begin, key_end;
} ranges;

static ranges ranges_of(const sptx_problem *problem, const sptx_piece *piece, int64_t shared) {
  ranges r;
  sptx_view_inner_range(&piece->query, shared, problem->n_k - problem->n_q, problem->n_k, &r.query_begin,
                        &r.query_end);
  sptx_view_inner_range(&piece->key, shared, 0, problem->n_k, &r.key_begin, &r.key_end);
  return r;
}

static enum sptx_code close_part(const sptx_piece *piece, ranges r, int64_t first, int64_t end,
                                 sptx_hopper_part *parts, int *count, sptx_error *error) {
  if (r.query_end <= r.query_begin)
    return SPTX_CODE_OK;
  if (*count == SPTX_HOPPER_MAX_PARTS)
    return refuse(error, piece, "it falls into too many parts");
  sptx_hopper_part *part = &parts[*count];
  *part = (sptx_hopper_part){.shared_first = first,
                             .shared_count = end - first,
                             .query_begin = r.query_begin,
                             .query_count = r.query_end - r.query_begin,
                             .key_count = r.key_end,
                             .lo = shifted(piece->lo, r.query_begin),
                             .hi = shifted(piece->hi, r.query_begin)};
  if (r.key_begin != 0 || part->key_count <= 0 || part->key_count >= LIMIT)
    return refuse(error, piece, "its keys are empty, too many or do not start at 0");
  if (!fits(&part->lo, part->query_count) || !fits(&part->hi, part->query_count))
    return refuse(error, piece, "its bounds do not fit 32 bits");
  if (!cut_runs(piece, part) || part->key_count == 0)
    return refuse(error, piece, "the last run of its keys is cut by the end");
  ++*count;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_hopper_split(const sptx_problem *problem, const sptx_piece *piece,
                                 sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS], int *count,
                                 sptx_error *error) {
  *count = 0;
  SPTX_TRY(check(problem, piece, error));
  int64_t total = sptx_view_shared_total(&piece->query), first = 0;
  ranges now = ranges_of(problem, piece, 0);
  for (int64_t shared = 1; shared < total; shared++) {
    ranges next = ranges_of(problem, piece, shared);
    if (memcmp(&now, &next, sizeof now) == 0)
      continue;
    SPTX_TRY(close_part(piece, now, first, shared, parts, count, error));
    now = next;
    first = shared;
  }
  return close_part(piece, now, first, total, parts, count, error);
}

static enum sptx_hopper_bound kind_of(const sptx_bound *bound) {
  bool line = bound->ramp_max == 0 && (bound->mult == 0 || bound->period == 1);
  return line ? SPTX_HOPPER_LINE : SPTX_HOPPER_RAMP;
}

enum sptx_hopper_bound sptx_hopper_lower_kind(const sptx_hopper_part *part) {
  if (sptx_bound_at(&part->lo, part->query_count - 1) <= 0)
    return SPTX_HOPPER_NONE;
  return kind_of(&part->lo);
}

enum sptx_hopper_bound sptx_hopper_upper_kind(const sptx_hopper_part *part) {
  if (sptx_bound_at(&part->hi, 0) >= part->key_count)
    return SPTX_HOPPER_NONE;
  return kind_of(&part->hi);
}

static sptx_hopper_bound_params bound_params(const sptx_bound *b) {
  return (sptx_hopper_bound_params){(int32_t)b->mult,      (int32_t)b->shift,    (int32_t)b->period,
                                    (int32_t)b->ramp_from, (int32_t)b->ramp_max, (int32_t)b->add,
                                    (int32_t)b->low,       (int32_t)b->high};
}

void sptx_hopper_fill_params(const sptx_gpu_planner *planner, const sptx_gpu_job *job,
                             const sptx_hopper_part *part, int64_t head_table, sptx_hopper_params *params) {
  const sptx_problem *problem = planner->problem;
  const sptx_view *query = &job->piece->query;
  params->head_count = (int32_t)job->head_count;
  params->heads = (int32_t)problem->heads;
  params->heads_per_kv = (int32_t)(problem->heads / problem->kv_heads);
  params->query_count = (int32_t)part->query_count;
  params->key_count = (int32_t)part->key_count;
  params->shared_count = (int32_t)part->shared_count;
  params->key_run = job->piece->key.inner_count == 2 ? (int32_t)job->piece->key.inner_size[1] : 1;
  params->head_table = head_table;
  params->n_q = (int32_t)problem->n_q;
  params->row_base = (int32_t)(sptx_view_position(query, part->shared_first, part->query_begin) -
                               (problem->n_k - problem->n_q));
  params->row_shared = query->shared_count ? (int32_t)query->shared_stride[0] : 0;
  params->row_inner = (int32_t)query->inner_stride[0];
  params->lo = bound_params(&part->lo);
  params->hi = bound_params(&part->hi);
}

enum sptx_code sptx_hopper_head_table(sptx_gpu_planner *planner, const sptx_gpu_job *job, int64_t *offset,
                                      sptx_error *error) {
  *offset = -1;
  if (job->all_heads)
    return SPTX_CODE_OK;
  size_t place;
  SPTX_TRY(sptx_gpu_add_constants(planner, job->heads, (size_t)job->head_count * sizeof *job->heads, &place,
                                  error));
  *offset = (int64_t)place;
  return SPTX_CODE_OK;
}

/* One tensor seen as (d, inner, second, head, batch). A stride of a dimension of size 1 is never used, but
 * must be valid. */
static sptx_gpu_map make_map(const sptx_gpu_planner *planner, enum sptx_gpu_tensor tensor,
                             const sptx_strides *strides, int64_t heads, int64_t origin, int64_t inner_count,
                             int64_t inner_stride, int64_t second_count, int64_t second_stride) {
  const sptx_problem *problem = planner->problem;
  int64_t row = strides->position * 2;
  sptx_gpu_map map = {.tensor = tensor,
                      .byte_offset = origin * row,
                      .element = problem->element,
                      .rank = 5,
                      .swizzle_bytes = 128};
  int64_t sizes[5] = {problem->head_dim, inner_count, second_count, heads, problem->batch};
  int64_t bytes[5] = {2, inner_stride * row, second_stride * row, strides->head * 2, strides->batch * 2};
  for (int i = 0; i < 5; i++) {
    map.size[i] = (uint64_t)sizes[i];
    map.stride[i] = (uint64_t)(sizes[i] == 1 && i > 0 ? row : bytes[i]);
    map.box[i] = 1;
  }
  map.box[0] = 64;
  return map;
}

static const sptx_strides *strides_of(const sptx_problem *problem, enum sptx_gpu_tensor tensor) {
  switch (tensor) {
  case SPTX_GPU_K:
  case SPTX_GPU_D_K:
    return &problem->k;
  case SPTX_GPU_V:
  case SPTX_GPU_D_V:
    return &problem->v;
  case SPTX_GPU_O:
  case SPTX_GPU_D_O:
    return &problem->o;
  default:
    return &problem->q;
  }
}

sptx_gpu_map sptx_hopper_query_map(const sptx_gpu_planner *planner, const sptx_piece *piece,
                                   const sptx_hopper_part *part, enum sptx_gpu_tensor tensor, int rows,
                                   int repeats) {
  const sptx_problem *problem = planner->problem;
  const sptx_view *view = &piece->query;
  int64_t origin =
      sptx_view_position(view, part->shared_first, part->query_begin) - (problem->n_k - problem->n_q);
  sptx_gpu_map map =
      make_map(planner, tensor, strides_of(problem, tensor), problem->heads, origin, part->query_count,
               view->inner_stride[0], part->shared_count, view->shared_count ? view->shared_stride[0] : 1);
  map.box[1] = (uint32_t)rows;
  map.box[2] = (uint32_t)repeats;
  return map;
}

sptx_gpu_map sptx_hopper_key_map(const sptx_gpu_planner *planner, const sptx_piece *piece,
                                 const sptx_hopper_part *part, enum sptx_gpu_tensor tensor, int rows,
                                 int repeats) {
  const sptx_problem *problem = planner->problem;
  const sptx_view *view = &piece->key;
  const sptx_strides *strides = strides_of(problem, tensor);
  int64_t origin = sptx_view_position(view, part->shared_first, 0);
  if (view->inner_count == 1) {
    sptx_gpu_map map =
        make_map(planner, tensor, strides, problem->kv_heads, origin, part->key_count, view->inner_stride[0],
                 part->shared_count, view->shared_count ? view->shared_stride[0] : 1);
    map.box[1] = (uint32_t)rows;
    map.box[2] = (uint32_t)repeats;
    return map;
  }
  int64_t run = view->inner_size[1];
  sptx_gpu_map map = make_map(planner, tensor, strides, problem->kv_heads, origin, run, view->inner_stride[1],
                              part->key_count / run, view->inner_stride[0]);
  map.box[1] = (uint32_t)(run < rows ? run : rows);
  map.box[2] = (uint32_t)(run < rows ? rows / run : 1);
  return map;
}

bool sptx_hopper_tile_fits(const sptx_piece *piece, int rows) {
  int64_t run = piece->key.inner_count == 2 ? piece->key.inner_size[1] : 1;
  return rows % run == 0 || run % rows == 0;
}
