/* Sets to clauses: each primitive, and its complement, as a union of conjunctions; unions are joined,
 * intersections multiplied out, complements pushed to the leaves (De Morgan). */
#include "patterns/clause.h"
#include "patterns/integer.h"

#include <stdlib.h>

/* More clauses than this, and the set stays opaque: as many pieces would be slower than the generic one. */
enum { MOST_CLAUSES = 256, MOST_RUNS = 16 };

static void push_simplified(sptx_lowering *lowering, sptx_clause_list *out, sptx_clause clause) {
  sptx_clause_simplify(&clause);
  if (!clause.empty)
    sptx_clause_push(lowering, out, &clause);
}

static void push_literal(sptx_lowering *lowering, const sptx_set *set, bool negated, sptx_clause_list *out) {
  sptx_clause clause = sptx_clause_all(lowering);
  sptx_clause_literal(&clause, set, negated);
  sptx_clause_push(lowering, out, &clause);
}

static void push_distance(sptx_lowering *lowering, int64_t from, int64_t to, sptx_clause_list *out) {
  sptx_clause clause = sptx_clause_all(lowering);
  sptx_clause_distance(&clause, from, to);
  push_simplified(lowering, out, clause);
}

static void recognise_all(sptx_lowering *lowering, const sptx_set *set, bool negated, sptx_clause_list *out) {
  (void)set;
  if (!negated)
    push_distance(lowering, -SPTX_FAR, SPTX_FAR, out);
}

static void recognise_window(sptx_lowering *lowering, const sptx_set *set, bool negated,
                             sptx_clause_list *out) {
  int64_t from = -set->as.window.right, to = set->as.window.left;
  if (!negated) {
    push_distance(lowering, from, to, out);
  } else if (from >= to) {
    push_distance(lowering, -SPTX_FAR, SPTX_FAR, out);
  } else {
    push_distance(lowering, -SPTX_FAR, from, out);
    push_distance(lowering, to, SPTX_FAR, out);
  }
}

static void push_congruence(sptx_lowering *lowering, int64_t modulus, int64_t phase, sptx_clause_list *out) {
  sptx_clause clause = sptx_clause_all(lowering);
  sptx_clause_congruence(&clause, modulus, phase);
  push_simplified(lowering, out, clause);
}

static void recognise_stride(sptx_lowering *lowering, const sptx_set *set, bool negated,
                             sptx_clause_list *out) {
  int64_t every = set->as.stride.every, phase = set->as.stride.phase;
  if (!negated)
    push_congruence(lowering, every, phase, out);
  else if (every == 2)
    push_congruence(lowering, 2, 1 - phase, out);
  else if (every > 2)
    push_literal(lowering, set, true, out);
}

static void recognise_block(sptx_lowering *lowering, const sptx_set *set, bool negated,
                            sptx_clause_list *out) {
  int64_t from[] = {negated ? -SPTX_FAR : 0, 1}, to[] = {negated ? 0 : 1, SPTX_FAR};
  for (int k = 0; k < 1 + negated; k++) {
    sptx_clause clause = sptx_clause_all(lowering);
    sptx_clause_blocks(lowering, &clause, set->as.block.size, from[k], to[k]);
    push_simplified(lowering, out, clause);
  }
}

/* Calls push for each run of consecutive values of an ascending list, or of the gaps between them up to
 * `limit`; false where there are too many. */
typedef void push_run(sptx_lowering *lowering, int64_t from, int64_t to, const sptx_set *set,
                      sptx_clause_list *out);

static int64_t count_runs(const int64_t *values, int64_t count) {
  int64_t runs = 0;
  for (int64_t k = 0; k < count; k++)
    runs += k == 0 || values[k] != values[k - 1] + 1;
  return runs;
}

static void for_each_run(sptx_lowering *lowering, const int64_t *values, int64_t count, int64_t limit,
                         bool gaps, push_run *push, const sptx_set *set, sptx_clause_list *out) {
  int64_t covered = 0;
  for (int64_t k = 0; k < count;) {
    int64_t from = values[k], to = from + 1;
    for (k++; k < count && values[k] == to; k++)
      to++;
    if (!gaps)
      push(lowering, from, to, set, out);
    else if (covered < from)
      push(lowering, covered, min64(from, limit), set, out);
    covered = to;
  }
  if (gaps && covered < limit)
    push(lowering, covered, limit, set, out);
}

static void push_key_run(sptx_lowering *lowering, int64_t from, int64_t to, const sptx_set *set,
                         sptx_clause_list *out) {
  sptx_clause clause = sptx_clause_all(lowering);
  sptx_clause_key_run(lowering, &clause, (sptx_run){set->as.columns.every, from, to - from});
  push_simplified(lowering, out, clause);
}

static void recognise_columns(sptx_lowering *lowering, const sptx_set *set, bool negated,
                              sptx_clause_list *out) {
  const int64_t *residues = set->as.columns.residues;
  int64_t count = set->as.columns.residue_count;
  if (count_runs(residues, count) > MOST_RUNS)
    push_literal(lowering, set, negated, out);
  else
    for_each_run(lowering, residues, count, set->as.columns.every, negated, push_key_run, set, out);
}

static void recognise_dilated(sptx_lowering *lowering, const sptx_set *set, bool negated,
                              sptx_clause_list *out) {
  int64_t dilation = set->as.dilated.dilation;
  __int128 reach = (__int128)set->as.dilated.window * dilation;
  int64_t width = reach < SPTX_FAR ? (int64_t)reach : SPTX_FAR;
  sptx_clause near = sptx_clause_all(lowering);
  sptx_clause_distance(&near, 1 - width, width);
  if (!negated) {
    sptx_clause_congruence(&near, dilation, 0);
    push_simplified(lowering, out, near);
    return;
  }
  push_distance(lowering, -SPTX_FAR, 1 - width, out);
  push_distance(lowering, width, SPTX_FAR, out);
  if (dilation > 1) {
    sptx_clause_literal(&near, sptx_make_stride(lowering, dilation, 0), true);
    push_simplified(lowering, out, near);
  }
}

/* The outermost axis needs no upper end: the shape holds every position. Runs of axes that are equal in query
 * and key join: at the top to equal blocks, at the bottom to a congruence, between to equal digits. */
static sptx_clause grid_clause(sptx_lowering *lowering, const sptx_set *set) {
  sptx_clause clause = sptx_clause_all(lowering);
  int64_t stride = 1, size = 1, equal_stride = 1;
  for (int axis = set->as.grid.axes - 1; axis >= 0; axis--) {
    int64_t extent = set->as.grid.shape[axis];
    bool equal = !set->as.grid.along[axis] || extent == 1;
    if (equal) {
      if (size == 1)
        equal_stride = stride;
      size *= extent;
    }
    stride *= extent;
    if (size > 1 && (axis == 0 || (set->as.grid.along[axis - 1] && set->as.grid.shape[axis - 1] > 1))) {
      if (axis == 0)
        sptx_clause_same_block(lowering, &clause, equal_stride);
      else if (equal_stride == 1)
        sptx_clause_congruence(&clause, size, 0);
      else
        sptx_clause_digit(lowering, &clause, equal_stride, size);
      size = 1;
    }
  }
  return clause;
}

static void recognise_grid(sptx_lowering *lowering, const sptx_set *set, bool negated,
                           sptx_clause_list *out) {
  if (negated)
    push_literal(lowering, set, true, out);
  else
    push_simplified(lowering, out, grid_clause(lowering, set));
}

static void push_global_keys(sptx_lowering *lowering, int64_t from, int64_t to, const sptx_set *set,
                             sptx_clause_list *out) {
  (void)set;
  sptx_clause clause = sptx_clause_all(lowering);
  sptx_clause_keys(&clause, from, to);
  push_simplified(lowering, out, clause);
}

static void push_global_queries(sptx_lowering *lowering, int64_t from, int64_t to, const sptx_set *set,
                                sptx_clause_list *out) {
  (void)set;
  sptx_clause clause = sptx_clause_all(lowering);
  sptx_clause_queries(&clause, from, to);
  push_simplified(lowering, out, clause);
}

/* Stops above the count that makes the set opaque. */
void sptx_clause_list_intersect(sptx_lowering *lowering, const sptx_clause_list *a, const sptx_clause_list *b,
                                sptx_clause_list *out) {
  for (int p = 0; p < a->count; p++)
    for (int q = 0; q < b->count && out->count <= MOST_CLAUSES; q++) {
      sptx_clause both = sptx_clause_intersect(lowering, &a->clauses[p], &b->clauses[q]);
      if (!both.empty)
        sptx_clause_push(lowering, out, &both);
    }
}

static void recognise_global(sptx_lowering *lowering, const sptx_set *set, bool negated,
                             sptx_clause_list *out) {
  const int64_t *at = set->as.global.at;
  int64_t count = set->as.global.at_count, n = lowering->n;
  bool as_key = set->as.global.as_key, as_query = set->as.global.as_query;
  if (count_runs(at, count) > MOST_RUNS) {
    push_literal(lowering, set, negated, out);
    return;
  }
  if (!negated) {
    if (as_key)
      for_each_run(lowering, at, count, n, false, push_global_keys, set, out);
    if (as_query)
      for_each_run(lowering, at, count, n, false, push_global_queries, set, out);
    return;
  }
  sptx_clause_list keys = {0}, queries = {0};
  for_each_run(lowering, at, as_key ? count : 0, n, true, push_global_keys, set, &keys);
  for_each_run(lowering, at, as_query ? count : 0, n, true, push_global_queries, set, &queries);
  sptx_clause_list_intersect(lowering, &keys, &queries, out);
  sptx_clause_list_clear(&keys);
  sptx_clause_list_clear(&queries);
}

static void recognise_opaque(sptx_lowering *lowering, const sptx_set *set, bool negated,
                             sptx_clause_list *out) {
  push_literal(lowering, set, negated, out);
}

typedef void recognise_primitive(sptx_lowering *lowering, const sptx_set *set, bool negated,
                                 sptx_clause_list *out);

static recognise_primitive *const primitives[] = {
    [SPTX_SET_ALL] = recognise_all,          [SPTX_SET_WINDOW] = recognise_window,
    [SPTX_SET_STRIDE] = recognise_stride,    [SPTX_SET_BLOCK] = recognise_block,
    [SPTX_SET_COLUMNS] = recognise_columns,  [SPTX_SET_DILATED] = recognise_dilated,
    [SPTX_SET_GRID] = recognise_grid,        [SPTX_SET_GLOBAL] = recognise_global,
    [SPTX_SET_RANDOM] = recognise_opaque,    [SPTX_SET_LAYOUT] = recognise_opaque,
    [SPTX_SET_WHERE] = sptx_recognise_where,
};

/* The intersection of the children (or of their complements). */
static void recognise_intersection(sptx_lowering *lowering, const sptx_set *set, bool negated,
                                   sptx_clause_list *out) {
  sptx_clause_list product = {0};
  sptx_clause all = sptx_clause_all(lowering);
  sptx_clause_push(lowering, &product, &all);
  for (int c = 0; c < set->child_count && product.count <= MOST_CLAUSES; c++) {
    sptx_clause_list child = {0}, next = {0};
    sptx_recognise(lowering, set->children[c], negated, &child);
    sptx_clause_list_intersect(lowering, &product, &child, &next);
    sptx_clause_list_clear(&product);
    sptx_clause_list_clear(&child);
    product = next;
  }
  for (int k = 0; k < product.count; k++)
    sptx_clause_push(lowering, out, &product.clauses[k]);
  sptx_clause_list_clear(&product);
}

static void recognise_algebra(sptx_lowering *lowering, const sptx_set *set, bool negated,
                              sptx_clause_list *out) {
  if (set->kind == SPTX_SET_NOT) {
    sptx_recognise(lowering, set->children[0], !negated, out);
  } else if ((set->kind == SPTX_SET_ANY) != negated) {
    for (int c = 0; c < set->child_count && out->count <= MOST_CLAUSES; c++)
      sptx_recognise(lowering, set->children[c], negated, out);
  } else {
    recognise_intersection(lowering, set, negated, out);
  }
}

/* A set that grows out of hand, or holds a constraint too many, stays one literal. */
void sptx_recognise(sptx_lowering *lowering, const sptx_set *set, bool negated, sptx_clause_list *out) {
  int before = out->count;
  if (set->kind < SPTX_SET_ANY)
    primitives[set->kind](lowering, set, negated, out);
  else
    recognise_algebra(lowering, set, negated, out);
  bool refused = out->count - before > MOST_CLAUSES;
  for (int k = before; k < out->count; k++)
    refused |= out->clauses[k].overflowed;
  if (refused && lowering->code == SPTX_CODE_OK) {
    out->count = before;
    push_literal(lowering, set, negated, out);
  }
}
