/* How a Hopper launch shares its items out: each item goes to one CTA, once, and causal work about evenly. */
#include "gen/ptx/hopper_tile.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct taken {
  long long *times; /* of each (lane, row) */
  double longest, mean;
} taken;

/* What kernels do with the parameters (sptx_item_loop_begin, sptx_item_decode). */
static taken take_items(const sptx_hopper_params *p, const int64_t *costs) {
  taken t = {.times = calloc((size_t)p->lanes * (size_t)p->query_tiles, sizeof *t.times)};
  for (int32_t cta = 0; cta < p->ctas; cta++) {
    double sum = 0;
    int32_t turn = 0;
    for (int32_t round = 0; round < p->items; round += p->ctas, turn = !turn) {
      int32_t index = round + (turn ? p->ctas - 1 - cta : cta), number = index / p->group_items;
      int32_t first = number * p->lane_group, place = index % p->group_items;
      int32_t width = p->lanes - first < p->lane_group ? p->lanes - first : p->lane_group;
      if (place >= width * p->query_tiles)
        continue;
      t.times[(size_t)(first + place % width) * (size_t)p->query_tiles + (size_t)(place / width)]++;
      sum += costs ? (double)costs[place / width] : 1;
    }
    t.longest = sum > t.longest ? sum : t.longest;
    t.mean += sum / p->ctas;
  }
  return t;
}

static sptx_hopper_params fill(int64_t tiles, int64_t lanes, int64_t lane_bytes, const int64_t *costs) {
  sptx_problem problem = {.batch = 1};
  sptx_hopper_part part = {.shared_count = 1};
  sptx_hopper_params params = {.head_count = (int32_t)lanes};
  sptx_hopper_tiling tiling = {
      .tiles = tiles, .consumers = 2, .ctas = 1, .lane_bytes = lane_bytes, .costs = costs};
  sptx_error error;
  cr_assert_eq(sptx_hopper_fill_items(&problem, &part, &tiling, &params, &error), SPTX_CODE_OK);
  return params;
}

Test(hopper_items, each_is_taken_once) {
  unsigned seed = (unsigned)time(NULL);
  printf("seed %u\n", seed);
  srand(seed);
  for (int trial = 0; trial < 300; trial++) {
    int64_t tiles = 1 + rand() % (trial % 2 ? 8 : 300), lanes = 1 + rand() % (trial % 3 ? 20 : 700);
    int64_t *costs = malloc((size_t)tiles * sizeof *costs);
    for (int64_t i = 0; i < tiles; i++)
      costs[i] = 1 + rand() % 100;
    sptx_hopper_params p = fill(tiles, lanes, 1 + rand() % 100000000, trial % 5 ? costs : NULL);
    taken t = take_items(&p, costs);
    cr_assert_eq(p.items % p.ctas, 0);
    for (int64_t i = 0; i < lanes * tiles; i++)
      cr_assert_eq(t.times[i], 1, "%lld tiles, %lld lanes: item %lld is taken %lld times", (long long)tiles,
                   (long long)lanes, (long long)i, t.times[i]);
    free(t.times);
    free(costs);
  }
}

Test(hopper_items, causal_work_ends_about_evenly) {
  static const int64_t lanes[] = {8, 16, 24, 32, 40, 64, 128}, tiles[] = {32, 64, 86, 96, 128, 171, 512};
  for (size_t i = 0; i < sizeof lanes / sizeof *lanes; i++)
    for (size_t k = 0; k < sizeof tiles / sizeof *tiles; k++) {
      int64_t costs[512];
      for (int64_t row = 0; row < tiles[k]; row++)
        costs[row] = tiles[k] - row;
      if (lanes[i] * tiles[k] < 4 * SPTX_HOPPER_MULTIPROCESSORS)
        continue; /* fewer items than can end evenly */
      sptx_hopper_params p = fill(tiles[k], lanes[i], tiles[k] * 32768, costs);
      taken t = take_items(&p, costs);
      cr_expect_leq(t.longest, 1.1 * t.mean, "%lld lanes of %lld tiles: %g of %g, groups of %d",
                    (long long)lanes[i], (long long)tiles[k], t.longest, t.mean, p.lane_group);
      free(t.times);
    }
}

Test(hopper_items, too_many_are_refused) {
  sptx_problem problem = {.batch = 1 << 12};
  sptx_hopper_part part = {.shared_count = 1 << 12};
  sptx_hopper_params params = {.head_count = 1 << 4};
  sptx_hopper_tiling tiling = {.tiles = 4, .consumers = 2, .ctas = 1, .lane_bytes = 1};
  sptx_error error;
  cr_assert_eq(sptx_hopper_fill_items(&problem, &part, &tiling, &params, &error), SPTX_CODE_UNSUPPORTED);
}
