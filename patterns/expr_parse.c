/* Reads and prints the pattern language's expressions: precedence climbing over C's binary operators. Depth,
 * length and node count are bounded, so that every later walk over a tree may recurse. */
#include "patterns/expr.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Binary operators by C's precedence; longer tokens stand before their own beginnings. */
static const struct binary_operator {
  char token[3];
  enum sptx_op op;
  int level;
} binary_operators[] = {
    {"||", SPTX_OP_LOGICAL_OR, 1}, {"&&", SPTX_OP_LOGICAL_AND, 2}, {"==", SPTX_OP_EQ, 6},
    {"!=", SPTX_OP_NE, 6},         {"<=", SPTX_OP_LE, 7},          {">=", SPTX_OP_GE, 7},
    {"<<", SPTX_OP_SHL, 8},        {">>", SPTX_OP_SHR, 8},         {"|", SPTX_OP_OR, 3},
    {"^", SPTX_OP_XOR, 4},         {"&", SPTX_OP_AND, 5},          {"<", SPTX_OP_LT, 7},
    {">", SPTX_OP_GT, 7},          {"+", SPTX_OP_ADD, 9},          {"-", SPTX_OP_SUB, 9},
    {"*", SPTX_OP_MUL, 10},        {"/", SPTX_OP_DIV, 10},         {"%", SPTX_OP_MOD, 10},
};
enum {
  LOWEST_LEVEL = 1,
  UNARY_LEVEL = 11,
  BINARY_COUNT = sizeof binary_operators / sizeof *binary_operators
};

static const struct unary_operator {
  char token;
  enum sptx_op op;
} unary_operators[] = {{'-', SPTX_OP_NEG}, {'~', SPTX_OP_NOT}, {'!', SPTX_OP_LOGICAL_NOT}};
enum { UNARY_COUNT = sizeof unary_operators / sizeof *unary_operators };

static const struct function {
  const char *name;
  enum sptx_op op;
  int arity;
} functions[] = {
    {"min", SPTX_OP_MIN, 2},     {"max", SPTX_OP_MAX, 2},           {"abs", SPTX_OP_ABS, 1},
    {"isqrt", SPTX_OP_ISQRT, 1}, {"ceil_div", SPTX_OP_CEIL_DIV, 2}, {"ilog2", SPTX_OP_ILOG2, 1},
};
enum { FUNCTION_COUNT = sizeof functions / sizeof *functions };

typedef struct parser {
  const char *text;
  size_t length, at;
  sptx_place start;
  bool one_line; /* else the text has no columns to count, and all of it stands at start */
  const char *const *names;
  size_t name_count;
  int depth, nodes;
  sptx_error *error;
} parser;

static enum sptx_code parse_choice(parser *p, sptx_expr **expr);

static sptx_place place_of(const parser *p, size_t at) {
  sptx_place place = p->start;
  place.column += p->one_line ? (int)at : 0;
  return place;
}

static int peek(parser *p) {
  while (p->at < p->length && isspace((unsigned char)p->text[p->at]))
    p->at++;
  return p->at < p->length ? (unsigned char)p->text[p->at] : -1;
}

static bool accept(parser *p, int character) {
  if (peek(p) != character)
    return false;
  p->at++;
  return true;
}

static enum sptx_code expected(parser *p, const char *what) {
  int next = peek(p);
  sptx_place place = place_of(p, p->at);
  if (next < 0)
    return sptx_fail_at(p->error, SPTX_CODE_PATTERN_SYNTAX, place,
                        "expected %s, found the end of the expression", what);
  if (!isprint(next))
    return sptx_fail_at(p->error, SPTX_CODE_PATTERN_SYNTAX, place, "expected %s, found the byte 0x%02x", what,
                        (unsigned)next);
  return sptx_fail_at(p->error, SPTX_CODE_PATTERN_SYNTAX, place, "expected %s, found '%c'", what, next);
}

/* Makes a node that owns the arguments; frees them when it fails. */
static enum sptx_code make(parser *p, enum sptx_op op, int64_t value, size_t at, sptx_expr *const args[3],
                           sptx_expr **expr) {
  sptx_expr *node = NULL;
  bool fits = ++p->nodes <= SPTX_EXPR_MAX_NODES;
  if (fits)
    node = calloc(1, sizeof *node);
  if (!node) {
    for (int k = 0; args && k < 3; k++)
      sptx_expr_free(args[k]);
    if (fits)
      return sptx_fail(p->error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for an expression");
    return sptx_fail_at(p->error, SPTX_CODE_PATTERN_LIMIT, place_of(p, at),
                        "an expression may have at most %d operators and operands", SPTX_EXPR_MAX_NODES);
  }
  node->op = op;
  node->value = value;
  node->place = place_of(p, at);
  for (int k = 0; args && k < 3; k++)
    node->args[k] = args[k];
  *expr = node;
  return SPTX_CODE_OK;
}

static enum sptx_code parse_number(parser *p, sptx_expr **expr) {
  size_t at = p->at;
  int base = 10;
  if (p->length - at > 2 && p->text[at] == '0' && (p->text[at + 1] | 32) == 'x') {
    base = 16;
    p->at += 2;
  }
  int64_t value = 0;
  size_t first = p->at;
  for (; p->at < p->length && isxdigit((unsigned char)p->text[p->at]); p->at++) {
    int character = tolower((unsigned char)p->text[p->at]);
    int digit = isdigit(character) ? character - '0' : character - 'a' + 10;
    if (digit >= base)
      break;
    if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value))
      return sptx_fail_at(p->error, SPTX_CODE_OVERFLOW, place_of(p, at), "this number does not fit 64 bits");
  }
  bool octal = base == 10 && p->at - first > 1 && p->text[first] == '0';
  bool tail = p->at < p->length &&
              (isalnum((unsigned char)p->text[p->at]) || p->text[p->at] == '_' || p->text[p->at] == '.');
  if (p->at == first || octal || tail)
    return sptx_fail_at(p->error, SPTX_CODE_PATTERN_SYNTAX, place_of(p, at),
                        "expected a whole number, decimal without leading zeros or 0x hexadecimal");
  return make(p, SPTX_OP_CONSTANT, value, at, NULL, expr);
}

static enum sptx_code parse_call(parser *p, const struct function *function, size_t at, sptx_expr **expr) {
  sptx_expr *args[3] = {NULL, NULL, NULL};
  enum sptx_code code = SPTX_CODE_OK;
  if (!accept(p, '('))
    return expected(p, "'(' after the name of a function");
  for (int k = 0; k < function->arity; k++) {
    if (k > 0 && !accept(p, ',')) {
      code = expected(p, "',' and the second argument");
      goto failed;
    }
    SPTX_TRY_GOTO(parse_choice(p, &args[k]), failed);
  }
  if (!accept(p, ')')) {
    code = expected(p, "')' after the arguments");
    goto failed;
  }
  return make(p, function->op, 0, at, args, expr);
failed:
  for (int k = 0; k < 3; k++)
    sptx_expr_free(args[k]);
  return code;
}

static enum sptx_code unknown_name(parser *p, size_t at, size_t length) {
  char known[256] = "";
  size_t used = 0;
  for (size_t k = 0; k < p->name_count && used + 2 < sizeof known; k++)
    if (*p->names[k])
      used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", p->names[k]);
  return sptx_fail_at(
      p->error, SPTX_CODE_PATTERN_VALUE, place_of(p, at),
      "unknown name '%.*s'; known here are %s and the functions min, max, abs, isqrt, ceil_div, ilog2",
      (int)(length < 64 ? length : 64), p->text + at, used ? known : "no names");
}

static bool is_word(const char *text, size_t length, const char *word) {
  return strlen(word) == length && memcmp(text, word, length) == 0;
}

static enum sptx_code parse_name(parser *p, sptx_expr **expr) {
  size_t at = p->at;
  while (p->at < p->length && (isalnum((unsigned char)p->text[p->at]) || p->text[p->at] == '_'))
    p->at++;
  size_t length = p->at - at;
  for (int k = 0; k < FUNCTION_COUNT; k++)
    if (is_word(p->text + at, length, functions[k].name))
      return parse_call(p, &functions[k], at, expr);
  for (size_t k = 0; k < p->name_count; k++)
    if (is_word(p->text + at, length, p->names[k]))
      return make(p, SPTX_OP_VARIABLE, (int64_t)k, at, NULL, expr);
  return unknown_name(p, at, length);
}

static enum sptx_code parse_unary(parser *p, sptx_expr **expr) {
  int next = peek(p);
  size_t at = p->at;
  if (isdigit(next))
    return parse_number(p, expr);
  if (isalpha(next) || next == '_')
    return parse_name(p, expr);
  if (next == '(') {
    p->at++;
    SPTX_TRY(parse_choice(p, expr));
    if (accept(p, ')'))
      return SPTX_CODE_OK;
    sptx_expr_free(*expr);
    *expr = NULL;
    return expected(p, "an operator or ')'");
  }
  for (int k = 0; k < UNARY_COUNT; k++) {
    if (next != unary_operators[k].token)
      continue;
    p->at++;
    if (++p->depth > SPTX_EXPR_MAX_DEPTH)
      return sptx_fail_at(p->error, SPTX_CODE_PATTERN_LIMIT, place_of(p, at),
                          "an expression may nest at most %d deep", SPTX_EXPR_MAX_DEPTH);
    sptx_expr *args[3] = {NULL, NULL, NULL};
    SPTX_TRY(parse_unary(p, &args[0]));
    p->depth--;
    return make(p, unary_operators[k].op, 0, at, args, expr);
  }
  return expected(p, "a number, a name, '(' or a unary operator");
}

static const struct binary_operator *peek_operator(parser *p) {
  peek(p);
  for (int k = 0; k < BINARY_COUNT; k++) {
    size_t length = strlen(binary_operators[k].token);
    if (p->length - p->at >= length && memcmp(p->text + p->at, binary_operators[k].token, length) == 0)
      return &binary_operators[k];
  }
  return NULL;
}

static enum sptx_code parse_binary(parser *p, int level, sptx_expr **expr) {
  sptx_expr *left = NULL, *right = NULL;
  SPTX_TRY(parse_unary(p, &left));
  const struct binary_operator *operator;
  while ((operator= peek_operator(p)) && operator->level >= level) {
    size_t at = p->at;
    p->at += strlen(operator->token);
    enum sptx_code code = parse_binary(p, operator->level + 1, &right);
    if (code != SPTX_CODE_OK) {
      sptx_expr_free(left);
      return code;
    }
    SPTX_TRY(make(p, operator->op, 0, at, (sptx_expr *[3]){left, right, NULL}, &left));
  }
  *expr = left;
  return SPTX_CODE_OK;
}

/* condition ? a : b, the loosest form; each nesting of any bracket passes through here. */
static enum sptx_code parse_choice(parser *p, sptx_expr **expr) {
  sptx_expr *args[3] = {NULL, NULL, NULL};
  enum sptx_code code = SPTX_CODE_OK;
  if (++p->depth > SPTX_EXPR_MAX_DEPTH)
    return sptx_fail_at(p->error, SPTX_CODE_PATTERN_LIMIT, place_of(p, p->at),
                        "an expression may nest at most %d deep", SPTX_EXPR_MAX_DEPTH);
  SPTX_TRY(parse_binary(p, LOWEST_LEVEL, &args[0]));
  peek(p);
  size_t at = p->at;
  if (accept(p, '?')) {
    SPTX_TRY_GOTO(parse_choice(p, &args[1]), failed);
    if (!accept(p, ':')) {
      code = expected(p, "':' of the conditional");
      goto failed;
    }
    SPTX_TRY_GOTO(parse_choice(p, &args[2]), failed);
    SPTX_TRY(make(p, SPTX_OP_SELECT, 0, at, args, &args[0]));
  }
  p->depth--;
  *expr = args[0];
  return SPTX_CODE_OK;
failed:
  for (int k = 0; k < 3; k++)
    sptx_expr_free(args[k]);
  return code;
}

enum sptx_code sptx_expr_parse(const char *text, size_t length, sptx_place place, bool one_line,
                               const char *const *names, size_t name_count, sptx_expr **expr,
                               sptx_error *error) {
  *expr = NULL;
  if (length > SPTX_EXPR_MAX_LENGTH)
    return sptx_fail_at(error, SPTX_CODE_PATTERN_LIMIT, place, "an expression may have at most %d characters",
                        SPTX_EXPR_MAX_LENGTH);
  parser p = {.text = text,
              .length = length,
              .start = place,
              .one_line = one_line,
              .names = names,
              .name_count = name_count,
              .error = error};
  SPTX_TRY(parse_choice(&p, expr));
  if (peek(&p) < 0)
    return SPTX_CODE_OK;
  sptx_expr_free(*expr);
  *expr = NULL;
  return expected(&p, "an operator or the end of the expression");
}

bool sptx_expr_is_function(const char *name) {
  for (int k = 0; k < FUNCTION_COUNT; k++)
    if (strcmp(name, functions[k].name) == 0)
      return true;
  return false;
}

/* Prints with the fewest parentheses that keep the tree; level is the loosest that may stand bare here. */
static void print_at(const sptx_expr *expr, int level, const char *const *names, FILE *stream) {
  if (expr->op == SPTX_OP_CONSTANT) {
    bool minimum = expr->value == INT64_MIN; /* its magnitude is no literal */
    bool negative = expr->value < 0 && level > LOWEST_LEVEL;
    fprintf(stream,
            minimum    ? "(%" PRId64 " - 1)"
            : negative ? "(%" PRId64 ")"
                       : "%" PRId64,
            minimum ? expr->value + 1 : expr->value);
    return;
  }
  if (expr->op == SPTX_OP_VARIABLE) {
    fputs(names[expr->value], stream);
    return;
  }
  for (int k = 0; k < FUNCTION_COUNT; k++) {
    if (functions[k].op != expr->op)
      continue;
    fprintf(stream, "%s(", functions[k].name);
    for (int a = 0; a < functions[k].arity; a++) {
      fputs(a ? ", " : "", stream);
      print_at(expr->args[a], 0, names, stream);
    }
    fputc(')', stream);
    return;
  }
  for (int k = 0; k < UNARY_COUNT; k++) {
    if (unary_operators[k].op != expr->op)
      continue;
    fputc(unary_operators[k].token, stream);
    print_at(expr->args[0], UNARY_LEVEL, names, stream);
    return;
  }
  int own = 0;
  const char *token = "?";
  for (int k = 0; k < BINARY_COUNT; k++)
    if (binary_operators[k].op == expr->op) {
      own = binary_operators[k].level;
      token = binary_operators[k].token;
    }
  fputs(own < level ? "(" : "", stream);
  print_at(expr->args[0], own ? own : LOWEST_LEVEL, names, stream);
  fprintf(stream, " %s ", token);
  print_at(expr->args[1], own ? own + 1 : 0, names, stream);
  if (expr->op == SPTX_OP_SELECT) {
    fputs(" : ", stream);
    print_at(expr->args[2], 0, names, stream);
  }
  fputs(own < level ? ")" : "", stream);
}

void sptx_expr_print(const sptx_expr *expr, const char *const *names, FILE *stream) {
  print_at(expr, 0, names, stream);
}
