/* What plan.c calls to run a job with portable kernels, and what the planners of the passes share. */
#ifndef SPTX_GEN_PTX_PORTABLE_PLAN_H
#define SPTX_GEN_PTX_PORTABLE_PLAN_H

#include "gen/ptx/portable.h"

enum sptx_code sptx_portable_add_forward(sptx_gpu_planner *planner, const sptx_gpu_job *job,
                                         sptx_error *error);

/* Extent of a piece over all shared values: the widest range and the longest ranges of inner indices. */
typedef struct sptx_portable_extent {
  int64_t query_begin, query_end, queries, key_end, keys;
} sptx_portable_extent;

/* Everything in spec and params that depends on the piece and the problem only. */
enum sptx_code sptx_portable_params_begin(sptx_gpu_planner *planner, const sptx_piece *piece,
                                          sptx_portable_spec *spec, sptx_portable_params *params,
                                          sptx_portable_extent *extent, sptx_error *error);
/* Chooses warps, row_blocks and columns: the schedule's, else defaults. */
enum sptx_code sptx_portable_tiles(const sptx_gpu_planner *planner, sptx_portable_spec *spec,
                                   const sptx_portable_extent *extent, sptx_error *error);
void sptx_portable_row_tiles(const sptx_portable_spec *spec, int64_t begin, int64_t end, int64_t longest,
                             sptx_portable_params *params);
/* Tile tables by lines (rows or columns of tiles); masks stand once. */
enum sptx_code sptx_portable_add_tiles(sptx_gpu_planner *planner, const sptx_tile_list *tiles, int64_t lines,
                                       const int32_t *start, const int32_t *index, const int32_t *mask,
                                       sptx_portable_params *params, sptx_error *error);
void sptx_portable_symbol(const sptx_portable_spec *spec, char *symbol, size_t size);
enum sptx_code sptx_portable_launch(sptx_gpu_planner *planner, const sptx_portable_spec *spec,
                                    const sptx_portable_params *params,
                                    enum sptx_code (*emit)(struct sptx_gpu_emitter *, const char *,
                                                           const void *, sptx_error *),
                                    sptx_error *error);

#endif
