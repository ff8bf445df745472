/* Prints what sptx-bench found: a table line by line as steps finish, or one JSON object at the end. */
#ifndef SPTX_TUNER_BENCH_REPORT_H
#define SPTX_TUNER_BENCH_REPORT_H

#include "tuner/bench.h"
#include <stdio.h>

struct cJSON;

typedef struct sptx_bench_report {
  const sptx_bench_request *request;
  const char *pattern_name;
  FILE *table;        /* NULL: JSON is collected */
  bool headed;        /* the table's head goes before the first step's line: a failure prints none */
  struct cJSON *json; /* owned */
} sptx_bench_report;

/* request and pattern_name are set by the caller and outlive the report. */
enum sptx_code sptx_bench_report_open(sptx_bench_report *report, FILE *table, sptx_error *error);
/* step_name is "" for a pattern without steps. */
enum sptx_code sptx_bench_report_step(sptx_bench_report *report, const char *step_name,
                                      const sptx_bench_step *step, sptx_error *error);
/* Writes the JSON to file, when not NULL, and frees what the report holds. */
void sptx_bench_report_close(sptx_bench_report *report, FILE *file);

#endif
