/* The search finds what is fastest among what it may measure, never replaces the default by something slower,
 * strikes out what fails and goes on; rank correlation against worked examples. */
#include "runtime/search.h"
#include "runtime/statistics.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 64 };

/* A made-up machine: what each candidate takes, and what it does instead of running. */
typedef struct machine {
  double ms[MOST];
  char fate[MOST]; /* 0 runs, 'd' is disturbed once, 'w' is wrong, 'x' ends the search */
  int runs[MOST];
  int stop_after, total;
} machine;

static enum sptx_code run_candidate(void *user, int candidate, double seconds, double *ms, char reason[160],
                                    sptx_error *error) {
  machine *m = user;
  (void)seconds;
  m->runs[candidate]++;
  m->total++;
  *ms = 0;
  switch (m->fate[candidate]) {
  case 'w':
    strcpy(reason, "wrong result");
    return SPTX_CODE_OK;
  case 'x':
    return sptx_fail(error, SPTX_CODE_DEVICE, "the device is gone");
  default:
    break;
  }
  *ms = m->fate[candidate] == 'd' && m->runs[candidate] == 1 ? 10 * m->ms[candidate] : m->ms[candidate];
  return SPTX_CODE_OK;
}

static bool go_on(void *user, const sptx_search *search) {
  machine *m = user;
  (void)search;
  return !m->stop_after || m->total < m->stop_after;
}

static sptx_search search_of(machine *m, sptx_candidate *candidates, int count) {
  memset(candidates, 0, (size_t)count * sizeof *candidates);
  for (int k = 0; k < count; k++)
    candidates[k].predicted_ms = k + 1;
  return (sptx_search){.candidates = candidates,
                       .count = count,
                       .budget_seconds = 30,
                       .share = 1,
                       .measure = run_candidate,
                       .user = m,
                       .progress = go_on};
}

Test(search, finds_the_fastest_of_all) {
  unsigned seed = (unsigned)getpid();
  cr_log_info("seed %u", seed);
  for (int round = 0; round < 50; round++) {
    machine m = {0};
    sptx_candidate candidates[MOST];
    int count = 1 + rand_r(&seed) % MOST, fastest = 0;
    for (int k = 0; k < count; k++) {
      m.ms[k] = 1 + rand_r(&seed) % 100000 / 100.0 + k * 1e-6;
      fastest = m.ms[k] < m.ms[fastest] ? k : fastest;
    }
    sptx_search search = search_of(&m, candidates, count);
    search.default_index = rand_r(&seed) % count;
    cr_assert_eq(sptx_search_run(&search, NULL), SPTX_CODE_OK);
    cr_assert_eq(search.best_index, fastest, "round %d of seed: %d is not %d", round, search.best_index,
                 fastest);
    cr_assert_eq(search.measured, count);
  }
}

Test(search, measures_only_its_share_and_trusts_the_model_for_the_rest) {
  machine m = {0};
  sptx_candidate candidates[60];
  for (int k = 0; k < 60; k++)
    m.ms[k] = 10 + (k * 7) % 5;
  m.ms[2] = 1;   /* among the model's first */
  m.ms[50] = .1; /* beyond the share: not found, by design */
  sptx_search search = search_of(&m, candidates, 60);
  search.default_index = 30;
  search.share = 0.1;
  cr_assert_eq(sptx_search_run(&search, NULL), SPTX_CODE_OK);
  cr_expect_eq(search.best_index, 2);
  cr_expect_leq(search.measured, 6);
  cr_expect_eq(m.runs[50], 0);
}

/* Other work on the machine meets the fastest candidate's first measurement. */
Test(search, a_disturbed_measurement_gets_a_second_chance) {
  machine m = {.fate = {[30] = 'd'}};
  sptx_candidate candidates[MOST];
  sptx_error error = {0};
  sptx_search search = search_of(&m, candidates, MOST);
  for (int k = 0; k < MOST; k++) {
    candidates[k].predicted_ms = 10;
    m.ms[k] = k == 30 ? 5 : 10;
  }
  cr_assert_eq(sptx_search_run(&search, &error), SPTX_CODE_OK, "%s", error.message);
  cr_expect_eq(search.best_index, 30);
  cr_expect_eq(search.measured, MOST);
}

Test(search, keeps_the_default_when_nothing_is_faster) {
  machine m = {0};
  sptx_candidate candidates[10];
  for (int k = 0; k < 10; k++)
    m.ms[k] = k == 7 ? 5 : 5.5 + k;
  sptx_search search = search_of(&m, candidates, 10);
  search.default_index = 7;
  cr_assert_eq(sptx_search_run(&search, NULL), SPTX_CODE_OK);
  cr_expect_eq(search.best_index, 7);
}

Test(search, strikes_out_and_goes_on) {
  machine m = {0};
  sptx_candidate candidates[8];
  for (int k = 0; k < 8; k++)
    m.ms[k] = 8 - k;
  m.fate[7] = 'w';
  sptx_search search = search_of(&m, candidates, 8);
  cr_assert_eq(sptx_search_run(&search, NULL), SPTX_CODE_OK);
  cr_expect_eq(search.best_index, 6);
  cr_expect_eq(search.struck_out, 1);
  cr_expect_str_eq(candidates[7].reason, "wrong result");
  m.fate[0] = 'w';
  search = search_of(&m, candidates, 8);
  cr_expect_eq(sptx_search_run(&search, NULL), SPTX_CODE_UNSUPPORTED);
  m.fate[0] = 0, m.fate[3] = 'x';
  search = search_of(&m, candidates, 8);
  cr_expect_eq(sptx_search_run(&search, NULL), SPTX_CODE_DEVICE);
}

Test(search, a_budget_of_zero_measures_the_default_once) {
  machine m = {0};
  sptx_candidate candidates[8];
  for (int k = 0; k < 8; k++)
    m.ms[k] = 8 - k;
  sptx_search search = search_of(&m, candidates, 8);
  search.budget_seconds = 0;
  search.default_index = 3;
  cr_assert_eq(sptx_search_run(&search, NULL), SPTX_CODE_OK);
  cr_expect_eq(search.best_index, 3);
  cr_expect_eq(search.measured, 1);
  cr_expect_eq(m.runs[3], 1);
}

Test(search, keeps_what_it_found_when_interrupted) {
  machine m = {0};
  sptx_candidate candidates[40];
  for (int k = 0; k < 40; k++)
    m.ms[k] = 50 - k;
  m.stop_after = 10;
  sptx_search search = search_of(&m, candidates, 40);
  cr_assert_eq(sptx_search_run(&search, NULL), SPTX_CODE_OK);
  cr_expect_leq(m.total, 13);
  cr_expect_eq(search.best_index, 9, "the fastest of those measured, not %d", search.best_index);
}

Test(statistics, ranks_and_medians) {
  double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};
  cr_expect_eq(sptx_median(odd, 3), 2);
  cr_expect_eq(sptx_median(even, 4), 2.5);
  cr_expect_eq(sptx_median(NULL, 0), 0);
  const double a[] = {1, 2, 3, 4, 5}, up[] = {1, 8, 9, 20, 100}, down[] = {5, 4, 3, 2, 1},
               same[] = {2, 2, 2, 2, 2};
  /* ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8 */
  const double swapped[] = {20, 10, 40, 30, 50}, tied[] = {1, 1, 2, 3, 4};
  cr_expect_float_eq(sptx_spearman(a, up, 5), 1, 1e-12);
  cr_expect_float_eq(sptx_spearman(a, down, 5), -1, 1e-12);
  cr_expect_float_eq(sptx_spearman(a, swapped, 5), 0.8, 1e-12);
  cr_expect_float_eq(sptx_spearman(a, tied, 5), 9.5 / sqrt(10 * 9.5), 1e-12);
  cr_expect(isnan(sptx_spearman(a, same, 5)));
  cr_expect(isnan(sptx_spearman(a, up, 1)));
}
