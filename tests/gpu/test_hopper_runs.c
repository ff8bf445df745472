/* Runs of key tiles in the Hopper backward: each dQ block gets the parts of all tiles that it meets, once, in
 * one run, and each key tile's dK and dV are computed once, from all of its blocks. */
#include "gen/ptx/hopper_runs.h"
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdlib.h>

typedef struct window_case {
  int64_t n, left, right, lanes;
} window_case;

/* Query x sees keys [x - left + 1, x + right] of n. */
static sptx_hopper_part window_part(const window_case *c) {
  sptx_hopper_part part = {.shared_count = 1, .query_count = c->n, .key_count = c->n};
  part.lo = (sptx_bound){.mult = 1, .period = 1, .add = 1 - c->left, .low = 0, .high = c->n};
  part.hi = (sptx_bound){.mult = 1, .period = 1, .add = c->right + 1, .low = 0, .high = c->n};
  return part;
}

ParameterizedTestParameters(hopper_runs, add_up) {
  static window_case cases[] = {
      {16384, 128, 0, 16}, {16384, 128, 0, 9}, {16384, 300, 0, 64}, {5000, 1, 0, 70},
      {5000, 100, 50, 61}, {1000, 64, 0, 132}, {129, 128, 0, 132},  {70000, 257, 0, 32},
  };
  return cr_make_param_array(window_case, cases, sizeof cases / sizeof *cases, NULL);
}

ParameterizedTest(window_case *c, hopper_runs, add_up) {
  sptx_hopper_part part = window_part(c);
  sptx_hopper_runs tiles, runs;
  sptx_error error = {0};
  cr_assert(sptx_hopper_tile_ranges(&part, false, &tiles, &error) == SPTX_CODE_OK);
  cr_assert(sptx_hopper_carry_runs(&part, c->lanes, 64, &runs, &error) == SPTX_CODE_OK);
  cr_assert(runs.run_count > 0, "windows carry where lanes fill the device");
  int64_t blocks = (c->n + 63) / 64;
  int *met = calloc((size_t)blocks, sizeof *met), *sum = calloc((size_t)blocks, sizeof *sum);
  int *written = calloc((size_t)blocks, sizeof *written), *kept = calloc((size_t)blocks, sizeof *kept);
  int *owned = calloc((size_t)tiles.range_count, sizeof *owned);
  for (int64_t i = 0; i < tiles.range_count; i++)
    for (int j = tiles.ranges[i].first; j < tiles.ranges[i].last; j++)
      met[j]++;
  for (int64_t run = 0; run < runs.run_count; run++)
    for (int i = runs.first[run]; i < runs.first[run + 1]; i++) {
      const sptx_hopper_block_range *r = &runs.ranges[i], *all = &tiles.ranges[r->tile];
      owned[r->tile] += r->owns_keys;
      cr_expect(!r->owns_keys || (r->first == all->first && r->last == all->last));
      cr_expect(r->first <= r->full_first && r->full_first <= r->full_last && r->full_last <= r->last);
      cr_expect(r->full_first >= all->full_first || r->full_first == r->last);
      cr_expect(r->full_last <= all->full_last || r->full_last == r->first);
      cr_expect(r->last - r->first <= runs.carry_blocks);
      for (int j = r->first; j < r->last; j++) {
        cr_expect(j < r->carried ? kept[j % runs.carry_blocks] == j + 1 || j >= r->own_end : true);
        sum[j] = j < r->carried ? sum[j] + 1 : 1;
        if (j >= r->kept && j < r->own_end)
          kept[j % runs.carry_blocks] = j + 1;
        if (j >= r->kept)
          continue;
        written[j]++;
        cr_expect(sum[j] == met[j], "block %d has %d of %d parts", j, sum[j], met[j]);
      }
    }
  for (int64_t j = 0; j < blocks; j++)
    cr_expect(written[j] == 1, "block %d is written %d times", (int)j, written[j]);
  for (int64_t i = 0; i < tiles.range_count; i++)
    cr_expect(owned[i] == 1, "tile %d is owned %d times", (int)i, owned[i]);
  free(met);
  free(sum);
  free(written);
  free(kept);
  free(owned);
  sptx_hopper_runs_clear(&tiles);
  sptx_hopper_runs_clear(&runs);
}

Test(hopper_runs, dense_does_not_carry) {
  sptx_hopper_part part = {.shared_count = 1, .query_count = 16384, .key_count = 16384};
  part.lo = (sptx_bound){.mult = 0, .period = 1, .low = 0, .high = 16384};
  part.hi = (sptx_bound){.mult = 1, .period = 1, .add = 1, .low = 0, .high = 16384};
  sptx_hopper_runs runs;
  sptx_error error = {0};
  cr_assert(sptx_hopper_carry_runs(&part, 16, 64, &runs, &error) == SPTX_CODE_OK);
  cr_expect(runs.run_count == 0);
  sptx_hopper_runs_clear(&runs);
}
