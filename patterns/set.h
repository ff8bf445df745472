/* A resolved set of (query, key) pairs: the pattern language's algebra with every parameter a number, for
 * one head and one n. It is the input of lowering and, through sptx_set_contains, the ground truth.
 * Positions count keys: query i of n_q stands at position n_k - n_q + i (the last query meets the last key).
 */
#ifndef SPTX_PATTERNS_SET_H
#define SPTX_PATTERNS_SET_H

#include "patterns/error.h"
#include "patterns/expr.h"
#include <stdbool.h>
#include <stdint.h>

#define SPTX_GRID_MAX_AXES 4
/* The most positions a sequence may have, and the bound of each number in a set: their products of two fit
 * 128 bits, and sums never leave 64. */
#define SPTX_MAX_POSITIONS ((int64_t)1 << 40)
#define SPTX_MAX_LISTED ((int64_t)1 << 20) /* entries of columns.residues, global.at */

enum sptx_set_kind {
  SPTX_SET_ALL,
  SPTX_SET_WINDOW,
  SPTX_SET_STRIDE,
  SPTX_SET_BLOCK,
  SPTX_SET_COLUMNS,
  SPTX_SET_DILATED,
  SPTX_SET_GRID,
  SPTX_SET_GLOBAL,
  SPTX_SET_RANDOM,
  SPTX_SET_LAYOUT,
  SPTX_SET_WHERE,
  SPTX_SET_ANY,    /* union of children; empty union is the empty set */
  SPTX_SET_ALL_OF, /* intersection of children */
  SPTX_SET_NOT,    /* complement of children[0] */
};

typedef struct sptx_set {
  enum sptx_set_kind kind;
  union {
    struct {
      int64_t left, right;
    } window; /* -right <= i - j < left */
    struct {
      int64_t every, phase;
    } stride; /* (i - j - phase) mod every == 0, 0 <= phase < every */
    struct {
      int64_t size;
    } block; /* i div size == j div size */
    struct {
      int64_t every;
      int64_t *residues;
      int64_t residue_count;
    } columns; /* j mod every, ascending */
    struct {
      int64_t window, dilation;
    } dilated; /* dilation divides i - j, |i - j| < window * dilation */
    struct {
      int axes;
      int64_t shape[SPTX_GRID_MAX_AXES];
      bool along[SPTX_GRID_MAX_AXES];
    } grid;
    struct {
      int64_t *at;
      int64_t at_count;
      bool as_query, as_key;
    } global; /* at: ascending, distinct */
    struct {
      int64_t block, per_row;
      uint64_t seed;
      bool causal; /* draw from the blocks 0..query_block, whatever n is */
    } random;      /* key blocks of a query block: sptx_random_has_block */
    struct {
      int64_t block, rows, columns;
      unsigned char *cells;
    } layout; /* row-major 0/1, rows x columns */
    struct {
      sptx_expr *expr;
    } where; /* over SPTX_VARIABLE_QUERY and SPTX_VARIABLE_KEY */
  } as;
  struct sptx_set **children;
  int child_count;
  sptx_place place; /* of the YAML node, for messages */
} sptx_set;

/* *contains = (i, j) in set, for positions i, j >= 0; causality is not applied here. Fails only where a
 * `where` expression fails for these values. n is the number of keys. */
enum sptx_code sptx_set_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                 sptx_error *error);
enum sptx_code sptx_set_copy(const sptx_set *set, sptx_set **copy, sptx_error *error);
bool sptx_set_equal(const sptx_set *a, const sptx_set *b); /* structural */
size_t sptx_set_bytes(const sptx_set *set); /* memory of the set and all it owns, but `where` */
void sptx_set_free(sptx_set *set);          /* NULL is allowed */
/* Writes the set as YAML that resolves to an equal set, indented by indent spaces from the second line on. */
void sptx_set_print(const sptx_set *set, int indent, FILE *stream);

/* The fixed choice of `random`: whether key_block is among the per_row blocks of query_block, drawn without
 * replacement from the blocks 0..block_count-1 by a counter-based generator, so that it is the same on every
 * machine. A causal set passes query_block + 1 as block_count, another one ceil(n / block). */
bool sptx_random_has_block(uint64_t seed, int64_t per_row, int64_t block_count, int64_t query_block,
                           int64_t key_block);
/* The same choice listed: the key block drawn at `place`, 0 <= place < min(per_row, block_count). */
int64_t sptx_random_block_at(uint64_t seed, int64_t block_count, int64_t query_block, int64_t place);

#endif
