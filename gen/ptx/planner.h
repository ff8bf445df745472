/* Inside gen/ptx: how kernel families add kernels, launches, tables and scratch to a plan that is being made,
 * and the jobs that plan.c hands them. A family is a set of sptx_*_add functions; plan.c picks one per job.
 */
#ifndef SPTX_GEN_PTX_PLANNER_H
#define SPTX_GEN_PTX_PLANNER_H

#include "gen/ptx/plan.h"

/* Scratch that all classes of heads use in turn: each needs it for its own launches only. */
enum sptx_gpu_scratch { SPTX_SCRATCH_DELTA, SPTX_SCRATCH_D_Q, SPTX_SCRATCH_D_KV, SPTX_SCRATCH_COUNT };

typedef struct sptx_gpu_planner {
  const sptx_problem *problem;
  enum sptx_pass pass;
  enum sptx_ptx_target target;
  sptx_ptx_schedule schedule;
  const sptx_piece_list *lists;
  int class_count;
  const int *class_of_head;
  sptx_gpu_plan *plan;
  size_t scratch_offset[SPTX_SCRATCH_COUNT];
  bool has_scratch[SPTX_SCRATCH_COUNT];
} sptx_gpu_planner;

/* One piece for the query heads of one class. Forward: merge says that O and LSE already hold earlier pieces
 * of these heads (all rows initialised). Backward: D = rowsum(dO * O), where a launch of its own computes it,
 * lies in the workspace at delta_offset, float32 (batch, heads, n_q). Gradients: sums of several pieces are
 * kept in float32 scratch, tensors of the same (batch, heads or kv_heads, n, head_dim) contiguous layout at
 * d_*_offset. */
typedef struct sptx_gpu_job {
  const sptx_piece *piece;
  const int32_t *heads; /* the query heads of the class, ascending */
  int64_t head_count;
  bool all_heads; /* heads is 0..problem->heads-1 */
  bool merge;
  size_t delta_offset, d_q_offset, d_k_offset, d_v_offset;
} sptx_gpu_job;

/* Each returns a place in the plan. Offsets are 256-byte aligned. add_kernel returns the index of an existing
 * kernel of the same symbol; spec is copied. add_launch gives a zeroed launch whose params block (copied) and
 * kernel are set; the pointer is valid until the next add_launch. */
enum sptx_code sptx_gpu_add_kernel(sptx_gpu_planner *planner, const char *symbol,
                                   enum sptx_code (*emit)(struct sptx_gpu_emitter *, const char *,
                                                          const void *, sptx_error *),
                                   const void *spec, size_t spec_bytes, int *kernel, sptx_error *error);
enum sptx_code sptx_gpu_add_launch(sptx_gpu_planner *planner, int kernel, const void *params,
                                   size_t params_bytes, sptx_gpu_launch **launch, sptx_error *error);
enum sptx_code sptx_gpu_add_constants(sptx_gpu_planner *planner, const void *data, size_t bytes,
                                      size_t *offset, sptx_error *error);
enum sptx_code sptx_gpu_add_workspace(sptx_gpu_planner *planner, size_t bytes, size_t *offset,
                                      sptx_error *error);

/* The offset of shared scratch; the first call makes it, later ones ask for as many bytes. */
enum sptx_code sptx_gpu_share_scratch(sptx_gpu_planner *planner, enum sptx_gpu_scratch which, size_t bytes,
                                      size_t *offset, sptx_error *error);
/* Drops the kernels and launches that came after the first so many: an attempt was given up. */
void sptx_gpu_rewind(sptx_gpu_planner *planner, int kernel_count, int launch_count);
/* A copy of a set that lives as long as the plan. */
enum sptx_code sptx_gpu_keep_set(sptx_gpu_planner *planner, const sptx_set *set, const sptx_set **copy,
                                 sptx_error *error);

#endif
