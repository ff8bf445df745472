/* What the tuner needs of a GPU: its ceilings are those of a GPU, and an attention that is tuned while it is
 * created computes what an untuned one does. Exit status 77 where there is no GPU. */
#include "runtime/context.h"
#include "runtime/cuda_kind.h"
#include "tuner/ceiling_cuda.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, N = 2048, DIM = 64, COUNT = HEADS * N * DIM, SKIPPED = 77 };

static const char pattern_text[] = "sptx: 1\nname: p\ncausal: true\nattend: {stride: {every: 16}}\n";

static int fail(const char *what, const char *why) {
  printf("failed: %s: %s\n", what, why);
  return 1;
}

/* From the smallest GPU that sptx runs on to some that are yet to come. */
static int check_ceilings(const sptx_cuda_device *device) {
  sptx_rates rates;
  sptx_error error = {0};
  if (sptx_ceiling_cuda(device, &rates, &error) != SPTX_CODE_OK)
    return fail("ceilings", error.message);
  printf("%s: %.3g FLOP/s, copies %.3g B/s, %.3g exponentials/s, %.3g s a launch, %d multiprocessors\n",
         device->name, rates.flops, rates.copy, rates.exp, rates.launch, rates.threads);
  bool sane = rates.flops > 5e12 && rates.flops < 1e16 && rates.copy > 1e11 && rates.copy < 5e13 &&
              rates.exp > 1e11 && rates.exp < 1e14 && rates.launch > 1e-7 && rates.launch < 1e-4;
  return sane ? 0 : fail("ceilings", "not those of a GPU");
}

/* Tensors of one forward, bfloat16 on the device. */
typedef struct tensors {
  sptx_cu_pointer q, k, v, o;
} tensors;

static void fill(uint16_t *values, unsigned *seed) {
  for (int i = 0; i < COUNT; i++) {
    float value = (float)rand_r(seed) / (float)RAND_MAX - 0.5f;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    values[i] = (uint16_t)(bits >> 16);
  }
}

static int make_tensors(const sptx_cuda_device *device, tensors *t) {
  static uint16_t values[COUNT];
  unsigned seed = 20261124;
  sptx_error error = {0};
  sptx_cu_pointer *const all[] = {&t->q, &t->k, &t->v, &t->o};
  for (int i = 0; i < 4; i++) {
    fill(values, &seed);
    if (sptx_cuda_alloc(device, sizeof values, all[i], &error) != SPTX_CODE_OK ||
        sptx_cuda_upload(device, *all[i], values, sizeof values, &error) != SPTX_CODE_OK)
      return fail("tensors", error.message);
  }
  return 0;
}

static int run(const sptx_cuda_device *device, sptx_context *context, const sptx_pattern *pattern,
               double seconds, const tensors *t, uint16_t *result) {
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  sptx_attention *attention;
  sptx_error error = {0};
  desc.flags = SPTX_WITH_BACKWARD | (seconds > 0 ? SPTX_TUNE : 0);
  desc.tune_seconds = seconds;
  desc.dtype = SPTX_BF16;
  desc.heads = HEADS, desc.n_q = desc.n_k = N, desc.head_dim = DIM;
  if (sptx_attention_create(context, pattern, &desc, &attention) != SPTX_OK)
    return fail("create", sptx_last_error(context));
  sptx_status status = sptx_attention_forward(attention, (void *)(uintptr_t)t->q, (void *)(uintptr_t)t->k,
                                              (void *)(uintptr_t)t->v, (void *)(uintptr_t)t->o, NULL, NULL);
  int wrong = status == SPTX_OK ? 0 : fail("forward", sptx_last_error(context));
  if (!wrong && (sptx_cuda_stream_synchronize(device, NULL, &error) != SPTX_CODE_OK ||
                 sptx_cuda_download(device, result, t->o, COUNT * sizeof *result, &error) != SPTX_CODE_OK))
    wrong = fail("download", error.message);
  sptx_attention_destroy(attention);
  return wrong;
}

static double value_of(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static int check_tuning(sptx_context *context) {
  static uint16_t plain[COUNT], tuned[COUNT];
  const sptx_cuda_device *device = sptx_cuda_kind_device(context->device);
  sptx_pattern *pattern;
  tensors t = {0};
  double norm = 0, differences = 0;
  sptx_context_set_wisdom(context, NULL);
  if (sptx_pattern_from_text(context, pattern_text, sizeof pattern_text - 1, "p", NULL, 0, &pattern) !=
      SPTX_OK)
    return fail("pattern", sptx_last_error(context));
  int wrong = make_tensors(device, &t) || run(device, context, pattern, 0, &t, plain) ||
              run(device, context, pattern, 6, &t, tuned);
  for (int i = 0; i < COUNT && !wrong; i++) {
    double a = value_of(plain[i]), b = value_of(tuned[i]);
    norm += a * a, differences += (a - b) * (a - b);
  }
  if (!wrong && !(sqrt(differences / norm) < 16 * 0x1p-8))
    wrong = fail("SPTX_TUNE", "the tuned attention computes something else");
  const sptx_cu_pointer all[] = {t.q, t.k, t.v, t.o};
  for (int i = 0; i < 4; i++)
    sptx_cuda_free(device, all[i]);
  sptx_pattern_destroy(pattern);
  return wrong;
}

int main(void) {
  sptx_context *context;
  if (sptx_context_create(&context, "cuda:0") != SPTX_OK) {
    puts(sptx_last_error(NULL));
    return SKIPPED;
  }
  int wrong = check_ceilings(sptx_cuda_kind_device(context->device)) + check_tuning(context);
  sptx_context_destroy(context);
  return wrong ? EXIT_FAILURE : EXIT_SUCCESS;
}
