/* Contexts: a device, where code is kept, settings, and the last error of each thread. */
#include "runtime/context.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_THREADS = 1024 };

#define SAME(name) _Static_assert((int)SPTX_##name == (int)SPTX_CODE_##name, "statuses are the codes")
SAME(OK);
SAME(INVALID_ARGUMENT);
SAME(OUT_OF_MEMORY);
SAME(OVERFLOW);
SAME(PATTERN_SYNTAX);
SAME(PATTERN_VALUE);
SAME(PATTERN_LIMIT);
SAME(UNSUPPORTED);
SAME(IO);
SAME(FORMAT);
SAME(COMPILE);
SAME(NO_DEVICE);
SAME(DEVICE);
SAME(DEVICE_MEMORY);

/* Every kind of device that this build knows, ended by a NULL. */
static const sptx_device_kind *const device_kinds[] = {&sptx_cpu_device, &sptx_cuda_kind, NULL};

const char *sptx_version(void) {
  return SPTX_VERSION;
}

const char *sptx_status_name(sptx_status status) {
  switch (status) {
  case SPTX_OK:
    return "ok";
  case SPTX_INVALID_ARGUMENT:
    return "invalid argument";
  case SPTX_OUT_OF_MEMORY:
    return "out of memory";
  case SPTX_OVERFLOW:
    return "overflow";
  case SPTX_PATTERN_SYNTAX:
    return "pattern syntax";
  case SPTX_PATTERN_VALUE:
    return "pattern value";
  case SPTX_PATTERN_LIMIT:
    return "pattern limit";
  case SPTX_UNSUPPORTED:
    return "unsupported";
  case SPTX_IO:
    return "input or output";
  case SPTX_FORMAT:
    return "file format";
  case SPTX_COMPILE:
    return "compilation";
  case SPTX_NO_DEVICE:
    return "no device";
  case SPTX_DEVICE:
    return "device failure";
  case SPTX_DEVICE_MEMORY:
    return "out of device memory";
  }
  return "unknown status";
}

/* Failures are kept with their context, one for each thread that ever failed on it. A thread is known by the
 * address of a variable of its own, which a later thread may take over once it has ended. */
struct sptx_failure {
  const void *thread;
  sptx_error error;
  struct sptx_failure *next;
};

/* The failure that no context keeps: there is none yet (context NULL), or memory is short. */
static _Thread_local struct {
  const sptx_context *context;
  sptx_error error;
} own_failure;

static struct sptx_failure *find_failure(const sptx_context *context) {
  struct sptx_failure *failure = context->failures;
  while (failure && failure->thread != &own_failure)
    failure = failure->next;
  return failure;
}

/* Keeps the error with the context; false when memory is short. */
static bool keep_failure(sptx_context *context, const sptx_error *error) {
  pthread_mutex_lock(&context->lock);
  struct sptx_failure *failure = find_failure(context);
  if (!failure && (failure = malloc(sizeof *failure))) {
    failure->thread = &own_failure;
    failure->next = context->failures;
    context->failures = failure;
  }
  if (failure)
    failure->error = *error;
  pthread_mutex_unlock(&context->lock);
  return failure != NULL;
}

sptx_status sptx_context_fail(sptx_context *context, const sptx_error *error) {
  if (!context || !keep_failure(context, error)) {
    own_failure.context = context;
    own_failure.error = *error;
  }
  return (sptx_status)error->code;
}

sptx_status sptx_context_refuse(sptx_context *context, enum sptx_code code, const char *format, ...) {
  sptx_error error = {.code = code};
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error.message, sizeof error.message, format, arguments);
  va_end(arguments);
  return sptx_context_fail(context, &error);
}

const char *sptx_last_error(const sptx_context *constant) {
  if (!constant)
    return own_failure.context ? "" : own_failure.error.message;
  sptx_context *context = (sptx_context *)constant;
  pthread_mutex_lock(&context->lock);
  struct sptx_failure *failure = find_failure(context);
  pthread_mutex_unlock(&context->lock);
  if (failure)
    return failure->error.message;
  return own_failure.context == context ? own_failure.error.message : "";
}

static const sptx_device_kind *find_kind(const char *device) {
  size_t length = strcspn(device, ":");
  for (const sptx_device_kind *const *kind = device_kinds; *kind; kind++)
    if (strlen((*kind)->name) == length && strncmp((*kind)->name, device, length) == 0)
      return *kind;
  return NULL;
}

/* directory/file; NULL where directory is, or memory is short. */
static char *join(const char *directory, const char *file) {
  size_t size = directory ? strlen(directory) + strlen(file) + 2 : 0;
  char *path = directory ? malloc(size) : NULL;
  if (path)
    snprintf(path, size, "%s/%s", directory, file);
  return path;
}

/* The XDG base directory specification: relative paths are to be ignored. */
static char *default_cache_directory(void) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  if (cache && cache[0] == '/')
    return join(cache, "sptx");
  return home && home[0] == '/' ? join(home, ".cache/sptx") : NULL;
}

static int usable_cores(void) {
  cpu_set_t set;
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  return cores < 1 ? 1 : cores > MOST_THREADS ? MOST_THREADS : cores;
}

sptx_status sptx_context_create(sptx_context **ctx, const char *device) {
  if (!ctx)
    return sptx_context_refuse(NULL, SPTX_CODE_INVALID_ARGUMENT,
                               "ctx is NULL; pass where to put the context");
  *ctx = NULL;
  if (!device)
    return sptx_context_refuse(NULL, SPTX_CODE_INVALID_ARGUMENT, "device is NULL; use \"cpu\" or \"cuda:N\"");
  const sptx_device_kind *kind = find_kind(device);
  if (!kind)
    return sptx_context_refuse(NULL, SPTX_CODE_INVALID_ARGUMENT, "'%s' is not a device; use cpu or cuda:N",
                               device);
  sptx_context *context = calloc(1, sizeof *context);
  if (!context)
    return sptx_context_refuse(NULL, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a context");
  sptx_error error = {0};
  context->kind = kind;
  if (kind->open(device, &context->device, &error) != SPTX_CODE_OK) {
    free(context);
    return sptx_context_fail(NULL, &error);
  }
  pthread_mutex_init(&context->lock, NULL);
  atomic_init(&context->threads, usable_cores());
  context->cache_directory = default_cache_directory();
  context->wisdom_path = join(context->cache_directory, "wisdom.db");
  *ctx = context;
  return SPTX_OK;
}

void sptx_context_destroy(sptx_context *ctx) {
  if (!ctx)
    return;
  ctx->kind->close(ctx->device);
  while (ctx->failures) {
    struct sptx_failure *failure = ctx->failures;
    ctx->failures = failure->next;
    free(failure);
  }
  if (own_failure.context == ctx) /* another context may be given this address */
    own_failure.error.message[0] = '\0';
  free(ctx->cache_directory);
  free(ctx->wisdom_path);
  pthread_mutex_destroy(&ctx->lock);
  free(ctx);
}

sptx_status sptx_context_set_threads(sptx_context *ctx, int threads) {
  if (!ctx)
    return SPTX_INVALID_ARGUMENT;
  if (threads < 0 || threads > MOST_THREADS)
    return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT,
                               "threads is %d; it must be from 1 to %d, or 0 for the usable cores", threads,
                               MOST_THREADS);
  atomic_store(&ctx->threads, threads ? threads : usable_cores());
  return SPTX_OK;
}

/* Replaces a path of the context by a copy of value, which may be NULL. */
static sptx_status set_path(sptx_context *ctx, char **path, const char *name, const char *value) {
  if (value && !value[0])
    return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT, "%s is empty; use a path, or NULL for none",
                               name);
  char *copy = value ? strdup(value) : NULL;
  if (value && !copy)
    return sptx_context_refuse(ctx, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the %s", name);
  pthread_mutex_lock(&ctx->lock);
  free(*path);
  *path = copy;
  pthread_mutex_unlock(&ctx->lock);
  return SPTX_OK;
}

sptx_status sptx_context_set_cache(sptx_context *ctx, const char *directory) {
  return ctx ? set_path(ctx, &ctx->cache_directory, "cache directory", directory) : SPTX_INVALID_ARGUMENT;
}

sptx_status sptx_context_set_wisdom(sptx_context *ctx, const char *path) {
  return ctx ? set_path(ctx, &ctx->wisdom_path, "wisdom path", path) : SPTX_INVALID_ARGUMENT;
}

static char *copy_path(sptx_context *context, char *const *path) {
  pthread_mutex_lock(&context->lock);
  char *copy = *path ? strdup(*path) : NULL;
  pthread_mutex_unlock(&context->lock);
  return copy;
}

char *sptx_context_copy_cache_directory(sptx_context *context) {
  return copy_path(context, &context->cache_directory);
}

char *sptx_context_copy_wisdom_path(sptx_context *context) {
  return copy_path(context, &context->wisdom_path);
}
