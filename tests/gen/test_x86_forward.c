/* What only forward and decode kernels must do: decode, and sums of exponentials out of float32's range. The
 * rest is in test_x86_passes.c. */
#include "tests/gen/x86_case.h"

#include <criterion/criterion.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

Test(x86_forward, bfloat16_decode) {
  for (size_t p = 0; p < X86_PATTERNS; p++)
    for (int64_t position = 7; position < 100; position += 41)
      x86_case_check(&(x86_case){.pattern = x86_patterns[p],
                                 .isa = SPTX_ISA_AVX512_BF16,
                                 .element = SPTX_ELEMENT_BF16,
                                 .pass = SPTX_PASS_DECODE,
                                 .batch = 2,
                                 .heads = 6,
                                 .kv_heads = 2,
                                 .n_q = 100,
                                 .n_k = 100,
                                 .head_dim = 40,
                                 .position = position,
                                 .seed = p});
}

/* Log-sum-exp far below -88 and far above 88; the greatest score of many rows is masked. */
Test(x86_forward, extreme_scores) {
  static const double scales[] = {-3, 3, 40};
  for (size_t k = 0; k < COUNT(scales); k++)
    x86_case_check(&(x86_case){.pattern = x86_patterns[X86_WINDOW],
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
  x86_case c = {.pattern = x86_patterns[X86_TWO_PIECES],
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

Test(x86_forward, decode) {
  for (size_t p = 0; p < X86_PATTERNS; p++)
    for (int64_t position = 0; position < 100; position += 33)
      x86_case_check(&(x86_case){.pattern = x86_patterns[p],
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
