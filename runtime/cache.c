/* The code cache's files. What makes an entry trustworthy: directory and file belong to this user and nobody
 * else may write them; the header names the key asked for; the length and the hash of the content agree. An
 * entry is written under a name of its own and renamed, so that readers see all of it or none. */
#include "runtime/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { NAME_BYTES = 64 };

/* The file is this header and then size bytes. */
typedef struct entry_header {
  char magic[8];
  sptx_cache_key key;
  uint64_t size;
  uint64_t content_low, content_high;
} entry_header;

static const char entry_magic[8] = {'s', 'p', 't', 'x', 'o', 'b', 'j', '1'};

void sptx_cache_key_add(sptx_cache_key *key, const void *data, size_t size) {
  XXH128_hash_t hash = XXH3_128bits(data, size);
  uint64_t chain[5] = {key->low, key->high, hash.low64, hash.high64, size};
  hash = XXH3_128bits(chain, sizeof chain);
  key->low = hash.low64;
  key->high = hash.high64;
}

static entry_header header_of(sptx_cache_key key, const void *data, size_t size) {
  XXH128_hash_t hash = XXH3_128bits(data, size);
  entry_header header = {.key = key, .size = size, .content_low = hash.low64, .content_high = hash.high64};
  memcpy(header.magic, entry_magic, sizeof header.magic);
  return header;
}

static void entry_name(char name[NAME_BYTES], sptx_cache_key key, const char *kind) {
  snprintf(name, NAME_BYTES, "%016llx%016llx.%s", (unsigned long long)key.high, (unsigned long long)key.low,
           kind);
}

/* Could somebody else have written it? */
static bool is_private(const struct stat *status) {
  return status->st_uid == geteuid() && (status->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static int open_directory(const char *path) {
  int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0)
    return -1;
  struct stat status;
  if (fstat(directory, &status) == 0 && is_private(&status))
    return directory;
  close(directory);
  return -1;
}

/* mkdir -p; the XDG base directory specification asks for mode 0700. */
void sptx_make_directories(const char *path) {
  char *prefix = strdup(path);
  if (!prefix)
    return;
  for (char *slash = strchr(prefix + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(prefix, 0700);
    *slash = '/';
  }
  mkdir(prefix, 0700);
  free(prefix);
}

static bool read_exactly(int file, void *buffer, size_t size) {
  for (char *at = buffer; size > 0;) {
    ssize_t got = read(file, at, size);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return false;
    at += got;
    size -= (size_t)got;
  }
  return true;
}

static bool write_exactly(int file, const void *buffer, size_t size) {
  for (const char *at = buffer; size > 0;) {
    ssize_t put = write(file, at, size);
    if (put < 0 && errno == EINTR)
      continue;
    if (put <= 0)
      return false;
    at += put;
    size -= (size_t)put;
  }
  return true;
}

/* The content of an open entry, when all of it is as it was written. */
static void *read_entry(int file, sptx_cache_key key, size_t *size) {
  struct stat status;
  entry_header header;
  if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || !is_private(&status) ||
      !read_exactly(file, &header, sizeof header) || header.size == 0 ||
      header.size > (uint64_t)status.st_size || (uint64_t)status.st_size != header.size + sizeof header)
    return NULL;
  void *data = malloc(header.size);
  if (!data)
    return NULL;
  if (read_exactly(file, data, header.size)) {
    entry_header expected = header_of(key, data, header.size);
    if (memcmp(&expected, &header, sizeof header) == 0) {
      *size = header.size;
      return data;
    }
  }
  free(data);
  return NULL;
}

void *sptx_cache_load(const sptx_cache *cache, sptx_cache_key key, const char *kind, size_t *size) {
  int directory = cache->directory ? open_directory(cache->directory) : -1;
  if (directory < 0)
    return NULL;
  char name[NAME_BYTES];
  entry_name(name, key, kind);
  /* O_NONBLOCK: a FIFO planted under the name must not hang the caller. */
  int file = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  void *data = NULL;
  if (file >= 0) {
    data = read_entry(file, key, size);
    close(file);
  }
  close(directory);
  return data;
}

/* Writes header and data into a new file of a name that nobody else uses, then moves it to its place. */
static bool write_entry(int directory, const char *name, const entry_header *header, const void *data) {
  uint64_t unique;
  if (getrandom(&unique, sizeof unique, 0) != (ssize_t)sizeof unique)
    return false;
  char temporary[NAME_BYTES];
  snprintf(temporary, sizeof temporary, ".%016llx.new", (unsigned long long)unique);
  int file = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0)
    return false;
  bool written =
      write_exactly(file, header, sizeof *header) && write_exactly(file, data, (size_t)header->size);
  written = close(file) == 0 && written;
  if (written && renameat(directory, temporary, directory, name) == 0)
    return true;
  unlinkat(directory, temporary, 0);
  return false;
}

bool sptx_cache_store(const sptx_cache *cache, sptx_cache_key key, const char *kind, const void *data,
                      size_t size) {
  if (!cache->directory || size == 0)
    return false;
  int directory = open_directory(cache->directory);
  if (directory < 0 && errno == ENOENT) {
    sptx_make_directories(cache->directory);
    directory = open_directory(cache->directory);
  }
  if (directory < 0)
    return false;
  char name[NAME_BYTES];
  entry_name(name, key, kind);
  entry_header header = header_of(key, data, size);
  bool written = write_entry(directory, name, &header, data);
  close(directory);
  return written;
}
