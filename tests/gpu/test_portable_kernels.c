/* The portable GPU kernels against float64, interpreted on the CPU: no GPU is needed. */
#include "tests/gpu/portable_case.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define B16 SPTX_ELEMENT_BF16
#define H16 SPTX_ELEMENT_F16
#define F32 SPTX_ELEMENT_F32

static const char dense[] = "causal: true\nattend: all\n";
static const char blocks[] = "attend: {random: {block: 16, per_row: 2, seed: 5}}\n";

/* Every kind of piece: bands with all bounds, shared digits, phases, grids, lists of tiles, predicates,
 * several pieces under one softmax, queries and keys left out, heads of several classes. */
static const char *const patterns[] = {
    dense,
    blocks,
    "attend: all\n",
    "causal: true\nattend: {window: {left: 20}}\n",
    "attend: {window: {left: 9, right: 70}}\n",
    "causal: true\nattend: {stride: {every: 7}}\n",
    "attend: {stride: {every: 7, phase: 3}}\n",
    "causal: true\nattend: {stride: {every: 3, phase: 1}}\n",
    "causal: true\nattend: {block: {size: 24}}\n",
    "causal: true\nattend: {columns: {every: 16, last: 5}}\n",
    "attend: {columns: {every: 16, at: [1, 4, 5]}}\n",
    "attend: {dilated: {window: 6, dilation: 3}}\n",
    "causal: true\nattend: {grid: {shape: [9, 5, 4], along: [0, 2]}}\n",
    "attend: {grid: {shape: [9, 5, 4], along: [1]}}\n",
    "attend: {global: {at: [3, 50, 51], as: both}}\n",
    "causal: true\nattend: {any: [{window: {left: 10}}, {stride: {every: 8}}]}\n",
    "causal: true\nattend: {any: [{block: {size: 20}}, {columns: {every: 20, last: 3}}]}\n",
    "causal: true\nattend: {any: [{window: {left: 16}}, {global: {first: 4, as: both}}]}\n",
    "attend: {all_of: [{window: {left: 40, right: 30}}, {not: {stride: {every: 3}}}]}\n",
    "attend: {all_of: [{stride: {every: 2}}, {not: {columns: {every: 10, at: [2, 4]}}}]}\n",
    "attend: {any: [{all_of: [{block: {size: 32}}, {not: {block: {size: 6}}}]}, {columns: {every: 30, last: "
    "2}}]}\n",
    "attend: {where: \"(i * j) % 5 < 2 && abs(i - j) < 60\"}\n",
    "causal: true\nattend: {any: [{random: {block: 8, per_row: 2, seed: 9}}, {window: {left: 12}}]}\n",
    "causal: true\nheads: [{attend: {window: {left: 17}}}, {attend: {stride: {every: 5}}}]\n",
    "causal: true\nheads: [{attend: {columns: {every: 9, last: 2}}, count: 2}, {attend: all}]\n",
    "attend: {columns: {every: 64, at: [63]}}\n",
};
enum { PATTERNS = sizeof patterns / sizeof *patterns };

static portable_case case_of(const char *pattern, enum sptx_element element, int head_dim, int64_t n) {
  return (portable_case){.pattern = pattern,
                         .element = element,
                         .pass = SPTX_PASS_BACKWARD,
                         .batch = 1,
                         .heads = 2,
                         .n_q = n,
                         .n_k = n,
                         .head_dim = head_dim,
                         .seed = 1};
}

static uint64_t draw(uint64_t *state, uint64_t below) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (*state >> 33) % below;
}

/* Small random calls; SPTX_TEST_SEED repeats a run. */
static portable_case random_case(const char *pattern, uint64_t *state) {
  static const int dims[] = {16, 24, 32, 40, 64, 72, 104, 136};
  static const enum sptx_element elements[] = {B16, H16, F32};
  portable_case c = case_of(pattern, elements[draw(state, 3)], dims[draw(state, 8)], 0);
  c.batch = 1 + (int64_t)draw(state, 2);
  c.kv_heads = 1 + (int64_t)draw(state, 3);
  c.heads = c.kv_heads * (1 + (int64_t)draw(state, 3));
  c.n_k = 1 + (int64_t)draw(state, 160);
  c.n_q = draw(state, 2) ? c.n_k : 1 + (int64_t)draw(state, (uint64_t)c.n_k);
  c.layout = (enum portable_layout)draw(state, 4);
  c.soft_cap = draw(state, 3) == 0 ? 2.5 : 0;
  c.alibi = draw(state, 3) == 0;
  c.negative_scale = draw(state, 3) == 0;
  c.schedule.f32_mode = c.element == F32 ? (int)draw(state, 4) : 0;
  c.seed = *state;
  if (draw(state, 4) == 0) {
    c.pass = SPTX_PASS_DECODE;
    c.n_q = c.n_k;
    c.position = (int64_t)draw(state, (uint64_t)c.n_k);
  }
  return c;
}

static uint64_t seed_of_run(void) {
  const char *given = getenv("SPTX_TEST_SEED");
  uint64_t seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
  fprintf(stderr, "SPTX_TEST_SEED=%llu\n", (unsigned long long)seed);
  return seed;
}

static int write_set(char *text, size_t size, int depth, uint64_t *state) {
  int a = 1 + (int)draw(state, 40), b = 1 + (int)draw(state, 12), c = (int)draw(state, (uint64_t)b + 1);
  if (depth > 0 && draw(state, 2)) {
    static const char *const names[] = {"any: [", "all_of: ["};
    int length = snprintf(text, size, "{%s", names[draw(state, 2)]);
    length += write_set(text + length, size - (size_t)length, depth - 1, state);
    length += snprintf(text + length, size - (size_t)length, ", ");
    length += write_set(text + length, size - (size_t)length, depth - 1, state);
    return length + snprintf(text + length, size - (size_t)length, "]}");
  }
  switch (draw(state, depth > 0 ? 9 : 8)) {
  case 0:
    return snprintf(text, size, "{window: {left: %d, right: %d}}", a, b);
  case 1:
    return snprintf(text, size, "{stride: {every: %d, phase: %d}}", b, c % b);
  case 2:
    return snprintf(text, size, "{block: {size: %d}}", a);
  case 3:
    return snprintf(text, size, "{columns: {every: %d, last: %d}}", b + 2, c / 2 + 1);
  case 4:
    return snprintf(text, size, "{dilated: {window: %d, dilation: %d}}", a, b);
  case 5:
    return snprintf(text, size, "{global: {at: [%d, %d], as: %s}}", c, c + a,
                    (const char *[]){"query", "key", "both"}[draw(state, 3)]);
  case 6:
    return snprintf(text, size, "{random: {block: %d, per_row: 2, seed: %d}}", a, b);
  case 7:
    return snprintf(text, size, "{where: \"(i + %d * j) %% %d < 2\"}", b, c + 2);
  default: {
    int length = snprintf(text, size, "{not: ");
    length += write_set(text + length, size - (size_t)length, depth - 1, state);
    return length + snprintf(text + length, size - (size_t)length, "}");
  }
  }
}

static void check_some(int first, int step) {
  uint64_t state = seed_of_run();
  const char *rounds = getenv("SPTX_TEST_ROUNDS");
  for (int round = 0; round < (rounds ? atoi(rounds) : 1); round++)
    for (int i = first; i < PATTERNS; i += step) {
      portable_case c = random_case(patterns[i], &state);
      portable_case_check(&c);
    }
}

Test(portable, random_0, .timeout = 600) {
  check_some(0, 3);
}

Test(portable, random_1, .timeout = 600) {
  check_some(1, 3);
}

Test(portable, random_2, .timeout = 600) {
  check_some(2, 3);
}

Test(portable, random_sets, .timeout = 600) {
  uint64_t state = seed_of_run() + 17;
  const char *rounds = getenv("SPTX_TEST_ROUNDS");
  for (int round = 0; round < (rounds ? 12 * atoi(rounds) : 12); round++) {
    char set[2048], pattern[2304];
    write_set(set, sizeof set, 2, &state);
    snprintf(pattern, sizeof pattern, "causal: %s\nattend: %s\n", draw(&state, 2) ? "true" : "false", set);
    portable_case c = random_case(pattern, &state);
    portable_case_check(&c);
  }
}

/* Default tiles of the wide heads. */
Test(portable, wide_bf16) {
  portable_case c = case_of(dense, B16, 128, 150);
  portable_case_check(&c);
}

Test(portable, wide_f32) {
  portable_case c = case_of(blocks, F32, 256, 100);
  c.heads = 1;
  portable_case_check(&c);
}

Test(portable, widest_f16) {
  portable_case c = case_of(dense, H16, 256, 130);
  c.heads = 1;
  portable_case_check(&c);
}

/* Several CTAs share the keys of a query, none or all of a warp's lanes are one key's. */
Test(portable, decode) {
  for (int dim = 16; dim <= 256; dim += 80) {
    portable_case c =
        case_of("causal: true\nattend: {any: [{columns: {every: 3, last: 2}}, {window: {left: 50}}]}\n",
                dim % 3 == 0 ? F32 : B16, dim, 1000);
    c.pass = SPTX_PASS_DECODE;
    c.position = 990;
    c.heads = dim < 100 ? 2 : 7;
    c.kv_heads = 1;
    portable_case_check(&c);
  }
}

/* Each tile that a schedule may ask for. */
Test(portable, schedules) {
  static const sptx_ptx_schedule schedules[] = {
      {.warps = 1, .query_tile = 16, .key_tile = 16},
      {.warps = 2, .query_tile = 64, .key_tile = 64, .stages = 1},
      {.warps = 8, .query_tile = 128, .key_tile = 128},
  };
  for (size_t i = 0; i < sizeof schedules / sizeof *schedules; i++) {
    portable_case c = case_of("causal: true\nattend: {window: {left: 70}}\n", H16, 32, 150);
    c.schedule = schedules[i];
    portable_case_check(&c);
  }
}
