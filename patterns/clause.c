/* The algebra of clauses: narrowing, intersection, emptiness, difference. Set up so that each narrowing keeps
 * the clause exact: what does not combine in closed form stays as a literal. */
#include "patterns/clause.h"
#include "patterns/integer.h"

#include <stdlib.h>
#include <string.h>

/* gcd of a and b, and *inverse with a * *inverse = gcd (mod b). */
static int64_t gcd_inverse(int64_t a, int64_t b, int64_t *inverse) {
  int64_t r = a, next_r = b, x = 1, next_x = 0;
  while (next_r) {
    int64_t q = r / next_r, t = r - q * next_r;
    r = next_r, next_r = t;
    t = x - q * next_x;
    x = next_x, next_x = t;
  }
  *inverse = x;
  return r;
}

sptx_clause sptx_clause_all(const sptx_lowering *lowering) {
  return (sptx_clause){.query_from = lowering->first,
                       .query_to = lowering->n,
                       .key_to = lowering->n,
                       .distance_from = lowering->first - lowering->n + 1,
                       .distance_to = lowering->n,
                       .modulus = 1,
                       .query_run = {1, 0, 1},
                       .key_run = {1, 0, 1}};
}

void sptx_clause_distance(sptx_clause *clause, int64_t from, int64_t to) {
  clause->distance_from = max64(clause->distance_from, from);
  clause->distance_to = min64(clause->distance_to, to);
}

void sptx_clause_queries(sptx_clause *clause, int64_t from, int64_t to) {
  clause->query_from = max64(clause->query_from, from);
  clause->query_to = min64(clause->query_to, to);
}

void sptx_clause_keys(sptx_clause *clause, int64_t from, int64_t to) {
  clause->key_from = max64(clause->key_from, from);
  clause->key_to = min64(clause->key_to, to);
}

/* Chinese remainders. A joint modulus beyond all distances leaves one distance or none. */
void sptx_clause_congruence(sptx_clause *clause, int64_t modulus, int64_t phase) {
  int64_t inverse, a = clause->modulus, common = gcd_inverse(a, modulus, &inverse);
  int64_t step = modulus / common;
  if (floor_mod(phase - clause->phase, common)) {
    clause->empty = true;
    return;
  }
  __int128 times = (__int128)((phase - clause->phase) / common) * inverse % step;
  __int128 joint = (__int128)a * step, r = clause->phase + a * (times < 0 ? times + step : times);
  if (joint <= SPTX_FAR) {
    clause->modulus = (int64_t)joint;
    clause->phase = (int64_t)r;
    return;
  }
  if (r >= clause->distance_to)
    r -= joint;
  if (r < clause->distance_from || r >= clause->distance_to)
    clause->empty = true;
  else
    sptx_clause_distance(clause, (int64_t)r, (int64_t)r + 1);
  clause->modulus = 1, clause->phase = 0;
}

void sptx_clause_same_block(sptx_lowering *lowering, sptx_clause *clause, int64_t size) {
  int64_t there = clause->same_block;
  if (!there || there % size == 0)
    clause->same_block = size;
  else if (size % there)
    sptx_clause_literal(clause, sptx_make_block(lowering, size), false);
}

void sptx_clause_digit(sptx_lowering *lowering, sptx_clause *clause, int64_t stride, int64_t size) {
  if (size == 1)
    return;
  for (int k = 0; k < clause->digit_count; k++)
    if (clause->digits[k].stride == stride && clause->digits[k].size == size)
      return;
  if (clause->digit_count == SPTX_CLAUSE_DIGITS) {
    sptx_clause_literal(clause, sptx_make_digit(lowering, stride, size), false);
    return;
  }
  clause->digits[clause->digit_count].stride = stride;
  clause->digits[clause->digit_count++].size = size;
}

void sptx_clause_blocks(sptx_lowering *lowering, sptx_clause *clause, int64_t size, int64_t from,
                        int64_t to) {
  if (from == 0 && to == 1) {
    sptx_clause_same_block(lowering, clause, size);
    return;
  }
  for (int k = 0; k < clause->block_count; k++)
    if (clause->blocks[k].size == size) {
      clause->blocks[k].from = max64(clause->blocks[k].from, from);
      clause->blocks[k].to = min64(clause->blocks[k].to, to);
      return;
    }
  if (clause->block_count == SPTX_CLAUSE_BLOCKS) {
    clause->overflowed = true;
    return;
  }
  clause->blocks[clause->block_count].size = size;
  clause->blocks[clause->block_count].from = from;
  clause->blocks[clause->block_count++].to = to;
}

/* False where the two runs do not combine to one. */
static bool combine_runs(sptx_run *run, sptx_run other, bool *empty) {
  if (other.count == other.every)
    return true;
  if (run->count == run->every) {
    *run = other;
    return true;
  }
  if (run->every != other.every)
    return false;
  int64_t from = max64(run->from, other.from);
  int64_t to = min64(run->from + run->count, other.from + other.count);
  *empty |= from >= to;
  run->from = from;
  run->count = max64(1, to - from);
  return true;
}

void sptx_clause_key_run(sptx_lowering *lowering, sptx_clause *clause, sptx_run run) {
  if (!combine_runs(&clause->key_run, run, &clause->empty))
    sptx_clause_literal(clause, sptx_make_columns(lowering, run), false);
}

void sptx_clause_query_run(sptx_clause *clause, sptx_run run) {
  if (!combine_runs(&clause->query_run, run, &clause->empty))
    clause->overflowed = true;
}

void sptx_clause_literal(sptx_clause *clause, const sptx_set *set, bool negated) {
  if (!set)
    return; /* memory ran short: the lowering knows */
  for (int k = 0; k < clause->literal_count; k++)
    if (clause->literals[k].set == set || sptx_set_equal(clause->literals[k].set, set)) {
      clause->empty |= clause->literals[k].negated != negated;
      return;
    }
  if (clause->literal_count == SPTX_CLAUSE_LITERALS) {
    clause->overflowed = true;
    return;
  }
  clause->literals[clause->literal_count].set = set;
  clause->literals[clause->literal_count++].negated = negated;
}

static void tighten_ranges(sptx_clause *clause) {
  for (int round = 0; round < 2; round++) {
    clause->distance_from = max64(clause->distance_from, clause->query_from - (clause->key_to - 1));
    clause->distance_to = min64(clause->distance_to, clause->query_to - clause->key_from);
    clause->query_from = max64(clause->query_from, clause->key_from + clause->distance_from);
    clause->query_to = min64(clause->query_to, clause->key_to + clause->distance_to - 1);
    clause->key_from = max64(clause->key_from, clause->query_from - clause->distance_to + 1);
    clause->key_to = min64(clause->key_to, clause->query_to - clause->distance_from);
  }
  clause->empty |= clause->query_from >= clause->query_to || clause->key_from >= clause->key_to ||
                   clause->distance_from >= clause->distance_to;
}

/* Distances that the congruence leaves: a single one needs no congruence. */
static void tighten_congruence(sptx_clause *clause) {
  if (clause->modulus == 1)
    return;
  int64_t m = clause->modulus, phase = clause->phase;
  clause->distance_from += floor_mod(phase - clause->distance_from, m);
  clause->distance_to -= floor_mod(clause->distance_to - 1 - phase, m);
  if (clause->distance_to - clause->distance_from == 1)
    clause->modulus = 1, clause->phase = 0;
}

static void drop_block(sptx_clause *clause, int k) {
  clause->blocks[k] = clause->blocks[--clause->block_count];
}

static void tighten_blocks(sptx_clause *clause) {
  for (int k = clause->block_count - 1; k >= 0; k--) {
    int64_t size = clause->blocks[k].size, from = clause->blocks[k].from, to = clause->blocks[k].to;
    if (from >= to) {
      clause->empty = true;
      return;
    }
    if (from > -SPTX_FAR / size)
      clause->distance_from = max64(clause->distance_from, (from - 1) * size + 1);
    if (to < SPTX_FAR / size)
      clause->distance_to = min64(clause->distance_to, to * size);
    /* i div s - j div s lies between floor(d / s) and ceil(d / s). */
    if (floor_div(clause->distance_from, size) >= from)
      from = -SPTX_FAR;
    if (ceil_div(clause->distance_to - 1, size) < to)
      to = SPTX_FAR;
    if (from == -SPTX_FAR && to == SPTX_FAR) {
      drop_block(clause, k);
      continue;
    }
    bool not_negative = from == 0 || (from == -SPTX_FAR && clause->distance_from >= 0);
    bool not_positive = to == 1 || (to == SPTX_FAR && clause->distance_to <= 1);
    if (not_negative && not_positive && (!clause->same_block || clause->same_block % size == 0)) {
      clause->same_block = size;
      drop_block(clause, k);
      continue;
    }
    if (clause->same_block && size % clause->same_block == 0) {
      clause->empty |= from > 0 || to <= 0;
      drop_block(clause, k);
      continue;
    }
    clause->blocks[k].from = from;
    clause->blocks[k].to = to;
  }
}

/* Equal blocks bound the distance; one block for all positions says nothing. */
static void tighten_same_block(sptx_clause *clause) {
  int64_t size = clause->same_block;
  if (!size)
    return;
  int64_t first = max64(clause->query_from, clause->key_from) / size * size;
  int64_t last = ceil_div(min64(clause->query_to, clause->key_to), size) * size;
  sptx_clause_queries(clause, first, last);
  sptx_clause_keys(clause, first, last);
  sptx_clause_distance(clause, 1 - size, size);
  if (last - first <= size)
    clause->same_block = 0; /* the ranges say it already */
}

void sptx_clause_simplify(sptx_clause *clause) {
  for (int round = 0; round < 2 && !clause->empty; round++) {
    tighten_ranges(clause);
    if (!clause->empty)
      tighten_congruence(clause);
    if (!clause->empty && clause->distance_from < clause->distance_to)
      tighten_blocks(clause);
    if (!clause->empty)
      tighten_same_block(clause);
    clause->empty |= clause->distance_from >= clause->distance_to;
  }
  if (clause->empty)
    return;
  tighten_ranges(clause);
  if (clause->distance_from == 0 && clause->distance_to == 1) /* the same position has the same digits */
    clause->same_block = 0, clause->digit_count = 0, clause->modulus = 1, clause->phase = 0;
}

/* The band of distances that the other constraints leave to all positions. */
static void implied_band(const sptx_lowering *lowering, const sptx_clause *clause, int64_t *from,
                         int64_t *to) {
  *from = lowering->first - lowering->n + 1;
  *to = lowering->n;
  if (clause->same_block) {
    *from = max64(*from, 1 - clause->same_block);
    *to = min64(*to, clause->same_block);
  }
  for (int k = 0; k < clause->block_count; k++) {
    int64_t size = clause->blocks[k].size;
    if (clause->blocks[k].from > -SPTX_FAR / size)
      *from = max64(*from, (clause->blocks[k].from - 1) * size + 1);
    if (clause->blocks[k].to < SPTX_FAR / size)
      *to = min64(*to, clause->blocks[k].to * size);
  }
  *from += floor_mod(clause->phase - *from, clause->modulus);
  *to -= floor_mod(*to - 1 - clause->phase, clause->modulus);
}

void sptx_clause_relax(const sptx_lowering *lowering, sptx_clause *clause) {
  int64_t first = lowering->first, n = lowering->n, from, to;
  if (clause->query_from <= first && clause->key_from <= first - clause->distance_to + 1)
    clause->key_from = 0;
  if (clause->query_to >= n && clause->key_to >= n - clause->distance_from)
    clause->key_to = n;
  if (clause->query_from <= clause->key_from + clause->distance_from)
    clause->query_from = first;
  if (clause->query_to >= clause->key_to + clause->distance_to - 1)
    clause->query_to = n;
  implied_band(lowering, clause, &from, &to);
  if (clause->distance_from <= from)
    clause->distance_from = first - n + 1;
  if (clause->distance_to >= to)
    clause->distance_to = n;
}

sptx_clause sptx_clause_intersect(sptx_lowering *lowering, const sptx_clause *a, const sptx_clause *b) {
  sptx_clause c = *a;
  c.empty |= b->empty;
  c.overflowed |= b->overflowed;
  sptx_clause_queries(&c, b->query_from, b->query_to);
  sptx_clause_keys(&c, b->key_from, b->key_to);
  sptx_clause_distance(&c, b->distance_from, b->distance_to);
  sptx_clause_congruence(&c, b->modulus, b->phase);
  if (b->same_block)
    sptx_clause_same_block(lowering, &c, b->same_block);
  for (int k = 0; k < b->digit_count; k++)
    sptx_clause_digit(lowering, &c, b->digits[k].stride, b->digits[k].size);
  for (int k = 0; k < b->block_count; k++)
    sptx_clause_blocks(lowering, &c, b->blocks[k].size, b->blocks[k].from, b->blocks[k].to);
  sptx_clause_key_run(lowering, &c, b->key_run);
  sptx_clause_query_run(&c, b->query_run);
  for (int k = 0; k < b->literal_count; k++)
    sptx_clause_literal(&c, b->literals[k].set, b->literals[k].negated);
  sptx_clause_simplify(&c);
  return c;
}

/* What subtraction walks through: `left` is the part of a that meets all constraints of b seen so far; each
 * constraint splits off the part that breaks it. */
typedef struct split {
  sptx_lowering *lowering;
  sptx_clause_list *out;
  sptx_clause left;
} split;

static void split_off(split *s, sptx_clause part) {
  sptx_clause_simplify(&part);
  if (!part.empty)
    sptx_clause_push(s->lowering, s->out, &part);
}

static void split_distance(split *s, int64_t from, int64_t to) {
  sptx_clause below = s->left, above = s->left;
  sptx_clause_distance(&below, -SPTX_FAR, from);
  sptx_clause_distance(&above, to, SPTX_FAR);
  split_off(s, below);
  split_off(s, above);
  sptx_clause_distance(&s->left, from, to);
  sptx_clause_simplify(&s->left);
}

static void split_range(split *s, bool keys, int64_t from, int64_t to) {
  void (*narrow)(sptx_clause *, int64_t, int64_t) = keys ? sptx_clause_keys : sptx_clause_queries;
  sptx_clause below = s->left, above = s->left;
  narrow(&below, -SPTX_FAR, from);
  narrow(&above, to, SPTX_FAR);
  split_off(s, below);
  split_off(s, above);
  narrow(&s->left, from, to);
  sptx_clause_simplify(&s->left);
}

static void split_blocks(split *s, int64_t size, int64_t from, int64_t to) {
  if (from > -SPTX_FAR) {
    sptx_clause below = s->left;
    sptx_clause_blocks(s->lowering, &below, size, -SPTX_FAR, from);
    split_off(s, below);
  }
  if (to < SPTX_FAR) {
    sptx_clause above = s->left;
    sptx_clause_blocks(s->lowering, &above, size, to, SPTX_FAR);
    split_off(s, above);
  }
  sptx_clause_blocks(s->lowering, &s->left, size, from, to);
  sptx_clause_simplify(&s->left);
}

static void narrow_run(split *s, sptx_clause *clause, bool keys, sptx_run run) {
  if (keys)
    sptx_clause_key_run(s->lowering, clause, run);
  else
    sptx_clause_query_run(clause, run);
}

static void split_run(split *s, bool keys, sptx_run run) {
  if (run.count == run.every)
    return;
  sptx_run parts[2] = {{run.every, 0, run.from},
                       {run.every, run.from + run.count, run.every - run.from - run.count}};
  for (int k = 0; k < 2; k++)
    if (parts[k].count > 0) {
      sptx_clause part = s->left;
      narrow_run(s, &part, keys, parts[k]);
      split_off(s, part);
    }
  narrow_run(s, &s->left, keys, run);
  sptx_clause_simplify(&s->left);
}

static void split_literal(split *s, const sptx_set *set, bool negated) {
  sptx_clause part = s->left;
  sptx_clause_literal(&part, set, !negated);
  split_off(s, part);
  sptx_clause_literal(&s->left, set, negated);
}

/* The constraints whose complement stays closed come first, so that those without one cut the least. */
void sptx_clause_subtract(sptx_lowering *lowering, const sptx_clause *a, const sptx_clause *b,
                          sptx_clause_list *out) {
  sptx_clause both = sptx_clause_intersect(lowering, a, b);
  if (both.empty) {
    sptx_clause_push(lowering, out, a);
    return;
  }
  split s = {lowering, out, *a};
  sptx_clause least = *b;
  sptx_clause_relax(lowering, &least);
  b = &least;
  split_range(&s, true, b->key_from, b->key_to);
  split_range(&s, false, b->query_from, b->query_to);
  split_distance(&s, b->distance_from, b->distance_to);
  if (b->same_block && !s.left.empty)
    split_blocks(&s, b->same_block, 0, 1);
  for (int k = 0; k < b->block_count && !s.left.empty; k++)
    split_blocks(&s, b->blocks[k].size, b->blocks[k].from, b->blocks[k].to);
  if (!s.left.empty)
    split_run(&s, true, b->key_run);
  if (!s.left.empty)
    split_run(&s, false, b->query_run);
  if (b->modulus > 1 && !s.left.empty &&
      (s.left.modulus % b->modulus || floor_mod(s.left.phase - b->phase, b->modulus)))
    split_literal(&s, sptx_make_stride(lowering, b->modulus, b->phase), false);
  for (int k = 0; k < b->digit_count && !s.left.empty; k++)
    split_literal(&s, sptx_make_digit(lowering, b->digits[k].stride, b->digits[k].size), false);
  for (int k = 0; k < b->literal_count && !s.left.empty; k++)
    split_literal(&s, b->literals[k].set, b->literals[k].negated);
}

bool sptx_set_is_opaque(const sptx_set *set) {
  if (set->kind == SPTX_SET_RANDOM || set->kind == SPTX_SET_LAYOUT || set->kind == SPTX_SET_WHERE)
    return true;
  for (int c = 0; c < set->child_count; c++)
    if (sptx_set_is_opaque(set->children[c]))
      return true;
  return false;
}

void sptx_clause_push(sptx_lowering *lowering, sptx_clause_list *list, const sptx_clause *clause) {
  if (lowering->code != SPTX_CODE_OK)
    return;
  if (list->count == list->capacity) {
    int capacity = list->capacity ? 2 * list->capacity : 8;
    sptx_clause *clauses = realloc(list->clauses, (size_t)capacity * sizeof *clauses);
    if (!clauses) {
      lowering->code =
          sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %d clauses", capacity);
      return;
    }
    list->clauses = clauses;
    list->capacity = capacity;
  }
  list->clauses[list->count++] = *clause;
}

void sptx_clause_list_clear(sptx_clause_list *list) {
  free(list->clauses);
  *list = (sptx_clause_list){0};
}

sptx_set *sptx_lowering_make(sptx_lowering *lowering, enum sptx_set_kind kind) {
  if (lowering->code != SPTX_CODE_OK)
    return NULL;
  sptx_set *set = calloc(1, sizeof *set);
  if (lowering->made_count == lowering->made_capacity && set) {
    int capacity = lowering->made_capacity ? 2 * lowering->made_capacity : 8;
    sptx_set **made = realloc(lowering->made, (size_t)capacity * sizeof *made);
    if (made) {
      lowering->made = made;
      lowering->made_capacity = capacity;
    }
  }
  if (!set || lowering->made_count == lowering->made_capacity) {
    free(set);
    lowering->code = sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a literal");
    return NULL;
  }
  set->kind = kind;
  return lowering->made[lowering->made_count++] = set;
}

const sptx_set *sptx_make_window(sptx_lowering *lowering, int64_t distance_from, int64_t distance_to) {
  sptx_set *set = sptx_lowering_make(lowering, SPTX_SET_WINDOW);
  if (set)
    set->as.window.left = distance_to, set->as.window.right = -distance_from;
  return set;
}

const sptx_set *sptx_make_stride(sptx_lowering *lowering, int64_t modulus, int64_t phase) {
  sptx_set *set = sptx_lowering_make(lowering, SPTX_SET_STRIDE);
  if (set)
    set->as.stride.every = modulus, set->as.stride.phase = phase;
  return set;
}

const sptx_set *sptx_make_block(sptx_lowering *lowering, int64_t size) {
  sptx_set *set = sptx_lowering_make(lowering, SPTX_SET_BLOCK);
  if (set)
    set->as.block.size = size;
  return set;
}

const sptx_set *sptx_make_columns(sptx_lowering *lowering, sptx_run run) {
  sptx_set *set = sptx_lowering_make(lowering, SPTX_SET_COLUMNS);
  if (!set)
    return NULL;
  set->as.columns.residues = malloc((size_t)run.count * sizeof *set->as.columns.residues);
  if (!set->as.columns.residues) {
    lowering->code = sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %lld residues",
                               (long long)run.count);
    return NULL;
  }
  for (int64_t k = 0; k < run.count; k++)
    set->as.columns.residues[k] = run.from + k;
  set->as.columns.residue_count = run.count;
  set->as.columns.every = run.every;
  return set;
}

/* Equal in one middle digit: a grid whose outermost axis covers all positions. */
const sptx_set *sptx_make_digit(sptx_lowering *lowering, int64_t stride, int64_t size) {
  sptx_set *set = sptx_lowering_make(lowering, SPTX_SET_GRID);
  if (!set)
    return NULL;
  set->as.grid.axes = 3;
  set->as.grid.shape[0] = ceil_div(lowering->n, stride * size);
  set->as.grid.shape[1] = size;
  set->as.grid.shape[2] = stride;
  set->as.grid.along[0] = set->as.grid.along[2] = true;
  return set;
}
