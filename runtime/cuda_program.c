/* Loading and launching a plan; see cuda_program.h. */
#include "runtime/cuda_program.h"

#include <stdlib.h>
#include <string.h>

static enum sptx_code upload_constants(sptx_cuda_program *program, sptx_error *error) {
  const sptx_gpu_plan *plan = program->plan;
  if (plan->constants_bytes == 0)
    return SPTX_CODE_OK;
  SPTX_TRY(sptx_cuda_alloc(program->device, plan->constants_bytes, &program->constants, error));
  return sptx_cuda_upload(program->device, program->constants, plan->constants, plan->constants_bytes, error);
}

static enum sptx_code check_shared_memory(const sptx_cuda_device *device, const sptx_gpu_plan *plan,
                                          sptx_error *error) {
  for (int i = 0; i < plan->launch_count; i++)
    if (plan->launches[i].shared_bytes > (uint32_t)device->shared_limit)
      return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                       "kernel %s needs %u bytes of shared memory, %s has %d: use a smaller tile",
                       plan->kernels[plan->launches[i].kernel].symbol, plan->launches[i].shared_bytes,
                       device->name, device->shared_limit);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_cuda_program_create(const sptx_cuda_device *device, const sptx_gpu_plan *plan,
                                        size_t lse_bytes, sptx_cuda_program *program, sptx_error *error) {
  *program = (sptx_cuda_program){.device = device, .plan = plan, .lse_bytes = lse_bytes};
  SPTX_TRY(check_shared_memory(device, plan, error));
  program->modules = calloc((size_t)plan->kernel_count + 1, sizeof *program->modules);
  program->functions = calloc((size_t)plan->kernel_count + 1, sizeof *program->functions);
  enum sptx_code code = SPTX_CODE_OUT_OF_MEMORY;
  if (program->modules && program->functions)
    code = sptx_cuda_maps_create(plan, &program->maps, error);
  else
    sptx_fail(error, code, "not enough memory for %d kernels", plan->kernel_count);
  if (code == SPTX_CODE_OK)
    code = upload_constants(program, error);
  if (code != SPTX_CODE_OK)
    sptx_cuda_program_clear(program);
  return code;
}

/* Every launch's shared memory beyond the 48 KiB that need no asking. */
static enum sptx_code allow_shared_memory(const sptx_cuda_program *program, int kernel, sptx_error *error) {
  const sptx_gpu_plan *plan = program->plan;
  uint32_t most = 0;
  for (int i = 0; i < plan->launch_count; i++)
    if (plan->launches[i].kernel == kernel && plan->launches[i].shared_bytes > most)
      most = plan->launches[i].shared_bytes;
  return SPTX_CU_CALL(program->device, FuncSetAttribute, program->functions[kernel],
                      SPTX_CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)most);
}

enum sptx_code sptx_cuda_program_load(sptx_cuda_program *program, int kernel, const char *ptx,
                                      sptx_error *error) {
  const sptx_cuda_device *device = program->device;
  sptx_cu_module module = NULL;
  SPTX_TRY(sptx_cuda_enter(device, error));
  enum sptx_code code;
  SPTX_TRY_GOTO(sptx_cuda_module_load(device, ptx, &module, error), done);
  SPTX_TRY_GOTO(SPTX_CU_CALL(device, ModuleGetFunction, &program->functions[kernel], module,
                             program->plan->kernels[kernel].symbol),
                done);
  code = allow_shared_memory(program, kernel, error);
done:
  if (code == SPTX_CODE_OK)
    program->modules[kernel] = module;
  else if (module)
    device->driver->ModuleUnload(module);
  sptx_cuda_leave(device);
  return code;
}

void sptx_cuda_program_clear(sptx_cuda_program *program) {
  sptx_error ignored;
  if (program->modules && sptx_cuda_enter(program->device, &ignored) == SPTX_CODE_OK) {
    for (int i = 0; i < program->plan->kernel_count; i++)
      if (program->modules[i])
        program->device->driver->ModuleUnload(program->modules[i]);
    sptx_cuda_leave(program->device);
  }
  if (program->constants)
    sptx_cuda_free(program->device, program->constants);
  sptx_cuda_maps_clear(&program->maps);
  free(program->modules);
  free(program->functions);
  memset(program, 0, sizeof *program);
}

static const struct {
  const char *name;
  size_t offset;
} tensors[] = {
    [SPTX_GPU_Q] = {"q", offsetof(sptx_gpu_args, q)},
    [SPTX_GPU_K] = {"k", offsetof(sptx_gpu_args, k)},
    [SPTX_GPU_V] = {"v", offsetof(sptx_gpu_args, v)},
    [SPTX_GPU_O] = {"o", offsetof(sptx_gpu_args, o)},
    [SPTX_GPU_LSE] = {"lse", offsetof(sptx_gpu_args, lse)},
    [SPTX_GPU_D_O] = {"d_o", offsetof(sptx_gpu_args, d_o)},
    [SPTX_GPU_D_Q] = {"d_q", offsetof(sptx_gpu_args, d_q)},
    [SPTX_GPU_D_K] = {"d_k", offsetof(sptx_gpu_args, d_k)},
    [SPTX_GPU_D_V] = {"d_v", offsetof(sptx_gpu_args, d_v)},
    [SPTX_GPU_WORKSPACE] = {"workspace", offsetof(sptx_gpu_args, workspace)},
};

static uint64_t tensor_address(const sptx_gpu_args *args, enum sptx_gpu_tensor tensor) {
  uint64_t address;
  memcpy(&address, (const char *)args + tensors[tensor].offset, sizeof address);
  return address;
}

/* What the driver knows of a pointer; one call tells both facts, and zeros for memory that it never saw. */
static enum sptx_code check_memory(const sptx_cuda_device *device, const char *name, uint64_t address,
                                   sptx_error *error) {
  unsigned asked[] = {SPTX_CU_POINTER_ATTRIBUTE_MEMORY_TYPE, SPTX_CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  unsigned type = 0;
  int ordinal = 0;
  void *answers[] = {&type, &ordinal};
  SPTX_TRY(SPTX_CU_CALL(device, PointerGetAttributes, 2, asked, answers, address));
  if (type != SPTX_CU_MEMORYTYPE_DEVICE)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s is not device memory: copy it to cuda:%d first",
                     name, device->ordinal);
  if (ordinal != device->ordinal)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s is memory of cuda:%d: copy it to cuda:%d first, or use a context of that device",
                     name, ordinal, device->ordinal);
  return SPTX_CODE_OK;
}

static enum sptx_code check_pointers(const sptx_cuda_device *device, const sptx_gpu_args *args,
                                     sptx_error *error) {
  for (int i = SPTX_GPU_Q; i <= SPTX_GPU_D_V; i++) {
    uint64_t address = tensor_address(args, (enum sptx_gpu_tensor)i);
    unsigned alignment = i == SPTX_GPU_LSE ? 4 : 16;
    if (address % alignment != 0)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                       "%s is not aligned to %u bytes: start it at a multiple of that", tensors[i].name,
                       alignment);
    if (address != 0)
      SPTX_TRY(check_memory(device, tensors[i].name, address, error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code run_launch(sptx_cuda_program *program, int index, sptx_gpu_args *args,
                                 sptx_cu_stream stream, sptx_error *error) {
  const sptx_cuda_device *device = program->device;
  const sptx_gpu_launch *launch = &program->plan->launches[index];
  sptx_cuda_map maps[SPTX_GPU_MAX_MAPS];
  uint64_t addresses[SPTX_GPU_MAX_MAPS];
  void *parameters[SPTX_GPU_MAX_MAPS + 2] = {args, launch->params};
  for (int i = 0; i < launch->map_count; i++) {
    addresses[i] = tensor_address(args, launch->maps[i].tensor);
    parameters[i + 2] = &maps[i];
  }
  SPTX_TRY(sptx_cuda_maps_take(&program->maps, device, program->plan, index, addresses, maps, error));
  if (launch->clear_bytes > 0)
    SPTX_TRY(SPTX_CU_CALL(device, MemsetD32Async, args->workspace + launch->clear_offset, 0,
                          launch->clear_bytes / 4, stream));
  return SPTX_CU_CALL(device, LaunchKernel, program->functions[launch->kernel], launch->grid[0],
                      launch->grid[1], launch->grid[2], launch->block, 1, 1, launch->shared_bytes, stream,
                      parameters, NULL);
}

static enum sptx_code run_all(sptx_cuda_program *program, sptx_gpu_args *args, sptx_cu_stream stream,
                              sptx_error *error) {
  const sptx_cuda_device *device = program->device;
  const sptx_gpu_plan *plan = program->plan;
  size_t lent = args->lse ? 0 : program->lse_bytes, scratch = plan->workspace_bytes + lent;
  if (scratch > 0) {
    sptx_cu_pointer pointer = 0;
    SPTX_TRY(SPTX_CU_CALL(device, MemAllocFromPoolAsync, &pointer, scratch, device->pool, stream));
    args->workspace = pointer;
    if (lent > 0)
      args->lse = pointer + plan->workspace_bytes;
  }
  enum sptx_code code = SPTX_CODE_OK;
  for (int i = 0; i < plan->launch_count && code == SPTX_CODE_OK; i++)
    code = run_launch(program, i, args, stream, error);
  if (scratch > 0) {
    sptx_cu_result freed = device->driver->MemFreeAsync(args->workspace, stream);
    if (code == SPTX_CODE_OK)
      code = sptx_cuda_check(device->driver, freed, "cuMemFreeAsync", error);
  }
  return code;
}

enum sptx_code sptx_cuda_program_run(sptx_cuda_program *program, const sptx_gpu_args *args,
                                     sptx_cu_stream stream, sptx_error *error) {
  sptx_gpu_args filled = *args;
  filled.constants = program->constants;
  SPTX_TRY(sptx_cuda_enter(program->device, error));
  enum sptx_code code = check_pointers(program->device, args, error);
  if (code == SPTX_CODE_OK)
    code = run_all(program, &filled, stream, error);
  sptx_cuda_leave(program->device);
  return code;
}
