/* A GPU in miniature: interprets the LLVM IR of portable kernels on the CPU, so that they can be held against
 * the reference where no GPU is. All threads of a CTA run in lockstep, block by block; divergent threads wait
 * for each other where control flow joins.
 *
 * It is stricter than a GPU: shared memory starts as NaNs, asynchronous copies arrive only when waited for,
 * and it fails on a barrier or warp-wide instruction that not all threads reach, on shared memory that two
 * warps touch between barriers (one of them writing), and on whatever instruction it does not know. It checks
 * neither LLVM's optimiser nor ptxas, and knows no TMA and no wgmma. */
#ifndef SPTX_TESTS_SIMT_H
#define SPTX_TESTS_SIMT_H

#include "gen/ptx/plan.h"

/* Runs the launches of a plan. Pointers of args are host memory; workspace and constants are filled in here.
 * On failure *error says what went wrong. */
enum sptx_code simt_run(const sptx_gpu_plan *plan, const sptx_gpu_args *args, sptx_error *error);

#endif
