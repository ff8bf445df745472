/* The search for the fastest candidate. The cost model ranks all; what is measured corrects the model, trait
 * by trait (the same tile size, the same register block), and the corrected model says what to measure next;
 * the fastest then race by successive halving (Jamieson and Talwalkar 2016), and the default is only replaced
 * by what was measured faster in turns with it. Knows nothing of kernels: how a candidate is measured is the
 * caller's. */
#ifndef SPTX_RUNTIME_SEARCH_H
#define SPTX_RUNTIME_SEARCH_H

#include "gen/schedule_text.h"
#include "patterns/error.h"
#include <stdbool.h>

typedef struct sptx_candidate {
  double predicted_ms;              /* the cost model's; only ratios matter */
  int traits[SPTX_SCHEDULE_FIELDS]; /* what it shares with others: equal numbers at the same place */
  double ms;                        /* the shortest time of any measurement; 0: not measured */
  bool struck_out;                  /* it hung, faulted, was refused or computed something wrong */
  char reason[160];                 /* why it was struck out */
} sptx_candidate;

/* Measures one candidate for about `seconds`. A candidate that fails is no failure of the search: *ms becomes
 * 0 and reason says why. Any other code ends the search. */
typedef enum sptx_code (*sptx_measure)(void *user, int candidate, double seconds, double *ms,
                                       char reason[160], sptx_error *error);

typedef struct sptx_search {
  sptx_candidate *candidates; /* predicted_ms and traits set by the caller; the rest is filled */
  int count, default_index;
  double budget_seconds; /* nothing new is measured after it, except that one candidate is compared with the
                            default; 0 measures only the default, once */
  double share;          /* how much of the space may be measured; 1 measures all of it */
  sptx_measure measure;
  void *user;
  /* Called after each measurement; may be NULL. Returning false ends the search with what it has. */
  bool (*progress)(void *user, const struct sptx_search *search);

  int measured, struck_out, best_index; /* results; best_index is default_index unless something was faster */
  double default_ms, best_ms;           /* medians of the final turns; of one where there were none */
  double seconds;                       /* spent */
  double spearman;                      /* of the model over what was measured; NaN for fewer than two */
} sptx_search;

/* Fails with SPTX_CODE_OUT_OF_MEMORY, SPTX_CODE_UNSUPPORTED (the default itself cannot run), or as measure
 * does. */
enum sptx_code sptx_search_run(sptx_search *search, sptx_error *error);

#endif
