/* Reads a sweep file and multiplies its lists out; see sweep.h. */
#include "tuner/sweep.h"

#include "gen/problem.h"
#include "tuner/text_file.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *const keys[] = {"pattern",  "n",        "n_q",   "batch", "heads",
                                   "kv_heads", "head_dim", "dtype", "pass",  "set"};
enum { PATTERN, N, N_Q, BATCH, HEADS, KV_HEADS, HEAD_DIM, DTYPE, PASS, SET, KEYS };

static enum sptx_code fail_at(const sptx_yaml_node *node, const char *expected, sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_PATTERN_VALUE, "%s:%d:%d: expected %s, found %s", node->place.file,
                   node->place.line, node->place.column, expected, sptx_yaml_describe(node));
}

/* The values of a key: a list's items, or the one value. */
static size_t value_count(const sptx_yaml_node *node) {
  return !node ? 1 : node->kind == SPTX_YAML_SEQUENCE ? node->item_count : 1;
}

static const sptx_yaml_node *value_at(const sptx_yaml_node *node, size_t index) {
  return node && node->kind == SPTX_YAML_SEQUENCE ? node->items[index] : node;
}

static enum sptx_code read_count(const sptx_yaml_node *node, int64_t *value, sptx_error *error) {
  char *end = NULL;
  errno = 0;
  long long number = node->kind == SPTX_YAML_SCALAR ? strtoll(node->text, &end, 10) : 0;
  if (!end || end == node->text || *end || errno || number < 1 || number > INT64_C(1) << 40)
    return fail_at(node, "a number from 1 on", error);
  *value = number;
  return SPTX_CODE_OK;
}

static enum sptx_code read_element(const sptx_yaml_node *node, sptx_dtype *type, sptx_error *error) {
  for (int t = SPTX_F32; t <= SPTX_BF16; t++)
    if (sptx_yaml_is(node, sptx_element_name((enum sptx_element)t))) {
      *type = (sptx_dtype)t;
      return SPTX_CODE_OK;
    }
  return fail_at(node, "f32, f16 or bf16", error);
}

static enum sptx_code read_pass(const sptx_yaml_node *node, bool passes[SPTX_BENCH_PASSES],
                                sptx_error *error) {
  for (int pass = 0; pass < SPTX_BENCH_PASSES; pass++)
    if (sptx_yaml_is(node, sptx_pass_name((enum sptx_pass)pass))) {
      passes[pass] = true;
      return SPTX_CODE_OK;
    }
  return fail_at(node, "forward or backward", error);
}

static enum sptx_code check_keys(const sptx_yaml_node *entry, sptx_error *error) {
  if (entry->kind != SPTX_YAML_MAPPING)
    return fail_at(entry, "an entry {pattern, n, ...}", error);
  for (size_t k = 0; k < entry->item_count; k += 2) {
    size_t known = 0;
    while (known < KEYS && !sptx_yaml_is(entry->items[k], keys[known]))
      known++;
    const char *near = known == KEYS ? sptx_nearest_name(entry->items[k]->text, keys, KEYS) : NULL;
    if (known == KEYS)
      return sptx_fail(error, SPTX_CODE_PATTERN_VALUE, "%s:%d:%d: unknown key '%s'%s%s%s",
                       entry->items[k]->place.file, entry->items[k]->place.line,
                       entry->items[k]->place.column, entry->items[k]->text, near ? "; did you mean '" : "",
                       near ? near : "", near ? "'?" : "");
  }
  for (int k = PATTERN; k <= N; k++)
    if (!sptx_yaml_get(entry, keys[k]))
      return sptx_fail(error, SPTX_CODE_PATTERN_VALUE, "%s:%d:%d: the entry lacks '%s'", entry->place.file,
                       entry->place.line, entry->place.column, keys[k]);
  return SPTX_CODE_OK;
}

/* A path beside the sweep file. */
static char *beside(const char *file, const char *path) {
  const char *slash = strrchr(file, '/');
  char *joined = NULL;
  int length = path[0] == '/' || !slash ? 0 : (int)(slash - file) + 1;
  return asprintf(&joined, "%.*s%s", length, file, path) < 0 ? NULL : joined;
}

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the sweep");
}

static enum sptx_code keep_path(sptx_sweep *sweep, const sptx_yaml_node *node, const char **path,
                                sptx_error *error) {
  if (node->kind != SPTX_YAML_SCALAR || !node->text[0])
    return fail_at(node, "a pattern file", error);
  char **grown = realloc(sweep->texts, (sweep->text_count + 1) * sizeof *grown);
  if (!grown)
    return no_memory(error);
  sweep->texts = grown;
  char *joined = beside(sweep->file, node->text);
  if (!joined)
    return no_memory(error);
  *path = grown[sweep->text_count++] = joined;
  return SPTX_CODE_OK;
}

static enum sptx_code keep_params(sptx_sweep *sweep, const sptx_yaml_node *set, sptx_bench_request *shape,
                                  sptx_error *error) {
  if (!set)
    return SPTX_CODE_OK;
  if (set->kind != SPTX_YAML_MAPPING)
    return fail_at(set, "parameters {name: value}", error);
  sptx_param **grown = realloc(sweep->params, (sweep->param_lists + 1) * sizeof *grown);
  if (!grown)
    return no_memory(error);
  sweep->params = grown;
  sptx_param *list = grown[sweep->param_lists] = calloc(set->item_count / 2 + 1, sizeof *list);
  if (!list)
    return no_memory(error);
  sweep->param_lists++;
  for (size_t k = 0; k < set->item_count; k += 2) {
    if (set->items[k + 1]->kind != SPTX_YAML_SCALAR)
      return fail_at(set->items[k + 1], "a value", error);
    list[k / 2] = (sptx_param){set->items[k]->text, set->items[k + 1]->text};
  }
  shape->params = list;
  shape->param_count = set->item_count / 2;
  return SPTX_CODE_OK;
}

/* The shape at one combination of the entry's lists. All passes of a shape are one item. */
static enum sptx_code read_shape(const sptx_yaml_node *const values[KEYS], const sptx_yaml_node *passes,
                                 sptx_bench_request *shape, sptx_error *error) {
  int64_t *const numbers[] = {
      [N] = &shape->n_k,       [N_Q] = &shape->n_q,           [BATCH] = &shape->batch,
      [HEADS] = &shape->heads, [KV_HEADS] = &shape->kv_heads, [HEAD_DIM] = &shape->head_dim};
  shape->n_q = shape->kv_heads = 0;
  for (int k = N; k <= HEAD_DIM; k++)
    if (values[k])
      SPTX_TRY(read_count(values[k], numbers[k], error));
  shape->n_q = shape->n_q ? shape->n_q : shape->n_k;
  shape->kv_heads = shape->kv_heads ? shape->kv_heads : shape->heads;
  if (shape->heads % shape->kv_heads)
    return fail_at(values[KV_HEADS], "a divisor of heads", error);
  if (values[DTYPE])
    SPTX_TRY(read_element(values[DTYPE], &shape->dtype, error));
  if (passes)
    memset(shape->passes, 0, sizeof shape->passes);
  for (size_t k = 0; passes && k < value_count(passes); k++)
    SPTX_TRY(read_pass(value_at(passes, k), shape->passes, error));
  return SPTX_CODE_OK;
}

static enum sptx_code add_entry(sptx_sweep *sweep, const sptx_yaml_node *entry,
                                const sptx_bench_request *defaults, sptx_error *error) {
  const sptx_yaml_node *lists[KEYS], *values[KEYS];
  sptx_bench_request base = *defaults;
  size_t combinations = 1;
  SPTX_TRY(check_keys(entry, error));
  for (int k = 0; k < KEYS; k++) {
    lists[k] = sptx_yaml_get(entry, keys[k]);
    if (k < PASS)
      combinations *= value_count(lists[k]);
    if (combinations == 0 || combinations > SPTX_SWEEP_MOST - sweep->count)
      return fail_at(lists[k], "lists that are not empty, of at most 100000 shapes in all", error);
  }
  SPTX_TRY(keep_params(sweep, lists[SET], &base, error));
  sptx_sweep_item *grown = realloc(sweep->items, (sweep->count + combinations) * sizeof *grown);
  if (!grown)
    return no_memory(error);
  sweep->items = grown;
  for (size_t c = 0; c < combinations; c++) {
    size_t rest = c;
    sptx_bench_request shape = base;
    for (int k = PASS - 1; k >= 0; k--) {
      values[k] = value_at(lists[k], rest % value_count(lists[k]));
      rest /= value_count(lists[k]);
    }
    SPTX_TRY(read_shape(values, lists[PASS], &shape, error));
    SPTX_TRY(keep_path(sweep, values[PATTERN], &shape.pattern_path, error));
    sweep->items[sweep->count++].shape = shape;
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_sweep_read(const char *path, const sptx_bench_request *defaults, sptx_sweep *sweep,
                               sptx_error *error) {
  char *text = NULL;
  size_t length;
  *sweep = (sptx_sweep){.file = strdup(path)};
  if (!sweep->file)
    return no_memory(error);
  SPTX_TRY(sptx_text_file_read(path, &text, &length, error));
  enum sptx_code code = sptx_yaml_parse(text, length, sweep->file, &sweep->yaml, error);
  free(text);
  if (code != SPTX_CODE_OK)
    return code;
  const sptx_yaml_node *root = sweep->yaml.root;
  const sptx_yaml_node *version =
      root && root->kind == SPTX_YAML_MAPPING ? sptx_yaml_get(root, "sptx_sweep") : NULL;
  if (!version || !sptx_yaml_is(version, "1"))
    return sptx_fail(error, SPTX_CODE_PATTERN_VALUE, "%s: not a sweep: it starts with `sptx_sweep: 1`", path);
  const sptx_yaml_node *list = sptx_yaml_get(root, "tune");
  if (!list || list->kind != SPTX_YAML_SEQUENCE || list->item_count == 0)
    return fail_at(list ? list : root, "a list `tune:` of entries", error);
  for (size_t k = 0; k < list->item_count; k++)
    SPTX_TRY(add_entry(sweep, list->items[k], defaults, error));
  return SPTX_CODE_OK;
}

void sptx_sweep_clear(sptx_sweep *sweep) {
  for (size_t k = 0; k < sweep->text_count; k++)
    free(sweep->texts[k]);
  for (size_t k = 0; k < sweep->param_lists; k++)
    free(sweep->params[k]);
  free(sweep->texts);
  free(sweep->params);
  free(sweep->items);
  free(sweep->file);
  sptx_yaml_clear(&sweep->yaml);
  *sweep = (sptx_sweep){0};
}
