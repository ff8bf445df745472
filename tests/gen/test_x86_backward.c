/* What only backward kernels must do: ranges of keys, and gradients that are bit for bit the same in every
 * run. The rest is in test_x86_passes.c. */
#include "tests/gen/x86_case.h"

#include <criterion/criterion.h>
#include <string.h>

enum { SPLIT = 7 }; /* the first of the patterns, whose keys are split into ranges */

/* Long enough for several ranges of keys. */
Test(x86_backward, ranges_of_keys) {
  for (size_t p = 0; p < 5; p++)
    x86_case_check(&(x86_case){.pattern = x86_patterns[p],
                               .isa = sptx_x86_host_isa(),
                               .pass = SPTX_PASS_BACKWARD,
                               .batch = 1,
                               .heads = 1,
                               .n_q = 700,
                               .n_k = 777,
                               .head_dim = 16,
                               .seed = p});
}

Test(x86_backward, log_sum_exp_below_88) {
  for (size_t p = 0; p < X86_PATTERNS; p++)
    x86_case_check(&(x86_case){.pattern = x86_patterns[p],
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

Test(x86_backward, thirty_runs_are_bit_equal) {
  x86_case c = {.pattern = x86_patterns[X86_TWO_PIECES],
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
  for (size_t p = 0; p < SPLIT; p++)
    for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AVX512; isa++) {
      int64_t shared = x86_case_shared_rows(&(x86_case){.pattern = x86_patterns[p],
                                                        .isa = (enum sptx_isa)isa,
                                                        .batch = 1,
                                                        .heads = 2,
                                                        .kv_heads = 1,
                                                        .n_q = 700,
                                                        .n_k = 777,
                                                        .head_dim = 16,
                                                        .seed = p});
      cr_expect(shared == 0, "%s, %s: %ld rows", x86_patterns[p], sptx_isa_name((enum sptx_isa)isa),
                (long)shared);
    }
}
