/* `where` expressions to clauses. Comparisons are normalised to "a form lies in an interval", a form being an
 * integer combination of i, j, and units: floor divisions, remainders and absolute values of such
 * combinations by constants. Forms over i - j, i or j alone become bands, congruences, ranges and runs; equal
 * quotients and remainders of i and j become blocks and digits. What matches nothing stays an opaque literal.
 */
#include "patterns/clause.h"
#include "patterns/integer.h"

#include <stdlib.h>

/* Coefficients above this could overflow where the expression, evaluated step by step, would fail instead. */
#define MOST_COEFFICIENT ((int64_t)1 << 20)
#define MOST_CONSTANT ((int64_t)1 << 59)
enum { MOST_RESIDUES = 8 }; /* of i - j, as that many clauses or literals */

typedef struct linear {
  int64_t i, j, c;
} linear;

enum unit_kind { UNIT_QUOTIENT, UNIT_REMAINDER, UNIT_ABSOLUTE };

/* (in / divisor) [mod modulus], or |in|. */
typedef struct unit {
  enum unit_kind kind;
  linear in;
  int64_t divisor, modulus;
} unit;

typedef struct form {
  linear plain;
  int count;
  struct {
    int64_t coefficient;
    unit unit;
  } terms[2];
} form;

static bool same_unit(const unit *a, const unit *b) {
  return a->kind == b->kind && a->in.i == b->in.i && a->in.j == b->in.j && a->in.c == b->in.c &&
         a->divisor == b->divisor && a->modulus == b->modulus;
}

static int64_t saturated_product(int64_t a, int64_t positive) {
  return a > SPTX_FAR / positive ? SPTX_FAR : a < -SPTX_FAR / positive ? -SPTX_FAR : a * positive;
}

static bool in_bounds(const form *f) {
  int64_t c = f->plain.c < 0 ? -f->plain.c : f->plain.c;
  return llabs(f->plain.i) <= MOST_COEFFICIENT && llabs(f->plain.j) <= MOST_COEFFICIENT && c <= MOST_CONSTANT;
}

/* a + times * b; false where more units meet than a form holds. */
static bool add_forms(form *a, const form *b, int64_t times) {
  if (llabs(times) > MOST_COEFFICIENT || llabs(b->plain.c) > MOST_CONSTANT / (llabs(times) + 1))
    return false;
  a->plain.i += times * b->plain.i;
  a->plain.j += times * b->plain.j;
  a->plain.c += times * b->plain.c;
  for (int t = 0; t < b->count; t++) {
    int same = 0;
    while (same < a->count && !same_unit(&a->terms[same].unit, &b->terms[t].unit))
      same++;
    if (same == 2)
      return false;
    if (same == a->count) {
      a->terms[a->count] = b->terms[t];
      a->terms[a->count++].coefficient = 0;
    }
    a->terms[same].coefficient += times * b->terms[t].coefficient;
    if (a->terms[same].coefficient == 0)
      a->terms[same] = a->terms[--a->count];
  }
  return in_bounds(a);
}

static form constant_form(int64_t value) {
  return (form){.plain = {0, 0, value}};
}

static form unit_form(enum unit_kind kind, linear in, int64_t divisor, int64_t modulus) {
  return (form){.count = 1, .terms = {{1, {kind, in, divisor, modulus}}}};
}

/* Whether the form is one quotient of a linear form (a linear form is its quotient by 1). */
static bool as_quotient(const form *f, linear *in, int64_t *divisor) {
  if (f->count == 0) {
    *in = f->plain;
    *divisor = 1;
    return true;
  }
  *in = f->terms[0].unit.in;
  *divisor = f->terms[0].unit.divisor;
  return f->count == 1 && f->terms[0].coefficient == 1 && f->terms[0].unit.kind == UNIT_QUOTIENT &&
         f->plain.i == 0 && f->plain.j == 0 && f->plain.c == 0;
}

static bool divide(form *f, int64_t divisor) {
  linear in;
  int64_t inner;
  if (divisor <= 0 || divisor > MOST_CONSTANT || !as_quotient(f, &in, &inner) ||
      inner > MOST_CONSTANT / divisor)
    return false;
  if (inner * divisor > 1)
    *f = unit_form(UNIT_QUOTIENT, in, inner * divisor, 0);
  return true;
}

static bool remainder_of(form *f, int64_t modulus) {
  linear in;
  int64_t inner;
  if (modulus <= 0 || modulus > MOST_CONSTANT || !as_quotient(f, &in, &inner) ||
      inner > MOST_CONSTANT / modulus)
    return false;
  *f = unit_form(UNIT_REMAINDER, in, inner, modulus);
  return true;
}

static bool is_constant(const sptx_expr *expr, int64_t *value) {
  *value = expr->value;
  return expr->op == SPTX_OP_CONSTANT;
}

static bool to_form(const sptx_expr *expr, form *f);

/* One side of the product, quotient, shift or mask is a constant. */
static bool scaled_form(const sptx_expr *expr, form *f) {
  int64_t k;
  form product = constant_form(0);
  if ((expr->op == SPTX_OP_MUL || expr->op == SPTX_OP_AND) && is_constant(expr->args[0], &k)) {
    if (!to_form(expr->args[1], f))
      return false;
  } else if (!is_constant(expr->args[1], &k) || !to_form(expr->args[0], f)) {
    return false;
  }
  switch (expr->op) {
  case SPTX_OP_MUL:
    if (!add_forms(&product, f, k))
      return false;
    *f = product;
    return true;
  case SPTX_OP_SHL:
    if (k < 0 || k > 20 || !add_forms(&product, f, (int64_t)1 << k))
      return false;
    *f = product;
    return true;
  case SPTX_OP_SHR: /* floors, as `/` does */
    return k >= 0 && k < 59 && divide(f, (int64_t)1 << k);
  case SPTX_OP_AND: /* a mask of low bits is a remainder */
    return k >= 0 && k < MOST_CONSTANT && (k & (k + 1)) == 0 && remainder_of(f, k + 1);
  case SPTX_OP_DIV:
    return divide(f, k);
  default:
    return remainder_of(f, k);
  }
}

static bool to_form(const sptx_expr *expr, form *f) {
  form other;
  *f = constant_form(0);
  switch (expr->op) {
  case SPTX_OP_CONSTANT:
    f->plain.c = expr->value;
    return in_bounds(f);
  case SPTX_OP_VARIABLE:
    f->plain.i = expr->value == SPTX_VARIABLE_QUERY;
    f->plain.j = expr->value == SPTX_VARIABLE_KEY;
    return true;
  case SPTX_OP_ADD:
  case SPTX_OP_SUB:
    return to_form(expr->args[0], f) && to_form(expr->args[1], &other) &&
           add_forms(f, &other, expr->op == SPTX_OP_ADD ? 1 : -1);
  case SPTX_OP_NEG:
    return to_form(expr->args[0], &other) && add_forms(f, &other, -1);
  case SPTX_OP_ABS:
    if (!to_form(expr->args[0], &other) || other.count)
      return false;
    *f = unit_form(UNIT_ABSOLUTE, other.plain, 1, 0);
    return true;
  case SPTX_OP_MUL:
  case SPTX_OP_DIV:
  case SPTX_OP_MOD:
  case SPTX_OP_SHL:
  case SPTX_OP_SHR:
  case SPTX_OP_AND:
    return scaled_form(expr, f);
  default:
    return false;
  }
}

static void push_narrowed(sptx_lowering *lowering, sptx_clause clause, sptx_clause_list *out) {
  sptx_clause_simplify(&clause);
  if (!clause.empty)
    sptx_clause_push(lowering, out, &clause);
}

/* from <= in < to, over i - j, i or j alone. */
static bool linear_in(sptx_lowering *lowering, linear in, int64_t from, int64_t to, sptx_clause_list *out) {
  sptx_clause clause = sptx_clause_all(lowering);
  int64_t k = in.i ? in.i : in.j;
  from = max64(from, -SPTX_FAR) - in.c;
  to = min64(to, SPTX_FAR) - in.c;
  if (k < 0) {
    int64_t swap = 1 - to;
    to = 1 - from;
    from = swap;
    k = -k, in.i = -in.i, in.j = -in.j;
  }
  if (k == 0) {
    if (from <= 0 && 0 < to)
      sptx_clause_push(lowering, out, &clause);
    return true;
  }
  from = ceil_div(from, k);
  to = ceil_div(to, k);
  if (in.i == k && in.j == -k)
    sptx_clause_distance(&clause, from, to);
  else if (in.i == k && in.j == 0)
    sptx_clause_queries(&clause, from, to);
  else if (in.j == k && in.i == 0)
    sptx_clause_keys(&clause, from, to);
  else
    return false;
  push_narrowed(lowering, clause, out);
  return true;
}

/* (i - j + c) mod modulus in [from, to): a few congruences, or all but a few. */
static bool distance_residues(sptx_lowering *lowering, int64_t c, int64_t modulus, int64_t from, int64_t to,
                              sptx_clause_list *out) {
  if (to - from <= MOST_RESIDUES) {
    for (int64_t v = from; v < to; v++) {
      sptx_clause clause = sptx_clause_all(lowering);
      sptx_clause_congruence(&clause, modulus, floor_mod(v - c, modulus));
      push_narrowed(lowering, clause, out);
    }
    return true;
  }
  if (modulus - (to - from) > MOST_RESIDUES)
    return false;
  sptx_clause clause = sptx_clause_all(lowering);
  for (int64_t v = to; v < from + modulus; v++)
    sptx_clause_literal(&clause, sptx_make_stride(lowering, modulus, floor_mod(v - c, modulus)), true);
  push_narrowed(lowering, clause, out);
  return true;
}

/* Positions whose residue lies in [from, to) modulo every, where 0 <= to - from <= every. */
static void push_run(sptx_lowering *lowering, bool keys, int64_t every, int64_t from, int64_t to,
                     sptx_clause_list *out) {
  int64_t start = floor_mod(from, every), count = to - from;
  while (count > 0) {
    sptx_run run = {every, start, min64(count, every - start)};
    sptx_clause clause = sptx_clause_all(lowering);
    if (keys)
      sptx_clause_key_run(lowering, &clause, run);
    else
      sptx_clause_query_run(&clause, run);
    push_narrowed(lowering, clause, out);
    count -= run.count;
    start = 0;
  }
}

/* (in / divisor) mod modulus in [from, to). Digits scale: that is in mod (divisor * modulus), in blocks. */
static bool remainder_in(sptx_lowering *lowering, const unit *u, int64_t from, int64_t to,
                         sptx_clause_list *out) {
  int64_t every = u->divisor * u->modulus;
  from = clamp(from, 0, u->modulus) * u->divisor;
  to = clamp(to, 0, u->modulus) * u->divisor;
  if (from >= to)
    return true;
  linear in = u->in;
  if (in.i == 1 && in.j == -1)
    return distance_residues(lowering, in.c, every, from, to, out);
  if (in.i == -1 && in.j == 1) /* -(i - j) + c in [from, to)  <=>  i - j - c in (-to, -from] */
    return distance_residues(lowering, -in.c + to - 1, every, 0, to - from, out);
  if (in.i + in.j != 1 || in.i * in.j != 0)
    return false;
  push_run(lowering, in.j == 1, every, from - in.c, to - in.c, out);
  return true;
}

static bool unit_in(sptx_lowering *lowering, const unit *u, int64_t from, int64_t to, sptx_clause_list *out) {
  switch (u->kind) {
  case UNIT_QUOTIENT:
    return linear_in(lowering, u->in, saturated_product(from, u->divisor), saturated_product(to, u->divisor),
                     out);
  case UNIT_REMAINDER:
    return remainder_in(lowering, u, from, to, out);
  default:
    if (from <= 0)
      return linear_in(lowering, u->in, 1 - to, to, out);
    return linear_in(lowering, u->in, from, to, out) && linear_in(lowering, u->in, 1 - to, 1 - from, out);
  }
}

/* u(i) - u(j) in [from, to), u a quotient or a remainder by the same numbers. */
static bool difference_in(sptx_lowering *lowering, const unit *query, const unit *key, int64_t from,
                          int64_t to, sptx_clause_list *out) {
  linear i = query->in, j = key->in;
  sptx_clause clause = sptx_clause_all(lowering);
  if (query->kind != key->kind || query->divisor != key->divisor || query->modulus != key->modulus ||
      i.i != 1 || i.j != 0 || j.i != 0 || j.j != 1)
    return false;
  if (query->kind == UNIT_QUOTIENT && i.c % query->divisor == 0 && j.c % query->divisor == 0) {
    int64_t shift = (i.c - j.c) / query->divisor;
    sptx_clause_blocks(lowering, &clause, query->divisor, from > -SPTX_FAR ? from - shift : from,
                       to < SPTX_FAR ? to - shift : to);
  } else if (query->kind == UNIT_REMAINDER && from == 0 && to == 1 && query->divisor == 1) {
    sptx_clause_congruence(&clause, query->modulus, floor_mod(j.c - i.c, query->modulus));
  } else if (query->kind == UNIT_REMAINDER && from == 0 && to == 1 && i.c == 0 && j.c == 0) {
    sptx_clause_digit(lowering, &clause, query->divisor, query->modulus);
  } else {
    return false;
  }
  push_narrowed(lowering, clause, out);
  return true;
}

/* form in [from, to). */
static bool form_in(sptx_lowering *lowering, const form *f, int64_t from, int64_t to, sptx_clause_list *out) {
  if (f->count == 0)
    return linear_in(lowering, f->plain, from, to, out);
  if (f->plain.i || f->plain.j)
    return false;
  from = from > -SPTX_FAR ? from - f->plain.c : from;
  to = to < SPTX_FAR ? to - f->plain.c : to;
  int64_t k = f->terms[0].coefficient;
  if (f->count == 1 && k > 0)
    return unit_in(lowering, &f->terms[0].unit, from > -SPTX_FAR ? ceil_div(from, k) : from,
                   to < SPTX_FAR ? ceil_div(to, k) : to, out);
  int64_t negated_from = to < SPTX_FAR ? 1 - to : -SPTX_FAR,
          negated_to = from > -SPTX_FAR ? 1 - from : SPTX_FAR;
  if (f->count == 1)
    return unit_in(lowering, &f->terms[0].unit,
                   negated_from > -SPTX_FAR ? ceil_div(negated_from, -k) : negated_from,
                   negated_to < SPTX_FAR ? ceil_div(negated_to, -k) : negated_to, out);
  if (llabs(k) != 1 || k + f->terms[1].coefficient != 0)
    return false;
  const unit *plus = &f->terms[k < 0].unit, *minus = &f->terms[k > 0].unit;
  if (plus->in.i)
    return difference_in(lowering, plus, minus, from, to, out);
  return difference_in(lowering, minus, plus, negated_from, negated_to, out);
}

/* The values of left - right that the comparison allows: one interval, or for != two. */
static bool comparison(sptx_lowering *lowering, enum sptx_op op, const form *f, sptx_clause_list *out) {
  switch (op) {
  case SPTX_OP_LT:
    return form_in(lowering, f, -SPTX_FAR, 0, out);
  case SPTX_OP_LE:
    return form_in(lowering, f, -SPTX_FAR, 1, out);
  case SPTX_OP_GT:
    return form_in(lowering, f, 1, SPTX_FAR, out);
  case SPTX_OP_GE:
    return form_in(lowering, f, 0, SPTX_FAR, out);
  case SPTX_OP_EQ:
    return form_in(lowering, f, 0, 1, out);
  default:
    return form_in(lowering, f, -SPTX_FAR, 0, out) && form_in(lowering, f, 1, SPTX_FAR, out);
  }
}

/* != of a remainder of i and one of j: the literal "not that congruence" or "not that digit". */
static bool unequal_remainders(sptx_lowering *lowering, const form *f, sptx_clause_list *out) {
  sptx_clause_list equal = {0};
  sptx_clause clause = sptx_clause_all(lowering);
  bool known = f->count == 2 && f->terms[0].unit.kind == UNIT_REMAINDER &&
               comparison(lowering, SPTX_OP_EQ, f, &equal) && equal.count == 1;
  if (known) {
    const sptx_clause *only = &equal.clauses[0];
    if (only->modulus > 1)
      sptx_clause_literal(&clause, sptx_make_stride(lowering, only->modulus, only->phase), true);
    else if (only->digit_count == 1)
      sptx_clause_literal(&clause, sptx_make_digit(lowering, only->digits[0].stride, only->digits[0].size),
                          true);
    else
      known = false;
  }
  if (known)
    push_narrowed(lowering, clause, out);
  sptx_clause_list_clear(&equal);
  return known;
}

static enum sptx_op inverted(enum sptx_op op) {
  switch (op) {
  case SPTX_OP_LT:
    return SPTX_OP_GE;
  case SPTX_OP_LE:
    return SPTX_OP_GT;
  case SPTX_OP_GT:
    return SPTX_OP_LE;
  case SPTX_OP_GE:
    return SPTX_OP_LT;
  case SPTX_OP_EQ:
    return SPTX_OP_NE;
  default:
    return SPTX_OP_EQ;
  }
}

/* A comparison, or a number that counts as true unless it is 0. */
static bool recognise_atom(sptx_lowering *lowering, const sptx_expr *expr, bool negated,
                           sptx_clause_list *out) {
  bool compares = expr->op >= SPTX_OP_LT && expr->op <= SPTX_OP_NE;
  enum sptx_op op = compares ? expr->op : SPTX_OP_NE;
  form left, right = constant_form(0);
  int before = out->count;
  if (!to_form(compares ? expr->args[0] : expr, &left) || (compares && !to_form(expr->args[1], &right)) ||
      !add_forms(&left, &right, -1))
    return false;
  op = negated ? inverted(op) : op;
  bool done =
      (op == SPTX_OP_NE && unequal_remainders(lowering, &left, out)) || comparison(lowering, op, &left, out);
  for (int k = before; k < out->count; k++)
    done &= !out->clauses[k].overflowed;
  if (!done)
    out->count = before;
  return done;
}

static void recognise_expr(sptx_lowering *lowering, const sptx_expr *expr, sptx_place place, bool negated,
                           sptx_clause_list *out);

static void opaque_expr(sptx_lowering *lowering, const sptx_expr *expr, sptx_place place, bool negated,
                        sptx_clause_list *out) {
  sptx_set *set = sptx_lowering_make(lowering, SPTX_SET_WHERE);
  if (!set)
    return;
  set->place = place;
  lowering->code = sptx_expr_copy(expr, &set->as.where.expr, lowering->error);
  sptx_clause clause = sptx_clause_all(lowering);
  sptx_clause_literal(&clause, set, negated);
  sptx_clause_push(lowering, out, &clause);
}

static void both_of(sptx_lowering *lowering, const sptx_expr *const parts[2], const bool negated[2],
                    sptx_place place, sptx_clause_list *out) {
  sptx_clause_list left = {0}, right = {0};
  recognise_expr(lowering, parts[0], place, negated[0], &left);
  recognise_expr(lowering, parts[1], place, negated[1], &right);
  sptx_clause_list_intersect(lowering, &left, &right, out);
  sptx_clause_list_clear(&left);
  sptx_clause_list_clear(&right);
}

static void recognise_expr(sptx_lowering *lowering, const sptx_expr *expr, sptx_place place, bool negated,
                           sptx_clause_list *out) {
  if (lowering->code != SPTX_CODE_OK)
    return;
  const sptx_expr *const *args = (const sptx_expr *const *)expr->args;
  if (expr->op == SPTX_OP_LOGICAL_NOT) {
    recognise_expr(lowering, args[0], place, !negated, out);
  } else if ((expr->op == SPTX_OP_LOGICAL_AND) != negated &&
             (expr->op == SPTX_OP_LOGICAL_AND || expr->op == SPTX_OP_LOGICAL_OR)) {
    both_of(lowering, args, (bool[]){negated, negated}, place, out);
  } else if (expr->op == SPTX_OP_LOGICAL_AND || expr->op == SPTX_OP_LOGICAL_OR) {
    recognise_expr(lowering, args[0], place, negated, out);
    recognise_expr(lowering, args[1], place, negated, out);
  } else if (expr->op == SPTX_OP_SELECT) {
    const sptx_expr *chosen[] = {args[0], args[1]}, *other[] = {args[0], args[2]};
    both_of(lowering, chosen, (bool[]){false, negated}, place, out);
    both_of(lowering, other, (bool[]){true, negated}, place, out);
  } else if (!recognise_atom(lowering, expr, negated, out)) {
    opaque_expr(lowering, expr, place, negated, out);
  }
}

void sptx_recognise_where(sptx_lowering *lowering, const sptx_set *set, bool negated, sptx_clause_list *out) {
  recognise_expr(lowering, set->as.where.expr, set->place, negated, out);
}

bool sptx_expr_is_of_distance(const sptx_expr *expr) {
  form f;
  if (to_form(expr, &f) && f.count == 0 && f.plain.i == -f.plain.j)
    return true;
  if (expr->op == SPTX_OP_VARIABLE)
    return false;
  for (int a = 0; a < 3; a++)
    if (expr->args[a] && !sptx_expr_is_of_distance(expr->args[a]))
      return false;
  return true;
}
