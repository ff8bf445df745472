/* A CUDA driver without a GPU: counts what it hands out, lets the n-th call fail, and checks what it is
 * given. Device memory is host memory, so that AddressSanitizer watches it; kernels do nothing. */
#ifndef SPTX_TESTS_FAKE_DRIVER_H
#define SPTX_TESTS_FAKE_DRIVER_H

#include "runtime/cuda_driver.h"
#include <stdbool.h>

extern struct fake_state {
  int calls, fail_at; /* the call of this number fails with "out of memory"; -1: none */
  int live, depth;    /* what is not given back; contexts pushed */
  int launches, clears, encoded;
  uint64_t first_map;   /* the address that the last launch's first tensor map was encoded for */
  size_t assembled;     /* characters of PTX */
  int major, version;   /* of the compute capability; of the driver */
  unsigned rejection;   /* the assembler's result */
  unsigned memory_type; /* of every pointer, and the device it is on */
  int memory_ordinal;
  float elapsed_ms;   /* between any two events */
  unsigned wait_us;   /* what waiting for a stream takes */
  bool other_kernels; /* launches are not of attention: their parameters are not looked at */
} fake;

extern const sptx_cuda_driver fake_driver;

void fake_reset(int fail_at);

#endif
