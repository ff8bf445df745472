/* The optimizer against plain float64 loops, its schedule, and the loss scale. */
#include "model/optimizer.h"
#include "model/random.h"
#include "tests/model/files.h"
#include "tests/model/train_case.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEED = 20240811, STEPS = 7 };

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_optimizer, .init = create_folder, .fini = test_folder_remove);

Test(model_optimizer, warms_up_and_decays) {
  sptx_config config = {.learning_rate = 0.4, .final_learning_rate = 0.1, .warmup = 4, .steps = 10};
  const double expected[] = {0.1,   0.2,  0.3,  0.4, 0.4, 0.4 - 0.3 * 0.5 * (1 - sqrt(3) / 2),
                             0.325, 0.25, 0.175};
  for (int step = 0; step < 9; step++)
    cr_expect(fabs(sptx_learning_rate(&config, step) - expected[step]) < 1e-12, "step %d: %.12f, not %.12f",
              step, sptx_learning_rate(&config, step), expected[step]);
  cr_expect(fabs(sptx_learning_rate(&config, 10) - 0.1) < 1e-12 &&
            fabs(sptx_learning_rate(&config, 99) - 0.1) < 1e-12);
  config.warmup = 0;
  cr_expect_eq(sptx_learning_rate(&config, 0), 0.4);
}

static sptx_transformer *create(const sptx_config *config, sptx_optimizer *optimizer) {
  sptx_transformer *t = NULL;
  sptx_error error = {0};
  cr_assert_eq(sptx_transformer_create(config, SPTX_TRANSFORMER_TRAIN, 0, &t, &error), SPTX_CODE_OK, "%s",
               error.message);
  cr_assert_eq(sptx_optimizer_create(t, optimizer, &error), SPTX_CODE_OK, "%s", error.message);
  return t;
}

/* Gradients of step k: around 1, or tiny, so that some steps are clipped and some are not. */
static double gradient_at(int step, int64_t i) {
  return (step % 3 ? 1e-3 : 1) * sptx_random_normal(SEED, 90, (uint32_t)step, (uint64_t)i);
}

Test(model_optimizer, equals_adam_in_float64) {
  sptx_config config = train_case_config((const char *[]){"weight_decay=0.1", "clip=0.7", NULL});
  sptx_optimizer optimizer;
  sptx_transformer *t = create(&config, &optimizer);
  sptx_train_state state = {.loss_scale = 8};
  int64_t floats = t->parameters.floats;
  double *weight = calloc((size_t)floats, sizeof *weight), *first = calloc((size_t)floats, sizeof *first);
  double *second = calloc((size_t)floats, sizeof *second);
  for (int64_t i = 0; i < floats; i++)
    weight[i] = t->weights[i];
  for (state.step = 0; state.step < STEPS; state.step++) {
    double squares = 0, norm, seen;
    bool applied;
    sptx_error error;
    for (int64_t i = 0; i < floats; i++) {
      double gradient = gradient_at((int)state.step, i);
      t->gradients[i] = (float)(8 * gradient);
      squares += gradient * gradient;
    }
    norm = sqrt(squares);
    cr_assert_eq(sptx_optimizer_step(&optimizer, t, &state, &seen, &applied, &error), SPTX_CODE_OK);
    cr_expect(applied && fabs(seen - norm) < 1e-6 * norm);
    double rate = sptx_learning_rate(&config, state.step), updates = (double)state.step + 1;
    for (int64_t i = 0; i < floats; i++) {
      double gradient = gradient_at((int)state.step, i) * fmin(1, config.clip / norm);
      first[i] = config.beta1 * first[i] + (1 - config.beta1) * gradient;
      second[i] = config.beta2 * second[i] + (1 - config.beta2) * gradient * gradient;
      double step = first[i] / (1 - pow(config.beta1, updates)) /
                    (sqrt(second[i] / (1 - pow(config.beta2, updates))) + config.epsilon);
      double decay = i < t->parameters.decayed_floats ? config.weight_decay * weight[i] : 0;
      weight[i] -= rate * (step + decay);
    }
  }
  double worst = 0;
  for (int64_t i = 0; i < floats; i++)
    worst = fmax(worst, fabs(weight[i] - t->weights[i]));
  /* each of the steps moves a weight by about the learning rate (0.01), and rounds it */
  cr_expect(worst < 1e-5, "seed %d: the largest difference is %.3g", SEED, worst);
  cr_expect(fabs(weight[5] - (double)t->weights[5]) < 1e-5 && state.updates == STEPS);
  free(weight);
  free(first);
  free(second);
  sptx_optimizer_clear(t, &optimizer);
  sptx_transformer_destroy(t);
}

Test(model_optimizer, the_loss_scale_follows_overflows) {
  sptx_config config = train_case_config((const char *[]){"loss_scale_window=3", "loss_scale=1024", NULL});
  sptx_optimizer optimizer;
  sptx_transformer *t = create(&config, &optimizer);
  sptx_train_state state = {.loss_scale = 1024};
  t->config.precision = SPTX_F16; /* of the loss scale only: the stand-in computes in float32 */
  static const struct {
    float gradient;
    double scale;
  } STEP[] = {{1, 1024}, {INFINITY, 512}, {1, 512}, {NAN, 256}, {1, 256}, {1, 256}, {1, 512}, {1, 512}};
  for (size_t k = 0; k < sizeof STEP / sizeof STEP[0]; k++) {
    double norm;
    bool applied;
    sptx_error error;
    float before = t->weights[3];
    t->gradients[3] = STEP[k].gradient;
    cr_assert_eq(sptx_optimizer_step(&optimizer, t, &state, &norm, &applied, &error), SPTX_CODE_OK);
    cr_expect_eq(applied, isfinite(STEP[k].gradient) != 0);
    cr_expect_eq(applied, before != t->weights[3]);
    cr_expect_eq(state.loss_scale, STEP[k].scale, "step %zu: %g", k, state.loss_scale);
    state.step++;
  }
  cr_expect_eq(state.skipped_steps, 2);
  cr_expect_eq(state.updates, 6);
  t->config.precision = SPTX_F32;
  sptx_optimizer_clear(t, &optimizer);
  sptx_transformer_destroy(t);
}
