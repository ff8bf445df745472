/* Planning one pass on the GPU: which kernels, in which order, with which scratch. */
#include "gen/ptx/hopper.h"
#include "gen/ptx/planner.h"
#include "gen/ptx/portable_plan.h"
#include "gen/ptx/rows.h"
#include <stdlib.h>
#include <string.h>

/* The heads of a class. */
static int64_t heads_of_class(const sptx_gpu_planner *planner, int class, int32_t *heads) {
  int64_t count = 0;
  for (int64_t h = 0; h < planner->problem->heads; h++)
    if (planner->class_of_head[h] == class)
      heads[count++] = (int32_t)h;
  return count;
}

/* Whether a piece's views reach every position in [first, last), so that its kernel writes every row. */
static bool covers(const sptx_view *view, int64_t first, int64_t last) {
  int64_t total = sptx_view_shared_total(view), count = 0, begin, end;
  for (int64_t s = 0; s < total; s++) {
    sptx_view_inner_range(view, s, first, last, &begin, &end);
    count += end - begin;
  }
  return count == last - first;
}

static bool tries_hopper(const sptx_gpu_planner *planner) {
  enum { PORTABLE_FAMILY = 1 };
  return planner->target == SPTX_PTX_SM90A && planner->schedule.family != PORTABLE_FAMILY;
}

/* A schedule speaks of one family: where portable kernels step in for Hopper's, they take their defaults.
 * Returns the schedule to put back. */
static sptx_ptx_schedule step_in(sptx_gpu_planner *planner) {
  sptx_ptx_schedule kept = planner->schedule;
  if (tries_hopper(planner))
    planner->schedule = (sptx_ptx_schedule){.f32_mode = kept.f32_mode};
  return kept;
}

/* Hopper's own kernels where the target has them and they can do the job; the portable ones run everywhere.
 */
static enum sptx_code add_forward_piece(sptx_gpu_planner *planner, const sptx_gpu_job *job,
                                        sptx_error *error) {
  int kernels = planner->plan->kernel_count, launches = planner->plan->launch_count;
  if (tries_hopper(planner)) {
    enum sptx_code code = sptx_hopper_forward_add(planner, job, error);
    if (code != SPTX_CODE_UNSUPPORTED)
      return code;
    sptx_gpu_rewind(planner, kernels, launches);
  }
  sptx_ptx_schedule kept = step_in(planner);
  enum sptx_code code = sptx_portable_add_forward(planner, job, error);
  planner->schedule = kept;
  return code;
}

static enum sptx_code add_forward(sptx_gpu_planner *planner, const sptx_piece_list *list, sptx_gpu_job *job,
                                  sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  int64_t first = problem->n_k - problem->n_q;
  if (list->count == 0 || !covers(&list->pieces[0].query, first, problem->n_k)) {
    SPTX_TRY(sptx_rows_add_empty(planner, job, error));
    job->merge = true;
  }
  for (int i = 0; i < list->count; i++) {
    job->piece = &list->pieces[i];
    SPTX_TRY(add_forward_piece(planner, job, error));
    job->merge = true;
  }
  return SPTX_CODE_OK;
}

/* Heads of several classes may share key heads: then dK and dV are sums over classes. */
static bool mixes_classes(const sptx_gpu_planner *planner) {
  return planner->class_count > 1 && planner->problem->kv_heads != planner->problem->heads;
}

static size_t key_sum_bytes(const sptx_problem *problem) {
  return (size_t)(problem->batch * problem->kv_heads * problem->n_k * problem->head_dim) * 4;
}

static enum sptx_code share_key_sums(sptx_gpu_planner *planner, sptx_gpu_job *job, sptx_error *error) {
  size_t bytes = key_sum_bytes(planner->problem);
  SPTX_TRY(sptx_gpu_share_scratch(planner, SPTX_SCRATCH_D_KV, 2 * bytes, &job->d_k_offset, error));
  job->d_v_offset = job->d_k_offset + bytes;
  return SPTX_CODE_OK;
}

static enum sptx_code add_backward(sptx_gpu_planner *planner, const sptx_piece_list *list, sptx_gpu_job *job,
                                   sptx_error *error) {
  int kernels = planner->plan->kernel_count, launches = planner->plan->launch_count;
  if (tries_hopper(planner)) {
    enum sptx_code code = sptx_hopper_backward_add(planner, list, job, error);
    if (code != SPTX_CODE_UNSUPPORTED)
      return code;
    sptx_gpu_rewind(planner, kernels, launches);
  }
  if (mixes_classes(planner))
    SPTX_TRY(share_key_sums(planner, job, error));
  sptx_ptx_schedule kept = step_in(planner);
  enum sptx_code code = sptx_portable_add_backward(planner, list, job, mixes_classes(planner), error);
  planner->schedule = kept;
  return code;
}

/* What classes have added up together: cleared before the first launch, converted after the last. */
static enum sptx_code finish_key_sums(sptx_gpu_planner *planner, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  sptx_gpu_job job = {0};
  SPTX_TRY(share_key_sums(planner, &job, error));
  int32_t *heads = calloc((size_t)problem->kv_heads + 1, sizeof *heads);
  if (!heads)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t h = 0; h < problem->kv_heads; h++)
    heads[h] = (int32_t)h;
  enum sptx_code code =
      sptx_rows_add_convert(planner, SPTX_GPU_D_K, job.d_k_offset, heads, problem->kv_heads, error);
  if (code == SPTX_CODE_OK)
    code = sptx_rows_add_convert(planner, SPTX_GPU_D_V, job.d_v_offset, heads, problem->kv_heads, error);
  free(heads);
  if (planner->plan->launch_count > 0) {
    planner->plan->launches[0].clear_offset = job.d_k_offset;
    planner->plan->launches[0].clear_bytes = 2 * key_sum_bytes(problem);
  }
  return code;
}

/* Pairs for the report, in tiles of the size that most kernels have. Decode computes what is useful. */
static enum sptx_code count_pairs(sptx_gpu_planner *planner, const sptx_piece *piece, int64_t head_count,
                                  sptx_error *error) {
  enum { QUERIES = 128, KEYS = 64 };
  const sptx_problem *problem = planner->problem;
  int64_t heads = head_count * problem->batch;
  sptx_tile_counts counts = {.computed_pairs = piece->pairs};
  if (planner->pass != SPTX_PASS_DECODE)
    SPTX_TRY(sptx_piece_count_tiles(piece, problem->n_q, problem->n_k, QUERIES, KEYS, &counts, error));
  planner->plan->useful_pairs += piece->pairs * heads;
  planner->plan->computed_pairs += counts.computed_pairs * heads;
  return SPTX_CODE_OK;
}

static enum sptx_code add_class(sptx_gpu_planner *planner, int class, int32_t *heads, sptx_error *error) {
  sptx_gpu_job job = {.heads = heads, .head_count = heads_of_class(planner, class, heads)};
  job.all_heads = job.head_count == planner->problem->heads;
  const sptx_piece_list *list = &planner->lists[class];
  for (int i = 0; i < list->count; i++)
    SPTX_TRY(count_pairs(planner, &list->pieces[i], job.head_count, error));
  if (job.head_count == 0)
    return SPTX_CODE_OK;
  if (planner->pass == SPTX_PASS_FORWARD)
    return add_forward(planner, list, &job, error);
  if (planner->pass == SPTX_PASS_BACKWARD)
    return add_backward(planner, list, &job, error);
  return sptx_portable_add_decode(planner, list, &job, error);
}

static enum sptx_code plan_pass(sptx_gpu_planner *planner, sptx_error *error) {
  int32_t *heads = calloc((size_t)planner->problem->heads + 1, sizeof *heads);
  if (!heads)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  enum sptx_code code = SPTX_CODE_OK;
  for (int c = 0; c < planner->class_count && code == SPTX_CODE_OK; c++)
    code = add_class(planner, c, heads, error);
  free(heads);
  if (code == SPTX_CODE_OK && planner->pass == SPTX_PASS_BACKWARD && mixes_classes(planner))
    code = finish_key_sums(planner, error);
  return code;
}

enum sptx_code sptx_gpu_plan_create(const sptx_problem *problem, enum sptx_pass pass,
                                    enum sptx_ptx_target target, const sptx_piece_list *lists,
                                    const int *class_of_head, const sptx_ptx_schedule *schedule,
                                    sptx_gpu_plan **plan, sptx_error *error) {
  sptx_gpu_planner planner = {
      .problem = problem, .pass = pass, .target = target, .lists = lists, .class_of_head = class_of_head};
  if (schedule)
    planner.schedule = *schedule;
  for (int64_t h = 0; h < problem->heads; h++)
    if (class_of_head[h] >= planner.class_count)
      planner.class_count = class_of_head[h] + 1;
  *plan = calloc(1, sizeof **plan);
  if (!*plan)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  planner.plan = *plan;
  (*plan)->target = target;
  enum sptx_code code = plan_pass(&planner, error);
  if (code != SPTX_CODE_OK) {
    sptx_gpu_plan_free(*plan);
    *plan = NULL;
  }
  return code;
}
