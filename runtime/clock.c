/* The monotonic clock of the operating system, in seconds. */
#include "runtime/clock.h"

#include <time.h>

double sptx_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}
