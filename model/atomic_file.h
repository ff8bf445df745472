/* Files that are either whole or not there: written beside their place, forced to the disk, then renamed over
 * it. A crash, a kill or a full disk at any moment leaves the old file untouched. */
#ifndef SPTX_MODEL_ATOMIC_FILE_H
#define SPTX_MODEL_ATOMIC_FILE_H

#include "patterns/error.h"
#include <stdio.h>

#define SPTX_PATH 4096
/* What is appended to a path while its file is being written. */
#define SPTX_UNFINISHED ".unfinished"

typedef struct sptx_atomic_file {
  FILE *stream; /* for small texts: an error stays in it until sptx_atomic_file_commit reports it */
  char path[SPTX_PATH], unfinished[SPTX_PATH + sizeof SPTX_UNFINISHED];
} sptx_atomic_file;

/* Fails: SPTX_CODE_IO, SPTX_CODE_INVALID_ARGUMENT (path too long). */
enum sptx_code sptx_atomic_file_open(sptx_atomic_file *file, const char *path, sptx_error *error);
/* Fails: SPTX_CODE_IO; the file must then be discarded. */
enum sptx_code sptx_atomic_file_write(sptx_atomic_file *file, const void *data, size_t bytes,
                                      sptx_error *error);
/* Closes the file in every case; on failure (SPTX_CODE_IO) nothing of it stays. */
enum sptx_code sptx_atomic_file_commit(sptx_atomic_file *file, sptx_error *error);
/* Closes and removes what was written so far. */
void sptx_atomic_file_discard(sptx_atomic_file *file);

#endif
