/* Planning Hopper launches: which kernel, tile sizes and parameters serve each part of a piece. */
#include "gen/ptx/hopper.h"
#include "gen/ptx/hopper_forward.h"
#include "gen/ptx/hopper_tile.h"
#include "patterns/integer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of one multiprocessor; each CTA has 1 KiB of its own besides. */
#define SHARED_BYTES 233472
#define REGISTERS 65536

static const char *bound_name(enum sptx_hopper_bound kind) {
  static const char *const names[] = {"none", "line", "ramp"};
  return names[kind];
}

int64_t sptx_hopper_pack(const sptx_piece *piece, const sptx_hopper_part *part) {
  int64_t rows = part->query_count > part->key_count ? part->query_count : part->key_count;
  return rows <= 64 && part->shared_count > 1 && piece->key.inner_count == 1 ? 64 / rows : 0;
}

/* Keys that the middle query sees: turns and three consumers pay off where loops are long. */
static int64_t mean_keys(const sptx_hopper_part *part) {
  int64_t x = part->query_count / 2;
  int64_t low = sptx_bound_at(&part->lo, x), high = sptx_bound_at(&part->hi, x);
  low = low < 0 ? 0 : low;
  high = high > part->key_count ? part->key_count : high;
  return high - low;
}

/* Defaults, by head dimension. Windows have short loops, which wait more than they compute: small tiles of
 * keys, and as many consumers as their registers allow, hide each other's waits. */
static void default_forward(const sptx_problem *problem, const sptx_hopper_part *part,
                            sptx_hopper_forward_spec *spec) {
  int wide = problem->head_dim > 128, narrow = problem->head_dim <= 64;
  bool lengthy = mean_keys(part) >= 1024;
  spec->consumers = narrow && lengthy ? 3 : 2;
  spec->key_tile = !wide ? 128 : problem->head_dim <= 192 ? 80 : 48;
  spec->stages = narrow ? 3 : 2;
  spec->query_stages = wide ? 1 : 2;
  spec->ping_pong = !spec->packed && lengthy;
  spec->ctas = 1;
  if (spec->packed) {
    spec->key_tile = 64;
  } else if (!wide && !lengthy && spec->lower != SPTX_HOPPER_NONE) {
    spec->consumers = narrow ? 4 : 2;
    spec->key_tile = 64;
    spec->stages = narrow ? 5 : 3;
  }
}

static int round_down(int value, int step) {
  return value / step * step;
}

/* A CTA starts with equal shares of the registers; what the producer gives back goes to the consumers. */
static void share_registers(sptx_hopper_forward_spec *spec) {
  int groups = spec->consumers + 1, share = round_down(REGISTERS / (128 * groups * spec->ctas), 8);
  spec->producer_registers = spec->consumers == 3 ? 32 : 24;
  int left = (share < 248 ? share : 248) * groups - spec->producer_registers;
  spec->consumer_registers = round_down(left / spec->consumers, 8);
  if (spec->consumer_registers > 240)
    spec->consumer_registers = 240;
}

static void apply_schedule(const sptx_ptx_schedule *schedule, sptx_hopper_forward_spec *spec) {
  if (schedule->consumers)
    spec->consumers = schedule->consumers;
  if (schedule->query_tile)
    spec->consumers = schedule->query_tile / 64;
  if (schedule->key_tile && !spec->packed)
    spec->key_tile = schedule->key_tile;
  if (schedule->stages)
    spec->stages = schedule->stages;
  if (schedule->ctas)
    spec->ctas = schedule->ctas;
  share_registers(spec);
  if (schedule->producer_registers)
    spec->producer_registers = schedule->producer_registers;
  if (schedule->consumer_registers)
    spec->consumer_registers = schedule->consumer_registers;
}

static enum sptx_code check_forward(const sptx_hopper_forward_spec *spec, const sptx_piece *piece,
                                    sptx_error *error) {
  /* O, S, P and what else a thread holds; with 20 for the rest ptxas still serialised products. */
  int live = spec->head_dim / 2 + spec->key_tile / 2 + spec->key_tile / 4 + 28;
  sptx_hopper_forward_layout layout = sptx_hopper_forward_layout_of(spec);
  if (spec->consumers < 1 || spec->consumers > 4 || spec->key_tile < 16 || spec->key_tile > 256 ||
      spec->key_tile % 16 || spec->stages < 1 || spec->ctas < 1 || spec->ctas > 4 ||
      layout.total > SHARED_BYTES / spec->ctas - 1024 || live > spec->consumer_registers ||
      !sptx_hopper_tile_fits(piece, spec->key_tile))
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "a Hopper tile of %d x %d keys with %d stages needs %d bytes of shared memory and about "
                     "%d registers, or cuts runs of keys: choose smaller tiles",
                     64 * spec->consumers, spec->key_tile, spec->stages, layout.total, live);
  return SPTX_CODE_OK;
}

static void name_forward(const sptx_hopper_forward_spec *spec, char *symbol, size_t size) {
  snprintf(symbol, size, "%s_forward_sm90a_d%d_q%d_k%d_s%d_c%d_r%d%s%s%s%s_%s_%s",
           spec->element == SPTX_ELEMENT_BF16 ? "bf16" : "f16", spec->head_dim, 64 * spec->consumers,
           spec->key_tile, spec->stages, spec->ctas, spec->consumer_registers, spec->packed ? "_packed" : "",
           spec->key_runs ? "_runs" : "", spec->merge ? "_merge" : "", spec->ping_pong ? "_pingpong" : "",
           bound_name(spec->lower), bound_name(spec->upper));
}

static sptx_hopper_forward_spec forward_spec(const sptx_gpu_planner *planner, const sptx_gpu_job *job,
                                             const sptx_hopper_part *part) {
  sptx_hopper_forward_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.element = planner->problem->element;
  spec.head_dim = planner->problem->head_dim;
  spec.packed = sptx_hopper_pack(job->piece, part) > 0;
  spec.key_runs = job->piece->key.inner_count == 2;
  spec.merge = job->merge;
  spec.lower = sptx_hopper_lower_kind(part);
  spec.upper = sptx_hopper_upper_kind(part);
  default_forward(planner->problem, part, &spec);
  apply_schedule(&planner->schedule, &spec);
  return spec;
}

/* A query tile costs its key tiles, and about one more. */
static enum sptx_code fill_forward_items(const sptx_gpu_planner *planner, const sptx_hopper_part *part,
                                         const sptx_hopper_forward_spec *spec, sptx_hopper_tiling *tiling,
                                         sptx_hopper_params *params, sptx_error *error) {
  int64_t rows = 64 * spec->consumers;
  int64_t *costs = malloc((size_t)tiling->tiles * sizeof *costs);
  if (!costs)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a GPU plan");
  for (int64_t row = 0; row < tiling->tiles; row++) {
    int64_t first = (tiling->tiles - 1 - row) * rows, last = min64(first + rows, part->query_count) - 1;
    int64_t low = clamp(sptx_bound_at(&part->lo, first), 0, part->key_count);
    int64_t high = clamp(sptx_bound_at(&part->hi, last), low, part->key_count);
    costs[row] = ceil_div(high, spec->key_tile) - low / spec->key_tile + 1;
  }
  tiling->costs = costs;
  enum sptx_code code = sptx_hopper_fill_items(planner->problem, part, tiling, params, error);
  free(costs);
  return code;
}

static enum sptx_code add_forward_part(sptx_gpu_planner *planner, const sptx_gpu_job *job,
                                       const sptx_hopper_part *part, int64_t head_table, sptx_error *error) {
  const sptx_piece *piece = job->piece;
  sptx_hopper_forward_spec spec = forward_spec(planner, job, part);
  int64_t pack = sptx_hopper_pack(piece, part);
  char symbol[128];
  int64_t tiles = pack ? 1 : ceil_div(part->query_count, 64 * spec.consumers);
  int kernel, repeats = pack ? (int)pack : 1;
  sptx_hopper_params params = {0};
  sptx_hopper_fill_params(planner, job, part, head_table, &params);
  sptx_hopper_tiling tiling = {.tiles = tiles,
                               .consumers = spec.consumers,
                               .pack = pack,
                               .ctas = spec.ctas,
                               .lane_bytes = 4 * part->key_count * planner->problem->head_dim}; /* K and V */
  SPTX_TRY(fill_forward_items(planner, part, &spec, &tiling, &params, error));
  params.key_tiles = (int32_t)ceil_div(part->key_count, spec.key_tile);
  int query_rows = pack ? (int)part->query_count : 64, key_rows = pack ? (int)part->key_count : spec.key_tile;
  int row_bytes = 128 * sptx_hopper_forward_layout_of(&spec).chunks;
  params.query_load = spec.consumers * query_rows * repeats * row_bytes;
  params.key_load = (pack ? spec.consumers : 1) * key_rows * repeats * row_bytes;
  name_forward(&spec, symbol, sizeof symbol);
  SPTX_TRY(
      sptx_gpu_add_kernel(planner, symbol, sptx_hopper_forward_emit, &spec, sizeof spec, &kernel, error));
  sptx_gpu_launch *launch;
  SPTX_TRY(sptx_gpu_add_launch(planner, kernel, &params, sizeof params, &launch, error));
  launch->maps[0] = sptx_hopper_query_map(planner, piece, part, SPTX_GPU_Q, query_rows, repeats);
  launch->maps[1] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_K, key_rows, repeats);
  launch->maps[2] = sptx_hopper_key_map(planner, piece, part, SPTX_GPU_V, key_rows, repeats);
  launch->maps[3] = sptx_hopper_query_map(planner, piece, part, SPTX_GPU_O, query_rows, repeats);
  launch->map_count = 4;
  sptx_hopper_finish_launch(launch, &params, spec.consumers, sptx_hopper_forward_layout_of(&spec).total);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_hopper_forward_add(sptx_gpu_planner *planner, const sptx_gpu_job *job,
                                       sptx_error *error) {
  sptx_hopper_part parts[SPTX_HOPPER_MAX_PARTS];
  int count;
  int64_t head_table;
  SPTX_TRY(sptx_hopper_split(planner->problem, job->piece, parts, &count, error));
  for (int i = 0; i < count; i++) {
    sptx_hopper_forward_spec spec = forward_spec(planner, job, &parts[i]);
    SPTX_TRY(check_forward(&spec, job->piece, error));
  }
  SPTX_TRY(sptx_hopper_head_table(planner, job, &head_table, error));
  for (int i = 0; i < count; i++)
    SPTX_TRY(add_forward_part(planner, job, &parts[i], head_table, error));
  return SPTX_CODE_OK;
}
