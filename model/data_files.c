/* Finds the files that `data` names and maps them. */
#include "model/data_source.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static enum sptx_code add(struct sptx_data_files *files, const char *path, sptx_error *error) {
  if (files->count == files->capacity) {
    int64_t capacity = files->capacity ? 2 * files->capacity : 16;
    char **grown = realloc(files->paths, (size_t)capacity * sizeof *grown);
    if (!grown)
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for the list of files", path);
    files->paths = grown;
    files->capacity = capacity;
  }
  char *copy = strdup(path);
  if (!copy)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for the list of files", path);
  files->paths[files->count++] = copy;
  return SPTX_CODE_OK;
}

/* Links are not followed below the folder, so a cycle of them cannot hang us. */
static enum sptx_code add_folder(struct sptx_data_files *files, const char *folder, sptx_error *error) {
  char *roots[] = {(char *)folder, NULL};
  FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, NULL);
  if (!walk)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", folder, strerror(errno));
  enum sptx_code code = SPTX_CODE_OK;
  for (FTSENT *entry; code == SPTX_CODE_OK && (entry = fts_read(walk));) {
    bool hidden = entry->fts_level > 0 && entry->fts_name[0] == '.';
    if (hidden)
      fts_set(walk, entry, FTS_SKIP);
    else if (entry->fts_info == FTS_F)
      code = add(files, entry->fts_path, error);
    else if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS)
      code = sptx_fail(error, SPTX_CODE_IO, "%s: %s", entry->fts_path, strerror(entry->fts_errno));
  }
  fts_close(walk);
  return code;
}

static enum sptx_code add_matches(struct sptx_data_files *files, const char *pattern, sptx_error *error) {
  glob_t matches;
  int status = glob(pattern, GLOB_BRACE, NULL, &matches);
  enum sptx_code code = SPTX_CODE_OK;
  if (status == GLOB_NOSPACE)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for the list of files", pattern);
  for (size_t k = 0; !status && code == SPTX_CODE_OK && k < matches.gl_pathc; k++) {
    struct stat info;
    if (!stat(matches.gl_pathv[k], &info) && S_ISREG(info.st_mode))
      code = add(files, matches.gl_pathv[k], error);
  }
  globfree(&matches);
  return code;
}

static int by_path(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum sptx_code find(const sptx_config *config, struct sptx_data_files *files, sptx_error *error) {
  struct stat info;
  bool exists = !stat(config->data, &info);
  if (exists && !S_ISDIR(info.st_mode))
    return add(files, config->data, error);
  SPTX_TRY(exists ? add_folder(files, config->data, error) : add_matches(files, config->data, error));
  if (files->count == 0)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s '%s'; name the data with --set data=PATH",
                     sptx_config_place(config, "data"),
                     exists ? "there is no file in the folder" : "no file, folder or match of the glob",
                     config->data);
  qsort(files->paths, (size_t)files->count, sizeof *files->paths, by_path);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_data_files_find(const sptx_config *config, struct sptx_data_files *files,
                                    sptx_error *error) {
  *files = (struct sptx_data_files){0};
  if (!config->data[0])
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: data is not set; name it with --set data=PATH",
                     sptx_config_place(config, "data"));
  enum sptx_code code = find(config, files, error);
  if (code != SPTX_CODE_OK)
    sptx_data_files_clear(files);
  return code;
}

void sptx_data_files_clear(struct sptx_data_files *files) {
  for (int64_t k = 0; k < files->count; k++)
    free(files->paths[k]);
  free(files->paths);
  *files = (struct sptx_data_files){0};
}

enum sptx_code sptx_data_map_open(const char *path, struct sptx_data_map *map, sptx_error *error) {
  *map = (struct sptx_data_map){0};
  int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info)) {
    int reason = errno;
    if (file >= 0)
      close(file);
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", path, strerror(reason));
  }
  if (!S_ISREG(info.st_mode)) {
    close(file);
    return sptx_fail(error, SPTX_CODE_IO, "%s: not a regular file, so it cannot be mapped", path);
  }
  void *memory = info.st_size ? mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0) : NULL;
  int reason = errno;
  close(file);
  if (memory == MAP_FAILED)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot be mapped: %s%s", path, strerror(reason),
                     reason == ENOMEM ? "; with very many files, join them into one" : "");
  *map = (struct sptx_data_map){memory, info.st_size};
  return SPTX_CODE_OK;
}

void sptx_data_map_close(struct sptx_data_map *map) {
  if (map->bytes)
    munmap((void *)map->bytes, (size_t)map->size);
  *map = (struct sptx_data_map){0};
}
