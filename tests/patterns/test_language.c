/* The language's meaning: each primitive against its formula in the design, the algebra, heads, steps and
 * their uses, params with overrides, and the shipped library's own promises. */
#include "tests/patterns/problem.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t mod(int64_t a, int64_t b) {
  return (a % b + b) % b;
}

typedef bool formula(int64_t i, int64_t j);

static bool f_all(int64_t i, int64_t j) {
  return i >= 0 && j >= 0;
}
static bool f_window(int64_t i, int64_t j) {
  return -3 <= i - j && i - j < 5;
}
static bool f_window_left(int64_t i, int64_t j) {
  return 0 <= i - j && i - j < 5;
}
static bool f_stride(int64_t i, int64_t j) {
  return mod(i - j, 6) == 0;
}
static bool f_stride_phase(int64_t i, int64_t j) {
  return mod(i - j - 4, 6) == 0;
}
static bool f_stride_negative(int64_t i, int64_t j) {
  return mod(i - j + 7, 6) == 0;
}
static bool f_block(int64_t i, int64_t j) {
  return i / 7 == j / 7;
}
static bool f_columns_last(int64_t i, int64_t j) {
  return i >= 0 && j % 9 >= 7;
}
static bool f_columns_from(int64_t i, int64_t j) {
  return i >= 0 && j % 9 >= 3 && j % 9 < 5;
}
static bool f_columns_at(int64_t i, int64_t j) {
  return i >= 0 && (j % 9 == 0 || j % 9 == 5 || j % 9 == 8);
}
static bool f_dilated(int64_t i, int64_t j) {
  return mod(i - j, 4) == 0 && llabs(i - j) < 3 * 4;
}
static bool f_grid_row(int64_t i, int64_t j) {
  return i / 8 == j / 8;
}
static bool f_grid_column(int64_t i, int64_t j) {
  return i % 8 == j % 8;
}
static bool f_grid_middle(int64_t i, int64_t j) {
  return i / 12 == j / 12 && i % 3 == j % 3;
}
static bool f_grid_outer_inner(int64_t i, int64_t j) {
  return i / 3 % 4 == j / 3 % 4;
}
static bool f_global_query(int64_t i, int64_t j) {
  return j >= 0 && i < 4;
}
static bool f_global_key(int64_t i, int64_t j) {
  return i >= 0 && (j < 2 || j == 30);
}
static bool f_global_both(int64_t i, int64_t j) {
  return i == 9 || i == 31 || j == 9 || j == 31;
}
static bool f_layout(int64_t i, int64_t j) {
  static const char *const rows[] = {"110", "011", "101"};
  return rows[i / 32][j / 32] == '1';
}
static bool f_where(int64_t i, int64_t j) {
  return i % 3 == 0 && j < i / 2;
}
static bool f_any(int64_t i, int64_t j) {
  return f_block(i, j) || f_stride(i, j);
}
static bool f_all_of(int64_t i, int64_t j) {
  return f_block(i, j) && f_stride_phase(i, j);
}
static bool f_not(int64_t i, int64_t j) {
  return !f_any(i, j);
}

static const struct {
  const char *set;
  formula *formula;
} forms[] = {
    {"all", f_all},
    {"{window: {left: 5, right: 3}}", f_window},
    {"{window: {left: 5}}", f_window_left},
    {"{stride: {every: 6}}", f_stride},
    {"{stride: {every: 6, phase: 4}}", f_stride_phase},
    {"{stride: {every: 6, phase: -7}}", f_stride_negative},
    {"{block: {size: 7}}", f_block},
    {"{columns: {every: 9, last: 2}}", f_columns_last},
    {"{columns: {every: 9, from: 3, count: 2}}", f_columns_from},
    {"{columns: {every: 9, at: [8, 0, 5]}}", f_columns_at},
    {"{dilated: {window: 3, dilation: 4}}", f_dilated},
    {"{grid: {shape: [12, 8], along: [1]}}", f_grid_row},
    {"{grid: {shape: [12, 8], along: [0]}}", f_grid_column},
    {"{grid: {shape: [8, 4, 3], along: [1]}}", f_grid_middle},
    {"{grid: {shape: [8, 4, 3], along: [2, 0]}}", f_grid_outer_inner},
    {"{global: {first: 4, as: query}}", f_global_query},
    {"{global: {first: 2, at: [30], as: key}}", f_global_key},
    {"{global: {at: [31, 9]}}", f_global_both},
    {"{layout: {block: 32, rows: [\"110\", \"011\", \"101\"]}}", f_layout},
    {"{where: \"i % 3 == 0 && j < i / 2\"}", f_where},
    {"{any: [{block: {size: 7}}, {stride: {every: 6}}]}", f_any},
    {"{all_of: [{block: {size: 7}}, {stride: {every: 6, phase: 4}}]}", f_all_of},
    {"{not: {any: [{block: {size: 7}}, {stride: {every: 6}}]}}", f_not},
};

static bool contains(const sptx_pattern *pattern, size_t step, int64_t heads, int64_t head, int64_t n_q,
                     int64_t n_k, int64_t i, int64_t j) {
  sptx_instance instance;
  sptx_error error = {0};
  bool result = false;
  cr_assert_eq(sptx_pattern_resolve(pattern, step, heads, n_q, n_k, &instance, &error), SPTX_CODE_OK, "%s",
               error.message);
  cr_assert_eq(sptx_instance_contains(&instance, head, i, j, &result, &error), SPTX_CODE_OK, "%s",
               error.message);
  sptx_instance_clear(&instance);
  return result;
}

/* Queries stand at the end of the keys: the last meets the last. */
Test(language, primitives_are_their_formulas) {
  enum { N = 96 };
  for (size_t k = 0; k < sizeof forms / sizeof *forms; k++)
    for (int causal = 0; causal < 2; causal++)
      for (int64_t n_q = N; n_q > 0; n_q -= 59) {
        char body[256];
        snprintf(body, sizeof body, "causal: %s\nattend: %s\n", causal ? "true" : "false", forms[k].set);
        sptx_pattern *pattern = problem_parse(body);
        sptx_instance instance;
        cr_assert_eq(sptx_pattern_resolve(pattern, 0, 1, n_q, N, &instance, NULL), SPTX_CODE_OK);
        for (int64_t i = 0; i < n_q; i++)
          for (int64_t j = 0; j < N; j++) {
            int64_t position = N - n_q + i;
            bool found, expected = forms[k].formula(position, j) && (!causal || j <= position);
            cr_assert_eq(sptx_instance_contains(&instance, 0, i, j, &found, NULL), SPTX_CODE_OK);
            cr_assert_eq(found, expected, "%s: (%" PRId64 ", %" PRId64 ")", body, position, j);
          }
        sptx_instance_clear(&instance);
        sptx_pattern_release(pattern);
      }
}

/* The same blocks forever: a change of these numbers changes every trained model. */
Test(language, random_is_pinned) {
  static const struct {
    const char *body;
    int64_t n;
    const char *rows[6];
  } pinned[] = {
      {"causal: true\nattend: {random: {block: 1, per_row: 2, seed: 1}}",
       6,
       {"100000", "110000", "101000", "101000", "000110", "000101"}},
      {"attend: {random: {block: 1, per_row: 2, seed: 7}}",
       6,
       {"011000", "101000", "100100", "110000", "101000", "010010"}},
  };
  for (size_t k = 0; k < sizeof pinned / sizeof *pinned; k++) {
    sptx_pattern *pattern = problem_parse(pinned[k].body);
    for (int64_t i = 0; i < pinned[k].n; i++) {
      char row[16] = "";
      for (int64_t j = 0; j < pinned[k].n; j++)
        row[j] = contains(pattern, 0, 1, 0, pinned[k].n, pinned[k].n, i, j) ? '1' : '0';
      cr_assert_str_eq(row, pinned[k].rows[i], "%s, row %" PRId64, pinned[k].body, i);
    }
    sptx_pattern_release(pattern);
  }
}

/* per_row distinct blocks of the right range; a causal choice does not depend on n; listed as it is tested.
 */
Test(language, random_draws_without_replacement) {
  for (uint64_t seed = 0; seed < 40; seed++)
    for (int64_t blocks = 1; blocks < 30; blocks += 4)
      for (int64_t row = 0; row < 5; row++) {
        int64_t per_row = 3, chosen = 0, expected = blocks < per_row ? blocks : per_row;
        for (int64_t block = 0; block < blocks; block++)
          chosen += sptx_random_has_block(seed, per_row, blocks, row, block);
        cr_assert_eq(chosen, expected);
        for (int64_t place = 0; place < expected; place++)
          cr_assert(sptx_random_has_block(seed, per_row, blocks, row,
                                          sptx_random_block_at(seed, blocks, row, place)));
      }
  sptx_pattern *pattern = problem_parse("causal: true\nattend: {random: {block: 4, per_row: 2, seed: 9}}\n");
  for (int64_t i = 0; i < 60; i++)
    for (int64_t j = 0; j <= i; j++)
      cr_assert_eq(contains(pattern, 0, 1, 0, 60, 60, i, j), contains(pattern, 0, 1, 0, 900, 900, i, j));
  sptx_pattern_release(pattern);
}

/* Head h takes the h-th entry, counted with counts; the list starts again; h may stand in numbers. */
Test(language, heads) {
  sptx_pattern *pattern =
      problem_parse("params: {m: 2}\nheads:\n- attend: {window: {left: 1}}\n  count: m\n"
                    "- attend: {window: {left: 2}}\n- attend: {window: {left: h}}\n  count: m\n");
  static const int64_t left[] = {1, 1, 2, 3, 4, 1, 1, 2, 8, 9, 1, 1};
  enum { HEADS = sizeof left / sizeof *left };
  sptx_instance instance;
  cr_assert_eq(sptx_pattern_resolve(pattern, 0, HEADS, 30, 30, &instance, NULL), SPTX_CODE_OK);
  cr_assert_eq(instance.class_count, 6);
  for (int64_t head = 0; head < HEADS; head++)
    for (int64_t back = 0; back < 12; back++) {
      bool found;
      sptx_instance_contains(&instance, head, 20, 20 - back, &found, NULL);
      cr_assert_eq(found, back < left[head], "head %" PRId64, head);
    }
  sptx_instance_clear(&instance);
  sptx_pattern_release(pattern);
}

#define STEPS                                                                                                \
  "steps:\n  near: {window: {left: 3}}\n  far: {stride: {every: 5}}\n  here: {window: {left: 1}}\nuse: "

Test(language, steps_interleave) {
  sptx_pattern *pattern = problem_parse(STEPS "interleave\n");
  cr_assert_eq(sptx_pattern_step_count(pattern), 3);
  cr_assert_str_eq(sptx_pattern_step_name(pattern, 1), "far");
  cr_assert_str_eq(sptx_pattern_step_name(pattern, 3), "");
  cr_assert_eq(sptx_pattern_layer_period(pattern), 3);
  for (int64_t layer = 0; layer < 9; layer++)
    cr_assert_eq(sptx_pattern_layer_step(pattern, layer), (size_t)(layer % 3));
  cr_assert(contains(pattern, 0, 1, 0, 30, 30, 20, 18) && !contains(pattern, 1, 1, 0, 30, 30, 20, 18));
  cr_assert(contains(pattern, 1, 1, 0, 30, 30, 20, 5) && !contains(pattern, 0, 1, 0, 30, 30, 20, 5));
  sptx_pattern_release(pattern);
  pattern = problem_parse(STEPS "{interleave: [far, near, near, far, near]}\n");
  static const size_t order[] = {1, 0, 0, 1, 0};
  cr_assert_eq(sptx_pattern_layer_period(pattern), 5);
  for (int64_t layer = 0; layer < 15; layer++)
    cr_assert_eq(sptx_pattern_layer_step(pattern, layer), order[layer % 5]);
  sptx_pattern_release(pattern);
}

Test(language, steps_merge_and_heads) {
  sptx_pattern *merged = problem_parse(STEPS "merge\n"), *by_head = problem_parse(STEPS "heads\n");
  cr_assert(sptx_pattern_step_count(merged) == 1 && sptx_pattern_step_count(by_head) == 1);
  cr_assert(sptx_pattern_layer_step(merged, 7) == 0 && sptx_pattern_layer_period(by_head) == 1);
  for (int64_t j = 0; j <= 20; j++) {
    bool near = 20 - j < 3, far = (20 - j) % 5 == 0, here = j == 20;
    cr_assert_eq(contains(merged, 0, 2, 1, 30, 30, 20, j), near || far || here);
    for (int64_t head = 0; head < 6; head++)
      cr_assert_eq(contains(by_head, 0, 6, head, 30, 30, 20, j), head % 3 == 0   ? near
                                                                 : head % 3 == 1 ? far
                                                                                 : here);
  }
  sptx_pattern_release(merged);
  sptx_pattern_release(by_head);
}

/* A param may use n and those above it; an override replaces its value, also for those below. */
Test(language, params) {
  const char *text = "sptx: 1\nparams: {a: \"isqrt(n)\", b: 2 * a, shape: [a, \"ceil_div(n, a)\"]}\n"
                     "attend: {all_of: [{window: {left: b}}, {grid: {shape: shape, along: [1]}}]}\n";
  static const sptx_override sets[] = {{"a", "4"}, {"b", "3"}, {"a", "5"}, {"shape", "[6, n / 6 + 1]"}};
  static const int64_t expected[][2] = {
      {12, 6}, {8, 9}, {3, 9}, {3, 8}, {3, 7}}; /* window, length of a row */
  for (size_t count = 0; count <= 4; count++) {
    sptx_pattern *pattern;
    sptx_error error = {0};
    cr_assert_eq(sptx_pattern_parse(text, strlen(text), "p.yaml", sets, count, &pattern, &error),
                 SPTX_CODE_OK, "%s", error.message);
    for (int64_t i = 0; i < 36; i++)
      for (int64_t j = 0; j <= i; j++)
        cr_assert_eq(contains(pattern, 0, 1, 0, 36, 36, i, j),
                     i - j < expected[count][0] && i / expected[count][1] == j / expected[count][1],
                     "%zu overrides: (%" PRId64 ", %" PRId64 ")", count, i, j);
    sptx_pattern_release(pattern);
  }
}

/* The name of the file stands in for one that is not given. */
Test(language, names) {
  const char *text = "sptx: 1\nattend: all\n";
  sptx_pattern *pattern;
  cr_assert_eq(sptx_pattern_parse(text, strlen(text), "a/b/some.pattern.yaml", NULL, 0, &pattern, NULL),
               SPTX_CODE_OK);
  cr_assert_str_eq(sptx_pattern_name(pattern), "some.pattern");
  cr_assert_str_eq(sptx_pattern_about(pattern), "");
  sptx_pattern_release(pattern);
}

Test(language, library_names_its_sources_and_parameters) {
  static const char *const documented[] = {"stride", "columns", "window",  "dilation", "block",
                                           "seed",   "shape",   "globals", "random"};
  for (const char *const *name = problem_library_names; *name; name++) {
    sptx_pattern *pattern = problem_library(*name, NULL, 0);
    const char *about = sptx_pattern_about(pattern);
    cr_assert_str_eq(sptx_pattern_name(pattern), *name);
    cr_assert(strstr(about, " et al. 20"), "%s names no source: %s", *name, about);
    sptx_pattern_release(pattern);
    char relative[128];
    snprintf(relative, sizeof relative, "patterns/library/%s.yaml", *name);
    FILE *file = fopen(problem_path(relative), "r");
    char line[512];
    while (fgets(line, sizeof line, file)) {
      if (strncmp(line, "params: {", 9) != 0)
        continue;
      int depth = 0; /* of brackets: names stand outside them, before a colon */
      for (char *at = line + 9; *at; at++) {
        depth += *at == '[' || *at == '"';
        depth -= *at == ']';
        char *colon = depth == 0 && isalpha((unsigned char)*at) ? strchr(at, ':') : NULL;
        if (!colon)
          continue;
        *colon = 0;
        bool known = false;
        for (size_t k = 0; k < sizeof documented / sizeof *documented; k++)
          known |= strcmp(at, documented[k]) == 0;
        cr_assert(known, "%s: the parameter '%s'", *name, at);
        at = colon + 1 + strcspn(colon + 1, ",}[");
        depth += *at == '[';
      }
    }
    fclose(file);
  }
}

/* Child et al. 2019: the own block, and the last c positions of every block. */
Test(language, fixed_is_the_papers) {
  const sptx_override sets[] = {{"stride", "12"}, {"columns", "3"}};
  sptx_pattern *fixed = problem_library("fixed", sets, 2), *merged = problem_library("fixed-merged", sets, 2);
  sptx_pattern *heads = problem_library("fixed-heads", sets, 2);
  enum { N = 50, HEADS = 9 };
  for (int64_t i = 0; i < N; i++)
    for (int64_t j = 0; j < N; j++) {
      bool earlier = j <= i, block = earlier && i / 12 == j / 12, column = earlier && j % 12 >= 9;
      cr_assert_eq(contains(fixed, 0, 1, 0, N, N, i, j), block);
      cr_assert_eq(contains(fixed, 1, 1, 0, N, N, i, j), column);
      cr_assert_eq(contains(merged, 0, 1, 0, N, N, i, j), block || column);
      for (int64_t head = 0; head < HEADS; head++) { /* a sub-block of its own, counted from the end */
        int64_t from = 12 - 3 * (head % 4 + 1);
        bool own = earlier && j % 12 >= from && j % 12 < from + 3;
        cr_assert_eq(contains(heads, 0, HEADS, head, N, N, i, j), block || own);
      }
    }
  sptx_pattern_release(fixed);
  sptx_pattern_release(merged);
  sptx_pattern_release(heads);
}

Test(language, strided_is_the_papers) {
  const sptx_override stride = {"stride", "7"};
  sptx_pattern *strided = problem_library("strided", &stride, 1),
               *merged = problem_library("strided-merged", &stride, 1);
  for (int64_t i = 0; i < 40; i++)
    for (int64_t j = 0; j < 40; j++) {
      bool row = j <= i && i - j < 7, column = j <= i && (i - j) % 7 == 0;
      cr_assert_eq(contains(strided, 0, 1, 0, 40, 40, i, j), row);
      cr_assert_eq(contains(strided, 1, 1, 0, 40, 40, i, j), column);
      cr_assert_eq(contains(merged, 0, 1, 0, 40, 40, i, j), row || column);
    }
  sptx_pattern_release(strided);
  sptx_pattern_release(merged);
}

Test(language, logsparse_is_powers_of_two) {
  sptx_pattern *pattern = problem_library("logsparse", NULL, 0);
  for (int64_t i = 0; i < 70; i++)
    for (int64_t j = 0; j < 70; j++)
      cr_assert_eq(contains(pattern, 0, 1, 0, 70, 70, i, j),
                   j == i || (j < i && __builtin_popcountll((unsigned long long)(i - j)) == 1));
  sptx_pattern_release(pattern);
}
