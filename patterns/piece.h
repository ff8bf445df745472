/* Pieces: what a set becomes when it is lowered. A piece is dense in its own view of the positions, and
 * kernels know nothing else about patterns. The pieces of one list are disjoint and cover the set exactly.
 *
 * A view writes a position as base + sum(digit * stride). Digits are split in two: the shared digits, on
 * which query and key agree (each value is an independent small attention), and the inner digits, along which
 * tiles run, compacted into one index x (query) or y (key) that grows with the position.
 *
 * Promises that kernels may rely on: lo and hi never fall as x grows; lo(x) may exceed hi(x), and then query
 * x has no key; both may lie outside the keys that exist; pieces that cover every query come first in a list.
 * The query view of a piece may leave out queries (sptx_piece_covers_queries): these rows it must not touch.
 * Where a piece has a predicate, no tile of it counts as full. */
#ifndef SPTX_PATTERNS_PIECE_H
#define SPTX_PATTERNS_PIECE_H

#include "patterns/error.h"
#include "patterns/pattern.h"
#include "patterns/set.h"
#include <stdbool.h>
#include <stdint.h>

#define SPTX_MAX_DIGITS 4

typedef struct sptx_view {
  int64_t base;
  int shared_count; /* equal in both views of a piece, as are the sizes */
  int64_t shared_size[SPTX_MAX_DIGITS], shared_stride[SPTX_MAX_DIGITS];
  int inner_count; /* outermost first; the outermost size is only a bound: positions end at n */
  int64_t inner_size[SPTX_MAX_DIGITS], inner_stride[SPTX_MAX_DIGITS];
} sptx_view;

/* f(x) = clamp(mult * floor((x + shift) / period) + clamp((x + shift) mod period - ramp_from, 0, ramp_max)
 *              + add, low, high).  Affine functions have period 1 and ramp_max 0. Monotonic in x. */
typedef struct sptx_bound {
  int64_t mult, shift, period, ramp_from, ramp_max, add, low, high;
} sptx_bound;

enum sptx_piece_kind {
  SPTX_PIECE_BAND,  /* the keys of inner query x are lo(x) <= y < hi(x), cut to the keys that exist */
  SPTX_PIECE_TILES, /* listed tiles of SPTX_GENERIC_TILE squared, full or with a bit mask */
};

#define SPTX_GENERIC_TILE 64

/* Tiles of a generic piece, by rows (tiles of queries), each row's tiles in ascending order of key tile.
 * mask -1 means full; else masks[mask * 64 + key] has bit q set where query q of the tile attends to key.
 * Positions outside the tensors are 0 in masks and never covered by a full tile. Equal masks stand once. */
typedef struct sptx_tile_list {
  int64_t query_tiles, key_tiles, tile_count, mask_count; /* query tile 0 starts at the first query */
  int64_t *row_start;                                     /* query_tiles + 1 */
  int32_t *key_tile;                                      /* tile_count */
  int32_t *mask;                                          /* tile_count */
  uint64_t *masks;                                        /* mask_count * SPTX_GENERIC_TILE */
} sptx_tile_list;

typedef struct sptx_piece {
  enum sptx_piece_kind kind;
  const char
      *name;     /* the primitive it came from, static text: "window", "stride", "columns", "generic" ... */
  char why[128]; /* generic or predicated: why no closed form was found; else "" */
  sptx_view query, key;
  sptx_bound lo, hi;    /* BAND */
  sptx_set *predicate;  /* BAND: NULL, or pairs also need membership of this set, evaluated on positions;
                           owned.  It contains no `where`, `random` or `layout`, so it never fails */
  sptx_tile_list tiles; /* TILES: over inner indices of the two views */
  int64_t pairs;        /* exact number of (query, key) pairs */
} sptx_piece;

typedef struct sptx_piece_list {
  sptx_piece *pieces;
  int count;
} sptx_piece_list;

/* Lowers one class of an instance. Closed forms cost O(1) memory; what has none becomes TILES. */
enum sptx_code sptx_lower(const sptx_instance *instance, int class_index, sptx_piece_list *list,
                          sptx_error *error);
void sptx_piece_clear(sptx_piece *piece); /* frees what it owns */
void sptx_piece_list_clear(sptx_piece_list *list);

/* Arithmetic that kernels, counting and tests share. `shared` is the flattened value of the shared digits,
 * last digit fastest. Ranges are half open and depend on the view because n need not be a multiple. */
int64_t sptx_view_shared_total(const sptx_view *view);
int64_t sptx_view_position(const sptx_view *view, int64_t shared, int64_t inner);
int64_t sptx_bound_at(const sptx_bound *bound, int64_t x);
/* The first x in [begin, end) whose bound lies above y; end if there is none. Bounds never fall. */
int64_t sptx_bound_first_above(const sptx_bound *bound, int64_t begin, int64_t end, int64_t y);
/* Inner indices x whose positions lie in [first, last); for queries first = n_k - n_q, last = n_k. */
void sptx_view_inner_range(const sptx_view *view, int64_t shared, int64_t first, int64_t last, int64_t *begin,
                           int64_t *end);
/* Whether every one of the n_q queries is a row of the piece (it may still have no key there). */
bool sptx_piece_covers_queries(const sptx_piece *piece, int64_t n_q, int64_t n_k);
/* Slow membership (query index i, key j) through the piece's own arithmetic (not the oracle): tests compare
 * the two. */
bool sptx_piece_contains(const sptx_piece *piece, int64_t n_q, int64_t n_k, int64_t i, int64_t j);

/* How a piece falls into tiles of the given size. computed_pairs counts whole non-empty tiles, cut at the
 * tensors' edges. Closed form or O(inner length), never O(n squared). */
typedef struct sptx_tile_counts {
  int64_t full, partial, computed_pairs;
} sptx_tile_counts;
enum sptx_code sptx_piece_count_tiles(const sptx_piece *piece, int64_t n_q, int64_t n_k, int64_t query_tile,
                                      int64_t key_tile, sptx_tile_counts *counts, sptx_error *error);

/* How many of the n_q queries have no key in any piece of the list. O(n) time and n_q bits of memory, but
 * rows of a predicated piece that no other piece covers are searched for a key. */
enum sptx_code sptx_piece_list_empty_rows(const sptx_piece_list *list, int64_t n_q, int64_t n_k,
                                          int64_t *count, sptx_error *error);
/* Where a position stands in a view: the inverse of sptx_view_position; false where the view leaves it out.
 */
bool sptx_view_locate(const sptx_view *view, int64_t position, int64_t *shared, int64_t *inner);

#endif
