/* Attention on the CPU through the public API against float64: element types, odd and short shapes, steps,
 * contexts side by side, NaN, decode, sizes that overflow, two processes that compile one kernel, wisdom that
 * cannot be read. */
#include "tests/runtime/api_case.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char root[64], cache[80];

static void make_root(void) {
  strcpy(root, "/tmp/sptx-attention-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  snprintf(cache, sizeof cache, "%s/cache", root);
  cr_assert_eq(setenv("XDG_CACHE_HOME", root, 1), 0); /* the user's own cache is not a test's */
}

static void remove_root(void) {
  char command[256];
  snprintf(command, sizeof command, "chmod -R u+w %s; rm -rf %s", root, root);
  cr_expect_eq(system(command), 0);
}

TestSuite(attention, .init = make_root, .fini = remove_root, .timeout = 120);

#define WINDOW "causal: true\nattend: {window: {left: 20}}\n"
#define STEPS                                                                                                \
  "causal: true\nsteps:\n  row: {window: {left: 9}}\n  column: {stride: {every: 9}}\nuse: interleave\n"
#define TWO_PIECES "causal: true\nattend: {any: [{window: {left: 9}}, {stride: {every: 9}}]}\n"

static const api_case plain = {
    .pattern = WINDOW, .batch = 1, .heads = 2, .kv_heads = 2, .n_q = 77, .n_k = 77, .head_dim = 16};

static uint64_t fresh_seed(void) {
  uint64_t seed = (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
  cr_log_info("seed %lu", (unsigned long)seed);
  return seed;
}

Test(attention, every_element_type) {
  for (int dtype = SPTX_F32; dtype <= SPTX_BF16; dtype++) {
    api_case c = plain;
    c.dtype = (sptx_dtype)dtype;
    c.pattern = TWO_PIECES;
    c.batch = 2;
    c.heads = 4;
    c.head_dim = 24;
    c.seed = fresh_seed();
    api_check(&c, cache);
  }
}

Test(attention, odd_and_short_shapes) {
  const int64_t sizes[][2] = {{1, 1}, {1, 77}, {5, 300}, {64, 64}, {192, 193}};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    api_case c = plain;
    c.n_q = sizes[k][0];
    c.n_k = sizes[k][1];
    c.seed = fresh_seed();
    api_check(&c, cache);
  }
}

Test(attention, scale_and_soft_cap_of_the_desc) {
  api_case c = plain;
  c.scale = 1.5f;
  c.soft_cap = 2;
  c.seed = fresh_seed();
  api_check(&c, cache);
}

Test(attention, steps_are_chosen_by_number) {
  sptx_context *context;
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  sptx_pattern *pattern = api_pattern(context, STEPS);
  cr_expect_eq(sptx_pattern_steps(pattern), 2);
  for (int64_t layer = 0; layer < 5; layer++)
    cr_expect_eq(sptx_pattern_step_of_layer(pattern, layer), (size_t)layer % 2);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  for (int64_t step = 0; step < 2; step++) {
    api_case c = plain;
    c.pattern = STEPS;
    c.step = step;
    c.seed = fresh_seed();
    api_check(&c, cache);
  }
}

Test(attention, nan_stays_in_the_rows_that_attend_to_it) {
  api_case c = plain;
  c.nan_row = 40;
  c.seed = fresh_seed();
  api_tensors t;
  api_tensors_create(&c, &t);
  int64_t clean = 0, spoiled = 0;
  for (int64_t row = 0; row < c.n_q; row++)
    *(isnan(t.want[API_LSE][row]) ? &spoiled : &clean) += 1;
  cr_assert(clean == 57 && spoiled == 20, "the reference has %ld and %ld rows", (long)clean, (long)spoiled);
  api_tensors_clear(&t);
  api_check(&c, cache);
}

Test(attention, contexts_live_side_by_side) {
  enum { CONTEXTS = 3 };
  sptx_context *contexts[CONTEXTS];
  sptx_pattern *patterns[CONTEXTS];
  sptx_attention *attentions[CONTEXTS];
  api_tensors t[CONTEXTS];
  for (int k = 0; k < CONTEXTS; k++) {
    api_case c = plain;
    c.n_q = c.n_k = 50 + 17 * k;
    c.pattern = k == 1 ? TWO_PIECES : WINDOW;
    c.seed = fresh_seed();
    sptx_attention_desc desc = api_desc(&c, 0);
    api_tensors_create(&c, &t[k]);
    cr_assert_eq(sptx_context_create(&contexts[k], "cpu"), SPTX_OK);
    cr_assert_eq(sptx_context_set_cache(contexts[k], k ? NULL : cache), SPTX_OK);
    cr_assert_eq(sptx_context_set_threads(contexts[k], k + 1), SPTX_OK);
    patterns[k] = api_pattern(contexts[k], c.pattern);
    cr_assert_eq(sptx_attention_create(contexts[k], patterns[k], &desc, &attentions[k]), SPTX_OK);
  }
  /* A failure on one is not seen on another. */
  cr_expect_neq(sptx_context_set_threads(contexts[0], -1), SPTX_OK);
  cr_expect_neq(sptx_last_error(contexts[0])[0], '\0');
  cr_expect_eq(sptx_last_error(contexts[1])[0], '\0');
  for (int k = CONTEXTS - 1; k >= 0; k--) {
    cr_expect(api_run(attentions[k], &t[k], false) <= 1, "context %d", k);
    sptx_pattern_destroy(patterns[k]); /* an attention needs its pattern no longer */
    cr_expect(api_run(attentions[k], &t[k], false) <= 1, "context %d without its pattern", k);
    sptx_attention_destroy(attentions[k]);
    sptx_context_destroy(contexts[k]);
    api_tensors_clear(&t[k]);
  }
}

/* Row `position` of the full forward, whose q is one row. */
Test(attention, decode_is_the_forward_row_by_row) {
  api_case c = plain;
  c.pattern = TWO_PIECES;
  c.heads = 4;
  c.batch = 2;
  c.seed = fresh_seed();
  api_tensors t;
  sptx_context *context;
  sptx_attention *attention;
  api_tensors_create(&c, &t);
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  sptx_pattern *pattern = api_pattern(context, c.pattern);
  sptx_attention_desc desc = api_desc(&c, SPTX_WITH_DECODE);
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK, "%s",
               sptx_last_error(context));
  cr_assert_leq(api_run(attention, &t, false), 1.0);
  const float *q = t.data[API_Q], *o = t.data[API_O], *lse = t.data[API_LSE];
  int64_t dim = c.head_dim, head_stride = c.n_q * dim;
  float *got = malloc((size_t)t.count[API_O] * sizeof *got), got_lse[8];
  for (int64_t position = 0; position < c.n_k; position++) {
    /* The desc's strides: one row in each head's room of n_q rows. */
    sptx_status status = sptx_attention_decode(attention, position, q + position * dim, t.data[API_K],
                                               t.data[API_V], got, got_lse, NULL);
    cr_assert(status == SPTX_OK, "%s", sptx_last_error(context));
    for (int64_t head = 0; head < c.batch * c.heads; head++) {
      for (int64_t d = 0; d < dim; d++)
        cr_assert_float_eq(got[head * head_stride + d], o[head * head_stride + position * dim + d], 2e-6f,
                           "position %ld head %ld", (long)position, (long)head);
      cr_assert_float_eq(got_lse[head], lse[head * c.n_q + position], 4e-6f);
    }
  }
  free(got);
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  api_tensors_clear(&t);
}

static sptx_status create_status(int64_t batch, int64_t heads, int64_t n, int64_t head_dim) {
  sptx_context *context;
  sptx_attention *attention;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  sptx_pattern *pattern = api_pattern(context, WINDOW);
  desc.flags = 0;
  desc.batch = batch;
  desc.heads = heads;
  desc.n_q = desc.n_k = n;
  desc.head_dim = head_dim;
  sptx_status status = sptx_attention_create(context, pattern, &desc, &attention);
  cr_expect((status == SPTX_OK) == (attention != NULL));
  cr_expect((status == SPTX_OK) == (sptx_last_error(context)[0] == '\0'));
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  return status;
}

/* Nothing of these sizes is allocated before it is refused. */
Test(attention, sizes_that_overflow) {
  const int64_t huge = INT64_C(1) << 31;
  cr_expect_eq(create_status(huge, 2, huge, 256), SPTX_OVERFLOW);
  cr_expect_eq(create_status(INT64_MAX, 1, 1, 16), SPTX_OVERFLOW);
  cr_expect_eq(create_status(1, 1, INT64_MAX, 16), SPTX_OVERFLOW);
  cr_expect_eq(create_status(1, 1, INT64_MAX / 64, 16), SPTX_OVERFLOW);
  cr_expect_eq(create_status(64, 16, 65536, 64), SPTX_OK); /* 2^32 elements */
}

Test(attention, second_creation_compiles_nothing) {
  for (int again = 0; again < 2; again++) {
    sptx_context *context;
    sptx_attention *attention;
    sptx_attention_info info = {.struct_size = sizeof info};
    sptx_attention_desc desc = api_desc(&plain, SPTX_WITH_BACKWARD | SPTX_WITH_DECODE);
    cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
    cr_assert_eq(sptx_context_set_cache(context, cache), SPTX_OK);
    sptx_pattern *pattern = api_pattern(context, WINDOW);
    cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK);
    cr_assert_eq(sptx_attention_get_info(attention, &info), SPTX_OK);
    cr_expect_eq(info.cache_hit, again);
    /* 20 keys each, but the first queries have fewer: 77 * 20 - 190 pairs, of 2 heads. */
    cr_expect_eq(info.useful_pairs, 2 * (77 * 20 - 190));
    cr_expect_geq(info.computed_pairs, info.useful_pairs);
    cr_expect_gt(info.create_seconds, 0.0);
    sptx_attention_destroy(attention);
    sptx_pattern_destroy(pattern);
    sptx_context_destroy(context);
  }
}

static void damage_entries(const char *how) {
  char command[256];
  snprintf(command, sizeof command, "for f in %s/*; do %s; done", cache, how);
  cr_assert_eq(system(command), 0);
}

/* The cache's own tests damage every byte; here the whole way down to the result. */
Test(attention, a_damaged_cache_is_compiled_anew) {
  static const char *const ways[] = {
      ": > \"$f\"", "printf x | dd of=\"$f\" bs=1 seek=900 conv=notrunc 2>/dev/null",
      "head -c 1000 \"$f\" > \"$f.x\"; mv \"$f.x\" \"$f\"", "chmod 666 \"$f\""};
  api_case c = plain;
  c.seed = fresh_seed();
  api_check(&c, cache);
  for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
    damage_entries(ways[k]);
    api_check(&c, cache);
  }
}

Test(attention, a_cache_that_cannot_be_written_costs_only_time) {
  api_case c = plain;
  c.seed = fresh_seed();
  api_check(&c, "/dev/null/cache");
  api_check(&c, "/proc/sptx");
  api_check(&c, NULL);
}

Test(attention, processes_compile_the_same_kernel_at_once) {
  enum { PROCESSES = 3 };
  pid_t children[PROCESSES];
  api_case c = plain;
  c.seed = fresh_seed();
  fflush(NULL);
  for (int p = 0; p < PROCESSES; p++) {
    children[p] = fork();
    cr_assert_geq(children[p], 0);
    if (children[p] == 0) {
      api_check(&c, cache); /* ends the process when it fails */
      _exit(0);
    }
  }
  for (int p = 0; p < PROCESSES; p++) {
    int status;
    cr_assert_eq(waitpid(children[p], &status, 0), children[p]);
    cr_expect_eq(status, 0, "process %d", p);
  }
  api_check(&c, cache);
}

Test(attention, wisdom_that_cannot_be_read_costs_only_speed) {
  char path[96], text[8192];
  snprintf(path, sizeof path, "%s/wisdom.db", root);
  memset(text, 'x', sizeof text);
  for (int way = 0; way < 3; way++) {
    unlink(path);
    if (way > 0) {
      FILE *file = fopen(path, "wb");
      cr_assert_not_null(file);
      fwrite(text, 1, way == 1 ? sizeof text : 0, file);
      fclose(file);
      cr_assert_eq(chmod(path, way == 1 ? 0600 : 0000), 0);
    }
    sptx_context *context;
    sptx_attention *attention;
    sptx_attention_desc desc = api_desc(&plain, 0);
    cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
    cr_assert_eq(sptx_context_set_cache(context, cache), SPTX_OK);
    cr_assert_eq(sptx_context_set_wisdom(context, path), SPTX_OK);
    sptx_pattern *pattern = api_pattern(context, WINDOW);
    cr_expect_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK, "way %d: %s", way,
                 sptx_last_error(context));
    struct stat status;
    cr_expect_eq(stat(path, &status), way ? 0 : -1, "creating an attention made a wisdom file");
    sptx_attention_destroy(attention);
    sptx_pattern_destroy(pattern);
    sptx_context_destroy(context);
  }
}
