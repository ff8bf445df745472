/* Exploring with a model that is corrected on the way, then a race, then turns with the default. */
#include "runtime/search.h"

#include "runtime/clock.h"
#include "runtime/statistics.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEWEST = 4, RACERS = 8, FINAL_ROUNDS = 7 };
static const double first_effort = 0.02;                    /* seconds of a candidate's first measurement */
static const double explore_until = 0.7, race_until = 0.85; /* of the budget */
static const double hopeless = 1.3; /* times the best: what the corrected model expects worse is left out */
static const double surprising = 1.25; /* times the expected: what is measured worse is measured once more */

typedef struct search_state {
  sptx_search *search;
  double *correction; /* of each candidate: log(measured / predicted), as far as its traits explain it */
  double *residual;   /* of each measured candidate: what is left to explain */
  int *value_of;      /* for each candidate and trait: the first candidate with the same value */
  bool *seen;         /* for the same pairs, of such firsts: something with the value was measured */
  int *order;         /* candidates in the race, fastest first */
  int racing;
  double start;
  bool stopped;
} search_state;

static bool time_is_up(const search_state *state, double part) {
  return state->stopped || sptx_now() - state->start >= part * state->search->budget_seconds;
}

static size_t pair_of(int candidate, int trait) {
  return (size_t)candidate * SPTX_SCHEDULE_FIELDS + (size_t)trait;
}

static void number_values(search_state *state) {
  const sptx_candidate *candidates = state->search->candidates;
  for (int trait = 0; trait < SPTX_SCHEDULE_FIELDS; trait++)
    for (int k = 0; k < state->search->count; k++) {
      int first = 0;
      while (candidates[first].traits[trait] != candidates[k].traits[trait])
        first++;
      state->value_of[pair_of(k, trait)] = first;
    }
}

static bool is_open(const sptx_candidate *candidate) {
  return candidate->ms == 0 && !candidate->struck_out;
}

static enum sptx_code measure(search_state *state, int index, double seconds, double *ms, sptx_error *error) {
  sptx_search *search = state->search;
  sptx_candidate *candidate = &search->candidates[index];
  bool first = is_open(candidate);
  *ms = 0;
  SPTX_TRY(search->measure(search->user, index, seconds, ms, candidate->reason, error));
  search->measured += first;
  for (int trait = 0; trait < SPTX_SCHEDULE_FIELDS; trait++)
    state->seen[pair_of(state->value_of[pair_of(index, trait)], trait)] = true;
  if (*ms > 0) {
    candidate->ms = first ? *ms : fmin(*ms, candidate->ms);
  } else if (!candidate->struck_out) {
    candidate->struck_out = true;
    search->struck_out++;
  }
  search->seconds = sptx_now() - state->start;
  if (search->progress && !search->progress(search->user, search))
    state->stopped = true;
  return SPTX_CODE_OK;
}

/* The mean residual of the measured candidates that share a trait's value, drawn towards 0 where they are
 * few; it moves from their residuals into the corrections of all that share it. */
static void explain_value(search_state *state, int trait, int first) {
  const sptx_search *search = state->search;
  double sum = 0, weight = 0.5;
  for (int k = 0; k < search->count; k++)
    if (search->candidates[k].ms > 0 && state->value_of[pair_of(k, trait)] == first)
      sum += state->residual[k], weight++;
  for (int k = 0; k < search->count; k++)
    if (state->value_of[pair_of(k, trait)] == first) {
      state->correction[k] += sum / weight;
      state->residual[k] -= sum / weight;
    }
}

/* Fits log(measured / predicted) by a sum of effects of the traits (backfitting: Friedman and Stuetzle 1981).
 */
static void correct_model(search_state *state) {
  enum { SWEEPS = 3 };
  const sptx_search *search = state->search;
  double sum = 0;
  int known = 0;
  for (int k = 0; k < search->count; k++)
    if (search->candidates[k].ms > 0)
      sum += log(search->candidates[k].ms / search->candidates[k].predicted_ms), known++;
  double mean = known ? sum / known : 0;
  for (int k = 0; k < search->count; k++) {
    const sptx_candidate *candidate = &search->candidates[k];
    state->correction[k] = mean;
    state->residual[k] = candidate->ms > 0 ? log(candidate->ms / candidate->predicted_ms) - mean : 0;
  }
  for (int sweep = 0; sweep < SWEEPS; sweep++)
    for (int trait = 0; trait < SPTX_SCHEDULE_FIELDS; trait++)
      for (int k = 0; k < search->count; k++)
        if (state->value_of[pair_of(k, trait)] == k)
          explain_value(state, trait, k);
}

static double corrected_ms(const search_state *state, int candidate) {
  return state->search->candidates[candidate].predicted_ms * exp(state->correction[candidate]);
}

/* The open candidate of which the corrected model expects most; -1 when none is left. */
static int most_promising(const search_state *state) {
  int best = -1;
  for (int k = 0; k < state->search->count; k++)
    if (is_open(&state->search->candidates[k]) &&
        (best < 0 || corrected_ms(state, k) < corrected_ms(state, best)))
      best = k;
  return best;
}

/* The model's first candidate among those that have a value of a trait which nothing measured has: every
 * value is to be seen once before the model may rule it out. */
static int unseen_value(const search_state *state) {
  const sptx_search *search = state->search;
  int best = -1;
  for (int k = 0; k < search->count; k++) {
    const sptx_candidate *candidate = &search->candidates[k];
    if (!is_open(candidate) ||
        (best >= 0 && candidate->predicted_ms >= search->candidates[best].predicted_ms))
      continue;
    for (int trait = 0; trait < SPTX_SCHEDULE_FIELDS; trait++)
      if (!state->seen[pair_of(state->value_of[pair_of(k, trait)], trait)])
        best = k;
  }
  return best;
}

static double best_of_measured(const sptx_search *search) {
  double best = INFINITY;
  for (int k = 0; k < search->count; k++)
    if (search->candidates[k].ms > 0 && !search->candidates[k].struck_out)
      best = fmin(best, search->candidates[k].ms);
  return best;
}

/* However short the budget, one candidate is held against the default, unless there is none. */
static bool compares_nothing(const search_state *state) {
  const sptx_search *search = state->search;
  return !state->stopped && search->budget_seconds > 0 && search->measured - search->struck_out < 2;
}

/* A candidate's first measurement. One that is much worse than expected may have met other work on the
 * machine, and would never be looked at again: it gets a second chance. */
static enum sptx_code try_candidate(search_state *state, int index, sptx_error *error) {
  double expected = corrected_ms(state, index), ms;
  SPTX_TRY(measure(state, index, first_effort, &ms, error));
  if (ms > surprising * expected && !time_is_up(state, explore_until))
    return measure(state, index, first_effort, &ms, error);
  return SPTX_CODE_OK;
}

/* Measures candidates one after another, up to the share: half of them so that every trait's values are seen,
 * in the model's order, the others where the corrected model expects most. */
static enum sptx_code explore(search_state *state, sptx_error *error) {
  sptx_search *search = state->search;
  int most = (int)floor(search->share * search->count);
  most = most < FEWEST ? FEWEST : most;
  while (search->measured < most &&
         (!time_is_up(state, search->share >= 1 ? 1 : explore_until) || compares_nothing(state))) {
    correct_model(state);
    int next = search->measured <= most / 2 ? unseen_value(state) : -1;
    if (next < 0) {
      next = most_promising(state);
      if (next < 0 || (search->share < 1 && corrected_ms(state, next) > hopeless * best_of_measured(search)))
        return SPTX_CODE_OK;
    }
    SPTX_TRY(try_candidate(state, next, error));
  }
  return SPTX_CODE_OK;
}

/* The racers by their shortest times; those struck out leave. */
static void sort_racing(search_state *state) {
  const sptx_candidate *candidates = state->search->candidates;
  int kept = 0;
  for (int k = 0; k < state->racing; k++) {
    int index = state->order[k], at = kept;
    if (candidates[index].struck_out || candidates[index].ms == 0)
      continue;
    for (; at > 0 && candidates[state->order[at - 1]].ms > candidates[index].ms; at--)
      state->order[at] = state->order[at - 1];
    state->order[at] = index;
    kept++;
  }
  state->racing = kept;
}

/* Each round measures who is left, twice as long as before, and drops the slower half. */
static enum sptx_code race(search_state *state, sptx_error *error) {
  const sptx_search *search = state->search;
  double effort = 2 * first_effort, ms;
  for (int k = 0; k < search->count; k++)
    if (k != search->default_index)
      state->order[state->racing++] = k;
  sort_racing(state);
  state->racing = state->racing < RACERS ? state->racing : RACERS;
  for (; state->racing > 1 && !time_is_up(state, race_until); effort *= 2) {
    for (int k = 0; k < state->racing && !time_is_up(state, race_until); k++)
      SPTX_TRY(measure(state, state->order[k], effort, &ms, error));
    sort_racing(state);
    state->racing = (state->racing + 1) / 2;
  }
  return SPTX_CODE_OK;
}

/* The winner of the race and the default take turns, so that a change of the machine's speed meets both. The
 * winner must win most turns, and the medians, to replace the default. */
static enum sptx_code decide(search_state *state, sptx_error *error) {
  sptx_search *search = state->search;
  int rivals[2] = {search->default_index, state->racing > 0 ? state->order[0] : -1}, rounds = 0, won = 0;
  double samples[2][FINAL_ROUNDS];
  if (rivals[1] < 0)
    return SPTX_CODE_OK;
  for (; rounds < FINAL_ROUNDS && (rounds == 0 || !time_is_up(state, 1)); rounds++) {
    for (int r = 0; r < 2; r++) {
      SPTX_TRY(measure(state, rivals[r], first_effort * 4, &samples[r][rounds], error));
      if (search->candidates[rivals[r]].struck_out)
        return SPTX_CODE_OK;
    }
    won += samples[1][rounds] < samples[0][rounds];
  }
  search->default_ms = search->best_ms = sptx_median(samples[0], rounds);
  double challenger = sptx_median(samples[1], rounds);
  if (4 * won >= 3 * rounds && challenger < search->default_ms) {
    search->best_index = rivals[1];
    search->best_ms = challenger;
  }
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

static enum sptx_code run(search_state *state, sptx_error *error) {
  sptx_search *search = state->search;
  const sptx_candidate *standard = &search->candidates[search->default_index];
  double ms;
  number_values(state);
  SPTX_TRY(measure(state, search->default_index, first_effort, &ms, error));
  if (standard->struck_out)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "the default schedule cannot run: %s", standard->reason);
  search->default_ms = search->best_ms = ms;
  SPTX_TRY(explore(state, error));
  SPTX_TRY(race(state, error));
  SPTX_TRY(decide(state, error));
  return correlate(search, error);
}

enum sptx_code sptx_search_run(sptx_search *search, sptx_error *error) {
  size_t count = (size_t)search->count;
  search_state state = {.search = search,
                        .correction = calloc(count, sizeof(double)),
                        .residual = calloc(count, sizeof(double)),
                        .value_of = calloc(count, SPTX_SCHEDULE_FIELDS * sizeof(int)),
                        .seen = calloc(count, SPTX_SCHEDULE_FIELDS * sizeof(bool)),
                        .order = calloc(count, sizeof(int)),
                        .start = sptx_now()};
  search->measured = search->struck_out = 0;
  search->best_index = search->default_index;
  enum sptx_code code =
      state.correction && state.residual && state.value_of && state.seen && state.order
          ? run(&state, error)
          : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d candidates", search->count);
  search->seconds = sptx_now() - state.start;
  free(state.correction);
  free(state.residual);
  free(state.value_of);
  free(state.seen);
  free(state.order);
  return code;
}
