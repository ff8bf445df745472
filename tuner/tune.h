/* Tuning one attention pass of one step of a pattern on this machine: which schedules there are, what the
 * cost model expects of each, what they take when measured, and which becomes wisdom. */
#ifndef SPTX_TUNER_TUNE_H
#define SPTX_TUNER_TUNE_H

#include "gen/schedule_text.h"
#include "tuner/bench.h"
#include "tuner/search.h"

#define SPTX_TUNE_MOST 512 /* candidates of one search */

typedef struct sptx_tune_request {
  const sptx_bench_request *shape; /* its passes and seconds are not read */
  size_t step;
  enum sptx_pass pass;   /* forward or backward */
  double budget_seconds; /* about how long to measure */
  double share;          /* of the space to measure at most; 1 is exhaustive */
  bool (*progress)(void *user, const struct sptx_search *search); /* may be NULL; false ends the search */
  void *user;
} sptx_tune_request;

typedef struct sptx_tune_result {
  char piece[SPTX_TUNE_MOST]; /* names of the pieces, "window + stride" */
  sptx_schedule *schedules;   /* search.count, the default first */
  sptx_candidate *candidates; /* the same */
  sptx_search search;
  int64_t useful_pairs; /* over batch and heads */
  enum sptx_target_family family;
} sptx_tune_result;

/* Searches. The process must not have used OpenMP before: candidates are measured in a forked worker. Every
 * candidate's result is compared with the default's, and that with float64, before its time counts. */
enum sptx_code sptx_tune(const sptx_tune_request *request, sptx_tune_result *result, sptx_error *error);
void sptx_tune_result_clear(sptx_tune_result *result);

double sptx_tune_default_ms(const sptx_tune_result *result);
double sptx_tune_best_ms(const sptx_tune_result *result);

/* Files the best schedule under the library's key, so that sptx_attention_create finds it. Nothing is written
 * where the default stayed the best. */
enum sptx_code sptx_tune_remember(const sptx_tune_request *request, const sptx_tune_result *result,
                                  const char *wisdom_path, sptx_error *error);

#endif
