/* Clauses: what lowering computes with. A clause is a conjunction of the constraints that have a closed form
 * (ranges, a band of distances, a congruence, equal digits, bands of blocks, runs of residues), and of
 * literals, sets that stay opaque. A set becomes a union of clauses (recognise.c), the union is made disjoint
 * (lower.c), and each clause becomes pieces (band.c) or joins the generic piece (generic.c).
 * Internal to patterns/. All positions count keys, as in set.h. */
#ifndef SPTX_PATTERNS_CLAUSE_H
#define SPTX_PATTERNS_CLAUSE_H

#include "patterns/error.h"
#include "patterns/piece.h"
#include "patterns/set.h"
#include <stdbool.h>
#include <stdint.h>

/* Beyond every position and distance, and far enough from INT64_MAX to be added up. */
#define SPTX_FAR (INT64_MAX / 8)

enum { SPTX_CLAUSE_BLOCKS = 3, SPTX_CLAUSE_DIGITS = 3, SPTX_CLAUSE_LITERALS = 8 };

/* position mod every in [from, from + count); every 1 restricts nothing. from + count <= every. */
typedef struct sptx_run {
  int64_t every, from, count;
} sptx_run;

typedef struct sptx_clause {
  int64_t query_from, query_to, key_from, key_to; /* half open */
  int64_t distance_from, distance_to;             /* from <= i - j < to */
  int64_t modulus, phase;                         /* i - j = phase (mod modulus), 0 <= phase < modulus */
  int64_t same_block;                             /* 0, or i div same_block == j div same_block */
  int digit_count;                                /* (i div stride) mod size is the same for j */
  struct {
    int64_t stride, size;
  } digits[SPTX_CLAUSE_DIGITS];
  int block_count; /* from <= i div size - j div size < to */
  struct {
    int64_t size, from, to;
  } blocks[SPTX_CLAUSE_BLOCKS];
  sptx_run query_run, key_run;
  int literal_count;
  struct {
    const sptx_set *set; /* borrowed: from the pattern, or from sptx_lowering.made */
    bool negated;
  } literals[SPTX_CLAUSE_LITERALS];
  bool empty;
  bool overflowed; /* a constraint found no place: the clause holds more pairs than it should */
} sptx_clause;

typedef struct sptx_clause_list {
  sptx_clause *clauses;
  int count, capacity;
} sptx_clause_list;

/* The state of one call of sptx_lower. The first failure sticks in `code`; later steps do nothing. */
typedef struct sptx_lowering {
  int64_t first, n; /* queries stand at first..n-1, keys at 0..n-1 */
  sptx_set **made;  /* sets built for literals, owned */
  int made_count, made_capacity;
  enum sptx_code code;
  sptx_error *error;
} sptx_lowering;

/* Every pair of the problem. */
sptx_clause sptx_clause_all(const sptx_lowering *lowering);
/* Each narrows the clause by one constraint, as a literal where it does not combine with those there. */
void sptx_clause_distance(sptx_clause *clause, int64_t from, int64_t to);
void sptx_clause_queries(sptx_clause *clause, int64_t from, int64_t to);
void sptx_clause_keys(sptx_clause *clause, int64_t from, int64_t to);
void sptx_clause_congruence(sptx_clause *clause, int64_t modulus, int64_t phase);
void sptx_clause_same_block(sptx_lowering *lowering, sptx_clause *clause, int64_t size);
void sptx_clause_digit(sptx_lowering *lowering, sptx_clause *clause, int64_t stride, int64_t size);
void sptx_clause_blocks(sptx_lowering *lowering, sptx_clause *clause, int64_t size, int64_t from, int64_t to);
void sptx_clause_key_run(sptx_lowering *lowering, sptx_clause *clause, sptx_run run);
void sptx_clause_query_run(sptx_clause *clause, sptx_run run);
void sptx_clause_literal(sptx_clause *clause, const sptx_set *set, bool negated);
/* Tightens the ranges by each other, drops what is implied, and finds out whether nothing is left. */
void sptx_clause_simplify(sptx_clause *clause);
/* The inverse of tightening: ends of ranges and bands that other constraints imply go back to the whole, so
 * that they cost no clamp, no bound and no part of a difference. */
void sptx_clause_relax(const sptx_lowering *lowering, sptx_clause *clause);
sptx_clause sptx_clause_intersect(sptx_lowering *lowering, const sptx_clause *a, const sptx_clause *b);
/* Appends disjoint clauses whose union is a without b. */
void sptx_clause_subtract(sptx_lowering *lowering, const sptx_clause *a, const sptx_clause *b,
                          sptx_clause_list *out);
/* Whether a literal can fail or has no formula (where, random, layout). */
bool sptx_set_is_opaque(const sptx_set *set);

void sptx_clause_push(sptx_lowering *lowering, sptx_clause_list *list, const sptx_clause *clause);
void sptx_clause_list_clear(sptx_clause_list *list);
/* A new set that the lowering owns; NULL when memory is short (then lowering->code says so). */
sptx_set *sptx_lowering_make(sptx_lowering *lowering, enum sptx_set_kind kind);
/* A literal set saying the same as one constraint of a clause, to be used as a predicate. */
const sptx_set *sptx_make_window(sptx_lowering *lowering, int64_t distance_from, int64_t distance_to);
const sptx_set *sptx_make_stride(sptx_lowering *lowering, int64_t modulus, int64_t phase);
const sptx_set *sptx_make_block(sptx_lowering *lowering, int64_t size);
const sptx_set *sptx_make_columns(sptx_lowering *lowering, sptx_run run);
const sptx_set *sptx_make_digit(sptx_lowering *lowering, int64_t stride, int64_t size);

/* The set (or its complement) within `within`, as clauses whose union it is. */
void sptx_recognise(sptx_lowering *lowering, const sptx_set *set, bool negated, sptx_clause_list *out);
/* A `where` (or its complement) as clauses; parts that match no form stay opaque literals. */
void sptx_recognise_where(sptx_lowering *lowering, const sptx_set *set, bool negated, sptx_clause_list *out);
/* Whether i and j occur only in differences i - j, so that the value is the same along a diagonal. */
bool sptx_expr_is_of_distance(const sptx_expr *expr);
/* Appends a and b, multiplied out, to out. */
void sptx_clause_list_intersect(sptx_lowering *lowering, const sptx_clause_list *a, const sptx_clause_list *b,
                                sptx_clause_list *out);

/* Appends the clause's pieces; false (and nothing appended) where it has no band in any view. */
bool sptx_clause_to_bands(sptx_lowering *lowering, const sptx_clause *clause, sptx_piece_list *list);
/* One TILES piece of all the clauses, which are disjoint. */
enum sptx_code sptx_clauses_to_tiles(sptx_lowering *lowering, const sptx_clause_list *clauses,
                                     sptx_piece *piece);
/* Exact number of pairs of a piece. */
enum sptx_code sptx_piece_count_pairs(const sptx_piece *piece, int64_t n_q, int64_t n_k, int64_t *pairs,
                                      sptx_error *error);

#endif
