/* A file that appears whole or not at all: written beside its place under another name, forced to the disk,
 * then renamed. A crash, a kill or a full disk at any moment leaves the old file untouched. */
#ifndef SPTX_PATTERNS_OUTPUT_H
#define SPTX_PATTERNS_OUTPUT_H

#include "patterns/error.h"
#include <stdbool.h>
#include <stdio.h>

typedef struct sptx_output {
  FILE *stream; /* an error stays in it until sptx_output_commit reports it */
  char *path;   /* the final place, symbolic links followed */
  char
      *temporary; /* NULL when path is no regular file (a terminal, /dev/null): then it is written directly */
} sptx_output;

/* Opens path for writing. Write to output->stream, then commit or discard, exactly one of them. */
enum sptx_code sptx_output_open(const char *path, sptx_output *output, sptx_error *error);
/* For what is long: reports a failure at once. */
enum sptx_code sptx_output_write(sptx_output *output, const void *data, size_t bytes, sptx_error *error);
/* Flushes to the disk, checks every write, and puts the file in its place. Failing leaves path as it was. */
enum sptx_code sptx_output_commit(sptx_output *output, sptx_error *error);
void sptx_output_discard(sptx_output *output); /* also after a failed open or commit */
/* Whether a file of this name is what a killed process left of an output. */
bool sptx_output_is_unfinished(const char *name);

#endif
