/* Evaluation: every position once, with the context that was asked for. */
#include "model/evaluate.h"
#include "tests/model/files.h"
#include "tests/model/train_case.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 24 };

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_evaluate, .init = create_folder, .fini = test_folder_remove);

/* A model whose logits depend on position and context, without training it. */
static sptx_transformer *create(const sptx_config *config, int64_t batch) {
  sptx_transformer *t = NULL;
  sptx_error error = {0};
  cr_assert_eq(sptx_transformer_create(config, SPTX_TRANSFORMER_EVALUATE, batch, &t, &error), SPTX_CODE_OK,
               "%s", error.message);
  for (int64_t i = 0; i < SPTX_VOCABULARY * config->width; i++)
    t->weights[t->parameters.output_weight + i] = (float)sin((double)i * 1.7);
  return t;
}

/* The loss of the last of `count` tokens, seen alone with the ones before it. */
static double loss_of_last(sptx_transformer *single, const uint8_t *tokens, int64_t count) {
  uint8_t window[LENGTH] = {0};
  const struct sptx_model_pass pass = {0};
  double nats;
  sptx_error error;
  memcpy(window, tokens, (size_t)count);
  cr_assert_eq(sptx_transformer_forward(single, window, &pass, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_transformer_loss(single, 1, &nats, &error), SPTX_CODE_OK);
  return single->losses[count - 1];
}

/* Which position a window begins with, for the position p of n, when windows advance by LENGTH - context and
 * the last one ends with the data. Written from the definition: the first window that covers p. */
static int64_t window_begin(int64_t p, int64_t n, int64_t context) {
  int64_t begin = 0;
  while (begin + LENGTH <= p)
    begin += LENGTH - context;
  if (begin + LENGTH > n)
    begin = n > LENGTH ? n - LENGTH : 0;
  return begin;
}

static void check(int64_t positions, int64_t context, int64_t batch) {
  uint8_t bytes[256];
  sptx_config config = train_case_config(NULL);
  sptx_data *data;
  sptx_evaluation evaluation;
  sptx_error error = {0};
  for (int64_t i = 0; i < positions; i++)
    bytes[i] = (uint8_t)(i * 37 + i * i);
  snprintf(config.data, sizeof config.data, "%s", test_write("file", bytes, (size_t)positions));
  sptx_transformer *t = create(&config, batch), *single = create(&config, 1);
  cr_assert_eq(sptx_data_open(&config, &data, &error), SPTX_CODE_OK, "%s", error.message);
  cr_assert_eq(sptx_evaluate_all(t, data, context, NULL, NULL, &evaluation, &error), SPTX_CODE_OK, "%s",
               error.message);
  double expected = 0;
  for (int64_t p = 0; p < positions; p++) {
    int64_t begin = window_begin(p, positions, context);
    cr_assert(p - begin >= context || begin == 0);
    expected += loss_of_last(single, bytes + begin, p - begin + 1);
  }
  cr_expect_eq(evaluation.positions, positions);
  cr_expect(fabs(evaluation.nats - expected) < 1e-5 * expected, "%ld positions, context %ld: %f, not %f",
            (long)positions, (long)context, evaluation.nats, expected);
  sptx_data_close(data);
  sptx_transformer_destroy(t);
  sptx_transformer_destroy(single);
}

Test(model_evaluate, every_position_once_with_its_context) {
  const int64_t sizes[] = {1, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH + 5};
  const int64_t contexts[] = {0, 1, LENGTH / 2, LENGTH - 1};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
    for (size_t c = 0; c < sizeof contexts / sizeof *contexts; c++)
      check(sizes[s], contexts[c], 1 + (int64_t)(s + c) % 3);
}

Test(model_evaluate, refuses_more_context_than_the_model_has) {
  sptx_config config = train_case_config(NULL);
  sptx_transformer *t = create(&config, 1);
  sptx_data *data;
  sptx_evaluation evaluation;
  sptx_error error = {0};
  cr_assert_eq(sptx_data_open(&config, &data, &error), SPTX_CODE_OK, "%s", error.message);
  cr_expect_eq(sptx_evaluate_all(t, data, LENGTH, NULL, NULL, &evaluation, &error),
               SPTX_CODE_INVALID_ARGUMENT);
  cr_expect(strstr(error.message, "0 to 23"), "%s", error.message);
  sptx_data_close(data);
  sptx_transformer_destroy(t);
}
