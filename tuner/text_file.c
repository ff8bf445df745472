/* Reads a stream to its end, whatever its length says: it may be a pipe. */
#include "tuner/text_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 65536 };

static enum sptx_code read_stream(FILE *stream, const char *path, char **text, size_t *length,
                                  sptx_error *error) {
  for (;;) {
    char *grown = realloc(*text, *length + CHUNK);
    if (!grown)
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory to read %s", path);
    *text = grown;
    size_t got = fread(grown + *length, 1, CHUNK, stream);
    *length += got;
    if (got < CHUNK)
      return ferror(stream) ? sptx_fail(error, SPTX_CODE_IO, "cannot read %s: %s", path, strerror(errno))
                            : SPTX_CODE_OK;
  }
}

enum sptx_code sptx_text_file_read(const char *path, char **text, size_t *length, sptx_error *error) {
  FILE *stream = strcmp(path, "-") == 0 ? stdin : fopen(path, "rbe");
  *text = NULL;
  *length = 0;
  if (!stream)
    return sptx_fail(error, SPTX_CODE_IO, "cannot read %s: %s", path, strerror(errno));
  enum sptx_code code = read_stream(stream, path, text, length, error);
  if (stream != stdin)
    fclose(stream);
  if (code != SPTX_CODE_OK) {
    free(*text);
    *text = NULL;
  }
  return code;
}
