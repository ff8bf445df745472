/* Write, flush, fsync, rename, fsync of the folder: in this order, or a crash could leave an empty file. */
#include "model/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum sptx_code sptx_atomic_file_open(sptx_atomic_file *file, const char *path, sptx_error *error) {
  file->stream = NULL;
  if (strlen(path) >= sizeof file->path)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%.200s...: the path is too long", path);
  strcpy(file->path, path);
  snprintf(file->unfinished, sizeof file->unfinished, "%s%s", path, SPTX_UNFINISHED);
  file->stream = fopen(file->unfinished, "wb");
  if (!file->stream)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", file->unfinished, strerror(errno));
  return SPTX_CODE_OK;
}

static enum sptx_code failed(const sptx_atomic_file *file, int failure, sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_IO, "%s: cannot be written: %s", file->path, strerror(failure));
}

enum sptx_code sptx_atomic_file_write(sptx_atomic_file *file, const void *data, size_t bytes,
                                      sptx_error *error) {
  if (fwrite(data, 1, bytes, file->stream) != bytes)
    return failed(file, errno, error);
  return SPTX_CODE_OK;
}

/* Makes a rename in the folder of path last through a crash. Not every file system can; that is no error. */
static void sync_folder(const char *path) {
  char folder[SPTX_PATH];
  const char *slash = strrchr(path, '/');
  snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
  int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0)
    return;
  (void)fsync(descriptor);
  close(descriptor);
}

enum sptx_code sptx_atomic_file_commit(sptx_atomic_file *file, sptx_error *error) {
  FILE *stream = file->stream;
  file->stream = NULL;
  int failure = ferror(stream) ? EIO : 0;
  if (fflush(stream) && !failure)
    failure = errno;
  if (!failure && fsync(fileno(stream)))
    failure = errno;
  if (fclose(stream) && !failure)
    failure = errno;
  if (!failure && rename(file->unfinished, file->path))
    failure = errno;
  if (failure) {
    unlink(file->unfinished);
    return failed(file, failure, error);
  }
  sync_folder(file->path);
  return SPTX_CODE_OK;
}

void sptx_atomic_file_discard(sptx_atomic_file *file) {
  if (!file->stream)
    return;
  fclose(file->stream);
  file->stream = NULL;
  unlink(file->unfinished);
}
