/* File operations that fail on demand; see faults.h. */
#include "tests/model/faults.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static int64_t operations, target = -1;
static enum fault kind;
static bool all_after;

void fault_at(int64_t operation, enum fault fault, bool lasting) {
  operations = 0;
  target = operation;
  kind = fault;
  all_after = lasting;
}

void fault_off(void) {
  operations = 0;
  target = -1;
}

int64_t fault_operations(void) {
  return operations;
}

static bool fails(void) {
  int64_t operation = operations++;
  if (target < 0 || operation < target || (operation > target && !all_after))
    return false;
  if (kind == FAULT_KILL)
    kill(getpid(), SIGKILL);
  errno = ENOSPC;
  return true;
}

/* The linker turns calls of NAME into __wrap_NAME, and __real_NAME into NAME. */
#define WRAP(type, name, parameters, arguments, failure)                                                     \
  type __real_##name parameters;                                                                             \
  type __wrap_##name parameters;                                                                             \
  type __wrap_##name parameters {                                                                            \
    return fails() ? failure : __real_##name arguments;                                                      \
  }

WRAP(FILE *, fopen, (const char *path, const char *mode), (path, mode), NULL)
WRAP(FILE *, fdopen, (int descriptor, const char *mode), (descriptor, mode), NULL)
WRAP(size_t, fwrite, (const void *data, size_t size, size_t count, FILE *stream), (data, size, count, stream),
     0)
WRAP(int, fflush, (FILE * stream), (stream), EOF)
WRAP(int, fsync, (int descriptor), (descriptor), -1)
WRAP(int, rename, (const char *from, const char *to), (from, to), -1)
WRAP(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), -1)
