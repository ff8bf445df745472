/* One row for each primitive; above the table, each primitive's functions in the order of the row. */
#include "patterns/primitives.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static enum sptx_code out_of_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a set");
}

static int compare_integers(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static bool is_listed(const int64_t *list, int64_t count, int64_t value) {
  return count > 0 && bsearch(&value, list, (size_t)count, sizeof *list, compare_integers);
}

static void print_list(const int64_t *list, int64_t count, FILE *stream) {
  fputc('[', stream);
  for (int64_t k = 0; k < count; k++)
    fprintf(stream, "%s%" PRId64, k ? ", " : "", list[k]);
  fputc(']', stream);
}

static bool is_run(const int64_t *list, int64_t count) {
  return count > 0 && list[count - 1] - list[0] == count - 1;
}

static enum sptx_code refuse_long_list(const char *what, int64_t count, sptx_place place, sptx_error *error) {
  return sptx_fail_at(error, SPTX_CODE_PATTERN_LIMIT, place,
                      "%s would list %" PRId64 " numbers; at most %" PRId64
                      " are possible: write such a set with `where`",
                      what, count, SPTX_MAX_LISTED);
}

/* all */

static enum sptx_code all_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                   sptx_error *error) {
  (void)set, (void)n, (void)i, (void)j, (void)error;
  *contains = true;
  return SPTX_CODE_OK;
}

/* window */

static enum sptx_code window_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                     sptx_error *error) {
  (void)scope, (void)error;
  set->as.window.left = values[0].integer;
  set->as.window.right = values[1].present ? values[1].integer : 0;
  return SPTX_CODE_OK;
}

static enum sptx_code window_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                      sptx_error *error) {
  (void)n, (void)error;
  *contains = -set->as.window.right <= i - j && i - j < set->as.window.left;
  return SPTX_CODE_OK;
}

static bool window_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.window.left == b->as.window.left && a->as.window.right == b->as.window.right;
}

static void window_print(const sptx_set *set, FILE *stream) {
  fprintf(stream, "{left: %" PRId64 ", right: %" PRId64 "}", set->as.window.left, set->as.window.right);
}

/* stride */

static enum sptx_code stride_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                     sptx_error *error) {
  (void)scope, (void)error;
  set->as.stride.every = values[0].integer;
  set->as.stride.phase = values[1].present ? sptx_floor_mod(values[1].integer, values[0].integer) : 0;
  return SPTX_CODE_OK;
}

static enum sptx_code stride_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                      sptx_error *error) {
  (void)n, (void)error;
  *contains = (i - j - set->as.stride.phase) % set->as.stride.every == 0;
  return SPTX_CODE_OK;
}

static bool stride_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.stride.every == b->as.stride.every && a->as.stride.phase == b->as.stride.phase;
}

static void stride_print(const sptx_set *set, FILE *stream) {
  fprintf(stream, "{every: %" PRId64 ", phase: %" PRId64 "}", set->as.stride.every, set->as.stride.phase);
}

/* block */

static enum sptx_code block_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                    sptx_error *error) {
  (void)scope, (void)error;
  set->as.block.size = values[0].integer;
  return SPTX_CODE_OK;
}

static enum sptx_code block_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                     sptx_error *error) {
  (void)n, (void)error;
  *contains = i / set->as.block.size == j / set->as.block.size;
  return SPTX_CODE_OK;
}

static bool block_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.block.size == b->as.block.size;
}

static void block_print(const sptx_set *set, FILE *stream) {
  fprintf(stream, "{size: %" PRId64 "}", set->as.block.size);
}

/* columns */

enum { COLUMNS_EVERY, COLUMNS_LAST, COLUMNS_FROM, COLUMNS_COUNT, COLUMNS_AT };

static enum sptx_code columns_check(const bool *present, sptx_place place, sptx_error *error) {
  bool run = present[COLUMNS_FROM] && present[COLUMNS_COUNT];
  bool half_run = present[COLUMNS_FROM] != present[COLUMNS_COUNT];
  if (!half_run && present[COLUMNS_LAST] + run + present[COLUMNS_AT] == 1)
    return SPTX_CODE_OK;
  return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, place,
                      "`columns` expects `every` and one of: `last`; `from` and `count`; `at`");
}

static enum sptx_code columns_list(const sptx_value *at, int64_t every, int64_t *residues,
                                   sptx_error *error) {
  for (int k = 0; k < at->count; k++) {
    if (at->integers[k] < 0 || at->integers[k] >= every)
      return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, at->place,
                          "`at` expects residues from 0 to every - 1 = %" PRId64 ", found %" PRId64,
                          every - 1, at->integers[k]);
    residues[k] = at->integers[k];
  }
  qsort(residues, (size_t)at->count, sizeof *residues, compare_integers);
  for (int k = 1; k < at->count; k++)
    if (residues[k] == residues[k - 1])
      return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, at->place, "`at` lists %" PRId64 " twice",
                          residues[k]);
  return SPTX_CODE_OK;
}

static enum sptx_code columns_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                      sptx_error *error) {
  (void)scope;
  int64_t every = values[COLUMNS_EVERY].integer;
  const sptx_value *at = &values[COLUMNS_AT];
  const sptx_value *length = &values[values[COLUMNS_LAST].present ? COLUMNS_LAST : COLUMNS_COUNT];
  int64_t count = at->present ? at->count : length->integer;
  int64_t from = values[COLUMNS_LAST].present ? every - count : values[COLUMNS_FROM].integer;
  if (!at->present && (from < 0 || from + count > every))
    return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, length->place,
                        "the %" PRId64 " columns from %" PRId64 " do not fit into every = %" PRId64, count,
                        from, every);
  if (count > SPTX_MAX_LISTED)
    return refuse_long_list("`columns`", count, length->place, error);
  int64_t *residues = malloc((size_t)count * sizeof *residues);
  if (!residues)
    return out_of_memory(error);
  set->as.columns.every = every;
  set->as.columns.residues = residues;
  set->as.columns.residue_count = count;
  if (at->present)
    return columns_list(at, every, residues, error);
  for (int64_t k = 0; k < count; k++)
    residues[k] = from + k;
  return SPTX_CODE_OK;
}

static enum sptx_code columns_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                       sptx_error *error) {
  (void)n, (void)i, (void)error;
  *contains = is_listed(set->as.columns.residues, set->as.columns.residue_count, j % set->as.columns.every);
  return SPTX_CODE_OK;
}

static bool columns_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.columns.every == b->as.columns.every;
}

static void **columns_buffer(sptx_set *set, size_t *bytes) {
  *bytes = (size_t)set->as.columns.residue_count * sizeof(int64_t);
  return (void **)&set->as.columns.residues;
}

static void columns_print(const sptx_set *set, FILE *stream) {
  const int64_t *residues = set->as.columns.residues;
  int64_t count = set->as.columns.residue_count;
  fprintf(stream, "{every: %" PRId64 ", ", set->as.columns.every);
  if (is_run(residues, count)) {
    fprintf(stream, "from: %" PRId64 ", count: %" PRId64 "}", residues[0], count);
    return;
  }
  fputs("at: ", stream);
  print_list(residues, count, stream);
  fputc('}', stream);
}

/* dilated */

static enum sptx_code dilated_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                      sptx_error *error) {
  (void)scope;
  set->as.dilated.window = values[0].integer;
  set->as.dilated.dilation = values[1].integer;
  int64_t reach;
  if (__builtin_mul_overflow(values[0].integer, values[1].integer, &reach))
    return sptx_fail_at(error, SPTX_CODE_OVERFLOW, values[0].place,
                        "window * dilation overflows 64 bits with %" PRId64 " and %" PRId64,
                        values[0].integer, values[1].integer);
  return SPTX_CODE_OK;
}

static enum sptx_code dilated_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                       sptx_error *error) {
  (void)n, (void)error;
  int64_t distance = i > j ? i - j : j - i;
  *contains = distance % set->as.dilated.dilation == 0 &&
              distance < set->as.dilated.window * set->as.dilated.dilation;
  return SPTX_CODE_OK;
}

static bool dilated_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.dilated.window == b->as.dilated.window && a->as.dilated.dilation == b->as.dilated.dilation;
}

static void dilated_print(const sptx_set *set, FILE *stream) {
  fprintf(stream, "{window: %" PRId64 ", dilation: %" PRId64 "}", set->as.dilated.window,
          set->as.dilated.dilation);
}

/* grid */

static enum sptx_code grid_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                   sptx_error *error) {
  const sptx_value *shape = &values[0], *along = &values[1];
  if (shape->count < 1 || shape->count > SPTX_GRID_MAX_AXES)
    return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, shape->place,
                        "`shape` expects 1 to %d axes, found %d", SPTX_GRID_MAX_AXES, shape->count);
  int64_t points = 1;
  set->as.grid.axes = shape->count;
  for (int axis = 0; axis < shape->count; axis++) {
    set->as.grid.shape[axis] = shape->integers[axis];
    if (__builtin_mul_overflow(points, shape->integers[axis], &points) || points > SPTX_MAX_POSITIONS)
      return sptx_fail_at(error, SPTX_CODE_OVERFLOW, shape->place,
                          "the grid has more than %" PRId64 " points", SPTX_MAX_POSITIONS);
  }
  if (scope->n > points)
    return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, shape->place,
                        "the grid has %" PRId64 " points, too few for n = %" PRId64
                        "; no axis is extended: make `shape` larger",
                        points, scope->n);
  for (int k = 0; k < along->count; k++) {
    int64_t axis = along->integers[k];
    if (axis >= shape->count)
      return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, along->place,
                          "`along` expects axes from 0 to %d, found %" PRId64, shape->count - 1, axis);
    if (set->as.grid.along[axis])
      return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, along->place,
                          "`along` lists axis %" PRId64 " twice", axis);
    set->as.grid.along[axis] = true;
  }
  return SPTX_CODE_OK;
}

static enum sptx_code grid_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                    sptx_error *error) {
  (void)n, (void)error;
  *contains = true;
  for (int axis = set->as.grid.axes - 1; axis >= 0; axis--) {
    int64_t size = set->as.grid.shape[axis];
    if (!set->as.grid.along[axis] && i % size != j % size)
      *contains = false;
    i /= size;
    j /= size;
  }
  return SPTX_CODE_OK;
}

static bool grid_equal(const sptx_set *a, const sptx_set *b) {
  if (a->as.grid.axes != b->as.grid.axes)
    return false;
  for (int axis = 0; axis < a->as.grid.axes; axis++)
    if (a->as.grid.shape[axis] != b->as.grid.shape[axis] || a->as.grid.along[axis] != b->as.grid.along[axis])
      return false;
  return true;
}

static void grid_print(const sptx_set *set, FILE *stream) {
  int64_t along[SPTX_GRID_MAX_AXES];
  int count = 0;
  for (int axis = 0; axis < set->as.grid.axes; axis++)
    if (set->as.grid.along[axis])
      along[count++] = axis;
  fputs("{shape: ", stream);
  print_list(set->as.grid.shape, set->as.grid.axes, stream);
  fputs(", along: ", stream);
  print_list(along, count, stream);
  fputc('}', stream);
}

/* global */

enum { GLOBAL_FIRST, GLOBAL_AT, GLOBAL_AS };
enum { AS_QUERY, AS_KEY, AS_BOTH };
static const char *const global_words[] = {[AS_QUERY] = "query", [AS_KEY] = "key", [AS_BOTH] = "both", NULL};

static enum sptx_code global_check(const bool *present, sptx_place place, sptx_error *error) {
  if (present[GLOBAL_FIRST] || present[GLOBAL_AT])
    return SPTX_CODE_OK;
  return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, place, "`global` expects `first`, `at` or both");
}

/* Positions that this n does not have are left out: the set is the same on those that exist. */
static enum sptx_code global_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                     sptx_error *error) {
  const sptx_value *first = &values[GLOBAL_FIRST], *at = &values[GLOBAL_AT];
  int64_t run = first->present ? first->integer : 0;
  int64_t as = values[GLOBAL_AS].present ? values[GLOBAL_AS].integer : AS_BOTH;
  if (run > scope->n)
    run = scope->n;
  int64_t listed = at->present ? at->count : 0;
  if (run + listed > SPTX_MAX_LISTED)
    return refuse_long_list("`global`", run + listed, first->place, error);
  int64_t *positions = malloc((size_t)(run + listed + 1) * sizeof *positions);
  if (!positions)
    return out_of_memory(error);
  set->as.global.at = positions;
  set->as.global.as_query = as != AS_KEY;
  set->as.global.as_key = as != AS_QUERY;
  int64_t count = 0;
  for (; count < run; count++)
    positions[count] = count;
  for (int64_t k = 0; k < listed; k++)
    if (at->integers[k] >= run && at->integers[k] < scope->n)
      positions[count++] = at->integers[k];
  qsort(positions + run, (size_t)(count - run), sizeof *positions, compare_integers);
  set->as.global.at_count = count;
  for (int64_t k = run + 1; k < count; k++)
    if (positions[k] == positions[k - 1])
      return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, at->place, "`at` lists %" PRId64 " twice",
                          positions[k]);
  return SPTX_CODE_OK;
}

static enum sptx_code global_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                      sptx_error *error) {
  (void)n, (void)error;
  *contains = (set->as.global.as_query && is_listed(set->as.global.at, set->as.global.at_count, i)) ||
              (set->as.global.as_key && is_listed(set->as.global.at, set->as.global.at_count, j));
  return SPTX_CODE_OK;
}

static bool global_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.global.as_query == b->as.global.as_query && a->as.global.as_key == b->as.global.as_key;
}

static void **global_buffer(sptx_set *set, size_t *bytes) {
  *bytes = (size_t)set->as.global.at_count * sizeof(int64_t);
  return (void **)&set->as.global.at;
}

static void global_print(const sptx_set *set, FILE *stream) {
  const int64_t *at = set->as.global.at;
  int64_t count = set->as.global.at_count;
  if (count == 0 || (is_run(at, count) && at[0] == 0))
    fprintf(stream, "{first: %" PRId64, count);
  else {
    fputs("{at: ", stream);
    print_list(at, count, stream);
  }
  int as = !set->as.global.as_key ? AS_QUERY : !set->as.global.as_query ? AS_KEY : AS_BOTH;
  fprintf(stream, ", as: %s}", global_words[as]);
}

/* random */

static enum sptx_code random_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                     sptx_error *error) {
  (void)error;
  set->as.random.block = values[0].integer;
  set->as.random.per_row = values[1].integer;
  set->as.random.seed = (uint64_t)values[2].integer;
  set->as.random.causal = scope->causal;
  return SPTX_CODE_OK;
}

static enum sptx_code random_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                      sptx_error *error) {
  (void)error;
  int64_t block = set->as.random.block, query_block = i / block;
  int64_t block_count = set->as.random.causal ? query_block + 1 : (n - 1) / block + 1;
  *contains =
      sptx_random_has_block(set->as.random.seed, set->as.random.per_row, block_count, query_block, j / block);
  return SPTX_CODE_OK;
}

static bool random_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.random.block == b->as.random.block && a->as.random.per_row == b->as.random.per_row &&
         a->as.random.seed == b->as.random.seed && a->as.random.causal == b->as.random.causal;
}

static void random_print(const sptx_set *set, FILE *stream) {
  fprintf(stream, "{block: %" PRId64 ", per_row: %" PRId64 ", seed: %" PRId64 "}", set->as.random.block,
          set->as.random.per_row, (int64_t)set->as.random.seed);
}

/* layout */

enum { LAYOUT_BLOCK, LAYOUT_ROWS, LAYOUT_FILE };

static enum sptx_code layout_check(const bool *present, sptx_place place, sptx_error *error) {
  if (present[LAYOUT_ROWS] != present[LAYOUT_FILE])
    return SPTX_CODE_OK;
  return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, place,
                      "`layout` expects `block` and either `rows` or `file`");
}

static enum sptx_code layout_resolve(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                                     sptx_error *error) {
  const sptx_value *matrix = &values[values[LAYOUT_ROWS].present ? LAYOUT_ROWS : LAYOUT_FILE];
  const sptx_cells *cells = matrix->cells;
  int64_t block = values[LAYOUT_BLOCK].integer;
  int64_t smaller = cells->rows < cells->columns ? cells->rows : cells->columns;
  if ((scope->n - 1) / block >= smaller)
    return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, matrix->place,
                        "the layout has %" PRId64 " by %" PRId64 " blocks of %" PRId64
                        ", too few for n = %" PRId64,
                        cells->rows, cells->columns, block, scope->n);
  size_t bytes = (size_t)cells->rows * (size_t)cells->columns;
  set->as.layout.cells = malloc(bytes);
  if (!set->as.layout.cells)
    return out_of_memory(error);
  memcpy(set->as.layout.cells, cells->cells, bytes);
  set->as.layout.block = block;
  set->as.layout.rows = cells->rows;
  set->as.layout.columns = cells->columns;
  return SPTX_CODE_OK;
}

static enum sptx_code layout_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                      sptx_error *error) {
  (void)n, (void)error;
  int64_t row = i / set->as.layout.block, column = j / set->as.layout.block;
  *contains = row < set->as.layout.rows && column < set->as.layout.columns &&
              set->as.layout.cells[row * set->as.layout.columns + column];
  return SPTX_CODE_OK;
}

static bool layout_equal(const sptx_set *a, const sptx_set *b) {
  return a->as.layout.block == b->as.layout.block && a->as.layout.rows == b->as.layout.rows &&
         a->as.layout.columns == b->as.layout.columns;
}

static void **layout_buffer(sptx_set *set, size_t *bytes) {
  *bytes = (size_t)set->as.layout.rows * (size_t)set->as.layout.columns;
  return (void **)&set->as.layout.cells;
}

static void layout_print(const sptx_set *set, FILE *stream) {
  fprintf(stream, "{block: %" PRId64 ", rows: [", set->as.layout.block);
  for (int64_t row = 0; row < set->as.layout.rows; row++) {
    fputs(row ? ", \"" : "\"", stream);
    for (int64_t column = 0; column < set->as.layout.columns; column++)
      fputc(set->as.layout.cells[row * set->as.layout.columns + column] ? '1' : '0', stream);
    fputc('"', stream);
  }
  fputs("]}", stream);
}

/* where: its expression, already over i and j alone, is put in place by patterns/resolve.c */

static enum sptx_code where_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                     sptx_error *error) {
  (void)n;
  int64_t values[] = {[SPTX_VARIABLE_QUERY] = i, [SPTX_VARIABLE_KEY] = j};
  int64_t result;
  SPTX_TRY(sptx_expr_eval(set->as.where.expr, values, &result, error));
  *contains = result != 0;
  return SPTX_CODE_OK;
}

static bool where_equal(const sptx_set *a, const sptx_set *b) {
  return sptx_expr_equal(a->as.where.expr, b->as.where.expr);
}

static void where_print(const sptx_set *set, FILE *stream) {
  static const char *const names[] = {[SPTX_VARIABLE_QUERY] = "i", [SPTX_VARIABLE_KEY] = "j"};
  fputc('"', stream);
  sptx_expr_print(set->as.where.expr, names, stream);
  fputc('"', stream);
}

#define MOST SPTX_MAX_POSITIONS
#define INTEGER(text, must, from, to)                                                                        \
  .name = text, .type = SPTX_KEY_INTEGER, .required = must, .low = from, .high = to
#define INTEGERS(text, must, from, to)                                                                       \
  .name = text, .type = SPTX_KEY_INTEGERS, .required = must, .low = from, .high = to

static const sptx_primitive primitives[SPTX_PRIMITIVE_COUNT] = {
    [SPTX_SET_ALL] = {.name = "all", .syntax = SPTX_SYNTAX_BARE, .contains = all_contains},
    [SPTX_SET_WINDOW] = {"window",
                         SPTX_SYNTAX_KEYS,
                         {{INTEGER("left", true, 0, MOST)}, {INTEGER("right", false, 0, MOST)}},
                         NULL,
                         window_resolve,
                         window_contains,
                         window_equal,
                         NULL,
                         window_print},
    [SPTX_SET_STRIDE] = {"stride",
                         SPTX_SYNTAX_KEYS,
                         {{INTEGER("every", true, 1, MOST)}, {INTEGER("phase", false, -MOST, MOST)}},
                         NULL,
                         stride_resolve,
                         stride_contains,
                         stride_equal,
                         NULL,
                         stride_print},
    [SPTX_SET_BLOCK] = {"block",
                        SPTX_SYNTAX_KEYS,
                        {{INTEGER("size", true, 1, MOST)}},
                        NULL,
                        block_resolve,
                        block_contains,
                        block_equal,
                        NULL,
                        block_print},
    [SPTX_SET_COLUMNS] = {"columns",
                          SPTX_SYNTAX_KEYS,
                          {[COLUMNS_EVERY] = {INTEGER("every", true, 1, MOST)},
                           [COLUMNS_LAST] = {INTEGER("last", false, 1, MOST)},
                           [COLUMNS_FROM] = {INTEGER("from", false, 0, MOST)},
                           [COLUMNS_COUNT] = {INTEGER("count", false, 1, MOST)},
                           [COLUMNS_AT] = {INTEGERS("at", false, 0, MOST)}},
                          columns_check,
                          columns_resolve,
                          columns_contains,
                          columns_equal,
                          columns_buffer,
                          columns_print},
    [SPTX_SET_DILATED] = {"dilated",
                          SPTX_SYNTAX_KEYS,
                          {{INTEGER("window", true, 1, MOST)}, {INTEGER("dilation", true, 1, MOST)}},
                          NULL,
                          dilated_resolve,
                          dilated_contains,
                          dilated_equal,
                          NULL,
                          dilated_print},
    [SPTX_SET_GRID] = {"grid",
                       SPTX_SYNTAX_KEYS,
                       {{INTEGERS("shape", true, 1, MOST)},
                        {INTEGERS("along", true, 0, SPTX_GRID_MAX_AXES - 1)}},
                       NULL,
                       grid_resolve,
                       grid_contains,
                       grid_equal,
                       NULL,
                       grid_print},
    [SPTX_SET_GLOBAL] = {"global",
                         SPTX_SYNTAX_KEYS,
                         {[GLOBAL_FIRST] = {INTEGER("first", false, 0, MOST)},
                          [GLOBAL_AT] = {INTEGERS("at", false, 0, MOST)},
                          [GLOBAL_AS] = {.name = "as", .type = SPTX_KEY_WORD, .words = global_words}},
                         global_check,
                         global_resolve,
                         global_contains,
                         global_equal,
                         global_buffer,
                         global_print},
    [SPTX_SET_RANDOM] = {"random",
                         SPTX_SYNTAX_KEYS,
                         {{INTEGER("block", true, 1, MOST)},
                          {INTEGER("per_row", true, 0, MOST)},
                          {INTEGER("seed", true, INT64_MIN, INT64_MAX)}},
                         NULL,
                         random_resolve,
                         random_contains,
                         random_equal,
                         NULL,
                         random_print},
    [SPTX_SET_LAYOUT] = {"layout",
                         SPTX_SYNTAX_KEYS,
                         {[LAYOUT_BLOCK] = {INTEGER("block", true, 1, MOST)},
                          [LAYOUT_ROWS] = {.name = "rows", .type = SPTX_KEY_ROWS},
                          [LAYOUT_FILE] = {.name = "file", .type = SPTX_KEY_FILE}},
                         layout_check,
                         layout_resolve,
                         layout_contains,
                         layout_equal,
                         layout_buffer,
                         layout_print},
    [SPTX_SET_WHERE] = {.name = "where",
                        .syntax = SPTX_SYNTAX_EXPRESSION,
                        .contains = where_contains,
                        .equal = where_equal,
                        .print = where_print},
};

const sptx_primitive *sptx_primitive_of(enum sptx_set_kind kind) {
  return &primitives[kind];
}
