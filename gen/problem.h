/* The check of a problem before anything is planned for it: after it, offsets into every tensor fit 63 bits
 * and no two elements of one tensor share a place, so that planners and kernels need not look again. */
#ifndef SPTX_GEN_PROBLEM_H
#define SPTX_GEN_PROBLEM_H

#include "gen/kernel.h"

/* Strides of a contiguous (batch, heads, n, head_dim) tensor. Call it for a checked size only. */
sptx_strides sptx_contiguous_strides(int64_t heads, int64_t n, int64_t head_dim);

/* Where strides are all zero, makes them contiguous; then checks everything. Fails with
 * SPTX_CODE_INVALID_ARGUMENT (a size or a stride: the sentence names the field), SPTX_CODE_UNSUPPORTED
 * (head_dim) or SPTX_CODE_OVERFLOW. */
enum sptx_code sptx_problem_check(sptx_problem *problem, sptx_error *error);

int sptx_element_bytes(enum sptx_element element);
const char *sptx_element_name(enum sptx_element element); /* "f32", "f16", "bf16" */
const char *sptx_pass_name(enum sptx_pass pass);          /* "forward", "backward", "decode" */

#endif
