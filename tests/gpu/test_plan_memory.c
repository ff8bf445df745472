/* Making a GPU plan frees what it took, whichever allocation fails: the linker leads the allocations of gen/
 * and patterns/ through the functions below (--wrap), and the n-th one fails, n from 0 until the plan is
 * made. */
#include "tests/gpu/portable_case.h"
#include <criterion/criterion.h>
#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
void __wrap_free(void *block);

static long until_failure = -1; /* allocations that still succeed; -1: all do */
static long live;               /* blocks allocated and not freed */

static bool refuse(void) {
  if (until_failure == 0)
    return true; /* and every later one: memory is short */
  until_failure -= until_failure > 0;
  return false;
}

void *__wrap_malloc(size_t size) {
  void *block = refuse() ? NULL : __real_malloc(size);
  live += block != NULL;
  return block;
}

void *__wrap_calloc(size_t count, size_t size) {
  void *block = refuse() ? NULL : __real_calloc(count, size);
  live += block != NULL;
  return block;
}

void *__wrap_realloc(void *block, size_t size) {
  void *moved = refuse() ? NULL : __real_realloc(block, size);
  live += moved != NULL && block == NULL;
  return moved;
}

void __wrap_free(void *block) {
  live -= block != NULL;
  __real_free(block);
}

/* Pieces with predicates, lists of tiles, queries left out, classes that share key heads. */
static const char *const patterns[] = {
    "causal: true\nheads: [{attend: {window: {left: 17}}}, {attend: {any: [{random: {block: 8, per_row: 2, "
    "seed: "
    "9}}, {stride: {every: 7}}]}}, {attend: {global: {at: [3, 9], as: query}}}]\n",
    "attend: {all_of: [{window: {left: 40, right: 30}}, {not: {stride: {every: 3}}}]}\n",
};

static void fail_each(const portable_session *session, enum sptx_pass pass, enum sptx_ptx_target target) {
  enum sptx_code code = SPTX_CODE_OUT_OF_MEMORY;
  long failures = 0;
  for (; code != SPTX_CODE_OK; failures++) {
    sptx_error error = {0};
    sptx_gpu_plan *plan = NULL;
    long before = live;
    until_failure = failures;
    code = portable_plan(session, pass, target, &plan, &error);
    until_failure = -1;
    cr_assert(code == SPTX_CODE_OK || code == SPTX_CODE_OUT_OF_MEMORY, "%s", error.message);
    cr_assert(code == SPTX_CODE_OK || plan == NULL);
    sptx_gpu_plan_free(plan);
    cr_assert_eq(live, before, "pass %d: allocation %ld failed, and %ld blocks leak", pass, failures,
                 live - before);
  }
  cr_expect(failures > 5);
}

Test(plan_memory, freed_whatever_fails) {
  for (size_t i = 0; i < sizeof patterns / sizeof *patterns * 6; i++) {
    portable_case c = {.pattern = patterns[i / 6],
                       .element = SPTX_ELEMENT_BF16,
                       .batch = 1,
                       .heads = 6,
                       .kv_heads = 2,
                       .n_q = 150,
                       .n_k = 150,
                       .head_dim = 64};
    sptx_error error = {0};
    portable_session session;
    cr_assert(portable_open(&session, &c, &error) == SPTX_CODE_OK, "%s", error.message);
    fail_each(&session, (enum sptx_pass)(i % 3), i % 6 < 3 ? SPTX_PTX_SM80 : SPTX_PTX_SM90A);
    portable_close(&session);
  }
}
