/* libyaml's events, built into a tree. Bounds are checked on each event, before anything of its size is
 * allocated: the text is at most 1 MiB, so libyaml itself can buffer no more than that. */
#include "patterns/yaml.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct anchor {
  char *name;
  sptx_yaml_node *node;
  bool complete; /* its node is closed: an alias inside it would be a cycle */
} anchor;

typedef struct reader {
  yaml_parser_t parser;
  const char *file;
  sptx_yaml *yaml;
  sptx_yaml_node *open[SPTX_YAML_MAX_DEPTH]; /* the collections that are not closed yet */
  int depth;
  anchor *anchors;
  size_t anchor_count, anchor_capacity;
  sptx_error *error;
} reader;

static sptx_place place_of(const reader *r, yaml_mark_t mark) {
  return (sptx_place){r->file, (int)mark.line + 1, (int)mark.column + 1};
}

static enum sptx_code out_of_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory while a YAML document is read");
}

/* Room for one more element of a growing array. */
static bool grow(void **array, size_t count, size_t *capacity, size_t size) {
  if (count < *capacity)
    return true;
  size_t wider = *capacity ? 2 * *capacity : 4;
  void *moved = realloc(*array, wider * size);
  if (!moved)
    return false;
  *array = moved;
  *capacity = wider;
  return true;
}

static enum sptx_code new_node(reader *r, enum sptx_yaml_kind kind, yaml_mark_t mark, sptx_yaml_node **node) {
  sptx_yaml *yaml = r->yaml;
  if (yaml->node_count >= SPTX_YAML_MAX_NODES)
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_LIMIT, place_of(r, mark),
                        "a pattern file may have at most %d YAML nodes", SPTX_YAML_MAX_NODES);
  if (!grow((void **)&yaml->nodes, yaml->node_count, &yaml->node_capacity, sizeof(sptx_yaml_node *)))
    return out_of_memory(r->error);
  *node = calloc(1, sizeof **node);
  if (!*node)
    return out_of_memory(r->error);
  yaml->nodes[yaml->node_count++] = *node;
  (*node)->kind = kind;
  (*node)->place = place_of(r, mark);
  (*node)->weight = 1;
  return SPTX_CODE_OK;
}

static enum sptx_code refuse_tag(reader *r, const yaml_event_t *event, const unsigned char *tag) {
  if (!tag)
    return SPTX_CODE_OK;
  return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, place_of(r, event->start_mark),
                      "pattern files use no YAML tags; remove '%.64s'", (const char *)tag);
}

/* A later anchor of the same name hides the earlier one, as YAML says. */
static enum sptx_code add_anchor(reader *r, const unsigned char *name, sptx_yaml_node *node, bool complete) {
  if (!name)
    return SPTX_CODE_OK;
  if (!grow((void **)&r->anchors, r->anchor_count, &r->anchor_capacity, sizeof(anchor)))
    return out_of_memory(r->error);
  if (r->anchor_count == SPTX_YAML_MAX_ANCHORS)
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_LIMIT, node->place,
                        "a pattern file may have at most %d anchors", SPTX_YAML_MAX_ANCHORS);
  char *copy = strdup((const char *)name);
  if (!copy)
    return out_of_memory(r->error);
  r->anchors[r->anchor_count++] = (anchor){copy, node, complete};
  return SPTX_CODE_OK;
}

static enum sptx_code check_key(reader *r, const sptx_yaml_node *mapping, const sptx_yaml_node *key) {
  if (key->kind != SPTX_YAML_SCALAR)
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, key->place, "expected a name as key, found %s",
                        sptx_yaml_describe(key));
  if (mapping->item_count >= 2 * SPTX_YAML_MAX_KEYS)
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_LIMIT, key->place, "a mapping may have at most %d keys",
                        SPTX_YAML_MAX_KEYS);
  for (size_t k = 0; k < mapping->item_count; k += 2)
    if (sptx_yaml_is(mapping->items[k], key->text))
      return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, key->place,
                          "the key '%.64s' stands twice; its first place is line %d, column %d", key->text,
                          mapping->items[k]->place.line, mapping->items[k]->place.column);
  return SPTX_CODE_OK;
}

/* Puts a new or aliased node into the collection that is open. */
static enum sptx_code attach(reader *r, sptx_yaml_node *node) {
  if (r->depth == 0) {
    r->yaml->root = node;
    return SPTX_CODE_OK;
  }
  sptx_yaml_node *parent = r->open[r->depth - 1];
  if (parent->kind == SPTX_YAML_MAPPING && parent->item_count % 2 == 0)
    SPTX_TRY(check_key(r, parent, node));
  if (!grow((void **)&parent->items, parent->item_count, &parent->item_capacity, sizeof(sptx_yaml_node *)))
    return out_of_memory(r->error);
  parent->items[parent->item_count++] = node;
  return SPTX_CODE_OK;
}

/* Counts a closed or aliased node towards the collection that holds it. */
static enum sptx_code weigh(reader *r, const sptx_yaml_node *node, yaml_mark_t mark) {
  if (r->depth == 0)
    return SPTX_CODE_OK;
  sptx_yaml_node *parent = r->open[r->depth - 1];
  parent->weight += node->weight;
  if (parent->weight <= SPTX_YAML_MAX_NODES)
    return SPTX_CODE_OK;
  return sptx_fail_at(r->error, SPTX_CODE_PATTERN_LIMIT, place_of(r, mark),
                      "with its aliases written out the file has more than %d YAML nodes",
                      SPTX_YAML_MAX_NODES);
}

static enum sptx_code on_scalar(reader *r, const yaml_event_t *event) {
  const char *text = (const char *)event->data.scalar.value;
  size_t length = event->data.scalar.length;
  SPTX_TRY(refuse_tag(r, event, event->data.scalar.tag));
  sptx_yaml_node *node;
  SPTX_TRY(new_node(r, SPTX_YAML_SCALAR, event->start_mark, &node));
  yaml_scalar_style_t style = event->data.scalar.style;
  node->quoted = style == YAML_SINGLE_QUOTED_SCALAR_STYLE || style == YAML_DOUBLE_QUOTED_SCALAR_STYLE;
  node->one_line = event->start_mark.line == event->end_mark.line;
  node->place.column += node->quoted;
  if (memchr(text, 0, length))
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, node->place,
                        "a NUL character has no place in a pattern");
  node->text = malloc(length + 1);
  if (!node->text)
    return out_of_memory(r->error);
  memcpy(node->text, text, length);
  node->text[length] = 0;
  node->length = length;
  SPTX_TRY(add_anchor(r, event->data.scalar.anchor, node, true));
  SPTX_TRY(attach(r, node));
  return weigh(r, node, event->start_mark);
}

static enum sptx_code on_open(reader *r, const yaml_event_t *event, enum sptx_yaml_kind kind) {
  bool list = kind == SPTX_YAML_SEQUENCE;
  SPTX_TRY(refuse_tag(r, event, list ? event->data.sequence_start.tag : event->data.mapping_start.tag));
  if (r->depth == SPTX_YAML_MAX_DEPTH)
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_LIMIT, place_of(r, event->start_mark),
                        "a pattern file may nest at most %d lists and mappings", SPTX_YAML_MAX_DEPTH);
  sptx_yaml_node *node;
  SPTX_TRY(new_node(r, kind, event->start_mark, &node));
  SPTX_TRY(add_anchor(r, list ? event->data.sequence_start.anchor : event->data.mapping_start.anchor, node,
                      false));
  SPTX_TRY(attach(r, node));
  r->open[r->depth++] = node;
  return SPTX_CODE_OK;
}

static enum sptx_code on_close(reader *r, const yaml_event_t *event) {
  const sptx_yaml_node *node = r->open[--r->depth];
  for (size_t k = 0; k < r->anchor_count; k++)
    if (r->anchors[k].node == node)
      r->anchors[k].complete = true;
  return weigh(r, node, event->start_mark);
}

static enum sptx_code on_alias(reader *r, const yaml_event_t *event) {
  const char *name = (const char *)event->data.alias.anchor;
  sptx_place place = place_of(r, event->start_mark);
  for (size_t k = r->anchor_count; k-- > 0;) {
    const anchor *named = &r->anchors[k];
    if (strcmp(named->name, name) != 0)
      continue;
    if (!named->complete)
      return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, place,
                          "the alias '*%.64s' stands inside the node it names: recursion is not possible",
                          name);
    SPTX_TRY(attach(r, named->node));
    return weigh(r, named->node, event->start_mark);
  }
  return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, place, "no anchor '&%.64s' stands above this alias",
                      name);
}

static enum sptx_code on_event(reader *r, const yaml_event_t *event) {
  switch (event->type) {
  case YAML_SCALAR_EVENT:
    return on_scalar(r, event);
  case YAML_SEQUENCE_START_EVENT:
    return on_open(r, event, SPTX_YAML_SEQUENCE);
  case YAML_MAPPING_START_EVENT:
    return on_open(r, event, SPTX_YAML_MAPPING);
  case YAML_SEQUENCE_END_EVENT:
  case YAML_MAPPING_END_EVENT:
    return on_close(r, event);
  case YAML_ALIAS_EVENT:
    return on_alias(r, event);
  case YAML_DOCUMENT_START_EVENT:
    if (r->yaml->root)
      return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, place_of(r, event->start_mark),
                          "a pattern file holds one YAML document; remove the second");
    return SPTX_CODE_OK;
  default:
    return SPTX_CODE_OK;
  }
}

static enum sptx_code scan_failed(reader *r) {
  const yaml_parser_t *parser = &r->parser;
  if (parser->error == YAML_MEMORY_ERROR)
    return out_of_memory(r->error);
  const char *problem = parser->problem ? parser->problem : "not YAML";
  if (parser->error == YAML_READER_ERROR) /* libyaml gives only an offset here */
    return sptx_fail(r->error, SPTX_CODE_PATTERN_SYNTAX, "%s: byte %zu: expected UTF-8 text: %s", r->file,
                     parser->problem_offset, problem);
  return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, place_of(r, parser->problem_mark),
                      "expected YAML: %s%s%s", problem, parser->context ? " " : "",
                      parser->context ? parser->context : "");
}

static enum sptx_code read_events(reader *r) {
  for (bool more = true; more;) {
    yaml_event_t event;
    if (!yaml_parser_parse(&r->parser, &event))
      return scan_failed(r);
    more = event.type != YAML_STREAM_END_EVENT;
    enum sptx_code code = on_event(r, &event);
    yaml_event_delete(&event);
    SPTX_TRY(code);
  }
  if (!r->yaml->root)
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_SYNTAX, (sptx_place){r->file, 1, 1},
                        "expected a pattern, found an empty file");
  return SPTX_CODE_OK;
}

enum sptx_code sptx_yaml_parse(const char *text, size_t length, const char *file, sptx_yaml *yaml,
                               sptx_error *error) {
  *yaml = (sptx_yaml){0};
  if (length > SPTX_YAML_MAX_BYTES)
    return sptx_fail(error, SPTX_CODE_PATTERN_LIMIT,
                     "%s: a pattern file may have at most %d bytes; put a large layout into an .npy file",
                     file, SPTX_YAML_MAX_BYTES);
  reader r = {.file = file, .yaml = yaml, .error = error};
  if (!yaml_parser_initialize(&r.parser))
    return out_of_memory(error);
  yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, length);
  enum sptx_code code = read_events(&r);
  yaml_parser_delete(&r.parser);
  for (size_t k = 0; k < r.anchor_count; k++)
    free(r.anchors[k].name);
  free(r.anchors);
  if (code != SPTX_CODE_OK)
    sptx_yaml_clear(yaml);
  return code;
}

void sptx_yaml_clear(sptx_yaml *yaml) {
  for (size_t k = 0; k < yaml->node_count; k++) {
    free(yaml->nodes[k]->text);
    free(yaml->nodes[k]->items);
    free(yaml->nodes[k]);
  }
  free(yaml->nodes);
  *yaml = (sptx_yaml){0};
}

bool sptx_yaml_is(const sptx_yaml_node *node, const char *text) {
  return node->kind == SPTX_YAML_SCALAR && strcmp(node->text, text) == 0;
}

const sptx_yaml_node *sptx_yaml_get(const sptx_yaml_node *mapping, const char *key) {
  for (size_t k = 0; k + 1 < mapping->item_count; k += 2)
    if (sptx_yaml_is(mapping->items[k], key))
      return mapping->items[k + 1];
  return NULL;
}

const char *sptx_yaml_describe(const sptx_yaml_node *node) {
  switch (node->kind) {
  case SPTX_YAML_SEQUENCE:
    return node->item_count ? "a list" : "an empty list";
  case SPTX_YAML_MAPPING:
    return node->item_count ? "a mapping" : "an empty mapping";
  default:
    return node->length ? "a scalar" : "nothing";
  }
}

enum { LONGEST_NAME = 31 };

/* Levenshtein's distance of two short words. */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length) {
  size_t row[LONGEST_NAME + 1];
  for (size_t j = 0; j <= b_length; j++)
    row[j] = j;
  for (size_t i = 0; i < a_length; i++) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b_length; j++) {
      size_t replaced = diagonal + (tolower((unsigned char)a[i]) != b[j]);
      size_t shifted = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
      diagonal = row[j + 1];
      row[j + 1] = replaced < shifted ? replaced : shifted;
    }
  }
  return row[b_length];
}

const char *sptx_nearest_name(const char *word, const char *const *names, size_t count) {
  const char *nearest = NULL;
  size_t length = strlen(word), best = length / 3 + 2;
  for (size_t k = 0; k < count && length <= LONGEST_NAME; k++) {
    size_t name_length = strlen(names[k]);
    if (name_length == 0 || name_length > LONGEST_NAME)
      continue;
    size_t distance = edit_distance(word, length, names[k], name_length);
    if (distance < best && distance < name_length) {
      best = distance;
      nearest = names[k];
    }
  }
  return nearest;
}
