/* What the planner and the emitter of x86 kernels agree on: the shape that a kernel's code depends on, and
 * the parameter block that brings it everything else at run time. Private to gen/x86. */
#ifndef SPTX_GEN_X86_KERNEL_H
#define SPTX_GEN_X86_KERNEL_H

#include "gen/x86/plan.h"

/* The kernel families; build.c has one row for each. */
enum sptx_x86_family {
  SPTX_X86_FORWARD,
  SPTX_X86_DECODE,
  SPTX_X86_PREPARE,  /* before the backward: D = rowsum(dO * O), accumulators to zero */
  SPTX_X86_BACKWARD, /* one piece's part of all three gradients, added to the accumulators */
  SPTX_X86_FINISH,   /* after it: partial dQ summed in fixed order, rounded to the element type */
};

/* Everything that kernel code depends on. Equal shapes share one kernel and one symbol. */
typedef struct sptx_x86_shape {
  enum sptx_x86_family family;
  enum sptx_element element;
  sptx_x86_schedule schedule; /* no zeros left */
  int dim;
  bool listed; /* tiles from a list with bit masks; else a band */
  bool soft_cap, alibi;
  const sptx_set *predicate; /* NULL, or owned by the plan */
} sptx_x86_shape;

/* What the matrix products of a kernel are computed with. Of the last two, sums are float32 as well, but P
 * and dS are rounded to bfloat16, as K, Q, V and dO are already. */
enum sptx_x86_products {
  SPTX_X86_FLOATS, /* float32 multiply-adds */
  SPTX_X86_PAIRS,  /* AVX-512 BF16: pairs of bfloat16, vectors */
  SPTX_X86_TILES,  /* AMX: pairs of bfloat16, tile registers */
};
enum sptx_x86_products sptx_x86_products_of(const sptx_x86_shape *shape); /* pairs.c */

/* A view as generated code reads it. */
typedef struct sptx_x86_view {
  int64_t base, shared_count, shared_size[SPTX_MAX_DIGITS], shared_stride[SPTX_MAX_DIGITS];
  int64_t inner_count, inner_size[SPTX_MAX_DIGITS], inner_stride[SPTX_MAX_DIGITS];
} sptx_x86_view;

/* One digit of a position, by falling stride, for decode's way from a position to (shared, inner). */
typedef struct sptx_x86_digit {
  int64_t size, stride, shared_weight, inner_weight;
} sptx_x86_digit;

/* A launch's parameter block. Every field is an int64_t: generated code reads field k at byte 8 k. Tables
 * follow the struct; table fields are byte offsets from the block's start, so the block may be copied. */
typedef struct sptx_x86_params {
  int64_t n_q, n_k, batches, heads, kv_heads, group; /* group: query heads of one key/value head */
  int64_t tiles, shared_total;                       /* query tiles of one shared value (an upper bound) */
  int64_t unit_count, units;                         /* table: heads, or runs of heads (sptx_x86_unit) */
  int64_t tile_items, total_tiles;            /* forward: tiles of one item, and of all items together */
  int64_t merge;                              /* an earlier piece has written o and lse */
  int64_t read_running, write_running;        /* o is read from, written to the float32 workspace */
  int64_t running;                            /* byte offset of that workspace */
  int64_t q[3], k[3], v[3], o[3];             /* byte strides: batch, head, position */
  int64_t copy_k, copy_v;                     /* rows lie badly for the cache: copy each tile's */
  int64_t ahead_q, ahead_k, ahead_v, ahead_o; /* bytes to the rows of the item's next tile; 0: do not ask */
  int64_t ahead_last; /* its new keys lie beside this tile's last ones, else before the first */
  sptx_x86_view query_view, key_view;
  sptx_bound lo, hi;
  int64_t row_start, key_tile, mask, masks; /* tables of a tile list */
  int64_t query_tiles;                      /* rows of tiles in the list */
  int64_t digit_count;                      /* decode */
  sptx_x86_digit digits[2 * SPTX_MAX_DIGITS];
  int64_t chunks, chunk_keys;     /* backward: the keys of one shared value, split */
  int64_t delta;                  /* byte offset of D in the workspace */
  int64_t d_q[4], d_k[4], d_v[4]; /* accumulators: byte offset or -1 (the output), strides */
  int64_t d_q_partial, partials;  /* bytes from one dQ of ranges to the next; how many */
} sptx_x86_params;

/* A unit of heads that one item computes: heads[first .. first + count) share a key/value head. */
typedef struct sptx_x86_unit {
  int64_t first, count, kv_head, heads; /* heads: byte offset of the table of head numbers */
} sptx_x86_unit;

#define SPTX_X86_FIELD(name) ((int64_t)offsetof(sptx_x86_params, name))

/* The plan as its maker keeps it: the public part first, then each launch's shape. */
typedef struct sptx_x86_plan_data {
  sptx_x86_plan plan;
  sptx_x86_shape *shapes; /* launch_count */
  sptx_set **predicates;  /* owned copies */
  int predicate_count;
  sptx_problem problem;
  enum sptx_pass pass;
} sptx_x86_plan_data;

/* Byte offsets of a thread's scratch, all multiples of 64. */
typedef struct sptx_x86_layout {
  int64_t q, scores, output, maximum, sum, factor, low, width, query_position, slope;
  int64_t weight, earlier; /* of this piece's and the earlier pieces' output in the merged one */
  int64_t query_row, input_row, output_row, lse_row, key_row, value_row, key_position, keys, values;
  int64_t d_o, d_scores, queries, d_outputs, d_output_row, d_key_row, d_value_row, lse, delta;
  int64_t kept_keys, kept_values;      /* which rows stand in keys and values */
  int64_t fetch;                       /* queue of rows to ask for */
  int64_t zero_row, dump_row;          /* stand in for rows that are not read, not written */
  int64_t q_pairs, d_o_pairs;          /* [dim / 2][query], pairs of dims; of each panel */
  int64_t weight_pairs;                /* [key / 2][query], pairs of keys: of P, or dS in the backward */
  int64_t row_pairs;                   /* [key / 2][dim], pairs of keys: of V, or K in the backward */
  int64_t query_pairs, d_output_pairs; /* [query / 2][dim], pairs of queries: of Q and dO */
  int64_t p_rounded, d_s_rounded;      /* [key][query], bfloat16 */
  int64_t amx_keys, amx_value_rows, amx_transposed, amx_sums, amx_config;
  int64_t bytes;
} sptx_x86_layout;

void sptx_x86_layout_of(const sptx_x86_shape *shape, sptx_x86_layout *layout);
/* Queries of a tile that the forward computes together: as many as a register block holds, so that each block
 * meets only the keys of its own queries. AMX takes the whole tile. */
int sptx_x86_panel(const sptx_x86_shape *shape);
/* Fills the zeros of a schedule for a piece. piece may be NULL (kernels that belong to no piece). */
void sptx_x86_schedule_fill(sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                            const sptx_piece *piece);
enum sptx_code sptx_x86_schedule_check(const sptx_x86_schedule *schedule, const sptx_piece *piece,
                                       sptx_error *error);
/* What the names of the functions that this kernel has in common with others begin with. */
void sptx_x86_common_name(const sptx_x86_shape *shape, char *name, size_t size);
const char *sptx_x86_family_name(enum sptx_x86_family family);

/* Test switch: plants one known mistake in the generated code, to prove that tests see it. */
enum sptx_x86_mutant {
  SPTX_X86_SOUND,
  SPTX_X86_MUTANT_MASK,   /* the band's upper edge is one key too far */
  SPTX_X86_MUTANT_SCALE,  /* scores are not scaled */
  SPTX_X86_MUTANT_STRIDE, /* rows of keys use the stride of the queries */
  SPTX_X86_MUTANT_MERGE,  /* a later piece forgets the earlier ones' sum */
};

/* sptx_x86_plan_build with a planted mistake. */
enum sptx_code sptx_x86_plan_build_mutant(const sptx_x86_plan *plan, enum sptx_x86_mutant mutant,
                                          LLVMContextRef context, LLVMModuleRef *module, sptx_error *error);

#endif
