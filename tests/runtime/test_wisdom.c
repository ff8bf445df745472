/* The wisdom database: what is recorded comes back, the faster of two stays, other generators are ignored;
 * damaged, foreign, later, read-only and full files are refused with a sentence; nothing stored is lost when
 * a tuner is killed or two write one key. */
#include "runtime/wisdom.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[64], path[128];
static const sptx_wisdom_key key = {"stride: a a", "n 2^12", "f32", "forward",
                                    "cpu \"model\" avx512, 2 threads"};

static void make_root(void) {
  strcpy(root, "/tmp/sptx-wisdom-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  snprintf(path, sizeof path, "%s/wisdom.db", root);
}

static void remove_root(void) {
  char command[256];
  snprintf(command, sizeof command, "chmod -R u+w %s; rm -rf %s", root, root);
  cr_expect_eq(system(command), 0);
}

TestSuite(wisdom, .init = make_root, .fini = remove_root, .timeout = 60);

static sptx_wisdom *open_for(enum sptx_wisdom_mode mode) {
  sptx_wisdom *wisdom;
  sptx_error error = {0};
  cr_assert_eq(sptx_wisdom_open(path, mode, &wisdom, &error), SPTX_CODE_OK, "%s", error.message);
  return wisdom;
}

static void record(sptx_wisdom *wisdom, const sptx_wisdom_key *k, const char *schedule, double ms) {
  sptx_error error = {0};
  sptx_wisdom_entry entry = {*k, schedule, ms, 9};
  cr_assert_eq(sptx_wisdom_record(wisdom, &entry, &error), SPTX_CODE_OK, "%s", error.message);
}

/* The schedule stored for k, or "" when there is none. */
static const char *known(sptx_wisdom *wisdom, const sptx_wisdom_key *k) {
  static char schedule[SPTX_WISDOM_TEXT];
  bool found;
  sptx_error error = {0};
  cr_assert_eq(sptx_wisdom_find(wisdom, k, schedule, &found, &error), SPTX_CODE_OK, "%s", error.message);
  return found ? schedule : "";
}

static enum sptx_code refused(enum sptx_wisdom_mode mode, const char *sentence) {
  sptx_wisdom *wisdom;
  sptx_error error = {0};
  enum sptx_code code = sptx_wisdom_open(path, mode, &wisdom, &error);
  cr_assert_neq(code, SPTX_CODE_OK);
  cr_assert_null(wisdom);
  cr_assert_not_null(strstr(error.message, sentence), "'%s' does not say '%s'", error.message, sentence);
  return code;
}

static void run_sql(const char *sql) {
  sqlite3 *database;
  cr_assert_eq(sqlite3_open(path, &database), SQLITE_OK);
  cr_assert_eq(sqlite3_exec(database, sql, NULL, NULL, NULL), SQLITE_OK, "%s", sqlite3_errmsg(database));
  sqlite3_close(database);
}

Test(wisdom, keeps_the_faster_schedule) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  cr_expect_str_eq(known(wisdom, &key), "");
  record(wisdom, &key, "first", 2);
  record(wisdom, &key, "slower", 3);
  cr_expect_str_eq(known(wisdom, &key), "first");
  record(wisdom, &key, "faster", 1);
  cr_expect_str_eq(known(wisdom, &key), "faster");
  sptx_wisdom_key other = key;
  other.pass = "backward";
  cr_expect_str_eq(known(wisdom, &other), "");
  sptx_wisdom_close(wisdom);
  wisdom = open_for(SPTX_WISDOM_READ);
  cr_expect_str_eq(known(wisdom, &key), "faster");
  sptx_wisdom_close(wisdom);
}

Test(wisdom, ignores_another_generator) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  record(wisdom, &key, "old", 1);
  run_sql("UPDATE wisdom SET generator = generator - 1");
  cr_expect_str_eq(known(wisdom, &key), "");
  record(wisdom, &key, "new", 5);
  cr_expect_str_eq(known(wisdom, &key), "new");
  sptx_wisdom_close(wisdom);
}

Test(wisdom, refuses_senseless_entries) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  char longer[SPTX_WISDOM_TEXT + 1];
  memset(longer, 'x', SPTX_WISDOM_TEXT);
  longer[SPTX_WISDOM_TEXT] = '\0';
  const sptx_wisdom_entry bad[] = {{key, "s", 0, 1},         {key, "s", -1, 1},   {key, "s", 1, 0.0 / 0.0},
                                   {key, "s", 1.0 / 0.0, 1}, {key, longer, 1, 1}, {key, NULL, 1, 1}};
  for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
    cr_expect_eq(sptx_wisdom_record(wisdom, &bad[k], NULL), SPTX_CODE_INVALID_ARGUMENT, "entry %zu", k);
  cr_expect_str_eq(known(wisdom, &key), "");
  sptx_wisdom_close(wisdom);
}

Test(wisdom, says_why_it_cannot_be_opened) {
  cr_expect_eq(refused(SPTX_WISDOM_READ, path), SPTX_CODE_IO);
  FILE *file = fopen(path, "w");
  for (int k = 0; k < 5000; k++)
    fputs("no database ", file);
  fclose(file);
  cr_expect_eq(refused(SPTX_WISDOM_READ, "delete the file"), SPTX_CODE_FORMAT);
  cr_expect_eq(refused(SPTX_WISDOM_WRITE, "delete the file"), SPTX_CODE_FORMAT);
  unlink(path);
  run_sql("CREATE TABLE mine (x)");
  cr_expect_eq(refused(SPTX_WISDOM_WRITE, "another program"), SPTX_CODE_FORMAT);
  unlink(path);
  sptx_wisdom_close(open_for(SPTX_WISDOM_WRITE));
  run_sql("PRAGMA user_version = 99");
  cr_expect_eq(refused(SPTX_WISDOM_READ, "later sptx"), SPTX_CODE_FORMAT);
}

/* Cuts and overwrites the file at many places: each time it is refused, or answers, but never crashes. */
Test(wisdom, survives_damage) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  record(wisdom, &key, "good", 1);
  sptx_wisdom_close(wisdom);
  struct stat status;
  cr_assert_eq(stat(path, &status), 0);
  char *good = malloc((size_t)status.st_size);
  FILE *file = fopen(path, "rb");
  cr_assert_eq(fread(good, 1, (size_t)status.st_size, file), (size_t)status.st_size);
  fclose(file);
  int answered = 0, refusals = 0;
  for (off_t at = 0; at < status.st_size; at += 97) {
    file = fopen(path, "wb");
    fwrite(good, 1, (size_t)at, file);
    for (off_t k = at; at % 2 && k < status.st_size; k++)
      fputc(k - at < 64 ? 0xa5 : good[k], file);
    fclose(file);
    char schedule[SPTX_WISDOM_TEXT];
    bool found = false;
    bool opened = sptx_wisdom_open(path, SPTX_WISDOM_READ, &wisdom, NULL) == SPTX_CODE_OK;
    bool read = opened && sptx_wisdom_find(wisdom, &key, schedule, &found, NULL) == SPTX_CODE_OK;
    answered += read;
    refusals += !read;
    sptx_wisdom_close(opened ? wisdom : NULL);
  }
  free(good);
  cr_expect_gt(refusals, 10);
  cr_expect_gt(answered + refusals, 50);
}

Test(wisdom, reads_from_a_directory_without_write_permission) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  record(wisdom, &key, "kept", 1);
  sptx_wisdom_close(wisdom);
  cr_assert_eq(chmod(path, 0444), 0);
  cr_assert_eq(chmod(root, 0555), 0);
  if (geteuid() == 0) /* permissions do not bind root */
    cr_assert_eq(setegid(65534) || seteuid(65534), 0);
  wisdom = open_for(SPTX_WISDOM_READ);
  cr_expect_str_eq(known(wisdom, &key), "kept");
  sptx_wisdom_entry entry = {key, "worse", 0.5, 1};
  cr_expect_eq(sptx_wisdom_record(wisdom, &entry, NULL), SPTX_CODE_IO);
  sptx_wisdom_close(wisdom);
  refused(SPTX_WISDOM_WRITE, "permissions");
  if (getuid() == 0)
    cr_assert_eq(seteuid(0) || setegid(0), 0);
}

/* A full disk, played by the limit on file sizes: the record fails with a sentence, what was stored stays. */
Test(wisdom, keeps_what_it_has_on_a_full_disk) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  record(wisdom, &key, "kept", 1);
  sptx_wisdom_close(wisdom);
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit before, small = {1, RLIM_INFINITY};
  cr_assert_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
  small.rlim_max = before.rlim_max;
  wisdom = open_for(SPTX_WISDOM_WRITE);
  cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
  sptx_error error = {0};
  sptx_wisdom_entry entry = {key, "lost", 0.5, 1};
  enum sptx_code code = sptx_wisdom_record(wisdom, &entry, &error);
  cr_assert_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
  cr_expect_eq(code, SPTX_CODE_IO);
  cr_expect_neq(error.message[0], '\0');
  sptx_wisdom_close(wisdom);
  wisdom = open_for(SPTX_WISDOM_READ);
  cr_expect_str_eq(known(wisdom, &key), "kept");
  sptx_wisdom_close(wisdom);
}

/* Records entry after entry until it is killed; each one that was reported through the pipe must be found. */
static void write_until_killed(int report) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  for (int k = 0;; k++) {
    char piece[32];
    snprintf(piece, sizeof piece, "piece %d", k);
    sptx_wisdom_key k_key = key;
    k_key.piece = piece;
    record(wisdom, &k_key, "s", 1);
    if (write(report, &k, sizeof k) != sizeof k)
      _exit(1);
  }
}

Test(wisdom, loses_nothing_when_killed) {
  for (int round = 0; round < 5; round++) {
    int report[2], last = -1, k;
    cr_assert_eq(pipe(report), 0);
    pid_t child = fork();
    if (child == 0) {
      close(report[0]);
      write_until_killed(report[1]);
    }
    close(report[1]);
    for (int n = 0; n < 20 + 7 * round && read(report[0], &k, sizeof k) == sizeof k; n++)
      last = k;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    while (read(report[0], &k, sizeof k) == sizeof k)
      last = k;
    close(report[0]);
    cr_assert_geq(last, 10);
    sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
    for (k = 0; k <= last; k++) {
      char piece[32];
      snprintf(piece, sizeof piece, "piece %d", k);
      sptx_wisdom_key k_key = key;
      k_key.piece = piece;
      cr_assert_str_eq(known(wisdom, &k_key), "s", "entry %d of %d is lost", k, last);
    }
    sptx_wisdom_close(wisdom);
  }
}

Test(wisdom, two_tuners_on_one_key_keep_the_fastest) {
  enum { TUNERS = 4, ROUNDS = 25 };
  sptx_wisdom_close(open_for(SPTX_WISDOM_WRITE));
  for (int t = 0; t < TUNERS; t++)
    if (fork() == 0) {
      sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
      for (int k = 0; k < ROUNDS; k++) {
        int ms = 1 + (k * 7 + t * 13) % 50;
        char schedule[16];
        snprintf(schedule, sizeof schedule, "ms %d", ms);
        record(wisdom, &key, schedule, ms);
      }
      sptx_wisdom_close(wisdom);
      _exit(0);
    }
  int status, fastest = 1000;
  for (int t = 0; t < TUNERS; t++) {
    cr_assert_gt(wait(&status), 0);
    cr_expect_eq(status, 0);
    for (int k = 0; k < ROUNDS; k++) {
      int ms = 1 + (k * 7 + t * 13) % 50;
      fastest = ms < fastest ? ms : fastest;
    }
  }
  char expected[16];
  snprintf(expected, sizeof expected, "ms %d", fastest);
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_READ);
  cr_expect_str_eq(known(wisdom, &key), expected);
  sptx_wisdom_close(wisdom);
}

static enum sptx_code import(sptx_wisdom *wisdom, const char *text, int64_t *count) {
  return sptx_wisdom_import(wisdom, text, strlen(text), "carried.yaml", count, NULL);
}

Test(wisdom, travels_as_text) {
  sptx_wisdom *wisdom = open_for(SPTX_WISDOM_WRITE);
  sptx_wisdom_key other = key;
  other.piece = "quotes \" and \\ and\ttabs";
  record(wisdom, &key, "one", 1.5);
  record(wisdom, &other, "two", 2.5);
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  cr_assert_eq(sptx_wisdom_export(wisdom, stream, NULL), SPTX_CODE_OK);
  fclose(stream);
  int64_t count = 0;
  cr_assert_eq(sptx_wisdom_forget(wisdom, "", &count, NULL), SPTX_CODE_OK);
  cr_expect_eq(count, 2);
  cr_expect_str_eq(known(wisdom, &key), "");
  cr_assert_eq(import(wisdom, text, &count), SPTX_CODE_OK);
  cr_expect_eq(count, 2);
  cr_expect_str_eq(known(wisdom, &key), "one");
  cr_expect_str_eq(known(wisdom, &other), "two");
  cr_assert_eq(sptx_wisdom_forget(wisdom, "quotes", &count, NULL), SPTX_CODE_OK);
  cr_expect_eq(count, 1);
  cr_expect_str_eq(known(wisdom, &other), "");
  /* A damaged last entry takes the whole file with it. */
  char *cut = strstr(text, "two");
  cr_assert_not_null(cut);
  strcpy(cut, "two\"\n");
  cr_assert_eq(sptx_wisdom_forget(wisdom, "", &count, NULL), SPTX_CODE_OK);
  cr_expect_eq(import(wisdom, text, &count), SPTX_CODE_FORMAT);
  cr_expect_str_eq(known(wisdom, &key), "");
  cr_expect_eq(import(wisdom, "sptx_wisdom: 77\nentries: []\n", &count), SPTX_CODE_FORMAT);
  cr_expect_eq(import(wisdom, "- 3\n", &count), SPTX_CODE_FORMAT);
  free(text);
  sptx_wisdom_close(wisdom);
}
