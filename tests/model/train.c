/* Runs of the trainer: learning, resuming, what stands in the folder, and what survives faults. */
#include "tests/model/faults.h"
#include "tests/model/files.h"
#include "tests/model/train_case.h"

#include "model/optimizer.h"
#include "model/safetensors.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void create_folder(void) {
  test_folder_create();
  fault_off();
}
/* The folder of the run under test: test_path's own text does not live long. */
static const char *run_folder(void) {
  static char folder[512];
  snprintf(folder, sizeof folder, "%s", test_path("run"));
  return folder;
}
TestSuite(model_train, .init = create_folder, .fini = test_folder_remove);

Test(model_train, learns) {
  sptx_config config = train_case_config((const char *[]){"steps=150", "dropout=0", NULL});
  sptx_train_result short_run = train_case_run(&config, test_path("short"), false, 4);
  sptx_train_result whole_run = train_case_run(&config, test_path("whole"), false, -1);
  cr_expect(fabs(short_run.bits - 8) < 1.5, "a new model's logits are zero: %.3f bits", short_run.bits);
  cr_expect(whole_run.bits < 2.3, "after 150 steps: %.3f bits", whole_run.bits);
  cr_expect_eq(whole_run.state.tokens, 150 * 2 * 24);
  cr_expect_eq(whole_run.state.updates, 150);
}

Test(model_train, a_resumed_run_is_bit_identical) {
  sptx_config config = train_case_config(NULL);
  train_case_run(&config, test_path("whole"), false, 20);
  train_case_run(&config, test_path("parts"), false, 3);
  train_case_run(&config, test_path("parts"), true, 11);
  train_case_run(&config, test_path("parts"), true, 20);
  cr_expect(
      same_files(test_path("whole/checkpoint-20.safetensors"), test_path("parts/checkpoint-20.safetensors")));
  config.seed++;
  train_case_run(&config, test_path("other"), false, 20);
  cr_expect(
      !same_files(test_path("whole/checkpoint-20.safetensors"), test_path("other/checkpoint-20.safetensors")),
      "the seed changes nothing");
}

/* The row's numbers; false when there is no such row. */
static bool find_row(const char *path, long step, double row[5]) {
  char *text = read_text(path), start[32];
  snprintf(start, sizeof start, "\n%ld,", step);
  const char *line = text ? strstr(text, start) : NULL;
  bool found = line && sscanf(line + strlen(start), "%lf,%lf,%lf,%lf,%lf", &row[0], &row[1], &row[2], &row[3],
                              &row[4]) == 5;
  free(text);
  return found;
}

Test(model_train, metrics_hold_every_row_once) {
  sptx_config config = train_case_config(NULL);
  double whole[5], parts[5], before = 0;
  train_case_run(&config, test_path("whole"), false, 16);
  train_case_run(&config, test_path("parts"), false, 7);
  train_case_run(&config, test_path("parts"), true, 16);
  char *text = read_text(test_path("whole/metrics.csv"));
  const char heading[] = "step,seconds,tokens,bits,grad_norm,lr\n";
  cr_expect_eq(strncmp(text, heading, sizeof heading - 1), 0);
  free(text);
  for (long step = 4; step <= 16; step += 4) {
    cr_assert(find_row(test_path("whole/metrics.csv"), step, whole), "step %ld", step);
    cr_assert(find_row(test_path("parts/metrics.csv"), step, parts), "step %ld", step);
    cr_expect(whole[0] > before && parts[0] > 0);
    before = whole[0];
    cr_expect_eq(whole[1], (double)(step * 2 * 24));
    cr_expect_eq(memcmp(whole + 1, parts + 1, 4 * sizeof *whole), 0, "step %ld differs after resuming", step);
    cr_expect(whole[3] > 0);
    cr_expect(fabs(whole[4] - sptx_learning_rate(&config, step - 1)) < 1e-8 * whole[4]);
  }
  cr_expect(!find_row(test_path("whole/metrics.csv"), 5, whole));
}

static bool is_there(const char *name) {
  return access(test_path(name), F_OK) == 0;
}

Test(model_train, keeps_the_last_checkpoints_and_the_configuration) {
  sptx_config config = train_case_config((const char *[]){"keep=2", "save_every=3", NULL}), again;
  sptx_error error;
  train_case_run(&config, test_path("run"), false, 10);
  cr_expect(!is_there("run/checkpoint-3.safetensors") && !is_there("run/checkpoint-6.safetensors"));
  cr_expect(is_there("run/checkpoint-9.safetensors") && is_there("run/checkpoint-10.safetensors"));
  cr_assert_eq(sptx_config_read(test_path("run/config.yaml"), NULL, 0, &again, &error), SPTX_CODE_OK, "%s",
               error.message);
  cr_expect_str_eq(again.data, config.data);
  cr_expect_eq(again.learning_rate, config.learning_rate);
  cr_expect_eq(again.seed, config.seed);
}

static void expect_failure(const sptx_config *config, const sptx_train_options *options,
                           enum sptx_code expected, const char *words) {
  sptx_train_result result;
  sptx_error error = {0};
  enum sptx_code code = sptx_train(config, options, &result, &error);
  cr_expect_eq(code, expected, "%d: %s", (int)code, error.message);
  cr_expect(strstr(error.message, words), "'%s' is not in: %s", words, error.message);
}

Test(model_train, refuses_what_it_cannot_continue) {
  sptx_config config = train_case_config(NULL);
  sptx_train_options options = train_case_options(run_folder(), false, 5);
  train_case_run(&config, options.folder, false, 5);
  expect_failure(&config, &options, SPTX_CODE_INVALID_ARGUMENT, "--resume");
  options.resume = true;
  config.width = 32;
  expect_failure(&config, &options, SPTX_CODE_FORMAT, "embedding.token has the shape [256,16]");
  config.width = 16;
  config.layers = 3;
  expect_failure(&config, &options, SPTX_CODE_FORMAT, "layers");
  config.layers = 2;
  cr_assert_eq(truncate(test_path("run/checkpoint-5.safetensors"), 20000), 0);
  expect_failure(&config, &options, SPTX_CODE_FORMAT, "cut short");
  config = train_case_config((const char *[]){"length=5000", NULL});
  expect_failure(&config, &options, SPTX_CODE_INVALID_ARGUMENT, "fewer than the 5000");
  config = train_case_config((const char *[]){"evaluate_every=1", NULL});
  expect_failure(&config, &options, SPTX_CODE_INVALID_ARGUMENT, "validation_items");
}

Test(model_train, evaluates_the_validation_part) {
  sptx_config config = train_case_config(
      (const char *[]){"evaluate_every=20", "train_items=3000", "validation_items=900", "steps=150", NULL});
  sptx_train_result result = train_case_run(&config, test_path("run"), false, -1);
  char *text = read_text(test_path("run/validation.csv"));
  cr_expect(strstr(text, "step,seconds,bits\n20,") && strstr(text, "\n140,") && strstr(text, "\n150,"), "%s",
            text);
  cr_expect(result.validation_bits > 0.01 && result.validation_bits < 2.5, "%.3f bits",
            result.validation_bits);
  free(text);
}

/* A checkpoint whose weights are not numbers stands for a run that diverged. */
static void spoil(const char *path) {
  FILE *file = fopen(path, "r+b");
  const float nan_weight = NAN;
  uint64_t header;
  cr_assert(file && fread(&header, sizeof header, 1, file) == 1);
  cr_assert_eq(fseek(file, (long)(8 + header), SEEK_SET), 0);
  for (int i = 0; i < 256 * 16; i++)
    cr_assert_eq(fwrite(&nan_weight, sizeof nan_weight, 1, file), 1);
  fclose(file);
}

Test(model_train, stops_when_gradients_stay_without_value) {
  sptx_config config = train_case_config((const char *[]){"max_bad_steps=6", "save_every=4", NULL});
  sptx_train_options options = train_case_options(run_folder(), true, 30);
  train_case_run(&config, options.folder, false, 3);
  spoil(test_path("run/checkpoint-3.safetensors"));
  expect_failure(&config, &options, SPTX_CODE_DEVICE, "6 steps in a row");
  cr_expect(!is_there("run/checkpoint-9.safetensors"), "a run that diverged is not saved as its last state");
}

/* Every file operation of a save fails in turn: the older checkpoint stays, training goes on, and where the
 * disk is full for good the run says so. */
Test(model_train, a_full_disk_loses_nothing) {
  sptx_config config = train_case_config((const char *[]){"keep=1", NULL});
  sptx_train_options options = train_case_options(run_folder(), true, 10);
  sptx_train_result result;
  sptx_error error;
  char path[PATH_MAX];
  train_case_run(&config, test_path("whole"), false, 10);
  fault_off();
  train_case_run(&config, options.folder, false, 5);
  int64_t operations = fault_operations();
  cr_assert(operations > 50);
  for (int lasting = 0; lasting < 2; lasting++)
    for (int64_t operation = 0; operation < operations; operation += 1 + operation / 5) {
      fault_at(operation, FAULT_DISK_FULL, lasting);
      enum sptx_code code = sptx_train(&config, &options, &result, &error);
      fault_off();
      if (code != SPTX_CODE_OK)
        cr_expect(strstr(error.message, "No space left") || strstr(error.message, "cannot be removed"), "%s",
                  error.message);
      cr_expect(code != SPTX_CODE_OK || !lasting, "a run that could not be saved counts as done");
      cr_assert_eq(sptx_checkpoint_latest(options.folder, path, &error), SPTX_CODE_OK, "%s", error.message);
      cr_assert(path[0], "operation %ld left no checkpoint", (long)operation);
      train_case_run(&config, options.folder, true, 10);
      cr_expect(same_files(test_path("run/checkpoint-10.safetensors"),
                           test_path("whole/checkpoint-10.safetensors")));
      test_remove("run");
      train_case_run(&config, options.folder, false, 5);
    }
}

/* Killed at an operation between two saves or within one, the run resumes from a whole checkpoint and ends as
 * if nothing had happened. */
Test(model_train, survives_a_kill_at_any_moment) {
  sptx_config config = train_case_config(NULL);
  sptx_train_options options = train_case_options(run_folder(), true, 12);
  fault_off();
  train_case_run(&config, test_path("whole"), false, 12);
  int64_t operations = fault_operations();
  for (int64_t operation = 0; operation < operations; operation += 1 + operation / 12) {
    pid_t child = fork();
    if (child == 0) {
      sptx_train_result result;
      sptx_error error;
      fault_at(operation, FAULT_KILL, false);
      _exit(sptx_train(&config, &options, &result, &error) == SPTX_CODE_OK ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "operation %ld was never reached",
              (long)operation);
    train_case_run(&config, options.folder, true, 12);
    cr_expect(
        same_files(test_path("run/checkpoint-12.safetensors"), test_path("whole/checkpoint-12.safetensors")),
        "killed at operation %ld", (long)operation);
    glob_t left;
    cr_expect_eq(glob(test_path("run/checkpoint-*.part"), 0, NULL, &left), GLOB_NOMATCH);
    test_remove("run");
  }
}
