/* Runs the registered cases and ends with the line by which Criterion counts them; see criterion/criterion.h.
 */
#include <criterion/criterion.h>

struct plain_test *plain_tests, *plain_suites;

/* What TestSuite said of the test's suite, if anything. */
static struct plain_test suite_of(const struct plain_test *test) {
  for (const struct plain_test *suite = plain_suites; suite; suite = suite->next)
    if (!strcmp(suite->suite, test->suite))
      return *suite;
  return (struct plain_test){.suite = test->suite};
}

static void call(void (*function)(void)) {
  if (function)
    function();
}

int main(void) {
  int count = 0;
  for (const struct plain_test *test = plain_tests; test; test = test->next) {
    const struct plain_test suite = suite_of(test);
    if (test->disabled || suite.disabled)
      continue;
    fprintf(stderr, "[----] %s::%s\n", test->suite, test->name);
    call(suite.init);
    call(test->init);
    test->body();
    call(test->fini);
    call(suite.fini);
    count++;
  }
  fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: 0 | Crashing: 0 \n", count, count);
  return 0;
}
