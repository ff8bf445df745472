/* The code cache on disk: what is stored comes back; what is damaged, cut, of another key, or could have been
 * written by somebody else does not; many processes may write one entry; a cache that cannot be used only
 * says so. */
#include "runtime/cache.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[64];
static char directory[256];
static const sptx_cache cache = {directory};
static const sptx_cache_key key = {1, 2};
static const char content[] = "code of a kernel, which is some bytes long";

static void make_root(void) {
  strcpy(root, "/tmp/sptx-cache-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  snprintf(directory, sizeof directory, "%s/deep/cache", root);
}

static void remove_root(void) {
  char command[256];
  snprintf(command, sizeof command, "chmod -R u+w %s; rm -rf %s", root, root);
  cr_expect_eq(system(command), 0);
}

TestSuite(cache, .init = make_root, .fini = remove_root, .timeout = 60);

/* The path of the only file in the cache. */
static const char *entry_path(void) {
  static char path[1024];
  DIR *listing = opendir(directory);
  cr_assert_not_null(listing);
  path[0] = '\0';
  for (struct dirent *entry; (entry = readdir(listing));)
    if (entry->d_name[0] != '.') {
      cr_assert_eq(path[0], '\0', "more than one entry");
      snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
    }
  closedir(listing);
  return path;
}

static bool loads(void) {
  size_t size = 0;
  char *data = sptx_cache_load(&cache, key, "o", &size);
  bool same = data && size == sizeof content && memcmp(data, content, size) == 0;
  cr_assert(same || !data, "the cache gave something else than what was stored");
  free(data);
  return same;
}

static bool store(void) {
  return sptx_cache_store(&cache, key, "o", content, sizeof content);
}

Test(cache, gives_back_what_was_stored) {
  cr_expect_not(loads());
  cr_assert(store());
  cr_expect(loads());
  struct stat status;
  cr_assert_eq(stat(directory, &status), 0);
  cr_expect_eq(status.st_mode & 0777, 0700);
  cr_assert_eq(stat(entry_path(), &status), 0);
  cr_expect_eq(status.st_mode & 0777, 0600);
}

Test(cache, keeps_keys_and_kinds_apart) {
  cr_assert(store());
  size_t size;
  cr_expect_null(sptx_cache_load(&cache, (sptx_cache_key){1, 3}, "o", &size));
  cr_expect_null(sptx_cache_load(&cache, (sptx_cache_key){2, 2}, "o", &size));
  cr_expect_null(sptx_cache_load(&cache, key, "cubin", &size));
}

Test(cache, refuses_an_entry_under_another_name) {
  cr_assert(store());
  char path[1024], other[1024];
  strcpy(path, entry_path());
  snprintf(other, sizeof other, "%s/%016x%016x.o", directory, 2, 7);
  cr_assert_eq(rename(path, other), 0);
  size_t size;
  cr_expect_null(sptx_cache_load(&cache, (sptx_cache_key){7, 2}, "o", &size));
}

Test(cache, refuses_every_damaged_byte) {
  cr_assert(store());
  struct stat status;
  cr_assert_eq(stat(entry_path(), &status), 0);
  int file = open(entry_path(), O_RDWR);
  cr_assert_geq(file, 0);
  for (off_t at = 0; at < status.st_size; at++) {
    unsigned char byte, damaged;
    cr_assert_eq(pread(file, &byte, 1, at), 1);
    damaged = byte ^ 0x10;
    cr_assert_eq(pwrite(file, &damaged, 1, at), 1);
    cr_expect_not(loads(), "byte %ld was changed unseen", (long)at);
    cr_assert_eq(pwrite(file, &byte, 1, at), 1);
  }
  cr_expect(loads());
  close(file);
}

Test(cache, refuses_every_truncation_and_takes_a_new_store) {
  cr_assert(store());
  struct stat status;
  cr_assert_eq(stat(entry_path(), &status), 0);
  for (off_t size = status.st_size - 1; size >= 0; size--) {
    cr_assert_eq(truncate(entry_path(), size), 0);
    cr_expect_not(loads());
  }
  cr_assert(store());
  cr_expect(loads());
  cr_assert_eq(truncate(entry_path(), status.st_size + 1), 0);
  cr_expect_not(loads());
}

Test(cache, refuses_what_others_may_write) {
  cr_assert(store());
  cr_assert_eq(chmod(entry_path(), 0620), 0);
  cr_expect_not(loads());
  cr_assert_eq(chmod(entry_path(), 0602), 0);
  cr_expect_not(loads());
  cr_assert_eq(chmod(entry_path(), 0644), 0);
  cr_expect(loads());
  cr_assert_eq(chmod(directory, 0770), 0);
  cr_expect_not(loads());
  cr_expect_not(store());
  cr_assert_eq(chmod(directory, 0707), 0);
  cr_expect_not(loads());
  cr_assert_eq(chmod(directory, 0700), 0);
  cr_expect(loads());
}

Test(cache, refuses_another_owner) {
  if (geteuid() != 0)
    cr_skip_test("only root can give a file away");
  cr_assert(store());
  cr_assert_eq(chown(entry_path(), 12345, 12345), 0);
  cr_expect_not(loads());
  cr_assert(store());
  cr_assert_eq(chown(directory, 12345, 12345), 0);
  cr_expect_not(loads());
}

Test(cache, refuses_links_and_pipes) {
  cr_assert(store());
  char path[1024], elsewhere[256];
  strcpy(path, entry_path());
  snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", root);
  cr_assert_eq(rename(path, elsewhere), 0);
  cr_assert_eq(symlink(elsewhere, path), 0);
  cr_expect_not(loads());
  cr_assert_eq(unlink(path), 0);
  cr_assert_eq(mkfifo(path, 0600), 0);
  cr_expect_not(loads());
}

Test(cache, without_a_usable_directory_only_says_so) {
  const sptx_cache none = {NULL}, file = {"/dev/null"}, below_file = {"/dev/null/cache"},
                   kernel = {"/proc/sptx"};
  const sptx_cache *all[] = {&none, &file, &below_file, &kernel};
  size_t size;
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    cr_expect_not(sptx_cache_store(all[i], key, "o", content, sizeof content));
    cr_expect_null(sptx_cache_load(all[i], key, "o", &size));
  }
}

Test(cache, full_disk_leaves_nothing_behind) {
  cr_assert(store());
  cr_assert_eq(unlink(entry_path()), 0);
  /* A limit on file size stands in for the full disk. */
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {80, 80};
    _exit(setrlimit(RLIMIT_FSIZE, &limit) == 0 && !store() ? 0 : 1);
  }
  int status;
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_expect_eq(status, 0);
  DIR *listing = opendir(directory);
  int files = 0;
  while (readdir(listing))
    files++;
  closedir(listing);
  cr_expect_eq(files, 2, "only . and .. may be left");
}

Test(cache, many_processes_write_and_read_one_entry) {
  enum { PROCESSES = 4, ROUNDS = 200 };
  for (int p = 0; p < PROCESSES; p++)
    if (fork() == 0) {
      bool good = true;
      for (int round = 0; round < ROUNDS; round++) {
        good = store() && good;
        size_t size;
        char *data = sptx_cache_load(&cache, key, "o", &size);
        good = data && size == sizeof content && memcmp(data, content, size) == 0 && good;
        free(data);
      }
      _exit(good ? 0 : 1);
    }
  for (int p = 0; p < PROCESSES; p++) {
    int status;
    cr_assert_gt(wait(&status), 0);
    cr_expect_eq(status, 0, "a process failed to store or saw half an entry");
  }
  cr_expect_neq(entry_path()[0], '\0');
}

Test(cache, key_depends_on_every_part_and_their_borders) {
  sptx_cache_key ab_c = {0, 0}, a_bc = {0, 0}, again = {0, 0};
  sptx_cache_key_add(&ab_c, "ab", 2);
  sptx_cache_key_add(&ab_c, "c", 1);
  sptx_cache_key_add(&a_bc, "a", 1);
  sptx_cache_key_add(&a_bc, "bc", 2);
  sptx_cache_key_add(&again, "ab", 2);
  sptx_cache_key_add(&again, "c", 1);
  cr_expect(ab_c.low != a_bc.low && ab_c.high != a_bc.high);
  cr_expect(ab_c.low == again.low && ab_c.high == again.high);
}
