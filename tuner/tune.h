/* Tuning one attention pass of one step of a pattern: which schedules there are, what the cost model expects
 * of each, what they take when measured, and which becomes wisdom. */
#ifndef SPTX_TUNER_TUNE_H
#define SPTX_TUNER_TUNE_H

#include "gen/space.h"
#include "runtime/search.h"
#include "tuner/bench.h"
#include "tuner/tune_device.h"

#define SPTX_TUNE_TEXT 512 /* bytes of a schedule's or the pieces' text, with its end */

typedef struct sptx_tune_request {
  const sptx_bench_request *shape; /* its passes and seconds are not read */
  const sptx_tune_device *device;  /* that shape->device names */
  const sptx_rates *rates;         /* of the device, for the cost model */
  size_t step;
  enum sptx_pass pass;   /* forward or backward */
  double budget_seconds; /* about how long to measure */
  double share;          /* of the space to measure at most; 1 is exhaustive */
  bool (*progress)(void *user, const struct sptx_search *search); /* may be NULL; false ends the search */
  void *user;                                                     /* progress's */
} sptx_tune_request;

typedef struct sptx_tune_result {
  char piece[SPTX_TUNE_TEXT]; /* names of the pieces, "window + stride" */
  enum sptx_target_family family;
  sptx_space space;           /* the default first */
  sptx_candidate *candidates; /* one for each schedule */
  sptx_search search;
  int64_t useful_pairs;                             /* over batch and heads */
  char key_piece[SPTX_WISDOM_TEXT], key_shape[256]; /* of wisdom's key */
  const char *element;                              /* the same; static */
  char device[SPTX_WISDOM_TEXT];                    /* the same */
  enum sptx_pass pass;                              /* the same */
} sptx_tune_result;

/* Searches. The process must not have used OpenMP or CUDA before: candidates are measured in a forked worker.
 * Every candidate's result is compared with the default's, and that with float64, before its time counts. */
enum sptx_code sptx_tune(const sptx_tune_request *request, sptx_tune_result *result, sptx_error *error);
void sptx_tune_result_clear(sptx_tune_result *result);

double sptx_tune_default_ms(const sptx_tune_result *result);
double sptx_tune_best_ms(const sptx_tune_result *result);
/* The text of a schedule of the result; "default" for that one. */
void sptx_tune_schedule_text(const sptx_tune_result *result, int index, char text[SPTX_TUNE_TEXT]);

/* Files the best schedule, also where that is the default, under the library's key, so that
 * sptx_attention_create finds it. A search that compared nothing leaves nothing. */
enum sptx_code sptx_tune_remember(const sptx_tune_result *result, const char *wisdom_path, sptx_error *error);

#endif
