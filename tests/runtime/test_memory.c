/* Memory runs out at the n-th allocation of sptx, for every n, over a whole life: context, pattern,
 * attention, forward, backward, decode. Each time the call that needed it says so, and nothing leaks. The
 * program is linked so that the allocations of sptx's own code come here; LLVM cannot go on without memory,
 * and its own do not. */
#include "runtime/sptx.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t length);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t length);
void __wrap_free(void *block);

static atomic_long calls, fail_at = -1, live;

static bool failing(void) {
  return atomic_fetch_add(&calls, 1) == atomic_load(&fail_at);
}

static void *counted(void *block) {
  if (block)
    atomic_fetch_add(&live, 1);
  return block;
}

void *__wrap_malloc(size_t size) {
  return failing() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
  return failing() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *old, size_t size) {
  if (failing())
    return NULL;
  return old ? __real_realloc(old, size) : counted(__real_malloc(size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
  return failing() ? NULL : counted(__real_aligned_alloc(alignment, size));
}

char *__wrap_strdup(const char *text) {
  return failing() ? NULL : counted(__real_strdup(text));
}

char *__wrap_strndup(const char *text, size_t length) {
  return failing() ? NULL : counted(__real_strndup(text, length));
}

void __wrap_free(void *block) {
  if (block)
    atomic_fetch_sub(&live, 1);
  __real_free(block);
}

static char root[64], cache[80];

static void make_root(void) {
  strcpy(root, "/tmp/sptx-memory-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  snprintf(cache, sizeof cache, "%s/cache", root);
  cr_assert_eq(setenv("XDG_CACHE_HOME", root, 1), 0);
}

static void remove_root(void) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", root);
  cr_expect_eq(system(command), 0);
}

TestSuite(memory, .init = make_root, .fini = remove_root, .timeout = 120);

#define PATTERN                                                                                              \
  "sptx: 1\nname: case\nparams: {width: 9}\ncausal: true\n"                                                  \
  "attend: {any: [{window: {left: width}}, {stride: {every: width}}, {global: {first: 1, as: key}}]}\n"

enum { N = 20, DIM = 16, HEADS = 2 };

/* One life. The status of the first call that failed; message is its sentence. */
static sptx_status live_once(sptx_status (*make)(sptx_context *, sptx_pattern **), char message[1024]) {
  static float t[8][HEADS * N * DIM], lse[HEADS * N];
  static const float slopes[HEADS] = {0.5f, 0.25f};
  sptx_context *context = NULL;
  sptx_pattern *pattern = NULL;
  sptx_attention *attention = NULL;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = SPTX_WITH_BACKWARD | SPTX_WITH_DECODE;
  desc.heads = HEADS;
  desc.n_q = desc.n_k = N;
  desc.head_dim = DIM;
  desc.alibi_slopes = slopes;
  sptx_status status = sptx_context_create(&context, "cpu");
  if (status == SPTX_OK)
    status = sptx_context_set_threads(context, 1);
  if (status == SPTX_OK)
    status = sptx_context_set_cache(context, cache);
  if (status == SPTX_OK)
    status = make(context, &pattern);
  if (status == SPTX_OK)
    status = sptx_attention_create(context, pattern, &desc, &attention);
  if (status == SPTX_OK)
    status = sptx_attention_forward(attention, t[0], t[1], t[2], t[3], lse, NULL);
  if (status == SPTX_OK)
    status = sptx_attention_backward(attention, t[0], t[1], t[2], t[3], lse, t[4], t[5], t[6], t[7], NULL);
  if (status == SPTX_OK)
    status = sptx_attention_decode(attention, N - 1, t[0], t[1], t[2], t[3], NULL, NULL);
  snprintf(message, 1024, "%s", sptx_last_error(context));
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  return status;
}

static sptx_status from_text(sptx_context *context, sptx_pattern **pattern) {
  static const sptx_param width = {"width", "n / 4"};
  return sptx_pattern_from_text(context, PATTERN, strlen(PATTERN), "case", &width, 1, pattern);
}

static sptx_status from_file(sptx_context *context, sptx_pattern **pattern) {
  char path[80];
  snprintf(path, sizeof path, "%s/p.yaml", root);
  return sptx_pattern_load(context, path, NULL, 0, pattern);
}

static void fail_each(sptx_status (*make)(sptx_context *, sptx_pattern **)) {
  char message[1024];
  int failures = 0, absorbed = 0;
  long before = atomic_load(&live);
  cr_assert_eq(live_once(make, message), SPTX_OK, "%s", message); /* fills the cache */
  cr_assert_eq(atomic_load(&live), before, "a life without failures leaks");
  for (long n = 0;; n++) {
    atomic_store(&calls, 0);
    atomic_store(&fail_at, n);
    sptx_status status = live_once(make, message);
    bool reached = atomic_load(&calls) > n;
    atomic_store(&fail_at, -1);
    cr_assert_eq(atomic_load(&live), before, "allocation %ld fails: %ld blocks leak (%s)", n,
                 atomic_load(&live) - before, message);
    if (!reached) {
      cr_expect_eq(status, SPTX_OK);
      break;
    }
    cr_expect(status == SPTX_OK || status == SPTX_OUT_OF_MEMORY, "allocation %ld fails: %s, '%s'", n,
              sptx_status_name(status), message);
    cr_expect(status == SPTX_OK || strstr(message, "memory"), "allocation %ld fails: '%s'", n, message);
    *(status == SPTX_OK ? &absorbed : &failures) += 1;
  }
  /* Those that are absorbed are the caches': without memory for them, work is done again. */
  cr_expect(failures > 20, "only %d allocations failed a call", failures);
  cr_log_info("%d allocations fail a call, %d only cost time", failures, absorbed);
}

Test(memory, each_allocation_of_a_life_from_text_fails) {
  fail_each(from_text);
}

Test(memory, each_allocation_of_a_life_from_a_file_fails) {
  char path[80];
  snprintf(path, sizeof path, "%s/p.yaml", root);
  FILE *file = fopen(path, "w");
  fputs(PATTERN, file);
  fclose(file);
  fail_each(from_file);
}
