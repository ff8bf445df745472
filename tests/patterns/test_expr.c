/* Expressions: C's operators and precedence, floor division, every function, overflow and division by zero
 * with place and values. */
#include "patterns/expr.h"
#include "tests/patterns/problem.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {"a", "b", "c"};
static const int64_t values[] = {7, -3, 100};

static enum sptx_code evaluate(const char *text, int64_t *result, sptx_error *error) {
  sptx_expr *expr;
  SPTX_TRY(sptx_expr_parse(text, strlen(text), (sptx_place){"f", 3, 10}, true, names, 3, &expr, error));
  enum sptx_code code = sptx_expr_eval(expr, values, result, error);
  sptx_expr_free(expr);
  return code;
}

static void check(const char *text, int64_t expected) {
  int64_t result = 0;
  sptx_error error = {0};
  cr_assert_eq(evaluate(text, &result, &error), SPTX_CODE_OK, "%s: %s", text, error.message);
  cr_assert_eq(result, expected, "%s = %" PRId64 ", expected %" PRId64, text, result, expected);
}

static void check_error(const char *text, enum sptx_code code, const char *message) {
  int64_t result;
  sptx_error error = {0};
  cr_assert_eq(evaluate(text, &result, &error), code, "%s", text);
  cr_assert_str_eq(error.message, message, "%s", text);
}

/* The compiler's own reading of the same text, which it would like to see in more brackets. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wparentheses"
#pragma GCC diagnostic ignored "-Wlogical-not-parentheses"
Test(expr, precedence_is_c) {
#define SAME(expression) check(#expression, expression)
  SAME(1 + 2 * 3);
  SAME((1 + 2) * 3);
  SAME(10 - 4 - 3);
  SAME(100 / 7 / 2);
  SAME(2 * 7 % 4);
  SAME(1 << 2 + 3);
  SAME(64 >> 2 >> 1);
  SAME(1 << 3 < 9);
  SAME(6 & 3 == 3);
  SAME((6 & 3) == 2);
  SAME(1 | 6 & 4);
  SAME(1 | 2 ^ 3 & 1);
  SAME(1 ^ 3 | 4);
  SAME(1 < 2 == 1);
  SAME(3 > 2 > 1);
  SAME(1 || 0 && 0);
  SAME(0 && 1 || 1);
  SAME(0 ? 1 : 0 ? 2 : 3);
  SAME(1 ? 0 ? 4 : 5 : 6);
  SAME(1 || 1 ? 2 : 3);
  SAME(-2 * -3);
  SAME(- -4);
  SAME(~5 + 1);
  SAME(!5 + 1);
  SAME(!0 == 1);
  SAME(~-1);
  SAME(-(3 - 5) * 2);
  SAME(0x1F + 0xa);
  SAME(1 <= 1 != 0 >= 1);
#undef SAME
}
#pragma GCC diagnostic pop

Test(expr, division_floors) {
  static const int64_t sides[] = {-9, -8, -7, -1, 0, 1, 7, 8, 9};
  for (size_t i = 0; i < 9; i++)
    for (size_t j = 0; j < 9; j++) {
      int64_t a = sides[i], b = sides[j], quotient = 0;
      char text[64];
      if (b == 0)
        continue;
      quotient = a / b;
      if (quotient * b != a && (a < 0) != (b < 0))
        quotient--;
      snprintf(text, sizeof text, "(%" PRId64 ") / (%" PRId64 ")", a, b);
      check(text, quotient);
      snprintf(text, sizeof text, "(%" PRId64 ") %% (%" PRId64 ")", a, b);
      check(text, a - quotient * b);
      snprintf(text, sizeof text, "ceil_div(%" PRId64 ", %" PRId64 ")", a, b);
      check(text, quotient + (quotient * b != a));
    }
}

Test(expr, functions_and_names) {
  check("min(a, b) + max(a, b) * c", -3 + 700);
  check("abs(b) + abs(a) + abs(0)", 10);
  check("isqrt(0) + isqrt(1) + isqrt(15) + isqrt(16)", 0 + 1 + 3 + 4);
  check("isqrt(9223372036854775807)", 3037000499);
  check("ilog2(1) + ilog2(2) + ilog2(1023) + ilog2(1024)", 0 + 1 + 9 + 10);
  check("ilog2(9223372036854775807)", 62);
  check("ceil_div(c, a) * a >= c && (ceil_div(c, a) - 1) * a < c", 1);
  check(" max ( min( a,b ) , c?1:2 ) ", 1);
  check("b >> 1", -2);
  check("-1 >> 63", -1);
  check("1 << 62", (int64_t)1 << 62);
  check("-1 << 63", INT64_MIN);
  check("-9223372036854775807 - 1", INT64_MIN);
  check("(-9223372036854775807 - 1) % -1", 0);
}

/* What is not taken is not evaluated. */
Test(expr, short_circuits) {
  check("0 && 1 / 0", 0);
  check("1 || 1 / 0", 1);
  check("1 ? 5 : 1 / 0", 5);
  check("0 ? 1 / 0 : 6", 6);
  check("2 && 3", 1);
}

Test(expr, failures_have_place_and_values) {
  check_error("a / (b + 3)", SPTX_CODE_PATTERN_VALUE, "f:3:12: division by zero: 7 / 0");
  check_error("1 +  c % 0", SPTX_CODE_PATTERN_VALUE, "f:3:17: division by zero: 100 % 0");
  check_error("ceil_div(1, 0)", SPTX_CODE_PATTERN_VALUE, "f:3:10: division by zero: 1 / 0");
  check_error("9223372036854775807 + a", SPTX_CODE_OVERFLOW,
              "f:3:30: addition overflows 64 bits with 9223372036854775807 and 7");
  check_error("b - 9223372036854775807", SPTX_CODE_OVERFLOW,
              "f:3:12: subtraction overflows 64 bits with -3 and 9223372036854775807");
  check_error("4611686018427387904 * 2", SPTX_CODE_OVERFLOW,
              "f:3:30: multiplication overflows 64 bits with 4611686018427387904 and 2");
  check_error("(-9223372036854775807 - 1) / -1", SPTX_CODE_OVERFLOW,
              "f:3:37: division overflows 64 bits with -9223372036854775808 and -1");
  check_error("-(-9223372036854775807 - 1)", SPTX_CODE_OVERFLOW,
              "f:3:10: negation overflows 64 bits with -9223372036854775808");
  check_error("abs(-9223372036854775807 - 1)", SPTX_CODE_OVERFLOW,
              "f:3:10: negation overflows 64 bits with -9223372036854775808");
  check_error("1 << 63", SPTX_CODE_OVERFLOW, "f:3:12: shift overflows 64 bits with 1 and 63");
  check_error("1 << 64", SPTX_CODE_PATTERN_VALUE, "f:3:12: a shift count is 0 to 63, not 64");
  check_error("1 >> b", SPTX_CODE_PATTERN_VALUE, "f:3:12: a shift count is 0 to 63, not -3");
  check_error("isqrt(b)", SPTX_CODE_PATTERN_VALUE, "f:3:10: isqrt of the negative -3");
  check_error("ilog2(0)", SPTX_CODE_PATTERN_VALUE, "f:3:10: ilog2 of 0, which is not positive");
}

/* A random tree as text and, beside it, its value by plain arithmetic in 128 bits; *ok is cleared where an
 * operation fails, and then the parser's value must fail, too. */
static __int128 write_tree(problem_random *random, int depth, bool *ok, FILE *out) {
  static const char *const operators[] = {
      "+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", "&", "|", "^"};
  if (depth == 0 || problem_random_below(random, 5) == 0) {
    int64_t which = problem_random_below(random, 4), number = problem_random_below(random, 1000);
    if (which < 3)
      fputs(names[which], out);
    else
      fprintf(out, "%" PRId64, number);
    return which < 3 ? values[which] : number;
  }
  int64_t form = problem_random_below(random, 16);
  if (form == 14) {
    fputs("-(", out);
    __int128 value = -write_tree(random, depth - 1, ok, out);
    fputc(')', out);
    return value;
  }
  if (form == 15) {
    fputs("max(", out);
    __int128 left = write_tree(random, depth - 1, ok, out);
    fputs(", ", out);
    __int128 right = write_tree(random, depth - 1, ok, out);
    fputc(')', out);
    return left > right ? left : right;
  }
  fputc('(', out);
  __int128 a = write_tree(random, depth - 1, ok, out);
  fprintf(out, " %s ", operators[form]);
  __int128 b = write_tree(random, depth - 1, ok, out), value = 0;
  fputc(')', out);
  switch (form) {
  case 0:
    value = a + b;
    break;
  case 1:
    value = a - b;
    break;
  case 2:
    value = a * b;
    break;
  case 3:
  case 4: {
    __int128 q = b ? a / b : 0;
    q -= b && q * b != a && (a < 0) != (b < 0);
    *ok = *ok && b;
    value = form == 3 ? q : a - q * b;
    break;
  }
  case 5:
    return a < b;
  case 6:
    return a <= b;
  case 7:
    return a > b;
  case 8:
    return a >= b;
  case 9:
    return a == b;
  case 10:
    return a != b;
  case 11:
    return a & b;
  case 12:
    return a | b;
  default:
    return a ^ b;
  }
  *ok = *ok && value >= INT64_MIN && value <= INT64_MAX;
  return *ok ? value : 0;
}

/* Value, printed form, copy and folding of random trees. */
Test(expr, random_trees) {
  problem_random random = problem_random_make("expr/random_trees");
  int good = 0;
  for (int k = 0; k < 3000; k++) {
    char *text, *printed;
    size_t size;
    bool ok = true;
    FILE *out = open_memstream(&text, &size);
    __int128 expected = write_tree(&random, 5, &ok, out);
    fclose(out);
    sptx_expr *expr, *again, *copy, *folded;
    sptx_error error = {0};
    const sptx_place place = {"f", 1, 1};
    const unsigned char known[] = {1, 1, 1};
    const int remap[] = {0, 1, 2};
    int64_t result;
    cr_assert_eq(sptx_expr_parse(text, size, place, true, names, 3, &expr, &error), SPTX_CODE_OK, "%s: %s",
                 text, error.message);
    enum sptx_code code = sptx_expr_eval(expr, values, &result, &error);
    cr_assert_eq(code == SPTX_CODE_OK, ok, "seed %" PRIu64 ": %s: %s", random.seed, text, error.message);
    cr_assert(!ok || result == (int64_t)expected, "seed %" PRIu64 ": %s = %" PRId64, random.seed, text,
              result);
    good += ok;
    out = open_memstream(&printed, &size);
    sptx_expr_print(expr, names, out);
    fclose(out);
    cr_assert_eq(sptx_expr_parse(printed, size, place, true, names, 3, &again, &error), SPTX_CODE_OK, "%s",
                 printed);
    cr_assert(sptx_expr_equal(expr, again), "%s printed as %s", text, printed);
    cr_assert_eq(sptx_expr_copy(expr, &copy, &error), SPTX_CODE_OK);
    cr_assert(sptx_expr_equal(expr, copy));
    cr_assert_eq(sptx_expr_substitute(expr, values, known, remap, &folded, &error), SPTX_CODE_OK);
    cr_assert(!ok || (folded->op == SPTX_OP_CONSTANT && folded->value == (int64_t)expected), "%s", text);
    sptx_expr_free(folded);
    sptx_expr_free(copy);
    sptx_expr_free(again);
    sptx_expr_free(expr);
    free(printed);
    free(text);
  }
  cr_assert_gt(good, 1000);
}
