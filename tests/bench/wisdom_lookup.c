/* Prints how many milliseconds wisdom adds to sptx_attention_create: the medians of creations that find their
 * schedule in the database, and of creations without one, the compiled code being in the cache in both cases.
 * Arguments: a pattern, a database (whose entries need not match: an entry is put there if none does). */
#include "runtime/attention.h"
#include "runtime/clock.h"
#include "runtime/statistics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CREATIONS = 41 };

static double median_ms(sptx_context *context, const sptx_pattern *pattern, const sptx_attention_desc *desc) {
  double samples[CREATIONS];
  for (int k = -1; k < CREATIONS; k++) { /* the first one warms up */
    sptx_attention *attention;
    double begin = sptx_now();
    if (sptx_attention_create(context, pattern, desc, &attention) != SPTX_OK) {
      fprintf(stderr, "%s\n", sptx_last_error(context));
      exit(EXIT_FAILURE);
    }
    if (k >= 0)
      samples[k] = 1e3 * (sptx_now() - begin);
    sptx_attention_destroy(attention);
  }
  return sptx_median(samples, CREATIONS);
}

int main(int argc, char **argv) {
  sptx_context *context;
  sptx_pattern *pattern;
  if (argc != 3 || sptx_context_create(&context, "cpu") != SPTX_OK ||
      sptx_context_set_wisdom(context, argv[2]) != SPTX_OK ||
      sptx_pattern_load(context, argv[1], NULL, 0, &pattern) != SPTX_OK) {
    fprintf(stderr, "usage: wisdom_lookup PATTERN.yaml WISDOM.db\n");
    return 2;
  }
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = SPTX_TUNE; /* forward only, and never found a second time */
  desc.n_q = desc.n_k = 512;
  desc.head_dim = 64;
  desc.tune_seconds = 0.5;
  sptx_attention *tuned;
  if (sptx_attention_create(context, pattern, &desc, &tuned) != SPTX_OK) {
    fprintf(stderr, "%s\n", sptx_last_error(context));
    return EXIT_FAILURE;
  }
  sptx_attention_destroy(tuned);
  desc.flags = 0;
  double with = median_ms(context, pattern, &desc);
  sptx_context_set_wisdom(context, NULL);
  double without = median_ms(context, pattern, &desc);
  printf("%.3f\n", with - without);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  return EXIT_SUCCESS;
}
