/* Compiled code on disk, so that the next process need not compile. An entry is one file in a directory
 * private to the user; it is written whole or not at all, and one that is damaged, cut or could have been
 * written by somebody else is refused. A cache that cannot be used costs time, never a result: nothing here
 * reports errors.
 */
#ifndef SPTX_RUNTIME_CACHE_H
#define SPTX_RUNTIME_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 128 bits of hash of everything that determines the code. */
typedef struct sptx_cache_key {
  uint64_t low, high;
} sptx_cache_key;

typedef struct sptx_cache {
  char *directory; /* NULL: nothing is kept */
} sptx_cache;

/* The hash of size bytes, continued from *key (start from zeros). */
void sptx_cache_key_add(sptx_cache_key *key, const void *data, size_t size);

/* Reads the entry of key and kind (a file suffix: "o", "ptx"). Returns malloc'ed bytes, or NULL where there
 * is none that can be trusted. May be used by many threads and processes at once, as may store. */
void *sptx_cache_load(const sptx_cache *cache, sptx_cache_key key, const char *kind, size_t *size);
/* Keeps the bytes under key and kind; true when they were written. Makes the directory when there is none. */
bool sptx_cache_store(const sptx_cache *cache, sptx_cache_key key, const char *kind, const void *data,
                      size_t size);

/* Creates a directory and those above it, private to the user; what fails shows when it is used. */
void sptx_make_directories(const char *path);

#endif
