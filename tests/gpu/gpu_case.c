/* How a GPU case is created, run and compared; see gpu_case.h. */
#include "tests/gpu/gpu_case.h"

#include "gen/problem.h"
#include "gen/schedule_text.h"
#include "patterns/pattern.h"
#include "runtime/attention.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All bits set is a NaN in every element type: what is read beside the rows, or not written, shows. */
enum { POISON = 0xff, MOST_HEADS = 64 };

/* A tensor on the device, its image in host memory, and its values as doubles. */
typedef struct tensor {
  sptx_strides strides;
  int64_t batch, heads, rows, dim, elements;
  enum sptx_element element;
  unsigned char *bytes;
  double *values;
  sptx_cu_pointer device;
} tensor;

enum { Q, K, V, O, D_O, D_Q, D_K, D_V, TENSORS };
static const char *const tensor_names[] = {"q", "k", "v", "o", "d_o", "d_q", "d_k", "d_v"};

typedef struct run_state {
  gpu_session *session;
  const gpu_case *c;
  sptx_pattern *pattern;
  sptx_attention *attention;
  sptx_instance instance;
  tensor tensors[TENSORS];
  sptx_cu_pointer lse;
  float *lse_bytes;
  int64_t queries;
  float slopes[MOST_HEADS];
  double scale;
  sptx_error error;
} run_state;

static size_t tensor_bytes(const tensor *t) {
  return (size_t)t->elements * reference_element_size(t->element);
}

static int64_t tensor_count(const tensor *t) {
  return t->batch * t->heads * t->rows * t->dim;
}

static int64_t tensor_place(const tensor *t, int64_t index) {
  int64_t d = index % t->dim, row = index / t->dim % t->rows;
  int64_t head = index / t->dim / t->rows % t->heads, batch = index / t->dim / t->rows / t->heads;
  return batch * t->strides.batch + head * t->strides.head + row * t->strides.position + d;
}

/* Strides are those of `room` rows for each head: a decode call uses the first of n_q. */
static enum sptx_code tensor_create(run_state *s, tensor *t, int64_t heads, int64_t rows, int64_t room) {
  const gpu_case *c = s->c;
  *t = (tensor){.batch = c->batch, .heads = heads, .rows = rows, .dim = c->head_dim, .element = c->element};
  int64_t row = t->dim + (c->layout == GPU_GAPS ? 8 : 0);
  if (c->layout == GPU_POSITION_FIRST)
    t->strides = (sptx_strides){room * heads * row, row, heads * row};
  else
    t->strides = (sptx_strides){heads * room * row, room * row, row};
  t->elements = t->batch * heads * room * row;
  t->bytes = malloc(tensor_bytes(t));
  t->values = calloc((size_t)tensor_count(t), sizeof(double));
  if (!t->bytes || !t->values)
    return sptx_fail(&s->error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a test's tensor");
  memset(t->bytes, POISON, tensor_bytes(t));
  return sptx_cuda_alloc(&s->session->device, tensor_bytes(t), &t->device, &s->error);
}

static enum sptx_code tensor_upload(run_state *s, const tensor *t) {
  return sptx_cuda_upload(&s->session->device, t->device, t->bytes, tensor_bytes(t), &s->error);
}

static enum sptx_code tensor_fill(run_state *s, tensor *t, uint64_t *seed) {
  for (int64_t index = 0; index < tensor_count(t); index++) {
    int64_t place = tensor_place(t, index);
    reference_store(t->element, t->bytes, place, reference_random(seed));
    t->values[index] = reference_load(t->element, t->bytes, place);
  }
  return tensor_upload(s, t);
}

/* Fetches the values; false when something was written between the rows. */
static bool tensor_read(const tensor *t) {
  size_t size = reference_element_size(t->element);
  unsigned char *used = calloc((size_t)t->elements, 1);
  bool clean = true;
  for (int64_t index = 0; index < tensor_count(t); index++) {
    int64_t place = tensor_place(t, index);
    t->values[index] = reference_load(t->element, t->bytes, place);
    used[place] = 1;
  }
  for (int64_t place = 0; place < t->elements; place++)
    for (size_t b = 0; b < size && !used[place]; b++)
      clean &= t->bytes[(size_t)place * size + b] == POISON;
  free(used);
  return clean;
}

static enum sptx_code check(run_state *s, sptx_status status) {
  if (status == SPTX_OK)
    return SPTX_CODE_OK;
  return sptx_fail(&s->error, (enum sptx_code)status, "%s", sptx_last_error(s->session->context));
}

static enum sptx_code load_pattern(run_state *s) {
  const gpu_case *c = s->c;
  char text[4096], name[64];
  sptx_param param = {name, NULL};
  if (c->parameter) {
    snprintf(name, sizeof name, "%s", c->parameter);
    char *equals = strchr(name, '=');
    *equals = '\0';
    param.value = equals + 1;
  }
  if (strchr(c->pattern, '\n')) {
    int length = snprintf(text, sizeof text, "sptx: 1\nname: case\n%s", c->pattern);
    return check(s, sptx_pattern_from_text(s->session->context, text, (size_t)length, "case", &param,
                                           c->parameter != NULL, &s->pattern));
  }
  snprintf(text, sizeof text, "%s/%s.yaml", s->session->patterns, c->pattern);
  return check(s, sptx_pattern_load(s->session->context, text, &param, c->parameter != NULL, &s->pattern));
}

static sptx_tensor_strides strides_of(const tensor *t) {
  return (sptx_tensor_strides){t->strides.batch, t->strides.head, t->strides.position};
}

static enum sptx_code create_attention(run_state *s) {
  const gpu_case *c = s->c;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  sptx_schedule schedule;
  const void *schedules[3] = {NULL, NULL, NULL};
  desc.flags = (c->pass == SPTX_PASS_BACKWARD ? SPTX_WITH_BACKWARD : 0) |
               (c->pass == SPTX_PASS_DECODE ? SPTX_WITH_DECODE : 0) |
               (c->nondeterministic ? SPTX_NONDETERMINISTIC : 0);
  desc.dtype = (sptx_dtype)c->element;
  desc.batch = c->batch;
  desc.heads = c->heads;
  desc.kv_heads = c->kv_heads;
  desc.n_q = c->n_q;
  desc.n_k = c->n_k;
  desc.head_dim = c->head_dim;
  desc.step = c->step;
  desc.scale = c->scale;
  desc.soft_cap = c->soft_cap;
  desc.alibi_slopes = c->alibi ? s->slopes : NULL;
  desc.q = strides_of(&s->tensors[Q]);
  desc.k = strides_of(&s->tensors[K]);
  desc.v = strides_of(&s->tensors[V]);
  desc.o = strides_of(&s->tensors[O]);
  if (c->schedule) {
    SPTX_TRY(sptx_schedule_parse(SPTX_FAMILY_PTX, c->schedule, &schedule, &s->error));
    schedules[c->pass] = &schedule;
    schedules[SPTX_PASS_FORWARD] = &schedule;
  }
  return check(
      s, sptx_attention_create_scheduled(s->session->context, s->pattern, &desc, schedules, &s->attention));
}

static enum sptx_code create_tensors(run_state *s, uint64_t seed) {
  const gpu_case *c = s->c;
  const sptx_cuda_device *device = &s->session->device;
  size_t lse_bytes = (size_t)(c->batch * c->heads * s->queries) * sizeof(float);
  for (int t = 0; t < TENSORS; t++) {
    bool keys = t == K || t == V || t == D_K || t == D_V;
    SPTX_TRY(tensor_create(s, &s->tensors[t], keys ? c->kv_heads : c->heads, keys ? c->n_k : s->queries,
                           keys ? c->n_k : c->n_q));
    if (t == Q || t == K || t == V || t == D_O)
      SPTX_TRY(tensor_fill(s, &s->tensors[t], &seed));
  }
  s->lse_bytes = malloc(lse_bytes);
  if (!s->lse_bytes)
    return sptx_fail(&s->error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a test's tensor");
  SPTX_TRY(sptx_cuda_alloc(device, lse_bytes, &s->lse, &s->error));
  for (int64_t h = 0; h < c->heads; h++)
    s->slopes[h] = exp2f(-8.0f * (float)(h + 1) / (float)c->heads);
  s->scale = c->scale != 0 ? c->scale : 1 / sqrt(c->head_dim);
  return SPTX_CODE_OK;
}

#define POINTER(tensor) ((void *)(uintptr_t)s->tensors[tensor].device)

static enum sptx_code call(run_state *s, enum sptx_pass pass) {
  void *stream = s->session->stream;
  float *lse = s->c->without_lse ? NULL : (float *)(uintptr_t)s->lse;
  if (pass == SPTX_PASS_FORWARD)
    return check(
        s, sptx_attention_forward(s->attention, POINTER(Q), POINTER(K), POINTER(V), POINTER(O), lse, stream));
  if (pass == SPTX_PASS_DECODE)
    return check(s, sptx_attention_decode(s->attention, s->c->position, POINTER(Q), POINTER(K), POINTER(V),
                                          POINTER(O), lse, stream));
  return check(s, sptx_attention_backward(s->attention, POINTER(Q), POINTER(K), POINTER(V), POINTER(O), lse,
                                          POINTER(D_O), POINTER(D_Q), POINTER(D_K), POINTER(D_V), stream));
}

#define DRIVER(session, function, ...)                                                                       \
  sptx_cuda_check(&(session)->driver, (session)->driver.function(__VA_ARGS__), "cu" #function, &s->error)

/* Captures the call in a graph, and launches that. */
static enum sptx_code call_captured(run_state *s, enum sptx_pass pass) {
  gpu_session *session = s->session;
  sptx_cu_graph graph = NULL;
  sptx_cu_executable executable = NULL;
  SPTX_TRY(DRIVER(session, StreamBeginCapture, session->stream, 0));
  enum sptx_code code = call(s, pass);
  sptx_cu_result ended = session->driver.StreamEndCapture(session->stream, &graph);
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_check(&session->driver, ended, "cuStreamEndCapture", &s->error);
  if (code == SPTX_CODE_OK)
    code = DRIVER(session, GraphInstantiate, &executable, graph, 0);
  if (code == SPTX_CODE_OK)
    code = DRIVER(session, GraphLaunch, executable, session->stream);
  if (executable)
    session->driver.GraphExecDestroy(executable);
  if (graph)
    session->driver.GraphDestroy(graph);
  return code;
}

static enum sptx_code enqueue(run_state *s, enum sptx_pass pass) {
  if (!s->c->captured)
    return call(s, pass);
  SPTX_TRY(sptx_cuda_enter(&s->session->device, &s->error));
  enum sptx_code code = call_captured(s, pass);
  sptx_cuda_leave(&s->session->device);
  return code;
}

/* Runs a pass on poisoned outputs, and fetches them. */
static enum sptx_code run_pass(run_state *s, enum sptx_pass pass) {
  const sptx_cuda_device *device = &s->session->device;
  int first = pass == SPTX_PASS_BACKWARD ? D_Q : O, last = pass == SPTX_PASS_BACKWARD ? D_V : O;
  size_t lse_bytes = (size_t)(s->c->batch * s->c->heads * s->queries) * sizeof(float);
  for (int t = first; t <= last; t++) {
    memset(s->tensors[t].bytes, POISON, tensor_bytes(&s->tensors[t]));
    SPTX_TRY(tensor_upload(s, &s->tensors[t]));
  }
  if (pass != SPTX_PASS_BACKWARD) {
    memset(s->lse_bytes, POISON, lse_bytes);
    SPTX_TRY(sptx_cuda_upload(device, s->lse, s->lse_bytes, lse_bytes, &s->error));
  }
  SPTX_TRY(enqueue(s, pass));
  SPTX_TRY(sptx_cuda_stream_synchronize(device, s->session->stream, &s->error));
  for (int t = first; t <= last; t++)
    SPTX_TRY(sptx_cuda_download(device, s->tensors[t].bytes, s->tensors[t].device,
                                tensor_bytes(&s->tensors[t]), &s->error));
  return sptx_cuda_download(device, s->lse_bytes, s->lse, lse_bytes, &s->error);
}

/* More runs of the backward pass, whose bytes must be those of the first. */
static enum sptx_code run_again(run_state *s, char *message, size_t size) {
  unsigned char *first[3] = {NULL, NULL, NULL};
  enum sptx_code code = SPTX_CODE_OK;
  for (int t = 0; t < 3; t++) {
    first[t] = malloc(tensor_bytes(&s->tensors[D_Q + t]));
    memcpy(first[t], s->tensors[D_Q + t].bytes, tensor_bytes(&s->tensors[D_Q + t]));
  }
  for (int run = 1; run < s->c->repeats && code == SPTX_CODE_OK; run++) {
    code = run_pass(s, SPTX_PASS_BACKWARD);
    for (int t = 0; t < 3; t++)
      if (memcmp(first[t], s->tensors[D_Q + t].bytes, tensor_bytes(&s->tensors[D_Q + t])) != 0)
        snprintf(message, size, "%s of run %d differs from the first run's", tensor_names[D_Q + t], run + 1);
  }
  for (int t = 0; t < 3; t++)
    free(first[t]);
  return code;
}

typedef struct oracle {
  const sptx_instance *instance;
  int64_t offset; /* decode: the position of the only query */
} oracle;

static bool contains(void *context, int64_t head, int64_t i, int64_t j) {
  const oracle *o = context;
  bool found = false;
  sptx_instance_contains(o->instance, head, i + o->offset, j, &found, NULL);
  return found;
}

/* Says in message where got is furthest from want, when that is beyond the tolerance. */
static void compare(const char *name, const double *got, const double *want, int64_t count, double absolute,
                    double relative, char *message, size_t size) {
  double worst = 1;
  for (int64_t k = 0; k < count; k++) {
    double error = got[k] == want[k] ? 0 : fabs(got[k] - want[k]) / (absolute + relative * fabs(want[k]));
    if (isnan(error))
      error = INFINITY;
    if (error <= worst)
      continue;
    worst = error;
    snprintf(message, size, "%s[%lld] is %.7g, not %.7g: %.3g times the tolerance", name, (long long)k,
             got[k], want[k], error);
  }
}

/* Tolerances. A score is a float32 sum of head_dim products, in float32 by three TF32 products: an error of a
 * few 2^-22 of the sum of |q k| scale, which moves P by as much in relative terms. Tensor cores take P and dS
 * rounded to the element type (half of epsilon). Sums over keys average errors out; sums over the queries of
 * a key grow like a random walk. */
static void compare_all(run_state *s, char *message, size_t size) {
  const gpu_case *c = s->c;
  oracle context = {&s->instance, c->pass == SPTX_PASS_DECODE ? c->position - (c->n_k - c->n_q) : 0};
  sptx_problem shape = {.batch = c->batch,
                        .heads = c->heads,
                        .kv_heads = c->kv_heads,
                        .n_q = s->queries,
                        .n_k = c->n_k,
                        .head_dim = c->head_dim,
                        .soft_cap = c->soft_cap != 0,
                        .alibi = c->alibi};
  const tensor *t = s->tensors;
  int64_t count[] = {tensor_count(&t[O]), tensor_count(&t[K]), tensor_count(&t[O]) / c->head_dim};
  double *o = malloc((size_t)count[0] * 8), *d_q = malloc((size_t)count[0] * 8),
         *d_k = malloc((size_t)count[1] * 8), *d_v = malloc((size_t)count[1] * 8),
         *lse = malloc((size_t)count[2] * 8), *got_lse = malloc((size_t)count[2] * 8);
  reference_call call = {
      &shape,      contains,  &context,    s->scale,
      c->soft_cap, s->slopes, t[Q].values, t[K].values,
      t[V].values, o,         lse,         t[D_O].values,
      d_q,         d_k,       d_v,         c->pass == SPTX_PASS_DECODE ? c->position - (c->n_k - 1) : 0};
  double unit = 0x1p-22, dim = c->head_dim,
         p = c->element == SPTX_ELEMENT_F32 ? 0 : reference_epsilon(c->element) / 2;
  double score =
      4 * unit * (2 + fabs(s->scale) * dim / 2 + c->soft_cap + (c->alibi ? (double)c->n_k / 4 : 0));
  double size_of_d = (4 * score + 8 * unit + 2 * p) * sqrt(dim) * sqrt(dim) * fabs(s->scale);
  double many = sqrt((double)s->queries) * (double)(c->heads / c->kv_heads);
  reference_forward(&call);
  for (int64_t k = 0; k < count[2]; k++)
    got_lse[k] = s->lse_bytes[k];
  bool clean = tensor_read(&t[O]);
  if (!c->without_lse)
    compare("lse", got_lse, lse, count[2], score + p / 4, 4 * unit, message, size);
  compare("o", t[O].values, o, count[0], 2 * score + 8 * unit + p, p * 1.01 + unit, message, size);
  if (c->pass == SPTX_PASS_BACKWARD) {
    reference_backward(&call);
    for (int i = D_Q; i <= D_V; i++)
      clean &= tensor_read(&t[i]);
    compare("d_q", t[D_Q].values, d_q, count[0], size_of_d, p * 1.01 + unit, message, size);
    compare("d_k", t[D_K].values, d_k, count[1], size_of_d * many, p * 1.01 + unit, message, size);
    compare("d_v", t[D_V].values, d_v, count[1], (2 * score + 8 * unit + p) * many, p * 1.01 + unit, message,
            size);
  }
  if (!clean)
    snprintf(message, size, "something was written between the rows of an output");
  free(o), free(d_q), free(d_k), free(d_v), free(lse), free(got_lse);
}

static enum sptx_code run_case(run_state *s, uint64_t seed, char *message, size_t size) {
  const gpu_case *c = s->c;
  SPTX_TRY(create_tensors(s, seed));
  SPTX_TRY(load_pattern(s));
  SPTX_TRY(create_attention(s));
  SPTX_TRY(
      sptx_pattern_resolve(s->pattern, (size_t)c->step, c->heads, c->n_q, c->n_k, &s->instance, &s->error));
  SPTX_TRY(run_pass(s, c->pass == SPTX_PASS_DECODE ? SPTX_PASS_DECODE : SPTX_PASS_FORWARD));
  if (c->pass == SPTX_PASS_BACKWARD) {
    SPTX_TRY(run_pass(s, SPTX_PASS_BACKWARD));
    SPTX_TRY(run_again(s, message, size));
  }
  compare_all(s, message, size);
  return SPTX_CODE_OK;
}

enum gpu_verdict gpu_case_run(gpu_session *session, const gpu_case *c, uint64_t seed, char *message,
                              size_t size) {
  run_state s = {.session = session, .c = c, .queries = c->pass == SPTX_PASS_DECODE ? 1 : c->n_q};
  message[0] = '\0';
  enum sptx_code code = run_case(&s, seed, message, size);
  for (int t = 0; t < TENSORS; t++) {
    sptx_cuda_free(&session->device, s.tensors[t].device);
    free(s.tensors[t].bytes);
    free(s.tensors[t].values);
  }
  sptx_cuda_free(&session->device, s.lse);
  free(s.lse_bytes);
  sptx_instance_clear(&s.instance);
  sptx_attention_destroy(s.attention);
  sptx_pattern_destroy(s.pattern);
  if (code == SPTX_CODE_OK)
    return message[0] ? GPU_FAILED : GPU_PASSED;
  snprintf(message, size, "%s", s.error.message);
  return code == SPTX_CODE_UNSUPPORTED ? GPU_UNSUPPORTED : code == SPTX_CODE_DEVICE ? GPU_LOST : GPU_FAILED;
}

enum gpu_verdict gpu_session_open(gpu_session *session, const char *device, const char *patterns,
                                  const char *cache, char *message, size_t size) {
  sptx_error error = {0};
  memset(session, 0, sizeof *session);
  session->patterns = patterns;
  sptx_status status = sptx_context_create(&session->context, device);
  if (status != SPTX_OK) {
    snprintf(message, size, "%s", sptx_last_error(NULL));
    return status == SPTX_NO_DEVICE ? GPU_UNSUPPORTED : GPU_FAILED;
  }
  sptx_context_set_threads(session->context, 1);
  sptx_context_set_cache(session->context, cache);
  sptx_context_set_wisdom(session->context, NULL);
  enum sptx_code code = sptx_cuda_driver_open(&session->driver, &error);
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_device_open(&session->driver, atoi(device + strlen("cuda:")), &session->device, &error);
  if (code == SPTX_CODE_OK)
    code = sptx_cuda_stream_create(&session->device, &session->stream, &error);
  snprintf(message, size, "%s", error.message);
  return code == SPTX_CODE_OK ? GPU_PASSED : GPU_FAILED;
}

void gpu_session_close(gpu_session *session) {
  sptx_cuda_stream_destroy(&session->device, session->stream);
  sptx_cuda_device_close(&session->device);
  sptx_cuda_driver_close(&session->driver);
  sptx_context_destroy(session->context);
}

void gpu_case_print(const gpu_case *c, char *text, size_t size) {
  static const char *const layouts[] = {"contiguous", "position first", "gaps"};
  int used =
      snprintf(text, size, "%s %s step %lld %s %s B%lld H%lld/%lld n_q %lld n_k %lld D%d %s", c->pattern,
               c->parameter ? c->parameter : "", (long long)c->step, sptx_element_name(c->element),
               sptx_pass_name(c->pass), (long long)c->batch, (long long)c->heads, (long long)c->kv_heads,
               (long long)c->n_q, (long long)c->n_k, c->head_dim, layouts[c->layout]);
  snprintf(text + used, size - (size_t)used, "%s%s%s%s%s%s%s%s", c->captured ? " captured" : "",
           c->scale < 0 ? " negative scale" : "", c->soft_cap != 0 ? " cap" : "", c->alibi ? " alibi" : "",
           c->nondeterministic ? " nondeterministic" : "", c->without_lse ? " no lse" : "",
           c->schedule ? " " : "", c->schedule ? c->schedule : "");
  for (char *newline; (newline = strchr(text, '\n'));)
    *newline = ';';
}
