/* One candidate schedule tried: compiled, run once, compared with the default's result, and timed. Runs in
 * the worker. */
#ifndef SPTX_TUNER_TRIAL_H
#define SPTX_TUNER_TRIAL_H

#include "gen/schedule_text.h"
#include "tuner/bench.h"

struct sptx_trial_state;

typedef struct sptx_trial {
  const sptx_bench_request *shape; /* device, pattern, sizes, threads */
  size_t step;
  enum sptx_pass pass;
  const sptx_schedule *schedules; /* count, the default first */
  int count;
  bool spoil; /* test switch: the next candidate's result is changed before it is compared */
  struct sptx_trial_state *state; /* made by the first measurement and kept until the process ends */
} sptx_trial;

/* An sptx_measure (tuner/search.h) whose user is an sptx_trial. */
enum sptx_code sptx_trial_measure(void *trial, int candidate, double seconds, double *ms, char reason[160],
                                  sptx_error *error);

#endif
