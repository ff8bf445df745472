/* Finding or making the kernels' PTX; see cuda_code.h. A kernel is filed under what decides its PTX: its
 * name, the target, the generator and LLVM's version. So one that is there costs no LLVM at all, and patterns
 * that need the same kernel share it. */
#include "runtime/cuda_code.h"

#include "gen/compile.h"
#include "gen/generator.h"
#include <stdlib.h>
#include <string.h>

/* One kernel of a program. */
typedef struct job {
  sptx_cuda_program *program;
  int kernel;
  bool compiled;
  enum sptx_code code;
  sptx_error error;
} job;

static sptx_cache_key key_of(const job *j) {
  const char *symbol = j->program->plan->kernels[j->kernel].symbol;
  unsigned llvm[3];
  LLVMGetVersion(&llvm[0], &llvm[1], &llvm[2]);
  sptx_cache_key key = {0};
  sptx_cache_key_add(&key, sptx_generator_id(), strlen(sptx_generator_id()));
  sptx_cache_key_add(&key, llvm, sizeof llvm);
  sptx_cache_key_add(&key, &j->program->plan->target, sizeof j->program->plan->target);
  sptx_cache_key_add(&key, symbol, strlen(symbol));
  return key;
}

/* One kernel as a plan of its own, through the compiler's later passes: *ptx of *size bytes with its NUL. */
static enum sptx_code compile(const job *j, char **ptx, size_t *size, sptx_error *error) {
  const sptx_gpu_plan *plan = j->program->plan;
  sptx_gpu_plan one = {.target = plan->target, .kernels = &plan->kernels[j->kernel], .kernel_count = 1};
  sptx_unit unit = {.done = SPTX_STAGE_SCHEDULE, .gpu = &one};
  SPTX_TRY(sptx_target_find(sptx_ptx_target_name(plan->target), &unit.target, error));
  enum sptx_code code = sptx_compile_unit(&unit, SPTX_STAGE_EMIT, error);
  if (code == SPTX_CODE_OK) {
    *ptx = unit.code;
    *size = strlen(unit.code) + 1;
    unit.code = NULL;
  }
  unit.gpu = NULL; /* its parts are the caller's plan's */
  sptx_unit_clear(&unit);
  return code;
}

static enum sptx_code load_kernel(job *j, const sptx_cache *cache, sptx_error *error) {
  sptx_cache_key key = key_of(j);
  size_t size;
  char *ptx = sptx_cache_load(cache, key, "ptx", &size);
  enum sptx_code code = SPTX_CODE_COMPILE;
  if (ptx && size > 0 && ptx[size - 1] == '\0')
    code = sptx_cuda_program_load(j->program, j->kernel, ptx, error);
  free(ptx);
  if (code == SPTX_CODE_OK)
    return code; /* else: one that the driver does not load is one more kind of damage */
  j->compiled = true;
  SPTX_TRY(compile(j, &ptx, &size, error));
  code = sptx_cuda_program_load(j->program, j->kernel, ptx, error);
  if (code == SPTX_CODE_OK)
    sptx_cache_store(cache, key, "ptx", ptx, size);
  free(ptx);
  return code;
}

static int list_jobs(sptx_cuda_program *programs, int program_count, job *jobs) {
  int count = 0;
  for (int p = 0; p < program_count; p++)
    for (int k = 0; programs[p].plan && k < programs[p].plan->kernel_count; k++, count++)
      if (jobs)
        jobs[count] = (job){.program = &programs[p], .kernel = k};
  return count;
}

enum sptx_code sptx_cuda_code_load(sptx_cuda_program *programs, int program_count, const sptx_cache *cache,
                                   int threads, bool *compiled, sptx_error *error) {
  int count = list_jobs(programs, program_count, NULL), workers = threads < count ? threads : count;
  enum sptx_code code = SPTX_CODE_OK;
  *compiled = false;
  job *jobs = calloc((size_t)count + 1, sizeof *jobs);
  if (!jobs)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a list of %d kernels", count);
  list_jobs(programs, program_count, jobs);
#pragma omp parallel for num_threads(workers > 1 ? workers : 1) schedule(dynamic, 1)
  for (int i = 0; i < count; i++)
    jobs[i].code = load_kernel(&jobs[i], cache, &jobs[i].error);
  for (int i = 0; i < count && code == SPTX_CODE_OK; i++) {
    *compiled |= jobs[i].compiled;
    if (jobs[i].code != SPTX_CODE_OK)
      code = sptx_fail(error, jobs[i].code, "%s", jobs[i].error.message);
  }
  free(jobs);
  return code;
}
