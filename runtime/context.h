/* Inside libsptx: the context, and how a failure becomes a status and a sentence that sptx_last_error finds.
 */
#ifndef SPTX_RUNTIME_CONTEXT_H
#define SPTX_RUNTIME_CONTEXT_H

#include "patterns/error.h"
#include "runtime/cache.h"
#include "runtime/device.h"
#include "runtime/sptx.h"
#include <pthread.h>
#include <stdatomic.h>

/* The last failure of one thread on one context. */
struct sptx_failure;

struct sptx_context {
  const sptx_device_kind *kind;
  void *device;
  atomic_int threads;
  pthread_mutex_t lock; /* of all that follows */
  char *cache_directory, *wisdom_path;
  struct sptx_failure *failures;
};

/* Remembers the sentence for sptx_last_error(context) in this thread, and gives the status to return. context
 * may be NULL: no context could be made. */
sptx_status sptx_context_fail(sptx_context *context, const sptx_error *error);
/* The same for a failure that has no sentence yet. */
__attribute__((format(printf, 3, 4))) sptx_status
sptx_context_refuse(sptx_context *context, enum sptx_code code, const char *format, ...);

/* A copy of a setting that another thread may be changing; NULL when unset, or memory is short. */
char *sptx_context_copy_cache_directory(sptx_context *context);
char *sptx_context_copy_wisdom_path(sptx_context *context);

#endif
