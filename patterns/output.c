/* Write, flush, fsync, rename, fsync of the folder: in this order, or a crash could leave an empty file. */
#include "patterns/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char suffix[] = ".part";

static enum sptx_code io_failure(const sptx_output *output, const char *what, sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_IO, "%s: cannot %s: %s", output->path, what, strerror(errno));
}

/* The mode is that of any new file, and an existing file's mode is kept. */
static int open_temporary(sptx_output *output, mode_t mode) {
  enum { TRIES = 100 };
  for (unsigned try = 0; try < TRIES; try++) {
    sprintf(output->temporary, "%s.%lx-%x%s", output->path, (unsigned long)getpid(), try, suffix);
    int descriptor = open(output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (descriptor >= 0 || errno != EEXIST)
      return descriptor;
  }
  return -1;
}

static enum sptx_code open_stream(sptx_output *output, sptx_error *error) {
  struct stat status;
  bool exists = stat(output->path, &status) == 0;
  int descriptor;
  if (exists && !S_ISREG(status.st_mode)) {
    descriptor = open(output->path, O_WRONLY | O_CLOEXEC);
  } else if (exists && access(output->path, W_OK) != 0) { /* renaming over it would work all the same */
    return io_failure(output, "open for writing", error);
  } else {
    output->temporary = malloc(strlen(output->path) + 64);
    if (!output->temporary)
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a file name");
    descriptor = open_temporary(output, exists ? status.st_mode & 0777 : 0666);
  }
  if (descriptor >= 0)
    output->stream = fdopen(descriptor, "wb");
  if (output->stream)
    return SPTX_CODE_OK;
  enum sptx_code code = io_failure(output, "open for writing", error);
  if (descriptor >= 0)
    close(descriptor);
  else if (output->temporary)
    *output->temporary = 0; /* never made: nothing to remove */
  return code;
}

enum sptx_code sptx_output_open(const char *path, sptx_output *output, sptx_error *error) {
  *output = (sptx_output){0};
  output->path = realpath(path, NULL);
  if (!output->path)
    output->path = strdup(path);
  if (!output->path)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a file name");
  enum sptx_code code = open_stream(output, error);
  if (code != SPTX_CODE_OK)
    sptx_output_discard(output);
  return code;
}

enum sptx_code sptx_output_write(sptx_output *output, const void *data, size_t bytes, sptx_error *error) {
  return fwrite(data, 1, bytes, output->stream) == bytes ? SPTX_CODE_OK : io_failure(output, "write", error);
}

/* Makes a rename in the folder of path last through a crash; cuts path down to the folder. Not every file
 * system can; that is no error. */
static void sync_folder(char *path) {
  char *slash = strrchr(path, '/');
  if (slash)
    slash[1] = '\0';
  int descriptor = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0)
    return;
  (void)fsync(descriptor);
  close(descriptor);
}

enum sptx_code sptx_output_commit(sptx_output *output, sptx_error *error) {
  errno = 0;
  bool written = fflush(output->stream) == 0 && !ferror(output->stream);
  if (written && output->temporary)
    written = fsync(fileno(output->stream)) == 0;
  bool closed = fclose(output->stream) == 0;
  output->stream = NULL;
  enum sptx_code code = SPTX_CODE_OK;
  if (!written || !closed) {
    errno = errno ? errno : EIO; /* an earlier write failed */
    code = io_failure(output, "write", error);
  } else if (output->temporary && rename(output->temporary, output->path) != 0) {
    code = io_failure(output, "replace", error);
  } else if (output->temporary) {
    *output->temporary = 0;
    sync_folder(output->path);
  }
  sptx_output_discard(output);
  return code;
}

bool sptx_output_is_unfinished(const char *name) {
  size_t length = strlen(name), tail = sizeof suffix - 1;
  return length > tail && strcmp(name + length - tail, suffix) == 0;
}

void sptx_output_discard(sptx_output *output) {
  if (output->stream)
    fclose(output->stream);
  if (output->temporary && *output->temporary)
    unlink(output->temporary);
  free(output->temporary);
  free(output->path);
  *output = (sptx_output){0};
}
