/* Kernels that treat rows one by one, without matrix products: empty results, D = rowsum(dO * O), and turning
 * float32 gradient sums into the caller's element type. One warp a row. */
#ifndef SPTX_GEN_PTX_ROWS_H
#define SPTX_GEN_PTX_ROWS_H

#include "gen/ptx/planner.h"

/* O = 0 and LSE = -inf for all rows of the job's heads. */
enum sptx_code sptx_rows_add_empty(sptx_gpu_planner *planner, const sptx_gpu_job *job, sptx_error *error);
/* D of every row of the job's heads to the workspace, float32 (batch, heads, n_q); sets delta_offset. */
enum sptx_code sptx_rows_add_delta(sptx_gpu_planner *planner, sptx_gpu_job *job, sptx_error *error);
/* A gradient of the listed (kv) heads from float32 scratch (batch, heads, n, head_dim) at offset. */
enum sptx_code sptx_rows_add_convert(sptx_gpu_planner *planner, enum sptx_gpu_tensor gradient, size_t offset,
                                     const int32_t *heads, int64_t head_count, sptx_error *error);

#endif
