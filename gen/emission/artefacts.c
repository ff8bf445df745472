/* Files in memory, and how they reach the disk: all are written under temporary names before the first one
 * gets its own. */
#include "gen/emission/artefacts.h"

#include "patterns/output.h"
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum sptx_code sptx_artefacts_add(sptx_artefacts *artefacts, const char *name, const char *suffix,
                                  char *bytes, size_t size, sptx_error *error) {
  sptx_artefact *grown = realloc(artefacts->files, (artefacts->count + 1) * sizeof *grown);
  char *full = NULL;
  if (grown) {
    artefacts->files = grown;
    if (bytes && asprintf(&full, "%s%s", name, suffix) > 0) {
      grown[artefacts->count++] = (sptx_artefact){full, bytes, size};
      return SPTX_CODE_OK;
    }
  }
  free(bytes);
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the text of %s%s", name, suffix);
}

/* Opens and fills the temporary file of one artefact. */
static enum sptx_code stage(const sptx_artefact *file, const char *folder, sptx_output *output,
                            sptx_error *error) {
  char *path = NULL;
  if (asprintf(&path, "%s/%s", folder, file->name) < 0)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a file name");
  enum sptx_code code = sptx_output_open(path, output, error);
  free(path);
  SPTX_TRY(code);
  errno = 0;
  if (fwrite(file->bytes, 1, file->size, output->stream) == file->size && fflush(output->stream) == 0)
    return SPTX_CODE_OK;
  return sptx_fail(error, SPTX_CODE_IO, "%s: cannot write: %s", output->path, strerror(errno));
}

static enum sptx_code write_all(const sptx_artefacts *artefacts, const char *folder, sptx_output *outputs,
                                sptx_error *error) {
  for (size_t i = 0; i < artefacts->count; i++)
    SPTX_TRY(stage(&artefacts->files[i], folder, &outputs[i], error));
  for (size_t i = 0; i < artefacts->count; i++)
    SPTX_TRY(sptx_output_commit(&outputs[i], error));
  return SPTX_CODE_OK;
}

/* Makes the folder and those above it. *kept is the length of the part of path that was there before. */
static enum sptx_code make_folder(char *path, size_t *kept, sptx_error *error) {
  *kept = strlen(path);
  bool counted = false;
  for (char *end = path;; end++) {
    if ((*end != '/' && *end) || end == path)
      continue;
    char separator = *end;
    *end = '\0';
    bool made = mkdir(path, 0777) == 0;
    if (!made && errno != EEXIST)
      return sptx_fail(error, SPTX_CODE_IO, "%s: cannot make the folder: %s", path, strerror(errno));
    if (made && !counted) {
      char *slash = strrchr(path, '/');
      *kept = slash ? (size_t)(slash - path) : 0;
      counted = true;
    }
    *end = separator;
    if (!separator)
      return SPTX_CODE_OK;
  }
}

/* Removes the empty folders that make_folder has made, the innermost first. */
static void remove_folders(char *path, size_t kept) {
  while (strlen(path) > kept && *path) {
    rmdir(path);
    char *slash = strrchr(path, '/');
    *(slash ? slash : path) = '\0';
  }
}

enum sptx_code sptx_artefacts_write(const sptx_artefacts *artefacts, const char *folder, sptx_error *error) {
  sptx_output *outputs = calloc(artefacts->count + 1, sizeof *outputs);
  char *path = strdup(*folder ? folder : ".");
  size_t kept = SIZE_MAX;
  enum sptx_code code = outputs && path ? make_folder(path, &kept, error)
                                        : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY,
                                                    "out of memory for %zu files", artefacts->count);
  if (code == SPTX_CODE_OK)
    code = write_all(artefacts, path, outputs, error);
  for (size_t i = 0; outputs && i < artefacts->count; i++)
    sptx_output_discard(&outputs[i]);
  if (code != SPTX_CODE_OK && path)
    remove_folders(path, kept);
  free(path);
  free(outputs);
  return code;
}

void sptx_artefacts_clear(sptx_artefacts *artefacts) {
  for (size_t i = 0; i < artefacts->count; i++) {
    free(artefacts->files[i].name);
    free(artefacts->files[i].bytes);
  }
  free(artefacts->files);
  *artefacts = (sptx_artefacts){0};
}
