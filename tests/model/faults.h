/* Makes the n-th file operation of the program under test fail, or kills the process at it. The test is
 * linked with
 * --wrap for each of the operations; see meson.build. */
#ifndef SPTX_TESTS_MODEL_FAULTS_H
#define SPTX_TESTS_MODEL_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

enum fault { FAULT_DISK_FULL, FAULT_KILL };

/* The operation number `operation` from now on (0 is the next one) fails with ENOSPC, as do all after it when
 * `lasting`; or the process dies there by SIGKILL. */
void fault_at(int64_t operation, enum fault fault, bool lasting);
void fault_off(void);
/* How many operations were done since fault_at or fault_off. */
int64_t fault_operations(void);

#endif
