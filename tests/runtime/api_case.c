/* Tensors and comparison of API tests; see api_case.h. */
#include "tests/runtime/api_case.h"

#include "patterns/pattern.h"
#include "tests/support/reference.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool contains(void *instance, int64_t head, int64_t i, int64_t j) {
  bool found = false;
  sptx_instance_contains(instance, head, i, j, &found, NULL);
  return found;
}

static sptx_pattern *parse(const char *pattern) {
  char text[4096];
  sptx_pattern *parsed;
  sptx_error error = {0};
  int length = snprintf(text, sizeof text, "sptx: 1\nname: case\n%s", pattern);
  enum sptx_code code = sptx_pattern_parse(text, (size_t)length, "case", NULL, 0, &parsed, &error);
  cr_assert(code == SPTX_CODE_OK, "%s", error.message);
  return parsed;
}

sptx_pattern *api_pattern(sptx_context *context, const char *pattern) {
  char text[4096];
  sptx_pattern *loaded = NULL;
  int length = snprintf(text, sizeof text, "sptx: 1\nname: case\n%s", pattern);
  sptx_status status = sptx_pattern_from_text(context, text, (size_t)length, "case", NULL, 0, &loaded);
  cr_assert(status == SPTX_OK, "%s", sptx_last_error(context));
  return loaded;
}

static enum sptx_element element_of(const api_tensors *t, int which) {
  return which == API_LSE ? SPTX_ELEMENT_F32 : (enum sptx_element)t->c.dtype;
}

static size_t bytes_of(const api_tensors *t, int which) {
  return (size_t)t->count[which] * reference_element_size(element_of(t, which));
}

void api_poison(api_tensors *t) {
  for (int which = API_O; which < API_TENSORS; which++)
    memset(t->data[which], 0xff, bytes_of(t, which));
}

static void fill(api_tensors *t, int which, uint64_t *seed) {
  int64_t rows = which == API_K || which == API_V ? t->c.n_k : t->c.n_q;
  bool spoiled = t->c.nan_row > 0 && which != API_D_O && t->c.nan_row < rows;
  for (int64_t k = 0; k < t->count[which]; k++) {
    bool nan = spoiled && k / t->c.head_dim == t->c.nan_row;
    reference_store(element_of(t, which), t->data[which], k, nan ? NAN : reference_random(seed));
    t->want[which][k] = reference_load(element_of(t, which), t->data[which], k);
  }
}

static double scale_of(const api_case *c) {
  return c->scale != 0 ? (double)c->scale : (double)(1 / sqrtf((float)c->head_dim));
}

static void compute_reference(api_tensors *t) {
  const api_case *c = &t->c;
  sptx_pattern *pattern = parse(c->pattern);
  sptx_instance instance;
  sptx_error error = {0};
  enum sptx_code code =
      sptx_pattern_resolve(pattern, (size_t)c->step, c->heads, c->n_q, c->n_k, &instance, &error);
  cr_assert(code == SPTX_CODE_OK, "%s", error.message);
  sptx_problem problem = {.batch = c->batch,
                          .heads = c->heads,
                          .kv_heads = c->kv_heads,
                          .n_q = c->n_q,
                          .n_k = c->n_k,
                          .head_dim = (int)c->head_dim,
                          .soft_cap = c->soft_cap > 0};
  reference_call call = {.problem = &problem,
                         .contains = contains,
                         .context = &instance,
                         .scale = scale_of(c),
                         .soft_cap = (double)c->soft_cap,
                         .q = t->want[API_Q],
                         .k = t->want[API_K],
                         .v = t->want[API_V],
                         .o = t->want[API_O],
                         .lse = t->want[API_LSE],
                         .d_o = t->want[API_D_O],
                         .d_q = t->want[API_D_Q],
                         .d_k = t->want[API_D_K],
                         .d_v = t->want[API_D_V]};
  reference_forward(&call);
  reference_backward(&call);
  sptx_instance_clear(&instance);
  sptx_pattern_release(pattern);
}

void api_tensors_create(const api_case *c, api_tensors *t) {
  uint64_t seed = c->seed;
  int64_t queries = c->batch * c->heads * c->n_q, keys = c->batch * c->kv_heads * c->n_k;
  *t = (api_tensors){.c = *c};
  for (int which = 0; which < API_TENSORS; which++) {
    bool of_keys = which == API_K || which == API_V || which == API_D_K || which == API_D_V;
    t->count[which] = which == API_LSE ? queries : (of_keys ? keys : queries) * c->head_dim;
    t->data[which] = malloc(bytes_of(t, which));
    t->want[which] = malloc((size_t)t->count[which] * sizeof(double));
    cr_assert(t->data[which] && t->want[which]);
    if (which < API_O)
      fill(t, which, &seed);
  }
  api_poison(t);
  compute_reference(t);
}

void api_tensors_clear(api_tensors *t) {
  for (int which = 0; which < API_TENSORS; which++) {
    free(t->data[which]);
    free(t->want[which]);
  }
}

sptx_attention_desc api_desc(const api_case *c, uint32_t flags) {
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = flags;
  desc.dtype = c->dtype;
  desc.batch = c->batch;
  desc.heads = c->heads;
  desc.kv_heads = c->kv_heads;
  desc.n_q = c->n_q;
  desc.n_k = c->n_k;
  desc.head_dim = c->head_dim;
  desc.step = c->step;
  desc.scale = c->scale;
  desc.soft_cap = c->soft_cap;
  return desc;
}

/* Inputs are uniform in [-1, 1). A score's float32 error is a few units of the sum of |q k| scale, which
 * moves P by as much; outputs are rounded to the element type; bfloat16 kernels may round P and dS too.
 * Gradients of keys and values sum over queries, those of q and k over head_dim. */
double api_error(const api_tensors *t, int which) {
  const api_case *c = &t->c;
  double unit = 0x1p-24, dim = (double)c->head_dim, worst = 0;
  double rounding = c->dtype == SPTX_F32 ? 0 : reference_epsilon((enum sptx_element)c->dtype) / 2 * 1.01;
  double score = 8 * unit * (1 + scale_of(c) * dim / 2 + (double)c->soft_cap) + 4 * unit;
  double base = 2 * score + 16 * unit + (c->dtype == SPTX_BF16 ? 0x1p-8 : 0);
  double many = sqrt((double)c->n_q) * (double)(c->heads / c->kv_heads);
  double absolute = which == API_LSE   ? base
                    : which == API_O   ? base
                    : which == API_D_V ? base * many
                    : which == API_D_Q ? (2 * base + rounding) * dim * scale_of(c)
                                       : (2 * base + rounding) * dim * scale_of(c) * many;
  double relative = which == API_LSE ? 2 * unit : rounding;
  for (int64_t k = 0; k < t->count[which]; k++) {
    double got = reference_load(element_of(t, which), t->data[which], k), want = t->want[which][k];
    double error = got == want || (isnan(got) && isnan(want))
                       ? 0
                       : fabs(got - want) / (absolute + relative * fabs(want));
    if (isnan(error))
      error = INFINITY;
    worst = error > worst ? error : worst;
  }
  return worst;
}

double api_run(const sptx_attention *attention, api_tensors *t, bool backward) {
  void **d = t->data;
  double worst = 0;
  if (sptx_attention_forward(attention, d[API_Q], d[API_K], d[API_V], d[API_O], d[API_LSE], NULL) != SPTX_OK)
    return INFINITY;
  if (backward && sptx_attention_backward(attention, d[API_Q], d[API_K], d[API_V], d[API_O], d[API_LSE],
                                          d[API_D_O], d[API_D_Q], d[API_D_K], d[API_D_V], NULL) != SPTX_OK)
    return INFINITY;
  for (int which = API_O; which < (backward ? API_TENSORS : API_D_Q); which++)
    worst = fmax(worst, api_error(t, which));
  return worst;
}

void api_check(const api_case *c, const char *cache) {
  api_tensors t;
  sptx_context *context;
  sptx_attention *attention;
  api_tensors_create(c, &t);
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  cr_assert_eq(sptx_context_set_cache(context, cache), SPTX_OK);
  cr_assert_eq(sptx_context_set_wisdom(context, NULL), SPTX_OK);
  sptx_pattern *pattern = api_pattern(context, c->pattern);
  sptx_attention_desc desc = api_desc(c, SPTX_WITH_BACKWARD);
  sptx_status status = sptx_attention_create(context, pattern, &desc, &attention);
  cr_assert(status == SPTX_OK, "%s", sptx_last_error(context));
  double worst = api_run(attention, &t, true);
  cr_assert(worst <= 1, "dtype %d n_q %ld n_k %ld dim %ld seed %lu: %g times the tolerance; %s",
            (int)c->dtype, (long)c->n_q, (long)c->n_k, (long)c->head_dim, (unsigned long)c->seed, worst,
            sptx_last_error(context));
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  api_tensors_clear(&t);
}
