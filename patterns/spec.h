/* A pattern as written: the tree of sets whose numbers are still expressions over n, h and params. Private to
 * patterns/; parsing builds it (patterns/pattern.c, patterns/spec.c), resolving evaluates it
 * (patterns/resolve.c). */
#ifndef SPTX_PATTERNS_SPEC_H
#define SPTX_PATTERNS_SPEC_H

#include "patterns/pattern.h"
#include "patterns/primitives.h"
#include "patterns/yaml.h"

#define SPTX_MAX_PARAMS 64
#define SPTX_MAX_HEADS 65536                  /* of one attention call, and of one entry of `heads` */
#define SPTX_MAX_CELLS ((int64_t)1 << 26)     /* of all layouts of one file */
#define SPTX_MAX_SET_BYTES ((int64_t)1 << 30) /* of all lists and layouts of one instance */

/* Variables of expressions: the first two in `where` only; h not in params and counts. */
enum {
  SPTX_VAR_QUERY = SPTX_VARIABLE_QUERY,
  SPTX_VAR_KEY = SPTX_VARIABLE_KEY,
  SPTX_VAR_N,
  SPTX_VAR_HEAD,
  SPTX_VAR_PARAM
};
#define SPTX_MAX_VARS (SPTX_VAR_PARAM + SPTX_MAX_PARAMS)

/* One or more integers as expressions, or the index of a list parameter. */
typedef struct sptx_integers {
  sptx_place place;
  sptx_expr **exprs;
  int count;
  int list_param; /* -1: exprs */
} sptx_integers;

typedef struct sptx_field {
  bool present;
  sptx_place place;
  sptx_integers integers; /* INTEGER, INTEGERS */
  int word;               /* WORD */
  sptx_cells cells;       /* ROWS, FILE; owned */
} sptx_field;

typedef struct sptx_spec {
  enum sptx_set_kind kind;
  sptx_place place;
  sptx_field *fields; /* SPTX_SYNTAX_KEYS: SPTX_MAX_KEYS of them */
  sptx_expr *where;
  struct sptx_spec **children;
  int child_count;
  bool uses_head;
} sptx_spec;

typedef struct sptx_param {
  char *name;
  char *source; /* "--set name": the file of an override's places; else NULL */
  bool is_list;
  sptx_integers value;
} sptx_param;

/* A set for some heads, or a step. */
typedef struct sptx_group {
  char *name;       /* of a step; else NULL */
  sptx_expr *count; /* NULL: 1 */
  sptx_spec *spec;
} sptx_group;

struct sptx_pattern {
  char *file, *name, *about;
  bool causal;
  sptx_param *params;
  int param_count;
  sptx_group *groups;
  int group_count;
  bool interleaved; /* groups are steps, one instance each; else heads take groups in turn */
  int *order;       /* interleaved: the step of layer k is order[k mod order_count] */
  int order_count;
};

/* What parsing needs to know on the way down. */
typedef struct sptx_parse {
  sptx_pattern *pattern;
  int64_t cells; /* of the layouts read so far */
  sptx_error *error;
} sptx_parse;

/* Which names an expression may use. */
enum sptx_names {
  SPTX_NAMES_PARAM /* n, params */,
  SPTX_NAMES_SET /* and h */,
  SPTX_NAMES_WHERE /* and i, j */
};

enum sptx_code sptx_spec_parse(sptx_parse *parse, const sptx_yaml_node *node, sptx_spec **spec);
void sptx_spec_free(sptx_spec *spec);

/* An integer expression; what names it in messages. */
enum sptx_code sptx_parse_expr(sptx_parse *parse, const sptx_yaml_node *node, const char *what,
                               enum sptx_names names, sptx_expr **expr);
/* A list of integer expressions or, with allow_param, the name of a list parameter. */
enum sptx_code sptx_parse_integers(sptx_parse *parse, const sptx_yaml_node *node, const char *what,
                                   enum sptx_names names, bool allow_param, sptx_integers *integers);
void sptx_integers_clear(sptx_integers *integers);
/* A mapping whose keys are all among names; what names it in messages. */
enum sptx_code sptx_check_keys(sptx_parse *parse, const sptx_yaml_node *node, const char *what,
                               const char *const *names, size_t count);
/* A word from outside a set, with "did you mean" where one is near. */
enum sptx_code sptx_unknown_word(sptx_error *error, sptx_place place, const char *what, const char *word,
                                 const char *const *names, size_t count);
enum sptx_code sptx_copy_text(const char *text, char **copy, sptx_error *error);

#endif
