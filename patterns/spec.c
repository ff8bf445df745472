/* Reads a set from YAML by the table of primitives: which keys, of which types. Numbers stay expressions. */
#include "patterns/spec.h"
#include "patterns/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const algebra_names[] = {"any", "all_of",
                                            "not"}; /* in the order of the kinds from ANY on */
enum { ALGEBRA_COUNT = 3, SET_NAME_COUNT = SPTX_PRIMITIVE_COUNT + ALGEBRA_COUNT };

static enum sptx_code out_of_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory while a pattern is read");
}

enum sptx_code sptx_copy_text(const char *text, char **copy, sptx_error *error) {
  *copy = strdup(text);
  return *copy ? SPTX_CODE_OK : out_of_memory(error);
}

enum sptx_code sptx_unknown_word(sptx_error *error, sptx_place place, const char *what, const char *word,
                                 const char *const *names, size_t count) {
  char known[512] = "";
  size_t used = 0;
  for (size_t k = 0; k < count && used + 2 < sizeof known; k++)
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", names[k]);
  const char *nearest = sptx_nearest_name(word, names, count);
  if (nearest)
    return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, place,
                        "unknown %s '%.64s'; did you mean '%s'? (known: %s)", what, word, nearest, known);
  return sptx_fail_at(error, SPTX_CODE_PATTERN_VALUE, place, "unknown %s '%.64s'; known are: %s", what, word,
                      used ? known : "none");
}

enum sptx_code sptx_check_keys(sptx_parse *parse, const sptx_yaml_node *node, const char *what,
                               const char *const *names, size_t count) {
  if (node->kind != SPTX_YAML_MAPPING)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place,
                        "%s expects a mapping of keys, found %s", what, sptx_yaml_describe(node));
  for (size_t k = 0; k < node->item_count; k += 2) {
    bool known = false;
    for (size_t name = 0; name < count; name++)
      known = known || sptx_yaml_is(node->items[k], names[name]);
    if (known)
      continue;
    char label[96];
    snprintf(label, sizeof label, "key of %s", what);
    return sptx_unknown_word(parse->error, node->items[k]->place, label, node->items[k]->text, names, count);
  }
  return SPTX_CODE_OK;
}

/* A list parameter cannot stand in an expression: it is no number. */
static enum sptx_code refuse_lists(sptx_parse *parse, const sptx_expr *expr) {
  for (int k = 0; k < parse->pattern->param_count; k++)
    if (parse->pattern->params[k].is_list && sptx_expr_uses(expr, SPTX_VAR_PARAM + k))
      return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, expr->place,
                          "the parameter '%s' is a list, not a number", parse->pattern->params[k].name);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_parse_expr(sptx_parse *parse, const sptx_yaml_node *node, const char *what,
                               enum sptx_names names, sptx_expr **expr) {
  *expr = NULL;
  if (node->kind != SPTX_YAML_SCALAR || node->length == 0)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place, "%s expects %s, found %s", what,
                        names == SPTX_NAMES_WHERE ? "an expression" : "an integer or an expression",
                        sptx_yaml_describe(node));
  const char *list[SPTX_MAX_VARS] = {"", "", "n", ""};
  if (names == SPTX_NAMES_WHERE) {
    list[SPTX_VAR_QUERY] = "i";
    list[SPTX_VAR_KEY] = "j";
  }
  if (names != SPTX_NAMES_PARAM)
    list[SPTX_VAR_HEAD] = "h";
  int count = parse->pattern->param_count;
  for (int k = 0; k < count; k++)
    list[SPTX_VAR_PARAM + k] = parse->pattern->params[k].name;
  SPTX_TRY(sptx_expr_parse(node->text, node->length, node->place, node->one_line, list,
                           (size_t)(SPTX_VAR_PARAM + count), expr, parse->error));
  enum sptx_code code = refuse_lists(parse, *expr);
  if (code != SPTX_CODE_OK) {
    sptx_expr_free(*expr);
    *expr = NULL;
  }
  return code;
}

void sptx_integers_clear(sptx_integers *integers) {
  for (int k = 0; k < integers->count; k++)
    sptx_expr_free(integers->exprs[k]);
  free(integers->exprs);
  *integers = (sptx_integers){.list_param = -1};
}

static int find_list_param(const sptx_parse *parse, const sptx_yaml_node *node) {
  for (int k = 0; k < parse->pattern->param_count; k++)
    if (parse->pattern->params[k].is_list && sptx_yaml_is(node, parse->pattern->params[k].name))
      return k;
  return -1;
}

enum sptx_code sptx_parse_integers(sptx_parse *parse, const sptx_yaml_node *node, const char *what,
                                   enum sptx_names names, bool allow_param, sptx_integers *integers) {
  *integers =
      (sptx_integers){.place = node->place, .list_param = allow_param ? find_list_param(parse, node) : -1};
  if (integers->list_param >= 0)
    return SPTX_CODE_OK;
  if (node->kind != SPTX_YAML_SEQUENCE)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place,
                        "%s expects a list of integers%s, found %s", what,
                        allow_param ? " or the name of a list parameter" : "", sptx_yaml_describe(node));
  if (node->item_count == 0)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place, "%s expects at least one integer",
                        what);
  integers->exprs = calloc(node->item_count, sizeof *integers->exprs);
  if (!integers->exprs)
    return out_of_memory(parse->error);
  for (size_t k = 0; k < node->item_count; k++) {
    integers->count = (int)k + 1;
    SPTX_TRY(sptx_parse_expr(parse, node->items[k], what, names, &integers->exprs[k]));
  }
  return SPTX_CODE_OK;
}

/* Counts a matrix towards the file's bound before it is allocated. */
static enum sptx_code make_cells(sptx_parse *parse, sptx_place place, int64_t rows, int64_t columns,
                                 sptx_cells *cells) {
  int64_t area;
  if (__builtin_mul_overflow(rows, columns, &area) || area > SPTX_MAX_CELLS - parse->cells)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_LIMIT, place,
                        "the layouts of a file may have at most %" PRId64 " cells together", SPTX_MAX_CELLS);
  if (area == 0)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, place, "a layout expects at least one cell");
  parse->cells += area;
  cells->cells = malloc((size_t)area);
  if (!cells->cells)
    return out_of_memory(parse->error);
  cells->rows = rows;
  cells->columns = columns;
  return SPTX_CODE_OK;
}

static enum sptx_code parse_rows(sptx_parse *parse, const sptx_yaml_node *node, sptx_cells *cells) {
  if (node->kind != SPTX_YAML_SEQUENCE || node->item_count == 0)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place,
                        "`rows` expects a list of strings of 0 and 1, found %s", sptx_yaml_describe(node));
  size_t columns = node->items[0]->length;
  SPTX_TRY(make_cells(parse, node->place, (int64_t)node->item_count, (int64_t)columns, cells));
  for (size_t row = 0; row < node->item_count; row++) {
    const sptx_yaml_node *item = node->items[row];
    if (item->kind != SPTX_YAML_SCALAR || item->length != columns)
      return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, item->place,
                          "`rows` expects strings of equal length, here %zu, found %s of %zu", columns,
                          item->kind == SPTX_YAML_SCALAR ? "one" : sptx_yaml_describe(item),
                          item->kind == SPTX_YAML_SCALAR ? item->length : item->item_count);
    for (size_t column = 0; column < columns; column++) {
      char cell = item->text[column];
      if (cell != '0' && cell != '1')
        return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, item->place,
                            "`rows` expects strings of 0 and 1; character %zu is another", column + 1);
      cells->cells[row * columns + column] = cell == '1';
    }
  }
  return SPTX_CODE_OK;
}

/* The path of a file named in a pattern: beside the pattern, unless absolute. */
static enum sptx_code beside(sptx_parse *parse, const char *name, char **path) {
  const char *file = parse->pattern->file;
  const char *slash = *name == '/' ? NULL : strrchr(file, '/');
  size_t folder = slash ? (size_t)(slash - file) + 1 : 0;
  *path = malloc(folder + strlen(name) + 1);
  if (!*path)
    return out_of_memory(parse->error);
  memcpy(*path, file, folder);
  strcpy(*path + folder, name);
  return SPTX_CODE_OK;
}

static enum sptx_code copy_npy(sptx_parse *parse, const sptx_yaml_node *node, const sptx_npy *npy,
                               sptx_cells *cells) {
  if (npy->type != SPTX_NPY_BOOL || npy->rank != 2)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place,
                        "`file` expects an .npy matrix of rank 2 and type bool, found rank %d and type %s",
                        npy->rank, sptx_npy_type_name(npy->type));
  SPTX_TRY(make_cells(parse, node->place, npy->shape[0], npy->shape[1], cells));
  memcpy(cells->cells, npy->data, npy->bytes);
  return SPTX_CODE_OK;
}

static enum sptx_code parse_file(sptx_parse *parse, const sptx_yaml_node *node, sptx_cells *cells) {
  if (node->kind != SPTX_YAML_SCALAR || node->length == 0)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place, "`file` expects a path, found %s",
                        sptx_yaml_describe(node));
  char *path;
  SPTX_TRY(beside(parse, node->text, &path));
  sptx_npy npy;
  sptx_error inner = {.code = SPTX_CODE_OK};
  enum sptx_code code = sptx_npy_read(path, SPTX_MAX_CELLS, &npy, &inner);
  free(path);
  if (code != SPTX_CODE_OK)
    return sptx_fail_at(parse->error, code, node->place, "%s", inner.message);
  code = copy_npy(parse, node, &npy, cells);
  sptx_npy_clear(&npy);
  return code;
}

static enum sptx_code parse_word(sptx_parse *parse, const sptx_yaml_node *node, const sptx_key *key,
                                 int *word) {
  size_t count = 0;
  for (; key->words[count]; count++)
    if (sptx_yaml_is(node, key->words[count])) {
      *word = (int)count;
      return SPTX_CODE_OK;
    }
  return sptx_unknown_word(parse->error, node->place, "word for `as`",
                           node->text ? node->text : "(a collection)", key->words, count);
}

static enum sptx_code parse_field(sptx_parse *parse, const sptx_yaml_node *node, const sptx_key *key,
                                  sptx_field *field) {
  char what[48];
  snprintf(what, sizeof what, "`%s`", key->name);
  field->present = true;
  field->place = node->place;
  switch (key->type) {
  case SPTX_KEY_INTEGER:
    field->integers.exprs = calloc(1, sizeof *field->integers.exprs);
    if (!field->integers.exprs)
      return out_of_memory(parse->error);
    field->integers.place = node->place;
    field->integers.count = 1;
    return sptx_parse_expr(parse, node, what, SPTX_NAMES_SET, &field->integers.exprs[0]);
  case SPTX_KEY_INTEGERS:
    return sptx_parse_integers(parse, node, what, SPTX_NAMES_SET, true, &field->integers);
  case SPTX_KEY_WORD:
    return parse_word(parse, node, key, &field->word);
  case SPTX_KEY_ROWS:
    return parse_rows(parse, node, &field->cells);
  case SPTX_KEY_FILE:
    return parse_file(parse, node, &field->cells);
  }
  return SPTX_CODE_OK;
}

static enum sptx_code parse_keys(sptx_parse *parse, const sptx_primitive *row, const sptx_yaml_node *node,
                                 sptx_spec *spec) {
  const char *names[SPTX_MAX_KEYS];
  bool present[SPTX_MAX_KEYS] = {false};
  size_t count = 0;
  for (; row->keys[count].name; count++)
    names[count] = row->keys[count].name;
  char what[48];
  snprintf(what, sizeof what, "`%s`", row->name);
  SPTX_TRY(sptx_check_keys(parse, node, what, names, count));
  spec->fields = calloc(SPTX_MAX_KEYS, sizeof *spec->fields);
  if (!spec->fields)
    return out_of_memory(parse->error);
  for (size_t k = 0; k < SPTX_MAX_KEYS; k++)
    spec->fields[k].integers.list_param = -1;
  for (size_t k = 0; k < count; k++) {
    const sptx_yaml_node *value = sptx_yaml_get(node, names[k]);
    present[k] = value != NULL;
    if (!value && row->keys[k].required)
      return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place, "`%s` expects the key '%s'",
                          row->name, names[k]);
    if (value)
      SPTX_TRY(parse_field(parse, value, &row->keys[k], &spec->fields[k]));
    for (int e = 0; e < spec->fields[k].integers.count; e++)
      spec->uses_head = spec->uses_head || sptx_expr_uses(spec->fields[k].integers.exprs[e], SPTX_VAR_HEAD);
  }
  return row->check ? row->check(present, node->place, parse->error) : SPTX_CODE_OK;
}

static enum sptx_code parse_children(sptx_parse *parse, const sptx_yaml_node *node, const char *name,
                                     sptx_spec *spec) {
  bool single = spec->kind == SPTX_SET_NOT;
  if (!single && (node->kind != SPTX_YAML_SEQUENCE || node->item_count == 0))
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place,
                        "`%s` expects a list of sets, found %s", name, sptx_yaml_describe(node));
  size_t count = single ? 1 : node->item_count;
  spec->children = calloc(count, sizeof *spec->children);
  if (!spec->children)
    return out_of_memory(parse->error);
  spec->child_count = (int)count;
  for (size_t k = 0; k < count; k++) {
    SPTX_TRY(sptx_spec_parse(parse, single ? node : node->items[k], &spec->children[k]));
    spec->uses_head = spec->uses_head || spec->children[k]->uses_head;
  }
  return SPTX_CODE_OK;
}

static void set_names(const char *names[SET_NAME_COUNT]) {
  for (int k = 0; k < SPTX_PRIMITIVE_COUNT; k++)
    names[k] = sptx_primitive_of((enum sptx_set_kind)k)->name;
  for (int k = 0; k < ALGEBRA_COUNT; k++)
    names[SPTX_PRIMITIVE_COUNT + k] = algebra_names[k];
}

/* The kind that a word names, or a message about what a set looks like. */
static enum sptx_code find_kind(sptx_parse *parse, const sptx_yaml_node *word, enum sptx_set_kind *kind) {
  const char *names[SET_NAME_COUNT];
  set_names(names);
  for (int k = 0; k < SET_NAME_COUNT; k++)
    if (sptx_yaml_is(word, names[k])) {
      *kind = (enum sptx_set_kind)k;
      return SPTX_CODE_OK;
    }
  return sptx_unknown_word(parse->error, word->place, "set", word->text, names, SET_NAME_COUNT);
}

/* The word that names the set of node, and the node of its content (NULL for a bare word). */
static enum sptx_code split_set(sptx_parse *parse, const sptx_yaml_node *node, const sptx_yaml_node **word,
                                const sptx_yaml_node **content) {
  if (node->kind == SPTX_YAML_SEQUENCE || (node->kind == SPTX_YAML_SCALAR && node->length == 0) ||
      (node->kind == SPTX_YAML_MAPPING && node->item_count == 0))
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place,
                        "expected a set such as {window: {left: 128}}, found %s%s", sptx_yaml_describe(node),
                        node->kind == SPTX_YAML_SEQUENCE ? "; write {any: [..]} for a union" : "");
  if (node->kind == SPTX_YAML_MAPPING && node->item_count > 2)
    return sptx_fail_at(
        parse->error, SPTX_CODE_PATTERN_VALUE, node->items[2]->place,
        "a set has one key, found '%.64s' and '%.64s'; write {any: [..]} for a union or {all_of: "
        "[..]} for an intersection",
        node->items[0]->text, node->items[2]->text);
  *word = node->kind == SPTX_YAML_MAPPING ? node->items[0] : node;
  *content = node->kind == SPTX_YAML_MAPPING ? node->items[1] : NULL;
  return SPTX_CODE_OK;
}

static enum sptx_code parse_content(sptx_parse *parse, const sptx_yaml_node *word,
                                    const sptx_yaml_node *content, sptx_spec *spec) {
  const sptx_primitive *row = spec->kind < SPTX_SET_ANY ? sptx_primitive_of(spec->kind) : NULL;
  if (row && row->syntax == SPTX_SYNTAX_BARE)
    return !content ? SPTX_CODE_OK
                    : sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, content->place,
                                   "`%s` stands alone, without a colon and keys", row->name);
  if (!content)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, word->place,
                        "`%s` expects its content: {%s: %s}", word->text, word->text,
                        !row                              ? "[..]"
                        : row->syntax == SPTX_SYNTAX_KEYS ? "{..}"
                                                          : "\"..\"");
  if (!row)
    return parse_children(parse, content, word->text, spec);
  if (row->syntax == SPTX_SYNTAX_KEYS)
    return parse_keys(parse, row, content, spec);
  SPTX_TRY(sptx_parse_expr(parse, content, "`where`", SPTX_NAMES_WHERE, &spec->where));
  spec->uses_head = sptx_expr_uses(spec->where, SPTX_VAR_HEAD);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_spec_parse(sptx_parse *parse, const sptx_yaml_node *node, sptx_spec **spec) {
  *spec = NULL;
  const sptx_yaml_node *word = NULL, *content = NULL;
  enum sptx_set_kind kind;
  SPTX_TRY(split_set(parse, node, &word, &content));
  SPTX_TRY(find_kind(parse, word, &kind));
  sptx_spec *made = calloc(1, sizeof *made);
  if (!made)
    return out_of_memory(parse->error);
  made->kind = kind;
  made->place = word->place;
  enum sptx_code code = parse_content(parse, word, content, made);
  if (code != SPTX_CODE_OK) {
    sptx_spec_free(made);
    return code;
  }
  *spec = made;
  return SPTX_CODE_OK;
}

void sptx_spec_free(sptx_spec *spec) {
  if (!spec)
    return;
  for (int k = 0; spec->fields && k < SPTX_MAX_KEYS; k++) {
    sptx_integers_clear(&spec->fields[k].integers);
    free(spec->fields[k].cells.cells);
  }
  free(spec->fields);
  sptx_expr_free(spec->where);
  for (int k = 0; k < spec->child_count; k++)
    sptx_spec_free(spec->children[k]);
  free(spec->children);
  free(spec);
}
