/* Backward kernels against the reference, and bit for bit against themselves. */
#include "tests/gen/x86_case.h"

#include <criterion/criterion.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const char *const patterns[] = {
    "causal: true\nattend: all\n",
    "causal: true\nattend: {window: {left: 20}}\n",
    "causal: true\nattend: {any: [{window: {left: 9}}, {stride: {every: 8}}]}\n",
    "causal: true\nattend: {any: [{block: {size: 16}}, {columns: {every: 16, last: 3}}]}\n",
    "causal: true\nattend: {any: [{window: {left: 8, right: 3}}, {global: {first: 2, as: both}}, {random: "
    "{block: 16, "
    "per_row: 1, seed: 3}}]}\n",
    "attend: {where: \"i % 3 == 0 && (i * 7 + j * 3) % 5 == 0\"}\n",
    "heads: [{attend: {window: {left: 12}}}, {attend: {stride: {every: 5}}}]\ncausal: true\n",
};

Test(x86_backward, patterns_and_sizes) {
  static const int64_t sizes[] = {1, 17, 64, 97, 131};
  for (size_t p = 0; p < COUNT(patterns); p++)
    for (size_t n = 0; n < COUNT(sizes); n++)
      x86_case_check(&(x86_case){.pattern = patterns[p],
                                 .isa = sptx_x86_host_isa(),
                                 .pass = SPTX_PASS_BACKWARD,
                                 .batch = 1,
                                 .heads = 2,
                                 .n_q = sizes[n],
                                 .n_k = sizes[n],
                                 .head_dim = 24,
                                 .seed = p * 31 + n});
}

Test(x86_backward, instruction_sets_types_and_layouts) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
      for (int layout = X86_CONTIGUOUS; layout <= X86_GAPS; layout++)
        x86_case_check(&(x86_case){.pattern = patterns[(size_t)(1 + element)],
                                   .isa = (enum sptx_isa)isa,
                                   .pass = SPTX_PASS_BACKWARD,
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

/* Pairs of bfloat16 on every pattern: sizes that leave odd numbers of keys; a NaN that only some rows may
 * see, grouped heads, score changes. */
Test(x86_backward, bfloat16_patterns_and_sizes) {
  static const int64_t sizes[] = {1, 17, 75, 131};
  for (int isa = SPTX_ISA_AVX512_BF16; isa <= SPTX_ISA_AMX; isa++)
    for (size_t p = 0; p < COUNT(patterns); p++)
      for (size_t n = 0; n < COUNT(sizes); n++)
        x86_case_check(&(x86_case){.pattern = patterns[p],
                                   .isa = (enum sptx_isa)isa,
                                   .element = SPTX_ELEMENT_BF16,
                                   .pass = SPTX_PASS_BACKWARD,
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
Test(x86_backward, bfloat16_blocks) {
  static const int query_tiles[] = {16, 32, 48, 64}, key_tiles[] = {8, 64, 96};
  for (int isa = SPTX_ISA_AVX512_BF16; isa <= SPTX_ISA_AMX; isa++)
    for (int dim = 16; dim <= 256; dim += 40)
      x86_case_check(&(x86_case){
          .pattern = patterns[1],
          .isa = (enum sptx_isa)isa,
          .element = SPTX_ELEMENT_BF16,
          .pass = SPTX_PASS_BACKWARD,
          .batch = 1,
          .heads = 1,
          .n_q = dim == 16 ? 700 : 107,
          .n_k = dim == 16 ? 777 : 107,
          .head_dim = dim,
          .seed = (uint64_t)dim,
          .schedule = {.query_tile = query_tiles[dim / 8 % 4], .key_tile = key_tiles[dim / 8 % 3]}});
}

Test(x86_backward, head_dims) {
  for (int dim = 16; dim <= 256; dim += 24)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
      x86_case_check(&(x86_case){.pattern = patterns[1],
                                 .isa = (enum sptx_isa)isa,
                                 .pass = SPTX_PASS_BACKWARD,
                                 .batch = 1,
                                 .heads = 1,
                                 .n_q = 45,
                                 .n_k = 45,
                                 .head_dim = dim,
                                 .seed = (uint64_t)dim});
}

/* Long enough for several ranges of keys. */
Test(x86_backward, ranges_of_keys) {
  for (size_t p = 0; p < 5; p++)
    x86_case_check(&(x86_case){.pattern = patterns[p],
                               .isa = sptx_x86_host_isa(),
                               .pass = SPTX_PASS_BACKWARD,
                               .batch = 1,
                               .heads = 1,
                               .n_q = 700,
                               .n_k = 777,
                               .head_dim = 16,
                               .seed = p});
}

Test(x86_backward, score_changes) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
    for (int change = 0; change < 4; change++)
      x86_case_check(&(x86_case){.pattern = patterns[2],
                                 .isa = (enum sptx_isa)isa,
                                 .pass = SPTX_PASS_BACKWARD,
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

Test(x86_backward, schedules) {
  static const int query_tiles[] = {16, 32, 48, 64, 128}, key_tiles[] = {8, 64, 96};
  for (size_t q = 0; q < COUNT(query_tiles); q++)
    for (size_t k = 0; k < COUNT(key_tiles); k++)
      x86_case_check(&(x86_case){.pattern = patterns[0],
                                 .isa = sptx_x86_host_isa(),
                                 .pass = SPTX_PASS_BACKWARD,
                                 .batch = 1,
                                 .heads = 1,
                                 .n_q = 150,
                                 .n_k = 150,
                                 .head_dim = 24,
                                 .seed = 5,
                                 .schedule = {.query_tile = query_tiles[q], .key_tile = key_tiles[k]}});
}

Test(x86_backward, rows_without_keys) {
  for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
    x86_case_check(&(x86_case){.pattern = "attend: {where: \"i % 3 == 0 && j < i && j % 4 == 1\"}\n",
                               .isa = SPTX_ISA_AVX2,
                               .pass = SPTX_PASS_BACKWARD,
                               .element = (enum sptx_element)element,
                               .batch = 1,
                               .heads = 1,
                               .n_q = 50,
                               .n_k = 50,
                               .head_dim = 16,
                               .seed = 2});
}

Test(x86_backward, log_sum_exp_below_88) {
  for (size_t p = 0; p < COUNT(patterns); p++)
    x86_case_check(&(x86_case){.pattern = patterns[p],
                               .isa = SPTX_ISA_AVX2,
                               .pass = SPTX_PASS_BACKWARD,
                               .batch = 1,
                               .heads = 2,
                               .n_q = 70,
                               .n_k = 70,
                               .head_dim = 64,
                               .seed = p,
                               .opposed = true,
                               .scale = 4});
}

/* Offsets of 2^32 bytes and more, from the position's stride. */
Test(x86_backward, offsets_beyond_32_bits) {
  for (size_t p = 0; p < COUNT(patterns); p++)
    x86_case_check(&(x86_case){.pattern = patterns[p],
                               .isa = SPTX_ISA_AVX2,
                               .pass = SPTX_PASS_BACKWARD,
                               .layout = X86_FAR,
                               .element = (enum sptx_element)(p % 3),
                               .batch = 2,
                               .heads = 2,
                               .kv_heads = 1,
                               .n_q = 19,
                               .n_k = 21,
                               .head_dim = 24,
                               .seed = p});
}

Test(x86_backward, thirty_runs_are_bit_equal) {
  x86_case c = {.pattern = patterns[2],
                .isa = sptx_x86_host_isa(),
                .pass = SPTX_PASS_BACKWARD,
                .batch = 1,
                .heads = 2,
                .kv_heads = 1,
                .n_q = 530,
                .n_k = 530,
                .head_dim = 16,
                .seed = 8};
  x86_result first, other;
  sptx_error error = {0};
  cr_assert(x86_case_run(&c, &first, &error), "%s", error.message);
  size_t bytes = (size_t)(c.n_q * c.head_dim) * sizeof(double);
  for (int run = 1; run < 30; run++) {
    c.threads = 1 + run % 3;
    cr_assert(x86_case_run(&c, &other, &error), "%s", error.message);
    cr_assert(memcmp(first.d_q, other.d_q, 2 * bytes) == 0, "d_q differs in run %d", run);
    cr_assert(memcmp(first.d_k, other.d_k, bytes) == 0, "d_k differs in run %d", run);
    cr_assert(memcmp(first.d_v, other.d_v, bytes) == 0, "d_v differs in run %d", run);
    x86_result_clear(&other);
  }
  x86_result_clear(&first);
}

/* Ranges of keys that are no multiple of a register block: its padding must not reach into the next range. */
Test(x86_backward, items_write_rows_of_their_own) {
  for (size_t p = 0; p < COUNT(patterns); p++)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++) {
      int64_t shared = x86_case_shared_rows(&(x86_case){.pattern = patterns[p],
                                                        .isa = (enum sptx_isa)isa,
                                                        .batch = 1,
                                                        .heads = 2,
                                                        .kv_heads = 1,
                                                        .n_q = 700,
                                                        .n_k = 777,
                                                        .head_dim = 16,
                                                        .seed = p});
      cr_expect(shared == 0, "%s, %s: %ld rows", patterns[p], sptx_isa_name((enum sptx_isa)isa),
                (long)shared);
    }
}

/* A NaN reaches the rows that attend to it and no others: masked pairs of its tiles stay clean. */
Test(x86_backward, nan_stays_in_its_rows) {
  for (size_t p = 0; p < COUNT(patterns); p++)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++)
      x86_case_check(&(x86_case){.pattern = patterns[p],
                                 .isa = (enum sptx_isa)isa,
                                 .pass = SPTX_PASS_BACKWARD,
                                 .batch = 1,
                                 .element = (enum sptx_element)(p % 3),
                                 .heads = 2,
                                 .n_q = 90,
                                 .n_k = 90,
                                 .head_dim = 24,
                                 .seed = p,
                                 .nan_row = 41});
}

/* Every lane of a tile sees the same three keys, and one query holds a NaN: the keys that pad the tile, which
 * it does not attend to, must not get any of it. */
Test(x86_backward, nan_stays_out_of_the_padding) {
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element += 2)
      x86_case_check(&(x86_case){.pattern = "causal: true\nattend: {columns: {every: 64, last: 3}}\n",
                                 .isa = (enum sptx_isa)isa,
                                 .element = (enum sptx_element)element,
                                 .pass = SPTX_PASS_BACKWARD,
                                 .batch = 1,
                                 .heads = 1,
                                 .n_q = 150,
                                 .n_k = 150,
                                 .head_dim = 16,
                                 .seed = 6,
                                 .nan_row = 70,
                                 .schedule = {.query_tile = 32, .key_tile = 64}});
}

Test(x86_backward, mutants_are_caught) {
  for (int k = 0; k < 3 * SPTX_X86_MUTANT_STRIDE; k++) {
    static const enum sptx_isa isas[] = {SPTX_ISA_AVX2, SPTX_ISA_AVX512_BF16, SPTX_ISA_AMX};
    enum sptx_isa isa = isas[k % 3];
    int mutant = SPTX_X86_MUTANT_MASK + k / 3;
    x86_result result;
    sptx_error error = {0};
    x86_case c = {.pattern = patterns[2],
                  .isa = isa,
                  .element = isa == SPTX_ISA_AVX2 ? SPTX_ELEMENT_F32 : SPTX_ELEMENT_BF16,
                  .pass = SPTX_PASS_BACKWARD,
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
    cr_expect(!(result.worst <= 1), "mutant %d went unseen on %s", mutant, sptx_isa_name(isa));
    x86_result_clear(&result);
  }
}
