/* A folder of test files that is removed again; see files.h. */
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256];

const char *test_folder_create(void) {
  const char *parent = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/sptx-model-XXXXXX", parent ? parent : "/tmp");
  cr_assert_not_null(mkdtemp(folder));
  return folder;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at) {
  (void)info, (void)type, (void)at;
  return remove(path);
}

void test_folder_remove(void) {
  nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void test_remove(const char *name) {
  nftw(test_path(name), remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *test_path(const char *name) {
  static char paths[8][512];
  static int next;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

const char *test_write(const char *name, const void *bytes, size_t size) {
  const char *path = test_path(name);
  char parent[512];
  snprintf(parent, sizeof parent, "%s", path);
  *strrchr(parent, '/') = 0;
  mkdir(parent, 0777);
  FILE *file = fopen(path, "wb");
  cr_assert_not_null(file, "%s", path);
  cr_assert_eq(fwrite(bytes, 1, size, file), size);
  cr_assert_eq(fclose(file), 0);
  return path;
}
