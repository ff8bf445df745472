/* Wisdom as YAML, to carry from machine to machine: a list of entries under a version line. Every entry is
 * checked before the first is stored, and all are stored in one transaction. */
#include "runtime/wisdom.h"

#include "patterns/yaml.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The texts of an entry, in the order of the file. */
static const char *const text_names[] = {"piece", "shape", "element", "pass", "device", "schedule"};
enum { TEXTS = sizeof text_names / sizeof *text_names };

static const char **text_slot(sptx_wisdom_entry *entry, int index) {
  const char **slots[TEXTS] = {&entry->key.piece, &entry->key.shape,  &entry->key.element,
                               &entry->key.pass,  &entry->key.device, &entry->schedule};
  return slots[index];
}

static void write_quoted(const char *text, FILE *stream) {
  fputc('"', stream);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\')
      fprintf(stream, "\\%c", *c);
    else if (*c < 0x20)
      fprintf(stream, "\\x%02x", *c);
    else
      fputc(*c, stream);
  }
  fputc('"', stream);
}

static enum sptx_code write_entry(void *user, const sptx_wisdom_entry *entry, sptx_error *error) {
  FILE *stream = user;
  sptx_wisdom_entry copy = *entry;
  for (int k = 0; k < TEXTS; k++) {
    fprintf(stream, "%s%s: ", k == 0 ? "- " : "  ", text_names[k]);
    write_quoted(*text_slot(&copy, k), stream);
    fputc('\n', stream);
  }
  fprintf(stream, "  best_ms: %.6g\n  default_ms: %.6g\n", entry->best_ms, entry->default_ms);
  return ferror(stream) ? sptx_fail(error, SPTX_CODE_IO, "cannot write the wisdom: %s", strerror(errno))
                        : SPTX_CODE_OK;
}

enum sptx_code sptx_wisdom_export(sptx_wisdom *wisdom, FILE *stream, sptx_error *error) {
  fprintf(stream,
          "# Schedules that sptx measured; read with sptx-tune --import.\nsptx_wisdom: %d\nentries:\n",
          SPTX_WISDOM_GENERATOR);
  return sptx_wisdom_each(wisdom, write_entry, stream, error);
}

static enum sptx_code fail_at(const sptx_yaml_node *node, const char *expected, sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_FORMAT, "%s:%d:%d: expected %s, found %s", node->place.file,
                   node->place.line, node->place.column, expected, sptx_yaml_describe(node));
}

static enum sptx_code read_ms(const sptx_yaml_node *item, const char *name, double *ms, sptx_error *error) {
  const sptx_yaml_node *node = sptx_yaml_get(item, name);
  char *end = NULL;
  if (node && node->kind == SPTX_YAML_SCALAR)
    *ms = strtod(node->text, &end);
  if (!end || *end || end == node->text || !(*ms > 0))
    return fail_at(node ? node : item, "positive milliseconds in `best_ms` and `default_ms`", error);
  return SPTX_CODE_OK;
}

static enum sptx_code read_entry(const sptx_yaml_node *item, sptx_wisdom_entry *entry, sptx_error *error) {
  if (item->kind != SPTX_YAML_MAPPING)
    return fail_at(item, "an entry {piece, shape, element, pass, device, schedule, best_ms, default_ms}",
                   error);
  for (int k = 0; k < TEXTS; k++) {
    const sptx_yaml_node *node = sptx_yaml_get(item, text_names[k]);
    if (!node || node->kind != SPTX_YAML_SCALAR || node->length >= SPTX_WISDOM_TEXT)
      return fail_at(node ? node : item, "the texts piece, shape, element, pass, device and schedule", error);
    *text_slot(entry, k) = node->text;
  }
  SPTX_TRY(read_ms(item, "best_ms", &entry->best_ms, error));
  return read_ms(item, "default_ms", &entry->default_ms, error);
}

static enum sptx_code read_entries(const sptx_yaml *yaml, const char *file, sptx_wisdom *wisdom,
                                   int64_t *count, sptx_error *error) {
  const sptx_yaml_node *root = yaml->root;
  if (!root || root->kind != SPTX_YAML_MAPPING)
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: not a wisdom file; it starts with `sptx_wisdom:`", file);
  const sptx_yaml_node *version = sptx_yaml_get(root, "sptx_wisdom"), *list = sptx_yaml_get(root, "entries");
  if (!version || version->kind != SPTX_YAML_SCALAR || atoi(version->text) != SPTX_WISDOM_GENERATOR)
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: the wisdom is of another generator (this one is %d): tune again on this machine",
                     file, SPTX_WISDOM_GENERATOR);
  size_t entries = list && list->kind == SPTX_YAML_SEQUENCE ? list->item_count : 0;
  for (size_t k = 0; k < entries; k++) {
    sptx_wisdom_entry entry;
    SPTX_TRY(read_entry(list->items[k], &entry, error));
    SPTX_TRY(sptx_wisdom_record(wisdom, &entry, error));
    ++*count;
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_wisdom_import(sptx_wisdom *wisdom, const char *text, size_t length, const char *file,
                                  int64_t *count, sptx_error *error) {
  sptx_yaml yaml;
  *count = 0;
  SPTX_TRY(sptx_yaml_parse(text, length, file, &yaml, error));
  enum sptx_code code = sptx_wisdom_begin(wisdom, error);
  if (code == SPTX_CODE_OK) {
    code = read_entries(&yaml, file, wisdom, count, error);
    if (code == SPTX_CODE_OK)
      code = sptx_wisdom_commit(wisdom, error);
    if (code != SPTX_CODE_OK)
      sptx_wisdom_rollback(wisdom);
  }
  sptx_yaml_clear(&yaml);
  return code;
}
