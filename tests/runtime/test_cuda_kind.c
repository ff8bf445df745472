/* The device kind "cuda" over the fake driver: from a pattern to launches and back, with the n-th driver call
 * failing, for every n; and what bad input and a bad machine get. */
#include "gen/compile.h"
#include "runtime/cache.h"
#include "runtime/cuda_kind.h"
#include "runtime/in_place.h"
#include "runtime/wisdom.h"
#include "tests/runtime/fake_driver.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char pattern_text[] = "sptx: 1\nname: test\ncausal: true\nattend: {stride: {every: 32}}\n";
static const float slopes[2] = {0.5f, 0.25f};

/* A request that the compiler's front half has made. */
typedef struct prepared {
  sptx_compilation compilation;
  sptx_pattern *pattern;
  sptx_cache cache;
  sptx_request request;
} prepared;

static void prepare(prepared *p, char *cache_directory) {
  sptx_error error = {0};
  *p = (prepared){.cache = {.directory = cache_directory}};
  cr_assert_eq(sptx_pattern_parse(pattern_text, strlen(pattern_text), "test", NULL, 0, &p->pattern, &error),
               SPTX_CODE_OK, "%s", error.message);
  p->compilation = (sptx_compilation){.pattern = p->pattern,
                                      .problem = {.element = SPTX_ELEMENT_BF16,
                                                  .batch = 1,
                                                  .heads = 2,
                                                  .kv_heads = 2,
                                                  .n_q = 512,
                                                  .n_k = 512,
                                                  .head_dim = 64,
                                                  .alibi = true}};
  cr_assert_eq(sptx_compile(&p->compilation, SPTX_STAGE_LOWER, &error), SPTX_CODE_OK, "%s", error.message);
  p->request = (sptx_request){.problem = p->compilation.problem,
                              .scale = 0.125f,
                              .alibi_slopes = slopes,
                              .threads = 1,
                              .lists = p->compilation.lists,
                              .class_count = p->compilation.instance.class_count,
                              .class_of_head = p->compilation.instance.class_of_head,
                              .cache = &p->cache};
}

static void clear(prepared *p) {
  sptx_compilation_clear(&p->compilation);
  sptx_pattern_release(p->pattern);
}

static enum sptx_code forward(void *attention, sptx_error *error) {
  const sptx_tensors tensors = {.q = (void *)4096, .k = (void *)4096, .v = (void *)4096, .o = (void *)4096};
  return sptx_cuda_kind.run(attention, SPTX_PASS_FORWARD, &tensors, error);
}

/* Opens, creates, runs and closes; stops at the first failure and cleans up. */
static enum sptx_code whole_life(const prepared *p, int *cache_hit, sptx_error *error) {
  void *device, *attention;
  SPTX_TRY(sptx_cuda_kind_open(&fake_driver, 0, &device, error));
  enum sptx_code code = sptx_cuda_kind.create(device, &p->request, &attention, error);
  if (code == SPTX_CODE_OK) {
    sptx_attention_info info = {0};
    sptx_cuda_kind.info(attention, &info);
    *cache_hit = info.cache_hit;
    code = forward(attention, error);
    sptx_cuda_kind.destroy(attention);
  }
  sptx_cuda_kind.close(device);
  return code;
}

/* Every driver call of a life fails once; nothing leaks, and the failure is a sentence. A life from the cache
 * goes on by compiling when the cached code does not load. */
static void fail_every_call(const prepared *p, int least) {
  for (int n = 0;; n++) {
    cr_assert_lt(n, 100);
    sptx_error error = {0};
    int hit = 0;
    fake_reset(n);
    enum sptx_code code = whole_life(p, &hit, &error);
    cr_assert_eq(fake.live, 0, "call %d fails: %d objects leak", n, fake.live);
    cr_assert_eq(fake.depth, 0, "call %d fails: the caller's context is changed", n);
    if (fake.calls <= n) {
      cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
      cr_assert_gt(n, least);
      return;
    }
    cr_assert(code == SPTX_CODE_DEVICE_MEMORY || (code == SPTX_CODE_OK && p->cache.directory && !hit),
              "call %d fails and gives %d: %s", n, code, error.message);
    cr_assert(code == SPTX_CODE_OK || strstr(error.message, "cu"), "%s", error.message);
  }
}

Test(cuda_kind, every_call_may_fail, .timeout = 120) {
  prepared p;
  prepare(&p, NULL);
  fail_every_call(&p, 20);
  clear(&p);
}

static char *make_cache(char *directory) {
  cr_assert(mkdtemp(directory));
  return directory;
}

static void remove_cache(const char *directory) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  cr_assert_eq(system(command), 0);
}

Test(cuda_kind, every_call_may_fail_with_the_cache, .timeout = 120) {
  char directory[] = "/tmp/sptx-test-XXXXXX";
  prepared p;
  sptx_error error = {0};
  int hit = 1;
  prepare(&p, make_cache(directory));
  fake_reset(-1);
  cr_assert_eq(whole_life(&p, &hit, &error), SPTX_CODE_OK, "%s", error.message);
  cr_assert_eq(hit, 0);
  size_t assembled = fake.assembled;
  cr_assert_gt(assembled, 0);
  fake_reset(-1);
  cr_assert_eq(whole_life(&p, &hit, &error), SPTX_CODE_OK, "%s", error.message);
  cr_assert_eq(hit, 1);
  cr_assert_eq(fake.assembled, assembled, "the second life loads other code");
  fail_every_call(&p, 15);
  remove_cache(directory);
  clear(&p);
}

/* A kernel that the driver rejects leaves the device usable. */
/* Tunes the forward of a request in place, for so many seconds. */
static enum sptx_code tune(const prepared *p, const char *wisdom, double seconds, bool *found,
                           sptx_error *error) {
  sptx_context context = {.kind = &sptx_cuda_kind, .wisdom_path = (char *)(uintptr_t)wisdom};
  sptx_request request = p->request;
  sptx_recalled recalled;
  SPTX_TRY(sptx_cuda_kind_open(&fake_driver, 0, &context.device, error));
  pthread_mutex_init(&context.lock, NULL);
  enum sptx_code code = sptx_tune_in_place(&context, &request, seconds, &recalled, error);
  cr_expect(!request.schedules[0] || request.schedules[0] == &recalled.schedules[0]);
  *found = code == SPTX_CODE_OK && request.schedules[0];
  pthread_mutex_destroy(&context.lock);
  sptx_cuda_kind.close(context.device);
  return code;
}

static enum sptx_code see_entry(void *user, const sptx_wisdom_entry *entry, sptx_error *error) {
  (void)error;
  ++*(int *)user;
  cr_expect_not_null(strstr(entry->key.device, "fake, compute capability 9.0"), "%s", entry->key.device);
  cr_expect_not_null(strstr(entry->key.shape, "nondeterministic"), "%s", entry->key.shape);
  cr_expect(entry->best_ms > 0 && entry->best_ms <= entry->default_ms);
  return SPTX_CODE_OK;
}

/* Kernels do nothing here, so all candidates agree; what is tested is the search around them. */
Test(cuda_kind, tunes_in_place, .timeout = 120) {
  char directory[] = "/tmp/sptx-test-XXXXXX", path[64];
  prepared p;
  sptx_error error = {0};
  sptx_wisdom *wisdom;
  bool found;
  int entries = 0;
  prepare(&p, NULL);
  snprintf(path, sizeof path, "%s/wisdom.db", make_cache(directory));
  fake_reset(-1);
  cr_assert_eq(tune(&p, path, 2, &found, &error), SPTX_CODE_OK, "%s", error.message);
  cr_expect_eq(fake.live, 0);
  cr_expect_eq(fake.depth, 0);
  cr_expect_gt(fake.launches, 4);
  cr_assert_eq(sptx_wisdom_open(path, SPTX_WISDOM_READ, &wisdom, NULL), SPTX_CODE_OK);
  cr_expect_eq(sptx_wisdom_each(wisdom, see_entry, &entries, NULL), SPTX_CODE_OK);
  cr_expect_eq(entries, 1);
  sptx_wisdom_close(wisdom);
  clear(&p);
  remove_cache(directory);
}

/* Without time only the default is measured, once, and any of its calls may fail. */
Test(cuda_kind, every_call_may_fail_while_it_tunes, .timeout = 120) {
  prepared p;
  prepare(&p, NULL);
  for (int n = 0;; n++) {
    sptx_error error = {0};
    bool found;
    cr_assert_lt(n, 300);
    fake_reset(n);
    fake.wait_us = 15000; /* longer than half of what a measurement takes */
    enum sptx_code code = tune(&p, NULL, 0, &found, &error);
    cr_assert_eq(fake.live, 0, "call %d fails: %d objects leak", n, fake.live);
    cr_assert_eq(fake.depth, 0, "call %d fails: the caller's context is changed", n);
    if (fake.calls <= n) {
      cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
      cr_assert_gt(n, 30);
      break;
    }
    cr_assert_eq(code, SPTX_CODE_DEVICE_MEMORY, "call %d fails and gives %d: %s", n, code, error.message);
  }
  clear(&p);
}

Test(cuda_kind, rejected_kernels) {
  static const struct {
    unsigned result;
    enum sptx_code code;
    const char *sentence;
  } cases[] = {{SPTX_CU_ERROR_INVALID_PTX, SPTX_CODE_COMPILE, "line 7: unknown instruction"},
               {SPTX_CU_ERROR_UNSUPPORTED_PTX_VERSION, SPTX_CODE_UNSUPPORTED, "too old"}};
  prepared p;
  void *device, *attention;
  sptx_error error = {0};
  prepare(&p, NULL);
  fake_reset(-1);
  cr_assert_eq(sptx_cuda_kind_open(&fake_driver, 0, &device, &error), SPTX_CODE_OK);
  for (int i = 0; i < 2; i++) {
    fake.rejection = cases[i].result;
    cr_assert_eq(sptx_cuda_kind.create(device, &p.request, &attention, &error), cases[i].code);
    cr_assert(strstr(error.message, cases[i].sentence), "%s", error.message);
    cr_assert_null(attention);
  }
  fake.rejection = 0;
  cr_assert_eq(sptx_cuda_kind.create(device, &p.request, &attention, &error), SPTX_CODE_OK);
  cr_assert_eq(forward(attention, &error), SPTX_CODE_OK, "%s", error.message);
  fake.memory_type = 0;
  cr_assert_eq(forward(attention, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert(strstr(error.message, "q is not device memory"), "%s", error.message);
  fake.memory_type = SPTX_CU_MEMORYTYPE_DEVICE;
  cr_assert_eq(forward(attention, &error), SPTX_CODE_OK, "%s", error.message);
  sptx_cuda_kind.destroy(attention);
  sptx_cuda_kind.close(device);
  cr_assert_eq(fake.live, 0);
  clear(&p);
}

/* Tensor maps are encoded for tensors that moved, and for no others. */
Test(cuda_kind, tensor_maps_are_kept) {
  prepared p;
  void *device, *attention;
  sptx_error error = {0};
  prepare(&p, NULL);
  p.request.problem.alibi = false; /* which Hopper's kernels, the ones with tensor maps, leave to others */
  p.request.alibi_slopes = NULL;
  fake_reset(-1);
  cr_assert_eq(sptx_cuda_kind_open(&fake_driver, 0, &device, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_cuda_kind.create(device, &p.request, &attention, &error), SPTX_CODE_OK);
  sptx_tensors tensors = {
      .q = (void *)4096, .k = (void *)8192, .v = (void *)12288, .o = (void *)16384, .lse = (void *)20480};
  int encoded[4];
  uint64_t first[4];
  for (int call = 0; call < 4; call++) {
    tensors.q = (void *)(uintptr_t)(call < 2 ? 4096 : 32768 * call);
    cr_assert_eq(sptx_cuda_kind.run(attention, SPTX_PASS_FORWARD, &tensors, &error), SPTX_CODE_OK, "%s",
                 error.message);
    encoded[call] = fake.encoded;
    first[call] = fake.first_map;
  }
  cr_assert_gt(encoded[0], 1);
  cr_expect_eq(encoded[1], encoded[0], "the second call encodes anew");
  cr_expect_gt(encoded[2], encoded[1]);
  cr_expect_lt(encoded[2] - encoded[1], encoded[0], "maps of tensors that stayed are encoded anew");
  cr_expect_eq(first[1], first[0]);
  cr_expect(first[2] == 65536 && first[3] == 98304, "the launch of call 3 starts at %lu", first[3]);
  sptx_cuda_kind.destroy(attention);
  sptx_cuda_kind.close(device);
  cr_assert_eq(fake.live, 0);
  clear(&p);
}

Test(cuda_kind, machines) {
  void *device;
  char text[256];
  sptx_error error = {0};
  fake_reset(-1);
  cr_assert_eq(sptx_cuda_kind_open(&fake_driver, 1, &device, &error), SPTX_CODE_NO_DEVICE);
  cr_assert_str_eq(error.message, "no device cuda:1: this machine has 1 CUDA device");
  fake.major = 7;
  cr_assert_eq(sptx_cuda_kind_open(&fake_driver, 0, &device, &error), SPTX_CODE_UNSUPPORTED);
  cr_assert(strstr(error.message, "needs 8.0 or later"), "%s", error.message);
  fake.major = 10;
  cr_assert_eq(sptx_cuda_kind_open(&fake_driver, 0, &device, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_cuda_device_target(sptx_cuda_kind_device(device)), SPTX_PTX_SM80);
  sptx_cuda_kind.describe(device, 4, text, sizeof text);
  cr_assert_str_eq(text, "fake, compute capability 10.0");
  sptx_cuda_kind.close(device);
  cr_assert_eq(fake.live, 0);
}

Test(cuda_kind, names) {
  static const char *const names[] = {"cuda", "cuda:", "cuda:x", "cuda:0x", "cuda:-1", "cuda:00000", "cuda0"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    sptx_context *context;
    cr_assert_eq(sptx_context_create(&context, names[i]), SPTX_INVALID_ARGUMENT, "%s", names[i]);
    cr_assert(strstr(sptx_last_error(NULL), "is not a device; use cpu or cuda:N"), "%s",
              sptx_last_error(NULL));
  }
}
