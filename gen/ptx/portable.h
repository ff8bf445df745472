/* Portable GPU kernels (sm_80 and later): mma.sync on tiles in shared memory, filled by cp.async. Inside
 * gen/ptx. One generator writes forward, dQ and dK/dV kernels; this header holds what they share.
 *
 * A warp owns 16 * row_blocks rows of the CTA's tile: queries in the forward and dQ kernels, keys in the
 * dK/dV kernel. Columns (keys, or queries) come in tiles of `columns`. Accumulators are those of mma.m16n8:
 * lane = 4 g + t holds, for each block of 8 columns, (row g, columns 2t, 2t + 1) and (row g + 8, the same
 * columns). Sums over softmax rows follow Milakov and Gimelshein 2018 (online softmax); gradients follow Dao
 * et al. 2022, appendix B (FlashAttention). */
#ifndef SPTX_GEN_PTX_PORTABLE_H
#define SPTX_GEN_PTX_PORTABLE_H

#include "gen/ptx/emitter.h"
#include "gen/ptx/planner.h"
#include "patterns/set.h"

#define SPTX_PORTABLE_MAX_COLUMNS 128
#define SPTX_DECODE_MAX_GROUP 4
#define SPTX_LOG2_E 1.4426950408889634

enum sptx_portable_role {
  SPTX_PORTABLE_FORWARD,
  SPTX_PORTABLE_D_Q,
  SPTX_PORTABLE_D_KV,
  SPTX_PORTABLE_DECODE,
};

enum sptx_portable_bound_kind {
  SPTX_BOUND_CONSTANT, /* does not depend on x */
  SPTX_BOUND_AFFINE,   /* clamp(mult * x + add, low, high) */
  SPTX_BOUND_GENERAL,
};

enum sptx_portable_f32 { SPTX_F32_TF32X3 = 1, SPTX_F32_FFMA = 2, SPTX_F32_TF32 = 3 };

/* What a kernel is specialised on. Zero bytes first: specs are compared through their symbols. */
typedef struct sptx_portable_spec {
  enum sptx_portable_role role;
  enum sptx_element element;
  enum sptx_portable_f32 f32_mode;
  int head_dim, warps, row_blocks, columns;
  int stages; /* gradients: column tiles in shared memory, 1 or 2 */
  enum sptx_piece_kind kind;
  enum sptx_portable_bound_kind lo, hi;
  int query_digits, key_digits;
  int view_digits; /* DECODE: of the query view, shared ones too */
  int group;       /* DECODE: query heads of one key head that a CTA does together */
  bool soft_cap, alibi, negative_scale, merge;
  bool want_d_k, want_d_v;   /* D_KV: which of the two this kernel computes */
  bool add, final;           /* gradients: see sptx_gpu_job */
  bool loose;                /* rows may start between multiples of 16 bytes */
  bool hold_rows;            /* keep the row operand (Q) in registers for the whole loop */
  const sptx_set *predicate; /* or NULL; owned by the plan */
} sptx_portable_spec;

/* A bound in 32 bits; see sptx_bound. */
typedef struct sptx_portable_bound {
  int32_t mult, shift, period, ramp_from, ramp_max, add, low, high;
} sptx_portable_bound;

/* One value of the shared digits: ranges of the inner indices and the positions of inner index 0. */
typedef struct sptx_portable_shared {
  int32_t query_begin, query_end, key_begin, key_end, query_base, key_base, unused[2];
} sptx_portable_shared;

/* D_KV, BAND: the queries that attend to a tile of keys, and those among them that attend to all of it. */
typedef struct sptx_portable_range {
  int32_t first, full_first, full_last, last;
} sptx_portable_range;

/* DECODE: a digit of the query view, by falling stride, and its weight in the shared and the inner index. */
typedef struct sptx_portable_digit {
  int32_t size, stride, shared_weight, inner_weight;
} sptx_portable_digit;

/* The parameter block. Byte strides of (batch, head, position); offsets into constants and workspace. */
typedef struct sptx_portable_params {
  int64_t q[3], k[3], v[3], o[3];
  int64_t head_table; /* int32 query heads; D_KV, DECODE: {kv head, first, count} triples, heads after them */
  int64_t shared_table;                             /* sptx_portable_shared of each value */
  int64_t tile_start, tile_index, tile_mask, masks; /* TILES */
  int64_t range_table;                              /* D_KV, BAND: sptx_portable_range of tile 0 */
  int64_t delta, scratch, scratch_v;                /* workspace: D; dQ or dK; dV */
  int32_t heads_here, shared_total, tiles, heads, kv_heads, n_q, n_k, first_tile;
  int32_t query_size[SPTX_MAX_DIGITS], query_stride[SPTX_MAX_DIGITS];
  int32_t key_size[SPTX_MAX_DIGITS], key_stride[SPTX_MAX_DIGITS];
  sptx_portable_bound lo, hi;
  /* DECODE: the query view; CTAs that share a query's keys; this piece's first part of the query's `slots`.
   */
  int32_t query_view_base, splits, first_slot, slots;
  sptx_portable_digit digits[2 * SPTX_MAX_DIGITS];
  int64_t partial_out, partial_sum; /* workspace: see portable_decode.c */
} sptx_portable_params;

/* A kernel while it is written. */
typedef struct sptx_portable {
  sptx_gpu_emitter *e;
  const sptx_portable_spec *spec;
  bool columns_are_keys;
  int element_bytes, padded_dim, row_bytes, threads, rows;
  sptx_value thread, lane, warp, group, quad; /* group = lane / 4, quad = lane % 4 */
  sptx_value shared;                          /* first byte of shared memory */
  sptx_value batch, head, kv_head, head_index, tile;
  sptx_value query_begin, query_end, key_begin, key_end, query_base, key_base;
} sptx_portable;

/* ---- portable_tile.c: work items, views, bounds, loading, masks ---- */

size_t sptx_portable_shared_bytes(const sptx_portable_spec *spec);
/* Begins the kernel and decodes the work item: everything in sptx_portable but kv_head and head of D_KV. */
void sptx_portable_begin(sptx_portable *p, sptx_gpu_emitter *e, const char *symbol,
                         const sptx_portable_spec *spec);
/* The CTA's shared value. */
void sptx_portable_shared_value(sptx_portable *p, sptx_value index);
sptx_value sptx_param32(sptx_portable *p, size_t offset);
sptx_value sptx_param64(sptx_portable *p, size_t offset);
#define SPTX_PARAM32(p, field) sptx_param32(p, offsetof(sptx_portable_params, field))
#define SPTX_PARAM64(p, field) sptx_param64(p, offsetof(sptx_portable_params, field))
#define SPTX_ARG(p, type, field) sptx_load_arg((p)->e, (p)->e->type, offsetof(sptx_gpu_args, field))
sptx_value sptx_constant_i32(sptx_portable *p, sptx_value table, sptx_value index); /* int32 of a table */
sptx_value sptx_query_position(sptx_portable *p, sptx_value x);
sptx_value sptx_key_position(sptx_portable *p, sptx_value y);
/* lo or hi of query x, cut to the keys that exist. */
sptx_value sptx_bound_lo(sptx_portable *p, sptx_value x);
sptx_value sptx_bound_hi(sptx_portable *p, sptx_value x);
/* Address of row 0 of the item's (batch, head) in a tensor; strides at params offset. */
sptx_value sptx_tensor_rows(sptx_portable *p, sptx_value base, size_t strides, sptx_value head);
/* Byte address of a position's row; queries start at position n_k - n_q. */
sptx_value sptx_query_row(sptx_portable *p, sptx_value rows, size_t strides, sptx_value x);
sptx_value sptx_key_row(sptx_portable *p, sptx_value rows, size_t strides, sptx_value y);
/* A tensor of queries or keys: address of row 0 of the item's (batch, head), strides at params offset. */
typedef struct sptx_portable_tensor {
  sptx_value rows;
  size_t strides;
  bool query;
} sptx_portable_tensor;
/* cp.async of `count` rows from inner index first on, zeros for those that do not exist; not committed. */
void sptx_load_tile(sptx_portable *p, sptx_value to, int count, sptx_portable_tensor tensor,
                    sptx_value first);
/* cp.async of 4 bytes; 0 where not valid. */
void sptx_copy_word(sptx_portable *p, sptx_value to, sptx_value from, sptx_value valid);
void sptx_async_commit(sptx_portable *p);
void sptx_async_wait(sptx_portable *p); /* all groups of this thread */
sptx_value sptx_load_shared_f32(sptx_portable *p, sptx_value address);
void sptx_load_shared_pair(sptx_portable *p, sptx_value address, sptx_value out[2]);
/* Two floats to two elements in one 32-bit word (16-bit types). */
sptx_value sptx_portable_pack(sptx_portable *p, sptx_value low, sptx_value high);
/* Two neighbouring elements of a type in global memory as floats. */
void sptx_load_pair(sptx_portable *p, enum sptx_element element, sptx_value address, sptx_value out[2]);
void sptx_store_pair(sptx_portable *p, enum sptx_element element, sptx_value address, sptx_value a,
                     sptx_value b);

/* The score of an accumulator element in units of log2: scale, soft cap, ALiBi. *slope of the cap is the
 * derivative of the capped score by the scaled score, for gradients; may be NULL. */
typedef struct sptx_score {
  sptx_value scale_log2, scale, cap, inverse_cap, slope_log2;
} sptx_score;
sptx_score sptx_score_begin(sptx_portable *p, sptx_value head);
sptx_value sptx_score_apply(sptx_portable *p, const sptx_score *score, sptx_value raw,
                            sptx_value key_minus_query, sptx_value *slope);
/* What a score is multiplied with before 2^x: raw products still need the scale, changed scores do not. */
sptx_value sptx_score_factor(sptx_portable *p, const sptx_score *score);
/* Whether scores are scaled before the greatest is looked for, not after. */
bool sptx_scales_first(const sptx_portable_spec *spec);

/* ---- portable_mma.c: matrix products ---- */

#define SPTX_MAX_BLOCKS 32 /* column blocks of 8 */

/* acc[row_blocks][blocks][4] */
typedef struct sptx_accumulator {
  int blocks;
  sptx_value at[2][SPTX_MAX_BLOCKS][4];
} sptx_accumulator;

typedef struct sptx_fragment {
  sptx_value hi[4], lo[4];
} sptx_fragment;

/* The row operand of one warp, read from shared memory once: [row block][step]. */
typedef struct sptx_held_rows {
  sptx_fragment at[2][32];
} sptx_held_rows;

void sptx_hold_rows(sptx_portable *p, sptx_value tile, sptx_held_rows *held);
/* acc = rows * columns^T: both tiles hold head_dim values a row; held may be NULL. */
void sptx_product_nt(sptx_portable *p, sptx_accumulator *acc, sptx_value rows, const sptx_held_rows *held,
                     sptx_value columns);
/* acc += weights * columns: weights is [rows][spec->columns] in accumulator layout, acc [rows][head_dim]. */
void sptx_product_nn(sptx_portable *p, sptx_accumulator *acc, const sptx_accumulator *weights,
                     sptx_value columns);

/* ---- portable_rows.c: the rows of a CTA, the columns they need, masks ---- */

/* Rows are queries and columns keys, or the other way round (D_KV); both are inner indices of their views.
 * Since bounds never fall, the columns of a row are a range either way. */
typedef struct sptx_portable_rows {
  sptx_value first_row;
  sptx_value begin[2][2], span[2][2]; /* BAND: columns of this lane's rows: column - begin < span, unsigned */
  sptx_value position[2][2];          /* where the score or a predicate asks for it */
  sptx_value full_begin, full_end;    /* BAND: column tiles inside are full */
  sptx_value step_begin, step_end;    /* BAND: first column of a step; TILES: part of a listed tile */
  int step_size;
} sptx_portable_rows;

/* The CTA's first row and its steps: what tells whether there is work. */
void sptx_rows_steps(sptx_portable *p, sptx_portable_rows *rows);
/* The ranges and positions of this lane's rows. Rows that do not exist have no columns. */
void sptx_rows_begin(sptx_portable *p, sptx_portable_rows *rows);
sptx_value sptx_row_inner(sptx_portable *p, const sptx_portable_rows *rows, int block, int half);
/* First column of a step; beyond the last step, some column. */
sptx_value sptx_step_column(sptx_portable *p, const sptx_portable_rows *rows, sptx_value step);
/* Scores in log2 units where a score change is wanted; else they stay raw. slope: as s, or NULL. */
void sptx_rows_scores(sptx_portable *p, const sptx_portable_rows *rows, const sptx_score *score,
                      sptx_accumulator *s, sptx_value column, sptx_accumulator *slope);
/* Is the pair of positions in the piece's predicate (spec->predicate is not NULL)? */
sptx_value sptx_predicate_holds(sptx_portable *p, sptx_value query, sptx_value key);
/* Elements that are no pairs of the piece become fill; full tiles skip the work. */
void sptx_rows_mask(sptx_portable *p, const sptx_portable_rows *rows, sptx_accumulator *s, sptx_value step,
                    sptx_value column, double fill);

/* ---- kernels ---- */
enum sptx_code sptx_emit_portable_forward(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                          sptx_error *error);
enum sptx_code sptx_emit_portable_gradient(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                           sptx_error *error);
enum sptx_code sptx_emit_portable_decode(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                         sptx_error *error);
enum sptx_code sptx_emit_portable_combine(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                          sptx_error *error);

#endif
