/* The search spaces of every pattern of the library, on both families: the default first, no schedule twice,
 * each accepted by the planner, with a cost that is a number; what would lose accuracy is never offered. */
#include "gen/compile.h"
#include "gen/space.h"
#include "gen/x86/planner.h"
#include "patterns/integer.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What one space is made for. */
typedef struct space_case {
  const char *path;
  enum sptx_element element;
  enum sptx_pass pass;
  int64_t n;
  int head_dim;
  enum sptx_target_family family;
  enum sptx_ptx_target ptx;
} space_case;

static void lower(const space_case *c, sptx_compilation *compilation) {
  sptx_error error = {0};
  *compilation = (sptx_compilation){.path = c->path,
                                    .problem = {.element = c->element,
                                                .batch = 2,
                                                .heads = 4,
                                                .kv_heads = 2,
                                                .n_q = c->n,
                                                .n_k = c->n,
                                                .head_dim = c->head_dim,
                                                .deterministic = true}};
  cr_assert_eq(sptx_compile(compilation, SPTX_STAGE_LOWER, &error), SPTX_CODE_OK, "%s", error.message);
}

/* Whether the family's planner takes the schedule. */
static bool is_possible(const space_case *c, const sptx_compilation *compilation,
                        const sptx_schedule *schedule, sptx_error *error) {
  sptx_x86_plan *x86 = NULL;
  sptx_gpu_plan *gpu = NULL;
  enum sptx_code code =
      c->family == SPTX_FAMILY_X86
          ? sptx_x86_plan_create(&compilation->problem, c->pass, compilation->lists,
                                 compilation->instance.class_of_head, &schedule->x86, &x86, error)
          : sptx_gpu_plan_create(&compilation->problem, c->pass, c->ptx, compilation->lists,
                                 compilation->instance.class_of_head, &schedule->ptx, &gpu, error);
  sptx_x86_plan_free(x86);
  sptx_gpu_plan_free(gpu);
  return code == SPTX_CODE_OK;
}

static void check_space(const space_case *c, const sptx_compilation *compilation, const sptx_space *space) {
  for (int k = 0; k < space->count; k++) {
    const sptx_schedule *schedule = &space->schedules[k];
    char text[256];
    sptx_error error = {0};
    sptx_schedule back;
    sptx_schedule_print(c->family, schedule, text, sizeof text);
    cr_assert(space->expected_ms[k] > 0 && isfinite(space->expected_ms[k]), "%s: %s", c->path, text);
    cr_assert(is_possible(c, compilation, schedule, &error), "%s: %s: %s", c->path, text, error.message);
    cr_assert_eq(sptx_schedule_parse(c->family, text, &back, NULL), SPTX_CODE_OK);
    cr_assert_eq(memcmp(&back, schedule, sizeof back), 0, "%s does not survive its text", text);
    cr_assert(c->family == SPTX_FAMILY_X86 || schedule->ptx.f32_mode <= 2, "%s loses accuracy", text);
    for (int other = 0; other < k; other++)
      cr_assert_neq(memcmp(&space->schedules[other], schedule, sizeof *schedule), 0, "%s stands twice", text);
  }
}

/* Runs the case; returns how many schedules there are, 0 where the family cannot run the default. */
static int check(const space_case *c) {
  sptx_compilation compilation;
  sptx_space space;
  lower(c, &compilation);
  const sptx_space_subject subject = {.problem = &compilation.problem,
                                      .pass = c->pass,
                                      .lists = compilation.lists,
                                      .class_count = compilation.instance.class_count,
                                      .class_of_head = compilation.instance.class_of_head,
                                      .family = c->family,
                                      .ptx = c->ptx};
  cr_assert_eq(sptx_space_make(&subject, NULL, &space, NULL), SPTX_CODE_OK);
  int count = space.count;
  sptx_schedule standard = {0};
  if (c->family == SPTX_FAMILY_X86)
    standard.x86.isa = sptx_x86_host_isa();
  cr_assert_eq(memcmp(&space.schedules[0], &standard, sizeof standard), 0, "the default comes first");
  if (is_possible(c, &compilation, &standard, NULL))
    check_space(c, &compilation, &space);
  else
    count = 0;
  sptx_space_clear(&space);
  sptx_compilation_clear(&compilation);
  return count;
}

static void check_library(enum sptx_target_family family, enum sptx_ptx_target ptx, int fewest) {
  DIR *library = opendir(SPTX_PATTERNS);
  cr_assert_not_null(library);
  int patterns = 0;
  for (struct dirent *entry; (entry = readdir(library));) {
    char path[512];
    const char *dot = strrchr(entry->d_name, '.');
    if (!dot || strcmp(dot, ".yaml") != 0)
      continue;
    snprintf(path, sizeof path, "%s/%s", SPTX_PATTERNS, entry->d_name);
    patterns++;
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element += 2)
      for (int pass = SPTX_PASS_FORWARD; pass <= SPTX_PASS_BACKWARD; pass++) {
        const space_case c = {path, (enum sptx_element)element, (enum sptx_pass)pass, 3072, 64, family, ptx};
        int count = check(&c);
        cr_expect(count == 0 || count >= fewest, "%s: only %d schedules", path, count);
        cr_expect(count > 0 || family == SPTX_FAMILY_PTX, "%s: none", path);
      }
  }
  closedir(library);
  cr_assert_gt(patterns, 10);
}

Test(space, x86_of_the_library, .timeout = 60) {
  check_library(SPTX_FAMILY_X86, SPTX_PTX_SM80, 20);
}

Test(space, hopper_of_the_library, .timeout = 60) {
  check_library(SPTX_FAMILY_PTX, SPTX_PTX_SM90A, 2);
}

Test(space, portable_of_the_library, .timeout = 60) {
  check_library(SPTX_FAMILY_PTX, SPTX_PTX_SM80, 2);
}

Test(space, odd_sizes) {
  static const int64_t sizes[] = {1, 2, 17, 65, 1000};
  static const int dims[] = {16, 72, 256};
  for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
      for (int pass = SPTX_PASS_FORWARD; pass <= SPTX_PASS_BACKWARD; pass++) {
        const space_case c = {SPTX_PATTERNS "/strided-merged.yaml",
                              SPTX_ELEMENT_F16,
                              (enum sptx_pass)pass,
                              sizes[n],
                              dims[d],
                              SPTX_FAMILY_X86,
                              SPTX_PTX_SM80};
        cr_expect_gt(check(&c), 1);
      }
}

/* The most that the model expects of the default under these rates. */
static double expected_ms(const space_case *c, const sptx_rates *rates) {
  sptx_compilation compilation;
  sptx_space space;
  lower(c, &compilation);
  const sptx_space_subject subject = {.problem = &compilation.problem,
                                      .pass = c->pass,
                                      .lists = compilation.lists,
                                      .class_count = compilation.instance.class_count,
                                      .class_of_head = compilation.instance.class_of_head,
                                      .family = c->family,
                                      .ptx = c->ptx};
  cr_assert_eq(sptx_space_make(&subject, rates, &space, NULL), SPTX_CODE_OK);
  double expected = space.expected_ms[0];
  sptx_space_clear(&space);
  sptx_compilation_clear(&compilation);
  return expected;
}

/* More work must cost more, whatever the device. */
Test(space, cost_grows_with_the_problem) {
  for (int family = SPTX_FAMILY_X86; family <= SPTX_FAMILY_PTX; family++) {
    double before = 0;
    for (int64_t n = 1024; n <= 16384; n *= 4) {
      const space_case c = {SPTX_PATTERNS "/local.yaml",     SPTX_ELEMENT_BF16, SPTX_PASS_FORWARD, n, 64,
                            (enum sptx_target_family)family, SPTX_PTX_SM90A};
      double expected = expected_ms(&c, NULL);
      cr_expect_gt(expected, before);
      before = expected;
    }
  }
}

/* A device that is twice as slow in all takes about twice as long, and each ceiling has its part in that
 * where the pass is not bound by another: on the CPU all of them, on a GPU products or bytes. */
Test(space, cost_follows_the_ceilings) {
  for (int family = SPTX_FAMILY_X86; family <= SPTX_FAMILY_PTX; family++) {
    const space_case c = {
        SPTX_PATTERNS "/strided-merged.yaml", SPTX_ELEMENT_BF16, SPTX_PASS_BACKWARD, 4096, 64,
        (enum sptx_target_family)family,      SPTX_PTX_SM80};
    const sptx_rates given = family == SPTX_FAMILY_X86 ? sptx_x86_rates : sptx_ptx_rates;
    double before = expected_ms(&c, &given);
    sptx_rates slow = given, products = given, copies = given, exps = given, launches = given;
    slow.flops /= 2, slow.copy /= 2, slow.exp /= 2, slow.launch *= 2;
    products.flops /= 2, copies.copy /= 2, exps.exp /= 2, launches.launch *= 2;
    cr_expect_float_eq(expected_ms(&c, &slow) / before, 2, 0.05);
    cr_expect_gt(expected_ms(&c, &products), 1.05 * before);
    cr_expect_gt(expected_ms(&c, &exps), 1.001 * before);
    cr_expect_gt(expected_ms(&c, &launches), before);
    if (family == SPTX_FAMILY_X86)
      cr_expect_gt(expected_ms(&c, &copies), 1.001 * before);
  }
}

/* Where the caller allows a backward that is not deterministic, Hopper's own kernels add up gradients in any
 * order beside portable ones that do not; the search has both. Grouped heads are such a case. */
Test(space, both_kinds_of_backward_where_they_are_allowed) {
  int counts[2] = {0, 0};
  for (int deterministic = 0; deterministic < 2; deterministic++) {
    const space_case c = {SPTX_PATTERNS "/strided-merged.yaml",
                          SPTX_ELEMENT_BF16,
                          SPTX_PASS_BACKWARD,
                          4096,
                          64,
                          SPTX_FAMILY_PTX,
                          SPTX_PTX_SM90A};
    sptx_compilation compilation;
    sptx_space space;
    lower(&c, &compilation);
    compilation.problem.deterministic = deterministic;
    const sptx_space_subject subject = {.problem = &compilation.problem,
                                        .pass = c.pass,
                                        .lists = compilation.lists,
                                        .class_count = compilation.instance.class_count,
                                        .class_of_head = compilation.instance.class_of_head,
                                        .family = c.family,
                                        .ptx = c.ptx};
    cr_assert_eq(sptx_space_make(&subject, NULL, &space, NULL), SPTX_CODE_OK);
    for (int k = 0; k < space.count; k++) {
      sptx_gpu_plan *plan;
      cr_assert_eq(sptx_gpu_plan_create(&compilation.problem, c.pass, c.ptx, compilation.lists,
                                        compilation.instance.class_of_head, &space.schedules[k].ptx, &plan,
                                        NULL),
                   SPTX_CODE_OK);
      bool hopper = false;
      for (int l = 0; l < plan->launch_count; l++)
        hopper |= plan->launches[l].map_count > 0;
      counts[deterministic] += hopper;
      cr_expect(k == 0 || !hopper, "portable schedules lead to portable kernels");
      sptx_gpu_plan_free(plan);
    }
    cr_expect_gt(space.count, 2);
    sptx_space_clear(&space);
    sptx_compilation_clear(&compilation);
  }
  cr_expect_gt(counts[0], 0, "Hopper's kernels where any order will do");
  cr_expect_eq(counts[1], 0, "and none where it will not");
}

/* Ranges r of keys that some query tile of the piece sees at the same time need numbers r modulo partials
 * that differ: two threads may add to their dQ at once. */
static void check_partials(const sptx_compilation *compilation, const sptx_piece *piece, int key_ranges) {
  const sptx_problem *problem = &compilation->problem;
  const sptx_x86_schedule schedule = {.query_tile = 48, .key_tile = 64, .key_ranges = key_ranges};
  int64_t ranges = sptx_planner_ranges(&schedule, problem, piece, problem->kv_heads);
  int64_t partials = sptx_planner_partials(&schedule, problem, piece, ranges);
  for (int64_t shared = 0; shared < sptx_view_shared_total(&piece->query); shared++) {
    int64_t begin, end, key_begin, key_end;
    sptx_view_inner_range(&piece->query, shared, 0, problem->n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, problem->n_k, &key_begin, &key_end);
    int64_t keys = ceil_div(ceil_div(key_end, ranges), SPTX_GENERIC_TILE) * SPTX_GENERIC_TILE;
    for (int64_t x = begin; x < end; x += schedule.query_tile) {
      int64_t last = min64(x + schedule.query_tile, end) - 1, low = INT64_MAX, high = 0;
      for (int64_t q = x; q <= last; q++) {
        low = min64(low, max64(0, sptx_bound_at(&piece->lo, q)));
        high = max64(high, min64(key_end, sptx_bound_at(&piece->hi, q)));
      }
      cr_assert(low >= high || (high - 1) / keys - low / keys < partials,
                "%s: %d ranges, queries from %d see more than %d", piece->name, (int)ranges, (int)x,
                (int)partials);
    }
  }
}

Test(space, ranges_that_a_tile_sees_add_to_different_partials) {
  static const char *const patterns[] = {"local", "dense", "strided-merged", "dilated", "bigbird"};
  int fewer = 0;
  for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
    char path[512];
    sptx_compilation compilation;
    snprintf(path, sizeof path, "%s/%s.yaml", SPTX_PATTERNS, patterns[p]);
    const space_case c = {.path = path, .n = 3000, .head_dim = 64};
    lower(&c, &compilation);
    for (int l = 0; l < compilation.instance.class_count; l++)
      for (int k = 0; k < compilation.lists[l].count; k++)
        for (int ranges = 1; ranges <= 11; ranges += 2) {
          const sptx_piece *piece = &compilation.lists[l].pieces[k];
          const sptx_x86_schedule schedule = {.query_tile = 48, .key_tile = 64};
          if (piece->kind == SPTX_PIECE_BAND)
            check_partials(&compilation, piece, ranges);
          fewer += sptx_planner_partials(&schedule, &compilation.problem, piece, 11) < 11;
        }
    sptx_compilation_clear(&compilation);
  }
  cr_assert_gt(fewer, 0, "windows need fewer dQ than ranges");
}
