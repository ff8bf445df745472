/* The code of GPU kernels: PTX taken from the code cache, or compiled by LLVM and put there; the driver
 * assembles it, and remembers what it assembled. */
#ifndef SPTX_RUNTIME_CUDA_CODE_H
#define SPTX_RUNTIME_CUDA_CODE_H

#include "runtime/cache.h"
#include "runtime/cuda_program.h"
#include <stdbool.h>

/* Loads every kernel of the programs, up to `threads` at once; programs whose plan is NULL have none.
 * *compiled: whether any had to be compiled. A failure of the driver's assembler carries its log. */
enum sptx_code sptx_cuda_code_load(sptx_cuda_program *programs, int program_count, const sptx_cache *cache,
                                   int threads, bool *compiled, sptx_error *error);

#endif
