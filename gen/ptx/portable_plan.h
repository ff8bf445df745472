/* What plan.c calls to run a job with portable kernels, and what the planners of the passes share. */
#ifndef SPTX_GEN_PTX_PORTABLE_PLAN_H
#define SPTX_GEN_PTX_PORTABLE_PLAN_H

#include "gen/ptx/portable.h"

enum sptx_code sptx_portable_add_forward(sptx_gpu_planner *planner, const sptx_gpu_job *job,
                                         sptx_error *error);

/* The gradients of one class of heads. d_*_offset of the job and the rest of it are filled in here. mixed:
 * key heads are shared with other classes, so that dK and dV are sums over classes, too: they are added to
 * the float32 scratch at job->d_k_offset and d_v_offset, which the caller clears and converts. */
enum sptx_code sptx_portable_add_backward(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                          const sptx_gpu_job *job, bool mixed, sptx_error *error);

/* Decode of one class of heads: all its pieces (there may be none), and what combines them. */
enum sptx_code sptx_portable_add_decode(sptx_gpu_planner *planner, const sptx_piece_list *list,
                                        const sptx_gpu_job *job, sptx_error *error);

/* The key heads that a class's query heads read, each with its query heads, at most so many at a time: the
 * table of D_KV and DECODE kernels, see sptx_portable_params. */
typedef struct sptx_portable_key_heads {
  int32_t *table, *list; /* list: the key heads alone */
  int64_t count, offset;
} sptx_portable_key_heads;
enum sptx_code sptx_portable_find_key_heads(sptx_gpu_planner *planner, const sptx_gpu_job *job, int32_t most,
                                            sptx_portable_key_heads *keys, sptx_error *error);
void sptx_portable_free_key_heads(sptx_portable_key_heads *keys); /* also after a failure */

/* Extent of a piece over all shared values: the widest range and the longest ranges of inner indices. */
typedef struct sptx_portable_extent {
  int64_t query_begin, query_end, queries, key_begin, key_end, keys;
} sptx_portable_extent;

/* What depends on the problem only: strides, sizes, type. */
enum sptx_code sptx_portable_fill_problem(const sptx_gpu_planner *planner, sptx_portable_spec *spec,
                                          sptx_portable_params *params, sptx_error *error);
/* Everything in spec and params that depends on the piece and the problem only. */
enum sptx_code sptx_portable_params_begin(sptx_gpu_planner *planner, const sptx_piece *piece,
                                          sptx_portable_spec *spec, sptx_portable_params *params,
                                          sptx_portable_extent *extent, sptx_error *error);
/* Chooses warps, row_blocks and columns: the schedule's, else defaults. */
enum sptx_code sptx_portable_tiles(const sptx_gpu_planner *planner, sptx_portable_spec *spec,
                                   const sptx_portable_extent *extent, sptx_error *error);
/* Tiles of rows. Those of keys and of lists are counted from inner index 0, those of queries in bands from
 * the first query of each shared value. */
void sptx_portable_row_tiles(const sptx_portable_spec *spec, const sptx_portable_extent *extent,
                             sptx_portable_params *params);
/* Tile tables by lines (rows or columns of tiles); masks stand once. */
enum sptx_code sptx_portable_add_tiles(sptx_gpu_planner *planner, const sptx_tile_list *tiles, int64_t lines,
                                       const int32_t *start, const int32_t *index, const int32_t *mask,
                                       sptx_portable_params *params, sptx_error *error);
enum sptx_code sptx_portable_add_tile_rows(sptx_gpu_planner *planner, const sptx_tile_list *tiles,
                                           sptx_portable_params *params, sptx_error *error);
enum sptx_code sptx_portable_launch(sptx_gpu_planner *planner, const sptx_portable_spec *spec,
                                    const sptx_portable_params *params,
                                    enum sptx_code (*emit)(struct sptx_gpu_emitter *, const char *,
                                                           const void *, sptx_error *),
                                    sptx_error *error);

#endif
