/* What tuning found, for people and programs: a table, one JSON object, and one self-contained HTML page. */
#ifndef SPTX_TUNER_TUNE_REPORT_H
#define SPTX_TUNER_TUNE_REPORT_H

#include "tuner/tune.h"
#include <stdio.h>

/* One tuned pass of one step. */
typedef struct sptx_tuned {
  const char *step; /* "" for a pattern without steps */
  enum sptx_pass pass;
  sptx_tune_result result;
} sptx_tuned;

/* The machine's limits, measured in the same run, for the roofline. */
typedef struct sptx_tune_limits {
  double gemm_gflops, copy_gbs; /* float32 product; bytes read and written by a copy */
} sptx_tune_limits;

void sptx_tune_table(const sptx_tuned *tuned, int count, FILE *stream);
/* An object with `results`, each {piece, step, pass, default_ms, best_ms, schedule, candidates, measured,
 * struck_out, spearman}. */
enum sptx_code sptx_tune_json(const sptx_tuned *tuned, int count, FILE *stream, sptx_error *error);
/* Plots for each pass: times by candidate, model against measurement, and the roofline (Williams et al.
 * 2009). */
void sptx_tune_html(const sptx_bench_request *shape, const char *pattern, const sptx_tuned *tuned, int count,
                    const sptx_tune_limits *limits, FILE *stream);

#endif
