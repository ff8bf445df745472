/* How a case is planned, interpreted and held against float64; see portable_case.h. */
#include "tests/gpu/portable_case.h"
#include "tests/support/simt.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POISON = 0x7b };

/* A tensor in its element type, with its strides, and the same values as doubles. */
typedef struct tensor {
  sptx_strides strides;
  int64_t batch, heads, rows, dim, elements;
  enum sptx_element element;
  unsigned char *bytes;
  double *values;
} tensor;

static int64_t values_of(const tensor *t) {
  return t->batch * t->heads * t->rows * t->dim;
}

static int64_t place_of(const tensor *t, int64_t index) {
  int64_t d = index % t->dim, row = index / t->dim % t->rows;
  int64_t head = index / t->dim / t->rows % t->heads, batch = index / t->dim / t->rows / t->heads;
  return batch * t->strides.batch + head * t->strides.head + row * t->strides.position + d;
}

static sptx_strides strides_of(const portable_case *c, int64_t heads, int64_t rows) {
  int64_t row = c->head_dim + (c->layout == PORTABLE_GAPS ? 8 : c->layout == PORTABLE_ODD_GAPS ? 3 : 0);
  if (c->layout == PORTABLE_POSITION_FIRST)
    return (sptx_strides){rows * heads * row, row, heads * row};
  return (sptx_strides){heads * rows * row, rows * row, row};
}

static tensor tensor_create(const portable_case *c, int64_t heads, int64_t rows) {
  tensor t = {.batch = c->batch, .heads = heads, .rows = rows, .dim = c->head_dim, .element = c->element};
  t.strides = strides_of(c, heads, rows);
  t.elements = c->batch * t.strides.batch;
  size_t bytes = (size_t)t.elements * reference_element_size(t.element);
  t.bytes = aligned_alloc(256, (bytes + 511) / 256 * 256);
  memset(t.bytes, POISON, bytes);
  t.values = calloc((size_t)values_of(&t) + 1, sizeof(double));
  return t;
}

static void tensor_fill(tensor *t, uint64_t *seed) {
  for (int64_t i = 0; i < values_of(t); i++) {
    reference_store(t->element, t->bytes, place_of(t, i), reference_random(seed));
    t->values[i] = reference_load(t->element, t->bytes, place_of(t, i));
  }
}

/* Rows of a cache that are not filled yet. */
static void spoil_after(tensor *t, int64_t position) {
  for (int64_t i = 0; i < values_of(t); i++)
    if (i / t->dim % t->rows > position)
      reference_store(t->element, t->bytes, place_of(t, i), NAN);
}

static bool gaps_written(const tensor *t) {
  size_t size = reference_element_size(t->element);
  unsigned char *used = calloc((size_t)t->elements + 1, 1);
  bool written = false;
  for (int64_t i = 0; i < values_of(t); i++)
    used[place_of(t, i)] = 1;
  for (int64_t k = 0; k < t->elements; k++)
    for (size_t b = 0; b < size && !used[k]; b++)
      written |= t->bytes[(size_t)k * size + b] != POISON;
  free(used);
  return written;
}

static void tensor_free(tensor *t) {
  free(t->bytes);
  free(t->values);
}

static enum sptx_code read_pattern(const portable_case *c, sptx_pattern **pattern, sptx_error *error) {
  char text[4096];
  if (strstr(c->pattern, ".yaml"))
    return sptx_pattern_read(c->pattern, NULL, 0, pattern, error);
  int length = snprintf(text, sizeof text, "sptx: 1\nname: case\n%s", c->pattern);
  return sptx_pattern_parse(text, (size_t)length, "case", NULL, 0, pattern, error);
}

enum sptx_code portable_open(portable_session *s, const portable_case *c, sptx_error *error) {
  int64_t kv_heads = c->kv_heads ? c->kv_heads : c->heads;
  int64_t queries = c->pass == SPTX_PASS_DECODE ? 1 : c->n_q;
  *s = (portable_session){.c = c};
  SPTX_TRY(read_pattern(c, &s->pattern, error));
  s->problem = (sptx_problem){.element = c->element,
                              .batch = c->batch,
                              .heads = c->heads,
                              .kv_heads = kv_heads,
                              .n_q = c->n_q,
                              .n_k = c->n_k,
                              .head_dim = c->head_dim,
                              .q = strides_of(c, c->heads, queries),
                              .k = strides_of(c, kv_heads, c->n_k),
                              .v = strides_of(c, kv_heads, c->n_k),
                              .o = strides_of(c, c->heads, queries),
                              .soft_cap = c->soft_cap != 0,
                              .negative_scale = c->negative_scale,
                              .alibi = c->alibi,
                              .deterministic = true};
  SPTX_TRY(sptx_pattern_resolve(s->pattern, c->step, c->heads, c->n_q, c->n_k, &s->instance, error));
  s->lists = calloc((size_t)s->instance.class_count, sizeof *s->lists);
  for (int k = 0; k < s->instance.class_count; k++)
    SPTX_TRY(sptx_lower(&s->instance, k, &s->lists[k], error));
  return SPTX_CODE_OK;
}

enum sptx_code portable_plan(const portable_session *s, enum sptx_pass pass, enum sptx_ptx_target target,
                             sptx_gpu_plan **plan, sptx_error *error) {
  return sptx_gpu_plan_create(&s->problem, pass, target, s->lists, s->instance.class_of_head, &s->c->schedule,
                              plan, error);
}

void portable_close(portable_session *s) {
  for (int k = 0; s->lists && k < s->instance.class_count; k++)
    sptx_piece_list_clear(&s->lists[k]);
  free(s->lists);
  sptx_instance_clear(&s->instance);
  sptx_pattern_release(s->pattern);
}

/* ---- running ---- */

typedef struct tensors {
  tensor q, k, v, o, d_o, d_q, d_k, d_v;
  float *lse, slopes[64], scale;
} tensors;

static void tensors_create(const portable_session *s, tensors *t) {
  const portable_case *c = s->c;
  uint64_t seed = c->seed;
  int64_t queries = c->pass == SPTX_PASS_DECODE ? 1 : c->n_q, kv_heads = s->problem.kv_heads;
  t->q = tensor_create(c, c->heads, queries), t->o = tensor_create(c, c->heads, queries);
  t->d_o = tensor_create(c, c->heads, queries), t->d_q = tensor_create(c, c->heads, queries);
  t->k = tensor_create(c, kv_heads, c->n_k), t->v = tensor_create(c, kv_heads, c->n_k);
  t->d_k = tensor_create(c, kv_heads, c->n_k), t->d_v = tensor_create(c, kv_heads, c->n_k);
  size_t bytes = (size_t)(c->batch * c->heads * queries) * sizeof(float);
  t->lse = malloc(bytes + 1);
  memset(t->lse, POISON, bytes);
  tensor_fill(&t->q, &seed);
  tensor_fill(&t->k, &seed);
  tensor_fill(&t->v, &seed);
  tensor_fill(&t->d_o, &seed);
  if (c->pass == SPTX_PASS_DECODE && s->instance.causal) {
    spoil_after(&t->k, c->position);
    spoil_after(&t->v, c->position);
  }
  for (int64_t h = 0; h < c->heads; h++)
    t->slopes[h] = exp2f(-8.0f * (float)(h + 1) / (float)c->heads);
  t->scale = (c->negative_scale ? -1 : 1) / sqrtf((float)c->head_dim);
}

static void tensors_free(tensors *t) {
  tensor *const all[] = {&t->q, &t->k, &t->v, &t->o, &t->d_o, &t->d_q, &t->d_k, &t->d_v};
  for (size_t k = 0; k < sizeof all / sizeof *all; k++)
    tensor_free(all[k]);
  free(t->lse);
}

static enum sptx_code run_pass(const portable_session *s, const tensors *t, enum sptx_pass pass,
                               sptx_error *error) {
  sptx_gpu_plan *plan = NULL;
  SPTX_TRY(portable_plan(s, pass, SPTX_PTX_SM80, &plan, error));
  sptx_gpu_args args = {.q = (uintptr_t)t->q.bytes,
                        .k = (uintptr_t)t->k.bytes,
                        .v = (uintptr_t)t->v.bytes,
                        .o = (uintptr_t)t->o.bytes,
                        .lse = (uintptr_t)t->lse,
                        .d_o = (uintptr_t)t->d_o.bytes,
                        .d_q = (uintptr_t)t->d_q.bytes,
                        .d_k = (uintptr_t)t->d_k.bytes,
                        .d_v = (uintptr_t)t->d_v.bytes,
                        .alibi_slopes = (uintptr_t)t->slopes,
                        .scale = t->scale,
                        .soft_cap = (float)s->c->soft_cap,
                        .position = s->c->position};
  enum sptx_code code = simt_run(plan, &args, error);
  sptx_gpu_plan_free(plan);
  return code;
}

/* ---- comparing ---- */

typedef struct oracle {
  const sptx_instance *instance;
  int64_t query_offset; /* decode: the position of the only query */
} oracle;

static bool contains(void *context, int64_t head, int64_t i, int64_t j) {
  const oracle *o = context;
  bool member;
  return !sptx_instance_contains(o->instance, head, i + o->query_offset, j, &member, NULL) && member;
}

static void compare(const portable_case *c, const char *name, const tensor *got, const double *want,
                    double absolute, double relative) {
  double worst = 0;
  int64_t where = 0;
  for (int64_t i = 0; i < values_of(got); i++) {
    double value = reference_load(got->element, got->bytes, place_of(got, i));
    double error = fabs(value - want[i]) / (absolute + relative * fabs(want[i]));
    if (!(error <= worst))
      worst = isnan(error) ? INFINITY : error, where = i;
  }
  cr_expect(worst <= 1, "%s[row %ld, %ld] is off by %.3g tolerances of %.3g (seed %lu)\n%s", name,
            (long)(where / got->dim), (long)(where % got->dim), worst, absolute, (unsigned long)c->seed,
            c->pattern);
  cr_expect(!gaps_written(got), "%s: written between rows (seed %lu)", name, (unsigned long)c->seed);
}

static void compare_lse(const portable_case *c, const float *got, const double *want, int64_t count,
                        double absolute) {
  for (int64_t i = 0; i < count; i++) {
    bool good =
        isinf(want[i]) ? got[i] == want[i] : fabs(got[i] - want[i]) <= absolute + 0x1p-23 * fabs(want[i]);
    cr_expect(good, "lse[%ld] is %g, not %g (seed %lu)", (long)i, got[i], want[i], (unsigned long)c->seed);
    if (!good)
      return;
  }
}

/* Tolerances. A score is a sum of head_dim products: a few roundings of its size, as much in relative terms
 * for P. P and dS are rounded to the operand type of the matrix products (TF32 alone: 2^-11); sums over keys
 * average that. Results are rounded to the element type, O before D = rowsum(dO * O) reads it. */
static void compare_all(const portable_session *s, const tensors *t) {
  const portable_case *c = s->c;
  double unit = 0x1p-24, dim = c->head_dim;
  double rounding = c->element == SPTX_ELEMENT_F32 ? 2 * unit : reference_epsilon(c->element) / 2 * 1.01;
  double operand = c->element != SPTX_ELEMENT_F32 ? rounding : c->schedule.f32_mode == 3 ? 0x1p-11 : 2 * unit;
  double score =
      8 * unit * (1 + fabs(t->scale) * dim / 2) + (c->element == SPTX_ELEMENT_F32 ? operand * 2 : 0);
  score += 8 * unit * c->soft_cap + (c->alibi ? 4 * unit * (double)c->n_k : 0);
  int64_t queries = t->q.rows, rows = c->batch * c->heads * queries;
  oracle o = {&s->instance, c->pass == SPTX_PASS_DECODE ? c->position : 0};
  sptx_problem shape = s->problem;
  shape.n_q = queries;
  double *wanted[5];
  const tensor *like[5] = {&t->o, &t->o, &t->d_q, &t->d_k, &t->d_v};
  for (int i = 0; i < 5; i++)
    wanted[i] = calloc((size_t)values_of(like[i]) + 1, sizeof(double));
  reference_call call = {&shape,      contains,    &o,          t->scale,  c->soft_cap, t->slopes,
                         t->q.values, t->k.values, t->v.values, wanted[0], wanted[1],   t->d_o.values,
                         wanted[2],   wanted[3],   wanted[4],   0};
  if (c->pass == SPTX_PASS_DECODE)
    call.query_shift = c->position - (c->n_k - 1);
  reference_forward(&call);
  compare_lse(c, t->lse, wanted[1], rows, score);
  compare(c, "o", &t->o, wanted[0], 2 * score + 16 * unit + operand, rounding);
  if (c->pass == SPTX_PASS_BACKWARD) {
    reference_backward(&call);
    double many = sqrt((double)c->n_q) * (double)(c->heads / s->problem.kv_heads);
    double error = (4 * score + 32 * unit + rounding + 2 * operand) * sqrt(dim) * sqrt(dim) * fabs(t->scale);
    compare(c, "d_q", &t->d_q, wanted[2], error, rounding);
    compare(c, "d_k", &t->d_k, wanted[3], error * many, rounding);
    compare(c, "d_v", &t->d_v, wanted[4], (2 * score + 16 * unit + operand) * many, rounding);
  }
  for (int i = 0; i < 5; i++)
    free(wanted[i]);
}

void portable_case_check(const portable_case *c) {
  portable_session s;
  sptx_error error = {0};
  enum sptx_code code = portable_open(&s, c, &error);
  cr_assert(code == SPTX_CODE_OK, "%s\n%s", error.message, c->pattern);
  tensors t = {0};
  tensors_create(&s, &t);
  code = run_pass(&s, &t, c->pass == SPTX_PASS_DECODE ? SPTX_PASS_DECODE : SPTX_PASS_FORWARD, &error);
  if (code == SPTX_CODE_OK && c->pass == SPTX_PASS_BACKWARD)
    code = run_pass(&s, &t, SPTX_PASS_BACKWARD, &error);
  cr_expect(code == SPTX_CODE_OK, "%s (seed %lu)\n%s", error.message, (unsigned long)c->seed, c->pattern);
  if (code == SPTX_CODE_OK)
    compare_all(&s, &t);
  tensors_free(&t);
  portable_close(&s);
}
