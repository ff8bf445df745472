/* A YAML document as a tree with marks, read within fixed bounds: text size, depth, and the number of nodes
 * counted as if every alias were written out. Knows nothing of patterns. */
#ifndef SPTX_PATTERNS_YAML_H
#define SPTX_PATTERNS_YAML_H

#include "patterns/error.h"
#include "patterns/expr.h"
#include <stdbool.h>
#include <stddef.h>

#define SPTX_YAML_MAX_BYTES (1 << 20)
#define SPTX_YAML_MAX_DEPTH 32
#define SPTX_YAML_MAX_NODES 100000
#define SPTX_YAML_MAX_KEYS 256 /* of one mapping; they are compared pairwise, as are aliases with anchors */
#define SPTX_YAML_MAX_ANCHORS 256

enum sptx_yaml_kind { SPTX_YAML_SCALAR, SPTX_YAML_SEQUENCE, SPTX_YAML_MAPPING };

typedef struct sptx_yaml_node {
  enum sptx_yaml_kind kind;
  sptx_place place; /* of the first character; inside the quotes of a quoted scalar */
  bool one_line;    /* a scalar whose characters stand one after another from place on */
  bool quoted;
  char *text; /* scalar: NUL terminated, and holds no other NUL */
  size_t length;
  struct sptx_yaml_node **items; /* sequence: the items; mapping: key, value, key, value ... Keys are scalars
                                    and distinct. Borrowed: aliases share nodes. */
  size_t item_count, item_capacity;
  size_t weight; /* nodes at and below, aliases written out */
} sptx_yaml_node;

typedef struct sptx_yaml {
  sptx_yaml_node *root;
  sptx_yaml_node **nodes; /* all of them, owned */
  size_t node_count, node_capacity;
} sptx_yaml;

/* file is borrowed by every place. On failure *yaml is empty. */
enum sptx_code sptx_yaml_parse(const char *text, size_t length, const char *file, sptx_yaml *yaml,
                               sptx_error *error);
void sptx_yaml_clear(sptx_yaml *yaml);

/* The value of key, or NULL. */
const sptx_yaml_node *sptx_yaml_get(const sptx_yaml_node *mapping, const char *key);
bool sptx_yaml_is(const sptx_yaml_node *node, const char *text); /* a scalar of just this text */
const char *sptx_yaml_describe(const sptx_yaml_node *node);      /* "a list", for messages; static */

/* The name nearest to word within a third of its letters, or NULL: "did you mean ...?". */
const char *sptx_nearest_name(const char *word, const char *const *names, size_t count);

#endif
