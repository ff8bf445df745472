/* Integer arithmetic that views and bounds need: division that floors, as in the pattern language. */
#ifndef SPTX_PATTERNS_INTEGER_H
#define SPTX_PATTERNS_INTEGER_H

#include <stdint.h>

static inline int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static inline int64_t max64(int64_t a, int64_t b) {
  return a > b ? a : b;
}

static inline int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

/* The divisor is positive. */
static inline int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}

static inline int64_t ceil_div(int64_t a, int64_t b) {
  return a / b + (a % b > 0);
}

static inline int64_t floor_mod(int64_t a, int64_t b) {
  int64_t r = a % b;
  return r < 0 ? r + b : r;
}

#endif
