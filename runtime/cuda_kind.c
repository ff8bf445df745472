/* The device kind "cuda": compiles the PTX plan of each pass and lets the driver assemble it, or takes the
 * machine code from the cache, and enqueues its launches on the caller's stream. */
#include "runtime/cuda_kind.h"

#include "gen/compile.h"
#include "runtime/cache.h"
#include <llvm-c/BitWriter.h>
#include <llvm-c/Core.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 3 };

typedef struct cuda_state {
  sptx_cuda_driver driver;
  sptx_cuda_device device;
} cuda_state;

/* One attention pass, ready to run. */
typedef struct cuda_pass {
  sptx_gpu_plan *plan; /* NULL: not prepared */
  sptx_cuda_program program;
  bool loaded, compiled; /* compiled: now, rather than read from the cache */
} cuda_pass;

typedef struct cuda_attention {
  const sptx_cuda_device *device;
  cuda_pass passes[PASSES];
  sptx_cu_pointer alibi_slopes;
  float scale, soft_cap;
} cuda_attention;

enum sptx_code sptx_cuda_kind_open(const sptx_cuda_driver *driver, int ordinal, void **device,
                                   sptx_error *error) {
  *device = NULL;
  cuda_state *state = calloc(1, sizeof *state);
  if (!state)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a device");
  state->driver = *driver;
  enum sptx_code code = sptx_cuda_device_open(&state->driver, ordinal, &state->device, error);
  if (code == SPTX_CODE_OK)
    *device = state;
  else
    free(state);
  return code;
}

const sptx_cuda_device *sptx_cuda_kind_device(const void *device) {
  return &((const cuda_state *)device)->device;
}

/* "cuda:N" with at most four digits. */
static enum sptx_code read_ordinal(const char *name, int *ordinal, sptx_error *error) {
  const char *digits = name + strlen("cuda");
  size_t length = digits[0] == ':' ? strspn(digits + 1, "0123456789") : 0;
  if (length == 0 || length > 4 || digits[1 + length] != '\0')
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "'%s' is not a device; use cpu or cuda:N", name);
  *ordinal = atoi(digits + 1);
  return SPTX_CODE_OK;
}

static enum sptx_code open_cuda(const char *name, void **device, sptx_error *error) {
  int ordinal = 0;
  sptx_cuda_driver driver = {0};
  *device = NULL;
  SPTX_TRY(read_ordinal(name, &ordinal, error));
  SPTX_TRY(sptx_cuda_driver_open(&driver, error));
  enum sptx_code code = sptx_cuda_kind_open(&driver, ordinal, device, error);
  if (code != SPTX_CODE_OK)
    sptx_cuda_driver_close(&driver);
  return code;
}

static void close_cuda(void *device) {
  cuda_state *state = device;
  sptx_cuda_device_close(&state->device);
  sptx_cuda_driver_close(&state->driver);
  free(state);
}

/* Everything that determines the machine code: the IR, from which one LLVM makes one PTX, who assembles it,
 * and for which GPU. The IR rather than the PTX: a warm creation then runs no LLVM pass. */
static sptx_cache_key key_of(const sptx_unit *unit, const sptx_cuda_device *device) {
  unsigned llvm[3];
  const int machine[] = {device->major, device->minor, device->driver_version};
  LLVMGetVersion(&llvm[0], &llvm[1], &llvm[2]);
  sptx_cache_key key = {0};
  sptx_cache_key_add(&key, SPTX_VERSION, sizeof SPTX_VERSION);
  sptx_cache_key_add(&key, llvm, sizeof llvm);
  sptx_cache_key_add(&key, machine, sizeof machine);
  sptx_cache_key_add(&key, unit->target->name, strlen(unit->target->name));
  LLVMMemoryBufferRef bitcode = LLVMWriteBitcodeToMemoryBuffer(unit->module);
  sptx_cache_key_add(&key, LLVMGetBufferStart(bitcode), LLVMGetBufferSize(bitcode));
  LLVMDisposeMemoryBuffer(bitcode);
  return key;
}

static enum sptx_code load(const sptx_cuda_device *device, cuda_pass *pass, const void *cubin,
                           size_t lse_bytes, sptx_error *error) {
  SPTX_TRY(sptx_cuda_program_load(device, pass->plan, cubin, lse_bytes, &pass->program, error));
  pass->loaded = true;
  return SPTX_CODE_OK;
}

/* The machine code of a unit that is built: from the cache, or compiled and put there. */
static enum sptx_code load_code(const sptx_cuda_device *device, cuda_pass *pass, sptx_unit *unit,
                                size_t lse_bytes, const sptx_cache *cache, sptx_error *error) {
  sptx_cache_key key = key_of(unit, device);
  size_t size;
  void *cubin = sptx_cache_load(cache, key, "cubin", &size);
  enum sptx_code code = cubin ? load(device, pass, cubin, lse_bytes, NULL) : SPTX_CODE_COMPILE;
  free(cubin);
  if (code == SPTX_CODE_OK)
    return code; /* else: one that the driver does not load is one more kind of damage */
  pass->compiled = true;
  SPTX_TRY(sptx_compile_unit(unit, SPTX_STAGE_EMIT, error));
  SPTX_TRY(sptx_cuda_assemble(device, unit->code, &cubin, &size, error));
  code = load(device, pass, cubin, lse_bytes, error);
  if (code == SPTX_CODE_OK)
    sptx_cache_store(cache, key, "cubin", cubin, size);
  free(cubin);
  return code;
}

static enum sptx_code prepare(const sptx_cuda_device *device, cuda_pass *pass, const sptx_request *request,
                              enum sptx_pass which, sptx_error *error) {
  const sptx_problem *problem = &request->problem;
  const sptx_target *target;
  SPTX_TRY(sptx_target_find(sptx_ptx_target_name(sptx_cuda_device_target(device)), &target, error));
  sptx_unit unit = {.problem = problem,
                    .lists = request->lists,
                    .class_of_head = request->class_of_head,
                    .pass = which,
                    .target = target,
                    .schedule = request->schedules[which]};
  size_t rows =
      (size_t)(problem->batch * problem->heads) * (which == SPTX_PASS_DECODE ? 1 : (size_t)problem->n_q);
  enum sptx_code code = sptx_compile_unit(&unit, SPTX_STAGE_BUILD, error);
  pass->plan = unit.gpu;
  if (code == SPTX_CODE_OK)
    code = load_code(device, pass, &unit, rows * sizeof(float), request->cache, error);
  unit.gpu = NULL; /* it is the pass's now */
  sptx_unit_clear(&unit);
  return code;
}

static void destroy(void *attention) {
  cuda_attention *cuda = attention;
  for (int which = 0; which < PASSES; which++) {
    if (cuda->passes[which].loaded)
      sptx_cuda_program_unload(cuda->device, &cuda->passes[which].program);
    sptx_gpu_plan_free(cuda->passes[which].plan);
  }
  sptx_cuda_free(cuda->device, cuda->alibi_slopes);
  free(cuda);
}

/* Prepares the wanted passes at once: LLVM and the driver's assembler take most of the time. */
static enum sptx_code prepare_passes(cuda_attention *cuda, const sptx_request *request, sptx_error *error) {
  const bool wanted[PASSES] = {true, request->backward, request->decode};
  enum sptx_code codes[PASSES] = {SPTX_CODE_OK, SPTX_CODE_OK, SPTX_CODE_OK};
  sptx_error errors[PASSES];
#pragma omp parallel for num_threads(request->threads < PASSES ? request->threads : PASSES)                  \
    schedule(dynamic, 1)
  for (int which = 0; which < PASSES; which++)
    if (wanted[which])
      codes[which] =
          prepare(cuda->device, &cuda->passes[which], request, (enum sptx_pass)which, &errors[which]);
  for (int which = 0; which < PASSES; which++)
    if (codes[which] != SPTX_CODE_OK)
      return sptx_fail(error, codes[which], "%s", errors[which].message);
  return SPTX_CODE_OK;
}

static enum sptx_code upload_slopes(cuda_attention *cuda, const sptx_request *request, sptx_error *error) {
  size_t bytes = (size_t)request->problem.heads * sizeof(float);
  SPTX_TRY(sptx_cuda_alloc(cuda->device, bytes, &cuda->alibi_slopes, error));
  return sptx_cuda_upload(cuda->device, cuda->alibi_slopes, request->alibi_slopes, bytes, error);
}

static enum sptx_code create(void *device, const sptx_request *request, void **attention, sptx_error *error) {
  *attention = NULL;
  cuda_attention *cuda = calloc(1, sizeof *cuda);
  if (!cuda)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for an attention");
  cuda->device = sptx_cuda_kind_device(device);
  cuda->scale = request->scale;
  cuda->soft_cap = request->soft_cap;
  enum sptx_code code = request->alibi_slopes ? upload_slopes(cuda, request, error) : SPTX_CODE_OK;
  if (code == SPTX_CODE_OK)
    code = prepare_passes(cuda, request, error);
  if (code != SPTX_CODE_OK) {
    destroy(cuda);
    return code;
  }
  *attention = cuda;
  return SPTX_CODE_OK;
}

static enum sptx_code run(void *attention, enum sptx_pass which, const sptx_tensors *tensors,
                          sptx_error *error) {
  const cuda_attention *cuda = attention;
  const sptx_gpu_args args = {.q = (uintptr_t)tensors->q,
                              .k = (uintptr_t)tensors->k,
                              .v = (uintptr_t)tensors->v,
                              .o = (uintptr_t)tensors->o,
                              .lse = (uintptr_t)tensors->lse,
                              .d_o = (uintptr_t)tensors->d_o,
                              .d_q = (uintptr_t)tensors->d_q,
                              .d_k = (uintptr_t)tensors->d_k,
                              .d_v = (uintptr_t)tensors->d_v,
                              .alibi_slopes = cuda->alibi_slopes,
                              .scale = cuda->scale,
                              .soft_cap = cuda->soft_cap,
                              .position = tensors->position};
  return sptx_cuda_program_run(cuda->device, &cuda->passes[which].program, &args, tensors->stream, error);
}

static void info(void *attention, sptx_attention_info *info) {
  const cuda_attention *cuda = attention;
  info->useful_pairs = cuda->passes[SPTX_PASS_FORWARD].plan->useful_pairs;
  info->computed_pairs = cuda->passes[SPTX_PASS_FORWARD].plan->computed_pairs;
  info->cache_hit = 1;
  for (int which = 0; which < PASSES; which++) {
    const cuda_pass *pass = &cuda->passes[which];
    if (pass->plan && pass->plan->workspace_bytes > info->workspace_bytes)
      info->workspace_bytes = pass->plan->workspace_bytes;
    if (pass->compiled)
      info->cache_hit = 0;
  }
}

static void describe(void *device, int threads, char *text, size_t size) {
  const sptx_cuda_device *cuda = sptx_cuda_kind_device(device);
  (void)threads;
  snprintf(text, size, "%s, compute capability %d.%d", cuda->name, cuda->major, cuda->minor);
}

const sptx_device_kind sptx_cuda_kind = {
    .name = "cuda",
    .open = open_cuda,
    .close = close_cuda,
    .create = create,
    .destroy = destroy,
    .run = run,
    .info = info,
    .describe = describe,
    .family = SPTX_FAMILY_PTX,
};
