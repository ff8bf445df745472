/* Every mistake in a pattern file has its place and its sentence: the files of tests/patterns/errors against
 * golden/errors.txt. Overrides, shapes and bombs that must be refused within bounds. */
#include "tests/patterns/golden.h"
#include "tests/patterns/problem.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Parses and resolves for n = 64 and 4 heads; the first failure's code. */
static enum sptx_code try_text(const char *text, size_t size, const char *file, sptx_error *error) {
  sptx_pattern *pattern;
  enum sptx_code code = sptx_pattern_parse(text, size, file, NULL, 0, &pattern, error);
  for (size_t step = 0; code == SPTX_CODE_OK && step < sptx_pattern_step_count(pattern); step++) {
    sptx_instance instance;
    code = sptx_pattern_resolve(pattern, step, 4, 64, 64, &instance, error);
    sptx_instance_clear(&instance);
  }
  sptx_pattern_release(pattern);
  return code;
}

static int is_yaml(const struct dirent *entry) {
  const char *dot = strrchr(entry->d_name, '.');
  return dot && strcmp(dot, ".yaml") == 0;
}

Test(errors, every_mistake_has_place_and_sentence) {
  struct dirent **entries;
  int count = scandir(problem_path("tests/patterns/errors"), &entries, is_yaml, alphasort);
  cr_assert_gt(count, 90);
  char *text;
  size_t size, file_size;
  FILE *out = open_memstream(&text, &size);
  for (int k = 0; k < count; k++) {
    char relative[512];
    snprintf(relative, sizeof relative, "tests/patterns/errors/%s", entries[k]->d_name);
    char *content = golden_read(problem_path(relative), &file_size);
    sptx_error error = {0};
    enum sptx_code code = try_text(content, file_size, entries[k]->d_name, &error);
    cr_assert_neq(code, SPTX_CODE_OK, "%s is accepted", entries[k]->d_name);
    cr_assert_eq(code, error.code, "%s", entries[k]->d_name);
    cr_assert_eq(strncmp(error.message, entries[k]->d_name, strlen(entries[k]->d_name)), 0, "%s",
                 error.message);
    fprintf(out, "%d %s\n", (int)code, error.message);
    free(content);
    free(entries[k]);
  }
  free(entries);
  fclose(out);
  golden_check("errors.txt", text);
  free(text);
}

static void check_override(const char *name, const char *value, const char *expected) {
  const sptx_override override = {name, value};
  const char *text = "sptx: 1\nparams: {stride: 4, width: 2 * stride, shape: [8, 8]}\n"
                     "attend: {all_of: [{window: {left: width}}, {grid: {shape: shape, along: [0]}}]}\n";
  sptx_pattern *pattern;
  sptx_error error = {0};
  enum sptx_code code = sptx_pattern_parse(text, strlen(text), "p.yaml", &override, 1, &pattern, &error);
  sptx_instance instance;
  if (code == SPTX_CODE_OK)
    code = sptx_pattern_resolve(pattern, 0, 1, 64, 64, &instance, &error);
  cr_assert_neq(code, SPTX_CODE_OK, "%s=%s is accepted", name, value);
  cr_assert_str_eq(error.message, expected);
  sptx_pattern_release(pattern);
}

Test(errors, overrides) {
  check_override("strid", "4",
                 "--set:1:1: unknown parameter 'strid'; did you mean 'stride'? (known: stride, width, "
                 "shape)");
  check_override("stride", "4 +",
                 "--set stride:1:4: expected a number, a name, '(' or a unary operator, found the "
                 "end of the expression");
  check_override("stride", "width",
                 "--set stride:1:1: unknown name 'width'; known here are n and the functions min, "
                 "max, abs, isqrt, ceil_div, ilog2");
  check_override("stride", "", "--set stride:1:1: expected a pattern, found an empty file");
  check_override("stride", "[1, 2]",
                 "--set stride:1:1: the parameter 'stride' expects an integer or an expression, "
                 "found a list");
  check_override("shape", "64",
                 "--set shape:1:1: the parameter 'shape' expects a list of integers, found a scalar");
  check_override("stride", "0 - 1", "p.yaml:3:35: `left` expects 0 to 1099511627776, found -2 for n = 64");
  check_override("stride", "n / 0", "--set stride:1:3: division by zero: 64 / 0");
}

Test(errors, shapes) {
  sptx_pattern *pattern = problem_parse("attend: all\n");
  static const int64_t bad[][3] = {{0, 4, 4},
                                   {-1, 4, 4},
                                   {1, 0, 4},
                                   {1, 4, 0},
                                   {1, 5, 4},
                                   {1, -4, 4},
                                   {1, 1, ((int64_t)1 << 40) + 1},
                                   {1, 1, INT64_MAX},
                                   {1 << 17, 4, 4}};
  for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
    sptx_instance instance;
    sptx_error error = {0};
    cr_assert_eq(sptx_pattern_resolve(pattern, 0, bad[k][0], bad[k][1], bad[k][2], &instance, &error),
                 SPTX_CODE_INVALID_ARGUMENT);
    cr_assert(*error.message && !instance.classes);
  }
  sptx_instance instance;
  cr_assert_eq(sptx_pattern_resolve(pattern, 1, 1, 4, 4, &instance, NULL), SPTX_CODE_INVALID_ARGUMENT);
  sptx_pattern_release(pattern);
}

static long resident_kib(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

/* Refused with SPTX_CODE_PATTERN_LIMIT, in memory that does not follow what the text promises. */
static void check_bomb(const char *text, size_t size, const char *what) {
  enum { MOST_KIB = 96 * 1024 };
  long before = resident_kib();
  sptx_error error = {0};
  cr_assert_eq(try_text(text, size, "bomb.yaml", &error), SPTX_CODE_PATTERN_LIMIT, "%s: %s", what,
               error.message);
  cr_assert_lt(resident_kib() - before, MOST_KIB, "%s", what);
}

static char *repeated(const char *start, const char *unit, size_t count, const char *end, size_t *size) {
  char *text;
  FILE *out = open_memstream(&text, size);
  fputs(start, out);
  for (size_t k = 0; k < count; k++)
    fputs(unit, out);
  fputs(end, out);
  fclose(out);
  return text;
}

Test(errors, bombs, .timeout = 20) {
  static const struct {
    const char *what, *start, *unit;
    size_t count;
  } bombs[] = {
      {"deep lists", "sptx: 1\nattend: ", "[", 100000},
      {"deep sets", "sptx: 1\nattend: ", "{not: ", 100000},
      {"a scalar of 100 MB", "sptx: 1\nabout: ", "0123456789", 10000000},
      {"many nodes", "sptx: 1\nattend: {any: [", "a,", 400000},
      {"deep expression", "sptx: 1\nattend: {where: \"", "(", 3000},
      {"long expression", "sptx: 1\nattend: {where: \"i", " + i", 3000},
      {"unary operators", "sptx: 1\nattend: {where: \"", "-", 3000},
  };
  for (size_t k = 0; k < sizeof bombs / sizeof *bombs; k++) {
    size_t size;
    const char *end = strchr(bombs[k].start, '"') ? "i\"}\n" : "";
    char *text = repeated(bombs[k].start, bombs[k].unit, bombs[k].count, end, &size);
    check_bomb(text, size, bombs[k].what);
    free(text);
  }
}

Test(errors, bombs_of_keys_and_anchors) {
  char *text;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  fputs("sptx: 1\nparams:\n", out);
  for (int k = 0; k < 20000; k++)
    fprintf(out, "  a%d: 1\n", k);
  fclose(out);
  check_bomb(text, size, "many keys");
  free(text);
  out = open_memstream(&text, &size);
  fputs("sptx: 1\nattend: {any: [", out);
  for (int k = 0; k < 20000; k++)
    fprintf(out, "&a%d all, ", k);
  fputs("all]}\n", out);
  fclose(out);
  check_bomb(text, size, "many anchors");
  free(text);
}

/* Nine lists of nine aliases each: 9^9 nodes when written out. */
Test(errors, bomb_of_aliases) {
  char *text;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  fputs("sptx: 1\nattend:\n  any:\n  - &a0 {any: [all, all, all, all, all, all, all, all, all]}\n", out);
  for (int k = 1; k < 9; k++) {
    fprintf(out, "  - &a%d {any: [", k);
    for (int item = 0; item < 9; item++)
      fprintf(out, "%s*a%d", item ? ", " : "", k - 1);
    fputs("]}\n", out);
  }
  fclose(out);
  check_bomb(text, size, "aliases of aliases");
  free(text);
}

/* A file of 100 MB is not read to its end. */
Test(errors, large_file) {
  char path[] = "/tmp/sptx-large-XXXXXX";
  int descriptor = mkstemp(path);
  FILE *file = fdopen(descriptor, "wb");
  cr_assert(file && fseek(file, 100 << 20, SEEK_SET) == 0 && fputc('x', file) == 'x' && fclose(file) == 0);
  long before = resident_kib();
  sptx_pattern *pattern;
  sptx_error error = {0};
  cr_assert_eq(sptx_pattern_read(path, NULL, 0, &pattern, &error), SPTX_CODE_PATTERN_LIMIT, "%s",
               error.message);
  cr_assert_lt(resident_kib() - before, 32 * 1024);
  remove(path);
  cr_assert_eq(sptx_pattern_read(path, NULL, 0, &pattern, &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_pattern_read("/tmp", NULL, 0, &pattern, &error), SPTX_CODE_IO, "%s", error.message);
}

/* One pattern may list only so much, over all of its heads. */
Test(errors, bomb_of_lists) {
  const char *text =
      "sptx: 1\nheads:\n  - {attend: {columns: {every: 1 << 30, from: h, count: 1 << 20}}, count: 1}\n";
  sptx_pattern *pattern;
  sptx_error error = {0};
  sptx_instance instance;
  long before = resident_kib();
  cr_assert_eq(sptx_pattern_parse(text, strlen(text), "p.yaml", NULL, 0, &pattern, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_pattern_resolve(pattern, 0, 65536, 64, 64, &instance, &error), SPTX_CODE_PATTERN_LIMIT,
               "%s", error.message);
  cr_assert_lt(resident_kib() - before, 1200 * 1024);
  sptx_pattern_release(pattern);
}
