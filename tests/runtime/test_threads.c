/* Many threads: on one attention, forward, backward and decode at once; creating attentions on one context,
 * with one cache; settings and errors of one context. Built under ThreadSanitizer, too. */
#include "tests/runtime/api_case.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 6, ROUNDS = 5 };

static char root[64];
static sptx_context *context;
static sptx_pattern *pattern;

#define TWO_PIECES "causal: true\nattend: {any: [{window: {left: 9}}, {stride: {every: 9}}]}\n"

static const api_case plain = {
    .pattern = TWO_PIECES, .batch = 1, .heads = 2, .kv_heads = 1, .n_q = 70, .n_k = 70, .head_dim = 16};

/* One OpenMP thread for each call: the threads here are the point, and OpenMP's own are not instrumented. */
static void open_context(void) {
  strcpy(root, "/tmp/sptx-threads-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  cr_assert_eq(setenv("XDG_CACHE_HOME", root, 1), 0);
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  cr_assert_eq(sptx_context_set_threads(context, 1), SPTX_OK);
  pattern = api_pattern(context, TWO_PIECES);
}

static void close_context(void) {
  char command[128];
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  snprintf(command, sizeof command, "rm -rf %s", root);
  cr_expect_eq(system(command), 0);
}

TestSuite(threads, .init = open_context, .fini = close_context, .timeout = 120);

typedef struct worker {
  pthread_t thread;
  int number;
  const sptx_attention *attention;
  api_tensors tensors;
  bool failed;
} worker;

static void run_workers(worker workers[THREADS], void *(*body)(void *)) {
  for (int k = 0; k < THREADS; k++) {
    workers[k].number = k;
    cr_assert_eq(pthread_create(&workers[k].thread, NULL, body, &workers[k]), 0);
  }
  for (int k = 0; k < THREADS; k++) {
    cr_assert_eq(pthread_join(workers[k].thread, NULL), 0);
    cr_expect(!workers[k].failed, "thread %d", k);
  }
}

/* Every row by decode against what forward wrote. */
static bool decode_agrees(const sptx_attention *attention, api_tensors *t) {
  const api_case *c = &t->c;
  const float *q = t->data[API_Q], *o = t->data[API_O];
  float got[2 * 70 * 16];
  for (int64_t position = 0; position < c->n_k; position += 7) {
    if (sptx_attention_decode(attention, position, q + position * c->head_dim, t->data[API_K], t->data[API_V],
                              got, NULL, NULL) != SPTX_OK)
      return false;
    for (int64_t head = 0; head < c->heads; head++)
      for (int64_t d = 0; d < c->head_dim; d++)
        if (!(fabsf(got[head * c->n_q * c->head_dim + d] - o[(head * c->n_q + position) * c->head_dim + d]) <
              2e-6f))
          return false;
  }
  return true;
}

static void *run_passes(void *argument) {
  worker *self = argument;
  for (int round = 0; round < ROUNDS; round++) {
    api_poison(&self->tensors);
    self->failed |= !(api_run(self->attention, &self->tensors, (self->number + round) % 2) <= 1);
    self->failed |= !decode_agrees(self->attention, &self->tensors);
  }
  return NULL;
}

Test(threads, one_attention_runs_in_all_of_them) {
  sptx_attention *attention;
  worker workers[THREADS] = {0};
  sptx_attention_desc desc = api_desc(&plain, SPTX_WITH_BACKWARD | SPTX_WITH_DECODE);
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK, "%s",
               sptx_last_error(context));
  for (int k = 0; k < THREADS; k++) {
    api_case c = plain;
    c.seed = (uint64_t)k + 1;
    api_tensors_create(&c, &workers[k].tensors);
    workers[k].attention = attention;
  }
  run_workers(workers, run_passes);
  for (int k = 0; k < THREADS; k++)
    api_tensors_clear(&workers[k].tensors);
  sptx_attention_destroy(attention);
}

/* Half of them make the same kernels, half their own. */
static void *create_and_run(void *argument) {
  worker *self = argument;
  sptx_attention *attention;
  sptx_attention_desc desc = api_desc(&self->tensors.c, SPTX_WITH_BACKWARD);
  if (sptx_attention_create(context, pattern, &desc, &attention) != SPTX_OK) {
    self->failed = true;
    return NULL;
  }
  self->failed |= !(api_run(attention, &self->tensors, true) <= 1);
  sptx_attention_destroy(attention);
  return NULL;
}

Test(threads, attentions_are_created_in_all_of_them) {
  worker workers[THREADS] = {0};
  for (int k = 0; k < THREADS; k++) {
    api_case c = plain;
    c.seed = (uint64_t)k + 1;
    c.head_dim = k % 2 ? 16 : 16 + 8 * k;
    api_tensors_create(&c, &workers[k].tensors);
  }
  run_workers(workers, create_and_run);
  for (int k = 0; k < THREADS; k++)
    api_tensors_clear(&workers[k].tensors);
}

/* Each thread sees the sentence of its own failure. */
static void *fail_and_set(void *argument) {
  worker *self = argument;
  char expected[32];
  snprintf(expected, sizeof expected, "threads is -%d;", self->number + 10);
  for (int round = 0; round < 200; round++) {
    self->failed |= sptx_context_set_threads(context, -(self->number + 10)) != SPTX_INVALID_ARGUMENT;
    self->failed |= strncmp(sptx_last_error(context), expected, strlen(expected)) != 0;
    self->failed |= sptx_context_set_cache(context, self->number % 2 ? root : NULL) != SPTX_OK;
    self->failed |= sptx_context_set_wisdom(context, NULL) != SPTX_OK;
    self->failed |= sptx_context_set_threads(context, 1) != SPTX_OK;
  }
  return NULL;
}

Test(threads, each_has_its_own_last_error) {
  worker workers[THREADS] = {0};
  run_workers(workers, fail_and_set);
}
