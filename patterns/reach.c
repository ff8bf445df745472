/* Information of one position is followed forward, layer by layer: a position newly reached passes it through
 * each step once, to all queries that attend to it. For small n all positions are followed, through bit
 * matrices; for large n a few of them, through the pieces, whose bounds are monotonic, so that the queries
 * that attend to a run of keys are a run themselves. */
#include "patterns/reach.h"
#include "patterns/integer.h"

#include <stdlib.h>
#include <string.h>

enum {
  LEAST_SOURCES = 2,
  SAMPLED_WORK = 3 << 19, /* marks and visits after which no further source is begun */
  MOST_WORK = 1 << 28,    /* ... after which the search is given up */
};

/* Which query tiles hold a key tile of a listed piece: the tile list by columns. */
typedef struct columns {
  int64_t *start; /* key_tiles + 1 */
  int64_t *row, *tile;
} columns;

typedef struct kind {
  const sptx_step *step;
  bool used;
  uint64_t *matrix; /* exact: n rows (keys) of words (bit i: query i attends); else NULL */
  columns *columns; /* sampled: one for each piece of each class, in their order */
} kind;

typedef struct search {
  int64_t n, words, kind_count, work;
  bool causal;
  kind *kinds;
  uint64_t *reached;
  int64_t *log, logged; /* positions in the order in which they were reached */
  int64_t *cursor;      /* of each kind: log[0 .. cursor) passed through it */
} search;

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the positions that a pattern reaches");
}

static void reach_bits(search *s, int64_t word, uint64_t bits) {
  bits &= ~s->reached[word];
  s->reached[word] |= bits;
  for (; bits; bits &= bits - 1)
    s->log[s->logged++] = word * 64 + __builtin_ctzll(bits);
}

/* Exact: matrices. */

static void set_band_bits(const sptx_piece *piece, int64_t n, int64_t words, uint64_t *matrix) {
  int64_t total = sptx_view_shared_total(&piece->query);
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, key_begin, keys;
    sptx_view_inner_range(&piece->query, shared, 0, n, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, n, &key_begin, &keys);
    for (int64_t x = begin; x < end; x++) {
      int64_t i = sptx_view_position(&piece->query, shared, x);
      int64_t last = min64(sptx_bound_at(&piece->hi, x), keys);
      for (int64_t y = max64(sptx_bound_at(&piece->lo, x), 0); y < last; y++) {
        int64_t j = sptx_view_position(&piece->key, shared, y);
        bool contains = true;
        if (piece->predicate)
          sptx_set_contains(piece->predicate, n, i, j, &contains, NULL);
        matrix[j * words + i / 64] |= (uint64_t)contains << (i % 64);
      }
    }
  }
}

static void set_tile_bits(const sptx_piece *piece, int64_t n, int64_t words, uint64_t *matrix) {
  const sptx_tile_list *tiles = &piece->tiles;
  for (int64_t row = 0; row < tiles->query_tiles; row++)
    for (int64_t t = tiles->row_start[row]; t < tiles->row_start[row + 1]; t++) {
      const uint64_t *mask =
          tiles->mask[t] < 0 ? NULL : tiles->masks + (int64_t)tiles->mask[t] * SPTX_GENERIC_TILE;
      int64_t first = (int64_t)tiles->key_tile[t] * SPTX_GENERIC_TILE;
      for (int64_t j = first; j < min64(first + SPTX_GENERIC_TILE, n); j++)
        matrix[j * words + row] |= mask ? mask[j - first] : ~(uint64_t)0;
    }
}

static enum sptx_code make_matrix(const search *s, kind *k, sptx_error *error) {
  k->matrix = calloc((size_t)(s->n * s->words), sizeof *k->matrix);
  if (!k->matrix)
    return no_memory(error);
  for (int c = 0; c < k->step->instance.class_count; c++)
    for (int p = 0; p < k->step->classes[c].count; p++) {
      const sptx_piece *piece = &k->step->classes[c].pieces[p];
      if (piece->kind == SPTX_PIECE_BAND)
        set_band_bits(piece, s->n, s->words, k->matrix);
      else
        set_tile_bits(piece, s->n, s->words, k->matrix);
    }
  return SPTX_CODE_OK;
}

static void pass_matrix(search *s, const kind *k, int64_t from, int64_t to) {
  for (int64_t at = from; at < to; at++) {
    int64_t first = s->causal ? s->log[at] / 64 : 0;
    const uint64_t *row = k->matrix + s->log[at] * s->words;
    for (int64_t word = first; word < s->words; word++)
      if (row[word] & ~s->reached[word])
        reach_bits(s, word, row[word]);
  }
}

/* Sampled: pieces. */

static enum sptx_code make_columns(const sptx_tile_list *tiles, columns *c, sptx_error *error) {
  size_t count = (size_t)tiles->tile_count + 1;
  c->start = calloc((size_t)tiles->key_tiles + 2, sizeof *c->start);
  c->row = malloc(count * sizeof *c->row);
  c->tile = malloc(count * sizeof *c->tile);
  if (!c->start || !c->row || !c->tile)
    return no_memory(error);
  int64_t *next = c->start + 1; /* ends as the start of the following column */
  for (int64_t t = 0; t < tiles->tile_count; t++)
    next[tiles->key_tile[t] + 1]++;
  for (int64_t column = 1; column <= tiles->key_tiles; column++)
    next[column] += next[column - 1];
  for (int64_t row = 0; row < tiles->query_tiles; row++)
    for (int64_t t = tiles->row_start[row]; t < tiles->row_start[row + 1]; t++) {
      int64_t at = next[tiles->key_tile[t]]++;
      c->row[at] = row;
      c->tile[at] = t;
    }
  return SPTX_CODE_OK;
}

static int64_t piece_total(const sptx_step *step) {
  int64_t total = 0;
  for (int c = 0; c < step->instance.class_count; c++)
    total += step->classes[c].count;
  return total;
}

static enum sptx_code make_all_columns(kind *k, sptx_error *error) {
  k->columns = calloc((size_t)piece_total(k->step) + 1, sizeof *k->columns);
  if (!k->columns)
    return no_memory(error);
  int64_t at = 0;
  for (int c = 0; c < k->step->instance.class_count; c++)
    for (int p = 0; p < k->step->classes[c].count; p++, at++)
      if (k->step->classes[c].pieces[p].kind == SPTX_PIECE_TILES)
        SPTX_TRY(make_columns(&k->step->classes[c].pieces[p].tiles, &k->columns[at], error));
  return SPTX_CODE_OK;
}

static void pass_tiles(search *s, const sptx_tile_list *tiles, const columns *c, int64_t from, int64_t to) {
  for (int64_t at = from; at < to; at++) {
    int64_t j = s->log[at], column = j / SPTX_GENERIC_TILE;
    s->work += c->start[column + 1] - c->start[column];
    for (int64_t e = c->start[column]; e < c->start[column + 1]; e++) {
      int64_t mask = tiles->mask[c->tile[e]];
      uint64_t bits =
          mask < 0 ? ~(uint64_t)0 : tiles->masks[mask * SPTX_GENERIC_TILE + j % SPTX_GENERIC_TILE];
      reach_bits(s, c->row[e], bits);
    }
  }
}

/* A run of reached keys of one value of the shared digits: y_first <= y < y_last. */
typedef struct run {
  int64_t shared, y_first, y_last;
} run;

static bool attends(search *s, const sptx_piece *piece, const run *keys, int64_t i, int64_t x) {
  int64_t first = max64(sptx_bound_at(&piece->lo, x), keys->y_first);
  int64_t last = min64(sptx_bound_at(&piece->hi, x), keys->y_last);
  if (!piece->predicate)
    return first < last;
  for (int64_t y = first; y < last; y++) {
    bool contains = false;
    s->work++;
    sptx_set_contains(piece->predicate, s->n, i, sptx_view_position(&piece->key, keys->shared, y), &contains,
                      NULL);
    if (contains)
      return true;
  }
  return false;
}

static bool is_plain(const sptx_view *view) {
  return view->shared_count == 0 && view->inner_count == 1 && view->inner_stride[0] == 1;
}

static void pass_run(search *s, const sptx_piece *piece, const run *keys) {
  int64_t begin, end;
  sptx_view_inner_range(&piece->query, keys->shared, 0, s->n, &begin, &end);
  begin = sptx_bound_first_above(&piece->hi, begin, end, keys->y_first);
  end = sptx_bound_first_above(&piece->lo, begin, end, keys->y_last - 1);
  bool plain = is_plain(&piece->query), straight = piece->query.inner_count == 1;
  int64_t start = sptx_view_position(&piece->query, keys->shared, 0);
  s->work += 1 + (end - begin) / (plain ? 64 : 1);
  for (int64_t x = begin; x < end; x++) {
    int64_t i = straight ? start + x * piece->query.inner_stride[0]
                         : sptx_view_position(&piece->query, keys->shared, x);
    uint64_t reached = s->reached[i / 64];
    if (plain && reached == ~(uint64_t)0)
      x += 63 - i % 64;
    else if (!(reached >> (i % 64) & 1) && attends(s, piece, keys, i, x))
      reach_bits(s, i / 64, (uint64_t)1 << (i % 64));
  }
}

static void pass_band(search *s, const sptx_piece *piece, int64_t from, int64_t to) {
  bool plain = is_plain(&piece->key);
  int64_t keys = piece->key.inner_size[0];
  run open = {0, 0, 0};
  for (int64_t at = from; at < to; at++) {
    int64_t shared = 0, y = s->log[at] - piece->key.base;
    if (plain ? y < 0 || y >= keys : !sptx_view_locate(&piece->key, s->log[at], &shared, &y))
      continue;
    if (open.y_last > open.y_first && (shared != open.shared || y != open.y_last)) {
      pass_run(s, piece, &open);
      open.y_last = open.y_first;
    }
    if (open.y_last == open.y_first)
      open = (run){shared, y, y};
    open.y_last = y + 1;
  }
  if (open.y_last > open.y_first)
    pass_run(s, piece, &open);
}

static void pass_pieces(search *s, const kind *k, int64_t from, int64_t to) {
  int64_t at = 0;
  for (int c = 0; c < k->step->instance.class_count; c++)
    for (int p = 0; p < k->step->classes[c].count; p++, at++) {
      const sptx_piece *piece = &k->step->classes[c].pieces[p];
      s->work += to - from;
      if (s->work > MOST_WORK)
        return;
      if (piece->kind == SPTX_PIECE_BAND)
        pass_band(s, piece, from, to);
      else
        pass_tiles(s, &piece->tiles, &k->columns[at], from, to);
    }
}

/* *layers until the information of one position is everywhere; 0: never. */
static void follow(search *s, const size_t *order, size_t order_count, int64_t source, int64_t *layers) {
  int64_t target = s->causal ? s->n - source : s->n, idle = 0;
  memset(s->reached, 0, (size_t)s->words * sizeof *s->reached);
  memset(s->cursor, 0, (size_t)s->kind_count * sizeof *s->cursor);
  s->logged = 0;
  reach_bits(s, source / 64, (uint64_t)1 << (source % 64));
  for (*layers = 1;; ++*layers) {
    size_t step = order[(size_t)(*layers - 1) % order_count];
    const kind *k = &s->kinds[step];
    int64_t from = s->cursor[step], to = s->logged;
    s->cursor[step] = to;
    if (k->matrix)
      pass_matrix(s, k, from, to);
    else
      pass_pieces(s, k, from, to);
    s->work += s->logged - to;
    if (s->logged == target)
      return;
    idle = s->logged > to ? 0 : idle + 1;
    if (idle >= (int64_t)order_count || s->work > MOST_WORK) {
      *layers = 0;
      return;
    }
  }
}

static void follow_all(search *s, const size_t *order, size_t order_count, sptx_reach *reach) {
  int64_t layers;
  for (int64_t source = 0; source < s->n; source++) {
    s->work = 0; /* bounded by n */
    follow(s, order, order_count, source, &layers);
    reach->layers = max64(reach->layers, layers);
    if (layers == 0) {
      reach->layers = 0;
      return;
    }
  }
}

/* The step of a walk over all of n positions that spreads them: near n times the golden ratio, prime to n. */
static int64_t spread_step(int64_t n) {
  const double golden = 0.6180339887498949;
  for (int64_t step = (int64_t)(golden * (double)n);; step++) {
    int64_t a = max64(step, 1), b = n;
    while (b) {
      int64_t rest = a % b;
      a = b, b = rest;
    }
    if (a == 1)
      return max64(step, 1);
  }
}

/* The first position, which most often has the farthest to go, and others spread over the sequence. */
static void follow_some(search *s, const size_t *order, size_t order_count, sptx_reach *reach) {
  int64_t step = spread_step(s->n), source = 0, layers;
  for (; reach->sources < s->n && (reach->sources < LEAST_SOURCES || s->work < SAMPLED_WORK);
       source = (source + step) % s->n) {
    follow(s, order, order_count, source, &layers);
    reach->sources++;
    reach->layers = layers == 0 ? 0 : max64(reach->layers, layers);
    reach->known = layers > 0 || s->work <= MOST_WORK;
    if (layers == 0)
      break;
  }
  reach->sampled = reach->sources < s->n;
}

static enum sptx_code prepare(search *s, const sptx_step *steps, const size_t *order, size_t order_count,
                              bool exact, sptx_error *error) {
  for (size_t k = 0; k < order_count; k++)
    s->kind_count = max64(s->kind_count, (int64_t)order[k] + 1);
  s->kinds = calloc((size_t)s->kind_count, sizeof *s->kinds);
  s->cursor = malloc((size_t)s->kind_count * sizeof *s->cursor);
  s->reached = malloc((size_t)s->words * sizeof *s->reached);
  s->log = malloc((size_t)s->n * sizeof *s->log);
  if (!s->kinds || !s->cursor || !s->reached || !s->log)
    return no_memory(error);
  for (size_t k = 0; k < order_count; k++) {
    kind *used = &s->kinds[order[k]];
    if (used->used)
      continue;
    *used = (kind){.step = &steps[order[k]], .used = true};
    SPTX_TRY(exact ? make_matrix(s, used, error) : make_all_columns(used, error));
  }
  return SPTX_CODE_OK;
}

static void clear(search *s) {
  for (int64_t k = 0; s->kinds && k < s->kind_count; k++) {
    free(s->kinds[k].matrix);
    for (int64_t p = 0; s->kinds[k].columns && p < piece_total(s->kinds[k].step); p++) {
      free(s->kinds[k].columns[p].start);
      free(s->kinds[k].columns[p].row);
      free(s->kinds[k].columns[p].tile);
    }
    free(s->kinds[k].columns);
  }
  free(s->kinds);
  free(s->cursor);
  free(s->reached);
  free(s->log);
}

enum sptx_code sptx_reach_find(const sptx_step *steps, const size_t *order, size_t order_count,
                               int64_t exact_up_to, sptx_reach *reach, sptx_error *error) {
  const sptx_instance *instance = &steps[order[0]].instance;
  *reach = (sptx_reach){.known = instance->n_k <= SPTX_REACH_MOST};
  if (!reach->known)
    return SPTX_CODE_OK;
  search s = {.n = instance->n_k, .words = ceil_div(instance->n_k, 64), .causal = instance->causal};
  bool exact = s.n <= exact_up_to;
  enum sptx_code code = prepare(&s, steps, order, order_count, exact, error);
  if (code == SPTX_CODE_OK && exact)
    follow_all(&s, order, order_count, reach);
  else if (code == SPTX_CODE_OK)
    follow_some(&s, order, order_count, reach);
  clear(&s);
  return code;
}
