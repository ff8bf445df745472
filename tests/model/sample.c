/* Sampling: tokens against the probabilities they are drawn by, decoding through libsptx against its full
 * forward pass, and the weights of learned attention against the kernels' output. */
#include "model/sample.h"
#include "model/attention_weights.h"
#include "model/random.h"
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEED = 20260311 };

static const float LOGITS[] = {0.3f, -1.2f, 2.0f, 1.1f, -0.4f}; /* the rest is out of reach */
static void fill_logits(float *logits) {
  for (int k = 0; k < 256; k++)
    logits[k] = k < 5 ? LOGITS[k] : -60.0f;
}

/* The drawn frequencies against p (5 entries that sum to 1): five standard deviations of a binomial share. */
static void expect_frequencies(const sptx_sampling *sampling, const double *p) {
  enum { DRAWS = 20000 };
  float logits[256];
  int count[256] = {0};
  sptx_error error;
  fill_logits(logits);
  for (int k = 0; k < DRAWS; k++) {
    uint8_t token;
    double bits;
    cr_assert_eq(sptx_sample_token(logits, sampling, k, &token, &bits, &error), SPTX_CODE_OK);
    count[token]++;
  }
  for (int k = 0; k < 5; k++) {
    double share = (double)count[k] / DRAWS;
    cr_expect(fabs(share - p[k]) <= 5 * sqrt(p[k] * (1 - p[k]) / DRAWS), "token %d: %.4f, expected %.4f", k,
              share, p[k]);
  }
}

static void probabilities(double temperature, double *p) {
  double sum = 0;
  for (int k = 0; k < 5; k++)
    sum += p[k] = exp(LOGITS[k] / temperature);
  for (int k = 0; k < 5; k++)
    p[k] /= sum;
}

Test(model_sample, tokens_are_drawn_by_their_probabilities) {
  double p[5];
  probabilities(1, p);
  expect_frequencies(&(sptx_sampling){SEED, 1, 1}, p);
  probabilities(2, p);
  expect_frequencies(&(sptx_sampling){SEED, 2, 1}, p);
  expect_frequencies(&(sptx_sampling){SEED, 0, 1}, (double[]){0, 0, 1, 0, 0});
}

Test(model_sample, top_p_keeps_the_likeliest) {
  double p[5], kept;
  probabilities(1, p);
  kept = p[2] + p[3];
  cr_assert(p[2] < 0.7 && 0.7 < kept);
  expect_frequencies(&(sptx_sampling){SEED, 1, 0.7}, (double[]){0, 0, p[2] / kept, p[3] / kept, 0});
  expect_frequencies(&(sptx_sampling){SEED, 1, 0}, (double[]){0, 0, 1, 0, 0});
}

Test(model_sample, a_token_hangs_on_seed_and_position) {
  float logits[256];
  uint8_t token, again;
  double bits, p[5];
  int changed = 0;
  sptx_error error;
  fill_logits(logits);
  probabilities(1, p);
  for (int64_t k = 0; k < 100; k++) {
    sptx_sample_token(logits, &(sptx_sampling){SEED, 1, 1}, k, &token, &bits, &error);
    sptx_sample_token(logits, &(sptx_sampling){SEED, 1, 1}, k, &again, &bits, &error);
    cr_expect_eq(token, again);
    cr_expect(fabs(bits + log2(p[token])) < 1e-6, "%f bits, expected %f", bits, -log2(p[token]));
    sptx_sample_token(logits, &(sptx_sampling){SEED + 1, 1, 1}, k, &again, &bits, &error);
    changed += token != again;
  }
  cr_expect_gt(changed, 30);
  logits[77] = NAN;
  cr_expect_eq(sptx_sample_token(logits, &(sptx_sampling){SEED, 1, 1}, 0, &token, &bits, &error),
               SPTX_CODE_FORMAT);
  cr_expect_not_null(strstr(error.message, "token 77"), "%s", error.message);
}

static sptx_config model_config(const char *pattern, int64_t length) {
  sptx_config config = {.layers = 3,
                        .width = 64,
                        .heads = 4,
                        .length = length,
                        .position_width = 8,
                        .feed_forward = 2,
                        .query_key = 1,
                        .batch = 1,
                        .seed = SEED,
                        .threads = 2};
  snprintf(config.pattern, sizeof config.pattern, "%s", pattern);
  snprintf(config.device, sizeof config.device, "cpu");
  return config;
}

/* Its weights are moved far from the initial ones, whose zero logits would hide everything. */
static sptx_transformer *create(const sptx_config *config, enum sptx_transformer_mode mode) {
  sptx_error error = {0};
  sptx_transformer *t = NULL;
  cr_assert_eq(sptx_transformer_create(config, mode, 1, &t, &error), SPTX_CODE_OK, "%s", error.message);
  float *weights = malloc((size_t)t->parameters.floats * sizeof *weights);
  sptx_parameters_initialize(config, &t->parameters, weights);
  for (int64_t k = 0; k < t->parameters.floats; k++)
    weights[k] += 0.15f * (float)sptx_random_normal(SEED, 97, 0, (uint64_t)k);
  cr_assert_eq(sptx_transformer_set_weights(t, weights, &error), SPTX_CODE_OK);
  free(weights);
  return t;
}

static void forward(sptx_transformer *t, const uint8_t *tokens) {
  sptx_error error = {0};
  struct sptx_model_pass pass = {0};
  cr_assert_eq(sptx_transformer_forward(t, tokens, &pass, &error), SPTX_CODE_OK, "%s", error.message);
}

static const char STRIDED[] = "sptx: 1\nname: t\ncausal: true\nsteps:\n  row: {window: {left: 7}}\n"
                              "  column: {stride: {every: 7}}\nuse: interleave\n";
static const char FIXED[] = "sptx: 1\nname: t\ncausal: true\nsteps:\n  block: {block: {size: 8}}\n"
                            "  columns: {columns: {every: 8, last: 2}}\nuse: merge\n";
static const char BY_HEADS[] = "sptx: 1\nname: t\ncausal: true\nsteps:\n  row: {window: {left: 9}}\n"
                               "  column: {stride: {every: 9}}\nuse: heads\n";
static const char *const PATTERNS[] = {STRIDED, FIXED, BY_HEADS};

static const char *write_pattern(int which) {
  return test_write("pattern.yaml", PATTERNS[which], strlen(PATTERNS[which]));
}

/* Draws a sequence and holds each position's logits, seen through the bits of its token, against a full
 * forward pass over the finished sequence. */
static void expect_sampled_as_evaluated(int which, int64_t length) {
  sptx_config config = model_config(write_pattern(which), length);
  sptx_transformer *decoder = create(&config, SPTX_TRANSFORMER_DECODE);
  sptx_transformer *full = create(&config, SPTX_TRANSFORMER_EVALUATE);
  sptx_error error = {0};
  uint8_t *tokens = calloc((size_t)length, 1);
  sptx_sampling sampling = {SEED, 1, 1};
  double bits, nats;
  int64_t given = length / 3;
  memcpy(tokens, "Sparse attention of a long text.", (size_t)(given < 32 ? given : 32));
  cr_assert_eq(sptx_sample_sequence(decoder, &sampling, given, length, tokens, &bits, NULL, NULL, &error),
               SPTX_CODE_OK, "%s", error.message);
  cr_expect_arr_eq(tokens, "Sparse attention of a long text.", (size_t)(given < 32 ? given : 32));
  forward(full, tokens);
  cr_assert_eq(sptx_transformer_loss(full, 1, &nats, &error), SPTX_CODE_OK);
  double expected = 0;
  for (int64_t position = given; position < length; position++)
    expected += full->losses[position] / log(2);
  cr_expect(fabs(bits - expected) < 1e-4 * expected, "pattern %d, length %ld: %.6f bits, evaluated %.6f",
            which, (long)length, bits, expected);
  float logits[256];
  for (int64_t position = 0; position < length; position++) {
    cr_assert_eq(
        sptx_transformer_decode(decoder, position, position ? tokens[position - 1] : 0, logits, &error),
        SPTX_CODE_OK);
    for (int c = 0; c < 256; c++) {
      float wanted = full->logits[position * 256 + c];
      cr_assert(fabsf(logits[c] - wanted) < 2e-4f * (1 + fabsf(wanted)),
                "pattern %d, length %ld, position %ld, logit %d: %f, full pass %f", which, (long)length,
                (long)position, c, (double)logits[c], (double)wanted);
    }
  }
  free(tokens);
  sptx_transformer_destroy(decoder);
  sptx_transformer_destroy(full);
}

Test(model_sample, sampling_equals_the_full_forward, .init = (void (*)(void))test_folder_create,
     .fini = test_folder_remove) {
  for (int which = 0; which < 3; which++) {
    expect_sampled_as_evaluated(which, 1);
    expect_sampled_as_evaluated(which, 50);
    expect_sampled_as_evaluated(which, 129);
  }
}

Test(model_sample, sequences_are_a_function_of_the_seed, .init = (void (*)(void))test_folder_create,
     .fini = test_folder_remove) {
  sptx_config config = model_config(write_pattern(0), 40);
  sptx_transformer *decoder = create(&config, SPTX_TRANSFORMER_DECODE);
  sptx_error error;
  uint8_t tokens[3][40];
  for (int k = 0; k < 3; k++)
    cr_assert_eq(sptx_sample_sequence(decoder, &(sptx_sampling){SEED + (uint64_t)k / 2, 1, 1}, 0, 40,
                                      tokens[k], NULL, NULL, NULL, &error),
                 SPTX_CODE_OK);
  cr_expect_arr_eq(tokens[0], tokens[1], 40);
  cr_expect_neq(memcmp(tokens[1], tokens[2], 40), 0);
  cr_expect_eq(
      sptx_sample_sequence(decoder, &(sptx_sampling){1, 1, 1}, 0, 41, tokens[0], NULL, NULL, NULL, &error),
      SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_not_null(strstr(error.message, "length of 40"), "%s", error.message);
  sptx_transformer_destroy(decoder);
}

/* The weights times the values are what libsptx's kernel wrote for that query. */
static void expect_weights(int which, int64_t length) {
  sptx_config config = model_config(write_pattern(which), length);
  sptx_transformer *t = create(&config, SPTX_TRANSFORMER_EVALUATE);
  sptx_error error = {0};
  uint8_t *tokens = malloc((size_t)length);
  double *weights = malloc((size_t)length * sizeof *weights);
  int64_t width = config.width, dim = width / config.heads;
  for (int64_t k = 0; k < length; k++)
    tokens[k] = (uint8_t)sptx_random_bits(SEED, 96, 0, (uint64_t)k);
  for (int64_t trial = 0; trial < 12; trial++) {
    int64_t layer = trial % 3, head = trial % 4, position = (trial * 37 + length - 1) % length;
    memset(weights, 0xff, (size_t)length * sizeof *weights);
    cr_assert_eq(sptx_attention_weights(t, tokens, layer, head, position, weights, &error), SPTX_CODE_OK,
                 "%s", error.message);
    const float *qkv = t->kept[0].qkv, *attended = (const float *)t->kept[0].attended + position * width;
    double sum = 0, out[64] = {0};
    for (int64_t j = 0; j < length; j++) {
      sum += weights[j];
      cr_expect(j <= position || weights[j] == 0, "a later position gets attention");
      for (int64_t c = 0; c < dim; c++)
        out[c] += weights[j] * qkv[j * 3 * width + 2 * width + head * dim + c];
    }
    cr_expect(fabs(sum - 1) < 1e-12);
    for (int64_t c = 0; c < dim; c++)
      cr_expect(fabs(out[c] - attended[head * dim + c]) < 1e-5 * (1 + fabs(out[c])),
                "pattern %d, layer %ld, head %ld, position %ld: %f, kernel %f", which, (long)layer,
                (long)head, (long)position, out[c], (double)attended[head * dim + c]);
  }
  cr_expect_eq(sptx_attention_weights(t, tokens, 3, 0, 0, weights, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_eq(sptx_attention_weights(t, tokens, 0, 4, 0, weights, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_eq(sptx_attention_weights(t, tokens, 0, 0, length, weights, &error), SPTX_CODE_INVALID_ARGUMENT);
  free(tokens);
  free(weights);
  sptx_transformer_destroy(t);
}

Test(model_sample, attention_weights_make_the_kernels_output, .init = (void (*)(void))test_folder_create,
     .fini = test_folder_remove) {
  for (int which = 0; which < 3; which++)
    expect_weights(which, 90);
}
