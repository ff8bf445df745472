/* A tiny run for the tests of training; see train_case.h. */
#include "tests/model/train_case.h"
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const char YAML[] =
    "layers: 2\nwidth: 16\nheads: 1\nlength: 24\nposition_width: 5\nfeed_forward: 2\n"
    "pattern: 'merge:5'\nbatch: 2\nsteps: 40\nwarmup: 5\nlearning_rate: 0.01\nseed: 7\n"
    "dropout: 0.1\nthreads: 1\nlog_every: 4\nsave_every: 5\nkeep: 3\n";

/* Words that follow each other by a rule with a little noise: there is something to learn. */
static void write_data(void) {
  char text[4096];
  for (size_t i = 0; i < sizeof text; i++)
    text[i] = (char)('a' + (i * i / 3 + i) % 7 + (i % 29 == 0));
  test_write("data.txt", text, sizeof text);
}

sptx_config train_case_config(const char *const *settings) {
  char data[600];
  const char *all[16] = {data};
  size_t count = 1;
  sptx_config config;
  sptx_error error;
  write_data();
  snprintf(data, sizeof data, "data=%s", test_path("data.txt"));
  for (; settings && *settings; settings++)
    all[count++] = *settings;
  const char *path = test_write("case.yaml", YAML, sizeof YAML - 1);
  cr_assert_eq(sptx_config_read(path, all, count, &config, &error), SPTX_CODE_OK, "%s", error.message);
  return config;
}

sptx_train_options train_case_options(const char *folder, bool resume, int64_t last_step) {
  static sptx_communicator *alone;
  sptx_error error;
  if (!alone)
    cr_assert_eq(sptx_communicator_create(&alone, &error), SPTX_CODE_OK, "%s", error.message);
  return (sptx_train_options){
      .folder = folder, .resume = resume, .last_step = last_step, .communicator = alone};
}

sptx_train_result train_case_run(const sptx_config *config, const char *folder, bool resume,
                                 int64_t last_step) {
  sptx_train_options options = train_case_options(folder, resume, last_step);
  sptx_train_result result;
  sptx_error error;
  cr_assert_eq(sptx_train(config, &options, &result, &error), SPTX_CODE_OK, "%s", error.message);
  return result;
}

char *read_text(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return NULL;
  char *text = calloc(1, 1 << 20);
  size_t size = fread(text, 1, (1 << 20) - 1, file);
  fclose(file);
  text[size] = 0;
  return text;
}

bool same_files(const char *first, const char *second) {
  FILE *a = fopen(first, "rb"), *b = fopen(second, "rb");
  bool same = a && b;
  for (int x = 0; same && x != EOF;)
    same = (x = fgetc(a)) == fgetc(b);
  if (a)
    fclose(a);
  if (b)
    fclose(b);
  return same;
}
