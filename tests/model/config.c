/* Configurations: every mistake is refused with its file and line, or the setting that made it. */
#include "model/config.h"
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_config, .init = create_folder, .fini = test_folder_remove);

#define GOOD "layers: 2\nwidth: 64\nheads: 2\nlength: 100\npattern: dense.yaml\nwarmup: 0\n"

static enum sptx_code read_config(const char *text, const char *setting, sptx_config *config,
                                  sptx_error *error) {
  error->message[0] = 0;
  return sptx_config_read(test_write("c.yaml", text, strlen(text)), &setting, setting ? 1 : 0, config, error);
}

static const struct {
  const char *text, *setting, *place, *words;
  enum sptx_code code;
} MISTAKES[] = {
    {GOOD "wdith: 3\n", NULL, "c.yaml:7: ", "unknown key 'wdith'", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "layers: two\n", NULL, "c.yaml:7: ", "layers needs an integer, not 'two'",
     SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "\n\nlayers: 2.5\n", NULL, "c.yaml:9: ", "needs an integer", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "dropout: 1\n", NULL, "c.yaml:7: ", "outside 0 to 0.95", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "dropout: nan\n", NULL, "c.yaml:7: ", "needs a number", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "precision: float8\n", NULL, "c.yaml:7: ", "float32 float16 bfloat16", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "recompute: yes\n", NULL, "c.yaml:7: ", "not true or false", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "seed: [1, 2]\n", NULL, "c.yaml:7: ", "a single value", SPTX_CODE_FORMAT},
    {GOOD "heads: 3\n", NULL, "c.yaml:7: ", "does not divide", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "heads: 8\n", NULL, "c.yaml:7: ", "width / heads is 8", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "query_key: 0.3\n", NULL, "c.yaml:7: ", "not a whole number", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "feed_forward: 0.1\n", NULL, "c.yaml:7: ", "not a multiple of 8", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "position_width: 101\n", NULL, "c.yaml:7: ", "more than the length", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "format: cifar10\n", NULL, "c.yaml:4: ", "3072 positions", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD "steps: 10\nwarmup: 11\n", NULL, "c.yaml:8: ", "longer than the run", SPTX_CODE_INVALID_ARGUMENT},
    {"layers: 2\nlength: 9\nwarmup: 0\n", NULL, "the default: ", "pattern is required",
     SPTX_CODE_INVALID_ARGUMENT},
    {"pattern: p\nwarmup: 0\n", NULL, "the default: ", "length is required", SPTX_CODE_INVALID_ARGUMENT},
    {"layers: [2\n", NULL, "c.yaml:", "not YAML", SPTX_CODE_FORMAT},
    {"- layers\n", NULL, "c.yaml:1: ", "expected a mapping", SPTX_CODE_FORMAT},
    {GOOD, "width=65", "--set width=65: ", "multiple of 8", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD, "width", "--set width: ", "expected key=value", SPTX_CODE_INVALID_ARGUMENT},
    {GOOD, "depth=3", "--set depth=3: ", "unknown key 'depth'", SPTX_CODE_INVALID_ARGUMENT},
};

Test(model_config, mistakes_name_their_place) {
  for (size_t k = 0; k < sizeof MISTAKES / sizeof MISTAKES[0]; k++) {
    sptx_config config;
    sptx_error error;
    enum sptx_code code = read_config(MISTAKES[k].text, MISTAKES[k].setting, &config, &error);
    cr_expect_eq(code, MISTAKES[k].code, "mistake %zu: %d, %s", k, (int)code, error.message);
    cr_expect(strstr(error.message, MISTAKES[k].place) && strstr(error.message, MISTAKES[k].words),
              "mistake %zu: '%s' and '%s' are not in: %s", k, MISTAKES[k].place, MISTAKES[k].words,
              error.message);
  }
}

/* A deep folder must not push the line's number out of a message. */
Test(model_config, the_line_is_named_for_long_paths_too) {
  char name[300], text[] = GOOD "width: 63\n";
  sptx_config config;
  sptx_error error;
  memset(name, 'd', 200);
  strcpy(name + 200, "/c.yaml");
  cr_assert_eq(sptx_config_read(test_write(name, text, sizeof text - 1), NULL, 0, &config, &error),
               SPTX_CODE_INVALID_ARGUMENT);
  cr_expect(strstr(error.message, "c.yaml:7: "), "%s", error.message);
}

Test(model_config, a_missing_file_is_named) {
  sptx_config config;
  sptx_error error;
  cr_expect_eq(sptx_config_read(test_path("none.yaml"), NULL, 0, &config, &error), SPTX_CODE_IO);
  cr_expect(strstr(error.message, "none.yaml: No such file"), "%s", error.message);
}
