/* The wisdom database: one table, one row a key, SQLite's write-ahead log for concurrent tuners. All times in
 * it come from monotonic clocks; no row depends on the time of day. */
#include "runtime/wisdom.h"

#include "runtime/cache.h"
#include <math.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define APPLICATION_ID 0x73707478 /* "sptx": marks the file as ours */
#define LAYOUT_VERSION 1
#define BUSY_MS 5000 /* how long one tuner waits for another's transaction */

struct sptx_wisdom {
  sqlite3 *database;
  char *path;
  pthread_mutex_t lock; /* statements and last-error texts belong to the connection */
};

static const char create_sql[] =
    "PRAGMA journal_mode = WAL;"
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS wisdom ("
    " piece TEXT NOT NULL, shape TEXT NOT NULL, element TEXT NOT NULL, pass TEXT NOT NULL,"
    " device TEXT NOT NULL, generator INTEGER NOT NULL, schedule TEXT NOT NULL,"
    " best_ms REAL NOT NULL CHECK (best_ms > 0), default_ms REAL NOT NULL,"
    " PRIMARY KEY (piece, shape, element, pass, device, generator)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS rates (device TEXT PRIMARY KEY, flops REAL NOT NULL, copy REAL NOT NULL,"
    " exp REAL NOT NULL, launch REAL NOT NULL, threads INTEGER NOT NULL) WITHOUT ROWID;"
    "PRAGMA application_id = 1936749688;" /* APPLICATION_ID in decimal: pragmas take no parameters */
    "PRAGMA user_version = 1;"            /* LAYOUT_VERSION */
    "COMMIT;";

static enum sptx_code fail(sptx_wisdom *wisdom, int result, const char *action, sptx_error *error) {
  bool damaged = result == SQLITE_CORRUPT || result == SQLITE_NOTADB;
  const char *remedy = damaged ? "delete the file, or name another with --wisdom; tuning starts afresh"
                       : (result & 0xff) == SQLITE_FULL
                           ? "free some space; nothing stored before is lost"
                           : "check the path and its permissions, or name another file with --wisdom";
  return sptx_fail(error, damaged ? SPTX_CODE_FORMAT : SPTX_CODE_IO, "%s: cannot %s the wisdom: %s; %s",
                   wisdom->path, action, sqlite3_errmsg(wisdom->database), remedy);
}

static enum sptx_code read_pragma(sptx_wisdom *wisdom, const char *sql, int64_t *value, sptx_error *error) {
  sqlite3_stmt *statement = NULL;
  int result = sqlite3_prepare_v2(wisdom->database, sql, -1, &statement, NULL);
  if (result == SQLITE_OK)
    result = sqlite3_step(statement);
  enum sptx_code code = SPTX_CODE_OK;
  if (result == SQLITE_ROW)
    *value = sqlite3_column_int64(statement, 0);
  else
    code = fail(wisdom, result, "read", error);
  sqlite3_finalize(statement);
  return code;
}

/* Refuses databases of other programs and of later versions. *empty: the file is new. */
static enum sptx_code identify(sptx_wisdom *wisdom, bool *empty, sptx_error *error) {
  int64_t application = 0, version = 0, tables = 0;
  SPTX_TRY(read_pragma(wisdom, "PRAGMA application_id", &application, error));
  SPTX_TRY(read_pragma(wisdom, "PRAGMA user_version", &version, error));
  SPTX_TRY(read_pragma(wisdom, "SELECT count(*) FROM sqlite_master", &tables, error));
  *empty = application == 0 && version == 0 && tables == 0;
  if (!*empty && application != APPLICATION_ID)
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: this database belongs to another program; name another file with --wisdom",
                     wisdom->path);
  if (version > LAYOUT_VERSION)
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: this wisdom has layout %lld of a later sptx, this one reads %d; name another file "
                     "with --wisdom",
                     wisdom->path, (long long)version, LAYOUT_VERSION);
  return SPTX_CODE_OK;
}

static enum sptx_code prepare_database(sptx_wisdom *wisdom, enum sptx_wisdom_mode mode, sptx_error *error) {
  sqlite3_busy_timeout(wisdom->database, BUSY_MS);
  bool empty;
  SPTX_TRY(identify(wisdom, &empty, error));
  if (mode == SPTX_WISDOM_READ)
    return !empty ? SPTX_CODE_OK
                  : sptx_fail(error, SPTX_CODE_FORMAT, "%s: the wisdom is empty", wisdom->path);
  int result =
      sqlite3_exec(wisdom->database, empty ? create_sql : "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
  if (result != SQLITE_OK) {
    enum sptx_code code = fail(wisdom, result, "create", error);
    sqlite3_exec(wisdom->database, "ROLLBACK", NULL, NULL, NULL);
    return code;
  }
  return SPTX_CODE_OK;
}

/* A database in a directory that cannot be written has no place for its log: it is opened as immutable. */
static int open_immutable(const char *path, sqlite3 **database) {
  char *uri = sqlite3_mprintf("file:%s?immutable=1", path);
  if (!uri)
    return SQLITE_NOMEM;
  int result = strpbrk(path, "?#%")
                   ? SQLITE_CANTOPEN
                   : sqlite3_open_v2(uri, database,
                                     SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_FULLMUTEX, NULL);
  sqlite3_free(uri);
  return result;
}

static void make_parent(const char *path) {
  char *parent = strdup(path), *slash = parent ? strrchr(parent, '/') : NULL;
  if (slash && slash > parent) {
    *slash = '\0';
    sptx_make_directories(parent);
  }
  free(parent);
}

static enum sptx_code open_database(sptx_wisdom *wisdom, enum sptx_wisdom_mode mode, sptx_error *error) {
  if (mode == SPTX_WISDOM_WRITE)
    make_parent(wisdom->path);
  int flags = SQLITE_OPEN_FULLMUTEX |
              (mode == SPTX_WISDOM_WRITE ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
  int result = sqlite3_open_v2(wisdom->path, &wisdom->database, flags, NULL);
  if (!wisdom->database)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory while opening %s", wisdom->path);
  if (result != SQLITE_OK)
    return fail(wisdom, result, "open", error);
  enum sptx_code code = prepare_database(wisdom, mode, error);
  if (code != SPTX_CODE_IO || mode != SPTX_WISDOM_READ)
    return code;
  sqlite3_close(wisdom->database);
  wisdom->database = NULL;
  result = open_immutable(wisdom->path, &wisdom->database);
  return result == SQLITE_OK ? prepare_database(wisdom, mode, error) : code;
}

enum sptx_code sptx_wisdom_open(const char *path, enum sptx_wisdom_mode mode, sptx_wisdom **result,
                                sptx_error *error) {
  *result = NULL;
  sptx_wisdom *wisdom = calloc(1, sizeof *wisdom);
  if (!wisdom || !(wisdom->path = strdup(path))) {
    free(wisdom);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory while opening %s", path);
  }
  pthread_mutex_init(&wisdom->lock, NULL);
  enum sptx_code code = open_database(wisdom, mode, error);
  if (code != SPTX_CODE_OK)
    sptx_wisdom_close(wisdom);
  else
    *result = wisdom;
  return code;
}

void sptx_wisdom_close(sptx_wisdom *wisdom) {
  if (!wisdom)
    return;
  sqlite3_close(wisdom->database);
  pthread_mutex_destroy(&wisdom->lock);
  free(wisdom->path);
  free(wisdom);
}

/* Prepares sql and binds the key to parameters 1 to 5 and the generator to 6. */
static int prepare_keyed(sptx_wisdom *wisdom, const char *sql, const sptx_wisdom_key *key,
                         sqlite3_stmt **statement) {
  int result = sqlite3_prepare_v2(wisdom->database, sql, -1, statement, NULL);
  const char *texts[] = {key->piece, key->shape, key->element, key->pass, key->device};
  for (int k = 0; k < 5 && result == SQLITE_OK; k++)
    result = sqlite3_bind_text(*statement, k + 1, texts[k], -1, SQLITE_STATIC);
  return result == SQLITE_OK ? sqlite3_bind_int(*statement, 6, SPTX_WISDOM_GENERATOR) : result;
}

enum sptx_code sptx_wisdom_find(sptx_wisdom *wisdom, const sptx_wisdom_key *key, char *schedule, bool *found,
                                sptx_error *error) {
  static const char sql[] = "SELECT schedule FROM wisdom WHERE piece = ? AND shape = ? AND element = ?"
                            " AND pass = ? AND device = ? AND generator = ?";
  *found = false;
  enum sptx_code code = SPTX_CODE_OK;
  pthread_mutex_lock(&wisdom->lock);
  sqlite3_stmt *statement = NULL;
  int result = prepare_keyed(wisdom, sql, key, &statement);
  if (result == SQLITE_OK)
    result = sqlite3_step(statement);
  if (result == SQLITE_ROW) {
    const char *text = (const char *)sqlite3_column_text(statement, 0);
    *found = text && strlen(text) < SPTX_WISDOM_TEXT;
    if (*found)
      strcpy(schedule, text);
  } else if (result != SQLITE_DONE) {
    code = fail(wisdom, result, "read", error);
  }
  sqlite3_finalize(statement);
  pthread_mutex_unlock(&wisdom->lock);
  return code;
}

static enum sptx_code check_entry(const sptx_wisdom_entry *entry, sptx_error *error) {
  const char *texts[] = {entry->key.piece, entry->key.shape,  entry->key.element,
                         entry->key.pass,  entry->key.device, entry->schedule};
  for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
    if (!texts[k] || strlen(texts[k]) >= SPTX_WISDOM_TEXT)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                       "a wisdom entry's texts need 0 to %d bytes each; one is missing or longer",
                       SPTX_WISDOM_TEXT - 1);
  }
  if (!(entry->best_ms > 0) || !(entry->default_ms > 0) || isinf(entry->best_ms) || isinf(entry->default_ms))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "a wisdom entry's times must be positive numbers of milliseconds, not %g and %g",
                     entry->best_ms, entry->default_ms);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_wisdom_record(sptx_wisdom *wisdom, const sptx_wisdom_entry *entry, sptx_error *error) {
  static const char sql[] = "INSERT INTO wisdom VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                            " schedule = excluded.schedule, best_ms = excluded.best_ms,"
                            " default_ms = excluded.default_ms WHERE excluded.best_ms < best_ms";
  SPTX_TRY(check_entry(entry, error));
  enum sptx_code code = SPTX_CODE_OK;
  pthread_mutex_lock(&wisdom->lock);
  sqlite3_stmt *statement = NULL;
  int result = prepare_keyed(wisdom, sql, &entry->key, &statement);
  if (result == SQLITE_OK)
    result = sqlite3_bind_text(statement, 7, entry->schedule, -1, SQLITE_STATIC);
  if (result == SQLITE_OK)
    result = sqlite3_bind_double(statement, 8, entry->best_ms);
  if (result == SQLITE_OK)
    result = sqlite3_bind_double(statement, 9, entry->default_ms);
  if (result == SQLITE_OK)
    result = sqlite3_step(statement);
  if (result != SQLITE_DONE)
    code = fail(wisdom, result, "write", error);
  sqlite3_finalize(statement);
  pthread_mutex_unlock(&wisdom->lock);
  return code;
}

void sptx_wisdom_find_rates(sptx_wisdom *wisdom, const char *device, sptx_rates *rates, bool *found) {
  pthread_mutex_lock(&wisdom->lock);
  sqlite3_stmt *statement = NULL;
  int result = sqlite3_prepare_v2(wisdom->database,
                                  "SELECT flops, copy, exp, launch, threads FROM rates WHERE device = ?", -1,
                                  &statement, NULL);
  if (result == SQLITE_OK)
    result = sqlite3_bind_text(statement, 1, device, -1, SQLITE_STATIC);
  *found = result == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW;
  if (*found)
    *rates = (sptx_rates){.flops = sqlite3_column_double(statement, 0),
                          .copy = sqlite3_column_double(statement, 1),
                          .exp = sqlite3_column_double(statement, 2),
                          .launch = sqlite3_column_double(statement, 3),
                          .threads = sqlite3_column_int(statement, 4)};
  *found = *found && rates->flops > 0 && rates->copy > 0 && rates->exp > 0 && rates->threads > 0;
  sqlite3_finalize(statement);
  pthread_mutex_unlock(&wisdom->lock);
}

enum sptx_code sptx_wisdom_record_rates(sptx_wisdom *wisdom, const char *device, const sptx_rates *rates,
                                        sptx_error *error) {
  enum sptx_code code = SPTX_CODE_OK;
  pthread_mutex_lock(&wisdom->lock);
  sqlite3_stmt *statement = NULL;
  int result = sqlite3_prepare_v2(wisdom->database, "INSERT OR REPLACE INTO rates VALUES (?, ?, ?, ?, ?, ?)",
                                  -1, &statement, NULL);
  if (result == SQLITE_OK)
    result = sqlite3_bind_text(statement, 1, device, -1, SQLITE_STATIC);
  const double values[] = {rates->flops, rates->copy, rates->exp, rates->launch, rates->threads};
  for (int k = 0; k < 5 && result == SQLITE_OK; k++)
    result = sqlite3_bind_double(statement, k + 2, values[k]);
  if (result == SQLITE_OK)
    result = sqlite3_step(statement);
  if (result != SQLITE_DONE)
    code = fail(wisdom, result, "write", error);
  sqlite3_finalize(statement);
  pthread_mutex_unlock(&wisdom->lock);
  return code;
}

/* Runs a DELETE with one parameter. */
static int delete_matching(sptx_wisdom *wisdom, const char *sql, const char *text) {
  sqlite3_stmt *statement = NULL;
  int result = sqlite3_prepare_v2(wisdom->database, sql, -1, &statement, NULL);
  if (result == SQLITE_OK)
    result = sqlite3_bind_text(statement, 1, text, -1, SQLITE_STATIC);
  if (result == SQLITE_OK)
    result = sqlite3_step(statement);
  sqlite3_finalize(statement);
  return result;
}

enum sptx_code sptx_wisdom_forget(sptx_wisdom *wisdom, const char *text, int64_t *count, sptx_error *error) {
  enum sptx_code code = SPTX_CODE_OK;
  pthread_mutex_lock(&wisdom->lock);
  int result = delete_matching(wisdom, "DELETE FROM rates WHERE instr(device, ?1) > 0", text);
  if (result == SQLITE_DONE)
    result = delete_matching(wisdom, "DELETE FROM wisdom WHERE instr(piece, ?1) > 0 OR instr(device, ?1) > 0",
                             text);
  if (result == SQLITE_DONE)
    *count = sqlite3_changes(wisdom->database);
  else
    code = fail(wisdom, result, "write", error);
  pthread_mutex_unlock(&wisdom->lock);
  return code;
}

enum sptx_code sptx_wisdom_each(sptx_wisdom *wisdom, sptx_wisdom_visit visit, void *user, sptx_error *error) {
  static const char sql[] = "SELECT piece, shape, element, pass, device, schedule, best_ms, default_ms"
                            " FROM wisdom WHERE generator = ? ORDER BY 1, 2, 3, 4, 5";
  enum sptx_code code = SPTX_CODE_OK;
  pthread_mutex_lock(&wisdom->lock);
  sqlite3_stmt *statement = NULL;
  int result = sqlite3_prepare_v2(wisdom->database, sql, -1, &statement, NULL);
  if (result == SQLITE_OK)
    result = sqlite3_bind_int(statement, 1, SPTX_WISDOM_GENERATOR);
  while (code == SPTX_CODE_OK && result == SQLITE_OK && (result = sqlite3_step(statement)) == SQLITE_ROW) {
    const char *text[6];
    for (int k = 0; k < 6; k++)
      text[k] = (const char *)sqlite3_column_text(statement, k);
    sptx_wisdom_entry entry = {{text[0], text[1], text[2], text[3], text[4]},
                               text[5],
                               sqlite3_column_double(statement, 6),
                               sqlite3_column_double(statement, 7)};
    code = check_entry(&entry, error);
    if (code == SPTX_CODE_OK)
      code = visit(user, &entry, error);
    result = SQLITE_OK;
  }
  if (code == SPTX_CODE_OK && result != SQLITE_DONE)
    code = fail(wisdom, result, "read", error);
  sqlite3_finalize(statement);
  pthread_mutex_unlock(&wisdom->lock);
  return code;
}

static enum sptx_code execute(sptx_wisdom *wisdom, const char *sql, sptx_error *error) {
  pthread_mutex_lock(&wisdom->lock);
  int result = sqlite3_exec(wisdom->database, sql, NULL, NULL, NULL);
  enum sptx_code code = result == SQLITE_OK ? SPTX_CODE_OK : fail(wisdom, result, "write", error);
  pthread_mutex_unlock(&wisdom->lock);
  return code;
}

enum sptx_code sptx_wisdom_begin(sptx_wisdom *wisdom, sptx_error *error) {
  return execute(wisdom, "BEGIN IMMEDIATE", error);
}

enum sptx_code sptx_wisdom_commit(sptx_wisdom *wisdom, sptx_error *error) {
  return execute(wisdom, "COMMIT", error);
}

void sptx_wisdom_rollback(sptx_wisdom *wisdom) {
  (void)execute(wisdom, "ROLLBACK", NULL);
}
