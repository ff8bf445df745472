/* Pieces against the oracle: every shipped pattern, random set expressions, and forms that are easy to get
 * wrong. */
#include "patterns/clause.h"
#include "tests/patterns/problem.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const sptx_override small[] = {{"stride", "6"},   {"columns", "2"}, {"window", "9"},
                                      {"dilation", "3"}, {"block", "8"},   {"globals", "3"},
                                      {"random", "2"},   {"seed", "5"},    {"shape", "[7, 9, 5]"}};

/* The overrides that the pattern has. */
static sptx_pattern *read_small(const char *name) {
  sptx_override chosen[sizeof small / sizeof *small];
  size_t count = 0;
  sptx_pattern *pattern = problem_library(name, NULL, 0);
  sptx_pattern_release(pattern);
  for (size_t k = 0; k < sizeof small / sizeof *small; k++) {
    char relative[128];
    sptx_error error;
    sptx_override one = small[k];
    if (strcmp(name, "axial-2d") == 0 && strcmp(one.name, "shape") == 0)
      one.value = "[20, 15]";
    if (strcmp(name, "block-layout") == 0) /* its matrix has 32 blocks */
      one.value = "11";
    snprintf(relative, sizeof relative, "patterns/library/%s.yaml", name);
    if (sptx_pattern_read(problem_path(relative), &one, 1, &pattern, &error) == SPTX_CODE_OK) {
      sptx_pattern_release(pattern);
      chosen[count++] = one;
    }
  }
  return problem_library(name, chosen, count);
}

Test(lowering, library_small_parameters, .timeout = 120) {
  static const int64_t sizes[][2] = {{1, 1},     {2, 2},     {5, 5},  {31, 31},  {97, 97},
                                     {128, 128}, {211, 211}, {1, 97}, {13, 120}, {64, 300}};
  for (const char *const *name = problem_library_names; *name; name++) {
    sptx_pattern *pattern = read_small(*name);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
      char where[128];
      snprintf(where, sizeof where, "%s, n_q %" PRId64 ", n_k %" PRId64, *name, sizes[k][0], sizes[k][1]);
      problem_check(pattern, 5, sizes[k][0], sizes[k][1], where);
    }
    sptx_pattern_release(pattern);
  }
}

Test(lowering, library_as_shipped, .timeout = 120) {
  static const int64_t sizes[][2] = {{300, 300}, {293, 293}, {191, 300}};
  for (const char *const *name = problem_library_names; *name; name++) {
    sptx_pattern *pattern = problem_library(*name, NULL, 0);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
      problem_check(pattern, 2, sizes[k][0], sizes[k][1], *name);
    sptx_pattern_release(pattern);
  }
}

Test(lowering, random_sets, .timeout = 300) {
  enum { SETS = 400 };
  problem_random random = problem_random_make("lowering/random_sets");
  for (int k = 0; k < SETS; k++) {
    static const int64_t primes[] = {1, 2, 3, 7, 61, 127, 131, 257, 293};
    int64_t n_k = k % 3 == 0   ? primes[problem_random_below(&random, 9)]
                  : k % 3 == 1 ? 1 + problem_random_below(&random, 300)
                               : 1 + problem_random_below(&random, 80);
    int64_t n_q = problem_random_below(&random, 3) ? n_k : 1 + problem_random_below(&random, n_k);
    char *text = problem_random_pattern(&random, n_k), *where;
    cr_assert(asprintf(&where, "seed %" PRIu64 ", set %d, n_q %" PRId64 ", n_k %" PRId64 "\n%s", random.seed,
                       k, n_q, n_k, text) > 0);
    sptx_pattern *pattern;
    sptx_error error = {0};
    cr_assert_eq(sptx_pattern_parse(text, strlen(text), "random.yaml", NULL, 0, &pattern, &error),
                 SPTX_CODE_OK, "%s: %s", where, error.message);
    problem_check(pattern, 1, n_q, n_k, where);
    sptx_pattern_release(pattern);
    free(text);
    free(where);
  }
}

Test(lowering, forms_that_are_easy_to_get_wrong, .timeout = 60) {
  static const char *const bodies[] = {
      "attend: {stride: {every: 7, phase: 3}}",
      "causal: true\nattend: {stride: {every: 7, phase: -3}}",
      "attend: {any: [{window: {left: 9}}, {stride: {every: 7, phase: 2}}]}",
      "attend: {not: {any: [{window: {left: 9}}, {stride: {every: 7}}]}}",
      "causal: true\nattend: {any: [{block: {size: 12}}, {columns: {every: 12, at: [0, 5, 11]}}]}",
      "causal: true\nattend: {any: [{block: {size: 10}}, {columns: {every: 6, last: 2}}]}",
      "attend: {all_of: [{global: {first: 20, as: query}}, {stride: {every: 5}}]}",
      "attend: {any: [{global: {at: [3, 70, 71], as: both}}, {block: {size: 16}}]}",
      "attend: {all_of: [{block: {size: 24}}, {stride: {every: 4}}, {not: {window: {left: 5, right: 4}}}]}",
      "attend: {grid: {shape: [4, 5, 6, 7], along: [1, 3]}}",
      "causal: true\nattend: {grid: {shape: [30, 5, 2], along: [0, 2]}}",
      "attend: {dilated: {window: 1, dilation: 9}}",
      "attend: {window: {left: 0}}",
      "attend: {any: [{window: {left: 0}}, {global: {first: 0}}]}",
      "attend: {where: \"i < j\"}\ncausal: true",
      "attend: {where: \"i - j >= 64 && (i - j) % 64 == 0 || i == j\"}",
      "attend: {random: {block: 7, per_row: 0, seed: 1}}",
  };
  for (size_t k = 0; k < sizeof bodies / sizeof *bodies; k++) {
    sptx_pattern *pattern = problem_parse(bodies[k]);
    static const int64_t sizes[][2] = {{1, 1}, {100, 100}, {64, 64}, {65, 65}, {30, 129}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
      problem_check(pattern, 1, sizes[s][0], sizes[s][1], bodies[k]);
    sptx_pattern_release(pattern);
  }
}

/* Lowers step by step; *pieces and *tiles sum over classes and steps. */
static void lower_all(const sptx_pattern *pattern, int64_t heads, int64_t n, int *pieces, int64_t *tiles) {
  *pieces = 0;
  *tiles = 0;
  for (size_t step = 0; step < sptx_pattern_step_count(pattern); step++) {
    sptx_instance instance;
    sptx_error error = {0};
    cr_assert_eq(sptx_pattern_resolve(pattern, step, heads, n, n, &instance, &error), SPTX_CODE_OK, "%s",
                 error.message);
    for (int k = 0; k < instance.class_count; k++) {
      sptx_piece_list list;
      cr_assert_eq(sptx_lower(&instance, k, &list, &error), SPTX_CODE_OK, "%s", error.message);
      *pieces += list.count;
      for (int p = 0; p < list.count; p++)
        *tiles += list.pieces[p].kind == SPTX_PIECE_TILES;
      sptx_piece_list_clear(&list);
    }
    sptx_instance_clear(&instance);
  }
}

/* The same pieces, so the same memory, whatever n is. */
Test(lowering, closed_forms_stay_constant) {
  static const char *const closed[] = {"block-local",  "dense", "dilated",    "fixed",   "fixed-heads",
                                       "fixed-merged", "local", "longformer", "strided", "strided-merged"};
  for (size_t k = 0; k < sizeof closed / sizeof *closed; k++) {
    sptx_pattern *pattern = problem_library(closed[k], NULL, 0);
    int pieces[2];
    int64_t tiles;
    lower_all(pattern, 8, 4096, &pieces[0], &tiles);
    cr_assert_eq(tiles, 0, "%s has a generic piece", closed[k]);
    lower_all(pattern, 8, 1 << 20, &pieces[1], &tiles);
    cr_assert_eq(tiles, 0, "%s has a generic piece", closed[k]);
    cr_assert_eq(pieces[0], pieces[1], "%s: %d pieces, then %d", closed[k], pieces[0], pieces[1]);
    cr_assert_leq(pieces[0], 16, "%s: %d pieces", closed[k], pieces[0]);
    sptx_pattern_release(pattern);
  }
}

Test(lowering, axial_shapes_follow_n) {
  const sptx_override shape = {"shape", "[1024, 1024]"};
  sptx_pattern *pattern = problem_library("axial-2d", &shape, 1);
  int pieces;
  int64_t tiles;
  lower_all(pattern, 8, 1 << 20, &pieces, &tiles);
  cr_assert_eq(tiles, 0);
  cr_assert_eq(pieces, 2);
  sptx_pattern_release(pattern);
}

/* A `where` that says what a primitive says becomes the same pieces. */
Test(lowering, where_is_recognised) {
  static const char *const pairs[][2] = {
      {"{stride: {every: 128}}", "{where: \"(i - j) % 128 == 0\"}"},
      {"{stride: {every: 128}}", "{where: \"i % 128 == j % 128\"}"},
      {"{window: {left: 32}}", "{where: \"i - j < 32 && i >= j\"}"},
      {"{block: {size: 64}}", "{where: \"i / 64 == j / 64\"}"},
      {"{columns: {every: 64, last: 8}}", "{where: \"j % 64 >= 56\"}"},
      {"{global: {first: 16, as: key}}", "{where: \"j < 16\"}"},
      {"{dilated: {window: 8, dilation: 4}}", "{where: \"abs(i - j) < 32 && (i - j) % 4 == 0\"}"},
  };
  for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
    int64_t found[2][3] = {{0}};
    for (int form = 0; form < 2; form++) {
      char body[256];
      snprintf(body, sizeof body, "causal: true\nattend: %s", pairs[k][form]);
      sptx_pattern *pattern = problem_parse(body);
      sptx_instance instance;
      sptx_piece_list list;
      cr_assert_eq(sptx_pattern_resolve(pattern, 0, 1, 1000, 1000, &instance, NULL), SPTX_CODE_OK);
      cr_assert_eq(sptx_lower(&instance, 0, &list, NULL), SPTX_CODE_OK);
      found[form][0] = list.count;
      for (int p = 0; p < list.count; p++) {
        sptx_tile_counts counts;
        cr_assert_eq(list.pieces[p].kind, SPTX_PIECE_BAND, "%s", pairs[k][form]);
        cr_assert_eq(sptx_piece_count_tiles(&list.pieces[p], 1000, 1000, 64, 64, &counts, NULL),
                     SPTX_CODE_OK);
        found[form][1] += list.pieces[p].pairs;
        found[form][2] += counts.computed_pairs;
      }
      sptx_piece_list_clear(&list);
      sptx_instance_clear(&instance);
      sptx_pattern_release(pattern);
    }
    cr_assert_arr_eq(found[0], found[1], sizeof found[0], "%s", pairs[k][1]);
  }
}

/* Positions beyond 31 bits: resolved, lowered and compared at corners, never walked. */
static void check_corners(const char *body, int64_t n) {
  sptx_pattern *pattern = problem_parse(body);
  sptx_instance instance;
  sptx_piece_list list;
  sptx_error error = {0};
  int64_t n_q = 3000;
  cr_assert_eq(sptx_pattern_resolve(pattern, 0, 1, n_q, n, &instance, &error), SPTX_CODE_OK, "%s",
               error.message);
  cr_assert_eq(sptx_lower(&instance, 0, &list, &error), SPTX_CODE_OK, "%s", error.message);
  problem_random random = problem_random_make("lowering/large_positions");
  for (int k = 0; k < 4000; k++) {
    int64_t i = problem_random_below(&random, n_q), position = n - n_q + i, j = position;
    switch (k % 4) {
    case 0:
      j -= problem_random_below(&random, 300);
      break;
    case 1:
      j -= 128 * problem_random_below(&random, n / 128);
      break;
    case 2:
      j = problem_random_below(&random, n);
      break;
    default:
      j = problem_random_below(&random, 200);
    }
    if (j < 0)
      continue;
    bool expected;
    cr_assert_eq(sptx_instance_contains(&instance, 0, i, j, &expected, NULL), SPTX_CODE_OK);
    int held = 0;
    for (int p = 0; p < list.count; p++)
      held += sptx_piece_contains(&list.pieces[p], n_q, n, i, j);
    cr_assert_eq(held, expected, "%s, n %" PRId64 ": (%" PRId64 ", %" PRId64 ") in %d pieces", body, n, i, j,
                 held);
  }
  sptx_piece_list_clear(&list);
  sptx_instance_clear(&instance);
  sptx_pattern_release(pattern);
}

Test(lowering, large_positions) {
  static const int64_t sizes[] = {((int64_t)1 << 31) - 1, (int64_t)1 << 31, ((int64_t)1 << 31) + 129,
                                  ((int64_t)1 << 33) + 77};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    check_corners("causal: true\nattend: {window: {left: 200}}", sizes[k]);
    check_corners("causal: true\nattend: {any: [{window: {left: 128}}, {stride: {every: 128}}]}", sizes[k]);
    check_corners("causal: true\nattend: {any: [{block: {size: 128}}, {columns: {every: 128, last: 16}}]}",
                  sizes[k]);
    check_corners(
        "causal: true\nattend: {any: [{global: {first: 100}}, {dilated: {window: 50, dilation: 128}}]}",
        sizes[k]);
  }
}
