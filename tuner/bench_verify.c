/* Checks attention results against float64, row by row, over the pattern's oracle: nothing here shares a line
 * with lowering or the kernels. Formulas: Child et al. 2019 section 4.2 for the forward, and its derivative
 * written out, dS = P * (dP - rowsum(dO * O)), for the backward. */
#include "patterns/pattern.h"
#include "tuner/bench.h"
#include "tuner/element.h"
#include <math.h>
#include <stdlib.h>

/* About how many steps (oracle calls and multiplications) one comparison may take on each thread. */
#define WORK_LIMIT 4e8
#define ORACLE_WORK 20.0

struct verifier {
  const sptx_bench_request *request;
  const sptx_bench_tensors *tensors;
  sptx_instance instance;
  double scale;
};

/* Sums of squares, from which relative errors follow. */
struct norms {
  double difference, reference;
};

enum { COMPARE_O, COMPARE_LSE, COMPARE_D_Q, COMPARE_D_K, COMPARE_D_V, COMPARED };

static void compare(struct norms *sums, double result, double reference) {
  double difference = result == reference ? 0 : result - reference; /* -inf equals -inf */
  sums->difference += difference * difference;
  if (isfinite(reference))
    sums->reference += reference * reference;
}

static double relative(const struct norms *sums) {
  if (isnan(sums->difference))
    return INFINITY;
  return sums->difference == 0 ? 0 : sqrt(sums->difference / sums->reference);
}

static void load_row(const struct verifier *verifier, const void *tensor, int64_t row, double *values) {
  int64_t dim = verifier->request->head_dim;
  for (int64_t d = 0; d < dim; d++)
    values[d] = sptx_element_get(verifier->request->dtype, tensor, (size_t)(row * dim + d));
}

static double dot(const double *a, const double *b, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; d++)
    sum += a[d] * b[d];
  return sum;
}

/* Room for one thread: vectors of head_dim values, and the scores and keys of one row. */
struct room {
  double *q, *k, *v, *o, *d_o, *d_q, *d_k, *d_v, *scores;
  int64_t *keys;
};

static bool room_create(const sptx_bench_request *request, struct room *room) {
  size_t dim = (size_t)request->head_dim, n = (size_t)request->n_k;
  double *vectors = calloc(8 * dim + n, sizeof *vectors);
  int64_t *keys = calloc(n, sizeof *keys);
  if (!vectors || !keys) {
    free(vectors);
    free(keys);
    return false;
  }
  double **parts[] = {&room->q,   &room->k,   &room->v,   &room->o,     &room->d_o,
                      &room->d_q, &room->d_k, &room->d_v, &room->scores};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    *parts[i] = vectors + i * dim;
  room->keys = keys;
  return true;
}

static void room_free(struct room *room) {
  free(room->q);
  free(room->keys);
}

/* The keys of one query and their probabilities; returns their log-sum-exp, or fails with the oracle. */
static enum sptx_code softmax_row(const struct verifier *verifier, int64_t row, struct room *room,
                                  int64_t *count, double *lse, sptx_error *error) {
  const sptx_bench_request *request = verifier->request;
  int64_t i = row % request->n_q, head = row / request->n_q % request->heads;
  int64_t batch = row / request->n_q / request->heads;
  int64_t group = request->heads / request->kv_heads;
  int64_t first_key_row = (batch * request->kv_heads + head / group) * request->n_k;
  double largest = -INFINITY, sum = 0;
  *count = 0;
  load_row(verifier, verifier->tensors->q, row, room->q);
  for (int64_t j = 0; j < request->n_k; j++) {
    bool inside;
    SPTX_TRY(sptx_instance_contains(&verifier->instance, head, i, j, &inside, error));
    if (!inside)
      continue;
    load_row(verifier, verifier->tensors->k, first_key_row + j, room->k);
    room->keys[*count] = first_key_row + j;
    room->scores[*count] = verifier->scale * dot(room->q, room->k, request->head_dim);
    largest = fmax(largest, room->scores[(*count)++]);
  }
  for (int64_t s = 0; s < *count; s++)
    sum += exp(room->scores[s] - largest);
  *lse = *count ? largest + log(sum) : -INFINITY;
  for (int64_t s = 0; s < *count; s++)
    room->scores[s] = exp(room->scores[s] - *lse);
  return SPTX_CODE_OK;
}

/* o, lse and, where a backward is wanted, d_q of one (batch, head, query). */
static enum sptx_code verify_row(const struct verifier *verifier, int64_t row, struct room *room,
                                 struct norms *sums, sptx_error *error) {
  const sptx_bench_request *request = verifier->request;
  const int64_t dim = request->head_dim;
  const bool backward = request->passes[SPTX_BENCH_BACKWARD];
  int64_t count;
  double lse;
  SPTX_TRY(softmax_row(verifier, row, room, &count, &lse, error));
  for (int64_t d = 0; d < dim; d++)
    room->o[d] = room->d_q[d] = 0;
  for (int64_t s = 0; s < count; s++) {
    load_row(verifier, verifier->tensors->v, room->keys[s], room->v);
    for (int64_t d = 0; d < dim; d++)
      room->o[d] += room->scores[s] * room->v[d];
  }
  for (int64_t d = 0; d < dim; d++)
    compare(&sums[COMPARE_O], sptx_element_get(request->dtype, verifier->tensors->o, (size_t)(row * dim + d)),
            room->o[d]);
  compare(&sums[COMPARE_LSE], verifier->tensors->lse[row], lse);
  if (!backward)
    return SPTX_CODE_OK;
  load_row(verifier, verifier->tensors->d_o, row, room->d_o);
  double delta = dot(room->d_o, room->o, dim);
  for (int64_t s = 0; s < count; s++) {
    load_row(verifier, verifier->tensors->k, room->keys[s], room->k);
    load_row(verifier, verifier->tensors->v, room->keys[s], room->v);
    double d_score = room->scores[s] * (dot(room->d_o, room->v, dim) - delta);
    for (int64_t d = 0; d < dim; d++)
      room->d_q[d] += verifier->scale * d_score * room->k[d];
  }
  for (int64_t d = 0; d < dim; d++)
    compare(&sums[COMPARE_D_Q],
            sptx_element_get(request->dtype, verifier->tensors->d_q, (size_t)(row * dim + d)), room->d_q[d]);
  return SPTX_CODE_OK;
}

/* What query row `row` adds to the gradients of the key and value in room. */
static void add_to_key(const struct verifier *verifier, int64_t row, struct room *room) {
  const int64_t dim = verifier->request->head_dim;
  load_row(verifier, verifier->tensors->q, row, room->q);
  load_row(verifier, verifier->tensors->o, row, room->o);
  load_row(verifier, verifier->tensors->d_o, row, room->d_o);
  double probability = exp(verifier->scale * dot(room->q, room->k, dim) - verifier->tensors->lse[row]);
  double d_score = probability * (dot(room->d_o, room->v, dim) - dot(room->d_o, room->o, dim));
  for (int64_t d = 0; d < dim; d++) {
    room->d_v[d] += probability * room->d_o[d];
    room->d_k[d] += verifier->scale * d_score * room->q[d];
  }
}

/* d_k and d_v of one (batch, key head, key). */
static enum sptx_code verify_key(const struct verifier *verifier, int64_t key_row, struct room *room,
                                 struct norms *sums, sptx_error *error) {
  const sptx_bench_request *request = verifier->request;
  const int64_t dim = request->head_dim, group = request->heads / request->kv_heads;
  int64_t j = key_row % request->n_k, key_head = key_row / request->n_k % request->kv_heads;
  int64_t batch = key_row / request->n_k / request->kv_heads;
  load_row(verifier, verifier->tensors->k, key_row, room->k);
  load_row(verifier, verifier->tensors->v, key_row, room->v);
  for (int64_t d = 0; d < dim; d++)
    room->d_k[d] = room->d_v[d] = 0;
  for (int64_t head = key_head * group; head < (key_head + 1) * group; head++)
    for (int64_t i = 0; i < request->n_q; i++) {
      bool inside;
      SPTX_TRY(sptx_instance_contains(&verifier->instance, head, i, j, &inside, error));
      if (inside)
        add_to_key(verifier, (batch * request->heads + head) * request->n_q + i, room);
    }
  for (int64_t d = 0; d < dim; d++) {
    size_t index = (size_t)(key_row * dim + d);
    compare(&sums[COMPARE_D_K], sptx_element_get(request->dtype, verifier->tensors->d_k, index),
            room->d_k[d]);
    compare(&sums[COMPARE_D_V], sptx_element_get(request->dtype, verifier->tensors->d_v, index),
            room->d_v[d]);
  }
  return SPTX_CODE_OK;
}

typedef enum sptx_code (*verify_one)(const struct verifier *, int64_t, struct room *, struct norms *,
                                     sptx_error *);

/* Sample s of count: one row of its equal share of all rows, chosen by a hash so that no period of the
 * pattern hides between samples; the last share gives the last row. */
static int64_t sampled_row(int64_t total, int64_t count, int64_t s) {
  int64_t first = s * total / count, end = (s + 1) * total / count;
  uint64_t hash = ((uint64_t)s + 1) * 0x9e3779b97f4a7c15u >> 20;
  return s == count - 1 ? end - 1 : first + (int64_t)(hash % (uint64_t)(end - first));
}

static enum sptx_code verify_sample(const struct verifier *verifier, verify_one verify, int64_t total,
                                    int64_t count, struct norms *sums, sptx_error *error) {
  enum sptx_code result = SPTX_CODE_OK;
#pragma omp parallel num_threads(verifier->request->threads)
  {
    struct room room;
    struct norms own[COMPARED] = {{0, 0}};
    sptx_error own_error;
    bool ready = room_create(verifier->request, &room);
    enum sptx_code code =
        ready ? SPTX_CODE_OK
              : sptx_fail(&own_error, SPTX_CODE_OUT_OF_MEMORY, "no memory to verify a row of %lld keys",
                          (long long)verifier->request->n_k);
#pragma omp for schedule(dynamic)
    for (int64_t s = 0; s < count; s++)
      if (code == SPTX_CODE_OK)
        code = verify(verifier, sampled_row(total, count, s), &room, own, &own_error);
#pragma omp critical
    {
      for (int c = 0; c < COMPARED; c++) {
        sums[c].difference += own[c].difference;
        sums[c].reference += own[c].reference;
      }
      if (code != SPTX_CODE_OK) {
        result = code;
        if (error)
          *error = own_error;
      }
    }
    if (ready)
      room_free(&room);
  }
  return result;
}

static int64_t sample_size(const sptx_bench_request *request, int64_t total, double length) {
  double work = length * (ORACLE_WORK + 4.0 * (double)request->head_dim);
  double affordable = WORK_LIMIT * request->threads / work;
  return affordable >= (double)total ? total : affordable < 1 ? 1 : (int64_t)affordable;
}

enum sptx_code sptx_bench_verify(const sptx_bench_request *request, size_t step,
                                 const sptx_bench_tensors *tensors, sptx_bench_check *check,
                                 sptx_error *error) {
  struct verifier verifier = {
      .request = request, .tensors = tensors, .scale = 1 / sqrt((double)request->head_dim)};
  struct norms sums[COMPARED] = {{0, 0}};
  sptx_pattern *pattern;
  enum sptx_code code;
  sptx_override *overrides = calloc(request->param_count + 1, sizeof *overrides);
  if (!overrides)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the pattern's parameters");
  for (size_t p = 0; p < request->param_count; p++)
    overrides[p] = (sptx_override){request->params[p].name, request->params[p].value};
  code = sptx_pattern_read(request->pattern_path, overrides, request->param_count, &pattern, error);
  free(overrides);
  if (code != SPTX_CODE_OK)
    return code;
  SPTX_TRY_GOTO(sptx_pattern_resolve(pattern, step, request->heads, request->n_q, request->n_k,
                                     &verifier.instance, error),
                release);
  check->rows_total = request->batch * request->heads * request->n_q;
  check->rows = sample_size(request, check->rows_total, (double)request->n_k);
  SPTX_TRY_GOTO(verify_sample(&verifier, verify_row, check->rows_total, check->rows, sums, error), clear);
  check->forward_error = fmax(relative(&sums[COMPARE_O]), relative(&sums[COMPARE_LSE]));
  check->keys_total = check->keys = 0;
  check->backward_error = 0;
  if (request->passes[SPTX_BENCH_BACKWARD]) {
    int64_t group = request->heads / request->kv_heads;
    check->keys_total = request->batch * request->kv_heads * request->n_k;
    check->keys = sample_size(request, check->keys_total, (double)(request->n_q * group));
    SPTX_TRY_GOTO(verify_sample(&verifier, verify_key, check->keys_total, check->keys, sums, error), clear);
    for (int c = COMPARE_D_Q; c < COMPARED; c++)
      check->backward_error = fmax(check->backward_error, relative(&sums[c]));
  }
clear:
  sptx_instance_clear(&verifier.instance);
release:
  sptx_pattern_release(pattern);
  return code;
}

bool sptx_bench_is_exact(const sptx_bench_request *request, const sptx_bench_check *check) {
  double limit = request->dtype == SPTX_F32   ? 16 * 0x1p-24 * sqrt((double)request->n_k)
                 : request->dtype == SPTX_F16 ? 16 * 0x1p-11
                                              : 16 * 0x1p-8;
  return check->forward_error <= limit && check->backward_error <= limit;
}
