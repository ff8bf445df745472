/* The emitter's state and the pieces that x86 kernels are put together from. Vectors have one query in each
 * lane: scores are kept transposed, [key][query], so that maxima, sums and rescaling need no lane crossing.
 */
#ifndef SPTX_GEN_X86_EMIT_H
#define SPTX_GEN_X86_EMIT_H

#include "gen/ir.h"
#include "gen/x86/kernel.h"

/* Functions that depend on no more of a shape than element type, instruction set and head dimension are
 * common to many kernels: where this module finds them. */
enum sptx_x86_commons {
  SPTX_X86_COMMONS_INSIDE,   /* here, for this module alone */
  SPTX_X86_COMMONS_EXPORTED, /* here, for the kernels of other modules */
  SPTX_X86_COMMONS_OUTSIDE,  /* in a module that exports them */
};

typedef struct sptx_x86_emitter {
  sptx_ir ir;
  const sptx_x86_shape *shape;
  enum sptx_x86_mutant mutant;
  sptx_x86_layout layout;
  char prefix[160];
  enum sptx_x86_products products;
  enum sptx_x86_commons commons;
  char common_prefix[64];
  unsigned lanes; /* float32 lanes of a vector */
  int query_tile, key_tile, dim, rows, vectors;
  int panel; /* forward: queries that stand side by side in q, scores and output of scratch */
  LLVMTypeRef element, vector; /* the tensors' type; <lanes x float> */
  LLVMValueRef args, params, item, scratch;
  LLVMValueRef view_origin, view_below, view_positions, view_rows; /* emitted functions, walk.c */
  LLVMValueRef fill_bound;                                         /* band.c */
  LLVMValueRef key_rows;                                           /* keys.c */
  LLVMValueRef pack, unpack, unpack_running, copy_rows;            /* rows.c */
  LLVMValueRef pair_rows;                                          /* pairs.c */
  LLVMValueRef fetch, ask;                                         /* fetch.c */
} sptx_x86_emitter;

/* emit.c: access and mathematics */
void sptx_x86_emitter_begin(sptx_x86_emitter *e, LLVMModuleRef module, const sptx_x86_shape *shape,
                            const char *symbol, enum sptx_x86_commons commons, enum sptx_x86_mutant mutant);
void sptx_x86_emitter_kernel(sptx_x86_emitter *e, const char *symbol); /* opens the exported function */
/* Takes args, params, item and scratch from the parameters of the function being written. */
void sptx_x86_bind(sptx_x86_emitter *e);
/* An internal function "symbol.name"; result void. */
LLVMValueRef sptx_x86_local_function(sptx_x86_emitter *e, const char *name, LLVMTypeRef result,
                                     const LLVMTypeRef *parameters, unsigned count);
/* A common function: true when its body is to be written now. */
bool sptx_x86_common_function(sptx_x86_emitter *e, const char *name, LLVMTypeRef result,
                              const LLVMTypeRef *parameters, unsigned count, LLVMValueRef *function);
/* A local function whose first parameters are those of sptx_x86_bind, bound; `more` types follow. void. */
LLVMValueRef sptx_x86_bound_function(sptx_x86_emitter *e, const char *name, const LLVMTypeRef *more,
                                     unsigned count);
LLVMValueRef sptx_x86_call(sptx_x86_emitter *e, LLVMValueRef function, LLVMValueRef *arguments,
                           unsigned count);
LLVMValueRef sptx_x86_arg(sptx_x86_emitter *e, int64_t byte_offset, LLVMTypeRef type);
LLVMValueRef sptx_x86_param(sptx_x86_emitter *e, int64_t byte_offset); /* i64 */
LLVMValueRef sptx_x86_table(sptx_x86_emitter *e, int64_t field);       /* pointer to a table */
LLVMValueRef sptx_x86_scratch(sptx_x86_emitter *e, int64_t offset);
int64_t sptx_x86_element_bytes(enum sptx_element element);

/* 2^x for x <= 0 (or NaN): relative error below 3e-7, exactly 0 for -inf. */
LLVMValueRef sptx_x86_exp2(sptx_x86_emitter *e, LLVMValueRef x);
/* log2(x) for normal x > 0, error below 2e-7 of max(1, |result|); NaN and inf stay what they are. */
LLVMValueRef sptx_x86_log2(sptx_x86_emitter *e, LLVMValueRef x);
/* tanh(y) for x = 2 log2(e) y; absolute error below 3e-7. */
LLVMValueRef sptx_x86_tanh(sptx_x86_emitter *e, LLVMValueRef x);
/* lanes floats from lanes elements and back (ties to even), any alignment. */
LLVMValueRef sptx_x86_load_floats(sptx_x86_emitter *e, enum sptx_element element, LLVMValueRef address,
                                  unsigned lanes);
void sptx_x86_store_floats(sptx_x86_emitter *e, enum sptx_element element, LLVMValueRef value,
                           LLVMValueRef address);

/* walk.c: from an item to positions, rows and bounds */
void sptx_x86_emit_view_functions(sptx_x86_emitter *e);
LLVMValueRef sptx_x86_origin(sptx_x86_emitter *e, int64_t view_field, LLVMValueRef shared);
LLVMValueRef sptx_x86_below(sptx_x86_emitter *e, int64_t view_field, LLVMValueRef limit);

/* One side (queries or keys) of a shared value: indices begin <= x < end exist. */
typedef struct sptx_x86_side {
  int64_t view_field;
  LLVMValueRef origin, begin, end;
} sptx_x86_side;
void sptx_x86_query_side(sptx_x86_emitter *e, LLVMValueRef shared, sptx_x86_side *side);
void sptx_x86_key_side(sptx_x86_emitter *e, LLVMValueRef shared, sptx_x86_side *side);
/* i32 positions of indices first .. first + count, cut to those that exist, to scratch at `target`. */
void sptx_x86_positions(sptx_x86_emitter *e, const sptx_x86_side *side, LLVMValueRef first,
                        LLVMValueRef count, LLVMValueRef target);
/* rows[k] = base + (positions[k] - first) * stride, for k < count rounded up to 8. */
void sptx_x86_rows(sptx_x86_emitter *e, LLVMValueRef positions, LLVMValueRef count, LLVMValueRef base,
                   LLVMValueRef stride, LLVMValueRef rows);
void sptx_x86_emit_bound(sptx_x86_emitter *e);
/* Fills low and width of the tile's lanes (queries first ..) from lo and hi, cut to the key side. */
void sptx_x86_bounds(sptx_x86_emitter *e, const sptx_x86_side *queries, const sptx_x86_side *keys,
                     LLVMValueRef first);

/* The mask of one vector of queries against one key: <lanes x i1>. */
typedef struct sptx_x86_mask {
  LLVMValueRef key_index;    /* i32, band */
  LLVMValueRef key_position; /* i32 */
  LLVMValueRef bits;         /* i64, listed: bit q of the tile of SPTX_GENERIC_TILE queries */
} sptx_x86_mask;
LLVMValueRef sptx_x86_mask_lanes(sptx_x86_emitter *e, const sptx_x86_mask *mask, LLVMValueRef vector_index);

/* The keys that any and that all of the queries of `count` lanes see by their bounds; empty when begin >=
 * end. */
typedef struct sptx_x86_range {
  LLVMValueRef begin, end, common_begin, common_end;
} sptx_x86_range;
void sptx_x86_lane_range(sptx_x86_emitter *e, LLVMValueRef first_lane, int count, sptx_x86_range *range);

/* The key tiles of a query tile, in order. Between begin and end: the tile's first key, how many keys it
 * has, whether any pair of it is masked, and where its bit masks stand (listed). */
typedef struct sptx_x86_key_walk {
  sptx_ir_loop loop;
  LLVMValueRef first, count, masked, bits;
} sptx_x86_key_walk;
void sptx_x86_key_walk_begin(sptx_x86_emitter *e, const sptx_x86_side *keys, LLVMValueRef query_first,
                             LLVMValueRef key_begin, LLVMValueRef key_end, sptx_x86_key_walk *walk);
void sptx_x86_key_walk_end(sptx_x86_emitter *e, sptx_x86_key_walk *walk);

/* rows.c: rows of tensors to tiles of scratch and back */
/* void pack(rows, float factor, target, queries): target[d][query] = factor * row[query][d]. */
void sptx_x86_emit_pack(sptx_x86_emitter *e);
/* Calls pack for the tile, panel by panel; target is scratch. */
void sptx_x86_pack(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef factor, int64_t target, int panel);
/* The function that writes out[query][d] = weight * output[d][query] + earlier * in[query][d] of a tile; `in`
 * is float32. */
LLVMValueRef sptx_x86_emit_unpack(sptx_x86_emitter *e, enum sptx_element element);
/* Calls it with the tables of scratch, panel by panel. */
void sptx_x86_unpack(sptx_x86_emitter *e, LLVMValueRef unpack, int panel);
/* void copy_rows(rows, count, target): rows become contiguous float32 rows at target, and the table points
 * at them. */
void sptx_x86_emit_copy_rows(sptx_x86_emitter *e);

/* fetch.c: rows of the next tile, fetched bit by bit while the present one is computed */
int64_t sptx_x86_fetch_bytes(int64_t rows); /* of a queue of so many rows */
void sptx_x86_emit_fetch(sptx_x86_emitter *e);
void sptx_x86_fetch(sptx_x86_emitter *e, LLVMValueRef queue); /* a few rows, if there are any */
void sptx_x86_fetch_begin(sptx_x86_emitter *e, int64_t rows); /* empties the queue of scratch */
/* Puts the first count rows, `ahead` bytes further on, into the queue, unless ahead is 0. */
void sptx_x86_ask(sptx_x86_emitter *e, LLVMValueRef queue, LLVMValueRef rows, LLVMValueRef count,
                  LLVMValueRef ahead);

/* product.c: C[row][lane] (+)= sum over k of A(row, k) * B[k][lane], the register-blocked inner kernel. */
typedef struct sptx_x86_product {
  const char *name;
  int rows, vectors, groups; /* of the register block; groups of `vectors` vectors side by side */
  unsigned lanes;
  bool a_by_k;     /* A(row, k) = a[k][row], else a[row][k] */
  int a_stride;    /* bytes; 0: a is a table of row pointers */
  int b_stride;    /* bytes; 0: b is a table of row pointers */
  int c_stride;    /* bytes; 0: c is a table of row pointers */
  bool accumulate; /* add to C; else overwrite it */
  bool rescale;    /* C = C * factor + the sum, or without a factor the sum alone */
  bool pairs;      /* elements of A and B are pairs of bfloat16: both halves' products are added */
  bool fetches;    /* each block takes rows from the queue that is the last argument */
} sptx_x86_product;
/* void f(a, b, c, i64 row_begin, i64 row_end, i64 k_count, i64 lane_offset in bytes, of b and c, for
 * rescale a pointer to the lanes' factors or NULL, for fetches the queue); k_count > 0. */
LLVMValueRef sptx_x86_emit_product(sptx_x86_emitter *e, const sptx_x86_product *product);

/* The families: each writes the whole exported function. */
void sptx_x86_emit_forward(sptx_x86_emitter *e, const char *symbol); /* decode, too */
void sptx_x86_emit_prepare(sptx_x86_emitter *e, const char *symbol);
void sptx_x86_emit_backward(sptx_x86_emitter *e, const char *symbol);
void sptx_x86_emit_finish(sptx_x86_emitter *e, const char *symbol);

#endif
