/* The Sparse Transformer on a GPU against the same model on the CPU: the loss and every gradient, for the
 * three ways to factorize attention, element types, recomputation and dropout. Exits with 77 where there is
 * no GPU. Usage: test_gpu_model PATTERNS, the folder of the pattern library. */
#include "model/transformer.h"
#include "runtime/cuda_driver.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SKIPPED = 77, LENGTH = 200, BATCH = 3, SETTINGS = 5 };

typedef struct model_case {
  const char *pattern, *settings[SETTINGS];
  double tolerance; /* of norms */
} model_case;

static const model_case cases[] = {
    {"strided", {"pattern_params.stride=16", "dropout=0"}, 1e-4},
    {"fixed-merged", {"pattern_params.stride=16", "pattern_params.columns=4", "dropout=0.2"}, 1e-4},
    {"strided-merged",
     {"pattern_params.stride=16", "recompute=true", "keep_attention=2", "query_key=0.5"},
     1e-4},
    {"fixed-heads", {"width=160", "heads=10", "feed_forward=2"}, 1e-4},
    {"dense", {"width=1040", "heads=13", "layers=1"}, 1e-4}, /* more columns than one block of sums */
    {"strided", {"pattern_params.stride=16", "precision=bfloat16", "dropout=0.1"}, 3e-2},
    {"fixed-merged", {"pattern_params.stride=16", "pattern_params.columns=4", "precision=float16"}, 5e-3},
};

static int fail(const model_case *c, const char *what, const char *message) {
  printf("failed: %s %s %s: %s: %s\n", c->pattern, c->settings[0] ? c->settings[0] : "",
         c->settings[1] ? c->settings[1] : "", what, message);
  return 1;
}

static enum sptx_code read_config(const model_case *c, const char *patterns, const char *device, int seed,
                                  sptx_config *config, sptx_error *error) {
  char path[] = "/tmp/sptx-gpu-model-XXXXXX", seed_setting[32], device_setting[32];
  int file = mkstemp(path);
  FILE *stream = file >= 0 ? fdopen(file, "w") : NULL;
  if (!stream)
    return sptx_fail(error, SPTX_CODE_IO, "cannot write %s", path);
  fprintf(stream, "pattern: %s/%s.yaml\nlayers: 4\nwidth: 64\nheads: 4\nlength: %d\nbatch: %d\nwarmup: 0\n",
          patterns, c->pattern, LENGTH, BATCH);
  fclose(stream);
  const char *settings[SETTINGS + 2];
  size_t count = 0;
  for (int i = 0; i < SETTINGS && c->settings[i]; i++)
    settings[count++] = c->settings[i];
  snprintf(seed_setting, sizeof seed_setting, "seed=%d", seed);
  snprintf(device_setting, sizeof device_setting, "device=%s", device);
  settings[count++] = seed_setting;
  settings[count++] = device_setting;
  enum sptx_code code = sptx_config_read(path, settings, count, config, error);
  unlink(path);
  return code;
}

/* One step's loss and gradients. weights: NULL takes those of the seed, with an output layer that is not
 * zero. */
static enum sptx_code run_step(const sptx_config *config, const float *weights, const uint8_t *tokens,
                               double *nats, float *gradients, sptx_error *error) {
  sptx_transformer *t;
  const struct sptx_model_pass pass = {.step = 3, .first_row = 400, .dropout = true};
  SPTX_TRY(sptx_transformer_create(config, SPTX_TRANSFORMER_TRAIN, 0, &t, error));
  enum sptx_code code = sptx_transformer_set_weights(t, weights, error);
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_forward(t, tokens, &pass, error);
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_loss(t, 1, nats, error);
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_backward(t, &pass, NULL, NULL, error);
  if (code == SPTX_CODE_OK)
    code = t->device->ops->copy_out(t->device, gradients, t->gradients,
                                    (size_t)t->parameters.floats * sizeof(float), error);
  sptx_transformer_destroy(t);
  return code;
}

static double relative(const float *a, const float *b, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; i++) {
    difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    norm += (double)b[i] * b[i];
  }
  return sqrt(difference / norm);
}

static int run_case(const model_case *c, const char *patterns, int seed) {
  sptx_config configs[2];
  sptx_parameters parameters = {0};
  sptx_error error = {0};
  uint8_t tokens[BATCH * LENGTH];
  double nats[2] = {NAN, NAN};
  for (int i = 0; i < 2; i++)
    if (read_config(c, patterns, i ? "cuda:0" : "cpu", seed, &configs[i], &error) != SPTX_CODE_OK)
      return fail(c, "config", error.message);
  if (sptx_parameters_create(&configs[0], &parameters, &error) != SPTX_CODE_OK)
    return fail(c, "parameters", error.message);
  size_t floats = (size_t)parameters.floats;
  float *memory = malloc(3 * floats * sizeof *memory), *gradients[2] = {memory + floats, memory + 2 * floats};
  sptx_parameters_initialize(&configs[0], &parameters, memory);
  for (size_t i = 0; i < floats; i++)
    memory[i] += 0.02f * (float)(rand() % 2001 - 1000) / 1000;
  for (int i = 0; i < BATCH * LENGTH; i++)
    tokens[i] = (uint8_t)(rand() % 7 ? rand() % 20 : rand() % 256);
  memset(gradients[0], 0xff, 2 * floats * sizeof *memory);
  int failures = 0;
  for (int i = 0; i < 2 && !failures; i++)
    if (run_step(&configs[i], memory, tokens, &nats[i], gradients[i], &error) != SPTX_CODE_OK)
      failures = fail(c, configs[i].device, error.message);
  double loss = fabs(nats[1] - nats[0]) / fabs(nats[0]);
  double gradient = failures ? NAN : relative(gradients[1], gradients[0], parameters.floats);
  if (!failures && !(loss <= c->tolerance && gradient <= c->tolerance)) {
    char text[160];
    snprintf(text, sizeof text, "loss %g against %g, gradients differ by %g", nats[1], nats[0], gradient);
    failures = fail(c, "results", text);
  } else if (!failures) {
    printf("passed: %-16s loss %.2e, gradients %.2e\n", c->pattern, loss, gradient);
  }
  free(memory);
  sptx_parameters_clear(&parameters);
  return failures;
}

int main(int argc, char **argv) {
  sptx_cuda_driver driver;
  sptx_error error = {0};
  int failures = 0, count = sizeof cases / sizeof *cases;
  char patterns[PATH_MAX]; /* absolute: a configuration's paths count from its own folder */
  if (argc != 2 || !realpath(argv[1], patterns)) {
    fputs("usage: test_gpu_model PATTERNS\n", stderr);
    return 2;
  }
  if (sptx_cuda_driver_open(&driver, &error) != SPTX_CODE_OK) {
    printf("skipped: %s\n", error.message);
    return SKIPPED;
  }
  sptx_cuda_driver_close(&driver);
  int seed = (int)(time(NULL) & 0xffffff);
  printf("seed %d\n", seed);
  srand((unsigned)seed);
  for (int i = 0; i < count; i++)
    failures += run_case(&cases[i], patterns, seed);
  printf("%d of %d cases passed\n", count - failures, count);
  return failures ? 1 : 0;
}
