/* The search space of GPU schedules and the cost model that orders it. Which schedules are possible is for
 * the planner to say, whose checks (shared memory, registers, divisibility) are written there once: a
 * schedule that it refuses, or that leads to the very launches of another, is left out. */
#include "gen/ptx/schedule.h"

#include "gen/ptx/hopper_forward.h"
#include "gen/workload.h"
#include "patterns/integer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const sptx_rates sptx_ptx_rates = {
    .flops = 700e12, .copy = 3e12, .exp = 3.5e12, .launch = 4e-6, .threads = 132};

/* FNV-1a (Fowler, Noll and Vo): over everything that distinguishes two plans. */
static uint64_t hash(uint64_t state, const void *data, size_t bytes) {
  for (size_t k = 0; k < bytes; k++)
    state = (state ^ ((const unsigned char *)data)[k]) * 0x100000001b3u;
  return state;
}

static uint64_t fingerprint(const sptx_gpu_plan *plan) {
  uint64_t state = 0xcbf29ce484222325u;
  for (int k = 0; k < plan->launch_count; k++) {
    const sptx_gpu_launch *launch = &plan->launches[k];
    const char *symbol = plan->kernels[launch->kernel].symbol;
    state = hash(state, symbol, strlen(symbol));
    state = hash(state, launch->grid, sizeof launch->grid);
    state = hash(state, launch->params, launch->params_bytes);
  }
  return state;
}

/* Tensor maps belong to the Hopper kernels alone. */
static bool is_hopper(const sptx_gpu_launch *launch) {
  return launch->map_count > 0;
}

/* CTAs that share a multiprocessor: shared memory (each CTA takes 1 KiB besides its own) and threads. */
static double resident_ctas(const sptx_gpu_launch *launch) {
  enum { SHARED_BYTES = 233472, REGISTERS = 65536, REGISTERS_OF_THREAD = 168, MOST = 16 };
  double by_shared = floor(SHARED_BYTES / (launch->shared_bytes + 1024.0));
  double by_registers = is_hopper(launch) ? floor(REGISTERS / (launch->block * 120.0))
                                          : floor(REGISTERS / ((double)launch->block * REGISTERS_OF_THREAD));
  return fmin(MOST, fmax(1, fmin(by_shared, by_registers)));
}

/* The share of the matrix units' rate that a step of the portable kernels, or of Hopper's backward, can
 * reach: warps that take turns hide each other's softmax and waits; short steps and shallow pipelines wait.
 */
static double efficiency(const sptx_gpu_launch *launch, const sptx_ptx_schedule *schedule, int key_tile) {
  double warps = launch->block / 32.0 * resident_ctas(launch);
  double ready = warps / (warps + (is_hopper(launch) ? 4 : 6)), step = key_tile / (key_tile + 24.0);
  double pipeline = schedule->stages == 1 ? 0.75 : 1;
  return (is_hopper(launch) ? 1.0 : 0.45) * ready * step * pipeline;
}

/* The last round of CTAs leaves multiprocessors idle. */
static double imbalance(const sptx_gpu_launch *launch, double items, const sptx_rates *rates) {
  double slots = rates->threads * resident_ctas(launch);
  return items > 0 ? ceil(items / slots) * slots / fmax(items, 1) : 1;
}

static int or_default(int value, int standard) {
  return value ? value : standard;
}

/* Seconds that the Hopper forward's CTAs take for their items if nothing but their own steps holds them. A
 * step of one consumer takes its products and exponentials in turn; consumers on a multiprocessor hide a
 * third of each other's. Stages hide the latency of loads, but for the first of an item's. The four constants
 * are those of an H200, from times of 127 schedules of one piece. */
static double hopper_seconds(const sptx_problem *problem, const sptx_piece *piece, const sptx_workload *work,
                             double calls, const sptx_hopper_forward_spec *spec,
                             const sptx_gpu_launch *launch, const sptx_rates *rates) {
  const double item = 1.2e-6, step = 0.1e-6, latency = 1e-6, shared = 0.7;
  double products = 4 * 64.0 * (double)problem->head_dim / rates->flops, exponentials = 64 / rates->exp;
  double others = spec->consumers * ceil(launch->grid[0] / (double)rates->threads) - 1;
  double key = 1.15 * (products + exponentials) * (double)rates->threads * (1 + shared * others);
  double seconds = step + key * spec->key_tile;
  double wait = fmax(0, (latency + seconds) / spec->stages - seconds);
  sptx_workload own; /* of a consumer, which lets tiles pass that only others need */
  sptx_workload_of(problem, piece, 64, spec->key_tile, &own);
  double items = work->tiles * calls, steps = own.tiles > 0 ? own.steps / own.tiles : 0;
  return fmax(1, items / launch->grid[0]) * (item + steps * seconds + fmax(0, steps - spec->stages) * wait);
}

/* Expected seconds of one piece: work by tiles at the launch's efficiency, against exponentials and bytes. */
static double piece_seconds(const sptx_gpu_subject *subject, const sptx_piece *piece, double heads,
                            const sptx_ptx_schedule *schedule, const sptx_gpu_launch *launch,
                            const sptx_hopper_forward_spec *hopper, const sptx_rates *rates) {
  const sptx_problem *problem = subject->problem;
  bool backward = subject->pass == SPTX_PASS_BACKWARD, exact = problem->element == SPTX_ELEMENT_F32;
  int key_tile = hopper ? hopper->key_tile : or_default(schedule->key_tile, 64);
  int query_tile = hopper ? 64 * hopper->consumers : or_default(schedule->query_tile, 128);
  if (piece->kind == SPTX_PIECE_TILES)
    key_tile = query_tile = SPTX_GENERIC_TILE;
  sptx_workload work;
  sptx_workload_of(problem, piece, query_tile, key_tile, &work);
  double calls = heads * (double)problem->batch, dim = problem->head_dim;
  double pairs = work.steps * query_tile * key_tile * calls;
  double rate = rates->flops * efficiency(launch, schedule, key_tile) / (exact ? 8 : 1);
  double compute = 4 * pairs * dim * (backward ? 2.5 : 1) / rate + pairs / rates->exp / 2;
  double rows = (double)(problem->n_q + problem->n_k) * 2 * calls;
  double bytes = rows * dim * (exact ? 4 : 2) * (backward ? 2 : 1);
  double cached = work.keys * 2 * dim * (exact ? 4 : 2) * calls; /* keys and values, mostly from the L2 */
  double memory = bytes / rates->copy + cached / (2.5 * rates->copy);
  double own = hopper ? hopper_seconds(problem, piece, &work, calls, hopper, launch, rates)
                      : compute * fmin(2, imbalance(launch, work.tiles * calls, rates));
  return pow(pow(own, 4) + pow(memory, 4), 0.25); /* neither hides all of the other */
}

static double plan_seconds(const sptx_gpu_subject *subject, const sptx_gpu_plan *plan,
                           const sptx_ptx_schedule *schedule, const sptx_rates *rates) {
  const sptx_gpu_launch *longest = NULL; /* stands for all pieces: the one with most threads in all */
  double seconds = plan->launch_count * rates->launch;
  for (int k = 0; k < plan->launch_count; k++)
    if (!longest || is_hopper(&plan->launches[k]) > is_hopper(longest) ||
        plan->launches[k].shared_bytes > longest->shared_bytes)
      longest = &plan->launches[k];
  const sptx_gpu_kernel *kernel = longest ? &plan->kernels[longest->kernel] : NULL;
  const sptx_hopper_forward_spec *hopper =
      kernel && kernel->emit == sptx_hopper_forward_emit ? kernel->spec : NULL;
  for (int c = 0; c < subject->class_count && longest; c++) {
    double heads = 0;
    for (int64_t h = 0; h < subject->problem->heads; h++)
      heads += subject->class_of_head[h] == c;
    for (int k = 0; k < subject->lists[c].count; k++)
      seconds +=
          piece_seconds(subject, &subject->lists[c].pieces[k], heads, schedule, longest, hopper, rates);
  }
  return seconds;
}

/* The offers of each family, before the planner has judged them. */
static int offer_hopper(const sptx_gpu_subject *subject, sptx_ptx_schedule *offers) {
  static const int key_tiles[] = {48, 64, 80, 96, 128, 160, 192};
  int count = 0;
  if (subject->target != SPTX_PTX_SM90A || subject->problem->element == SPTX_ELEMENT_F32 ||
      subject->pass != SPTX_PASS_FORWARD)
    return 0;
  for (int consumers = 1; consumers <= 4; consumers++)
    for (size_t k = 0; k < sizeof key_tiles / sizeof *key_tiles; k++)
      for (int stages = 1; stages <= 4; stages++)
        for (int ctas = 1; ctas <= 3; ctas++)
          offers[count++] = (sptx_ptx_schedule){.query_tile = 64 * consumers,
                                                .key_tile = key_tiles[k],
                                                .consumers = consumers,
                                                .stages = stages,
                                                .ctas = ctas};
  return count;
}

static int offer_portable(const sptx_gpu_subject *subject, sptx_ptx_schedule *offers) {
  static const int tiles[] = {16, 32, 48, 64, 96, 128};
  bool exact = subject->problem->element == SPTX_ELEMENT_F32;
  int count = 0;
  for (int warps = 1; warps <= 8; warps *= 2)
    for (int blocks = 1; blocks <= 2; blocks++)
      for (size_t k = 0; k < sizeof tiles / sizeof *tiles; k++)
        for (int mode = exact; mode <= (exact ? 2 : 0); mode++) /* one TF32 product would lose accuracy */
          for (int stages = 0; stages <= 1; stages++) /* two by default, or one, where room is short */
            offers[count++] = (sptx_ptx_schedule){.query_tile = 16 * blocks * warps,
                                                  .key_tile = tiles[k],
                                                  .warps = warps,
                                                  .stages = stages,
                                                  .f32_mode = mode,
                                                  .family = subject->target == SPTX_PTX_SM90A};
  return count;
}

static void judge(const sptx_gpu_subject *subject, const sptx_ptx_schedule *schedule, const sptx_rates *rates,
                  sptx_gpu_offer *offer) {
  sptx_gpu_plan *plan;
  offer->schedule = *schedule;
  offer->possible = sptx_gpu_plan_create(subject->problem, subject->pass, subject->target, subject->lists,
                                         subject->class_of_head, schedule, &plan, NULL) == SPTX_CODE_OK;
  if (!offer->possible)
    return;
  offer->fingerprint = fingerprint(plan);
  offer->seconds = plan_seconds(subject, plan, schedule, rates);
  sptx_gpu_plan_free(plan);
}

static bool is_new(const sptx_gpu_offer *offers, int count, const sptx_gpu_offer *offer) {
  for (int k = 0; k < count; k++)
    if (offers[k].fingerprint == offer->fingerprint)
      return false;
  return true;
}

int sptx_gpu_schedule_space(const sptx_gpu_subject *subject, const sptx_rates *rates,
                            sptx_gpu_offer offers[SPTX_GPU_OFFERS]) {
  sptx_ptx_schedule wanted[SPTX_GPU_OFFERS];
  int wishes = offer_hopper(subject, wanted), count = 0;
  wishes += offer_portable(subject, wanted + wishes);
  judge(subject, &(sptx_ptx_schedule){0}, rates, &offers[count++]);
  for (int k = 0; k < wishes; k++) {
    judge(subject, &wanted[k], rates, &offers[count]);
    if (!offers[count].possible)
      continue;
    /* The default's zeros say nothing of its tiles: its twin does. */
    if (offers[count].fingerprint == offers[0].fingerprint)
      offers[0].seconds = offers[count].seconds;
    if (is_new(offers, count, &offers[count]))
      count++;
  }
  return count;
}
