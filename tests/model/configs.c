/* The shipped configurations: each loads, names a pattern that resolves for its shape, and has the number of
 * weights that the paper gives for it. */
#include "model/config.h"
#include "model/parameters.h"
#include "patterns/pattern.h"

#include <criterion/criterion.h>
#include <glob.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name;
  double millions, within;
  int64_t length;
} PAPER[] = {{"enwik8.yaml", 94.9, 0.05, 12288},      {"cifar10.yaml", 59.2, 0.05, 3072},
             {"imagenet64.yaml", 151.6, 0.05, 12288}, {"music-65536.yaml", 152, 0.5, 65536},
             {"music-262144.yaml", 25, 1, 262144},    {"music-1048576.yaml", 3, 0.5, 1048576},
             {"source-small.yaml", 0, 3, 0},          {"enwik8-small.yaml", 0, 10, 0},
             {"cifar10-small.yaml", 0, 3, 0}};

static int known(const char *path) {
  for (size_t k = 0; k < sizeof PAPER / sizeof *PAPER; k++)
    if (!strcmp(strrchr(path, '/') + 1, PAPER[k].name))
      return (int)k;
  return -1;
}

static void expect_pattern(const sptx_config *config) {
  sptx_override params[SPTX_CONFIG_MAX_PARAMS];
  sptx_error error = {0};
  sptx_pattern *pattern = NULL;
  for (size_t k = 0; k < config->pattern_param_count; k++)
    params[k] = (sptx_override){config->pattern_params[k].name, config->pattern_params[k].value};
  cr_assert_eq(sptx_pattern_read(config->pattern, params, config->pattern_param_count, &pattern, &error),
               SPTX_CODE_OK, "%s", error.message);
  for (size_t step = 0; step < sptx_pattern_step_count(pattern); step++) {
    sptx_instance instance;
    cr_assert_eq(
        sptx_pattern_resolve(pattern, step, config->heads, config->length, config->length, &instance, &error),
        SPTX_CODE_OK, "%s", error.message);
    cr_expect(instance.causal, "%s: a model must not see what it predicts", config->pattern);
    sptx_instance_clear(&instance);
  }
  sptx_pattern_release(pattern);
}

Test(model_configs, every_one_loads_with_the_papers_sizes) {
  char pattern[1024];
  glob_t files;
  snprintf(pattern, sizeof pattern, "%s/model/configs/*.yaml", getenv("SPTX_SOURCE_ROOT"));
  cr_assert_eq(glob(pattern, 0, NULL, &files), 0, "%s", pattern);
  cr_expect_eq(files.gl_pathc, sizeof PAPER / sizeof *PAPER);
  sptx_config *config = malloc(sizeof *config);
  for (size_t k = 0; k < files.gl_pathc; k++) {
    sptx_error error = {0};
    sptx_parameters parameters;
    int row = known(files.gl_pathv[k]);
    cr_assert_geq(row, 0, "%s has no row in this test", files.gl_pathv[k]);
    cr_assert_eq(sptx_config_read(files.gl_pathv[k], NULL, 0, config, &error), SPTX_CODE_OK, "%s",
                 error.message);
    cr_expect_neq(config->data[0], 0);
    expect_pattern(config);
    cr_assert_eq(sptx_parameters_create(config, &parameters, &error), SPTX_CODE_OK, "%s", error.message);
    double millions = (double)parameters.effective / 1e6;
    printf("%-20s %8.1f million weights\n", PAPER[row].name, millions);
    cr_expect(fabs(millions - PAPER[row].millions) <= PAPER[row].within,
              "%s: %.2f million weights, paper %.1f", PAPER[row].name, millions, PAPER[row].millions);
    cr_expect(PAPER[row].length == 0 || PAPER[row].length == config->length);
    sptx_parameters_clear(&parameters);
  }
  free(config);
  globfree(&files);
}
