/* Forward and decode kernels against the reference: instruction sets, element types, sizes, layouts, score
 * changes, patterns of one and of several pieces, and what broke others. */
#include "tests/gen/x86_case.h"

#include <criterion/criterion.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const char *const patterns[] = {
    "causal: true\nattend: all\n",
    "attend: all\n",
    "causal: true\nattend: {window: {left: 20}}\n",
    "causal: true\nattend: {stride: {every: 7}}\n",
    "causal: true\nattend: {stride: {every: 61}}\n",
    "causal: true\nattend: {columns: {every: 16, last: 5}}\n",
    "causal: true\nattend: {any: [{window: {left: 9}}, {stride: {every: 8}}]}\n",
    "causal: true\nattend: {any: [{block: {size: 16}}, {columns: {every: 16, last: 3}}]}\n",
    "causal: true\nattend: {any: [{window: {left: 8, right: 3}}, {global: {first: 2, as: both}}, {random: "
    "{block: 16, "
    "per_row: 1, seed: 3}}]}\n",
    "causal: true\nattend: {dilated: {window: 6, dilation: 3}}\n",
    "attend: {where: \"(i * 7 + j * 3) % 5 == 0\"}\n",
    "heads: [{attend: {window: {left: 12}}}, {attend: {stride: {every: 5}}}]\ncausal: true\n",
};

Test(x86_forward, patterns_and_sizes) {
  static const int64_t sizes[] = {1, 2, 17, 64, 97, 131, 192};
  for (size_t p = 0; p < COUNT(patterns); p++)
    for (size_t n = 0; n < COUNT(sizes); n++)
      x86_case_check(&(x86_case){.pattern = patterns[p],
                                 .isa = sptx_x86_host_isa(),
                                 .batch = 1,
                                 .heads = 2,
                                 .n_q = sizes[n],
                                 .n_k = sizes[n],
                                 .head_dim = 16,
                                 .seed = p * 31 + n});
}

Test(x86_forward, instruction_sets_types_and_layouts) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
      for (int layout = X86_CONTIGUOUS; layout <= X86_GAPS; layout++)
        x86_case_check(&(x86_case){.pattern = patterns[(size_t)(layout + 6 * (element != 0))],
                                   .isa = (enum sptx_isa)isa,
                                   .element = (enum sptx_element)element,
                                   .layout = (enum x86_layout)layout,
                                   .batch = 2,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .n_q = 83,
                                   .n_k = 101,
                                   .head_dim = 40,
                                   .seed = (uint64_t)(isa * 9 + element * 3 + layout)});
}

Test(x86_forward, head_dims) {
  for (int dim = 16; dim <= 256; dim += 8)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
      x86_case_check(&(x86_case){.pattern = patterns[2],
                                 .isa = (enum sptx_isa)isa,
                                 .batch = 1,
                                 .heads = 1,
                                 .n_q = 45,
                                 .n_k = 45,
                                 .head_dim = dim,
                                 .seed = (uint64_t)dim});
}

/* Whole and broken tiles of AMX in every direction. */
Test(x86_forward, amx_tiles) {
  static const int query_tiles[] = {32, 64};
  for (int dim = 16; dim <= 256; dim += 40)
    for (size_t q = 0; q < COUNT(query_tiles); q++)
      for (size_t p = 0; p < COUNT(patterns); p++)
        x86_case_check(&(x86_case){.pattern = patterns[p],
                                   .isa = SPTX_ISA_AMX,
                                   .element = SPTX_ELEMENT_BF16,
                                   .batch = 1,
                                   .heads = 2,
                                   .n_q = 75,
                                   .n_k = 107,
                                   .head_dim = dim,
                                   .seed = p,
                                   .nan_row = p % 2 ? 33 : 0,
                                   .soft_cap = q ? 2 : 0,
                                   .schedule = {.query_tile = query_tiles[q], .key_tile = q ? 64 : 96}});
}

Test(x86_forward, schedules) {
  static const int query_tiles[] = {16, 32, 48, 64, 128}, key_tiles[] = {8, 64, 96};
  for (size_t q = 0; q < COUNT(query_tiles); q++)
    for (size_t k = 0; k < COUNT(key_tiles); k++)
      x86_case_check(&(x86_case){.pattern = patterns[0],
                                 .isa = sptx_x86_host_isa(),
                                 .batch = 1,
                                 .heads = 1,
                                 .n_q = 150,
                                 .n_k = 150,
                                 .head_dim = 24,
                                 .seed = 5,
                                 .schedule = {.query_tile = query_tiles[q], .key_tile = key_tiles[k]}});
}

Test(x86_forward, score_changes) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
    for (int change = 0; change < 4; change++)
      x86_case_check(&(x86_case){.pattern = patterns[6],
                                 .isa = (enum sptx_isa)isa,
                                 .batch = 1,
                                 .heads = 3,
                                 .kv_heads = 1,
                                 .n_q = 70,
                                 .n_k = 90,
                                 .head_dim = 32,
                                 .seed = 9,
                                 .scale = 0.4,
                                 .amplitude = 2,
                                 .soft_cap = change & 1 ? 3 : 0,
                                 .alibi = change & 2});
}

/* Log-sum-exp far below -88 and far above 88; the greatest score of many rows is masked. */
Test(x86_forward, extreme_scores) {
  static const double scales[] = {-3, 3, 40};
  for (size_t k = 0; k < COUNT(scales); k++)
    x86_case_check(&(x86_case){.pattern = patterns[2],
                               .isa = sptx_x86_host_isa(),
                               .batch = 1,
                               .heads = 1,
                               .n_q = 77,
                               .n_k = 77,
                               .head_dim = 64,
                               .seed = 21,
                               .scale = scales[k],
                               .amplitude = 3});
}

/* Every sum of exponentials is below the least float32: only the distance from the maximum may be
 * exponentiated. */
Test(x86_forward, log_sum_exp_below_88) {
  x86_result result;
  sptx_error error = {0};
  x86_case c = {.pattern = patterns[6],
                .isa = SPTX_ISA_AVX2,
                .batch = 1,
                .heads = 2,
                .n_q = 130,
                .n_k = 130,
                .head_dim = 64,
                .seed = 5,
                .opposed = true,
                .scale = 4};
  x86_case_check(&c);
  cr_assert(x86_case_run(&c, &result, &error), "%s", error.message);
  for (int64_t row = 0; row < c.heads * c.n_q; row++)
    cr_assert(result.lse[row] < -88, "row %ld: %g", (long)row, result.lse[row]);
  x86_result_clear(&result);
}

/* Offsets of 2^32 bytes and more, from the position's stride. */
Test(x86_forward, offsets_beyond_32_bits) {
  for (size_t p = 0; p < COUNT(patterns); p++)
    x86_case_check(&(x86_case){.pattern = patterns[p],
                               .isa = SPTX_ISA_AVX2,
                               .layout = X86_FAR,
                               .element = (enum sptx_element)(p % 3),
                               .batch = 2,
                               .heads = 2,
                               .n_q = 19,
                               .n_k = 21,
                               .head_dim = 24,
                               .seed = p});
}

Test(x86_forward, rows_without_keys) {
  for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
    x86_case_check(&(x86_case){.pattern = "attend: {where: \"i % 3 == 0 && j < i\"}\n",
                               .isa = sptx_x86_host_isa(),
                               .element = (enum sptx_element)element,
                               .batch = 1,
                               .heads = 1,
                               .n_q = 50,
                               .n_k = 50,
                               .head_dim = 16,
                               .seed = 2});
}

Test(x86_forward, decode) {
  for (size_t p = 0; p < COUNT(patterns); p++)
    for (int64_t position = 0; position < 100; position += 33)
      x86_case_check(&(x86_case){.pattern = patterns[p],
                                 .isa = position % 2 ? sptx_x86_host_isa() : SPTX_ISA_AVX2,
                                 .element = (enum sptx_element)(p % 3),
                                 .pass = SPTX_PASS_DECODE,
                                 .batch = 2,
                                 .heads = 6,
                                 .kv_heads = 2,
                                 .n_q = 100,
                                 .n_k = 100,
                                 .head_dim = 48,
                                 .position = position,
                                 .seed = p,
                                 .alibi = p % 2});
}

/* A NaN reaches the rows that attend to it and no others: masked pairs of its tiles stay clean. */
Test(x86_forward, nan_stays_in_its_rows) {
  for (size_t p = 0; p < COUNT(patterns); p++)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
      x86_case_check(&(x86_case){.pattern = patterns[p],
                                 .isa = (enum sptx_isa)isa,
                                 .pass = SPTX_PASS_FORWARD,
                                 .batch = 1,
                                 .element = (enum sptx_element)(p % 3),
                                 .heads = 2,
                                 .n_q = 90,
                                 .n_k = 90,
                                 .head_dim = 24,
                                 .seed = p,
                                 .nan_row = 41});
}

Test(x86_forward, mutants_are_caught) {
  for (int mutant = SPTX_X86_MUTANT_MASK; mutant <= SPTX_X86_MUTANT_MERGE; mutant++) {
    x86_result result;
    sptx_error error = {0};
    x86_case c = {.pattern = patterns[6],
                  .isa = SPTX_ISA_AVX2,
                  .batch = 1,
                  .heads = 2,
                  .kv_heads = 1,
                  .n_q = 60,
                  .n_k = 60,
                  .head_dim = 16,
                  .seed = 4,
                  .scale = 0.5,
                  .layout = X86_POSITION_FIRST,
                  .mutant = (enum sptx_x86_mutant)mutant};
    cr_assert(x86_case_run(&c, &result, &error), "%s", error.message);
    cr_expect(!(result.worst <= 1), "mutant %d went unseen", mutant);
    x86_result_clear(&result);
  }
}
