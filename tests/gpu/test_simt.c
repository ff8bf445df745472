/* The interpreter that the portable kernels are tested with (tests/support/simt.h) finds what it says it
 * finds: small kernels with one fault each, beside the same kernel without it. */
#include "gen/ptx/emitter.h"
#include "tests/support/simt.h"
#include <criterion/criterion.h>
#include <string.h>

enum { THREADS = 64 };

/* What a kernel leaves out. Each thread hands its index to a thread of the other warp. */
enum fault { NONE, NO_BARRIER, DIVERGENT_BARRIER, OUTSIDE, NO_WAIT };

static sptx_value place_of(sptx_gpu_emitter *e, sptx_value thread) {
  return sptx_add(e, sptx_shared_base(e), sptx_muli(e, thread, 4));
}

static enum sptx_code emit_exchange(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                    sptx_error *error) {
  (void)error;
  enum fault fault = *(const enum fault *)spec;
  sptx_kernel_begin(e, symbol, 8, 0, THREADS, 0);
  sptx_value thread = sptx_thread_index(e), partner = LLVMBuildXor(e->builder, thread, sptx_i32(e, 32), "");
  sptx_value at = sptx_addi(e, place_of(e, thread), fault == OUTSIDE ? 4 : 0);
  sptx_value store[2] = {at, thread};
  sptx_asm(e, e->void_type, "st.shared.b32 [$0], $1;", "r,r,~{memory}", store, 2, false);
  sptx_if first;
  if (fault == DIVERGENT_BARRIER)
    first = sptx_if_begin(e, sptx_icmp(e, LLVMIntULT, thread, sptx_i32(e, 32)));
  if (fault != NO_BARRIER)
    sptx_barrier(e);
  if (fault == DIVERGENT_BARRIER)
    sptx_if_end(e, &first);
  sptx_value from = place_of(e, partner);
  sptx_value got = sptx_asm(e, e->f32, "ld.shared.f32 $0, [$1];", "=f,r,~{memory}", &from, 1, false);
  sptx_value to = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, o)),
                           sptx_zext64(e, sptx_muli(e, thread, 4)));
  sptx_store_global(e, got, to, 4);
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}

/* Copies a word of q to o through shared memory. */
static enum sptx_code emit_copy(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                sptx_error *error) {
  (void)error;
  enum fault fault = *(const enum fault *)spec;
  sptx_kernel_begin(e, symbol, 8, 0, THREADS, 0);
  sptx_value thread = sptx_thread_index(e), at = place_of(e, thread);
  sptx_value offset = sptx_zext64(e, sptx_muli(e, thread, 4));
  sptx_value from = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, q)), offset);
  sptx_value copy[3] = {at, from, sptx_i32(e, 4)};
  sptx_asm(e, e->void_type, "cp.async.ca.shared.global [$0], [$1], 4, $2;", "r,l,r,~{memory}", copy, 3,
           false);
  if (fault != NO_WAIT)
    sptx_asm(e, e->void_type, "cp.async.wait_group 0;", "~{memory}", NULL, 0, false);
  sptx_value got = sptx_asm(e, e->f32, "ld.shared.f32 $0, [$1];", "=f,r,~{memory}", &at, 1, false);
  sptx_value to = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, o)), offset);
  sptx_store_global(e, got, to, 4);
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}

static enum sptx_code run(enum sptx_code (*emit)(struct sptx_gpu_emitter *, const char *, const void *,
                                                 sptx_error *),
                          enum fault fault, uint32_t out[THREADS], sptx_error *error) {
  static uint32_t in[THREADS];
  uint64_t params = 0;
  for (uint32_t i = 0; i < THREADS; i++)
    in[i] = 1000 + i;
  sptx_gpu_kernel kernel = {.symbol = "exchange", .emit = emit, .spec = &fault, .spec_bytes = sizeof fault};
  sptx_gpu_launch launch = {.grid = {1, 1, 1},
                            .block = THREADS,
                            .shared_bytes = THREADS * 4,
                            .params = &params,
                            .params_bytes = sizeof params};
  sptx_gpu_plan plan = {
      .kernels = &kernel, .kernel_count = 1, .launches = &launch, .launch_count = 1, .constants = &params};
  sptx_gpu_args args = {.q = (uintptr_t)in, .o = (uintptr_t)out};
  memset(out, 0, THREADS * sizeof *out);
  return simt_run(&plan, &args, error);
}

static void expect_failure(enum fault fault, const char *text) {
  uint32_t out[THREADS];
  sptx_error error = {0};
  cr_expect(run(emit_exchange, fault, out, &error) != SPTX_CODE_OK);
  cr_expect(strstr(error.message, text) != NULL, "%s", error.message);
}

Test(simt, exchange) {
  uint32_t out[THREADS];
  sptx_error error = {0};
  cr_assert(run(emit_exchange, NONE, out, &error) == SPTX_CODE_OK, "%s", error.message);
  for (uint32_t i = 0; i < THREADS; i++)
    cr_expect_eq(out[i], i ^ 32);
}

Test(simt, finds_faults) {
  expect_failure(NO_BARRIER, "race");
  expect_failure(DIVERGENT_BARRIER, "a barrier that not all threads reach");
  expect_failure(OUTSIDE, "outside");
}

/* A copy that nobody waits for has not arrived, and the kernel must not end with it. */
Test(simt, copies_arrive_late) {
  uint32_t out[THREADS];
  sptx_error error = {0};
  cr_assert(run(emit_copy, NONE, out, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_expect_eq(out[5], 1005);
  cr_expect(run(emit_copy, NO_WAIT, out, &error) != SPTX_CODE_OK);
  cr_expect_eq(out[5], UINT32_MAX);
  cr_expect(strstr(error.message, "copies under way") != NULL, "%s", error.message);
}
