/* Making and freeing a GPU plan's parts, and writing its kernels into a module; see planner.h. */
#include "gen/ptx/planner.h"
#include "gen/ptx/emitter.h"
#include <llvm-c/Analysis.h>
#include <stdlib.h>
#include <string.h>

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
}

static void *copy_of(const void *data, size_t bytes) {
  void *copy = malloc(bytes ? bytes : 1);
  if (copy && bytes)
    memcpy(copy, data, bytes);
  return copy;
}

enum sptx_code sptx_gpu_add_kernel(sptx_gpu_planner *planner, const char *symbol,
                                   enum sptx_code (*emit)(struct sptx_gpu_emitter *, const char *,
                                                          const void *, sptx_error *),
                                   const void *spec, size_t spec_bytes, int *kernel, sptx_error *error) {
  sptx_gpu_plan *plan = planner->plan;
  for (int i = 0; i < plan->kernel_count; i++)
    if (strcmp(plan->kernels[i].symbol, symbol) == 0) {
      *kernel = i;
      return SPTX_CODE_OK;
    }
  sptx_gpu_kernel *grown = realloc(plan->kernels, (size_t)(plan->kernel_count + 1) * sizeof *grown);
  if (!grown)
    return no_memory(error);
  plan->kernels = grown;
  sptx_gpu_kernel *added = &grown[plan->kernel_count];
  memset(added, 0, sizeof *added);
  strncpy(added->symbol, symbol, sizeof added->symbol - 1);
  added->emit = emit;
  added->spec = copy_of(spec, spec_bytes);
  added->spec_bytes = spec_bytes;
  if (!added->spec)
    return no_memory(error);
  *kernel = plan->kernel_count++;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_gpu_add_launch(sptx_gpu_planner *planner, int kernel, const void *params,
                                   size_t params_bytes, sptx_gpu_launch **launch, sptx_error *error) {
  sptx_gpu_plan *plan = planner->plan;
  sptx_gpu_launch *grown = realloc(plan->launches, (size_t)(plan->launch_count + 1) * sizeof *grown);
  if (!grown)
    return no_memory(error);
  plan->launches = grown;
  sptx_gpu_launch *added = &grown[plan->launch_count];
  memset(added, 0, sizeof *added);
  added->kernel = kernel;
  added->params = copy_of(params, params_bytes);
  added->params_bytes = params_bytes;
  if (!added->params)
    return no_memory(error);
  plan->launch_count++;
  *launch = added;
  return SPTX_CODE_OK;
}

static size_t round_up(size_t bytes) {
  return (bytes + 255) & ~(size_t)255;
}

enum sptx_code sptx_gpu_add_constants(sptx_gpu_planner *planner, const void *data, size_t bytes,
                                      size_t *offset, sptx_error *error) {
  sptx_gpu_plan *plan = planner->plan;
  size_t padded = round_up(bytes);
  char *grown = realloc(plan->constants, plan->constants_bytes + padded + 256);
  if (!grown)
    return no_memory(error);
  plan->constants = grown;
  *offset = plan->constants_bytes;
  memset(grown + *offset, 0, padded);
  if (bytes)
    memcpy(grown + *offset, data, bytes);
  plan->constants_bytes += padded;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_gpu_add_workspace(sptx_gpu_planner *planner, size_t bytes, size_t *offset,
                                      sptx_error *error) {
  size_t *total = &planner->plan->workspace_bytes;
  *offset = *total;
  if (bytes > (size_t)INT64_MAX - 256 - *total)
    return sptx_fail(error, SPTX_CODE_OVERFLOW, "the GPU workspace does not fit 63 bits");
  *total += round_up(bytes);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_gpu_share_scratch(sptx_gpu_planner *planner, enum sptx_gpu_scratch which, size_t bytes,
                                      size_t *offset, sptx_error *error) {
  if (!planner->has_scratch[which])
    SPTX_TRY(sptx_gpu_add_workspace(planner, bytes, &planner->scratch_offset[which], error));
  planner->has_scratch[which] = true;
  *offset = planner->scratch_offset[which];
  return SPTX_CODE_OK;
}

void sptx_gpu_rewind(sptx_gpu_planner *planner, int kernel_count, int launch_count) {
  sptx_gpu_plan *plan = planner->plan;
  while (plan->kernel_count > kernel_count)
    free(plan->kernels[--plan->kernel_count].spec);
  while (plan->launch_count > launch_count)
    free(plan->launches[--plan->launch_count].params);
}

enum sptx_code sptx_gpu_keep_set(sptx_gpu_planner *planner, const sptx_set *set, const sptx_set **copy,
                                 sptx_error *error) {
  sptx_gpu_plan *plan = planner->plan;
  sptx_set **grown = realloc(plan->sets, (size_t)(plan->set_count + 1) * sizeof *grown);
  if (!grown)
    return no_memory(error);
  plan->sets = grown;
  SPTX_TRY(sptx_set_copy(set, &grown[plan->set_count], error));
  *copy = grown[plan->set_count++];
  return SPTX_CODE_OK;
}

void sptx_gpu_plan_free(sptx_gpu_plan *plan) {
  if (!plan)
    return;
  for (int i = 0; i < plan->kernel_count; i++)
    free(plan->kernels[i].spec);
  for (int i = 0; i < plan->launch_count; i++)
    free(plan->launches[i].params);
  for (int i = 0; i < plan->set_count; i++)
    sptx_set_free(plan->sets[i]);
  free(plan->sets);
  free(plan->kernels);
  free(plan->launches);
  free(plan->constants);
  free(plan);
}

static enum sptx_code verify(LLVMModuleRef module, sptx_error *error) {
  char *message = NULL;
  enum sptx_code code = SPTX_CODE_OK;
  if (LLVMVerifyModule(module, LLVMReturnStatusAction, &message))
    code = sptx_fail(error, SPTX_CODE_COMPILE, "LLVM rejects the generated GPU kernels: %s", message);
  LLVMDisposeMessage(message);
  return code;
}

enum sptx_code sptx_gpu_plan_build(const sptx_gpu_plan *plan, LLVMContextRef context, LLVMModuleRef *module,
                                   sptx_error *error) {
  *module = LLVMModuleCreateWithNameInContext("sptx", context);
  LLVMSetTarget(*module, "nvptx64-nvidia-cuda");
  LLVMSetDataLayout(*module, "e-i64:64-i128:128-v16:16-v32:32-n16:32:64");
  sptx_gpu_emitter emitter;
  sptx_emitter_open(&emitter, context, *module);
  enum sptx_code code = SPTX_CODE_OK;
  for (int i = 0; i < plan->kernel_count && code == SPTX_CODE_OK; i++) {
    const sptx_gpu_kernel *kernel = &plan->kernels[i];
    code = kernel->emit(&emitter, kernel->symbol, kernel->spec, error);
  }
  sptx_emitter_close(&emitter);
  if (code == SPTX_CODE_OK)
    code = verify(*module, error);
  if (code != SPTX_CODE_OK) {
    LLVMDisposeModule(*module);
    *module = NULL;
  }
  return code;
}
