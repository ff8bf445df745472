/* The default schedules against those that wisdom knows, measured in turns: what tuning gained. */
#ifndef SPTX_TUNER_BENCH_COMPARE_H
#define SPTX_TUNER_BENCH_COMPARE_H

#include "tuner/bench.h"
#include <cjson/cJSON.h>
#include <stdio.h>

/* Medians of one call's milliseconds; equal kernels where wisdom knows nothing of the shape. */
typedef struct sptx_bench_comparison {
  double default_ms[SPTX_BENCH_PASSES], tuned_ms[SPTX_BENCH_PASSES]; /* of the passes wanted */
} sptx_bench_comparison;

/* wisdom: the database; NULL: the one that the library uses on its own. */
enum sptx_code sptx_bench_compare(const sptx_bench_request *request, size_t step, const char *wisdom,
                                  sptx_bench_comparison *comparison, sptx_error *error);

/* A line of the table for each pass; header before the first. */
void sptx_bench_compare_print(const sptx_bench_request *request, const char *step,
                              const sptx_bench_comparison *comparison, bool header, FILE *stream);
/* Appends {step, pass, default_ms, tuned_ms} for each pass. False when memory is short. */
bool sptx_bench_compare_json(const sptx_bench_request *request, const char *step,
                             const sptx_bench_comparison *comparison, cJSON *results);

#endif
