/* Runs the registered cases and ends with the line by which Criterion counts them; see criterion/criterion.h.
 */
#include <criterion/criterion.h>

struct plain_test *plain_tests;

int main(void) {
  int count = 0;
  for (const struct plain_test *test = plain_tests; test; test = test->next) {
    if (test->disabled)
      continue;
    fprintf(stderr, "[----] %s::%s\n", test->suite, test->name);
    if (test->init)
      test->init();
    test->body();
    if (test->fini)
      test->fini();
    count++;
  }
  fprintf(stderr, "[====] Synthesis: Tested: %d | Passing: %d | Failing: 0 | Crashing: 0 \n", count, count);
  return 0;
}
