/* Clauses to band pieces: the view in which a clause is dense. Where query and key share a residue, a
 * constant end of a range may fall into two values, and the residues split into ranges. */
#include "patterns/bound.h"
#include "patterns/integer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The inner digits of one side: one digit, or the turns of a run and the places in it. */
static void add_inner(sptx_view *view, int64_t length, int64_t step, sptx_run run) {
  if (step > 1 || !sptx_run_restricts(run)) {
    view->inner_count = 1;
    view->inner_size[0] = ceil_div(length, step);
    view->inner_stride[0] = step;
    return;
  }
  view->base += run.from;
  view->inner_count = 1 + (run.count > 1);
  view->inner_size[0] = ceil_div(length, run.every);
  view->inner_stride[0] = run.every;
  view->inner_size[1] = run.count;
  view->inner_stride[1] = 1;
}

static void add_shared(sptx_piece *piece, int64_t size, int64_t stride) {
  if (size == 1)
    return;
  sptx_view *views[] = {&piece->query, &piece->key};
  for (int v = 0; v < 2; v++) {
    views[v]->shared_size[views[v]->shared_count] = size;
    views[v]->shared_stride[views[v]->shared_count++] = stride;
  }
}

/* The shared residues; a run of residues on both sides restricts them where its period divides the modulus.
 */
static bool add_residues(const sptx_clause *clause, const sptx_frame *f, sptx_piece *piece) {
  piece->query.base += f->residue + f->query_shift;
  piece->key.base += f->residue + f->key_shift;
  if (!sptx_run_restricts(clause->key_run)) {
    add_shared(piece, f->residues, 1);
    return true;
  }
  sptx_run run = clause->key_run;
  if (clause->modulus % run.every || f->residues != clause->modulus)
    return false;
  piece->query.base += run.from;
  piece->key.base += run.from;
  add_shared(piece, clause->modulus / run.every, run.every);
  add_shared(piece, run.count, 1);
  return true;
}

/* First inner index whose position, in the frame's first residue, is not below `position`. */
static int64_t inner_from(const sptx_frame *f, int64_t shift, int64_t position) {
  return max64(0, ceil_div(position - shift - f->residue, f->step));
}

static const char *name_of(const sptx_lowering *lowering, const sptx_clause *clause,
                           const sptx_key_limits *limits) {
  bool banded = limits->has_lower && !limits->lower.block && limits->has_upper;
  if (clause->digit_count)
    return "grid";
  if (clause->modulus > 1)
    return banded ? "dilated" : "stride";
  if (sptx_run_restricts(clause->key_run))
    return "columns";
  if (sptx_run_restricts(clause->query_run))
    return "rows";
  if (clause->same_block)
    return "block";
  if (banded)
    return "window";
  bool all_queries = clause->query_from <= lowering->first && clause->query_to >= lowering->n;
  return clause->key_from == 0 && clause->key_to == lowering->n && all_queries ? "all" : "global";
}

/* One piece of one inner digit (or runs of it), for one range of residues. */
static bool frame_to_piece(const sptx_lowering *lowering, const sptx_clause *clause,
                           const sptx_key_limits *limits, const sptx_frame *f, sptx_piece *piece) {
  int64_t length = clause->same_block ? clause->same_block : lowering->n;
  *piece = (sptx_piece){.kind = SPTX_PIECE_BAND, .name = name_of(lowering, clause, limits)};
  if (clause->same_block) {
    piece->query.base = piece->key.base = f->first_block * clause->same_block;
    add_shared(piece, f->block_total, clause->same_block);
  }
  if (clause->modulus > 1 && !add_residues(clause, f, piece))
    return false;
  int64_t skip = 0, query_from = clause->same_block ? 0 : clause->query_from;
  bool cut = !clause->same_block && query_from > lowering->first,
       runs = f->step == 1 && sptx_run_restricts(clause->query_run);
  int64_t period = runs ? clause->query_run.every : 1;
  if (cut) {
    if (query_from % period)
      return false;
    skip = runs ? query_from / period * clause->query_run.count : inner_from(f, f->query_shift, query_from);
    piece->query.base += runs ? query_from : skip * f->step;
  }
  add_inner(&piece->query, length, f->step, clause->query_run);
  add_inner(&piece->key, length, f->step, clause->key_run);
  if (!clause->same_block && clause->query_to < lowering->n) {
    if (clause->query_to % period)
      return false;
    piece->query.inner_size[0] = runs ? clause->query_to / period - (cut ? query_from / period : 0)
                                      : inner_from(f, f->query_shift, clause->query_to) - skip;
  }
  int64_t keys = 1;
  for (int k = 0; k < piece->key.inner_count; k++)
    keys *= piece->key.inner_size[k];
  piece->lo = sptx_bound_constant(0);
  piece->hi = sptx_bound_constant(keys);
  if (limits->has_lower && !sptx_bound_make(clause, f, skip, limits->lower, &piece->lo))
    return false;
  if (limits->has_upper && !sptx_bound_make(clause, f, skip, limits->upper, &piece->hi))
    return false;
  if (clause->same_block)
    return true;
  bool compact = f->step == 1 && sptx_run_restricts(clause->key_run);
  int64_t low = compact ? sptx_run_below(clause->key_run, clause->key_from)
                        : inner_from(f, f->key_shift, clause->key_from);
  int64_t high =
      compact ? sptx_run_below(clause->key_run, clause->key_to) : inner_from(f, f->key_shift, clause->key_to);
  if (clause->key_from > 0)
    piece->lo.low = low, piece->lo.high = max64(low, piece->lo.high);
  if (clause->key_to < lowering->n)
    piece->hi.high = high, piece->hi.low = min64(high, piece->hi.low);
  return true;
}

/* The clause's literals as one set; NULL where it has none. */
static sptx_set *make_predicate(sptx_lowering *lowering, const sptx_clause *clause) {
  sptx_set *all = calloc(1, sizeof *all);
  if (all)
    all->children = calloc((size_t)clause->literal_count, sizeof *all->children);
  if (!all || !all->children) {
    free(all);
    lowering->code = sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a predicate");
    return NULL;
  }
  all->kind = SPTX_SET_ALL_OF;
  for (int k = 0; k < clause->literal_count && lowering->code == SPTX_CODE_OK; k++) {
    sptx_set *literal = NULL;
    lowering->code = sptx_set_copy(clause->literals[k].set, &literal, lowering->error);
    if (literal && clause->literals[k].negated) {
      sptx_set *not = calloc(1, sizeof *not );
      sptx_set **child = calloc(1, sizeof *child);
      if (!not || !child) {
        free(not );
        free(child);
        sptx_set_free(literal);
        lowering->code = sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a predicate");
        break;
      }
      *not = (sptx_set){.kind = SPTX_SET_NOT, .children = child, .child_count = 1, .place = literal->place};
      child[0] = literal;
      literal = not ;
    }
    if (literal)
      all->children[all->child_count++] = literal;
  }
  if (all->child_count == 1) {
    sptx_set *only = all->children[0];
    all->child_count = 0;
    sptx_set_free(all);
    return only;
  }
  return all;
}

static bool push_raw(sptx_lowering *lowering, sptx_piece_list *list, const sptx_piece *piece) {
  sptx_piece *pieces = realloc(list->pieces, (size_t)(list->count + 1) * sizeof *pieces);
  if (!pieces) {
    lowering->code = sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a piece");
    return false;
  }
  list->pieces = pieces;
  list->pieces[list->count++] = *piece;
  return true;
}

static void push_piece(sptx_lowering *lowering, sptx_piece_list *list, sptx_piece *piece,
                       const sptx_clause *clause) {
  if (lowering->code != SPTX_CODE_OK || piece->query.inner_size[0] <= 0)
    return;
  if (clause->literal_count) {
    piece->predicate = make_predicate(lowering, clause);
    snprintf(piece->why, sizeof piece->why, "predicate: the difference has no closed form in this view");
  }
  if (lowering->code != SPTX_CODE_OK || !push_raw(lowering, list, piece))
    sptx_set_free(piece->predicate);
}

/* Residues at which one of the clause's constant ends falls to the next inner index: there the range splits.
 */
static int collect_cuts(const sptx_lowering *lowering, const sptx_clause *clause, const sptx_frame *f,
                        int64_t *cuts) {
  int count = 0;
  const struct {
    bool used;
    int64_t position, shift;
  } ends[] = {
      {clause->key_from > 0, clause->key_from, f->key_shift},
      {clause->key_to < lowering->n, clause->key_to, f->key_shift},
      {clause->query_from > lowering->first, clause->query_from, f->query_shift},
      {clause->query_to < lowering->n, clause->query_to, f->query_shift},
  };
  for (int k = 0; k < 4; k++) {
    int64_t cut = floor_mod(ends[k].position - ends[k].shift, f->step);
    if (ends[k].used && cut > f->residue && cut < f->residue + f->residues)
      cuts[count++] = cut;
  }
  return count;
}

static int ascending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

/* All residues of one phase part, split where constant ends require it. */
static bool part_to_pieces(sptx_lowering *lowering, const sptx_clause *clause, const sptx_key_limits *limits,
                           sptx_frame f, sptx_piece_list *list) {
  int64_t cuts[5], end = f.residue + f.residues;
  int count = clause->modulus > 1 && !clause->same_block ? collect_cuts(lowering, clause, &f, cuts) : 0;
  cuts[count++] = end;
  qsort(cuts, (size_t)count, sizeof *cuts, ascending);
  for (int k = 0; k < count; k++) {
    sptx_piece piece;
    if (cuts[k] == f.residue)
      continue;
    f.residues = cuts[k] - f.residue;
    if (!frame_to_piece(lowering, clause, limits, &f, &piece))
      return false;
    push_piece(lowering, list, &piece, clause);
    f.residue = cuts[k];
  }
  return true;
}

/* One inner digit. A phase parts the residues in two: those whose query residue does not wrap, and the rest.
 */
static bool digit_to_pieces(sptx_lowering *lowering, const sptx_clause *clause, const sptx_key_limits *limits,
                            sptx_piece_list *list) {
  sptx_frame f = {.step = clause->modulus, .residues = clause->modulus};
  int64_t modulus = clause->modulus, phase = clause->phase, size = clause->same_block;
  if (size) {
    if (size % modulus ||
        (sptx_run_restricts(clause->key_run) && modulus == 1 && size % clause->key_run.every) ||
        (sptx_run_restricts(clause->query_run) && size % clause->query_run.every))
      return false;
    f.first_block = max64(clause->query_from, clause->key_from) / size;
    f.block_total = ceil_div(min64(clause->query_to, clause->key_to), size) - f.first_block;
    for (int k = 0; k < clause->block_count; k++)
      if (size % clause->blocks[k].size)
        return false;
  }
  if (modulus > 1 && sptx_run_restricts(clause->query_run))
    return false;
  f.residues = modulus - phase;
  f.query_shift = phase;
  if (!part_to_pieces(lowering, clause, limits, f, list))
    return false;
  f.residues = phase;
  f.query_shift = 0;
  f.key_shift = modulus - phase;
  return phase == 0 || part_to_pieces(lowering, clause, limits, f, list);
}

static int descending_stride(const void *a, const void *b) {
  const int64_t *x = a, *y = b;
  return (x[0] < y[0]) - (x[0] > y[0]);
}

/* Several inner digits, as along two axes of a grid: order is all that the inner index keeps. */
static bool digits_to_piece(sptx_lowering *lowering, const sptx_clause *clause, const sptx_key_limits *limits,
                            sptx_piece_list *list) {
  int64_t digits[SPTX_CLAUSE_DIGITS][2]; /* stride, size: from the outermost */
  int64_t n = lowering->n, top = clause->same_block, lowest = clause->modulus;
  if (clause->phase || sptx_run_restricts(clause->key_run) || sptx_run_restricts(clause->query_run) ||
      clause->block_count || clause->digit_count + 2 > SPTX_MAX_DIGITS)
    return false;
  for (int k = 0; k < clause->digit_count; k++)
    digits[k][0] = clause->digits[k].stride, digits[k][1] = clause->digits[k].size;
  qsort(digits, (size_t)clause->digit_count, sizeof digits[0], descending_stride);
  bool whole = clause->key_from == 0 && clause->key_to == n && clause->query_from <= lowering->first &&
               clause->query_to == n;
  if ((!whole && !top) || (limits->has_upper && (limits->upper.add < 0 || limits->upper.add > 1)) ||
      (limits->has_lower && (limits->lower.add < 0 || limits->lower.add > 1)))
    return false;
  sptx_piece piece = {.kind = SPTX_PIECE_BAND, .name = "grid"};
  sptx_view *view = &piece.query;
  int64_t above = top ? top : 0; /* the stride of the digit above; 0: positions end at n */
  if (top) {
    int64_t first = max64(clause->query_from, clause->key_from) / top;
    piece.query.base = piece.key.base = first * top;
    add_shared(&piece, ceil_div(min64(clause->query_to, clause->key_to), top) - first, top);
  }
  for (int k = 0; k <= clause->digit_count; k++) {
    bool last = k == clause->digit_count;
    int64_t stride = last ? lowest : digits[k][0] * digits[k][1]; /* of the free digit above this one */
    if (above && above % stride)
      return false;
    int64_t size = above ? above / stride : ceil_div(n, stride);
    if (size > 1 || k == 0) {
      view->inner_size[view->inner_count] = size;
      view->inner_stride[view->inner_count++] = stride;
    }
    if (!last)
      add_shared(&piece, digits[k][1], digits[k][0]);
    above = last ? stride : digits[k][0];
  }
  add_shared(&piece, lowest, 1);
  piece.key.inner_count = view->inner_count;
  int64_t keys = 1;
  for (int k = 0; k < view->inner_count; k++) {
    piece.key.inner_size[k] = view->inner_size[k];
    piece.key.inner_stride[k] = view->inner_stride[k];
    keys *= view->inner_size[k];
  }
  piece.lo = limits->has_lower ? sptx_bound_line(1, 0, 1, limits->lower.add) : sptx_bound_constant(0);
  piece.hi = limits->has_upper ? sptx_bound_line(1, 0, 1, limits->upper.add) : sptx_bound_constant(keys);
  push_piece(lowering, list, &piece, clause);
  return true;
}

static bool clause_to_pieces(sptx_lowering *lowering, const sptx_clause *clause, sptx_piece_list *list);

/* The clause within positions from..to-1. */
static bool slice_to_pieces(sptx_lowering *lowering, const sptx_clause *clause, int64_t from, int64_t to,
                            sptx_piece_list *list) {
  sptx_clause slice = *clause;
  sptx_clause_queries(&slice, from, to);
  sptx_clause_keys(&slice, from, to);
  sptx_clause_simplify(&slice);
  return slice.empty || clause_to_pieces(lowering, &slice, list);
}

/* Equal blocks need ranges of whole blocks: a cut block at either end becomes a clause of its own. */
static bool peel_blocks(sptx_lowering *lowering, const sptx_clause *clause, sptx_piece_list *list,
                        bool *peeled) {
  int64_t size = clause->same_block, n = lowering->n;
  int64_t first = max64(clause->query_from, clause->key_from) / size * size;
  int64_t last = ceil_div(min64(clause->query_to, clause->key_to), size) * size;
  bool low = (clause->query_from > lowering->first && clause->query_from > first) || clause->key_from > first;
  bool high =
      (clause->query_to < n && clause->query_to < last) || (clause->key_to < n && clause->key_to < last);
  *peeled = low || high;
  if (low && !slice_to_pieces(lowering, clause, first, first + size, list))
    return false;
  if (high && !slice_to_pieces(lowering, clause, last - size, last, list))
    return false;
  return !*peeled || slice_to_pieces(lowering, clause, first + low * size, last - high * size, list);
}

/* The clause in one view, or in a few by residues and blocks. */
static bool clause_to_pieces(sptx_lowering *lowering, const sptx_clause *original, sptx_piece_list *list) {
  sptx_clause clause = *original;
  sptx_key_limits limits;
  bool peeled = false;
  sptx_clause_relax(lowering, &clause);
  if (clause.same_block && !peel_blocks(lowering, &clause, list, &peeled))
    return false;
  if (peeled)
    return true;
  if (!sptx_key_limits_find(&clause, &limits))
    return false;
  return clause.digit_count ? digits_to_piece(lowering, &clause, &limits, list)
                            : digit_to_pieces(lowering, &clause, &limits, list);
}

/* Moves the k-th constraint of the clause into a literal; false where there is none, or no set says it. */
static bool move_to_literal(sptx_lowering *lowering, sptx_clause *clause, int k) {
  int digit = k - 4, block = k - 4 - SPTX_CLAUSE_DIGITS;
  if (k == 0 && clause->modulus > 1) {
    sptx_clause_literal(clause, sptx_make_stride(lowering, clause->modulus, clause->phase), false);
    clause->modulus = 1, clause->phase = 0;
  } else if (k == 1 && clause->same_block) {
    sptx_clause_literal(clause, sptx_make_block(lowering, clause->same_block), false);
    clause->same_block = 0;
  } else if (k == 2 && sptx_run_restricts(clause->key_run)) {
    sptx_clause_literal(clause, sptx_make_columns(lowering, clause->key_run), false);
    clause->key_run = (sptx_run){1, 0, 1};
  } else if (k == 3 && (clause->digit_count || clause->block_count)) {
    int64_t from = clause->distance_from, to = clause->distance_to, n = lowering->n;
    clause->distance_from = from >= 0 ? min64(from, 1) : lowering->first - n + 1;
    clause->distance_to = to <= 1 ? max64(to, 0) : n;
    if (clause->distance_from == from && clause->distance_to == to)
      return false;
    sptx_clause_literal(clause, sptx_make_window(lowering, from, to), false);
  } else if (digit >= 0 && digit < clause->digit_count) {
    sptx_clause_literal(
        clause, sptx_make_digit(lowering, clause->digits[digit].stride, clause->digits[digit].size), false);
    clause->digits[digit] = clause->digits[--clause->digit_count];
  } else if (block >= 0 && block < clause->block_count) {
    bool later = clause->blocks[block].from == 1 && clause->blocks[block].to == SPTX_FAR;
    bool earlier = clause->blocks[block].to == 0 && clause->blocks[block].from == -SPTX_FAR;
    if (!(later && clause->distance_from >= 0) && !(earlier && clause->distance_to <= 1))
      return false;
    sptx_clause_literal(clause, sptx_make_block(lowering, clause->blocks[block].size), true);
    clause->blocks[block] = clause->blocks[--clause->block_count];
  } else {
    return false;
  }
  return !clause->overflowed;
}

/* Pairs that tiles of the generic size compute. */
static int64_t computed_pairs(const sptx_lowering *lowering, const sptx_piece_list *list) {
  int64_t total = 0;
  for (int p = 0; p < list->count; p++) {
    sptx_tile_counts counts;
    if (sptx_piece_count_tiles(&list->pieces[p], lowering->n - lowering->first, lowering->n,
                               SPTX_GENERIC_TILE, SPTX_GENERIC_TILE, &counts, NULL) == SPTX_CODE_OK)
      total += counts.computed_pairs;
  }
  return total;
}

/* Candidate views: the one of all constraints, else those that leave one of them (or two, three) to the
 * predicate; the fewest computed pairs win. A constraint that contradicts a literal shows, when it becomes
 * one, that the clause holds nothing: then no piece is needed. */
static bool best_view(sptx_lowering *lowering, const sptx_clause *clause, int most_moved,
                      sptx_piece_list *best) {
  if (clause->empty || clause_to_pieces(lowering, clause, best))
    return true;
  sptx_piece_list_clear(best);
  int64_t least = INT64_MAX;
  for (int k = 0; most_moved > 0 && k < 4 + SPTX_CLAUSE_DIGITS + SPTX_CLAUSE_BLOCKS; k++) {
    sptx_clause relaxed = *clause;
    sptx_piece_list candidate = {0};
    if (move_to_literal(lowering, &relaxed, k) && best_view(lowering, &relaxed, most_moved - 1, &candidate) &&
        computed_pairs(lowering, &candidate) < least) {
      sptx_piece_list swap = *best;
      *best = candidate;
      candidate = swap;
      least = computed_pairs(lowering, best);
    }
    sptx_piece_list_clear(&candidate);
  }
  return least < INT64_MAX;
}

/* Pairs of a clause with literals by inclusion and exclusion: |A without L| = |A| - |A and L|, where A and L
 * is closed again. False where it is not; then the pairs must be counted one by one. */
static bool count_clause(sptx_lowering *lowering, const sptx_clause *clause, int depth, int64_t *pairs) {
  sptx_clause base = *clause;
  *pairs = 0;
  if (clause->empty || depth == 0 || clause->overflowed)
    return clause->empty;
  if (clause->literal_count == 0) {
    sptx_piece_list list = {0};
    bool closed = clause_to_pieces(lowering, clause, &list);
    for (int p = 0; p < list.count && closed && lowering->code == SPTX_CODE_OK; p++) {
      int64_t one;
      lowering->code = sptx_piece_count_pairs(&list.pieces[p], lowering->n - lowering->first, lowering->n,
                                              &one, lowering->error);
      *pairs += one;
    }
    sptx_piece_list_clear(&list);
    return closed;
  }
  base.literal_count--;
  sptx_clause_list members = {0};
  int64_t inside = 0, whole = 0;
  bool negated = base.literals[base.literal_count].negated;
  sptx_recognise(lowering, base.literals[base.literal_count].set, false, &members);
  bool known = members.count <= 1 && (!negated || count_clause(lowering, &base, depth - 1, &whole));
  if (known && members.count == 1) {
    sptx_clause both = sptx_clause_intersect(lowering, &base, &members.clauses[0]);
    known = count_clause(lowering, &both, depth - 1, &inside);
  }
  sptx_clause_list_clear(&members);
  *pairs = negated ? whole - inside : inside;
  return known;
}

/* Exact pairs of each piece; pieces without any are left out. */
static void finish_pieces(sptx_lowering *lowering, const sptx_clause *clause, sptx_piece_list *list) {
  enum { DEPTH = 10 };
  int kept = 0;
  for (int p = 0; p < list->count; p++) {
    sptx_piece *piece = &list->pieces[p];
    bool counted =
        piece->predicate && list->count == 1 && count_clause(lowering, clause, DEPTH, &piece->pairs);
    if (!counted && lowering->code == SPTX_CODE_OK)
      lowering->code = sptx_piece_count_pairs(piece, lowering->n - lowering->first, lowering->n,
                                              &piece->pairs, lowering->error);
    if (piece->pairs > 0)
      list->pieces[kept++] = *piece;
    else
      sptx_set_free(piece->predicate);
  }
  list->count = kept;
}

bool sptx_clause_to_bands(sptx_lowering *lowering, const sptx_clause *clause, sptx_piece_list *list) {
  sptx_piece_list found = {0};
  for (int k = 0; k < clause->literal_count; k++)
    if (sptx_set_is_opaque(clause->literals[k].set))
      return false;
  bool done = best_view(lowering, clause, 3, &found);
  if (done)
    finish_pieces(lowering, clause, &found);
  done &= lowering->code == SPTX_CODE_OK;
  int moved = 0;
  while (done && moved < found.count && push_raw(lowering, list, &found.pieces[moved]))
    moved++;
  for (int p = 0; p < moved; p++) /* now the list's */
    found.pieces[p].predicate = NULL;
  sptx_piece_list_clear(&found);
  return done;
}
