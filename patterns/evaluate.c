/* See evaluate.h. Queries are rows of 64 keys, one word each; a tile is transposed at the end. */
#include "patterns/evaluate.h"
#include "patterns/integer.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = SPTX_GENERIC_TILE };

/* A `where` of i - j: bit n - 1 - d tells whether distance d is in it, so that the keys of a query ascend. */
typedef struct diagonal_table {
  const sptx_set *set;
  uint64_t *bits;  /* 2 n - 1 of them, and 64 more to read past the end */
  int64_t *before; /* how many bits are set before each word */
} diagonal_table;

struct sptx_evaluator {
  sptx_lowering *lowering;
  const sptx_clause_list *clauses;
  diagonal_table *diagonals;
  int diagonal_count;
};

static int64_t words_of(int64_t n) {
  return (2 * n - 1 + 63) / 64 + 1;
}

/* False where the expression fails for some distance: then it is evaluated pair by pair, where it is needed,
 * and an error tells the true position. */
static bool fill_diagonal(const sptx_lowering *lowering, diagonal_table *diagonal) {
  int64_t n = lowering->n;
  for (int64_t bit = 0; bit < 2 * n - 1; bit++) {
    int64_t d = n - 1 - bit, result;
    if (d < lowering->first - n + 1)
      break;
    int64_t values[] = {[SPTX_VARIABLE_QUERY] = max64(d, 0), [SPTX_VARIABLE_KEY] = max64(-d, 0)};
    if (sptx_expr_eval(diagonal->set->as.where.expr, values, &result, NULL) != SPTX_CODE_OK)
      return false;
    diagonal->bits[bit / 64] |= (uint64_t)(result != 0) << (bit % 64);
  }
  for (int64_t word = 0; word + 1 <= words_of(n); word++)
    diagonal->before[word + 1] = diagonal->before[word] + __builtin_popcountll(diagonal->bits[word]);
  return true;
}

static const diagonal_table *find_diagonal(const sptx_evaluator *evaluator, const sptx_set *set) {
  for (int k = 0; k < evaluator->diagonal_count; k++)
    if (evaluator->diagonals[k].set == set)
      return &evaluator->diagonals[k];
  return NULL;
}

static enum sptx_code no_memory(const sptx_evaluator *evaluator) {
  return sptx_fail(evaluator->lowering->error, SPTX_CODE_OUT_OF_MEMORY,
                   "no memory to evaluate a set over %lld positions", (long long)evaluator->lowering->n);
}

static enum sptx_code add_diagonal(sptx_evaluator *evaluator, const sptx_set *set) {
  if (set->kind != SPTX_SET_WHERE || find_diagonal(evaluator, set) ||
      !sptx_expr_is_of_distance(set->as.where.expr))
    return SPTX_CODE_OK;
  int64_t words = words_of(evaluator->lowering->n);
  diagonal_table made = {set, calloc((size_t)words, sizeof *made.bits),
                         calloc((size_t)words + 1, sizeof *made.before)};
  diagonal_table *all = realloc(evaluator->diagonals, (size_t)(evaluator->diagonal_count + 1) * sizeof *all);
  if (all)
    evaluator->diagonals = all;
  bool usable = all && made.bits && made.before && fill_diagonal(evaluator->lowering, &made);
  if (usable) {
    all[evaluator->diagonal_count++] = made;
    return SPTX_CODE_OK;
  }
  bool memory = all && made.bits && made.before;
  free(made.bits);
  free(made.before);
  return memory ? SPTX_CODE_OK : no_memory(evaluator);
}

enum sptx_code sptx_evaluator_create(sptx_lowering *lowering, const sptx_clause_list *clauses,
                                     sptx_evaluator **evaluator) {
  *evaluator = calloc(1, sizeof **evaluator);
  if (!*evaluator)
    return sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for an evaluator");
  (*evaluator)->lowering = lowering;
  (*evaluator)->clauses = clauses;
  for (int c = 0; c < clauses->count; c++)
    for (int k = 0; k < clauses->clauses[c].literal_count; k++)
      SPTX_TRY(add_diagonal(*evaluator, clauses->clauses[c].literals[k].set));
  return SPTX_CODE_OK;
}

void sptx_evaluator_free(sptx_evaluator *evaluator) {
  if (!evaluator)
    return;
  for (int k = 0; k < evaluator->diagonal_count; k++) {
    free(evaluator->diagonals[k].bits);
    free(evaluator->diagonals[k].before);
  }
  free(evaluator->diagonals);
  free(evaluator);
}

/* Bits first..last-1 of a word, both cut to 0..64. */
static uint64_t bits_between(int64_t first, int64_t last) {
  first = clamp(first, 0, 64);
  last = clamp(last, 0, 64);
  if (first >= last)
    return 0;
  return (~(uint64_t)0 >> (64 - (last - first))) << first;
}

static int64_t count_before(const diagonal_table *diagonal, int64_t bit) {
  uint64_t part = bit % 64 ? diagonal->bits[bit / 64] << (64 - bit % 64) : 0;
  return diagonal->before[bit / 64] + __builtin_popcountll(part);
}

/* Whether every cell that the rectangle touches is equal to value; cells beyond the matrix are 0. */
static bool layout_is(const sptx_set *set, int64_t i0, int64_t i1, int64_t j0, int64_t j1, bool value) {
  int64_t block = set->as.layout.block;
  for (int64_t row = i0 / block; row <= (i1 - 1) / block; row++)
    for (int64_t column = j0 / block; column <= (j1 - 1) / block; column++) {
      bool inside = row < set->as.layout.rows && column < set->as.layout.columns;
      if ((inside && set->as.layout.cells[row * set->as.layout.columns + column]) != value)
        return false;
    }
  return true;
}

/* Whether a literal surely leaves nothing of the rectangle. */
static bool literal_excludes(const sptx_evaluator *evaluator, const sptx_set *set, bool negated, int64_t i0,
                             int64_t i1, int64_t j0, int64_t j1) {
  if (set->kind == SPTX_SET_LAYOUT)
    return layout_is(set, i0, i1, j0, j1, negated);
  const diagonal_table *diagonal = find_diagonal(evaluator, set);
  if (!diagonal)
    return false;
  int64_t n = evaluator->lowering->n, from = n - 1 - (i1 - 1 - j0), to = n - (i0 - (j1 - 1));
  int64_t held = count_before(diagonal, to) - count_before(diagonal, from);
  return held == (negated ? to - from : 0);
}

/* The keys that a clause's ranges and bands leave to the queries i0..i1-1. */
static void key_span(const sptx_clause *clause, int64_t i0, int64_t i1, int64_t *from, int64_t *to) {
  i0 = max64(i0, clause->query_from);
  i1 = min64(i1, clause->query_to);
  *from = max64(clause->key_from, i0 - clause->distance_to + 1);
  *to = min64(clause->key_to, i1 - clause->distance_from);
  if (i0 >= i1)
    *to = *from;
}

static void mark_keys(uint64_t *marks, int64_t from, int64_t to) {
  for (int64_t tile = from / TILE; tile * TILE < to; tile++)
    marks[tile / 64] |= (uint64_t)1 << (tile % 64);
}

/* The tiles that hold one of the chosen blocks of these queries. */
static void mark_random(const sptx_lowering *lowering, const sptx_set *set, int64_t i0, int64_t i1,
                        int64_t from, int64_t to, uint64_t *marks) {
  int64_t block = set->as.random.block;
  for (int64_t row = i0 / block; row <= (i1 - 1) / block; row++) {
    int64_t blocks = set->as.random.causal ? row + 1 : ceil_div(lowering->n, block);
    for (int64_t place = 0; place < min64(set->as.random.per_row, blocks); place++) {
      int64_t chosen = sptx_random_block_at(set->as.random.seed, blocks, row, place);
      mark_keys(marks, max64(from, chosen * block), min64(to, (chosen + 1) * block));
    }
  }
}

void sptx_evaluator_mark(const sptx_evaluator *evaluator, int64_t first, int64_t last, uint64_t *marks) {
  for (int c = 0; c < evaluator->clauses->count; c++) {
    const sptx_clause *clause = &evaluator->clauses->clauses[c];
    int64_t from, to;
    const sptx_set *chosen = NULL;
    key_span(clause, first, last, &from, &to);
    for (int k = 0; k < clause->literal_count; k++)
      if (clause->literals[k].set->kind == SPTX_SET_RANDOM && !clause->literals[k].negated)
        chosen = clause->literals[k].set;
    if (from >= to)
      continue;
    if (chosen) {
      mark_random(evaluator->lowering, chosen, first, last, from, to, marks);
      continue;
    }
    for (int64_t tile = from / TILE; tile * TILE < to; tile++) {
      bool excluded = false;
      for (int k = 0; k < clause->literal_count && !excluded; k++)
        excluded = literal_excludes(evaluator, clause->literals[k].set, clause->literals[k].negated, first,
                                    last, tile * TILE, min64((tile + 1) * TILE, evaluator->lowering->n));
      if (!excluded)
        mark_keys(marks, tile * TILE, tile * TILE + 1);
    }
  }
}

/* Which of the needed keys (bit k: key j0 + k) the set gives query i. */
static enum sptx_code set_row(const sptx_evaluator *evaluator, const sptx_set *set, int64_t i, int64_t j0,
                              uint64_t needed, uint64_t *row);

static enum sptx_code rows_of_children(const sptx_evaluator *evaluator, const sptx_set *set, int64_t i,
                                       int64_t j0, uint64_t needed, uint64_t *row) {
  bool any = set->kind == SPTX_SET_ANY;
  *row = any ? 0 : needed;
  for (int c = 0; c < set->child_count; c++) {
    uint64_t child, open = any ? needed & ~*row : *row; /* the keys not decided yet */
    if (!open)
      break;
    SPTX_TRY(set_row(evaluator, set->children[c], i, j0, open, &child));
    *row = any ? *row | child : child;
  }
  return SPTX_CODE_OK;
}

static uint64_t random_row(const sptx_lowering *lowering, const sptx_set *set, int64_t i, int64_t j0) {
  int64_t block = set->as.random.block, row = i / block;
  int64_t blocks = set->as.random.causal ? row + 1 : ceil_div(lowering->n, block);
  uint64_t bits = 0;
  for (int64_t column = j0 / block; column * block < j0 + TILE; column++)
    if (sptx_random_has_block(set->as.random.seed, set->as.random.per_row, blocks, row, column))
      bits |= bits_between(column * block - j0, (column + 1) * block - j0);
  return bits;
}

static uint64_t layout_row(const sptx_set *set, int64_t i, int64_t j0) {
  int64_t block = set->as.layout.block, row = i / block;
  uint64_t bits = 0;
  if (row >= set->as.layout.rows)
    return 0;
  for (int64_t column = j0 / block; column < set->as.layout.columns && column * block < j0 + TILE; column++)
    if (set->as.layout.cells[row * set->as.layout.columns + column])
      bits |= bits_between(column * block - j0, (column + 1) * block - j0);
  return bits;
}

static uint64_t diagonal_row(const sptx_lowering *lowering, const diagonal_table *diagonal, int64_t i,
                             int64_t j0) {
  int64_t bit = lowering->n - 1 - (i - j0), shift = bit % 64;
  uint64_t low = diagonal->bits[bit / 64] >> shift;
  return shift ? low | diagonal->bits[bit / 64 + 1] << (64 - shift) : low;
}

static enum sptx_code pair_by_pair(const sptx_evaluator *evaluator, const sptx_set *set, int64_t i,
                                   int64_t j0, uint64_t needed, uint64_t *row) {
  *row = 0;
  for (uint64_t rest = needed; rest; rest &= rest - 1) {
    int key = __builtin_ctzll(rest);
    bool contains;
    SPTX_TRY(
        sptx_set_contains(set, evaluator->lowering->n, i, j0 + key, &contains, evaluator->lowering->error));
    *row |= (uint64_t)contains << key;
  }
  return SPTX_CODE_OK;
}

static enum sptx_code set_row(const sptx_evaluator *evaluator, const sptx_set *set, int64_t i, int64_t j0,
                              uint64_t needed, uint64_t *row) {
  const diagonal_table *diagonal = NULL;
  switch (set->kind) {
  case SPTX_SET_ANY:
  case SPTX_SET_ALL_OF:
    return rows_of_children(evaluator, set, i, j0, needed, row);
  case SPTX_SET_NOT:
    SPTX_TRY(set_row(evaluator, set->children[0], i, j0, needed, row));
    *row = needed & ~*row;
    return SPTX_CODE_OK;
  case SPTX_SET_RANDOM:
    *row = needed & random_row(evaluator->lowering, set, i, j0);
    return SPTX_CODE_OK;
  case SPTX_SET_LAYOUT:
    *row = needed & layout_row(set, i, j0);
    return SPTX_CODE_OK;
  case SPTX_SET_WHERE:
    diagonal = find_diagonal(evaluator, set);
    if (diagonal) {
      *row = needed & diagonal_row(evaluator->lowering, diagonal, i, j0);
      return SPTX_CODE_OK;
    }
    return pair_by_pair(evaluator, set, i, j0, needed, row);
  default:
    return pair_by_pair(evaluator, set, i, j0, needed, row);
  }
}

/* Keys whose residues and digits fit; the clause has some. */
static uint64_t matching_residues(const sptx_clause *clause, int64_t i, int64_t j0, uint64_t row) {
  uint64_t kept = 0;
  for (uint64_t rest = row; rest; rest &= rest - 1) {
    int64_t j = j0 + __builtin_ctzll(rest), place = j % clause->key_run.every - clause->key_run.from;
    bool fits = place >= 0 && place < clause->key_run.count && (i - j - clause->phase) % clause->modulus == 0;
    for (int k = 0; k < clause->digit_count && fits; k++)
      fits = i / clause->digits[k].stride % clause->digits[k].size ==
             j / clause->digits[k].stride % clause->digits[k].size;
    if (fits)
      kept |= rest & -rest;
  }
  return kept;
}

/* What the clause without its literals leaves to query i. */
static uint64_t structure_row(const sptx_clause *clause, int64_t i, int64_t j0) {
  const sptx_run *run = &clause->query_run;
  int64_t from, to, place = (run->every == 1 ? 0 : i % run->every) - run->from;
  if (i < clause->query_from || i >= clause->query_to || place < 0 || place >= run->count)
    return 0;
  key_span(clause, i, i + 1, &from, &to);
  if (clause->same_block) {
    int64_t block = i / clause->same_block * clause->same_block;
    from = max64(from, block);
    to = min64(to, block + clause->same_block);
  }
  for (int k = 0; k < clause->block_count; k++) {
    int64_t size = clause->blocks[k].size, block = i / size;
    if (clause->blocks[k].to < SPTX_FAR)
      from = max64(from, size * (block - clause->blocks[k].to + 1));
    if (clause->blocks[k].from > -SPTX_FAR)
      to = min64(to, size * (block - clause->blocks[k].from + 1));
  }
  uint64_t row = bits_between(from - j0, to - j0);
  bool residues = clause->modulus > 1 || clause->digit_count || clause->key_run.count < clause->key_run.every;
  return residues ? matching_residues(clause, i, j0, row) : row;
}

/* Random and layout literals are the same for all queries of a block: this remembers the last row, and up to
 * which query it serves. */
typedef struct row_memory {
  int64_t until[SPTX_CLAUSE_LITERALS];
  uint64_t row[SPTX_CLAUSE_LITERALS];
} row_memory;

/* Queries of one block of a literal; 0: its rows have nothing in common. */
static int64_t block_size(const sptx_set *set) {
  return set->kind == SPTX_SET_RANDOM   ? set->as.random.block
         : set->kind == SPTX_SET_LAYOUT ? set->as.layout.block
                                        : 0;
}

/* Queries come in rising order. */
static enum sptx_code clause_row(const sptx_evaluator *evaluator, const sptx_clause *clause, int64_t i,
                                 int64_t j0, row_memory *memory, uint64_t *row) {
  *row = structure_row(clause, i, j0);
  for (int k = 0; k < clause->literal_count && *row; k++) {
    if (i >= memory->until[k]) {
      const sptx_set *set = clause->literals[k].set;
      int64_t block = block_size(set);
      SPTX_TRY(set_row(evaluator, set, i, j0, block ? ~(uint64_t)0 : *row, &memory->row[k]));
      memory->until[k] = block ? (i / block + 1) * block : i + 1;
    }
    *row &= clause->literals[k].negated ? ~memory->row[k] : memory->row[k];
  }
  return SPTX_CODE_OK;
}

/* Bit b of word a becomes bit a of word b, by halves (Knuth, The Art of Computer Programming 4A, 7.1.3). */
static void transpose(uint64_t *words) {
  uint64_t mask = 0x00000000ffffffffu;
  for (int half = 32; half; half >>= 1, mask ^= mask << half)
    for (int k = 0; k < 64; k = ((k | half) + 1) & ~half) {
      uint64_t swap = ((words[k] >> half) ^ words[k | half]) & mask;
      words[k] ^= swap << half;
      words[k | half] ^= swap;
    }
}

/* Most tiles of a list are, and need no transposition. */
static bool is_full(const uint64_t *words) {
  uint64_t all = ~(uint64_t)0;
  for (int k = 0; k < TILE; k++)
    all &= words[k];
  return all == ~(uint64_t)0;
}

enum sptx_code sptx_evaluator_tile(const sptx_evaluator *evaluator, int64_t first, int64_t last,
                                   int64_t key_first, uint64_t *mask) {
  memset(mask, 0, TILE * sizeof *mask);
  int64_t key_last = min64(key_first + TILE, evaluator->lowering->n);
  for (int c = 0; c < evaluator->clauses->count; c++) {
    const sptx_clause *clause = &evaluator->clauses->clauses[c];
    row_memory memory;
    int64_t from, to;
    key_span(clause, first, last, &from, &to);
    if (from >= min64(to, key_last) || to <= key_first)
      continue;
    for (int k = 0; k < SPTX_CLAUSE_LITERALS; k++)
      memory.until[k] = first;
    for (int64_t i = first; i < last; i++) {
      uint64_t row;
      SPTX_TRY(clause_row(evaluator, clause, i, key_first, &memory, &row));
      mask[i - first] |= row & bits_between(0, key_last - key_first);
    }
  }
  if (!is_full(mask))
    transpose(mask);
  return SPTX_CODE_OK;
}
