/* Training on libsptx's own kernels in each element type: mixed precision follows float32, recomputation
 * changes no bit, and saves the memory that it is for. */
#include "model/optimizer.h"
#include "tests/model/files.h"
#include "tests/model/train_case.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const TYPES[] = {"precision=float32", "precision=float16", "precision=bfloat16"};

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_precision, .init = create_folder, .fini = test_folder_remove);

/* A pattern file in the test folder, as a setting. */
static const char *strided(void) {
  static char setting[600];
  static const char TEXT[] =
      "sptx: 1\nname: strided\nparams: {l: 5}\ncausal: true\n"
      "steps: {row: {window: {left: l}}, column: {stride: {every: l}}}\nuse: interleave\n";
  snprintf(setting, sizeof setting, "pattern=%s", test_write("pattern.yaml", TEXT, sizeof TEXT - 1));
  return setting;
}

Test(model_precision, mixed_precision_follows_float32) {
  double bits[3];
  for (int type = 0; type < 3; type++) {
    sptx_config config = train_case_config(
        (const char *[]){strided(), TYPES[type], "dropout=0", "steps=60", "threads=2", NULL});
    sptx_train_result result = train_case_run(&config, test_path(TYPES[type]), false, -1);
    bits[type] = result.bits;
    cr_expect(result.state.skipped_steps < 12, "%s: %ld steps skipped", TYPES[type],
              (long)result.state.skipped_steps);
  }
  cr_expect(bits[0] < 4, "float32 learns nothing: %.3f bits", bits[0]);
  cr_expect(fabs(bits[1] - bits[0]) < 0.15, "float16: %.4f bits, float32 %.4f", bits[1], bits[0]);
  cr_expect(fabs(bits[2] - bits[0]) < 0.15, "bfloat16: %.4f bits, float32 %.4f", bits[2], bits[0]);
}

Test(model_precision, float16_finds_its_loss_scale) {
  sptx_config config = train_case_config(
      (const char *[]){strided(), TYPES[1], "loss_scale=1e9", "max_bad_steps=40", "steps=40", NULL});
  sptx_train_result result = train_case_run(&config, test_path("run"), false, -1);
  cr_expect(result.state.skipped_steps > 0, "a scale of 1e9 overflows");
  cr_expect_eq(result.state.updates + result.state.skipped_steps, 40);
  cr_expect(result.state.loss_scale < 1e9);
  cr_expect(result.bits < 7, "%.3f bits", result.bits);
}

Test(model_precision, resumed_runs_are_bit_identical_in_each_type) {
  for (int type = 1; type < 3; type++) {
    sptx_config config = train_case_config((const char *[]){strided(), TYPES[type], "recompute=true", NULL});
    train_case_run(&config, test_path("whole"), false, 9);
    train_case_run(&config, test_path("parts"), false, 4);
    train_case_run(&config, test_path("parts"), true, 9);
    config.recompute = false;
    train_case_run(&config, test_path("plain"), false, 9);
    cr_expect(
        same_files(test_path("whole/checkpoint-9.safetensors"), test_path("parts/checkpoint-9.safetensors")),
        "%s: resuming", TYPES[type]);
    cr_expect(
        same_files(test_path("whole/checkpoint-9.safetensors"), test_path("plain/checkpoint-9.safetensors")),
        "%s: recomputation", TYPES[type]);
    test_remove("whole");
    test_remove("parts");
    test_remove("plain");
  }
}

Test(model_precision, a_pattern_that_sees_ahead_is_refused) {
  static const char TEXT[] = "sptx: 1\nname: ahead\ncausal: false\nattend: {block: {size: 4}}\n";
  char setting[600];
  snprintf(setting, sizeof setting, "pattern=%s", test_write("ahead.yaml", TEXT, sizeof TEXT - 1));
  sptx_config config = train_case_config((const char *[]){setting, NULL});
  sptx_train_options options = train_case_options(test_path("run"), false, 2);
  sptx_train_result result;
  sptx_error error;
  cr_expect_eq(sptx_train(&config, &options, &result, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect(strstr(error.message, "causal: true") && strstr(error.message, "--set pattern="), "%s",
            error.message);
}

static size_t peak_bytes(const char *recompute) {
  sptx_config config =
      train_case_config((const char *[]){strided(), "layers=32", "width=256", "heads=2", "length=3072",
                                         "query_key=0.5", recompute, "pattern_params.l=96", "batch=2", NULL});
  sptx_transformer *t = NULL;
  sptx_optimizer optimizer;
  sptx_error error = {0};
  cr_assert_eq(sptx_transformer_create(&config, SPTX_TRANSFORMER_TRAIN, 0, &t, &error), SPTX_CODE_OK, "%s",
               error.message);
  cr_assert_eq(sptx_optimizer_create(t, &optimizer, &error), SPTX_CODE_OK, "%s", error.message);
  size_t peak = t->device->peak_bytes;
  sptx_optimizer_clear(t, &optimizer);
  sptx_transformer_destroy(t);
  return peak;
}

/* The paper's CIFAR-10 model with a quarter of its layers: what does not grow with them weighs more. All
 * memory is taken when a model is created, so creating it is enough to count; filling it, as M_PERTURB would,
 * is not. */
Test(model_precision, recomputation_saves_memory) {
  mallopt(M_PERTURB, 0);
  double with = (double)peak_bytes("recompute=true"), without = (double)peak_bytes("recompute=false");
  cr_expect(with <= 0.25 * without, "%.1f MiB with recomputation, %.1f MiB without", with / 0x1p20,
            without / 0x1p20);
}
