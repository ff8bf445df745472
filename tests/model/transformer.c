/* The model's passes against the float64 oracle: logits, gradients, recomputation, decoding. */
#include "model/transformer.h"
#include "model/random.h"
#include "tests/model/reference.h"
#include "tests/model/standin.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEED = 20240611, BATCH = 2 };

static sptx_config small_config(const char *pattern) {
  sptx_config config = {.layers = 4,
                        .width = 48,
                        .heads = 3,
                        .length = 27, /* no multiple of anything */
                        .position_width = 5,
                        .feed_forward = 2,
                        .query_key = 0.5,
                        .batch = BATCH,
                        .seed = SEED,
                        .threads = 2};
  snprintf(config.pattern, sizeof config.pattern, "%s", pattern);
  snprintf(config.device, sizeof config.device, "cpu");
  return config;
}

static void fill_tokens(uint8_t *tokens, int64_t count) {
  for (int64_t i = 0; i < count; i++) /* few distinct ones, so that some repeat */
    tokens[i] = (uint8_t)(40 + sptx_random_bits(SEED, 99, 0, (uint64_t)i) % 9);
}

/* Weights far from their initial values: the zero logits layer would hide everything below it. */
static float *random_weights(const sptx_transformer *t) {
  float *weights = calloc((size_t)t->parameters.floats, sizeof *weights);
  sptx_parameters_initialize(&t->config, &t->parameters, weights);
  for (int p = 0; p < t->parameters.count; p++) {
    const struct sptx_parameter *parameter = &t->parameters.list[p];
    int64_t size = parameter->shape[0] * (parameter->dims == 2 ? parameter->shape[1] : 1);
    for (int64_t i = 0; i < size; i++)
      if (!strstr(parameter->name, "qkv.weight") || weights[parameter->offset + i] != 0)
        weights[parameter->offset + i] +=
            0.1f * (float)sptx_random_normal(SEED + 1, 98, (uint32_t)p, (uint64_t)i);
  }
  /* the biases of query and key columns that do not exist stay zero, as training leaves them */
  int64_t dim = sptx_config_head_dim(&t->config), kept = sptx_config_query_key_dim(&t->config);
  for (int64_t layer = 0; layer < t->config.layers; layer++)
    for (int64_t h = 0; h < 2 * t->config.heads; h++)
      for (int64_t c = kept; c < dim; c++)
        weights[t->parameters.layers[layer].qkv_bias + h * dim + c] = 0;
  return weights;
}

static sptx_transformer *create(const sptx_config *config, enum sptx_transformer_mode mode) {
  sptx_error error = {0};
  sptx_transformer *t = NULL;
  enum sptx_code code = sptx_transformer_create(config, mode, 0, &t, &error);
  cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
  return t;
}

static double step(sptx_transformer *t, const uint8_t *tokens, bool dropout) {
  sptx_error error = {0};
  struct sptx_model_pass pass = {.step = 3, .dropout = dropout};
  double nats = 0;
  enum sptx_code code = sptx_transformer_forward(t, tokens, &pass, &error);
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_loss(t, 1.0f / (float)t->rows, &nats, &error);
  if (code == SPTX_CODE_OK && t->mode == SPTX_TRANSFORMER_TRAIN)
    code = sptx_transformer_backward(t, &pass, NULL, NULL, &error);
  cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
  return nats / (double)t->rows;
}

/* Central differences of the oracle's loss, in float64, in random directions that touch one tensor each: a
 * direction sums over all of a tensor's gradient, so no entry of it can be wrong unseen. */
static void check_gradients(const char *pattern) {
  sptx_config config = small_config(pattern);
  sptx_transformer *t = create(&config, SPTX_TRANSFORMER_TRAIN);
  sptx_error error;
  float *weights = random_weights(t), *moved = malloc((size_t)t->parameters.floats * sizeof *moved);
  uint8_t tokens[BATCH * 27];
  fill_tokens(tokens, BATCH * config.length);
  cr_assert_eq(sptx_transformer_set_weights(t, weights, &error), SPTX_CODE_OK);
  memset(t->gradients, 0x7f, (size_t)t->parameters.floats * sizeof(float));
  double loss = step(t, tokens, false);
  double expected = reference_loss(&config, &t->parameters, weights, tokens, BATCH, standin_contains, NULL);
  cr_assert(fabs(loss - expected) < 1e-6 * expected, "loss %.9f, oracle %.9f", loss, expected);
  for (int p = 0; p < t->parameters.count; p++) {
    const struct sptx_parameter *parameter = &t->parameters.list[p];
    int64_t size = parameter->shape[0] * (parameter->dims == 2 ? parameter->shape[1] : 1);
    const float *gradient = t->gradients + parameter->offset;
    double norm = 0, slope = 0, difference[2];
    for (int64_t i = 0; i < size; i++)
      norm += (double)gradient[i] * gradient[i];
    norm = sqrt(norm);
    /* along the gradient itself, roughened by random factors; a float32 step, so measured as taken */
    for (int side = 0; side < 2; side++) {
      memcpy(moved, weights, (size_t)t->parameters.floats * sizeof *moved);
      slope = 0;
      for (int64_t i = 0; i < size; i++) {
        double direction =
            gradient[i] / norm * (0.5 + sptx_random_uniform(SEED, 97, (uint32_t)p, (uint64_t)i));
        moved[parameter->offset + i] += (float)((side ? -2e-3 : 2e-3) * direction);
      }
      difference[side] =
          reference_loss(&config, &t->parameters, moved, tokens, BATCH, standin_contains, NULL);
    }
    for (int64_t i = 0; i < size; i++)
      slope += gradient[i] *
               (gradient[i] / norm * (0.5 + sptx_random_uniform(SEED, 97, (uint32_t)p, (uint64_t)i)));
    double measured = (difference[0] - difference[1]) / 4e-3;
    cr_expect(norm > 0 && fabs(measured - slope) <= 1e-3 * fabs(slope),
              "%s, %s: measured %.8f, gradient %.8f", pattern, parameter->name, measured, slope);
  }
  free(weights);
  free(moved);
  sptx_transformer_destroy(t);
}

Test(model_transformer, gradients_interleaved) {
  check_gradients("interleave:5");
}
Test(model_transformer, gradients_merged) {
  check_gradients("merge:5");
}
Test(model_transformer, gradients_by_head) {
  check_gradients("heads:5");
}

Test(model_transformer, recomputed_gradients_are_bit_equal) {
  sptx_config config = small_config("interleave:5");
  config.dropout = 0.3;
  sptx_transformer *plain = create(&config, SPTX_TRANSFORMER_TRAIN);
  config.recompute = true;
  sptx_transformer *recomputed = create(&config, SPTX_TRANSFORMER_TRAIN);
  sptx_error error;
  float *weights = random_weights(plain);
  uint8_t tokens[BATCH * 27];
  fill_tokens(tokens, BATCH * config.length);
  cr_assert_eq(sptx_transformer_set_weights(plain, weights, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_transformer_set_weights(recomputed, weights, &error), SPTX_CODE_OK);
  double without = step(plain, tokens, false), first = step(plain, tokens, true);
  config.keep_attention = 2;
  sptx_transformer *attended = create(&config, SPTX_TRANSFORMER_TRAIN);
  cr_assert_eq(sptx_transformer_set_weights(attended, weights, &error), SPTX_CODE_OK);
  double second = step(recomputed, tokens, true), third = step(attended, tokens, true);
  cr_expect_eq(first, second);
  cr_expect_eq(first, third);
  cr_expect_neq(first, without, "dropout changed nothing");
  cr_expect_arr_eq(plain->gradients, recomputed->gradients, (size_t)plain->parameters.floats * sizeof(float));
  cr_expect_arr_eq(plain->gradients, attended->gradients, (size_t)plain->parameters.floats * sizeof(float));
  cr_expect(recomputed->device->peak_bytes < attended->device->peak_bytes);
  cr_expect(attended->device->peak_bytes < plain->device->peak_bytes);
  free(weights);
  sptx_transformer_destroy(plain);
  sptx_transformer_destroy(recomputed);
  sptx_transformer_destroy(attended);
}

/* A kept element is scaled by 1 / (1 - p), so the mean over many steps' dropout tends to the plain output. */
Test(model_transformer, dropout_keeps_the_mean) {
  enum { ROWS = 400, WIDTH = 64 };
  sptx_error error;
  sptx_device *device;
  cr_assert_eq(sptx_device_create_cpu(2, &device, &error), SPTX_CODE_OK);
  static float x[ROWS * WIDTH], branch[ROWS * WIDTH], bias[WIDTH], out[ROWS * WIDTH];
  for (int i = 0; i < ROWS * WIDTH; i++)
    branch[i] = 1;
  struct sptx_residual_forward_args args = {
      .x = x,
      .branch = branch,
      .branch_bias = bias,
      .out = out,
      .dropout = {(uint32_t)(0.25 * 0x1p16), 1 / 0.75f, {SEED, 0}, 4, 7, 0},
      .norm = {.width = WIDTH}};
  cr_assert_eq(SPTX_LAUNCH(device, residual_forward, SPTX_F32, ROWS, &args, &error), SPTX_CODE_OK);
  double sum = 0, adjacent = 0;
  for (int i = 0; i < ROWS * WIDTH; i++)
    sum += out[i], adjacent += i && out[i] != 0 && out[i - 1] != 0;
  double count = ROWS * WIDTH, kept = sum * 0.75 / count;
  /* five standard deviations of a binomial share */
  cr_expect(fabs(kept - 0.75) < 5 * sqrt(0.75 * 0.25 / count), "kept %.4f", kept);
  cr_expect(fabs(adjacent / count - 0.5625) < 5 * sqrt(0.5 / count), "neighbours kept %.4f",
            adjacent / count);
  sptx_device_destroy(device);
}

/* As a GPU does it: a frequent token's rows in parts, which are folded. */
Test(model_transformer, parts_of_a_token_add_up) {
  enum { ROWS = 90, WIDTH = 16, TOKENS = 257, PARTS = 3 };
  static float d_h[ROWS * WIDTH], whole[TOKENS * WIDTH], folded[TOKENS * WIDTH],
      partial[PARTS * TOKENS * WIDTH];
  int32_t begin[TOKENS + 1], rows_of[ROWS];
  sptx_error error;
  sptx_device *device;
  cr_assert_eq(sptx_device_create_cpu(2, &device, &error), SPTX_CODE_OK);
  for (int i = 0; i < ROWS * WIDTH; i++)
    d_h[i] = (float)(i * 37 % 101); /* integers: sums are exact in any order */
  for (int i = 0; i < ROWS; i++)
    rows_of[i] = i * 7 % ROWS;
  for (int token = 0; token <= TOKENS; token++) /* 1 and 4 rows, none, all the others */
    begin[token] = token < 1 ? 0 : token < 2 ? 1 : token < 200 ? 5 : ROWS;
  struct sptx_embed_backward_tokens_args args = {d_h,     begin, rows_of, whole, whole + 256 * WIDTH,
                                                 partial, 1,     WIDTH,   WIDTH};
  cr_assert_eq(SPTX_LAUNCH(device, embed_backward_tokens, SPTX_F32, TOKENS, &args, &error), SPTX_CODE_OK);
  args.parts = PARTS;
  cr_assert_eq(SPTX_LAUNCH(device, embed_backward_tokens, SPTX_F32, PARTS * TOKENS, &args, &error),
               SPTX_CODE_OK);
  struct sptx_fold_args fold = {partial, folded, PARTS, TOKENS * WIDTH};
  cr_assert_eq(SPTX_LAUNCH(device, fold, SPTX_F32, TOKENS * WIDTH / SPTX_FOLD_COLUMNS, &fold, &error),
               SPTX_CODE_OK);
  cr_expect_arr_eq(folded, whole, sizeof whole);
  cr_expect(whole[199 * WIDTH] > whole[1 * WIDTH] && whole[2 * WIDTH] == 0);
  sptx_device_destroy(device);
}

Test(model_transformer, decoding_equals_the_full_forward) {
  sptx_config config = small_config("merge:5");
  config.batch = 1;
  sptx_transformer *full = create(&config, SPTX_TRANSFORMER_EVALUATE);
  sptx_transformer *decoder = create(&config, SPTX_TRANSFORMER_DECODE);
  sptx_error error;
  float *weights = random_weights(full), logits[256];
  uint8_t tokens[27];
  fill_tokens(tokens, config.length);
  cr_assert_eq(sptx_transformer_set_weights(full, weights, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_transformer_set_weights(decoder, weights, &error), SPTX_CODE_OK);
  double loss = step(full, tokens, false);
  double *expected = malloc(27 * 256 * sizeof *expected);
  double oracle = reference_loss(&config, &full->parameters, weights, tokens, 1, standin_contains, expected);
  cr_expect(fabs(loss - oracle) < 1e-6 * oracle);
  for (int64_t i = 0; i < config.length; i++) {
    cr_assert_eq(sptx_transformer_decode(decoder, i, i ? tokens[i - 1] : 0, logits, &error), SPTX_CODE_OK);
    for (int c = 0; c < 256; c++)
      cr_assert(fabs(logits[c] - expected[i * 256 + c]) < 1e-4 * (1 + fabs(expected[i * 256 + c])),
                "position %ld, logit %d: %f, oracle %f", (long)i, c, logits[c], expected[i * 256 + c]);
  }
  free(expected);
  free(weights);
  sptx_transformer_destroy(full);
  sptx_transformer_destroy(decoder);
}
