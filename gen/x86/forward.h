/* Parts of the forward kernel that stand in files of their own or that the backward shares. */
#ifndef SPTX_GEN_X86_FORWARD_H
#define SPTX_GEN_X86_FORWARD_H

#include "gen/x86/emit.h"

/* One work item, decoded: which heads and queries, and where the tensors of its head begin. */
typedef struct sptx_x86_item {
  LLVMValueRef batch, head, kv_head; /* head: of the lanes, or of lane 0 in decode */
  LLVMValueRef first;                /* inner index of lane 0's query */
  sptx_x86_side queries, keys;
  LLVMValueRef bases[2]; /* k and v of this key/value head */
} sptx_x86_item;

/* item.c. Both fill the lanes' tables (positions, rows, bounds, slopes) and leave the kernel when the item
 * has nothing to do. */
void sptx_x86_tile_item(sptx_x86_emitter *e, sptx_x86_item *item);
void sptx_x86_decode_item(sptx_x86_emitter *e, sptx_x86_item *item);
/* base + batch * strides[0] + head * strides[1], strides in the parameter block at field. */
LLVMValueRef sptx_x86_head_base(sptx_x86_emitter *e, LLVMValueRef base, int64_t field, LLVMValueRef batch,
                                LLVMValueRef head);
/* *index % size, and *index /= size. */
LLVMValueRef sptx_x86_take_digit(sptx_x86_emitter *e, LLVMValueRef *index, LLVMValueRef size);
/* A field of sptx_x86_unit, and head `index` of the unit's table. */
LLVMValueRef sptx_x86_unit_field(sptx_x86_emitter *e, LLVMValueRef unit, size_t field);
LLVMValueRef sptx_x86_head_number(sptx_x86_emitter *e, LLVMValueRef unit, LLVMValueRef index);
void sptx_x86_key_bases(sptx_x86_emitter *e, sptx_x86_item *item);
/* Redirects the lanes' output_row and lse_row outside begin <= x < end to a row that nobody reads, and
 * input_row there, or everywhere without merge (i1), to zeros. */
void sptx_x86_guard_rows(sptx_x86_emitter *e, LLVMValueRef merge, LLVMValueRef first, LLVMValueRef begin,
                         LLVMValueRef end);
void sptx_x86_fill_slopes(sptx_x86_emitter *e, LLVMValueRef head);
/* backward.c: the accumulator of a gradient at its head: the output, or float32 in the workspace. field: d_q,
 * d_k or d_v of the parameter block. */
LLVMValueRef sptx_x86_accumulator(sptx_x86_emitter *e, int64_t field, size_t output, LLVMValueRef batch,
                                  LLVMValueRef head);
/* epilogue.c: the function of sptx_x86_bind's parameters that writes o and lse, merged with those of earlier
 * pieces. */
LLVMValueRef sptx_x86_emit_epilogue(sptx_x86_emitter *e);

/* keys.c */
/* void key_rows(positions, origin, first, count, padded, base, stride, table, copies, kept, copy, ahead,
 * ahead_last, ahead_most): of K or of V; see sptx_key_side. */
void sptx_x86_emit_key_rows(sptx_x86_emitter *e);
/* Entries begin .. end of a table in scratch become this row of scratch. */
void sptx_x86_point_rows(sptx_x86_emitter *e, int64_t table, LLVMValueRef begin, LLVMValueRef end,
                         int64_t row);
LLVMValueRef sptx_x86_block_padded(sptx_x86_emitter *e, LLVMValueRef count); /* to whole register blocks */
/* Fills key_position, key_row and value_row for the walk's tile of keys. */
void sptx_x86_key_rows(sptx_x86_emitter *e, const sptx_x86_side *keys, const sptx_x86_key_walk *walk,
                       LLVMValueRef k_base, LLVMValueRef v_base);
/* At the start of an item: scratch may hold copies of an earlier call's rows, and other than zeros in
 * zero_row. */
void sptx_x86_key_rows_begin(sptx_x86_emitter *e);

/* softmax.c */
/* void softmax(args, params, first query, scratch, the panel's first vector, first key, begin, end,
 * common_begin, common_end, bits): of a panel of a tile of keys. */
LLVMValueRef sptx_x86_emit_softmax(sptx_x86_emitter *e);
LLVMValueRef sptx_x86_lane_vector(sptx_x86_emitter *e, int64_t array, LLVMValueRef vector); /* its address */
LLVMValueRef sptx_x86_query_factor(sptx_x86_emitter *e);
/* Soft cap and ALiBi; *tangent (NULL allowed) is the cap's tanh. */
LLVMValueRef sptx_x86_adjust(sptx_x86_emitter *e, LLVMValueRef score, const sptx_x86_mask *mask,
                             LLVMValueRef vector, LLVMValueRef *tangent);
void sptx_x86_key_of(sptx_x86_emitter *e, const sptx_x86_key_walk *walk, LLVMValueRef query_first,
                     LLVMValueRef index, bool masked, sptx_x86_mask *mask);

int sptx_x86_main_rows(const sptx_x86_emitter *e); /* forward.c */

/* careful.c: products that leave masked pairs out, for tiles whose inputs are not all finite. */
/* i1 finite(rows, count): are all elements of the rows finite? */
LLVMValueRef sptx_x86_emit_finite(sptx_x86_emitter *e, enum sptx_element element);
/* void careful(rows, weights, output, count, queries): output[d][lane] += row[k][d] * weights[k][lane] where
 * the weight is not 0. */
LLVMValueRef sptx_x86_emit_careful(sptx_x86_emitter *e);
/* void careful_rows(weights, b, c_rows, count, queries): c_row[k][d] += weights[k][lane] * b[lane][d]
 * likewise; b has contiguous rows. */
LLVMValueRef sptx_x86_emit_careful_rows(sptx_x86_emitter *e);
/* i1: the tile is masked and its rows are not all finite. */
LLVMValueRef sptx_x86_if_not_finite(sptx_x86_emitter *e, LLVMValueRef finite, const sptx_x86_key_walk *walk,
                                    LLVMValueRef table);

#endif
