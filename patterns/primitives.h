/* The one table of primitives. A new primitive is one kind in set.h and one row here: how its keys are
 * written, how their numbers become a set, which pairs it holds, and its text form. Everything else follows
 * the table. */
#ifndef SPTX_PATTERNS_PRIMITIVES_H
#define SPTX_PATTERNS_PRIMITIVES_H

#include "patterns/error.h"
#include "patterns/set.h"

#define SPTX_MAX_KEYS 5

enum sptx_key_type {
  SPTX_KEY_INTEGER,
  SPTX_KEY_INTEGERS, /* a list, or the name of a list parameter */
  SPTX_KEY_WORD,     /* one of words */
  SPTX_KEY_ROWS,     /* a list of strings of 0 and 1 */
  SPTX_KEY_FILE,     /* an .npy bool matrix, read into the same form as rows */
};

typedef struct sptx_key {
  const char *name; /* NULL ends the list */
  enum sptx_key_type type;
  bool required;
  int64_t low, high;        /* of each integer */
  const char *const *words; /* NULL terminated */
} sptx_key;

/* A matrix of 0 and 1 as written in the file. */
typedef struct sptx_cells {
  int64_t rows, columns;
  unsigned char *cells;
} sptx_cells;

/* What one key came to for a given n and head. Borrowed. */
typedef struct sptx_value {
  bool present;
  sptx_place place;
  int64_t integer; /* INTEGER; the index of a WORD */
  const int64_t *integers;
  int count;
  const sptx_cells *cells;
} sptx_value;

/* What is known when numbers become a set. */
typedef struct sptx_scope {
  int64_t n;
  bool causal;
} sptx_scope;

enum sptx_syntax {
  SPTX_SYNTAX_BARE,       /* `all` */
  SPTX_SYNTAX_KEYS,       /* `window: {left: 3}` */
  SPTX_SYNTAX_EXPRESSION, /* `where: "..."` */
};

typedef struct sptx_primitive {
  const char *name;
  enum sptx_syntax syntax;
  sptx_key keys[SPTX_MAX_KEYS + 1];
  /* Which keys go together; NULL when any do. present follows keys. */
  enum sptx_code (*check)(const bool *present, sptx_place place, sptx_error *error);
  /* Fills set->as from the values, which are within their keys' ranges. */
  enum sptx_code (*resolve)(const sptx_value *values, const sptx_scope *scope, sptx_set *set,
                            sptx_error *error);
  enum sptx_code (*contains)(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                             sptx_error *error);
  /* Whether the numbers outside the buffer are equal; NULL when there are none. */
  bool (*equal)(const sptx_set *a, const sptx_set *b);
  /* The array that set owns, and its size; NULL when it owns none. */
  void **(*buffer)(sptx_set *set, size_t *bytes);
  /* The text after "name: ". */
  void (*print)(const sptx_set *set, FILE *stream);
} sptx_primitive;

/* The row of a kind below SPTX_SET_ANY. */
const sptx_primitive *sptx_primitive_of(enum sptx_set_kind kind);
#define SPTX_PRIMITIVE_COUNT ((int)SPTX_SET_ANY)

#endif
