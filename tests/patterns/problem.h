/* What the tests of patterns share: a pattern from text, random patterns, and the comparison of pieces with
 * the oracle, pair by pair. */
#ifndef SPTX_TESTS_PATTERNS_PROBLEM_H
#define SPTX_TESTS_PATTERNS_PROBLEM_H

#include "patterns/pattern.h"
#include "patterns/piece.h"

/* A pattern from YAML without its first line (`sptx: 1`); asserts that it parses. */
sptx_pattern *problem_parse(const char *body);
/* A pattern of patterns/library; asserts that it reads. name without folder and ending. */
sptx_pattern *problem_library(const char *name, const sptx_override *overrides, size_t count);
/* The names of all patterns of patterns/library, NULL terminated. */
extern const char *const problem_library_names[];
/* A path below the source folder's root; static. */
const char *problem_path(const char *relative);

/* A generator of random numbers whose seed is printed on stderr: SPTX_TEST_SEED, or the clock. */
typedef struct problem_random {
  uint64_t seed, state;
} problem_random;
problem_random problem_random_make(const char *test);
int64_t problem_random_below(problem_random *random, int64_t bound); /* 0 .. bound - 1 */
/* A random pattern as YAML with its first line; the caller frees it. */
char *problem_random_pattern(problem_random *random, int64_t n);

/* Asserts, for every class of every step, that pieces are disjoint and cover the oracle's set, by membership
 * and by the walk over views and bounds that kernels do; that what they promise holds (monotonic bounds,
 * numbers of pairs, of empty rows, of tiles); where says in messages what was tested. */
void problem_check(const sptx_pattern *pattern, int64_t heads, int64_t n_q, int64_t n_k, const char *where);

#endif
