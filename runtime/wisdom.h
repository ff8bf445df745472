/* Wisdom: the best schedule known, by measurement, for each (piece, shape class, element type, pass, device).
 * A SQLite database that many processes read and write at once. It is a hint and never more: what cannot be
 * read costs speed, never correctness, and what another version of the generator measured is ignored. */
#ifndef SPTX_RUNTIME_WISDOM_H
#define SPTX_RUNTIME_WISDOM_H

#include "gen/rates.h"
#include "patterns/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Raised whenever schedules or kernels change so much that old measurements mislead. */
#define SPTX_WISDOM_GENERATOR 1

#define SPTX_WISDOM_TEXT 1024 /* bytes of the longest text of a key or schedule, with its end */

/* Plain, readable texts: one row of the database stands for one combination of them. */
typedef struct sptx_wisdom_key {
  const char *piece;   /* canonical form of the pieces, independent of n */
  const char *shape;   /* class of the shape */
  const char *element; /* "f32", "f16", "bf16" */
  const char *pass;    /* "forward", "backward", "decode" */
  const char *device;  /* model, features and threads of a CPU; name and compute capability of a GPU */
} sptx_wisdom_key;

typedef struct sptx_wisdom_entry {
  sptx_wisdom_key key;
  const char *schedule;
  double best_ms, default_ms;
} sptx_wisdom_entry;

typedef struct sptx_wisdom sptx_wisdom; /* one connection; safe to use from several threads */

enum sptx_wisdom_mode { SPTX_WISDOM_READ, SPTX_WISDOM_WRITE /* created when missing */ };

/* Fails with SPTX_CODE_IO (missing, unwritable), SPTX_CODE_FORMAT (no wisdom, damaged, of a later layout). */
enum sptx_code sptx_wisdom_open(const char *path, enum sptx_wisdom_mode mode, sptx_wisdom **wisdom,
                                sptx_error *error);
void sptx_wisdom_close(sptx_wisdom *wisdom); /* NULL is allowed */

/* Copies the schedule for key into schedule[SPTX_WISDOM_TEXT]; *found tells whether there is one. */
enum sptx_code sptx_wisdom_find(sptx_wisdom *wisdom, const sptx_wisdom_key *key, char *schedule, bool *found,
                                sptx_error *error);
/* Stores the entry unless a faster one of this generator stands under its key. One transaction. */
enum sptx_code sptx_wisdom_record(sptx_wisdom *wisdom, const sptx_wisdom_entry *entry, sptx_error *error);
/* Deletes the entries whose piece or device contains text ("" : all of them), *count is how many, and the
 * ceilings of such devices. */
enum sptx_code sptx_wisdom_forget(sptx_wisdom *wisdom, const char *text, int64_t *count, sptx_error *error);

/* Calls visit for each entry of this generator, ordered by key; a non-OK result of visit ends the walk. */
typedef enum sptx_code (*sptx_wisdom_visit)(void *user, const sptx_wisdom_entry *entry, sptx_error *error);
enum sptx_code sptx_wisdom_each(sptx_wisdom *wisdom, sptx_wisdom_visit visit, void *user, sptx_error *error);

/* The same as readable YAML, to carry between machines (wisdom_text.c). Import is all or nothing. */
enum sptx_code sptx_wisdom_export(sptx_wisdom *wisdom, FILE *stream, sptx_error *error);
enum sptx_code sptx_wisdom_import(sptx_wisdom *wisdom, const char *text, size_t length, const char *file,
                                  int64_t *count, sptx_error *error);

/* Group several records into one transaction: begin, then commit or roll back. */
enum sptx_code sptx_wisdom_begin(sptx_wisdom *wisdom, sptx_error *error);
enum sptx_code sptx_wisdom_commit(sptx_wisdom *wisdom, sptx_error *error);
void sptx_wisdom_rollback(sptx_wisdom *wisdom);

/* The ceilings of a device, measured once and kept beside the schedules. *found is false, too, where the
 * database cannot be read. */
void sptx_wisdom_find_rates(sptx_wisdom *wisdom, const char *device, sptx_rates *rates, bool *found);
enum sptx_code sptx_wisdom_record_rates(sptx_wisdom *wisdom, const char *device, const sptx_rates *rates,
                                        sptx_error *error);

#endif
