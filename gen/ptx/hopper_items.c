/* How the items of a Hopper launch are shared out to its CTAs: in groups of lanes whose tensors stay in the
 * L2 cache, the costliest first, there and back over the CTAs. How many lanes a group has decides how evenly
 * the last rounds end, which is worth up to half of a launch's time, so it is tried out here. */
#include "gen/ptx/hopper_tile.h"
#include "patterns/integer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define L2_BYTES (32.0 * (1 << 20)) /* of lanes in flight; each doubling beyond costs about a seventh */

typedef struct sharing {
  const sptx_hopper_tiling *tiling;
  int64_t lanes, ctas;
  double *of_cta, *total; /* costs */
} sharing;

static double cost_of(const sharing *s, int64_t row) {
  return s->tiling->costs ? (double)s->tiling->costs[row] : 1;
}

/* Adds what each CTA gets of `count` groups of `width` lanes, the first in round `round`; the next round. */
static int64_t add_groups(const sharing *s, int64_t count, int64_t width, int64_t rounds, int64_t round) {
  memset(s->of_cta, 0, (size_t)s->ctas * sizeof *s->of_cta);
  for (int64_t i = 0; i < width * s->tiling->tiles; i++) {
    int64_t place = i % s->ctas;
    s->of_cta[i / s->ctas % 2 ? s->ctas - 1 - place : place] += cost_of(s, i / width);
  }
  int64_t turned = rounds % 2 ? (count + round % 2) / 2 : round % 2 * count;
  for (int64_t c = 0; c < s->ctas; c++)
    s->total[c] += (double)(count - turned) * s->of_cta[c] + (double)turned * s->of_cta[s->ctas - 1 - c];
  return round + count * rounds;
}

/* The longest CTA's time by what it would be at best. A round costs about a hundredth of a tile even where it
 * finds nothing. */
static double waste(const sharing *s, int64_t group) {
  int64_t rounds = ceil_div(group * s->tiling->tiles, s->ctas), rest = s->lanes % group;
  memset(s->total, 0, (size_t)s->ctas * sizeof *s->total);
  int64_t round = add_groups(s, s->lanes / group, group, rounds, 0);
  if (rest)
    add_groups(s, 1, rest, rounds, round);
  double longest = 0, sum = 0, passes = (double)(round + (rest ? rounds : 0));
  for (int64_t c = 0; c < s->ctas; c++) {
    longest = fmax(longest, s->total[c]);
    sum += s->total[c];
  }
  double in_flight = fmax((double)group, (double)s->ctas / (double)s->tiling->tiles);
  double misses = fmax(0, log2(in_flight * (double)s->tiling->lane_bytes / L2_BYTES)) / 7;
  return (longest + 0.01 * passes) * (double)s->ctas / sum * (1 + misses);
}

/* Of powers of two, one and a half times them, and all lanes; groups of many rounds are all alike. */
static int64_t best_group(const sharing *s) {
  enum { MOST_ROUNDS = 64 };
  int64_t best = 1, next = 2;
  double least = waste(s, 1);
  for (int64_t group = 1; group < s->lanes && group * s->tiling->tiles < MOST_ROUNDS * s->ctas;) {
    group = min64(next, s->lanes);
    next = next & (next - 1) ? next / 3 * 4 : next / 2 * 3;
    double found = waste(s, group);
    if (found < 0.995 * least) {
      least = found;
      best = group;
    }
  }
  return best;
}

enum sptx_code sptx_hopper_fill_items(const sptx_problem *problem, const sptx_hopper_part *part,
                                      const sptx_hopper_tiling *tiling, sptx_hopper_params *params,
                                      sptx_error *error) {
  int64_t pack = tiling->pack, tiles = tiling->tiles;
  int64_t shared = pack ? ceil_div(part->shared_count, pack * tiling->consumers) : part->shared_count;
  int64_t lanes = shared * params->head_count * problem->batch;
  if (lanes > ((int64_t)1 << 29) / tiles)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "the Hopper kernels cannot count the tiles in 32 bits");
  int64_t ctas = min64(lanes * tiles, SPTX_HOPPER_MULTIPROCESSORS * tiling->ctas);
  double *costs = calloc((size_t)(2 * ctas), sizeof *costs);
  if (!costs)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  sharing s = {tiling, lanes, ctas, costs, costs + ctas};
  int64_t group = tiles == 1 ? lanes : best_group(&s);
  free(costs);
  params->query_tiles = (int32_t)tiles;
  params->shared_groups = (int32_t)shared;
  params->lanes = (int32_t)lanes;
  params->lane_group = (int32_t)group;
  params->group_items = (int32_t)(ceil_div(group * tiles, ctas) * ctas);
  params->items = (int32_t)(ceil_div(lanes, group) * params->group_items);
  params->ctas = (int32_t)ctas;
  params->pack = (int32_t)pack;
  return SPTX_CODE_OK;
}

void sptx_hopper_finish_launch(sptx_gpu_launch *launch, const sptx_hopper_params *params, int consumers,
                               int shared_bytes) {
  launch->grid[0] = (uint32_t)params->ctas;
  launch->grid[1] = launch->grid[2] = 1;
  launch->block = 128 * ((uint32_t)consumers + 1);
  launch->shared_bytes = (uint32_t)shared_bytes;
}
