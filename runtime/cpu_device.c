/* The device "cpu": compiles the x86 plan of each pass, or takes it from the code cache, and runs its
 * launches as OpenMP loops. */
#include "gen/compile.h"
#include "gen/problem.h"
#include "runtime/cache.h"
#include "runtime/device.h"
#include "runtime/jit.h"
#include "runtime/pool.h"
#include <cpuid.h>
#include <llvm-c/BitWriter.h>
#include <llvm-c/Core.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 3, LINE = 64 };

/* One attention pass, ready to run. */
typedef struct cpu_pass {
  sptx_x86_plan *plan; /* NULL: not prepared */
  sptx_jit *jit;
  sptx_x86_kernel *kernels; /* one for each launch */
  size_t scratch_bytes;     /* of each thread: the most that a launch wants */
  bool compiled;            /* by LLVM, now, rather than read from the cache */
} cpu_pass;

typedef struct cpu_attention {
  cpu_pass passes[PASSES];
  size_t lse_bytes; /* of forward's log-sum-exp, lent when the caller wants none */
  float scale, soft_cap;
  float *alibi_slopes;
  sptx_pool pool;
} cpu_attention;

static enum sptx_code open_cpu(const char *name, void **device, sptx_error *error) {
  *device = NULL; /* the machine's one CPU has no state */
  if (strcmp(name, "cpu") != 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "'%s' is not a device; use cpu or cuda:N", name);
  if (!sptx_x86_isa_available(SPTX_ISA_AVX2))
    return sptx_fail(error, SPTX_CODE_NO_DEVICE, "this CPU lacks AVX2 and FMA, which sptx needs");
  return SPTX_CODE_OK;
}

static void close_cpu(void *device) {
  (void)device;
}

/* Everything that determines the object: the IR, which names the CPU's features, and who compiles it. */
static sptx_cache_key key_of(LLVMModuleRef module) {
  unsigned llvm[3];
  LLVMGetVersion(&llvm[0], &llvm[1], &llvm[2]);
  sptx_cache_key key = {0};
  sptx_cache_key_add(&key, SPTX_VERSION, sizeof SPTX_VERSION);
  sptx_cache_key_add(&key, llvm, sizeof llvm);
  LLVMMemoryBufferRef bitcode = LLVMWriteBitcodeToMemoryBuffer(module);
  sptx_cache_key_add(&key, LLVMGetBufferStart(bitcode), LLVMGetBufferSize(bitcode));
  LLVMDisposeMemoryBuffer(bitcode);
  return key;
}

/* Links the object and looks up the kernel of each launch. */
static enum sptx_code link_kernels(cpu_pass *pass, const char *object, size_t size, sptx_error *error) {
  SPTX_TRY(sptx_jit_load(object, size, &pass->jit, error));
  for (int i = 0; i < pass->plan->launch_count; i++) {
    void *address;
    SPTX_TRY(sptx_jit_lookup(pass->jit, pass->plan->launches[i].symbol, &address, error));
    memcpy(&pass->kernels[i], &address, sizeof address); /* ISO C has no such cast */
  }
  return SPTX_CODE_OK;
}

/* The object of a unit that is built: from the cache, or compiled and put there. */
static enum sptx_code load_object(cpu_pass *pass, sptx_unit *unit, const sptx_cache *cache,
                                  sptx_error *error) {
  sptx_cache_key key = key_of(unit->module);
  size_t size;
  char *object = sptx_cache_load(cache, key, "o", &size);
  enum sptx_code code = object ? link_kernels(pass, object, size, error) : SPTX_CODE_COMPILE;
  free(object);
  if (code == SPTX_CODE_OK)
    return code;
  sptx_jit_free(pass->jit); /* an object that does not link is one more kind of damage */
  pass->jit = NULL;
  pass->compiled = true;
  SPTX_TRY(sptx_compile_unit(unit, SPTX_STAGE_EMIT, error));
  SPTX_TRY(link_kernels(pass, unit->code, unit->code_bytes, error));
  sptx_cache_store(cache, key, "o", unit->code, unit->code_bytes);
  return SPTX_CODE_OK;
}

static size_t most_scratch(const sptx_x86_plan *plan) {
  size_t most = 0;
  for (int i = 0; i < plan->launch_count; i++)
    if (plan->launches[i].scratch_bytes > most)
      most = plan->launches[i].scratch_bytes;
  return most;
}

static enum sptx_code prepare(cpu_pass *pass, const sptx_request *request, enum sptx_pass which,
                              sptx_error *error) {
  const sptx_x86_schedule *schedule = request->schedules[which];
  sptx_unit unit = {.problem = &request->problem,
                    .lists = request->lists,
                    .class_of_head = request->class_of_head,
                    .pass = which,
                    .target = sptx_target_of_isa(schedule ? schedule->isa : sptx_x86_host_isa()),
                    .schedule = schedule};
  enum sptx_code code = sptx_compile_unit(&unit, SPTX_STAGE_BUILD, error);
  pass->plan = unit.x86;
  if (code != SPTX_CODE_OK)
    goto done;
  pass->kernels = calloc((size_t)pass->plan->launch_count + 1, sizeof *pass->kernels);
  pass->scratch_bytes = most_scratch(pass->plan);
  code = pass->kernels ? load_object(pass, &unit, request->cache, error)
                       : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a plan's kernels");
done:
  unit.x86 = NULL; /* it is the pass's now */
  sptx_unit_clear(&unit);
  return code;
}

static void clear_pass(cpu_pass *pass) {
  sptx_jit_free(pass->jit);
  sptx_x86_plan_free(pass->plan);
  free(pass->kernels);
}

static void destroy(void *attention) {
  cpu_attention *cpu = attention;
  for (int which = 0; which < PASSES; which++)
    clear_pass(&cpu->passes[which]);
  sptx_pool_clear(&cpu->pool);
  free(cpu->alibi_slopes);
  free(cpu);
}

/* Prepares the wanted passes at once: LLVM takes most of the time and works in each alone. */
static enum sptx_code prepare_passes(cpu_attention *cpu, const sptx_request *request, sptx_error *error) {
  const bool wanted[PASSES] = {true, request->backward, request->decode};
  enum sptx_code codes[PASSES] = {SPTX_CODE_OK, SPTX_CODE_OK, SPTX_CODE_OK};
  sptx_error errors[PASSES];
#pragma omp parallel for num_threads(request->threads < PASSES ? request->threads : PASSES)                  \
    schedule(dynamic, 1)
  for (int which = 0; which < PASSES; which++)
    if (wanted[which])
      codes[which] = prepare(&cpu->passes[which], request, (enum sptx_pass)which, &errors[which]);
  for (int which = 0; which < PASSES; which++)
    if (codes[which] != SPTX_CODE_OK)
      return sptx_fail(error, codes[which], "%s", errors[which].message);
  return SPTX_CODE_OK;
}

static enum sptx_code create(void *device, const sptx_request *request, void **attention, sptx_error *error) {
  (void)device;
  *attention = NULL;
  cpu_attention *cpu = calloc(1, sizeof *cpu);
  if (!cpu)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for an attention");
  sptx_pool_init(&cpu->pool);
  const sptx_problem *problem = &request->problem;
  cpu->lse_bytes = (size_t)(problem->batch * problem->heads * problem->n_q) * sizeof(float);
  cpu->scale = request->scale;
  cpu->soft_cap = request->soft_cap;
  enum sptx_code code = SPTX_CODE_OK;
  if (request->alibi_slopes) {
    size_t bytes = (size_t)problem->heads * sizeof(float);
    cpu->alibi_slopes = malloc(bytes);
    if (cpu->alibi_slopes)
      memcpy(cpu->alibi_slopes, request->alibi_slopes, bytes);
    else
      code = sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %zu bytes of slopes", bytes);
  }
  if (code == SPTX_CODE_OK)
    code = prepare_passes(cpu, request, error);
  if (code != SPTX_CODE_OK) {
    destroy(cpu);
    return code;
  }
  *attention = cpu;
  return SPTX_CODE_OK;
}

static size_t round_to_line(size_t bytes) {
  return (bytes + LINE - 1) / LINE * LINE;
}

/* The launches in order, each one's items shared out to the threads as they come free. */
static void run_launches(const cpu_pass *pass, const sptx_x86_args *args, char *scratch, size_t scratch_bytes,
                         int threads) {
  const sptx_x86_plan *plan = pass->plan;
  if (threads == 1) {
    for (int i = 0; i < plan->launch_count; i++)
      for (int64_t item = 0; item < plan->launches[i].items; item++)
        pass->kernels[i](args, plan->launches[i].params, item, scratch);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    char *own = scratch + (size_t)omp_get_thread_num() * scratch_bytes;
    for (int i = 0; i < plan->launch_count; i++) {
#pragma omp for schedule(dynamic, 1)
      for (int64_t item = 0; item < plan->launches[i].items; item++)
        pass->kernels[i](args, plan->launches[i].params, item, own);
    }
  }
}

static enum sptx_code run(void *attention, enum sptx_pass which, const sptx_tensors *tensors,
                          sptx_error *error) {
  cpu_attention *cpu = attention;
  const cpu_pass *pass = &cpu->passes[which];
  size_t workspace_bytes = round_to_line(pass->plan->workspace_bytes);
  size_t lse_bytes = tensors->lse ? 0 : round_to_line(cpu->lse_bytes);
  size_t scratch_bytes = round_to_line(pass->scratch_bytes);
  size_t bytes = workspace_bytes + lse_bytes + (size_t)tensors->threads * scratch_bytes;
  char *buffer = sptx_pool_take(&cpu->pool, bytes);
  if (!buffer)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a workspace of %zu bytes", bytes);
  const sptx_x86_args args = {.q = tensors->q,
                              .k = tensors->k,
                              .v = tensors->v,
                              .o = tensors->o,
                              .lse = tensors->lse ? tensors->lse : (float *)(buffer + workspace_bytes),
                              .d_o = tensors->d_o,
                              .d_q = tensors->d_q,
                              .d_k = tensors->d_k,
                              .d_v = tensors->d_v,
                              .workspace = buffer,
                              .alibi_slopes = cpu->alibi_slopes,
                              .scale = cpu->scale,
                              .soft_cap = cpu->soft_cap,
                              .position = tensors->position};
  run_launches(pass, &args, buffer + workspace_bytes + lse_bytes, scratch_bytes, tensors->threads);
  sptx_pool_return(&cpu->pool, buffer);
  return SPTX_CODE_OK;
}

static void info(void *attention, sptx_attention_info *info) {
  const cpu_attention *cpu = attention;
  info->useful_pairs = cpu->passes[SPTX_PASS_FORWARD].plan->useful_pairs;
  info->computed_pairs = cpu->passes[SPTX_PASS_FORWARD].plan->computed_pairs;
  info->cache_hit = 1;
  for (int which = 0; which < PASSES; which++) {
    const cpu_pass *pass = &cpu->passes[which];
    if (pass->plan && pass->plan->workspace_bytes > info->workspace_bytes)
      info->workspace_bytes = pass->plan->workspace_bytes;
    if (pass->compiled)
      info->cache_hit = 0;
  }
}

/* The CPU's brand, which CPUID spells in three leaves. */
static void read_brand(char brand[49]) {
  unsigned words[12] = {0};
  for (unsigned leaf = 0; leaf < 3; leaf++)
    __get_cpuid(0x80000002 + leaf, &words[4 * leaf], &words[4 * leaf + 1], &words[4 * leaf + 2],
                &words[4 * leaf + 3]);
  memcpy(brand, words, 48);
  brand[48] = '\0';
}

static void describe(void *device, int threads, char *text, size_t size) {
  char brand[49];
  (void)device;
  read_brand(brand);
  snprintf(text, size, "%s, %s, %d threads", brand, sptx_isa_name(sptx_x86_host_isa()), threads);
}

const sptx_device_kind sptx_cpu_device = {
    .name = "cpu",
    .open = open_cpu,
    .close = close_cpu,
    .create = create,
    .destroy = destroy,
    .run = run,
    .info = info,
    .describe = describe,
    .family = SPTX_FAMILY_X86,
};
