/* What forward and backward kernels must both do, against the reference: instruction sets, element types,
 * sizes, layouts, schedules, score changes, patterns of one and of several pieces, and NaNs. */
#include "tests/gen/x86_case.h"

#include <criterion/criterion.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static void check_forward(x86_case c) {
  c.pass = SPTX_PASS_FORWARD;
  x86_case_check(&c);
}

static void check(x86_case c) {
  check_forward(c);
  c.pass = SPTX_PASS_BACKWARD;
  x86_case_check(&c);
}

Test(x86_passes, patterns_and_sizes) {
  static const int64_t sizes[] = {1, 2, 17, 64, 97, 131};
  for (size_t p = 0; p < X86_PATTERNS; p++)
    for (size_t n = 0; n < COUNT(sizes); n++)
      check((x86_case){.pattern = x86_patterns[p],
                       .isa = sptx_x86_host_isa(),
                       .batch = 1,
                       .heads = 2,
                       .n_q = sizes[n],
                       .n_k = sizes[n],
                       .head_dim = n % 2 ? 16 : 24,
                       .seed = p * 31 + n});
}

Test(x86_passes, instruction_sets_types_and_layouts) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
      for (int layout = X86_CONTIGUOUS; layout <= X86_GAPS; layout++)
        check((x86_case){.pattern = x86_patterns[X86_WINDOW + element],
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

/* All that there are; the backward of every third. */
Test(x86_passes, head_dims) {
  for (int dim = 16; dim <= 256; dim += 8)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
      (dim % 24 == 16 ? check : check_forward)((x86_case){.pattern = x86_patterns[X86_WINDOW],
                                                          .isa = (enum sptx_isa)isa,
                                                          .batch = 1,
                                                          .heads = 1,
                                                          .n_q = 45,
                                                          .n_k = 45,
                                                          .head_dim = dim,
                                                          .seed = (uint64_t)dim});
}

/* The instruction sets with bfloat16 products, on every pattern: sizes that leave odd numbers of keys, and
 * parts of AMX tiles; a NaN that only some rows may see, grouped heads, score changes. */
Test(x86_passes, bfloat16_patterns_and_sizes) {
  static const int64_t sizes[] = {1, 17, 75, 131};
  for (int isa = SPTX_ISA_AVX512_BF16; isa <= SPTX_ISA_AMX; isa++)
    for (size_t p = 0; p < X86_PATTERNS; p++)
      for (size_t n = 0; n < COUNT(sizes); n++)
        check((x86_case){.pattern = x86_patterns[p],
                         .isa = (enum sptx_isa)isa,
                         .element = SPTX_ELEMENT_BF16,
                         .layout = (enum x86_layout)(n % 3),
                         .batch = 1,
                         .heads = 2,
                         .kv_heads = n % 2 ? 1 : 2,
                         .n_q = sizes[n],
                         .n_k = sizes[n] + 4 * (int64_t)n,
                         .head_dim = 24,
                         .seed = p * 31 + n,
                         .nan_row = n % 2 ? 0 : 33,
                         .soft_cap = p % 2 ? 2 : 0,
                         .alibi = p % 2,
                         .schedule = {.query_tile = 32, .key_tile = 64}});
}

/* Whole and broken register blocks and tiles in every direction; the longest for several ranges of keys. */
Test(x86_passes, bfloat16_blocks) {
  static const int query_tiles[] = {16, 32, 48, 64}, key_tiles[] = {8, 64, 96};
  for (int isa = SPTX_ISA_AVX512_BF16; isa <= SPTX_ISA_AMX; isa++)
    for (int dim = 16; dim <= 256; dim += 24)
      check((x86_case){
          .pattern = x86_patterns[X86_WINDOW],
          .isa = (enum sptx_isa)isa,
          .element = SPTX_ELEMENT_BF16,
          .batch = 1,
          .heads = 1,
          .n_q = dim == 16 ? 700 : 107,
          .n_k = dim == 16 ? 777 : 107,
          .head_dim = dim,
          .seed = (uint64_t)dim,
          .schedule = {.query_tile = query_tiles[dim / 8 % 4], .key_tile = key_tiles[dim / 8 % 3]}});
}

Test(x86_passes, schedules) {
  static const int query_tiles[] = {16, 32, 48, 64, 128}, key_tiles[] = {8, 64, 96};
  for (size_t q = 0; q < COUNT(query_tiles); q++)
    for (size_t k = 0; k < COUNT(key_tiles); k++)
      check((x86_case){.pattern = x86_patterns[0],
                       .isa = sptx_x86_host_isa(),
                       .batch = 1,
                       .heads = 1,
                       .n_q = 150,
                       .n_k = 150,
                       .head_dim = 24,
                       .seed = 5,
                       .schedule = {.query_tile = query_tiles[q], .key_tile = key_tiles[k]}});
}

Test(x86_passes, score_changes) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
    for (int change = 0; change < 4; change++)
      check((x86_case){.pattern = x86_patterns[X86_TWO_PIECES],
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

/* Offsets of 2^32 bytes and more, from the position's stride. */
Test(x86_passes, offsets_beyond_32_bits) {
  for (size_t p = 0; p < X86_PATTERNS; p++)
    check((x86_case){.pattern = x86_patterns[p],
                     .isa = SPTX_ISA_AVX2,
                     .layout = X86_FAR,
                     .element = (enum sptx_element)(p % 3),
                     .batch = 2,
                     .heads = 2,
                     .kv_heads = 1 + (int64_t)(p % 2),
                     .n_q = 19,
                     .n_k = 21,
                     .head_dim = 24,
                     .seed = p});
}

Test(x86_passes, rows_without_keys) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
      check((x86_case){.pattern = "attend: {where: \"i % 3 == 0 && j < i && j % 4 == 1\"}\n",
                       .isa = (enum sptx_isa)isa,
                       .element = (enum sptx_element)element,
                       .batch = 1,
                       .heads = 1,
                       .n_q = 50,
                       .n_k = 50,
                       .head_dim = 16,
                       .seed = 2});
}

/* A NaN reaches the rows that attend to it and no others: masked pairs of its tiles stay clean. */
Test(x86_passes, nan_stays_in_its_rows) {
  for (size_t p = 0; p < X86_PATTERNS; p++)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
      check((x86_case){.pattern = x86_patterns[p],
                       .isa = (enum sptx_isa)isa,
                       .batch = 1,
                       .element = (enum sptx_element)(p % 3),
                       .heads = 2,
                       .n_q = 90,
                       .n_k = 90,
                       .head_dim = 24,
                       .seed = p,
                       .nan_row = 41});
}

/* Every lane of a tile sees the same three keys. The rows that pad them are those of other keys: a NaN in a
 * later key must stay out of the forward, and one in a query out of the keys that it does not attend to. */
Test(x86_passes, nan_stays_out_of_the_padding) {
  static const int64_t rows[] = {70, 125};
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element += 2)
      for (size_t k = 0; k < COUNT(rows); k++)
        check((x86_case){.pattern = "causal: true\nattend: {columns: {every: 64, last: 3}}\n",
                         .isa = (enum sptx_isa)isa,
                         .element = (enum sptx_element)element,
                         .batch = 1,
                         .heads = 1,
                         .n_q = 150,
                         .n_k = 150,
                         .head_dim = 16,
                         .seed = 6,
                         .nan_row = rows[k],
                         .schedule = {.query_tile = 32, .key_tile = 64}});
}

static void catch_mutants(enum sptx_pass pass, int end) {
  static const enum sptx_isa isas[] = {SPTX_ISA_AVX2, SPTX_ISA_AVX512_BF16, SPTX_ISA_AMX};
  for (size_t k = 0; k < COUNT(isas); k++)
    for (int mutant = SPTX_X86_MUTANT_MASK; mutant < SPTX_X86_MUTANT_MASK + end; mutant++) {
      x86_result result;
      sptx_error error = {0};
      x86_case c = {.pattern = x86_patterns[X86_TWO_PIECES],
                    .isa = isas[k],
                    .pass = pass,
                    .element = isas[k] == SPTX_ISA_AVX2 ? SPTX_ELEMENT_F32 : SPTX_ELEMENT_BF16,
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
      cr_expect(!(result.worst <= 1), "mutant %d went unseen on %s", mutant, sptx_isa_name(isas[k]));
      x86_result_clear(&result);
    }
}

/* The last mutant is one of the forward alone. */
Test(x86_passes, mutants_are_caught) {
  catch_mutants(SPTX_PASS_FORWARD, SPTX_X86_MUTANT_MERGE);
  catch_mutants(SPTX_PASS_BACKWARD, SPTX_X86_MUTANT_STRIDE);
}
