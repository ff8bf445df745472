/* Evaluates, copies, compares and simplifies expression trees. 64-bit arithmetic with every overflow caught.
 */
#include "patterns/expr.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

enum sptx_code sptx_fail_at(sptx_error *error, enum sptx_code code, sptx_place place, const char *format,
                            ...) {
  if (!error)
    return code;
  char sentence[sizeof error->message];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  return sptx_fail(error, code, "%s:%d:%d: %s", place.file, place.line, place.column, sentence);
}

int64_t sptx_floor_div(int64_t a, int64_t b) {
  int64_t quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

int64_t sptx_floor_mod(int64_t a, int64_t b) {
  int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

static int64_t integer_sqrt(int64_t value) {
  int64_t root = 0;
  for (int64_t bit = (int64_t)1 << 31; bit; bit >>= 1) {
    int64_t next = root + bit;
    if (next <= value / next)
      root = next;
  }
  return root;
}

static enum sptx_code overflow(const sptx_expr *expr, const char *what, int64_t a, int64_t b,
                               sptx_error *error) {
  return sptx_fail_at(error, SPTX_CODE_OVERFLOW, expr->place,
                      "%s overflows 64 bits with %" PRId64 " and %" PRId64, what, a, b);
}

static enum sptx_code eval_division(const sptx_expr *expr, int64_t a, int64_t b, int64_t *result,
                                    sptx_error *error) {
  if (b == 0)
    return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, expr->place, "division by zero: %" PRId64 " %s 0", a,
                        expr->op == SPTX_OP_MOD ? "%" : "/");
  if (b == -1) { /* the hardware traps on INT64_MIN */
    if (expr->op == SPTX_OP_MOD) {
      *result = 0;
      return SPTX_CODE_OK;
    }
    return __builtin_sub_overflow(0, a, result) ? overflow(expr, "division", a, b, error) : SPTX_CODE_OK;
  }
  if (expr->op == SPTX_OP_MOD)
    *result = sptx_floor_mod(a, b);
  else
    *result = sptx_floor_div(a, b) + (expr->op == SPTX_OP_CEIL_DIV && a % b != 0);
  return SPTX_CODE_OK;
}

static enum sptx_code eval_shift(const sptx_expr *expr, int64_t a, int64_t b, int64_t *result,
                                 sptx_error *error) {
  if (b < 0 || b > 63)
    return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, expr->place, "a shift count is 0 to 63, not %" PRId64,
                        b);
  if (expr->op == SPTX_OP_SHR) {
    *result = a >> b;
    return SPTX_CODE_OK;
  }
  *result = (int64_t)((uint64_t)a << b);
  return *result >> b == a ? SPTX_CODE_OK : overflow(expr, "shift", a, b, error);
}

static enum sptx_code eval_binary(const sptx_expr *expr, int64_t a, int64_t b, int64_t *result,
                                  sptx_error *error) {
  switch (expr->op) {
  case SPTX_OP_ADD:
    return __builtin_add_overflow(a, b, result) ? overflow(expr, "addition", a, b, error) : SPTX_CODE_OK;
  case SPTX_OP_SUB:
    return __builtin_sub_overflow(a, b, result) ? overflow(expr, "subtraction", a, b, error) : SPTX_CODE_OK;
  case SPTX_OP_MUL:
    return __builtin_mul_overflow(a, b, result) ? overflow(expr, "multiplication", a, b, error)
                                                : SPTX_CODE_OK;
  case SPTX_OP_DIV:
  case SPTX_OP_MOD:
  case SPTX_OP_CEIL_DIV:
    return eval_division(expr, a, b, result, error);
  case SPTX_OP_SHL:
  case SPTX_OP_SHR:
    return eval_shift(expr, a, b, result, error);
  case SPTX_OP_AND:
    *result = a & b;
    break;
  case SPTX_OP_OR:
    *result = a | b;
    break;
  case SPTX_OP_XOR:
    *result = a ^ b;
    break;
  case SPTX_OP_LT:
    *result = a < b;
    break;
  case SPTX_OP_LE:
    *result = a <= b;
    break;
  case SPTX_OP_GT:
    *result = a > b;
    break;
  case SPTX_OP_GE:
    *result = a >= b;
    break;
  case SPTX_OP_EQ:
    *result = a == b;
    break;
  case SPTX_OP_NE:
    *result = a != b;
    break;
  case SPTX_OP_MIN:
    *result = a < b ? a : b;
    break;
  case SPTX_OP_MAX:
    *result = a > b ? a : b;
    break;
  default:
    return sptx_fail_at(error, SPTX_CODE_INVALID_ARGUMENT, expr->place, "unknown operator %d", (int)expr->op);
  }
  return SPTX_CODE_OK;
}

static enum sptx_code eval_unary(const sptx_expr *expr, int64_t a, int64_t *result, sptx_error *error) {
  switch (expr->op) {
  case SPTX_OP_NOT:
    *result = ~a;
    return SPTX_CODE_OK;
  case SPTX_OP_LOGICAL_NOT:
    *result = !a;
    return SPTX_CODE_OK;
  case SPTX_OP_NEG:
  case SPTX_OP_ABS:
    *result = a;
    if ((expr->op == SPTX_OP_NEG || a < 0) && __builtin_sub_overflow(0, a, result))
      return sptx_fail_at(error, SPTX_CODE_OVERFLOW, expr->place, "negation overflows 64 bits with %" PRId64,
                          a);
    return SPTX_CODE_OK;
  case SPTX_OP_ISQRT:
    if (a < 0)
      return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, expr->place, "isqrt of the negative %" PRId64, a);
    *result = integer_sqrt(a);
    return SPTX_CODE_OK;
  case SPTX_OP_ILOG2:
    if (a <= 0)
      return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, expr->place,
                          "ilog2 of %" PRId64 ", which is not positive", a);
    *result = 63 - __builtin_clzll((unsigned long long)a);
    return SPTX_CODE_OK;
  default:
    return sptx_fail_at(error, SPTX_CODE_INVALID_ARGUMENT, expr->place, "unknown operator %d", (int)expr->op);
  }
}

enum sptx_code sptx_expr_eval(const sptx_expr *expr, const int64_t *values, int64_t *result,
                              sptx_error *error) {
  int64_t a, b;
  if (expr->op == SPTX_OP_CONSTANT || expr->op == SPTX_OP_VARIABLE) {
    *result = expr->op == SPTX_OP_CONSTANT ? expr->value : values[expr->value];
    return SPTX_CODE_OK;
  }
  SPTX_TRY(sptx_expr_eval(expr->args[0], values, &a, error));
  if (expr->op == SPTX_OP_SELECT)
    return sptx_expr_eval(expr->args[a ? 1 : 2], values, result, error);
  if (!expr->args[1])
    return eval_unary(expr, a, result, error);
  if (expr->op == SPTX_OP_LOGICAL_AND || expr->op == SPTX_OP_LOGICAL_OR) {
    bool decides_on_true = expr->op == SPTX_OP_LOGICAL_OR;
    if ((a != 0) == decides_on_true) {
      *result = decides_on_true;
      return SPTX_CODE_OK;
    }
    SPTX_TRY(sptx_expr_eval(expr->args[1], values, &b, error));
    *result = b != 0;
    return SPTX_CODE_OK;
  }
  SPTX_TRY(sptx_expr_eval(expr->args[1], values, &b, error));
  return eval_binary(expr, a, b, result, error);
}

/* Becomes a constant when its arguments are constants and it does not fail. */
static void fold(sptx_expr *expr) {
  for (int k = 0; k < 3; k++)
    if (expr->args[k] && expr->args[k]->op != SPTX_OP_CONSTANT)
      return;
  int64_t value;
  if (!expr->args[0] || sptx_expr_eval(expr, NULL, &value, NULL) != SPTX_CODE_OK)
    return;
  for (int k = 0; k < 3; k++) {
    sptx_expr_free(expr->args[k]);
    expr->args[k] = NULL;
  }
  expr->op = SPTX_OP_CONSTANT;
  expr->value = value;
}

/* A conditional or logical operator whose first argument is constant needs not look at the other. */
static void choose(sptx_expr *expr) {
  if (!expr->args[0] || expr->args[0]->op != SPTX_OP_CONSTANT)
    return;
  bool condition = expr->args[0]->value != 0;
  if (expr->op == SPTX_OP_SELECT) {
    sptx_expr *taken = expr->args[condition ? 1 : 2];
    sptx_expr_free(expr->args[0]);
    sptx_expr_free(expr->args[condition ? 2 : 1]);
    *expr = *taken;
    free(taken);
  } else if ((expr->op == SPTX_OP_LOGICAL_AND && !condition) ||
             (expr->op == SPTX_OP_LOGICAL_OR && condition)) {
    sptx_expr_free(expr->args[0]);
    sptx_expr_free(expr->args[1]);
    *expr = (sptx_expr){.op = SPTX_OP_CONSTANT, .value = condition, .place = expr->place};
  }
}

/* values, known and remap may be NULL: then nothing is known and nothing renumbered. */
static enum sptx_code rebuild(const sptx_expr *expr, const int64_t *values, const unsigned char *known,
                              const int *remap, sptx_expr **result, sptx_error *error) {
  sptx_expr *copy = calloc(1, sizeof *copy);
  if (!copy)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for an expression");
  copy->op = expr->op;
  copy->value = expr->value;
  copy->place = expr->place;
  if (known && expr->op == SPTX_OP_VARIABLE) {
    bool replaced = known[expr->value];
    copy->op = replaced ? SPTX_OP_CONSTANT : SPTX_OP_VARIABLE;
    copy->value = replaced ? values[expr->value] : remap[expr->value];
  }
  for (int k = 0; k < 3 && expr->args[k]; k++) {
    enum sptx_code code = rebuild(expr->args[k], values, known, remap, &copy->args[k], error);
    if (code != SPTX_CODE_OK) {
      sptx_expr_free(copy);
      return code;
    }
  }
  if (known) {
    fold(copy);
    choose(copy);
  }
  *result = copy;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_expr_substitute(const sptx_expr *expr, const int64_t *values, const unsigned char *known,
                                    const int *remap, sptx_expr **result, sptx_error *error) {
  *result = NULL;
  return rebuild(expr, values, known, remap, result, error);
}

enum sptx_code sptx_expr_copy(const sptx_expr *expr, sptx_expr **copy, sptx_error *error) {
  *copy = NULL;
  return rebuild(expr, NULL, NULL, NULL, copy, error);
}

bool sptx_expr_equal(const sptx_expr *a, const sptx_expr *b) {
  if (!a || !b)
    return a == b;
  if (a->op != b->op || a->value != b->value)
    return false;
  for (int k = 0; k < 3; k++)
    if (!sptx_expr_equal(a->args[k], b->args[k]))
      return false;
  return true;
}

bool sptx_expr_uses(const sptx_expr *expr, int64_t variable) {
  if (!expr)
    return false;
  if (expr->op == SPTX_OP_VARIABLE)
    return expr->value == variable;
  return sptx_expr_uses(expr->args[0], variable) || sptx_expr_uses(expr->args[1], variable) ||
         sptx_expr_uses(expr->args[2], variable);
}

void sptx_expr_free(sptx_expr *expr) {
  if (!expr)
    return;
  for (int k = 0; k < 3; k++)
    sptx_expr_free(expr->args[k]);
  free(expr);
}
