/* The device "cpu": plans each pass, gets its kernels (runtime/cpu_code.c), and runs the plan's launches as
 * OpenMP loops. */
#include "gen/compile.h"
#include "gen/problem.h"
#include "runtime/cpu_code.h"
#include "runtime/device.h"
#include "runtime/pool.h"
#include <cpuid.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 3, LINE = 64 };

/* One attention pass, ready to run. */
typedef struct cpu_pass {
  sptx_x86_plan *plan;      /* NULL: not prepared */
  sptx_x86_kernel *kernels; /* one for each launch */
  size_t scratch_bytes;     /* of each thread: the most that a launch wants */
} cpu_pass;

typedef struct cpu_attention {
  cpu_pass passes[PASSES];
  sptx_cpu_code code;
  size_t lse_bytes;   /* of forward's log-sum-exp, lent when the caller wants none */
  int decode_threads; /* the most that are worth waking for one query */
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

static size_t most_scratch(const sptx_x86_plan *plan) {
  size_t most = 0;
  for (int i = 0; i < plan->launch_count; i++)
    if (plan->launches[i].scratch_bytes > most)
      most = plan->launches[i].scratch_bytes;
  return most;
}

/* Looks up the kernel of each launch. */
static enum sptx_code find_kernels(cpu_pass *pass, const sptx_cpu_code *code, sptx_error *error) {
  pass->kernels = calloc((size_t)pass->plan->launch_count + 1, sizeof *pass->kernels);
  if (!pass->kernels)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a plan's kernels");
  for (int i = 0; i < pass->plan->launch_count; i++)
    SPTX_TRY(sptx_cpu_code_find(code, pass->plan->launches[i].symbol, &pass->kernels[i], error));
  pass->scratch_bytes = most_scratch(pass->plan);
  return SPTX_CODE_OK;
}

static void clear_pass(cpu_pass *pass) {
  sptx_x86_plan_free(pass->plan);
  free(pass->kernels);
}

static void destroy(void *attention) {
  cpu_attention *cpu = attention;
  for (int which = 0; which < PASSES; which++)
    clear_pass(&cpu->passes[which]);
  sptx_cpu_code_clear(&cpu->code);
  sptx_pool_clear(&cpu->pool);
  free(cpu->alibi_slopes);
  free(cpu);
}

static sptx_unit unit_of(const sptx_request *request, enum sptx_pass which) {
  const sptx_x86_schedule *schedule = request->schedules[which];
  return (sptx_unit){.problem = &request->problem,
                     .lists = request->lists,
                     .class_of_head = request->class_of_head,
                     .pass = which,
                     .target = sptx_target_of_isa(schedule ? schedule->isa : sptx_x86_host_isa()),
                     .schedule = schedule};
}

/* Plans the wanted passes, then gets the kernels of all of them at once. */
static enum sptx_code prepare_passes(cpu_attention *cpu, const sptx_request *request, sptx_error *error) {
  const bool wanted[PASSES] = {true, request->backward, request->decode};
  sptx_unit units[PASSES];
  enum sptx_code code = SPTX_CODE_OK;
  for (int which = 0; which < PASSES; which++) {
    units[which] = unit_of(request, (enum sptx_pass)which);
    if (wanted[which] && code == SPTX_CODE_OK)
      code = sptx_compile_unit(&units[which], SPTX_STAGE_SCHEDULE, error);
    cpu->passes[which].plan = units[which].x86;
  }
  if (code == SPTX_CODE_OK)
    code = sptx_cpu_code_load(units, PASSES, request->cache, request->threads, &cpu->code, error);
  for (int which = 0; which < PASSES && code == SPTX_CODE_OK; which++)
    if (wanted[which])
      code = find_kernels(&cpu->passes[which], &cpu->code, error);
  return code;
}

/* Waking a thread takes about as long as reading 128 KiB: no more than one for each such part of the keys and
 * values that a query reads in the mean. */
static int worth_waking(const sptx_x86_plan *forward, const sptx_problem *problem) {
  double rows = (double)forward->useful_pairs / (double)(problem->n_q > 0 ? problem->n_q : 1);
  double parts =
      rows * 2 * (double)problem->head_dim * (double)sptx_element_bytes(problem->element) / (1 << 17);
  return parts < 1 ? 1 : parts < INT_MAX ? (int)parts : INT_MAX;
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
  if (code == SPTX_CODE_OK)
    cpu->decode_threads = worth_waking(cpu->passes[SPTX_PASS_FORWARD].plan, problem);
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
  int threads = tensors->threads;
  if (which == SPTX_PASS_DECODE && threads > cpu->decode_threads)
    threads = cpu->decode_threads;
  size_t workspace_bytes = round_to_line(pass->plan->workspace_bytes);
  size_t lse_bytes = tensors->lse ? 0 : round_to_line(cpu->lse_bytes);
  size_t scratch_bytes = round_to_line(pass->scratch_bytes);
  size_t bytes = workspace_bytes + lse_bytes + (size_t)threads * scratch_bytes;
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
  run_launches(pass, &args, buffer + workspace_bytes + lse_bytes, scratch_bytes, threads);
  sptx_pool_return(&cpu->pool, buffer);
  return SPTX_CODE_OK;
}

static void info(void *attention, sptx_attention_info *info) {
  const cpu_attention *cpu = attention;
  info->useful_pairs = cpu->passes[SPTX_PASS_FORWARD].plan->useful_pairs;
  info->computed_pairs = cpu->passes[SPTX_PASS_FORWARD].plan->computed_pairs;
  info->cache_hit = !cpu->code.compiled;
  for (int which = 0; which < PASSES; which++) {
    const cpu_pass *pass = &cpu->passes[which];
    if (pass->plan && pass->plan->workspace_bytes > info->workspace_bytes)
      info->workspace_bytes = pass->plan->workspace_bytes;
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

static enum sptx_code allocate(void *device, size_t bytes, void **memory, sptx_error *error) {
  (void)device;
  *memory = aligned_alloc(LINE, round_to_line(bytes));
  return *memory ? SPTX_CODE_OK
                 : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a tensor of %zu bytes",
                             bytes);
}

static void release(void *device, void *memory) {
  (void)device;
  free(memory);
}

static enum sptx_code copy(void *device, void *to, const void *from, size_t bytes, sptx_error *error) {
  (void)device, (void)error;
  memcpy(to, from, bytes);
  return SPTX_CODE_OK;
}

static enum sptx_code wait(void *device, sptx_error *error) {
  (void)device, (void)error;
  return SPTX_CODE_OK;
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
    .allocate = allocate,
    .release = release,
    .copy_in = copy,
    .copy_out = copy,
    .wait = wait,
};
