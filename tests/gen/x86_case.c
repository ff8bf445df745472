/* How an x86 case is planned, compiled, run and held against float64; see x86_case.h. */
#include "tests/gen/x86_case.h"

#include "gen/machine.h"
#include "runtime/jit.h"
#include "tests/gen/x86_emulation.h"
#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

const char *const x86_patterns[X86_PATTERNS] = {
    "causal: true\nattend: all\n",
    "causal: true\nattend: {window: {left: 20}}\n",
    "causal: true\nattend: {any: [{window: {left: 9}}, {stride: {every: 8}}]}\n",
    "causal: true\nattend: {any: [{block: {size: 16}}, {columns: {every: 16, last: 3}}]}\n",
    "causal: true\nattend: {any: [{window: {left: 8, right: 3}}, {global: {first: 2, as: both}}, {random: "
    "{block: 16, "
    "per_row: 1, seed: 3}}]}\n",
    "attend: {where: \"i % 3 == 0 && (i * 7 + j * 3) % 5 == 0\"}\n",
    "heads: [{attend: {window: {left: 12}}}, {attend: {stride: {every: 5}}}]\ncausal: true\n",
    "attend: all\n",
    "causal: true\nattend: {stride: {every: 61}}\n",
    "causal: true\nattend: {columns: {every: 16, last: 5}}\n",
    "causal: true\nattend: {dilated: {window: 6, dilation: 3}}\n",
};

enum { POISON = 0x7b };

/* A tensor in its element type, with its strides, and the same values as doubles. */
typedef struct x86_tensor {
  sptx_strides strides;
  int64_t batch, heads, rows, dim, elements;
  enum sptx_element element;
  bool far;
  unsigned char *bytes;
  double *values;
} x86_tensor;

static x86_tensor tensor_create(const x86_case *c, int64_t heads, int64_t rows) {
  x86_tensor t = {.batch = c->batch, .heads = heads, .rows = rows, .dim = c->head_dim, .element = c->element};
  int64_t row = t.dim + (c->layout == X86_GAPS ? 11 : 0);
  if (c->layout == X86_POSITION_FIRST)
    t.strides = (sptx_strides){rows * heads * row, row, heads * row};
  else
    t.strides = (sptx_strides){heads * rows * row, rows * row, row};
  t.values = calloc((size_t)(t.batch * heads * rows * t.dim), sizeof(double));
  if (c->layout == X86_FAR) {
    t.far = true;
    t.strides = (sptx_strides){heads * t.dim, t.dim, (int64_t)1 << 28};
    t.elements = rows * t.strides.position;
    t.bytes = mmap(NULL, (size_t)t.elements * reference_element_size(t.element), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert(t.bytes != MAP_FAILED, "no address space for a tensor of %ld elements", (long)t.elements);
    return t;
  }
  t.elements = t.batch * heads * rows * row;
  t.bytes = malloc((size_t)t.elements * reference_element_size(t.element));
  memset(t.bytes, POISON, (size_t)t.elements * reference_element_size(t.element));
  return t;
}

static void tensor_free(x86_tensor *t) {
  if (t->far)
    munmap(t->bytes, (size_t)t->elements * reference_element_size(t->element));
  else
    free(t->bytes);
  free(t->values);
}

/* Calls visit for each element with its place in the tensor and in the array of doubles. */
#define FOR_EACH(t, place, index)                                                                            \
  for (int64_t index = 0, place;                                                                             \
       index < (t)->batch * (t)->heads * (t)->rows * (t)->dim && (place = tensor_place(t, index), true);     \
       index++)

static int64_t tensor_place(const x86_tensor *t, int64_t index) {
  int64_t d = index % t->dim, row = index / t->dim % t->rows;
  int64_t head = index / t->dim / t->rows % t->heads, batch = index / t->dim / t->rows / t->heads;
  return batch * t->strides.batch + head * t->strides.head + row * t->strides.position + d;
}

/* sign 0: of both signs, else of this one and at least half the amplitude. */
static void tensor_fill(x86_tensor *t, double amplitude, int sign, uint64_t *seed) {
  FOR_EACH(t, place, index) {
    double value = reference_random(seed);
    if (sign != 0)
      value = sign * (0.75 + value / 4);
    reference_store(t->element, t->bytes, place, amplitude * value);
    t->values[index] = reference_load(t->element, t->bytes, place);
  }
}

/* A NaN in the middle of the row, in every batch and head. */
static void tensor_spoil(x86_tensor *t, int64_t row) {
  for (int64_t head = 0; head < t->batch * t->heads && row < t->rows; head++) {
    int64_t index = (head * t->rows + row) * t->dim + t->dim / 2;
    t->values[index] = NAN;
    reference_store(t->element, t->bytes, tensor_place(t, index), NAN);
  }
}

static double *tensor_read(const x86_tensor *t) {
  double *values = malloc((size_t)(t->batch * t->heads * t->rows * t->dim) * sizeof *values);
  FOR_EACH(t, place, index)
  values[index] = reference_load(t->element, t->bytes, place);
  return values;
}

/* Has anything been written between the rows? */
static bool gaps_written(const x86_tensor *t) {
  if (t->far)
    return false;
  size_t size = reference_element_size(t->element);
  unsigned char *used = calloc((size_t)t->elements, 1);
  bool written = false;
  FOR_EACH(t, place, index)
  used[place] = 1;
  for (int64_t k = 0; k < t->elements; k++)
    for (size_t b = 0; b < size && !used[k]; b++)
      written |= t->bytes[(size_t)k * size + b] != POISON;
  free(used);
  return written;
}

typedef struct x86_oracle {
  const sptx_instance *instance;
  int64_t query_offset; /* decode: the position of the only query */
} x86_oracle;

static bool oracle_contains(void *context, int64_t head, int64_t i, int64_t j) {
  const x86_oracle *oracle = context;
  bool contains;
  if (sptx_instance_contains(oracle->instance, head, i + oracle->query_offset, j, &contains, NULL))
    return false;
  return contains;
}

typedef struct x86_session {
  const x86_case *c;
  sptx_problem problem;
  sptx_pattern *pattern;
  sptx_instance instance;
  sptx_piece_list *lists;
  sptx_x86_plan *plan;
  sptx_jit *jit; /* of `known` */
  float slopes[64];
  float scale;
  x86_tensor q, k, v, o, d_o, d_q, d_k, d_v;
  float *lse;
} x86_session;

static enum sptx_code emit_module(x86_session *s, LLVMContextRef context, sptx_error *error) {
  LLVMModuleRef module;
  char *code = NULL;
  size_t size;
  SPTX_TRY(sptx_x86_plan_build_mutant(s->plan, s->c->mutant, context, &module, error));
  if (!sptx_x86_isa_available(s->c->isa))
    x86_emulate(module);
  enum sptx_code result = sptx_x86_optimise(module, error);
  if (result == SPTX_CODE_OK)
    result = sptx_x86_emit(module, false, &code, &size, error);
  if (result == SPTX_CODE_OK)
    result = sptx_jit_load(code, size, &s->jit, error);
  free(code);
  LLVMDisposeModule(module);
  return result;
}

/* Compiled code by the symbols in it, which say all that code depends on: cases that differ in sizes share
 * it.
 */
static struct {
  uint64_t key;
  sptx_jit *jit;
} known[256];
static size_t known_count;

static uint64_t key_of(const x86_session *s) {
  uint64_t key = (uint64_t)s->c->mutant;
  for (int k = 0; k < s->plan->launch_count; k++)
    key = XXH3_64bits_withSeed(s->plan->launches[k].symbol, strlen(s->plan->launches[k].symbol), key);
  return key;
}

static enum sptx_code session_compile(x86_session *s, enum sptx_pass pass, sptx_error *error) {
  sptx_x86_schedule schedule = s->c->schedule;
  sptx_error diagnostic;
  sptx_x86_plan_free(s->plan);
  schedule.isa = s->c->isa;
  SPTX_TRY(sptx_x86_plan_create(&s->problem, pass, s->lists, s->instance.class_of_head, &schedule, &s->plan,
                                error));
  uint64_t key = key_of(s);
  for (size_t k = 0; k < known_count; k++)
    if (known[k].key == key) {
      s->jit = known[k].jit;
      return SPTX_CODE_OK;
    }
  LLVMContextRef context = sptx_llvm_context_create(&diagnostic);
  enum sptx_code code = emit_module(s, context, error);
  LLVMContextDispose(context);
  cr_assert(known_count < sizeof known / sizeof *known, "too many kernels for one test");
  if (code == SPTX_CODE_OK)
    known[known_count].key = key, known[known_count++].jit = s->jit;
  return code;
}

/* Scratch of `threads` threads and the workspace, both poisoned, with the arguments of a call. */
typedef struct x86_call {
  sptx_x86_args args;
  char *workspace, *scratches;
  size_t scratch;
} x86_call;

static void call_open(const x86_session *s, int threads, x86_call *call) {
  const sptx_x86_plan *plan = s->plan;
  call->scratch = 64;
  for (int k = 0; k < plan->launch_count; k++)
    call->scratch =
        plan->launches[k].scratch_bytes > call->scratch ? plan->launches[k].scratch_bytes : call->scratch;
  call->workspace = aligned_alloc(64, (plan->workspace_bytes + 64) / 64 * 64);
  call->scratches = aligned_alloc(64, call->scratch * (size_t)threads);
  memset(call->workspace, 0xff, plan->workspace_bytes);
  memset(call->scratches, 0xff, call->scratch * (size_t)threads);
  call->args = (sptx_x86_args){.q = s->q.bytes,
                               .k = s->k.bytes,
                               .v = s->v.bytes,
                               .o = s->o.bytes,
                               .lse = s->lse,
                               .d_o = s->d_o.bytes,
                               .d_q = s->d_q.bytes,
                               .d_k = s->d_k.bytes,
                               .d_v = s->d_v.bytes,
                               .workspace = call->workspace,
                               .alibi_slopes = s->slopes,
                               .scale = s->scale,
                               .soft_cap = (float)s->c->soft_cap,
                               .position = s->c->position};
}

static void call_close(x86_call *call) {
  free(call->workspace);
  free(call->scratches);
}

static enum sptx_code kernel_of(const x86_session *s, const sptx_x86_launch *launch, sptx_x86_kernel *kernel,
                                sptx_error *error) {
  void *address;
  SPTX_TRY(sptx_jit_lookup(s->jit, launch->symbol, &address, error));
  memcpy(kernel, &address, sizeof *kernel);
  return SPTX_CODE_OK;
}

static enum sptx_code session_launch(x86_session *s, enum sptx_pass pass, sptx_error *error) {
  SPTX_TRY(session_compile(s, pass, error));
  const sptx_x86_plan *plan = s->plan;
  int threads = s->c->threads ? s->c->threads : 1;
  x86_call call;
  call_open(s, threads, &call);
  enum sptx_code code = SPTX_CODE_OK;
  for (int k = 0; k < plan->launch_count && code == SPTX_CODE_OK; k++) {
    const sptx_x86_launch *launch = &plan->launches[k];
    sptx_x86_kernel kernel = NULL;
    code = kernel_of(s, launch, &kernel, error);
    if (code != SPTX_CODE_OK)
      break;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t item = 0; item < launch->items; item++)
      kernel(&call.args, launch->params, item, call.scratches + call.scratch * (size_t)omp_get_thread_num());
  }
  call_close(&call);
  return code;
}

static enum sptx_code session_open(x86_session *s, const x86_case *c, sptx_error *error) {
  char text[4096];
  uint64_t seed = c->seed;
  int64_t kv_heads = c->kv_heads ? c->kv_heads : c->heads;
  int64_t queries = c->pass == SPTX_PASS_DECODE ? 1 : c->n_q;
  double amplitude = c->amplitude != 0 ? c->amplitude : 1;
  int length = snprintf(text, sizeof text, "sptx: 1\nname: case\n%s", c->pattern);
  s->c = c;
  SPTX_TRY(sptx_pattern_parse(text, (size_t)length, "case", NULL, 0, &s->pattern, error));
  s->q = tensor_create(c, c->heads, queries), s->o = tensor_create(c, c->heads, queries);
  s->d_o = tensor_create(c, c->heads, queries), s->d_q = tensor_create(c, c->heads, queries);
  s->k = tensor_create(c, kv_heads, c->n_k), s->v = tensor_create(c, kv_heads, c->n_k);
  s->d_k = tensor_create(c, kv_heads, c->n_k), s->d_v = tensor_create(c, kv_heads, c->n_k);
  s->lse = malloc((size_t)(c->batch * c->heads * queries) * sizeof(float));
  memset(s->lse, POISON, (size_t)(c->batch * c->heads * queries) * sizeof(float));
  tensor_fill(&s->q, amplitude, c->opposed, &seed);
  tensor_fill(&s->k, amplitude, -c->opposed, &seed);
  tensor_fill(&s->v, 1, 0, &seed);
  tensor_fill(&s->d_o, 1, 0, &seed);
  x86_tensor *const poisoned[] = {&s->q, &s->k, &s->v, &s->d_o};
  for (int t = 0; t < 4 && c->nan_row > 0; t++)
    tensor_spoil(poisoned[t], c->nan_row);
  for (int64_t h = 0; h < c->heads; h++)
    s->slopes[h] = exp2f(-8.0f * (float)(h + 1) / (float)c->heads);
  s->scale = c->scale != 0 ? (float)c->scale : 1 / sqrtf((float)c->head_dim);
  s->problem = (sptx_problem){.element = c->element,
                              .batch = c->batch,
                              .heads = c->heads,
                              .kv_heads = kv_heads,
                              .n_q = c->n_q,
                              .n_k = c->n_k,
                              .head_dim = c->head_dim,
                              .q = s->q.strides,
                              .k = s->k.strides,
                              .v = s->v.strides,
                              .o = s->o.strides,
                              .soft_cap = c->soft_cap != 0,
                              .alibi = c->alibi,
                              .deterministic = true};
  SPTX_TRY(sptx_pattern_resolve(s->pattern, 0, c->heads, c->n_q, c->n_k, &s->instance, error));
  s->lists = calloc((size_t)s->instance.class_count, sizeof *s->lists);
  for (int k = 0; k < s->instance.class_count; k++)
    SPTX_TRY(sptx_lower(&s->instance, k, &s->lists[k], error));
  return SPTX_CODE_OK;
}

static void session_close(x86_session *s) {
  x86_tensor *const tensors[] = {&s->q, &s->k, &s->v, &s->o, &s->d_o, &s->d_q, &s->d_k, &s->d_v};
  for (size_t k = 0; k < sizeof tensors / sizeof *tensors; k++)
    tensor_free(tensors[k]);
  free(s->lse);
  sptx_x86_plan_free(s->plan);
  for (int k = 0; s->lists && k < s->instance.class_count; k++)
    sptx_piece_list_clear(&s->lists[k]);
  free(s->lists);
  sptx_instance_clear(&s->instance);
  sptx_pattern_release(s->pattern);
}

/* |got - want| in units of the tolerance; NaN and infinities must agree. */
static void compare(x86_result *result, const char *name, const double *got, const double *want,
                    int64_t count, double absolute, double relative) {
  for (int64_t k = 0; k < count; k++) {
    double error = fabs(got[k] - want[k]) / (absolute + relative * fabs(want[k]));
    if (isnan(want[k]) || isinf(want[k]))
      error = isnan(want[k]) ? (isnan(got[k]) ? 0 : INFINITY) : (got[k] == want[k] ? 0 : INFINITY);
    else if (isnan(error))
      error = INFINITY;
    if (error > result->worst) {
      result->worst = error;
      snprintf(result->where, sizeof result->where, "%s[%ld]: got %.9g, want %.9g, tolerance %.3g", name,
               (long)k, got[k], want[k], absolute + relative * fabs(want[k]));
    }
  }
}

/* Tolerances. A score is a float32 dot product of head_dim terms: its error is a few ulps of the sum of
 * |q k| scale, which moves P by as much in relative terms; sums over keys average it. Outputs are then
 * rounded to the element type (half an ulp), gradients likewise, with |d_o . v| in the place of |v|. */
static void compare_all(const x86_session *s, x86_result *result) {
  const x86_case *c = s->c;
  const sptx_problem *problem = &s->problem;
  double unit = 0x1p-24, amplitude = c->amplitude != 0 ? c->amplitude : 1;
  double score = 8 * unit * (1 + s->scale * amplitude * amplitude * c->head_dim / 2) + 4 * unit;
  if (c->soft_cap != 0)
    score += 8 * unit * c->soft_cap;
  if (c->alibi)
    score += 4 * unit * (double)c->n_k;
  double rounding = c->element == SPTX_ELEMENT_F32 ? 0 : reference_epsilon(c->element) / 2 * 1.01;
  double bf16 = c->isa >= SPTX_ISA_AVX512_BF16 && c->element == SPTX_ELEMENT_BF16 ? 0x1p-8 : 0;
  int64_t queries = c->pass == SPTX_PASS_DECODE ? 1 : c->n_q, rows = c->batch * c->heads * queries;
  int64_t keys = c->batch * problem->kv_heads * c->n_k, dim = c->head_dim;
  double *d_o = s->d_o.values;
  x86_oracle oracle = {&s->instance, c->pass == SPTX_PASS_DECODE ? c->position : 0};
  sptx_problem shape = *problem;
  shape.n_q = queries;
  double *o = malloc((size_t)(rows * dim) * 8), *lse = malloc((size_t)rows * 8),
         *d_q = malloc((size_t)(rows * dim) * 8);
  double *d_k = malloc((size_t)(keys * dim) * 8), *d_v = malloc((size_t)(keys * dim) * 8);
  reference_call call = {&shape,      oracle_contains,
                         &oracle,     s->scale,
                         c->soft_cap, s->slopes,
                         s->q.values, s->k.values,
                         s->v.values, o,
                         lse,         d_o,
                         d_q,         d_k,
                         d_v,         0};
  if (c->pass == SPTX_PASS_DECODE)
    call.query_shift = c->position - (c->n_k - 1);
  reference_forward(&call);
  result->lse = malloc((size_t)rows * 8);
  for (int64_t k = 0; k < rows; k++)
    result->lse[k] = s->lse[k];
  result->o = tensor_read(&s->o);
  compare(result, "lse", result->lse, lse, rows, score + bf16, 2 * unit);
  compare(result, "o", result->o, o, rows * dim, 2 * score + 16 * unit + bf16, rounding);
  result->gap_written = gaps_written(&s->o);
  if (c->pass == SPTX_PASS_BACKWARD) {
    reference_backward(&call);
    result->d_q = tensor_read(&s->d_q), result->d_k = tensor_read(&s->d_k),
    result->d_v = tensor_read(&s->d_v);
    /* O is rounded before D = rowsum(dO * O) reads it. */
    double size = sqrt((double)dim) * s->scale * amplitude;
    double many = sqrt((double)c->n_q) * (double)(c->heads / problem->kv_heads);
    double error =
        (4 * score + 32 * unit) * sqrt((double)dim) + rounding * sqrt((double)dim) + bf16 * sqrt((double)dim);
    compare(result, "d_q", result->d_q, d_q, rows * dim, error * size, rounding);
    compare(result, "d_k", result->d_k, d_k, keys * dim, error * size * many, rounding);
    compare(result, "d_v", result->d_v, d_v, keys * dim, (2 * score + 16 * unit + bf16) * many, rounding);
    result->gap_written |= gaps_written(&s->d_q) || gaps_written(&s->d_k) || gaps_written(&s->d_v);
  }
  free(o), free(lse), free(d_q), free(d_k), free(d_v);
}

bool x86_case_run(const x86_case *c, x86_result *result, sptx_error *error) {
  x86_session s = {0};
  *result = (x86_result){0};
  enum sptx_code code = session_open(&s, c, error);
  if (code == SPTX_CODE_OK)
    code = session_launch(&s, c->pass == SPTX_PASS_DECODE ? SPTX_PASS_DECODE : SPTX_PASS_FORWARD, error);
  if (code == SPTX_CODE_OK && c->pass == SPTX_PASS_BACKWARD)
    code = session_launch(&s, SPTX_PASS_BACKWARD, error);
  if (code == SPTX_CODE_OK)
    compare_all(&s, result);
  session_close(&s);
  return code == SPTX_CODE_OK;
}

/* -0 plus 0 is 0, so a row of -0 shows that it was added to even where nothing was. */
static int64_t mark_touched(const x86_tensor *t, int64_t item, int64_t *owner) {
  float *values = (float *)t->bytes;
  int64_t shared = 0;
  for (int64_t row = 0; row < t->batch * t->heads * t->rows; row++)
    for (int64_t d = 0; d < t->dim; d++)
      if (values[row * t->dim + d] != 0 || !signbit(values[row * t->dim + d])) {
        shared += owner[row] >= 0 && owner[row] != item;
        owner[row] = item;
        break;
      }
  return shared;
}

static void fill_minus_zero(const x86_tensor *t) {
  for (int64_t k = 0; k < t->elements; k++)
    ((float *)t->bytes)[k] = -0.0f;
}

int64_t x86_case_shared_rows(const x86_case *c) {
  x86_session s = {0};
  sptx_error error = {0};
  x86_call call;
  cr_assert(session_open(&s, c, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_assert(session_launch(&s, SPTX_PASS_FORWARD, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_assert(session_compile(&s, SPTX_PASS_BACKWARD, &error) == SPTX_CODE_OK, "%s", error.message);
  call_open(&s, 1, &call);
  int64_t rows = s.d_k.batch * s.d_k.heads * s.d_k.rows, shared = 0, items = 0;
  int64_t *owner = malloc((size_t)rows * sizeof *owner);
  for (int k = 0; k < s.plan->launch_count; k++) {
    const sptx_x86_launch *launch = &s.plan->launches[k];
    bool backward = strstr(launch->symbol, "_backward_") != NULL;
    sptx_x86_kernel kernel = NULL;
    cr_assert(kernel_of(&s, launch, &kernel, &error) == SPTX_CODE_OK, "%s", error.message);
    memset(owner, 0xff, (size_t)rows * sizeof *owner);
    for (int64_t item = 0; item < launch->items; item++) {
      if (backward)
        fill_minus_zero(&s.d_k), fill_minus_zero(&s.d_v);
      kernel(&call.args, launch->params, item, call.scratches);
      if (backward)
        shared += mark_touched(&s.d_k, item, owner) + mark_touched(&s.d_v, item, owner);
    }
    items += backward ? launch->items : 0;
  }
  cr_assert(items > 1, "nothing was split: %ld items", (long)items);
  free(owner);
  call_close(&call);
  session_close(&s);
  return shared;
}

void x86_result_clear(x86_result *result) {
  free(result->o), free(result->lse), free(result->d_q), free(result->d_k), free(result->d_v);
}

void x86_case_check(const x86_case *c) {
  x86_result result;
  sptx_error error = {0};
  bool ran = x86_case_run(c, &result, &error);
  cr_assert(ran, "%s", error.message);
  cr_expect(
      result.worst <= 1 && !result.gap_written,
      "%s element %d pass %d n_q %ld n_k %ld heads %ld/%ld dim %d layout %d seed %lu, %s: %.3g times the "
      "tolerance at %s%s",
      sptx_isa_name(c->isa), c->element, c->pass, (long)c->n_q, (long)c->n_k, (long)c->heads,
      (long)c->kv_heads, c->head_dim, c->layout, (unsigned long)c->seed, c->pattern, result.worst,
      result.where, result.gap_written ? "; a gap between rows was written" : "");
  x86_result_clear(&result);
}
