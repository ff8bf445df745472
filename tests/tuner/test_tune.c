/* A search in workers: candidates that fault, hang or compute something else are struck out and named, and
 * the others are right; what the search finds is filed where the library looks. */
#include "gen/compile.h"
#include "tuner/trial.h"
#include "tuner/tune.h"
#include "tuner/worker.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char root[64], wisdom[96];

static void make_root(void) {
  strcpy(root, "/tmp/sptx-test-tune-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  snprintf(wisdom, sizeof wisdom, "%s/wisdom.db", root);
}

static void remove_root(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", root);
  cr_expect_eq(system(command), 0);
}

TestSuite(tune, .init = make_root, .fini = remove_root, .timeout = 60);

static sptx_bench_request shape_of(const char *pattern, sptx_dtype type) {
  return (sptx_bench_request){.pattern_path = pattern,
                              .device = "cpu",
                              .batch = 1,
                              .heads = 2,
                              .kv_heads = 2,
                              .n_q = 200,
                              .n_k = 200,
                              .head_dim = 24,
                              .dtype = type,
                              .threads = 2};
}

static sptx_tune_device device_of(const sptx_bench_request *shape) {
  sptx_tune_device device;
  sptx_error error = {0};
  cr_assert_eq(sptx_tune_device_find(shape->device, shape->threads, &device, &error), SPTX_CODE_OK, "%s",
               error.message);
  return device;
}

static void tune(const sptx_bench_request *shape, enum sptx_pass pass, double seconds, double share,
                 sptx_tune_result *result) {
  sptx_tune_device device = device_of(shape);
  const sptx_tune_request request = {.shape = shape,
                                     .device = &device,
                                     .rates = &sptx_x86_rates,
                                     .pass = pass,
                                     .budget_seconds = seconds,
                                     .share = share};
  sptx_error error = {0};
  cr_assert_eq(sptx_tune(&request, result, &error), SPTX_CODE_OK, "%s", error.message);
}

Test(tune, facts_come_from_another_process) {
  sptx_bench_request shape = shape_of(SPTX_PATTERNS "/local.yaml", SPTX_F32);
  sptx_tune_device device = device_of(&shape);
  cr_expect_eq(device.family, SPTX_FAMILY_X86);
  cr_expect_not_null(strstr(device.text, "2 threads"), "%s", device.text);
  sptx_error error = {0};
  cr_expect_eq(sptx_tune_device_find("toaster", 1, &device, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_not_null(strstr(error.message, "toaster"));
}

Test(tune, ceilings_are_measured_once) {
  sptx_bench_request shape = shape_of(SPTX_PATTERNS "/local.yaml", SPTX_F32);
  sptx_tune_device device = device_of(&shape);
  sptx_rates first = {0}, again = {0};
  cr_assert_eq(sptx_tune_device_rates(shape.device, &device, 2, wisdom, &first, NULL), SPTX_CODE_OK);
  cr_expect(first.flops > 1e8 && first.copy > 1e7 && first.exp > 1e7 && first.launch > 0);
  cr_expect_eq(first.threads, 2);
  cr_assert_eq(sptx_tune_device_rates(shape.device, &device, 2, wisdom, &again, NULL), SPTX_CODE_OK);
  cr_expect_eq(memcmp(&first, &again, sizeof first), 0);
}

/* Everything that the space offers computes the same: nothing is struck out. A fresh part of it each time. */
static void check_candidates(const char *pattern, sptx_dtype type, enum sptx_pass pass) {
  sptx_bench_request shape = shape_of(pattern, type);
  sptx_tune_result result;
  tune(&shape, pass, 4, 1, &result);
  cr_expect_gt(result.search.measured, 1);
  for (int k = 0; k < result.search.count; k++) {
    char schedule[SPTX_TUNE_TEXT];
    sptx_tune_schedule_text(&result, k, schedule);
    cr_expect(!result.candidates[k].struck_out, "%s: %s: %s", pattern, schedule, result.candidates[k].reason);
  }
  sptx_tune_result_clear(&result);
}

Test(tune, candidates_are_right) {
  check_candidates(SPTX_PATTERNS "/strided-merged.yaml", SPTX_F32, SPTX_PASS_FORWARD);
  check_candidates(SPTX_PATTERNS "/strided-merged.yaml", SPTX_F32, SPTX_PASS_BACKWARD);
  check_candidates(SPTX_PATTERNS "/bigbird.yaml", SPTX_BF16, SPTX_PASS_FORWARD);
}

/* Trials, except that some candidates misbehave. */
typedef struct planted {
  sptx_trial trial;
  int faulty, hanging;
} planted;

static enum sptx_code measure(void *user, int candidate, double seconds, double *ms, char reason[160],
                              sptx_error *error) {
  planted *p = user;
  if (candidate == p->faulty) {
    signal(SIGSEGV, SIG_DFL); /* not to a sanitizer */
    raise(SIGSEGV);
  }
  while (candidate == p->hanging)
    pause();
  return sptx_trial_measure(&p->trial, candidate, seconds, ms, reason, error);
}

static enum sptx_code in_worker(void *user, int candidate, double seconds, double *ms, char reason[160],
                                sptx_error *error) {
  return sptx_worker_measure(user, candidate, seconds, ms, reason, error);
}

Test(tune, outlives_faults_hangs_and_what_cannot_run) {
  enum { COUNT = 5 };
  sptx_bench_request shape = shape_of(SPTX_PATTERNS "/local.yaml", SPTX_F32);
  const sptx_x86_schedule any = {.isa = SPTX_ISA_AVX2, .query_tile = 16, .key_tile = 32};
  sptx_schedule schedules[COUNT] = {
      {.x86 = {.isa = SPTX_ISA_AVX2}}, {.x86 = any}, {.x86 = any}, {.x86 = any}, {.x86 = any}};
  schedules[2].x86.key_tile = 64;
  schedules[3].x86.query_tile = 17; /* no multiple of a vector: refused */
  planted p = {.trial = {.shape = &shape, .schedules = schedules, .count = COUNT}, .faulty = 1, .hanging = 2};
  sptx_candidate candidates[COUNT];
  sptx_worker *worker;
  memset(candidates, 0, sizeof candidates);
  for (int k = 0; k < COUNT; k++) {
    candidates[k].predicted_ms = 1;
    sptx_schedule_numbers(SPTX_FAMILY_X86, &schedules[k], candidates[k].traits);
  }
  cr_assert_eq(sptx_worker_create(measure, &p, 3, &worker, NULL), SPTX_CODE_OK);
  sptx_search search = {.candidates = candidates,
                        .count = COUNT,
                        .budget_seconds = 30,
                        .share = 1,
                        .measure = in_worker,
                        .user = worker};
  sptx_error error = {0};
  cr_assert_eq(sptx_search_run(&search, &error), SPTX_CODE_OK, "%s", error.message);
  sptx_worker_free(worker);
  cr_expect_eq(search.struck_out, 3);
  cr_expect_not_null(strstr(candidates[1].reason, "signal 11"), "%s", candidates[1].reason);
  cr_expect_not_null(strstr(candidates[2].reason, "did not end"), "%s", candidates[2].reason);
  cr_expect_not_null(strstr(candidates[3].reason, "query_tile 17"), "%s", candidates[3].reason);
  cr_expect(search.best_index == 0 || search.best_index == 4);
  cr_expect_gt(candidates[4].ms, 0);
}

/* A candidate whose result differs is never chosen, however fast: here the tensors change under it. */
static enum sptx_code spoil(void *user, int candidate, double seconds, double *ms, char reason[160],
                            sptx_error *error) {
  planted *p = user;
  if (candidate == p->faulty)
    p->trial.spoil = true;
  enum sptx_code code = sptx_trial_measure(&p->trial, candidate, seconds, ms, reason, error);
  p->trial.spoil = false;
  return code;
}

Test(tune, a_wrong_result_is_struck_out) {
  sptx_bench_request shape = shape_of(SPTX_PATTERNS "/local.yaml", SPTX_F32);
  const sptx_schedule schedules[2] = {{.x86 = {.isa = SPTX_ISA_AVX2}},
                                      {.x86 = {.isa = SPTX_ISA_AVX2, .query_tile = 16, .key_tile = 32}}};
  for (int pass = SPTX_PASS_FORWARD; pass <= SPTX_PASS_BACKWARD; pass++) {
    planted p = {.trial = {.shape = &shape, .pass = (enum sptx_pass)pass, .schedules = schedules, .count = 2},
                 .faulty = 1};
    char reason[160] = "";
    double ms;
    sptx_worker *worker;
    cr_assert_eq(sptx_worker_create(spoil, &p, 20, &worker, NULL), SPTX_CODE_OK);
    cr_assert_eq(sptx_worker_measure(worker, 0, 0.01, &ms, reason, NULL), SPTX_CODE_OK);
    cr_assert_gt(ms, 0);
    cr_assert_eq(sptx_worker_measure(worker, 1, 0.01, &ms, reason, NULL), SPTX_CODE_OK);
    cr_expect_eq(ms, 0);
    cr_expect_not_null(strstr(reason, "differs"), "%s", reason);
    sptx_worker_free(worker);
  }
}

Test(tune, the_library_finds_what_was_filed) {
  sptx_bench_request shape = shape_of(SPTX_PATTERNS "/local.yaml", SPTX_F32);
  sptx_tune_result result;
  sptx_error error = {0};
  tune(&shape, SPTX_PASS_FORWARD, 0, 0.1, &result);
  /* Whatever was measured: a schedule that can be told from the default. */
  result.search.best_index = result.search.count - 1;
  result.search.measured = 2;
  cr_assert_eq(sptx_tune_remember(&result, wisdom, &error), SPTX_CODE_OK, "%s", error.message);
  char cache[96], command[256];
  snprintf(cache, sizeof cache, "%s/cache", root);
  sptx_context *context;
  sptx_pattern *pattern;
  sptx_attention *attention;
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  cr_assert_eq(sptx_context_set_threads(context, 2), SPTX_OK);
  cr_assert_eq(sptx_context_set_cache(context, cache), SPTX_OK);
  cr_assert_eq(sptx_context_set_wisdom(context, wisdom), SPTX_OK);
  cr_assert_eq(sptx_pattern_load(context, shape.pattern_path, NULL, 0, &pattern), SPTX_OK);
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = 0;
  desc.heads = shape.heads, desc.n_q = desc.n_k = 220, desc.head_dim = shape.head_dim; /* of the same class */
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK);
  /* The compiled kernel's name tells its tiles. */
  const sptx_x86_schedule *filed = &result.space.schedules[result.search.best_index].x86;
  snprintf(command, sizeof command, "grep -rqs d24_q%dk%d_r%dx%d %s", filed->query_tile, filed->key_tile,
           filed->register_rows, filed->register_vectors, cache);
  cr_expect_eq(system(command), 0, "%s", command);
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  sptx_tune_result_clear(&result);
}
