/* SPTX_TUNE: tuning while an attention is created changes no result, is remembered for those that do not ask
 * for it, keeps to its time, and does without wisdom that it cannot write. */
#include "runtime/clock.h"
#include "runtime/sptx.h"
#include "runtime/wisdom.h"

#include <criterion/criterion.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCH = 2, HEADS = 2, N = 200, DIM = 16, COUNT = BATCH * HEADS * N * DIM };

static const char pattern_text[] = "sptx: 1\nname: p\ncausal: true\nattend: {stride: {every: 9}}\n";
static char root[64], path[128];
static sptx_context *context;
static sptx_pattern *pattern;

static void begin(void) {
  strcpy(root, "/tmp/sptx-in-place-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  snprintf(path, sizeof path, "%s/wisdom.db", root);
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  cr_assert_eq(sptx_context_set_threads(context, 2), SPTX_OK);
  cr_assert_eq(sptx_context_set_cache(context, NULL), SPTX_OK);
  cr_assert_eq(sptx_context_set_wisdom(context, path), SPTX_OK);
  cr_assert_eq(sptx_pattern_from_text(context, pattern_text, sizeof pattern_text - 1, "p", NULL, 0, &pattern),
               SPTX_OK);
}

static void end(void) {
  char command[256];
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  snprintf(command, sizeof command, "chmod -R u+w %s; rm -rf %s", root, root);
  cr_expect_eq(system(command), 0);
}

TestSuite(in_place, .init = begin, .fini = end, .timeout = 60);

static sptx_attention_desc desc_of(double seconds, bool interleaved) {
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.batch = BATCH, desc.heads = HEADS, desc.n_q = desc.n_k = N, desc.head_dim = DIM;
  if (seconds >= 0) {
    desc.flags |= SPTX_TUNE;
    desc.tune_seconds = seconds;
  }
  if (interleaved) { /* (batch, n, heads, dim) */
    sptx_tensor_strides strides = {N * HEADS * DIM, DIM, HEADS * DIM};
    desc.q = desc.k = desc.v = desc.o = strides;
  }
  return desc;
}

static sptx_attention *create(double seconds, bool interleaved) {
  sptx_attention_desc desc = desc_of(seconds, interleaved);
  sptx_attention *attention;
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK, "%s",
               sptx_last_error(context));
  return attention;
}

typedef struct results {
  float o[COUNT], lse[BATCH * HEADS * N], d_q[COUNT], d_k[COUNT], d_v[COUNT];
} results;

static results *run(const sptx_attention *attention, unsigned seed) {
  results *r = malloc(sizeof *r);
  float *inputs = malloc(4 * COUNT * sizeof *inputs);
  memset(r, 0xff, sizeof *r);
  for (int k = 0; k < 4 * COUNT; k++)
    inputs[k] = (float)rand_r(&seed) / (float)RAND_MAX - 0.5f;
  const float *q = inputs, *key = q + COUNT, *v = key + COUNT, *d_o = v + COUNT;
  cr_assert_eq(sptx_attention_forward(attention, q, key, v, r->o, r->lse, NULL), SPTX_OK);
  cr_assert_eq(sptx_attention_backward(attention, q, key, v, r->o, r->lse, d_o, r->d_q, r->d_k, r->d_v, NULL),
               SPTX_OK);
  free(inputs);
  return r;
}

static void check_equal(const results *a, const results *b) {
  const float *x = (const float *)a, *y = (const float *)b;
  double norm = 0, differences = 0;
  for (size_t k = 0; k < sizeof *a / sizeof(float); k++) {
    cr_assert(isfinite(x[k]) && isfinite(y[k]), "element %zu was left out", k);
    norm += (double)y[k] * y[k];
    differences += ((double)x[k] - y[k]) * ((double)x[k] - y[k]);
  }
  cr_assert_lt(sqrt(differences / norm), 1e-5);
}

static int64_t count_entries(void) {
  sptx_wisdom *wisdom;
  int64_t count = 0;
  if (sptx_wisdom_open(path, SPTX_WISDOM_READ, &wisdom, NULL) != SPTX_CODE_OK)
    return 0;
  char *text = NULL;
  size_t size;
  FILE *stream = open_memstream(&text, &size);
  cr_assert_eq(sptx_wisdom_export(wisdom, stream, NULL), SPTX_CODE_OK);
  fclose(stream);
  for (const char *at = text; (at = strstr(at, "- piece:")); at++)
    count++;
  free(text);
  sptx_wisdom_close(wisdom);
  return count;
}

Test(in_place, changes_no_result_and_is_remembered) {
  unsigned seed = (unsigned)getpid();
  cr_log_info("seed %u", seed);
  for (int interleaved = 0; interleaved < 2; interleaved++) {
    sptx_attention *plain = create(-1, interleaved);
    results *expected = run(plain, seed);
    sptx_attention_destroy(plain);
    sptx_attention *tuned = create(4, interleaved);
    results *found = run(tuned, seed);
    check_equal(found, expected);
    free(found);
    int64_t entries = count_entries(); /* one for each pass, as far as the time sufficed */
    cr_expect(entries == 1 || entries == 2, "%ld", (long)entries);
    sptx_attention *later = create(-1, interleaved);
    found = run(later, seed);
    check_equal(found, expected);
    free(found);
    free(expected);
    sptx_attention_destroy(tuned);
    sptx_attention_destroy(later);
    cr_assert_eq(unlink(path), 0);
  }
}

Test(in_place, what_is_known_is_not_searched_again) {
  sptx_attention_desc desc = desc_of(4, false);
  desc.flags &= ~(uint32_t)SPTX_WITH_BACKWARD;
  sptx_attention *attention;
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK);
  sptx_attention_destroy(attention);
  cr_assert_eq(count_entries(), 1);
  desc.tune_seconds = 50;
  double before = sptx_now();
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK);
  sptx_attention_destroy(attention);
  cr_expect_lt(sptx_now() - before, 20, "it searched again");
}

/* A schedule that no kernel can have, one of a machine that does not exist, and no schedule at all: each
 * costs speed only. */
Test(in_place, schedules_in_wisdom_that_do_not_fit_are_not_used) {
  static const char *const bad[] = {"isa=avx2 query_tile=17 key_tile=32", "isa=avx99 query_tile=64",
                                    "isa=avx2 query_tile=64 key_tile=7 register_rows=6 register_vectors=2",
                                    "no schedule"};
  unsigned seed = (unsigned)getpid();
  cr_log_info("seed %u", seed);
  sptx_attention *plain = create(-1, false);
  results *expected = run(plain, seed);
  sptx_attention_destroy(plain);
  sptx_attention_destroy(create(1, false));
  cr_assert_gt(count_entries(), 0);
  for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
    sqlite3 *database;
    char sql[160];
    snprintf(sql, sizeof sql, "UPDATE wisdom SET schedule = '%s'", bad[k]);
    cr_assert_eq(sqlite3_open(path, &database), SQLITE_OK);
    cr_assert_eq(sqlite3_exec(database, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(database);
    sptx_attention *attention = create(-1, false);
    results *found = run(attention, seed);
    check_equal(found, expected);
    free(found);
    sptx_attention_destroy(attention);
  }
  free(expected);
}

Test(in_place, without_time_the_default_is_used) {
  sptx_attention_destroy(create(0, false));
  cr_expect_eq(count_entries(), 0, "nothing was compared");
}

Test(in_place, does_without_wisdom) {
  cr_assert_eq(sptx_context_set_wisdom(context, NULL), SPTX_OK);
  sptx_attention_destroy(create(0.5, false));
  FILE *file = fopen(path, "w");
  fputs("no database", file);
  fclose(file);
  cr_assert_eq(sptx_context_set_wisdom(context, path), SPTX_OK);
  sptx_attention_destroy(create(0.5, false));
  cr_assert_eq(sptx_context_set_wisdom(context, "/proc/none/wisdom.db"), SPTX_OK);
  sptx_attention_destroy(create(0.5, false));
}

Test(in_place, times_that_make_no_sense) {
  const double bad[] = {-1, NAN, INFINITY};
  for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
    sptx_attention_desc desc = desc_of(0, false);
    desc.tune_seconds = bad[k];
    sptx_attention *attention;
    cr_expect_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_INVALID_ARGUMENT);
    cr_expect_not_null(strstr(sptx_last_error(context), "tune_seconds"));
    cr_expect_null(attention);
  }
}
