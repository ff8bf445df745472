/* Successive halving over candidates that a cost model has ranked. */
#include "tuner/search.h"

#include "tuner/ceiling.h"
#include "tuner/statistics.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST = 4, FINAL_ROUNDS = 5 };
static const double first_effort = 0.02; /* seconds of a candidate's first measurement */

typedef struct search_state {
  sptx_search *search;
  int *order; /* candidates still in the race, best known first */
  int racing;
  double start;
  bool stopped;
} search_state;

static bool time_is_up(const search_state *state) {
  return state->stopped || sptx_now() - state->start >= state->search->budget_seconds;
}

static enum sptx_code measure(search_state *state, int index, double seconds, sptx_error *error) {
  sptx_search *search = state->search;
  sptx_candidate *candidate = &search->candidates[index];
  bool first = candidate->ms == 0 && !candidate->struck_out;
  double ms = 0;
  SPTX_TRY(search->measure(search->user, index, seconds, &ms, candidate->reason, error));
  search->measured += first;
  if (ms > 0) {
    candidate->ms = ms;
  } else {
    candidate->struck_out = true;
    search->struck_out++;
  }
  search->seconds = sptx_now() - state->start;
  if (search->progress && !search->progress(search->user, search))
    state->stopped = true;
  return SPTX_CODE_OK;
}

/* Insertion sort by measured time, or by the model's before anything is measured; struck out ones leave. */
static void sort_racing(search_state *state, bool by_model) {
  const sptx_candidate *candidates = state->search->candidates;
  int kept = 0;
  for (int k = 0; k < state->racing; k++) {
    int index = state->order[k], at = kept;
    if (candidates[index].struck_out)
      continue;
    double cost = by_model ? candidates[index].predicted_ms : candidates[index].ms;
    for (; at > 0; at--) {
      const sptx_candidate *other = &candidates[state->order[at - 1]];
      if ((by_model ? other->predicted_ms : other->ms) <= cost)
        break;
      state->order[at] = state->order[at - 1];
    }
    state->order[at] = index;
    kept++;
  }
  state->racing = kept;
}

/* The candidates worth measuring: the model's first ones, as many as the share allows, without the default,
 * which is measured anyway. */
static void choose_racing(search_state *state) {
  const sptx_search *search = state->search;
  for (int k = 0; k < search->count; k++)
    if (k != search->default_index)
      state->order[state->racing++] = k;
  sort_racing(state, true);
  int most = (int)floor(search->share * search->count) - 1;
  if (most < FEWEST - 1)
    most = FEWEST - 1;
  if (state->racing > most)
    state->racing = most;
}

/* Each round measures who is left, twice as long as before, and drops the slower half. */
static enum sptx_code race(search_state *state, sptx_error *error) {
  double effort = first_effort;
  while (state->racing > 0) {
    int measured = 0;
    while (measured < state->racing && !time_is_up(state))
      SPTX_TRY(measure(state, state->order[measured++], effort, error));
    bool cut_short = measured < state->racing;
    if (cut_short && effort > first_effort)
      measured = state->racing; /* the others keep the times of the round before */
    state->racing = measured;
    sort_racing(state, false);
    if (cut_short || state->racing <= 1)
      return SPTX_CODE_OK;
    state->racing = (state->racing + 1) / 2;
    effort *= 2;
  }
  return SPTX_CODE_OK;
}

/* The winner of the race and the default take turns, so that a change of the machine's speed meets both. The
 * winner must win the medians to replace the default. */
static enum sptx_code decide(search_state *state, sptx_error *error) {
  sptx_search *search = state->search;
  int rivals[2] = {search->default_index, state->racing > 0 ? state->order[0] : -1};
  double samples[2][FINAL_ROUNDS];
  int rounds = 0;
  if (rivals[1] < 0)
    return SPTX_CODE_OK;
  for (; rounds < FINAL_ROUNDS && (rounds == 0 || !state->stopped); rounds++)
    for (int r = 0; r < 2; r++) {
      SPTX_TRY(measure(state, rivals[r], first_effort * 4, error));
      if (search->candidates[rivals[r]].struck_out)
        return SPTX_CODE_OK;
      samples[r][rounds] = search->candidates[rivals[r]].ms;
    }
  for (int r = 0; r < 2; r++)
    search->candidates[rivals[r]].ms = sptx_median(samples[r], rounds);
  if (search->candidates[rivals[1]].ms < search->candidates[rivals[0]].ms)
    search->best_index = rivals[1];
  return SPTX_CODE_OK;
}

static enum sptx_code correlate(sptx_search *search, sptx_error *error) {
  double *pairs = calloc(2 * (size_t)search->count, sizeof *pairs);
  if (!pairs)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d candidates", search->count);
  int known = 0;
  for (int k = 0; k < search->count; k++)
    if (search->candidates[k].ms > 0) {
      pairs[known] = search->candidates[k].predicted_ms;
      pairs[search->count + known++] = search->candidates[k].ms;
    }
  search->spearman = sptx_spearman(pairs, pairs + search->count, known);
  free(pairs);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_search_run(sptx_search *search, sptx_error *error) {
  search_state state = {.search = search, .start = sptx_now()};
  search->measured = search->struck_out = 0;
  search->best_index = search->default_index;
  state.order = calloc((size_t)search->count, sizeof *state.order);
  if (!state.order)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d candidates", search->count);
  enum sptx_code code;
  SPTX_TRY_GOTO(measure(&state, search->default_index, first_effort, error), done);
  const sptx_candidate *standard = &search->candidates[search->default_index];
  if (standard->struck_out) {
    code = sptx_fail(error, SPTX_CODE_UNSUPPORTED, "the default schedule cannot run: %s", standard->reason);
    goto done;
  }
  choose_racing(&state);
  SPTX_TRY_GOTO(race(&state, error), done);
  SPTX_TRY_GOTO(decide(&state, error), done);
  code = correlate(search, error);
done:
  search->seconds = sptx_now() - state.start;
  free(state.order);
  return code;
}
