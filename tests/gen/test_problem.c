/* The check of shapes and strides: every field's limits by name, strides filled in, and sizes beyond 2^31
 * elements and beyond 2^63 bytes, for none of which a tensor is needed. */
#include "gen/problem.h"

#include <criterion/criterion.h>
#include <string.h>

static sptx_problem valid(void) {
  return (sptx_problem){
      .element = SPTX_ELEMENT_F32, .batch = 2, .heads = 6, .kv_heads = 3, .n_q = 5, .n_k = 7, .head_dim = 24};
}

/* The check fails with this code and a sentence that has these words. */
static void expect_refused(sptx_problem problem, enum sptx_code code, const char *words) {
  sptx_error error = {0};
  cr_expect_eq(sptx_problem_check(&problem, &error), code, "%s: got %d, '%s'", words, error.code,
               error.message);
  cr_expect_not_null(strstr(error.message, words), "'%s' is not in '%s'", words, error.message);
}

static bool accepted(sptx_problem problem) {
  sptx_error error = {0};
  bool good = sptx_problem_check(&problem, &error) == SPTX_CODE_OK;
  if (!good)
    cr_log_info("%s", error.message);
  return good;
}

Test(problem, fills_contiguous_strides) {
  sptx_problem problem = valid();
  cr_assert_eq(sptx_problem_check(&problem, NULL), SPTX_CODE_OK);
  cr_expect_eq(problem.q.batch, 6 * 5 * 24);
  cr_expect_eq(problem.q.head, 5 * 24);
  cr_expect_eq(problem.q.position, 24);
  cr_expect_eq(problem.k.batch, 3 * 7 * 24);
  cr_expect_eq(problem.v.head, 7 * 24);
  cr_expect_eq(problem.o.batch, 6 * 5 * 24);
}

Test(problem, names_the_size_that_is_wrong) {
#define WITH(field, value)                                                                                   \
  sptx_problem problem = valid();                                                                            \
  problem.field = (value)
#define REFUSED(field, value, code)                                                                          \
  do {                                                                                                       \
    WITH(field, value);                                                                                      \
    expect_refused(problem, code, #field " is");                                                             \
  } while (0)
  REFUSED(batch, 0, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(batch, -1, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(heads, 0, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(kv_heads, -3, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(kv_heads, 4, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(kv_heads, 12, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(n_q, 0, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(n_q, 8, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(n_k, INT64_MIN, SPTX_CODE_INVALID_ARGUMENT);
  REFUSED(head_dim, 8, SPTX_CODE_UNSUPPORTED);
  REFUSED(head_dim, 20, SPTX_CODE_UNSUPPORTED);
  REFUSED(head_dim, 264, SPTX_CODE_UNSUPPORTED);
  WITH(element, (enum sptx_element)3);
  expect_refused(problem, SPTX_CODE_INVALID_ARGUMENT, "dtype is 3");
}

Test(problem, takes_every_head_dimension) {
  for (int dim = 16; dim <= 256; dim += 8) {
    WITH(head_dim, dim);
    cr_expect(accepted(problem), "head_dim %d", dim);
  }
}

Test(problem, takes_any_order_of_the_outer_axes) {
  sptx_problem problem = valid();
  problem.q = (sptx_strides){.batch = 5 * 6 * 24, .head = 24, .position = 6 * 24}; /* (batch, n, heads, d) */
  problem.k = (sptx_strides){.batch = 7 * 24, .head = 2 * 7 * 24, .position = 24}; /* (heads, batch, n, d) */
  problem.v = (sptx_strides){.batch = 7 * 3 * 100, .head = 33, .position = 3 * 33 + 1}; /* rows apart */
  cr_expect(accepted(problem));
  problem.batch = 1;
  problem.q.batch = 0;
  cr_expect(accepted(problem), "the stride of an axis of one element is not read");
}

Test(problem, refuses_overlapping_elements) {
  sptx_problem problem = valid();
  problem.q = (sptx_strides){.batch = 6 * 5 * 24, .head = 5 * 24, .position = 23};
  expect_refused(problem, SPTX_CODE_INVALID_ARGUMENT, "q.position is 23");
  problem = valid();
  problem.o = (sptx_strides){.batch = 6 * 5 * 24, .head = 5 * 24 - 1, .position = 24};
  expect_refused(problem, SPTX_CODE_INVALID_ARGUMENT, "o.head is 119");
  problem = valid();
  problem.k = (sptx_strides){.batch = 0, .head = 7 * 24, .position = 24};
  expect_refused(problem, SPTX_CODE_INVALID_ARGUMENT, "k.batch is 0");
  problem = valid();
  problem.v = (sptx_strides){.batch = -1, .head = 7 * 24, .position = 24};
  expect_refused(problem, SPTX_CODE_INVALID_ARGUMENT, "v.batch is -1");
}

Test(problem, goes_beyond_32_bits) {
  sptx_problem problem = valid();
  problem.batch = 64;
  problem.heads = problem.kv_heads = 128;
  problem.n_q = problem.n_k = 1 << 20;
  problem.head_dim = 256; /* 2^41 elements */
  cr_assert(accepted(problem));
  cr_assert_eq(sptx_problem_check(&problem, NULL), SPTX_CODE_OK);
  cr_expect_eq(problem.q.batch, (int64_t)128 << 28);
}

Test(problem, says_where_63_bits_end) {
  sptx_problem problem = valid();
  problem.batch = INT64_MAX / 2;
  expect_refused(problem, SPTX_CODE_OVERFLOW, "63 bits");
  problem = valid();
  problem.n_k = INT64_MAX;
  expect_refused(problem, SPTX_CODE_OVERFLOW, "63 bits");
  problem = valid();
  problem.n_q = problem.n_k = (int64_t)1 << 32; /* the pairs alone are 2^64 */
  expect_refused(problem, SPTX_CODE_OVERFLOW, "n_q 4294967296");
  problem = valid();
  problem.q = (sptx_strides){.batch = INT64_MAX / 2 + 1, .head = 5 * 24, .position = 24};
  expect_refused(problem, SPTX_CODE_OVERFLOW, "q spans");
  problem.batch = 3;
  expect_refused(problem, SPTX_CODE_OVERFLOW, "q.batch");
}
