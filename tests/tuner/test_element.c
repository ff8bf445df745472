/* Element conversions: every 16-bit pattern survives a round trip, and rounding is to nearest even. */
#include "tuner/element.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

static uint16_t encode(sptx_dtype type, double value) {
  uint16_t bits;
  sptx_element_set(type, &bits, 0, value);
  return bits;
}

Test(element, every_16_bit_value_survives) {
  for (int type = SPTX_F16; type <= SPTX_BF16; type++)
    for (uint32_t bits = 0; bits < 65536; bits++) {
      uint16_t narrow = (uint16_t)bits;
      double value = sptx_element_get((sptx_dtype)type, &narrow, 0);
      if (isnan(value))
        cr_assert(isnan(sptx_element_get((sptx_dtype)type, &(uint16_t){encode((sptx_dtype)type, value)}, 0)));
      else
        cr_assert_eq(encode((sptx_dtype)type, value), bits, "type %d bits %04x value %g", type, bits, value);
    }
}

Test(element, rounds_to_nearest_even) {
  cr_assert_eq(encode(SPTX_F16, 1 + 0x1p-11), 0x3c00, "a tie goes to the even neighbour below");
  cr_assert_eq(encode(SPTX_F16, 1 + 3 * 0x1p-11), 0x3c02, "a tie goes to the even neighbour above");
  cr_assert_eq(encode(SPTX_F16, 65519.9), 0x7bff);
  cr_assert_eq(encode(SPTX_F16, 65520), 0x7c00, "too large becomes infinite");
  cr_assert_eq(encode(SPTX_F16, 0x1p-25), 0, "half the smallest subnormal is a tie with zero");
  cr_assert_eq(encode(SPTX_F16, -0x1.8p-25), 0x8001);
  cr_assert_eq(encode(SPTX_BF16, 1 + 0x1p-8), 0x3f80);
  cr_assert_eq(encode(SPTX_BF16, 1 + 3 * 0x1p-8), 0x3f82);
  cr_assert_eq(encode(SPTX_BF16, -INFINITY), 0xff80);
}

Test(element, float32_is_exact) {
  float value;
  sptx_element_set(SPTX_F32, &value, 0, 0.1);
  cr_assert_eq(value, 0.1f);
  cr_assert_eq(sptx_element_get(SPTX_F32, &value, 0), (double)0.1f);
}

Test(element, sizes) {
  cr_assert_eq(sptx_element_size(SPTX_F32), 4);
  cr_assert_eq(sptx_element_size(SPTX_BF16), 2);
}
