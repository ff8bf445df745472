/* The boolean mask of a pattern as a NumPy file, pair by pair from the oracle. */
#ifndef SPTX_PATTERNS_MASK_H
#define SPTX_PATTERNS_MASK_H

#include "patterns/step.h"

#define SPTX_MASK_MAX_N 8192

/* Writes a bool array (heads, n_q, n_k), or, where all steps of an interleaved pattern are selected,
 * (steps * heads, n_q, n_k), step by step: the order of `heads` in what sptx_explain writes. The file appears
 * whole or not at all. Fails: SPTX_CODE_INVALID_ARGUMENT (n_k above SPTX_MASK_MAX_N), SPTX_CODE_IO, and what
 * resolving and evaluating the pattern may give. */
enum sptx_code sptx_mask_write(const sptx_pattern *pattern, const sptx_selection *selection, const char *path,
                               sptx_error *error);

#endif
