/* The device kind "cuda": plans each pass, gets its kernels (runtime/cuda_code.c), and enqueues the plan's
 * launches on the caller's stream. */
#include "runtime/cuda_kind.h"

#include "gen/compile.h"
#include "runtime/cuda_code.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 3 };

typedef struct cuda_state {
  sptx_cuda_driver driver;
  sptx_cuda_device device;
} cuda_state;

typedef struct cuda_attention {
  const sptx_cuda_device *device;
  sptx_gpu_plan *plans[PASSES]; /* NULL: not prepared */
  sptx_cuda_program programs[PASSES];
  bool compiled; /* at least one kernel, rather than read from the cache */
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

static void destroy(void *attention) {
  cuda_attention *cuda = attention;
  for (int which = 0; which < PASSES; which++) {
    sptx_cuda_program_clear(&cuda->programs[which]);
    sptx_gpu_plan_free(cuda->plans[which]);
  }
  sptx_cuda_free(cuda->device, cuda->alibi_slopes);
  free(cuda);
}

static enum sptx_code plan_pass(cuda_attention *cuda, const sptx_request *request, enum sptx_pass which,
                                sptx_error *error) {
  const sptx_problem *problem = &request->problem;
  int64_t rows = problem->batch * problem->heads * (which == SPTX_PASS_DECODE ? 1 : problem->n_q);
  sptx_unit unit = {.problem = problem,
                    .lists = request->lists,
                    .class_of_head = request->class_of_head,
                    .pass = which,
                    .schedule = request->schedules[which]};
  SPTX_TRY(
      sptx_target_find(sptx_ptx_target_name(sptx_cuda_device_target(cuda->device)), &unit.target, error));
  enum sptx_code code = sptx_compile_unit(&unit, SPTX_STAGE_SCHEDULE, error);
  cuda->plans[which] = unit.gpu; /* even one that a verifier refuses */
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_program_create(cuda->device, unit.gpu, (size_t)rows * sizeof(float),
                                    &cuda->programs[which], error);
  return code;
}

/* Plans the wanted passes, then gets the kernels of all of them at once. */
static enum sptx_code prepare_passes(cuda_attention *cuda, const sptx_request *request, sptx_error *error) {
  const bool wanted[PASSES] = {true, request->backward, request->decode};
  for (int which = 0; which < PASSES; which++)
    if (wanted[which])
      SPTX_TRY(plan_pass(cuda, request, (enum sptx_pass)which, error));
  return sptx_cuda_code_load(cuda->programs, PASSES, request->cache, request->threads, &cuda->compiled,
                             error);
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
  cuda_attention *cuda = attention;
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
  return sptx_cuda_program_run(&cuda->programs[which], &args, tensors->stream, error);
}

static void info(void *attention, sptx_attention_info *info) {
  const cuda_attention *cuda = attention;
  info->useful_pairs = cuda->plans[SPTX_PASS_FORWARD]->useful_pairs;
  info->computed_pairs = cuda->plans[SPTX_PASS_FORWARD]->computed_pairs;
  info->cache_hit = !cuda->compiled;
  for (int which = 0; which < PASSES; which++)
    if (cuda->plans[which] && cuda->plans[which]->workspace_bytes > info->workspace_bytes)
      info->workspace_bytes = cuda->plans[which]->workspace_bytes;
}

static void describe(void *device, int threads, char *text, size_t size) {
  const sptx_cuda_device *cuda = sptx_cuda_kind_device(device);
  (void)threads;
  snprintf(text, size, "%s, compute capability %d.%d", cuda->name, cuda->major, cuda->minor);
}

static enum sptx_code allocate(void *device, size_t bytes, void **memory, sptx_error *error) {
  sptx_cu_pointer pointer = 0;
  enum sptx_code code = sptx_cuda_alloc(sptx_cuda_kind_device(device), bytes, &pointer, error);
  *memory = (void *)(uintptr_t)pointer;
  return code;
}

static void release(void *device, void *memory) {
  sptx_cuda_free(sptx_cuda_kind_device(device), (uintptr_t)memory);
}

static enum sptx_code wait(void *device, sptx_error *error) {
  return sptx_cuda_stream_synchronize(sptx_cuda_kind_device(device), NULL, error);
}

static enum sptx_code copy_in(void *device, void *to, const void *from, size_t bytes, sptx_error *error) {
  SPTX_TRY(wait(device, error));
  return sptx_cuda_upload(sptx_cuda_kind_device(device), (uintptr_t)to, from, bytes, error);
}

static enum sptx_code copy_out(void *device, void *to, const void *from, size_t bytes, sptx_error *error) {
  SPTX_TRY(wait(device, error));
  return sptx_cuda_download(sptx_cuda_kind_device(device), to, (uintptr_t)from, bytes, error);
}

static enum sptx_ptx_target target(void *device) {
  return sptx_cuda_device_target(sptx_cuda_kind_device(device));
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
    .allocate = allocate,
    .release = release,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .wait = wait,
    .target = target,
};
