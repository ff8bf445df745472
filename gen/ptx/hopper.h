/* The Hopper family (sm_90a): what plan.c calls for each job. Each function refuses with
 * SPTX_CODE_UNSUPPORTED, before it has added anything, what the family cannot do; the portable family then
 * takes the job. */
#ifndef SPTX_GEN_PTX_HOPPER_H
#define SPTX_GEN_PTX_HOPPER_H

#include "gen/ptx/planner.h"

enum sptx_code sptx_hopper_forward_add(sptx_gpu_planner *planner, const sptx_gpu_job *job, sptx_error *error);

/* The whole backward of one class of heads, which job gives. */
enum sptx_code sptx_hopper_backward_add(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                        const sptx_gpu_job *job, sptx_error *error);

#endif
