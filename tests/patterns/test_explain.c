/* What an explanation says, as JSON, against brute force over the oracle. */
#include "patterns/explain.h"
#include "patterns/reach.h"
#include "tests/patterns/problem.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static cJSON *explain(const sptx_pattern *pattern, int64_t heads, int64_t n_q, int64_t n_k,
                      const char *step) {
  const sptx_explain_request request = {.n_q = n_q, .n_k = n_k, .heads = heads, .step = step, .json = true};
  char *text;
  size_t size;
  FILE *stream = open_memstream(&text, &size);
  sptx_error error = {0};
  cr_assert_eq(sptx_explain(pattern, &request, stream, &error), SPTX_CODE_OK, "%s", error.message);
  fclose(stream);
  cJSON *root = cJSON_Parse(text);
  cr_assert(root, "not JSON: %s", text);
  free(text);
  return root;
}

static const cJSON *get(const cJSON *object, const char *key) {
  const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, key);
  cr_assert(value, "there is no key %s", key);
  return value;
}

static int64_t integer(const cJSON *object, const char *key) {
  cr_assert(cJSON_IsNumber(get(object, key)), "%s is no number", key);
  return (int64_t)get(object, key)->valuedouble;
}

/* 0: null. */
static int64_t steps_to_full(const cJSON *root) {
  return cJSON_IsNull(get(root, "steps_to_full")) ? 0 : integer(root, "steps_to_full");
}

/* Layers by plain reachability over the oracle, with all heads and the residual connection. */
static int64_t brute_layers(const sptx_pattern *pattern, int64_t heads, int64_t n, bool causal,
                            int64_t only) {
  bool *reach = calloc((size_t)(n * n), 1), *next = calloc((size_t)(n * n), 1);
  int64_t period = only >= 0 ? 1 : (int64_t)sptx_pattern_layer_period(pattern), idle = 0, layers = 0;
  for (int64_t i = 0; i < n; i++)
    reach[i * n + i] = true;
  for (int64_t layer = 0; !layers && idle < period; layer++) {
    sptx_instance instance;
    size_t step = only >= 0 ? (size_t)only : sptx_pattern_layer_step(pattern, layer);
    cr_assert_eq(sptx_pattern_resolve(pattern, step, heads, n, n, &instance, NULL), SPTX_CODE_OK);
    memcpy(next, reach, (size_t)(n * n));
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < n; j++) {
        bool attends = false, one;
        for (int64_t head = 0; head < heads && !attends; head++) {
          sptx_instance_contains(&instance, head, i, j, &one, NULL);
          attends |= one;
        }
        for (int64_t k = 0; attends && k < n; k++)
          next[i * n + k] |= reach[j * n + k];
      }
    sptx_instance_clear(&instance);
    idle = memcmp(next, reach, (size_t)(n * n)) == 0 ? idle + 1 : 0;
    memcpy(reach, next, (size_t)(n * n));
    bool full = true;
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = 0; j < (causal ? i + 1 : n); j++)
        full &= reach[i * n + j];
    layers = full ? layer + 1 : 0;
  }
  free(reach);
  free(next);
  return layers;
}

static void check_head(const sptx_pattern *pattern, size_t step, int64_t heads, int64_t head, int64_t n_q,
                       int64_t n_k, const cJSON *object, const char *where) {
  sptx_instance instance;
  cr_assert_eq(sptx_pattern_resolve(pattern, step, heads, n_q, n_k, &instance, NULL), SPTX_CODE_OK);
  int64_t pairs = 0, empty = 0, dense = 0;
  for (int64_t i = 0; i < n_q; i++) {
    int64_t row = 0;
    for (int64_t j = 0; j < n_k; j++) {
      bool contains;
      sptx_instance_contains(&instance, head, i, j, &contains, NULL);
      row += contains;
    }
    pairs += row;
    empty += row == 0;
    dense += instance.causal ? n_k - n_q + i + 1 : n_k;
  }
  sptx_instance_clear(&instance);
  cr_assert_eq(integer(object, "head"), head, "%s", where);
  cr_assert_eq(integer(object, "pairs"), pairs, "%s", where);
  cr_assert_eq(integer(object, "empty_rows"), empty, "%s", where);
  cr_assert_float_eq(get(object, "density")->valuedouble, (double)pairs / (double)(n_q * n_k), 1e-12, "%s",
                     where);
  cr_assert_float_eq(get(object, "share")->valuedouble, (double)pairs / (double)dense, 1e-12, "%s", where);
  const cJSON *piece;
  int64_t of_pieces = 0;
  cJSON_ArrayForEach(piece, get(object, "pieces")) {
    int64_t own = integer(piece, "pairs"), computed = integer(piece, "computed_pairs");
    bool generic = strcmp(get(piece, "kind")->valuestring, "generic") == 0;
    of_pieces += own;
    cr_assert(own > 0 && own <= computed, "%s", where);
    cr_assert_float_eq(get(piece, "useful")->valuedouble, (double)own / (double)computed, 1e-12);
    cr_assert_gt(integer(piece, "tiles_full") + integer(piece, "tiles_partial"), 0);
    cr_assert_eq(strncmp(get(piece, "query_view")->valuestring, "i = ", 4), 0);
    cr_assert_eq(strncmp(get(piece, "key_view")->valuestring, "j = ", 4), 0);
    cr_assert_eq(integer(piece, "contiguous_bytes"), 256 * integer(piece, "contiguous_keys"));
    cr_assert_eq(cJSON_IsNull(get(piece, "band")), generic);
    bool explained = generic || !cJSON_IsNull(get(piece, "predicate"));
    cr_assert_eq(*get(piece, "why")->valuestring != 0, explained, "%s: why", where);
    cr_assert_gt(integer(piece, "bytes"), 0);
  }
  cr_assert_eq(of_pieces, pairs, "%s: %" PRId64 " pairs in pieces, %" PRId64 " in all", where, of_pieces,
               pairs);
}

static void check_explanation(const sptx_pattern *pattern, int64_t heads, int64_t n_q, int64_t n_k,
                              const char *where) {
  cJSON *root = explain(pattern, heads, n_q, n_k, NULL);
  size_t steps = sptx_pattern_step_count(pattern);
  const cJSON *list = get(root, "heads");
  cr_assert_eq(cJSON_GetArraySize(list), (int)(steps * (size_t)heads), "%s", where);
  int64_t pairs = 0, empty = 0;
  for (size_t step = 0; step < steps; step++)
    for (int64_t head = 0; head < heads; head++) {
      const cJSON *object = cJSON_GetArrayItem(list, (int)((int64_t)step * heads + head));
      const char *name = sptx_pattern_step_name(pattern, step);
      if (*name)
        cr_assert_str_eq(get(object, "step")->valuestring, name);
      else
        cr_assert(cJSON_IsNull(get(object, "step")));
      check_head(pattern, step, heads, head, n_q, n_k, object, where);
      pairs += integer(object, "pairs");
      empty += integer(object, "empty_rows");
    }
  cr_assert_str_eq(get(root, "name")->valuestring, sptx_pattern_name(pattern));
  cr_assert_eq(integer(root, "n"), n_k);
  cr_assert_eq(integer(root, "n_q"), n_q);
  cr_assert_eq(integer(root, "pairs"), pairs);
  cr_assert_eq(integer(root, "empty_rows"), empty);
  cr_assert_gt(integer(root, "metadata_bytes") + (pairs == 0), 0);
  cr_assert(cJSON_IsFalse(get(root, "steps_to_full_sampled")));
  int64_t layers = brute_layers(pattern, heads, n_k, cJSON_IsTrue(get(root, "causal")), -1);
  cr_assert_eq(steps_to_full(root), layers, "%s: %" PRId64 " steps to full, expected %" PRId64, where,
               steps_to_full(root), layers);
  cJSON_Delete(root);
}

Test(explain, against_brute_force, .timeout = 60) {
  static const char *const bodies[] = {
      "causal: true\nattend: {window: {left: 9}}",
      "causal: true\nsteps:\n  row: {window: {left: 8}}\n  column: {stride: {every: 8}}\nuse: interleave",
      ("causal: true\nsteps:\n  row: {window: {left: 8}}\n  column: {stride: {every: 8}}\n"
       "use: {interleave: [column, row, row]}"),
      ("causal: true\nsteps:\n  row: {window: {left: 8}}\n  column: {stride: {every: 8}}\n  unused: all\n"
       "use: {interleave: [row, row, row, column]}"),
      "causal: true\nsteps:\n  b: {block: {size: 8}}\n  c: {columns: {every: 8, last: 2}}\nuse: interleave",
      "causal: true\nsteps:\n  b: {block: {size: 8}}\n  c: {columns: {every: 8, last: 2}}\nuse: merge",
      "causal: true\nsteps:\n  b: {block: {size: 8}}\n  c: {columns: {every: 8, last: 2}}\nuse: heads",
      "causal: true\nheads:\n- attend: {block: {size: 5}}\n  count: 2\n- attend: {stride: {every: 5}}",
      "causal: true\nattend: {block: {size: 16}}",
      "attend: {dilated: {window: 3, dilation: 4}}",
      "attend: {dilated: {window: 3, dilation: 1}}",
      "attend: {columns: {every: 9, at: [0, 4]}}",
      "attend: {where: \"(i * 7 + j * 3) % 11 == 0\"}",
      "causal: true\nattend: {random: {block: 4, per_row: 2, seed: 3}}",
      "attend: {not: all}",
      "attend: {global: {first: 2, as: both}}",
  };
  for (size_t k = 0; k < sizeof bodies / sizeof *bodies; k++) {
    sptx_pattern *pattern = problem_parse(bodies[k]);
    check_explanation(pattern, 3, 40, 40, bodies[k]);
    check_explanation(pattern, 2, 1, 1, bodies[k]);
    check_explanation(pattern, 1, 67, 67, bodies[k]);
    check_explanation(pattern, 2, 17, 53, bodies[k]);
    sptx_pattern_release(pattern);
  }
}

/* Positions followed through pieces come to what bit matrices say. */
Test(explain, reach_through_pieces_is_reach_through_matrices, .timeout = 60) {
  problem_random random = problem_random_make("explain/reach");
  for (int k = 0; k < 150; k++) {
    int64_t n = 1 + problem_random_below(&random, 90);
    char *text = problem_random_pattern(&random, n);
    sptx_pattern *pattern;
    sptx_error error = {0};
    const sptx_selection selection = {n, n, 1, NULL};
    const size_t order = 0;
    sptx_step step;
    sptx_reach exact, followed;
    cr_assert_eq(sptx_pattern_parse(text, strlen(text), "r.yaml", NULL, 0, &pattern, &error), SPTX_CODE_OK);
    cr_assert_eq(sptx_step_lower(pattern, 0, &selection, &step, &error), SPTX_CODE_OK, "%s", error.message);
    cr_assert_eq(sptx_reach_find(&step, &order, 1, SPTX_REACH_EXACT, &exact, &error), SPTX_CODE_OK);
    cr_assert_eq(sptx_reach_find(&step, &order, 1, 0, &followed, &error), SPTX_CODE_OK);
    int64_t brute = brute_layers(pattern, 1, n, step.instance.causal, 0);
    cr_assert(exact.known && followed.known && (!followed.sampled || followed.layers == 0));
    cr_assert(exact.layers == brute && followed.layers == brute,
              "seed %" PRIu64 ", n %" PRId64 ": %" PRId64 " by matrices, %" PRId64
              " by pieces, expected %" PRId64 "\n%s",
              random.seed, n, exact.layers, followed.layers, brute, text);
    sptx_step_clear(&step);
    sptx_pattern_release(pattern);
    free(text);
  }
}

static void check_library(const char *name, int64_t n, const char *step, int64_t expected) {
  sptx_pattern *pattern = problem_library(name, NULL, 0);
  cJSON *root = explain(pattern, 4, n, n, step);
  cr_assert_eq(steps_to_full(root), expected, "%s, n %" PRId64 ": %" PRId64, name, n, steps_to_full(root));
  cr_assert_eq(cJSON_IsTrue(get(root, "steps_to_full_sampled")), n > 4096, "%s", name);
  cr_assert_str_eq(get(root, "steps_to_full_note")->valuestring, "");
  cJSON_Delete(root);
  sptx_pattern_release(pattern);
}

Test(explain, steps_to_full_of_the_library, .timeout = 60) {
  for (int64_t n = 4096; n <= 16384; n *= 4) {
    check_library("strided", n, NULL, 2);
    check_library("strided", n, "row", (n - 1 + 126) / 127);
    check_library("strided", n, "column", 0);
    check_library("fixed", n, NULL, 2);
    check_library("fixed", n, "block", 0);
    check_library("fixed-merged", n, NULL, 2);
    check_library("dense", n, NULL, 1);
    check_library("local", n, NULL, (n - 1 + 126) / 127);
    check_library("block-local", n, NULL, 0);
    check_library("dilated", n, NULL, 0);
  }
  /* What stands further right in an earlier row is never reached: both steps lead right or down. */
  check_library("axial-2d", 3072, NULL, 0);
}

Test(explain, generic_pieces_say_why) {
  sptx_pattern *pattern = problem_library("bigbird", NULL, 0);
  cJSON *root = explain(pattern, 1, 2048, 2048, NULL);
  const cJSON *piece;
  int generic = 0;
  cJSON_ArrayForEach(piece, get(cJSON_GetArrayItem(get(root, "heads"), 0), "pieces")) {
    if (strcmp(get(piece, "kind")->valuestring, "generic") != 0)
      continue;
    generic++;
    cr_assert(strstr(get(piece, "why")->valuestring, "random"), "%s", get(piece, "why")->valuestring);
  }
  cr_assert_eq(generic, 1);
  cJSON_Delete(root);
  sptx_pattern_release(pattern);
}

/* In a process of its own, whose memory is that of one explanation. */
static void explain_a_million(const char *name) {
  enum { N = 1 << 20, MOST_KIB = 64 * 1024 };
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  sptx_pattern *pattern = problem_library(name, NULL, 0);
  cJSON *root = explain(pattern, 2, N, N, NULL);
  bool small = integer(root, "metadata_bytes") <= 4096;
  cJSON_Delete(root);
  sptx_pattern_release(pattern);
  getrusage(RUSAGE_SELF, &after);
  _exit(small && after.ru_maxrss - before.ru_maxrss < MOST_KIB ? 0 : 1);
}

Test(explain, a_million_positions_in_bounded_memory, .timeout = 60) {
  static const char *const closed[] = {"block-local",  "dense", "dilated",    "fixed",          "fixed-heads",
                                       "fixed-merged", "local", "longformer", "strided-merged", "strided"};
  for (size_t k = 0; k < sizeof closed / sizeof *closed; k++) {
    int status = -1;
    pid_t child = fork();
    if (child == 0)
      explain_a_million(closed[k]);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %d", closed[k], status);
  }
}

Test(explain, failures) {
  sptx_pattern *pattern = problem_library("strided", NULL, 0);
  sptx_error error = {0};
  sptx_explain_request request = {.n_q = 64, .n_k = 64, .heads = 1, .step = "colum"};
  cr_assert_eq(sptx_explain(pattern, &request, stdout, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_str_eq(error.message, "strided: there is no step 'colum'; the steps are row, column");
  request.step = NULL;
  request.query_tile = -1;
  cr_assert_eq(sptx_explain(pattern, &request, stdout, &error), SPTX_CODE_INVALID_ARGUMENT);
  request.query_tile = 0;
  request.n_q = 65;
  cr_assert_eq(sptx_explain(pattern, &request, stdout, &error), SPTX_CODE_INVALID_ARGUMENT);
  request.n_q = 64;
  FILE *full = fopen("/dev/full", "w");
  setvbuf(full, NULL, _IONBF, 0);
  for (int json = 0; json < 2; json++) {
    request.json = json;
    cr_assert_eq(sptx_explain(pattern, &request, full, &error), SPTX_CODE_IO);
    cr_assert(strstr(error.message, "No space left"), "%s", error.message);
  }
  fclose(full);
  sptx_pattern_release(pattern);
  pattern = problem_library("local", NULL, 0);
  request.step = "row";
  cr_assert_eq(sptx_explain(pattern, &request, stdout, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert(strstr(error.message, "does not interleave"), "%s", error.message);
  sptx_pattern_release(pattern);
}
