/* Patterns for tests, and pieces against the oracle. */
#include "tests/patterns/problem.h"
#include "patterns/integer.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *const problem_library_names[] = {"axial-2d",    "axial-3d",       "bigbird", "block-layout",
                                             "block-local", "dense",          "dilated", "fixed",
                                             "fixed-heads", "fixed-merged",   "local",   "logsparse",
                                             "longformer",  "strided-merged", "strided", NULL};

const char *problem_path(const char *relative) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/%s", SPTX_TEST_ROOT, relative);
  return path;
}

sptx_pattern *problem_parse(const char *body) {
  size_t size = strlen(body) + 16;
  char *text = malloc(size);
  snprintf(text, size, "sptx: 1\n%s", body);
  sptx_pattern *pattern = NULL;
  sptx_error error = {0};
  enum sptx_code code = sptx_pattern_parse(text, strlen(text), "test.yaml", NULL, 0, &pattern, &error);
  free(text);
  cr_assert_eq(code, SPTX_CODE_OK, "%s\n%s", error.message, body);
  return pattern;
}

sptx_pattern *problem_library(const char *name, const sptx_override *overrides, size_t count) {
  char relative[128];
  snprintf(relative, sizeof relative, "patterns/library/%s.yaml", name);
  sptx_pattern *pattern = NULL;
  sptx_error error = {0};
  cr_assert_eq(sptx_pattern_read(problem_path(relative), overrides, count, &pattern, &error), SPTX_CODE_OK,
               "%s", error.message);
  return pattern;
}

problem_random problem_random_make(const char *test) {
  const char *given = getenv("SPTX_TEST_SEED");
  uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
  fprintf(stderr, "%s: SPTX_TEST_SEED=%" PRIu64 "\n", test, seed);
  return (problem_random){seed, seed};
}

static uint64_t next(problem_random *random) {
  uint64_t value = random->state += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

int64_t problem_random_below(problem_random *random, int64_t bound) {
  return (int64_t)(next(random) % (uint64_t)bound);
}

/* 1 .. most, small numbers more often. */
static int64_t size_below(problem_random *random, int64_t most) {
  int64_t bound = 1 + problem_random_below(random, most);
  return 1 + problem_random_below(random, bound);
}

static void write_where(problem_random *random, int64_t n, FILE *out) {
  int64_t a = size_below(random, n), b = size_below(random, n), c = 1 + problem_random_below(random, a);
  switch (problem_random_below(random, 14)) {
  case 0:
    fprintf(out, "(i - j) %% %" PRId64 " == %" PRId64, a, c - 1);
    break;
  case 1:
    fprintf(out, "i - j < %" PRId64 " && j - i <= %" PRId64, a, b);
    break;
  case 2:
    fprintf(out, "i / %" PRId64 " - j / %" PRId64 " >= %" PRId64, a, a, b % 3 - 1);
    break;
  case 3:
    fprintf(out, "j %% %" PRId64 " < %" PRId64 " || i == j", a, c);
    break;
  case 4:
    fprintf(out, "i %% %" PRId64 " == j %% %" PRId64, a, a);
    break;
  case 5:
    fprintf(out, "(i * %" PRId64 " + j) %% 7 == %" PRId64, b, c % 7);
    break;
  case 6:
    fprintf(out, "((i ^ j) & %" PRId64 ") == 0", a);
    break;
  case 7:
    fprintf(out, "abs(i - j) < %" PRId64 " ? i %% 2 == 0 : j < %" PRId64, a, c);
    break;
  case 8:
    fprintf(out, "!(i / %" PRId64 " == j / %" PRId64 ") && j >= %" PRId64, a, a, b / 2);
    break;
  case 9:
    fprintf(out, "i - j == %" PRId64 " || i - j == %" PRId64, b, c);
    break;
  case 10:
    fprintf(out, "(i / %" PRId64 ") %% %" PRId64 " == (j / %" PRId64 ") %% %" PRId64, a, b, a, b);
    break;
  case 11:
    fprintf(out, "i %% %" PRId64 " >= %" PRId64 " && i >= j", a, c - 1);
    break;
  case 12:
    fprintf(out, "2 * i - 3 * j > %" PRId64 " && 3 * j <= %" PRId64, a, 2 * b);
    break;
  default:
    fprintf(out, "j <= max(i - %" PRId64 ", isqrt(i * %" PRId64 "))", a, b);
  }
}

static void write_list(problem_random *random, int64_t bound, FILE *out) {
  int64_t at = 0;
  const char *comma = "[";
  for (int64_t count = 1 + problem_random_below(random, 4); count && at < bound; count--) {
    at += problem_random_below(random, max64(1, bound - at));
    fprintf(out, "%s%" PRId64, comma, at++);
    comma = ", ";
  }
  fputc(']', out);
}

static void write_primitive(problem_random *random, int64_t n, FILE *out) {
  int64_t a = size_below(random, n), b = size_below(random, n), c = 1 + problem_random_below(random, a);
  switch (problem_random_below(random, 14)) {
  case 0:
    fputs("all", out);
    break;
  case 1:
    fprintf(out, "{window: {left: %" PRId64 ", right: %" PRId64 "}}", a - 1, b - 1);
    break;
  case 2:
    fprintf(out, "{stride: {every: %" PRId64 ", phase: %" PRId64 "}}", a,
            problem_random_below(random, 3) ? 0 : b - n / 2);
    break;
  case 3:
    fprintf(out, "{block: {size: %" PRId64 "}}", a);
    break;
  case 4:
    fprintf(out, "{columns: {every: %" PRId64 ", last: %" PRId64 "}}", a, c);
    break;
  case 5:
    fprintf(out, "{columns: {every: %" PRId64 ", from: %" PRId64 ", count: %" PRId64 "}}", a, a - c,
            1 + problem_random_below(random, c));
    break;
  case 6:
    fprintf(out, "{columns: {every: %" PRId64 ", at: ", a);
    write_list(random, a, out);
    fputs("}}", out);
    break;
  case 7:
    fprintf(out, "{dilated: {window: %" PRId64 ", dilation: %" PRId64 "}}", a, b);
    break;
  case 8: {
    int64_t inner = size_below(random, 12), middle = size_below(random, 12);
    static const char *const along[] = {"[0]", "[1]", "[2]", "[0, 1]", "[1, 2]", "[2, 0]", "[0, 1, 2]"};
    fprintf(out, "{grid: {shape: [%" PRId64 ", %" PRId64 ", %" PRId64 "], along: %s}}",
            ceil_div(n, inner * middle), middle, inner, along[problem_random_below(random, 7)]);
    break;
  }
  case 9: {
    static const char *const as[] = {"query", "key", "both"};
    fprintf(out, "{global: {first: %" PRId64 ", as: %s}}", a - 1, as[problem_random_below(random, 3)]);
    break;
  }
  case 10:
    fputs("{global: {at: ", out);
    write_list(random, n, out);
    fputs("}}", out);
    break;
  case 11:
    fprintf(out, "{random: {block: %" PRId64 ", per_row: %" PRId64 ", seed: %" PRId64 "}}", a,
            problem_random_below(random, 5), b);
    break;
  case 12:
    fprintf(out, "{layout: {block: %" PRId64 ", rows: [\"101\", \"110\", \"0%d1\"]}}", ceil_div(n, 3),
            (int)problem_random_below(random, 2));
    break;
  default:
    fputs("{where: \"", out);
    write_where(random, n, out);
    fputs("\"}", out);
  }
}

static void write_set(problem_random *random, int64_t n, int depth, FILE *out) {
  int64_t form = depth > 0 ? problem_random_below(random, 6) : 0;
  if (form <= 2) {
    write_primitive(random, n, out);
    return;
  }
  if (form == 5) {
    fputs("{not: ", out);
    write_set(random, n, depth - 1, out);
    fputc('}', out);
    return;
  }
  fputs(form == 3 ? "{any: [" : "{all_of: [", out);
  for (int64_t count = 1 + problem_random_below(random, 3), k = 0; k < count; k++) {
    fputs(k ? ", " : "", out);
    write_set(random, n, depth - 1, out);
  }
  fputs("]}", out);
}

char *problem_random_pattern(problem_random *random, int64_t n) {
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  fprintf(out, "sptx: 1\ncausal: %s\nattend: ", problem_random_below(random, 3) ? "true" : "false");
  write_set(random, n, 3, out);
  fputc('\n', out);
  fclose(out);
  return text;
}

/* A row of the problem's matrix: how often pieces hold the pair. */
typedef struct matrix {
  int64_t n_q, n_k;
  unsigned char *walked;
} matrix;

static void walk_band(const sptx_piece *piece, matrix *m, const char *where) {
  int64_t first = m->n_k - m->n_q, total = sptx_view_shared_total(&piece->query);
  cr_assert_eq(total, sptx_view_shared_total(&piece->key), "%s", where);
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, key_begin, key_end, last_lo = INT64_MIN, last_hi = INT64_MIN;
    sptx_view_inner_range(&piece->query, shared, first, m->n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, m->n_k, &key_begin, &key_end);
    cr_assert_eq(key_begin, 0, "%s: keys of a view begin at %" PRId64, where, key_begin);
    for (int64_t x = begin; x < end; x++) {
      int64_t lo = sptx_bound_at(&piece->lo, x), hi = sptx_bound_at(&piece->hi, x);
      cr_assert(lo >= last_lo && hi >= last_hi, "%s: a bound falls", where);
      last_lo = lo, last_hi = hi;
      int64_t position = sptx_view_position(&piece->query, shared, x), back_shared, back;
      cr_assert(position >= first && position < m->n_k, "%s: query position %" PRId64, where, position);
      cr_assert(sptx_view_locate(&piece->query, position, &back_shared, &back) && back_shared == shared &&
                    back == x,
                "%s: view is not one to one", where);
      for (int64_t y = max64(lo, 0); y < min64(hi, key_end); y++) {
        int64_t j = sptx_view_position(&piece->key, shared, y);
        cr_assert(j >= 0 && j < m->n_k, "%s: key position %" PRId64, where, j);
        bool contains = true;
        if (piece->predicate)
          cr_assert_eq(sptx_set_contains(piece->predicate, m->n_k, position, j, &contains, NULL),
                       SPTX_CODE_OK);
        m->walked[(position - first) * m->n_k + j] += contains;
      }
    }
  }
}

static void walk_tiles(const sptx_piece *piece, matrix *m, const char *where) {
  const sptx_tile_list *tiles = &piece->tiles;
  for (int64_t row = 0; row < tiles->query_tiles; row++)
    for (int64_t t = tiles->row_start[row]; t < tiles->row_start[row + 1]; t++) {
      cr_assert(t == tiles->row_start[row] || tiles->key_tile[t] > tiles->key_tile[t - 1],
                "%s: order of tiles", where);
      cr_assert(tiles->mask[t] < tiles->mask_count, "%s", where);
      for (int64_t key = 0; key < SPTX_GENERIC_TILE; key++) {
        uint64_t bits = tiles->mask[t] < 0 ? ~(uint64_t)0
                                           : tiles->masks[(int64_t)tiles->mask[t] * SPTX_GENERIC_TILE + key];
        for (int64_t q = 0; q < SPTX_GENERIC_TILE; q++) {
          int64_t i = row * SPTX_GENERIC_TILE + q, j = (int64_t)tiles->key_tile[t] * SPTX_GENERIC_TILE + key;
          if (!(bits >> q & 1))
            continue;
          cr_assert(i < m->n_q && j < m->n_k, "%s: a tile reaches outside", where);
          m->walked[i * m->n_k + j]++;
        }
      }
    }
}

/* Tiles of a band as kernels cut them: rows of tiles over the queries of each shared value. */
static sptx_tile_counts brute_tiles(const sptx_piece *piece, const matrix *m, int64_t query_tile,
                                    int64_t key_tile) {
  sptx_tile_counts counts = {0};
  int64_t total = sptx_view_shared_total(&piece->query);
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, none, keys;
    sptx_view_inner_range(&piece->query, shared, m->n_k - m->n_q, m->n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, m->n_k, &none, &keys);
    for (int64_t x0 = begin; x0 < end; x0 += query_tile)
      for (int64_t y0 = 0; y0 < keys; y0 += key_tile) {
        int64_t x1 = min64(x0 + query_tile, end), y1 = min64(y0 + key_tile, keys), pairs = 0;
        int64_t least = INT64_MAX, most = INT64_MIN;
        for (int64_t x = x0; x < x1; x++) {
          int64_t lo = sptx_bound_at(&piece->lo, x), hi = sptx_bound_at(&piece->hi, x);
          least = min64(least, lo), most = max64(most, hi);
          pairs += max64(0, min64(hi, y1) - max64(lo, y0));
        }
        if (max64(least, 0) >= min64(most, keys) || max64(least, y0) >= min64(most, y1))
          continue; /* not within the row's span */
        bool full = pairs == (x1 - x0) * (y1 - y0) && !piece->predicate;
        counts.full += full;
        counts.partial += !full;
        counts.computed_pairs += (x1 - x0) * (y1 - y0);
      }
  }
  return counts;
}

static void check_tiles(const sptx_piece *piece, const matrix *m, const char *where) {
  static const int64_t sizes[][2] = {{64, 64}, {1, 1}, {16, 32}, {7, 5}};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    sptx_tile_counts counts, expected;
    cr_assert_eq(sptx_piece_count_tiles(piece, m->n_q, m->n_k, sizes[k][0], sizes[k][1], &counts, NULL),
                 SPTX_CODE_OK);
    if (piece->kind == SPTX_PIECE_TILES)
      break;
    expected = brute_tiles(piece, m, sizes[k][0], sizes[k][1]);
    cr_assert(counts.full == expected.full && counts.partial == expected.partial &&
                  counts.computed_pairs == expected.computed_pairs,
              "%s: tiles of %" PRId64 " x %" PRId64 " of %s: %" PRId64 " full, %" PRId64 " partial, %" PRId64
              " computed; expected %" PRId64 ", %" PRId64 ", %" PRId64,
              where, sizes[k][0], sizes[k][1], piece->name, counts.full, counts.partial,
              counts.computed_pairs, expected.full, expected.partial, expected.computed_pairs);
  }
}

static int64_t sum(const matrix *m) {
  int64_t total = 0;
  for (int64_t k = 0; k < m->n_q * m->n_k; k++)
    total += m->walked[k];
  return total;
}

static void check_pair(const sptx_instance *instance, int64_t head, const sptx_piece_list *list,
                       const matrix *m, int64_t i, int64_t j, const char *where) {
  bool expected = false;
  sptx_error error = {0};
  cr_assert_eq(sptx_instance_contains(instance, head, i, j, &expected, &error), SPTX_CODE_OK, "%s: %s", where,
               error.message);
  int held = 0;
  for (int p = 0; p < list->count; p++)
    held += sptx_piece_contains(&list->pieces[p], m->n_q, m->n_k, i, j);
  cr_assert_eq(held, expected, "%s: (%" PRId64 ", %" PRId64 ") is in %d pieces, expected %d", where, i, j,
               held, expected);
  cr_assert_eq(m->walked[i * m->n_k + j], expected,
               "%s: (%" PRId64 ", %" PRId64 ") is walked %d times, expected %d", where, i, j,
               m->walked[i * m->n_k + j], expected);
}

static void check_class(const sptx_instance *instance, int64_t head, const char *where) {
  matrix m = {instance->n_q, instance->n_k, calloc((size_t)(instance->n_q * instance->n_k), 1)};
  sptx_piece_list list;
  sptx_error error = {0};
  cr_assert_eq(sptx_lower(instance, instance->class_of_head[head], &list, &error), SPTX_CODE_OK, "%s: %s",
               where, error.message);
  int64_t before = 0, empty = 0, counted = -1;
  bool covered = true;
  for (int p = 0; p < list.count; p++) {
    const sptx_piece *piece = &list.pieces[p];
    if (piece->kind == SPTX_PIECE_BAND)
      walk_band(piece, &m, where);
    else
      walk_tiles(piece, &m, where);
    int64_t total = sum(&m);
    cr_assert_eq(piece->pairs, total - before, "%s: piece %d (%s) says %" PRId64 " pairs, has %" PRId64,
                 where, p, piece->name, piece->pairs, total - before);
    cr_assert(piece->pairs > 0, "%s: piece %d is empty", where, p);
    before = total;
    check_tiles(piece, &m, where);
    covered = covered && !(p > 0 && sptx_piece_covers_queries(piece, m.n_q, m.n_k) &&
                           !sptx_piece_covers_queries(&list.pieces[0], m.n_q, m.n_k));
  }
  cr_assert(covered, "%s: a piece that covers every query does not come first", where);
  for (int64_t i = 0; i < m.n_q; i++) {
    bool any = false;
    for (int64_t j = 0; j < m.n_k; j++) {
      check_pair(instance, head, &list, &m, i, j, where);
      any |= m.walked[i * m.n_k + j];
    }
    empty += !any;
  }
  cr_assert_eq(sptx_piece_list_empty_rows(&list, m.n_q, m.n_k, &counted, &error), SPTX_CODE_OK);
  cr_assert_eq(counted, empty, "%s: %" PRId64 " empty rows counted, expected %" PRId64, where, counted,
               empty);
  sptx_piece_list_clear(&list);
  free(m.walked);
}

void problem_check(const sptx_pattern *pattern, int64_t heads, int64_t n_q, int64_t n_k, const char *where) {
  for (size_t step = 0; step < sptx_pattern_step_count(pattern); step++) {
    sptx_instance instance;
    sptx_error error = {0};
    cr_assert_eq(sptx_pattern_resolve(pattern, step, heads, n_q, n_k, &instance, &error), SPTX_CODE_OK,
                 "%s: %s", where, error.message);
    int checked = 0;
    for (int64_t head = 0; head < heads; head++)
      if (instance.class_of_head[head] == checked) {
        check_class(&instance, head, where);
        checked++;
      }
    cr_assert_eq(checked, instance.class_count, "%s: classes are not in the order of heads", where);
    sptx_instance_clear(&instance);
  }
}
