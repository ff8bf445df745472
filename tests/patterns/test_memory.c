/* Cleanup, proved by failing the n-th allocation of everything that a pattern goes through, n from 0 until it
 * succeeds. The linker leads the allocations of patterns/ through the functions below (--wrap), and cJSON has
 * hooks; what is allocated must be freed, whatever failed. */
#include "patterns/draw.h"
#include "patterns/explain.h"
#include "patterns/mask.h"
#include "patterns/print.h"
#include "tests/patterns/problem.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *block, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *block, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *block);

static long until_failure = -1; /* allocations that still succeed; -1: all do */
static bool failed;

/* The blocks that were allocated here and not freed. The C library's own (open_memstream, realpath) come to
 * free as well, but are not counted. */
enum { SLOTS = 1 << 16 };
static void *slots[SLOTS];
static long live;

static size_t slot_of(const void *block) {
  size_t slot = (size_t)((uintptr_t)block / 16 * 0x9e3779b97f4a7c15u >> 40) % SLOTS;
  while (slots[slot] && slots[slot] != block)
    slot = (slot + 1) % SLOTS;
  return slot;
}

/* Removal moves later blocks of the same run up, so that they stay found. */
static void forget(const void *block) {
  size_t slot = slot_of(block);
  if (!block || !slots[slot])
    return;
  live--;
  slots[slot] = NULL;
  for (size_t k = (slot + 1) % SLOTS; slots[k]; k = (k + 1) % SLOTS) {
    void *moved = slots[k];
    slots[k] = NULL;
    slots[slot_of(moved)] = moved;
  }
}

static bool refuse(void) {
  if (until_failure < 0)
    return false;
  if (until_failure > 0) {
    until_failure--;
    return false;
  }
  failed = true; /* and every later one fails, too: memory is short */
  return true;
}

static void *counted(void *block) {
  if (!block)
    return NULL;
  live++;
  slots[slot_of(block)] = block;
  return block;
}

void *__wrap_malloc(size_t size) {
  return refuse() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size) {
  return refuse() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *block, size_t size) {
  if (refuse())
    return NULL;
  forget(block);
  return counted(__real_realloc(block, size)); /* a test that truly runs out of memory has failed anyway */
}

char *__wrap_strdup(const char *text) {
  return refuse() ? NULL : counted(__real_strdup(text));
}

void __wrap_free(void *block) {
  forget(block);
  __real_free(block);
}

static const char text_of_all[] =
    "sptx: 1\nname: all-forms\nparams: {size: 8, at: [1, 5]}\ncausal: true\n"
    "heads:\n"
    "- {count: 2, attend: {any: [&w {window: {left: size}}, {stride: {every: 16}},\n"
    "    {columns: {every: 16, at: at}}, {global: {at: [0, 3]}}, {not: *w}]}}\n"
    "- attend: {all_of: [{random: {block: 8, per_row: 2, seed: h}},\n"
    "    {where: \"(i * j) % 7 < 5 || i == j\"}, {grid: {shape: [16, 5, 2], along: "
    "[0, 2]}}]}\n"
    "- attend: {layout: {block: 40, rows: [\"11\", \"10\"]}}\n";

/* What is done with a pattern once it is parsed; NULL ends the list. */
typedef enum sptx_code use_pattern(const sptx_pattern *pattern, FILE *stream, sptx_error *error);

static enum sptx_code explain_json(const sptx_pattern *pattern, FILE *stream, sptx_error *error) {
  const sptx_explain_request request = {.n_q = 75, .n_k = 80, .heads = 5, .json = true};
  return sptx_explain(pattern, &request, stream, error);
}

static enum sptx_code explain_text(const sptx_pattern *pattern, FILE *stream, sptx_error *error) {
  const sptx_explain_request request = {.n_q = 80, .n_k = 80, .heads = 5};
  return sptx_explain(pattern, &request, stream, error);
}

static enum sptx_code print_pattern(const sptx_pattern *pattern, FILE *stream, sptx_error *error) {
  const sptx_selection selection = {80, 80, 5, NULL};
  SPTX_TRY(sptx_print_pattern(pattern, &selection, stream, error));
  return sptx_print_pieces(pattern, &selection, 16, 16, stream, error);
}

static enum sptx_code write_mask(const sptx_pattern *pattern, FILE *stream, sptx_error *error) {
  (void)stream;
  const sptx_selection selection = {20, 40, 5, NULL};
  return sptx_mask_write(pattern, &selection, "test_memory_mask.npy", error);
}

static enum sptx_code draw(const sptx_pattern *pattern, FILE *stream, sptx_error *error) {
  (void)stream;
  const sptx_draw_request request = {.n_q = 80, .n_k = 80, .heads = 2, .query = -1};
  return sptx_draw(pattern, &request, "test_memory_drawing.png", error);
}

static enum sptx_code once(use_pattern *use, FILE *stream, sptx_error *error) {
  sptx_pattern *pattern;
  SPTX_TRY(sptx_pattern_parse(text_of_all, sizeof text_of_all - 1, "p.yaml", NULL, 0, &pattern, error));
  enum sptx_code code = use(pattern, stream, error);
  sptx_pattern_release(pattern);
  return code;
}

/* The file and its temporary forerunners. */
static size_t files_like(const char *file) {
  char pattern[128];
  glob_t found;
  snprintf(pattern, sizeof pattern, "%s*", file);
  size_t count = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
  globfree(&found);
  return count;
}

static void fail_each(use_pattern *use, const char *file) {
  enum { MOST = 100000 };
  cJSON_Hooks hooks = {.malloc_fn = __wrap_malloc, .free_fn = __wrap_free};
  cJSON_InitHooks(&hooks);
  if (file)
    remove(file); /* left by a run that failed */
  FILE *stream = fopen("/dev/null", "w");
  long n = 0;
  for (; n < MOST; n++) {
    sptx_error error = {0};
    long before = live;
    until_failure = n;
    failed = false;
    enum sptx_code code = once(use, stream, &error);
    until_failure = -1;
    cr_assert_eq(live, before, "allocation %ld failed: %ld blocks are lost", n, live - before);
    if (!failed) {
      cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
      break;
    }
    cr_assert_eq(code, SPTX_CODE_OUT_OF_MEMORY, "allocation %ld failed: code %d, %s", n, (int)code,
                 error.message);
    cr_assert(strlen(error.message) > 10, "allocation %ld failed: '%s'", n, error.message);
    if (file)
      cr_assert_eq(files_like(file), 0, "allocation %ld failed: %s or a part of it is there", n, file);
  }
  cr_assert(n > 100 && n < MOST, "%ld allocations", n);
  fclose(stream);
  cJSON_InitHooks(NULL);
  if (file) {
    cr_assert_eq(files_like(file), 1, "%s is not written, or not alone", file);
    remove(file);
  }
}

Test(memory, explain_as_json, .timeout = 60) {
  fail_each(explain_json, NULL);
}

Test(memory, explain_as_text, .timeout = 60) {
  fail_each(explain_text, NULL);
}

Test(memory, print, .timeout = 60) {
  fail_each(print_pattern, NULL);
}

Test(memory, mask, .timeout = 60) {
  fail_each(write_mask, "test_memory_mask.npy");
}

Test(memory, draw, .timeout = 120) {
  fail_each(draw, "test_memory_drawing.png");
}
