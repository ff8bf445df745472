/* Reads and writes single elements of float32, float16 and bfloat16 arrays; see element.h. Speed does not
 * matter here: it fills inputs and checks results. */
#include "tuner/element.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

size_t sptx_element_size(sptx_dtype type) {
  return type == SPTX_F32 ? 4 : 2;
}

static double half_to_double(uint16_t bits) {
  int exponent = bits >> 10 & 31, fraction = bits & 1023;
  double value = exponent == 31 ? (fraction ? NAN : INFINITY)
                 : exponent     ? ldexp(fraction + 1024, exponent - 25)
                                : ldexp(fraction, -24);
  return bits & 0x8000 ? -value : value;
}

/* Scaling by a power of two brings the wanted last bit to the unit, where rint rounds to nearest even. */
static uint16_t half_from_double(double value) {
  uint16_t sign = signbit(value) ? 0x8000 : 0;
  double magnitude = fabs(value);
  if (isnan(value))
    return 0x7e00;
  if (magnitude >= 65520)
    return sign | 0x7c00;
  if (magnitude < ldexp(1, -14))
    return sign | (uint16_t)rint(ldexp(magnitude, 24));
  int exponent;
  frexp(magnitude, &exponent);
  /* A carry out of the fraction moves on into the exponent, as it should. */
  return sign | (uint16_t)((exponent + 13) * 1024 + (int)rint(ldexp(magnitude, 11 - exponent)));
}

static uint16_t bfloat_from_double(double value) {
  float narrow = (float)value;
  uint32_t bits;
  memcpy(&bits, &narrow, 4);
  if (isnan(value))
    return 0x7fc0;
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

double sptx_element_get(sptx_dtype type, const void *data, size_t index) {
  if (type == SPTX_F32)
    return ((const float *)data)[index];
  uint16_t bits = ((const uint16_t *)data)[index];
  if (type == SPTX_F16)
    return half_to_double(bits);
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

void sptx_element_set(sptx_dtype type, void *data, size_t index, double value) {
  if (type == SPTX_F32)
    ((float *)data)[index] = (float)value;
  else
    ((uint16_t *)data)[index] = type == SPTX_F16 ? half_from_double(value) : bfloat_from_double(value);
}
