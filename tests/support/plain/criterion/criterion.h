/* Stands in for Criterion in ThreadSanitizer builds: Criterion starts each case in a child whose memory it
 * maps where ThreadSanitizer allows none. Here the cases run one after another in one process, and the first
 * failed assertion ends it. Only what suite `threads` uses is here. */
#ifndef SPTX_TESTS_PLAIN_CRITERION_H
#define SPTX_TESTS_PLAIN_CRITERION_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plain_test {
  const char *suite, *name; /* name NULL: what TestSuite says of all tests of the suite */
  void (*body)(void), (*init)(void), (*fini)(void);
  bool disabled;
  double timeout; /* meson's own timeout serves */
  const char *description;
  struct plain_test *next;
};

extern struct plain_test *plain_tests, *plain_suites;

#define TestSuite(suite_, ...)                                                                               \
  static struct plain_test plain_suite_##suite_ = {.suite = #suite_, __VA_ARGS__};                           \
  __attribute__((constructor)) static void plain_register_suite_##suite_(void) {                             \
    plain_suite_##suite_.next = plain_suites;                                                                \
    plain_suites = &plain_suite_##suite_;                                                                    \
  }                                                                                                          \
  _Static_assert(true, "takes the semicolon")

#define Test(suite_, name_, ...)                                                                             \
  static void plain_body_##suite_##_##name_(void);                                                           \
  static struct plain_test plain_entry_##suite_##_##name_ = {                                                \
      .suite = #suite_, .name = #name_, .body = plain_body_##suite_##_##name_, __VA_ARGS__};                 \
  __attribute__((constructor)) static void plain_register_##suite_##_##name_(void) {                         \
    plain_entry_##suite_##_##name_.next = plain_tests;                                                       \
    plain_tests = &plain_entry_##suite_##_##name_;                                                           \
  }                                                                                                          \
  static void plain_body_##suite_##_##name_(void)

#define cr_assert(condition, ...)                                                                            \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                        \
      fprintf(stderr, "" __VA_ARGS__);                                                                       \
      fputc('\n', stderr);                                                                                   \
      exit(1);                                                                                               \
    }                                                                                                        \
  } while (0)
#define cr_assert_not(a, ...) cr_assert(!(a), __VA_ARGS__)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...) cr_assert((a) < (b), __VA_ARGS__)
#define cr_assert_leq(a, b, ...) cr_assert((a) <= (b), __VA_ARGS__)
#define cr_assert_gt(a, b, ...) cr_assert((a) > (b), __VA_ARGS__)
#define cr_assert_geq(a, b, ...) cr_assert((a) >= (b), __VA_ARGS__)
#define cr_assert_null(a, ...) cr_assert((a) == NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...) cr_assert((a) != NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) cr_assert(!strcmp(a, b), __VA_ARGS__)
#define cr_assert_arr_eq(a, b, size, ...) cr_assert(!memcmp(a, b, size), __VA_ARGS__)
#define cr_assert_float_eq(a, b, tolerance, ...)                                                             \
  cr_assert((a) - (b) <= (tolerance) && (b) - (a) <= (tolerance), __VA_ARGS__)
#define cr_expect cr_assert
#define cr_expect_not cr_assert_not
#define cr_expect_eq cr_assert_eq
#define cr_expect_neq cr_assert_neq
#define cr_expect_lt cr_assert_lt
#define cr_expect_leq cr_assert_leq
#define cr_expect_gt cr_assert_gt
#define cr_expect_geq cr_assert_geq
#define cr_expect_null cr_assert_null
#define cr_expect_not_null cr_assert_not_null
#define cr_expect_str_eq cr_assert_str_eq
#define cr_expect_float_eq cr_assert_float_eq
#define cr_log_info(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr))
#define cr_skip_test(...)                                                                                    \
  do {                                                                                                       \
    cr_log_info("skipped: " __VA_ARGS__);                                                                    \
    return;                                                                                                  \
  } while (0)

#endif
