/* The search space of x86 schedules, derived from a piece by rules written here once, and the cost model that
 * orders it. Every rule that excludes a schedule for good is in sptx_x86_schedule_check; the rules here leave
 * out what cannot pay. */
#include "gen/problem.h"
#include "gen/workload.h"
#include "gen/x86/planner.h"
#include "patterns/integer.h"

#include <math.h>

const sptx_rates sptx_x86_rates = {.flops = 86e9, .copy = 10e9, .exp = 4e9, .launch = 4e-6, .threads = 1};

/* Register blocks worth trying. A block of rows by vectors needs rows * vectors sums, a vector of B for each
 * column and one broadcast, of 16 registers (AVX2) or 32. cost: time of one multiply-add, relative to the
 * best block, as measured; more loads for each multiply-add cost more. */
typedef struct sptx_register_block {
  int lanes, rows, vectors;
  double cost;
} sptx_register_block;

static const sptx_register_block blocks[] = {
    {16, 6, 4, 1.00}, {16, 8, 3, 1.02},  {16, 4, 4, 1.01}, {16, 12, 2, 1.00},
    {16, 8, 2, 1.02}, {16, 16, 1, 1.35}, {8, 6, 2, 1.00},  {8, 4, 2, 1.03},
    {8, 4, 3, 1.04},  {8, 8, 1, 1.20},   {8, 12, 1, 1.30},
};
enum { BLOCK_COUNT = sizeof blocks / sizeof *blocks };

static double block_cost(const sptx_x86_schedule *schedule) {
  int lanes = sptx_x86_lanes(schedule->isa);
  for (int k = 0; k < BLOCK_COUNT; k++)
    if (blocks[k].lanes == lanes && blocks[k].rows == schedule->register_rows &&
        blocks[k].vectors == schedule->register_vectors)
      return blocks[k].cost;
  return 1.5;
}

bool sptx_x86_best_block(int lanes, int query_tile, int *rows, int *vectors) {
  const sptx_register_block *best = NULL;
  for (int k = 0; k < BLOCK_COUNT; k++)
    if (blocks[k].lanes == lanes && query_tile % (lanes * blocks[k].vectors) == 0 &&
        (!best || blocks[k].cost < best->cost))
      best = &blocks[k];
  if (best)
    *rows = best->rows, *vectors = best->vectors;
  return best != NULL;
}

/* The parts that a pass's time is made of; each has a unit below. */
enum cost_term {
  PRODUCTS, /* multiply-adds of the matrix products, times the register block's cost */
  SPILLS,   /* the same where an operand's tile exceeds the first-level cache */
  PAIRS,    /* scores: maximum, exponential, sum */
  MASKED,   /* scores of key tiles that need a mask */
  SUMS,     /* elements of output or gradient sums that are read, changed and written */
  KEYS,     /* keys of each tile: positions, row pointers */
  COPIES,   /* elements of key rows that are copied together or widened */
  ROWS,     /* elements of query rows that are transposed on the way in and out */
  TILES,    /* fixed part of a query tile */
  STEPS,    /* fixed part of a key tile within it */
  PARTIALS, /* elements of dQ in buffers for ranges of keys */
  TERMS
};

/* What one of each costs, in multiply-adds (PRODUCTS, SPILLS), copied bytes (PARTIALS), or exponentials: of
 * the schedule's vectors (PAIRS, MASKED, SUMS), or of vectors of 8, since scalar code, and rows that are
 * copied or transposed 8 by 8, gain nothing by longer ones. Fitted to the CPU times of about 450 schedules of
 * the library's patterns on an AMD EPYC with AVX2; ratios to the machine's own ceilings carry over to others.
 */
static const double units[2][TERMS] = {
    [SPTX_PASS_FORWARD] = {1, 0.2, 0.5, 1.2, 0.35, 5, 0.8, 1.6, 240, 240, 0},
    [SPTX_PASS_BACKWARD] = {1, 0.2, 0.6, 1, 0.3, 5, 1.2, 4, 1200, 480, 5},
};

/* How far an operand of so many bytes exceeds the first-level cache: 0 to 1. */
static double excess(double bytes) {
  enum { CACHE = 32768 };
  return fmin(1, fmax(0, bytes / CACHE - 0.75));
}

static sptx_x86_shape shape_of(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                               enum sptx_pass pass) {
  return (sptx_x86_shape){.family = pass == SPTX_PASS_FORWARD ? SPTX_X86_FORWARD : SPTX_X86_BACKWARD,
                          .element = problem->element,
                          .schedule = *schedule,
                          .dim = problem->head_dim};
}

/* Elements of rows that are copied for each key: K's, V's or both. */
static double copied_rows(const sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                          const sptx_piece *piece) {
  bool badly = sptx_planner_lies_badly(&piece->key, problem->k.position * 4);
  const sptx_x86_shape shape = shape_of(schedule, problem, pass);
  if (problem->element != SPTX_ELEMENT_F32) /* widened, or one of them interleaved */
    return sptx_x86_products_of(&shape) == SPTX_X86_PAIRS ? 1 : 2;
  if (schedule->copy_rows)
    return schedule->copy_rows - 1;
  return !badly ? 0 : pass == SPTX_PASS_BACKWARD ? 2 : 1;
}

/* Amounts of one head. The schedule has no zeros in its tiles and block. ranges: of keys, backward only. */
static void count_terms(const sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                        const sptx_piece *piece, const sptx_workload *work, double ranges,
                        double amounts[TERMS]) {
  double tile = schedule->query_tile, dim = problem->head_dim;
  bool backward = pass == SPTX_PASS_BACKWARD;
  const sptx_x86_shape shape = shape_of(schedule, problem, pass);
  /* A list costs the same however it is cut. */
  double panel = piece->kind == SPTX_PIECE_BAND ? sptx_x86_panel(&shape) : tile;
  sptx_workload panels = *work;
  if (panel < tile)
    sptx_workload_of(problem, piece, (int)panel, schedule->key_tile, &panels);
  double pairs = panels.keys * panel, padding = panels.steps * panel * (schedule->register_rows - 1) / 2;
  double key_tile = work->steps > 0 ? work->keys / work->steps : schedule->key_tile;
  double product = pairs * dim * block_cost(schedule);
  double lane_keys = (double)problem->n_k / work->lanes;
  /* A query tile is read anew in each range of keys that it sees. */
  double visits = work->tiles > 0 ? 1 + (ranges - 1) * fmin(1, work->keys / work->tiles / lane_keys) : 1;
  amounts[PRODUCTS] = product * (backward ? 5 : 2) + padding * dim * block_cost(schedule);
  amounts[SPILLS] = product * (excess(key_tile * panel * 4) + excess(dim * panel * 4)) * (backward ? 2 : 1);
  amounts[PAIRS] = pairs;
  amounts[MASKED] = panels.masked * fmin(key_tile, panel) * panel;
  amounts[SUMS] = work->steps * tile * dim + (backward ? 2 * work->keys * dim : 0);
  amounts[KEYS] = work->keys;
  amounts[COPIES] = work->keys * dim * copied_rows(schedule, problem, pass, piece);
  amounts[ROWS] = work->tiles * tile * dim * visits * (backward ? 2 : 1);
  amounts[TILES] = work->tiles * visits;
  amounts[STEPS] = work->steps;
  double partials = (double)sptx_planner_partials(schedule, problem, piece, (int64_t)ranges);
  amounts[PARTIALS] = backward && ranges > 1 ? partials * (double)problem->n_q * dim : 0;
}

/* Products of bfloat16 take this part of the time of the same in float32. */
static double product_share(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                            enum sptx_pass pass) {
  static const double shares[] = {[SPTX_X86_FLOATS] = 1, [SPTX_X86_PAIRS] = 0.5, [SPTX_X86_TILES] = 0.25};
  const sptx_x86_shape shape = shape_of(schedule, problem, pass);
  return shares[sptx_x86_products_of(&shape)];
}

/* Seconds for one head when all threads are busy. */
static double head_seconds(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                           enum sptx_pass pass, const double amounts[TERMS], const sptx_rates *rates) {
  double lanes = sptx_x86_lanes(schedule->isa), widest = rates->lanes ? rates->lanes : lanes;
  const double *unit = units[pass == SPTX_PASS_BACKWARD];
  double seconds = 0;
  for (int k = 0; k < TERMS; k++) {
    double rate = widest / 8 / rates->exp;
    if (k == PRODUCTS || k == SPILLS)
      rate = 2 * widest / lanes / rates->flops * (k == PRODUCTS ? product_share(schedule, problem, pass) : 1);
    else if (k == PAIRS || k == MASKED || k == SUMS)
      rate = widest / lanes / rates->exp;
    else if (k == PARTIALS)
      rate = 1 / rates->copy;
    seconds += amounts[k] * unit[k] * rate;
  }
  return seconds;
}

double sptx_x86_schedule_cost(const sptx_x86_schedule *given, const sptx_problem *problem,
                              enum sptx_pass pass, const sptx_piece *piece, int64_t heads,
                              const sptx_rates *rates) {
  static const double item_seconds = 2e-7; /* to hand an item to a thread */
  sptx_x86_schedule schedule = *given;
  sptx_workload work;
  double amounts[TERMS], ranges = 1, items;
  sptx_x86_schedule_fill(&schedule, problem, pass, piece);
  sptx_workload_of(problem, piece, schedule.query_tile, schedule.key_tile, &work);
  int64_t lanes = (int64_t)work.lanes, tiles = (int64_t)ceil(work.tiles / work.lanes);
  if (pass == SPTX_PASS_BACKWARD) {
    ranges = (double)sptx_planner_ranges(&schedule, problem, piece, min64(heads, problem->kv_heads));
    items = work.lanes * (double)(problem->batch * min64(heads, problem->kv_heads)) * ranges;
  } else {
    int64_t group = schedule.tile_items
                        ? schedule.tile_items
                        : sptx_planner_group(problem, tiles, lanes, work.keys * schedule.query_tile, heads);
    items = ceil(work.tiles * (double)(problem->batch * heads) / (double)group);
  }
  count_terms(&schedule, problem, pass, piece, &work, ranges, amounts);
  double seconds = head_seconds(&schedule, problem, pass, amounts, rates) * (double)(heads * problem->batch);
  /* While the last items run, the other threads wait: for as many items as are missing to whole rounds, and,
   * since items are not all alike, a part of one more. */
  double threads = rates->threads, missing = ceil(items / threads) * threads - items;
  double waiting = items > 0 ? seconds / items * (missing + 0.1 * (threads - 1)) : 0;
  return seconds + waiting + items * item_seconds / rates->threads + rates->launch;
}

bool sptx_x86_schedule_fits(const sptx_x86_schedule *given, const sptx_problem *problem, enum sptx_pass pass,
                            const sptx_piece *piece) {
  sptx_x86_schedule schedule = *given;
  sptx_x86_schedule_fill(&schedule, problem, pass, piece);
  return sptx_x86_schedule_check(&schedule, piece, NULL) == SPTX_CODE_OK;
}

typedef struct space {
  sptx_x86_schedule *schedules;
  int count, capacity;
} space;

static void add(space *s, sptx_x86_schedule schedule, const sptx_piece *piece) {
  if (s->count < s->capacity && sptx_x86_schedule_check(&schedule, piece, NULL) == SPTX_CODE_OK)
    s->schedules[s->count++] = schedule;
}

/* Other choices than the planner's of what is copied, where rows lie far apart. */
static void add_copies(space *s, const sptx_problem *problem, enum sptx_pass pass, const sptx_piece *piece,
                       sptx_x86_schedule schedule) {
  int usual = pass == SPTX_PASS_FORWARD ? 2 : 3;
  if (problem->element != SPTX_ELEMENT_F32 ||
      !sptx_planner_lies_badly(&piece->key, problem->k.position * sptx_element_bytes(problem->element)))
    return;
  for (int copy = 1; copy <= 3; copy++) {
    schedule.copy_rows = copy;
    if (copy != usual)
      add(s, schedule, piece);
  }
}

/* Backward: one range of keys, or twice the planner's. */
static void add_ranges(space *s, const sptx_problem *problem, const sptx_piece *piece,
                       sptx_x86_schedule schedule) {
  int64_t usual = sptx_planner_ranges(&schedule, problem, piece, problem->kv_heads);
  const int64_t others[] = {1, 2 * usual};
  for (int k = 0; k < 2; k++) {
    schedule.key_ranges = (int)others[k];
    if (others[k] != usual && sptx_planner_ranges(&schedule, problem, piece, problem->kv_heads) == others[k])
      add(s, schedule, piece);
  }
}

/* Forward: tiles with few keys one by one, or four or sixteen together. */
static void add_groups(space *s, const sptx_problem *problem, const sptx_piece *piece,
                       sptx_x86_schedule schedule) {
  enum { FEW_KEYS = 1024, MOST = 16 };
  sptx_workload work;
  sptx_workload_of(problem, piece, schedule.query_tile, schedule.key_tile, &work);
  if (work.keys > FEW_KEYS * work.tiles)
    return;
  for (int items = 1; items <= MOST; items *= 4) {
    schedule.tile_items = items;
    add(s, schedule, piece);
  }
}

/* The tiles and the block, and what varies around them. */
static void add_variants(space *s, const sptx_problem *problem, enum sptx_pass pass, const sptx_piece *piece,
                         sptx_x86_schedule schedule) {
  add(s, schedule, piece);
  if (pass == SPTX_PASS_DECODE)
    return;
  add_copies(s, problem, pass, piece, schedule);
  if (pass == SPTX_PASS_BACKWARD)
    add_ranges(s, problem, piece, schedule);
  else
    add_groups(s, problem, piece, schedule);
}

static const int query_tiles[] = {16, 32, 48, 64, 96, 128}, key_tiles[] = {32, 64, 96, 128, 192, 256};
enum {
  QUERY_TILES = sizeof query_tiles / sizeof *query_tiles,
  KEY_TILES = sizeof key_tiles / sizeof *key_tiles
};

/* Longer key tiles than a query tile ever sees are all the same. */
static bool is_too_long(const sptx_problem *problem, const sptx_piece *piece, int query_tile, int index) {
  sptx_workload work;
  if (index == 0)
    return false;
  sptx_workload_of(problem, piece, query_tile, key_tiles[index], &work);
  return work.keys_of_longest <= key_tiles[index - 1];
}

/* Whether an instruction set brings kernels that those before it have not, and that may win here: vdpbf16ps
 * is slow where AMX is (sptx_x86_products_of). */
static bool brings_kernels(const sptx_problem *problem, enum sptx_pass pass, enum sptx_isa isa) {
  if (isa <= SPTX_ISA_AVX512)
    return true;
  if (problem->element != SPTX_ELEMENT_BF16)
    return false;
  return isa == SPTX_ISA_AMX ? pass != SPTX_PASS_DECODE : !sptx_x86_isa_available(SPTX_ISA_AMX);
}

/* The first block of its width: on AMX rows change nothing, and what has no tiles is AVX-512's. */
static bool is_for_tiles(const sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                         int block) {
  const sptx_x86_shape shape = shape_of(schedule, problem, pass);
  for (int b = 0; b < block; b++)
    if (blocks[b].lanes == blocks[block].lanes && blocks[b].vectors == blocks[block].vectors)
      return false;
  return sptx_x86_products_of(&shape) == SPTX_X86_TILES;
}

int sptx_x86_schedule_space(const sptx_problem *problem, enum sptx_pass pass, const sptx_piece *piece,
                            enum sptx_isa isa, sptx_x86_schedule *schedules, int capacity) {
  space s = {schedules, 0, brings_kernels(problem, pass, isa) ? capacity : 0};
  for (int q = 0; q < QUERY_TILES; q++)
    for (int k = 0; k < KEY_TILES && !is_too_long(problem, piece, query_tiles[q], k); k++)
      for (int b = 0; b < BLOCK_COUNT; b++) {
        const sptx_x86_schedule schedule = {.isa = isa,
                                            .query_tile = query_tiles[q],
                                            .key_tile = key_tiles[k],
                                            .register_rows = blocks[b].rows,
                                            .register_vectors = blocks[b].vectors};
        if (blocks[b].lanes == sptx_x86_lanes(isa) &&
            query_tiles[q] % (blocks[b].lanes * blocks[b].vectors) == 0 &&
            (isa != SPTX_ISA_AMX || is_for_tiles(&schedule, problem, pass, b)))
          add_variants(&s, problem, pass, piece, schedule);
      }
  return s.count;
}

/* A schedule's part over the cheapest that counts as none: pieces of a plan share a kernel where their
 * schedules are equal, and compiling takes far longer than the difference. */
static double negligible(enum sptx_pass pass) {
  return pass == SPTX_PASS_FORWARD ? 1.02 : 1;
}

/* The first of the blocks that fit the schedule's tiles and are as good as the best; a block that is given
 * stays. Infinite when none fits. */
static double choose_block(sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                           const sptx_piece *piece) {
  const sptx_x86_schedule given = *schedule;
  bool is_given = given.register_rows || given.register_vectors;
  double least = INFINITY;
  for (int b = 0; b < (is_given ? 1 : BLOCK_COUNT); b++) {
    sptx_x86_schedule one = given;
    if (!is_given)
      one.register_rows = blocks[b].rows, one.register_vectors = blocks[b].vectors;
    if ((!is_given && blocks[b].lanes != sptx_x86_lanes(one.isa)) ||
        sptx_x86_schedule_check(&one, piece, NULL) != SPTX_CODE_OK)
      continue;
    double seconds = sptx_x86_schedule_cost(&one, problem, pass, piece, problem->heads, &sptx_x86_rates);
    if (seconds * negligible(pass) < least)
      least = seconds, *schedule = one;
  }
  return least;
}

void sptx_x86_best_tiles(sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                         const sptx_piece *piece) {
  /* Longer query tiles were never the best, except with AMX, whose operands are copied once for each: they
   * are left to the tuner. */
  int longest = schedule->isa == SPTX_ISA_AMX && problem->element == SPTX_ELEMENT_BF16 ? 128 : 64;
  sptx_x86_schedule tried[QUERY_TILES * KEY_TILES];
  double seconds[QUERY_TILES * KEY_TILES], least = INFINITY;
  int count = 0;
  for (int q = 0; q < QUERY_TILES && query_tiles[q] <= longest; q++)
    for (int k = 0; k < KEY_TILES; k++, count++) {
      tried[count] = *schedule;
      tried[count].query_tile = schedule->query_tile ? schedule->query_tile : query_tiles[q];
      tried[count].key_tile = schedule->key_tile ? schedule->key_tile : key_tiles[k];
      seconds[count] = choose_block(&tried[count], problem, pass, piece);
      least = fmin(least, seconds[count]);
    }
  /* The longest tiles of the cheapest. */
  for (int k = count - 1; k >= 0; k--)
    if (seconds[k] <= least * negligible(pass)) {
      *schedule = tried[k];
      return;
    }
}
