/* The order of a Hopper backward launch: which query blocks each key tile meets, and, where dQ is carried,
 * runs of key tiles that one CTA takes one after the other. */
#ifndef SPTX_GEN_PTX_HOPPER_RUNS_H
#define SPTX_GEN_PTX_HOPPER_RUNS_H

#include "gen/ptx/hopper_backward.h"

typedef struct sptx_hopper_runs {
  sptx_hopper_block_range *ranges;
  int64_t range_count;
  int32_t
      *first; /* run_count + 1 entries: where each run's ranges begin; NULL where each tile is its own run */
  int64_t run_count;
  int64_t carry_blocks; /* a power of two: the most query blocks that are carried at a time */
} sptx_hopper_runs;

/* One range for each key tile. every: also the blocks whose queries have no key here, for a kernel that
 * stores dQ. */
enum sptx_code sptx_hopper_tile_ranges(const sptx_hopper_part *part, bool every, sptx_hopper_runs *runs,
                                       sptx_error *error);
/* Runs for `lanes` independent problems; run_count 0 where carrying dQ does not pay: the longest queue of a
 * multiprocessor would be much longer than its share, or too much would be carried to stay in the cache. */
enum sptx_code sptx_hopper_carry_runs(const sptx_hopper_part *part, int64_t lanes, int head_dim,
                                      sptx_hopper_runs *runs, sptx_error *error);
void sptx_hopper_runs_clear(sptx_hopper_runs *runs);

#endif
