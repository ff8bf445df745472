/* Tuning every wanted pass of every wanted step of a pattern for one shape: what sptx-tune does, once or for
 * each line of a sweep. */
#ifndef SPTX_TUNER_TUNE_RUN_H
#define SPTX_TUNER_TUNE_RUN_H

#include "tuner/tune.h"
#include <signal.h>

/* One tuned pass of one step. */
typedef struct sptx_tuned {
  char *step; /* "" for a pattern without steps; owned */
  sptx_tune_result result;
} sptx_tuned;

typedef struct sptx_tuned_list {
  char *pattern; /* its name; owned */
  sptx_tuned *items;
  int count;
  sptx_rates rates; /* of the device */
} sptx_tuned_list;

typedef struct sptx_tune_settings {
  double budget_seconds; /* of each pass of each step */
  double share;
  const char *wisdom_path;           /* written after each pass; NULL: nowhere */
  bool bar;                          /* draw progress on stderr */
  const volatile sig_atomic_t *stop; /* nonzero: end with what was found */
} sptx_tune_settings;

/* step: NULL for all in turn. A failure, too, leaves what was tuned before it in the list; clear it in any
 * case. */
enum sptx_code sptx_tune_pattern(const sptx_tune_settings *settings, const sptx_bench_request *shape,
                                 const char *step, sptx_tuned_list *list, sptx_error *error);
void sptx_tuned_list_clear(sptx_tuned_list *list);

#endif
