/* How a band piece becomes launches of Hopper kernels. Tensor maps need rectangles, so the values of the
 * shared digit fall into parts of equal inner lengths (at most three, where n is no multiple); each part is
 * one launch. This header also has the parameter block that all Hopper kernels read. */
#ifndef SPTX_GEN_PTX_HOPPER_PART_H
#define SPTX_GEN_PTX_HOPPER_PART_H

#include "gen/ptx/planner.h"

/* Inner indices and the shared value are counted from the part's first ones. */
typedef struct sptx_hopper_part {
  int64_t shared_first, shared_count;
  int64_t query_begin, query_count;
  int64_t key_count;
  sptx_bound lo, hi;
} sptx_hopper_part;

#define SPTX_HOPPER_MAX_PARTS 8

/* What kind of code computes a bound. */
enum sptx_hopper_bound { SPTX_HOPPER_NONE, SPTX_HOPPER_LINE, SPTX_HOPPER_RAMP };

/* One bound as kernels read it; every intermediate value fits 32 bits and shift makes x + shift positive. */
typedef struct sptx_hopper_bound_params {
  int32_t mult, shift, period, ramp_from, ramp_max, add, low, high;
} sptx_hopper_bound_params;

/* Work items are (lane, tile); a lane is (batch, head, group of shared values). Items run in groups of
 * lane_group lanes, each filled up with nothing to group_items, a multiple of the CTAs; of a group, the tiles
 * that come last in the view are first. */
typedef struct sptx_hopper_params {
  int32_t items, query_tiles, lanes, lane_group, group_items, ctas, shared_groups, head_count;
  int32_t heads, heads_per_kv;
  int32_t query_count, key_count, shared_count;
  int32_t key_run;              /* length of a run of keys (key views of two digits) */
  int32_t pack;                 /* packed: shared values in 64 rows */
  int32_t key_tiles;            /* tiles of keys */
  int32_t query_load, key_load; /* bytes that the copies of one query tile and one key tile bring */
  int64_t head_table;           /* byte offset in the constants of the class's heads, or -1: head = index */
  int32_t n_q;
  int32_t row_base, row_shared, row_inner; /* query index = base + shared * row_shared + x * row_inner */
  int64_t delta_offset;                    /* backward: bytes in the workspace */
  int64_t block_table;                     /* backward: bytes in the constants */
  int64_t run_table;                       /* the same: the first entry in it of each run, and the end */
  int64_t carry_offset; /* bytes in the workspace: carry_blocks blocks of dQ for each CTA */
  int32_t carry_blocks; /* a power of two */
  sptx_hopper_bound_params lo, hi;
} sptx_hopper_params;

/* Splits the piece; refuses pieces whose views no tensor map can express. */
enum sptx_code sptx_hopper_split(const sptx_problem *problem, const sptx_piece *piece,
                                 sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS], int *count,
                                 sptx_error *error);
enum sptx_hopper_bound sptx_hopper_lower_kind(const sptx_hopper_part *part);
enum sptx_hopper_bound sptx_hopper_upper_kind(const sptx_hopper_part *part);

/* Fills everything of params but the tiling (items .. shared_groups, pack, key_tiles) and backward's offsets.
 * head_table: -1 or the offset of the job's head list. */
void sptx_hopper_fill_params(const sptx_gpu_planner *planner, const sptx_gpu_job *job,
                             const sptx_hopper_part *part, int64_t head_table, sptx_hopper_params *params);
enum sptx_code sptx_hopper_head_table(sptx_gpu_planner *planner, const sptx_gpu_job *job, int64_t *offset,
                                      sptx_error *error);

/* Maps of a part: dimensions (head_dim, inner, shared or outer inner digit, head, batch), boxes of 64
 * elements by rows by repeats. Keys of two digits: rows is the tile, cut into runs. */
sptx_gpu_map sptx_hopper_query_map(const sptx_gpu_planner *planner, const sptx_piece *piece,
                                   const sptx_hopper_part *part, enum sptx_gpu_tensor tensor, int rows,
                                   int repeats);
sptx_gpu_map sptx_hopper_key_map(const sptx_gpu_planner *planner, const sptx_piece *piece,
                                 const sptx_hopper_part *part, enum sptx_gpu_tensor tensor, int rows,
                                 int repeats);
/* Whether tiles of this many keys fall on runs of the key view. */
bool sptx_hopper_tile_fits(const sptx_piece *piece, int rows);

/* Shared values that fit 64 rows of queries and of keys; 0 where packing gains nothing. */
int64_t sptx_hopper_pack(const sptx_piece *piece, const sptx_hopper_part *part);

/* The items of one lane. */
typedef struct sptx_hopper_tiling {
  int64_t tiles, consumers;
  int64_t pack;         /* of sptx_hopper_pack */
  int64_t ctas;         /* on each multiprocessor */
  int64_t lane_bytes;   /* what the tiles of a lane read again and again */
  const int64_t *costs; /* of the tiles, in the items' order; NULL: all alike */
} sptx_hopper_tiling;

/* Items, their order and the CTAs that take them; fails where 32 bits cannot count them. */
enum sptx_code sptx_hopper_fill_items(const sptx_problem *problem, const sptx_hopper_part *part,
                                      const sptx_hopper_tiling *tiling, sptx_hopper_params *params,
                                      sptx_error *error);
void sptx_hopper_finish_launch(sptx_gpu_launch *launch, const sptx_hopper_params *params, int consumers,
                               int shared_bytes);

#endif
