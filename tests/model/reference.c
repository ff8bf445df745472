/* The float64 oracle of the whole transformer, forward and backward; see reference.h. */
#include "tests/model/reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reference {
  const sptx_config *config;
  const sptx_parameters *parameters;
  const float *weights;
  int64_t n, width;
};

static void norm(const struct reference *r, int64_t gain, int64_t bias, const double *x, double *y) {
  for (int64_t i = 0; i < r->n; i++, x += r->width, y += r->width) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < r->width; c++)
      mean += x[c] / (double)r->width;
    for (int64_t c = 0; c < r->width; c++)
      variance += (x[c] - mean) * (x[c] - mean) / (double)r->width;
    for (int64_t c = 0; c < r->width; c++)
      y[c] = (x[c] - mean) / sqrt(variance + 1e-5) * r->weights[gain + c] + r->weights[bias + c];
  }
}

/* bias < 0: none */
static void linear(const struct reference *r, int64_t weight, int64_t bias, int64_t in, int64_t out,
                   const double *x, double *y) {
  for (int64_t i = 0; i < r->n; i++)
    for (int64_t o = 0; o < out; o++) {
      double sum = bias < 0 ? 0 : r->weights[bias + o];
      for (int64_t c = 0; c < in; c++)
        sum += x[i * in + c] * r->weights[weight + o * in + c];
      y[i * out + o] = sum;
    }
}

static void attention(const struct reference *r, int64_t layer, reference_mask *mask, const double *qkv,
                      double *out) {
  int64_t heads = r->config->heads, dim = r->width / heads, row = 3 * r->width;
  double *p = malloc((size_t)r->n * sizeof *p);
  double scale = 1 / sqrt((double)sptx_config_query_key_dim(r->config));
  for (int64_t h = 0; h < heads; h++)
    for (int64_t i = 0; i < r->n; i++) {
      double sum = 0;
      for (int64_t j = 0; j < r->n; j++) {
        p[j] = 0;
        for (int64_t c = 0; c < dim; c++)
          p[j] += qkv[i * row + h * dim + c] * qkv[j * row + r->width + h * dim + c];
        p[j] = mask(r->config->pattern, layer, h, i, j) ? exp(scale * p[j]) : 0;
        sum += p[j];
      }
      for (int64_t c = 0; c < dim; c++) {
        double value = 0;
        for (int64_t j = 0; j < r->n; j++)
          value += p[j] / sum * qkv[j * row + 2 * r->width + h * dim + c];
        out[i * r->width + h * dim + c] = value;
      }
    }
  free(p);
}

/* h = h + a(h) + b(h), b(h) = ff(norm(h + a(h))) */
static void block(const struct reference *r, int64_t layer, reference_mask *mask, double *h) {
  const struct sptx_layer_offsets *at = &r->parameters->layers[layer];
  int64_t size = r->n * r->width, inner = sptx_config_inner(r->config);
  double *x = malloc((size_t)size * sizeof *x), *qkv = malloc((size_t)(3 * size) * sizeof *qkv);
  double *u = malloc((size_t)(r->n * inner) * sizeof *u), *branch = malloc((size_t)size * sizeof *branch);
  norm(r, at->norm1_gain, at->norm1_bias, h, x);
  linear(r, at->qkv_weight, at->qkv_bias, r->width, 3 * r->width, x, qkv);
  attention(r, layer, mask, qkv, x);
  linear(r, at->projection_weight, at->projection_bias, r->width, r->width, x, branch);
  for (int64_t i = 0; i < size; i++)
    h[i] += branch[i];
  norm(r, at->norm2_gain, at->norm2_bias, h, x);
  linear(r, at->expand_weight, at->expand_bias, r->width, inner, x, u);
  for (int64_t i = 0; i < r->n * inner; i++)
    u[i] /= 1 + exp(-1.702 * u[i]);
  linear(r, at->contract_weight, at->contract_bias, inner, r->width, u, branch);
  for (int64_t i = 0; i < size; i++)
    h[i] += branch[i];
  free(x);
  free(qkv);
  free(u);
  free(branch);
}

static void embed(const struct reference *r, const uint8_t *tokens, double *h) {
  const sptx_parameters *p = r->parameters;
  for (int64_t i = 0; i < r->n; i++)
    for (int64_t c = 0; c < r->width; c++) {
      double sum = r->weights[i ? p->token_table + tokens[i - 1] * r->width + c : p->start + c];
      for (int k = 0; k < p->position_tables; k++)
        sum += r->weights[p->position_table[k] + i / p->position_divisor[k] % p->position_size[k] * r->width +
                          c];
      h[i * r->width + c] = sum;
    }
}

double reference_loss(const sptx_config *config, const sptx_parameters *parameters, const float *weights,
                      const uint8_t *tokens, int64_t batch, reference_mask *mask, double *logits) {
  struct reference r = {config, parameters, weights, config->length, config->width};
  double *h = malloc((size_t)(r.n * r.width) * sizeof *h), *x = malloc((size_t)(r.n * r.width) * sizeof *x);
  double *y = malloc((size_t)(r.n * 256) * sizeof *y), loss = 0;
  for (int64_t b = 0; b < batch; b++, tokens += r.n) {
    embed(&r, tokens, h);
    for (int64_t layer = 0; layer < config->layers; layer++)
      block(&r, layer, mask, h);
    norm(&r, parameters->norm_gain, parameters->norm_bias, h, x);
    linear(&r, parameters->output_weight, -1, r.width, 256, x, y);
    for (int64_t i = 0; i < r.n; i++) {
      double sum = 0;
      for (int c = 0; c < 256; c++)
        sum += exp(y[i * 256 + c]);
      loss += log(sum) - y[i * 256 + tokens[i]];
    }
    if (logits)
      memcpy(logits + b * r.n * 256, y, (size_t)(r.n * 256) * sizeof *y);
  }
  free(h);
  free(x);
  free(y);
  return loss / (double)(batch * r.n);
}
