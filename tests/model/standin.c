/* A plain stand-in for libsptx: float64 attention over strided patterns, by a double loop over all pairs. It
 * lets the model's own arithmetic be tested apart from the kernels. The pattern's path names it:
 * "dense", "interleave:L", "merge:L" or "heads:L" of the strided pattern with stride L. */
#include "tests/model/standin.h"

#include "runtime/sptx.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sptx_pattern {
  char use[16];
  int64_t stride;
};
struct sptx_attention {
  sptx_attention_desc desc;
  sptx_pattern pattern;
};

static sptx_pattern parse(const char *path) {
  sptx_pattern pattern = {"dense", 1};
  const char *slash = strrchr(path, '/');
  sscanf(slash ? slash + 1 : path, "%15[a-z]:%ld", pattern.use, &pattern.stride);
  return pattern;
}

static bool contains(const sptx_pattern *pattern, int64_t step, int64_t head, int64_t i, int64_t j) {
  bool row = i - j < pattern->stride, column = (i - j) % pattern->stride == 0;
  if (j > i)
    return false;
  if (!strcmp(pattern->use, "dense"))
    return true;
  if (!strcmp(pattern->use, "merge"))
    return row || column;
  return (!strcmp(pattern->use, "heads") ? head % 2 : step) ? column : row;
}

bool standin_contains(const char *path, int64_t layer, int64_t head, int64_t i, int64_t j) {
  sptx_pattern pattern = parse(path);
  return contains(&pattern, (int64_t)sptx_pattern_step_of_layer(&pattern, layer), head, i, j);
}

size_t sptx_pattern_steps(const sptx_pattern *pattern) {
  return strcmp(pattern->use, "interleave") ? 1 : 2;
}
size_t sptx_pattern_step_of_layer(const sptx_pattern *pattern, int64_t layer) {
  return (size_t)layer % sptx_pattern_steps(pattern);
}

sptx_status sptx_context_create(sptx_context **ctx, const char *device) {
  (void)device;
  *ctx = calloc(1, 1);
  return *ctx ? SPTX_OK : SPTX_OUT_OF_MEMORY;
}
void sptx_context_destroy(sptx_context *ctx) {
  free(ctx);
}
const char *sptx_last_error(const sptx_context *ctx) {
  (void)ctx;
  return "the stand-in failed";
}
sptx_status sptx_context_set_threads(sptx_context *ctx, int threads) {
  (void)ctx, (void)threads;
  return SPTX_OK;
}
sptx_status sptx_pattern_load(sptx_context *ctx, const char *path, const sptx_param *params, size_t count,
                              sptx_pattern **pattern) {
  (void)ctx, (void)params, (void)count;
  *pattern = malloc(sizeof **pattern);
  if (!*pattern)
    return SPTX_OUT_OF_MEMORY;
  **pattern = parse(path);
  return SPTX_OK;
}
void sptx_pattern_destroy(sptx_pattern *pattern) {
  free(pattern);
}
sptx_status sptx_attention_create(sptx_context *ctx, const sptx_pattern *pattern,
                                  const sptx_attention_desc *desc, sptx_attention **attention) {
  (void)ctx;
  *attention = malloc(sizeof **attention);
  if (!*attention)
    return SPTX_OUT_OF_MEMORY;
  (*attention)->desc = *desc;
  (*attention)->pattern = *pattern;
  return SPTX_OK;
}
void sptx_attention_destroy(sptx_attention *attention) {
  free(attention);
}
sptx_status sptx_attention_get_info(const sptx_attention *attention, sptx_attention_info *info) {
  const sptx_attention_desc *d = &attention->desc;
  info->useful_pairs = d->batch * d->heads * d->n_q * (d->n_k + 1) / 2;
  return SPTX_OK;
}

static double dot(const float *a, const float *b, int64_t count) {
  double sum = 0;
  for (int64_t c = 0; c < count; c++)
    sum += (double)a[c] * b[c];
  return sum;
}

/* One query: probabilities p[0..n_k) and its output; returns ln(sum(exp(score))). */
static double attend(const sptx_attention *a, int64_t head, int64_t i, const float *q, const float *k,
                     const float *v, double *p, float *o) {
  const sptx_attention_desc *d = &a->desc;
  double largest = -INFINITY, sum = 0, out[256] = {0};
  for (int64_t j = 0; j <= i; j++) {
    p[j] = contains(&a->pattern, d->step, head, i, j)
               ? (double)d->scale * dot(q, k + j * d->k.position, d->head_dim)
               : -INFINITY;
    largest = fmax(largest, p[j]);
  }
  for (int64_t j = 0; j <= i; j++)
    sum += p[j] = exp(p[j] - largest);
  for (int64_t j = 0; j <= i; j++) {
    p[j] /= sum;
    for (int64_t c = 0; c < d->head_dim; c++)
      out[c] += p[j] * v[j * d->v.position + c];
  }
  for (int64_t c = 0; o && c < d->head_dim; c++)
    o[c] = (float)out[c];
  return largest + log(sum);
}

sptx_status sptx_attention_forward(const sptx_attention *a, const void *q, const void *k, const void *v,
                                   void *o, float *lse, void *stream) {
  (void)stream;
  const sptx_attention_desc *d = &a->desc;
  double *p = malloc((size_t)d->n_k * sizeof *p);
  if (!p || d->dtype != SPTX_F32)
    return SPTX_UNSUPPORTED;
  for (int64_t b = 0; b < d->batch; b++)
    for (int64_t h = 0; h < d->heads; h++)
      for (int64_t i = 0; i < d->n_q; i++)
        lse[(b * d->heads + h) * d->n_q + i] =
            (float)attend(a, h, i, (const float *)q + b * d->q.batch + h * d->q.head + i * d->q.position,
                          (const float *)k + b * d->k.batch + h * d->k.head,
                          (const float *)v + b * d->v.batch + h * d->v.head, p,
                          (float *)o + b * d->o.batch + h * d->o.head + i * d->o.position);
  free(p);
  return SPTX_OK;
}

sptx_status sptx_attention_decode(const sptx_attention *a, int64_t position, const void *q, const void *k,
                                  const void *v, void *o, float *lse, void *stream) {
  (void)lse, (void)stream;
  const sptx_attention_desc *d = &a->desc;
  double *p = malloc((size_t)d->n_k * sizeof *p);
  if (!p)
    return SPTX_OUT_OF_MEMORY;
  for (int64_t h = 0; h < d->heads; h++)
    attend(a, h, position, (const float *)q + h * d->q.head, (const float *)k + h * d->k.head,
           (const float *)v + h * d->v.head, p, (float *)o + h * d->o.head);
  free(p);
  return SPTX_OK;
}

/* One query's share of the gradients, added into double buffers of (n_k, head_dim) for keys and values. */
static void attend_backward(const sptx_attention *a, int64_t i, const float *q, const float *k,
                            const float *v, const float *d_o, const double *p, float *d_q, double *d_k,
                            double *d_v) {
  const sptx_attention_desc *d = &a->desc;
  int64_t width = d->head_dim;
  double mean = 0, gradient[256] = {0};
  for (int64_t j = 0; j <= i; j++)
    mean += p[j] * dot(d_o, v + j * d->v.position, width);
  for (int64_t j = 0; j <= i; j++) {
    double d_score = p[j] * (dot(d_o, v + j * d->v.position, width) - mean) * d->scale;
    for (int64_t c = 0; c < width; c++) {
      gradient[c] += d_score * k[j * d->k.position + c];
      d_k[j * width + c] += d_score * q[c];
      d_v[j * width + c] += p[j] * d_o[c];
    }
  }
  for (int64_t c = 0; c < width; c++)
    d_q[c] = (float)gradient[c];
}

sptx_status sptx_attention_backward(const sptx_attention *a, const void *q, const void *k, const void *v,
                                    const void *o, const float *lse, const void *d_o, void *d_q, void *d_k,
                                    void *d_v, void *stream) {
  (void)o, (void)lse, (void)stream;
  const sptx_attention_desc *d = &a->desc;
  size_t size = (size_t)(d->n_k * d->head_dim);
  double *p = malloc((size_t)d->n_k * sizeof *p), *sums = malloc(2 * size * sizeof *sums);
  if (!p || !sums)
    return SPTX_OUT_OF_MEMORY;
  for (int64_t b = 0; b < d->batch; b++)
    for (int64_t h = 0; h < d->heads; h++) {
      int64_t key = b * d->k.batch + h * d->k.head, query = b * d->q.batch + h * d->q.head;
      int64_t out = b * d->o.batch + h * d->o.head;
      memset(sums, 0, 2 * size * sizeof *sums);
      for (int64_t i = 0; i < d->n_q; i++) {
        const float *qi = (const float *)q + query + i * d->q.position;
        attend(a, h, i, qi, (const float *)k + key, (const float *)v + key, p, NULL);
        attend_backward(a, i, qi, (const float *)k + key, (const float *)v + key,
                        (const float *)d_o + out + i * d->o.position, p,
                        (float *)d_q + query + i * d->q.position, sums, sums + size);
      }
      for (int64_t j = 0; j < d->n_k; j++)
        for (int64_t c = 0; c < d->head_dim; c++) {
          ((float *)d_k)[key + j * d->k.position + c] = (float)sums[j * d->head_dim + c];
          ((float *)d_v)[key + j * d->v.position + c] = (float)sums[size + (size_t)(j * d->head_dim + c)];
        }
    }
  free(p);
  free(sums);
  return SPTX_OK;
}
