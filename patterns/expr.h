/* Integer expressions of the pattern language: 64-bit, C's operators and precedence, but `/` floors and `%`
 * is never negative for a positive divisor. Division by zero and overflow are errors with place and values.
 */
#ifndef SPTX_PATTERNS_EXPR_H
#define SPTX_PATTERNS_EXPR_H

#include "patterns/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Where a piece of text stands; file is borrowed and outlives the expression. 1-based. */
typedef struct sptx_place {
  const char *file;
  int line, column;
} sptx_place;

enum sptx_op {
  SPTX_OP_CONSTANT,
  SPTX_OP_VARIABLE, /* index into the names given to sptx_expr_parse */
  SPTX_OP_ADD,
  SPTX_OP_SUB,
  SPTX_OP_MUL,
  SPTX_OP_DIV,
  SPTX_OP_MOD,
  SPTX_OP_SHL,
  SPTX_OP_SHR,
  SPTX_OP_AND,
  SPTX_OP_OR,
  SPTX_OP_XOR,
  SPTX_OP_NOT,
  SPTX_OP_NEG,
  SPTX_OP_LT,
  SPTX_OP_LE,
  SPTX_OP_GT,
  SPTX_OP_GE,
  SPTX_OP_EQ,
  SPTX_OP_NE,
  SPTX_OP_LOGICAL_AND,
  SPTX_OP_LOGICAL_OR,
  SPTX_OP_LOGICAL_NOT,
  SPTX_OP_SELECT, /* c ? a : b */
  SPTX_OP_MIN,
  SPTX_OP_MAX,
  SPTX_OP_ABS,
  SPTX_OP_ISQRT,
  SPTX_OP_CEIL_DIV,
  SPTX_OP_ILOG2,
};

/* A node owns its arguments. Immutable once parsed. */
typedef struct sptx_expr {
  enum sptx_op op;
  int64_t value; /* the constant, or the variable's index */
  struct sptx_expr *args[3];
  sptx_place place;
} sptx_expr;

#define SPTX_EXPR_MAX_LENGTH 4096
#define SPTX_EXPR_MAX_NODES 1024
#define SPTX_EXPR_MAX_DEPTH 64

/* Parses text (not NUL terminated) over the variables in names; a name of "" is never found. place is that of
 * the text's first character; one_line says that the others follow it there, else errors point at place.
 * Nesting, length and the number of nodes are bounded. *expr is NULL after a failure. */
enum sptx_code sptx_expr_parse(const char *text, size_t length, sptx_place place, bool one_line,
                               const char *const *names, size_t name_count, sptx_expr **expr,
                               sptx_error *error);
/* Evaluates with values[k] for variable k. */
enum sptx_code sptx_expr_eval(const sptx_expr *expr, const int64_t *values, int64_t *result,
                              sptx_error *error);
/* A copy in which every variable k with known[k] is replaced by its value and constant parts are folded;
 * the others are renumbered by remap[k]. Parts that would fail when folded stay unfolded. */
enum sptx_code sptx_expr_substitute(const sptx_expr *expr, const int64_t *values, const unsigned char *known,
                                    const int *remap, sptx_expr **result, sptx_error *error);
enum sptx_code sptx_expr_copy(const sptx_expr *expr, sptx_expr **copy, sptx_error *error);
bool sptx_expr_equal(const sptx_expr *a, const sptx_expr *b); /* structural; places do not count */
bool sptx_expr_uses(const sptx_expr *expr, int64_t variable); /* expr may be NULL */
bool sptx_expr_is_function(const char *name);                 /* a name that params may not take */
void sptx_expr_free(sptx_expr *expr);                         /* NULL is allowed */
/* Writes expr as text that parses back to an equal tree; names[k] stands for variable k. */
void sptx_expr_print(const sptx_expr *expr, const char *const *names, FILE *stream);

/* Floor division and the remainder that goes with it; b != 0, and not INT64_MIN / -1. */
int64_t sptx_floor_div(int64_t a, int64_t b);
int64_t sptx_floor_mod(int64_t a, int64_t b);

/* sptx_fail with "file:line:column: " in front. */
__attribute__((format(printf, 4, 5))) enum sptx_code sptx_fail_at(sptx_error *error, enum sptx_code code,
                                                                  sptx_place place, const char *format, ...);

/* The variables of a resolved `where`: the only ones left after params, n and h are known. */
enum { SPTX_VARIABLE_QUERY = 0, SPTX_VARIABLE_KEY = 1 };

#endif
