/* The machine code of an attention's kernels on the CPU: each kernel from the code cache or compiled, several
 * at once, and all linked into the process. */
#ifndef SPTX_RUNTIME_CPU_CODE_H
#define SPTX_RUNTIME_CPU_CODE_H

#include "gen/compile.h"
#include "runtime/cache.h"
#include "runtime/jit.h"
#include <stdbool.h>

typedef struct sptx_cpu_code {
  sptx_jit *jit;
  bool compiled; /* at least one kernel by LLVM, now, rather than read from the cache */
} sptx_cpu_code;

/* Makes the distinct kernels of the units callable, with at most `threads` threads. The units have gone
 * through SPTX_STAGE_SCHEDULE, or have no plan and do not count; they are not changed. Keeps what it compiled
 * in the cache. After a failure there is nothing to free. */
enum sptx_code sptx_cpu_code_load(const sptx_unit *units, int unit_count, const sptx_cache *cache,
                                  int threads, sptx_cpu_code *code, sptx_error *error);
enum sptx_code sptx_cpu_code_find(const sptx_cpu_code *code, const char *symbol, sptx_x86_kernel *kernel,
                                  sptx_error *error);
void sptx_cpu_code_clear(sptx_cpu_code *code);

#endif
