/* Reads a pattern file: its keys outside the sets, parameters and their overrides. Requires text; guarantees
 * a pattern whose every expression is parsed and uses only names that it may. */
#include "patterns/pattern.h"
#include "patterns/spec.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_NAME = 63, MAX_ABOUT = 4096 };

static enum sptx_code out_of_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory while a pattern is read");
}

static enum sptx_code wrong(sptx_parse *parse, const sptx_yaml_node *node, const char *expectation) {
  bool shown = node->kind == SPTX_YAML_SCALAR && node->length > 0;
  return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, node->place, "%s, found %s%.64s%s", expectation,
                      shown ? "'" : "", shown ? node->text : sptx_yaml_describe(node), shown ? "'" : "");
}

/* A letter, then letters, digits and '_': what an expression can name. */
static bool is_name(const char *text) {
  if (!isalpha((unsigned char)*text))
    return false;
  size_t length = 1;
  while (isalnum((unsigned char)text[length]) || text[length] == '_')
    length++;
  return text[length] == 0 && length <= MAX_NAME;
}

static int find_param(const sptx_pattern *pattern, const char *name) {
  for (int k = 0; k < pattern->param_count; k++)
    if (strcmp(pattern->params[k].name, name) == 0)
      return k;
  return -1;
}

static enum sptx_code check_param_name(sptx_parse *parse, const sptx_yaml_node *node) {
  static const char *const taken[] = {"n", "h", "i", "j"};
  if (!is_name(node->text))
    return wrong(parse, node, "a parameter's name is a letter, then at most 62 letters, digits and '_'");
  bool reserved = sptx_expr_is_function(node->text);
  for (size_t k = 0; k < sizeof taken / sizeof *taken; k++)
    reserved = reserved || strcmp(node->text, taken[k]) == 0;
  return reserved ? wrong(parse, node, "a parameter needs a name that the language does not use")
                  : SPTX_CODE_OK;
}

/* The value that stands in the file, or that of `--set`, in a list or as one integer as the file's own is. */
static enum sptx_code parse_param_value(sptx_parse *parse, const sptx_yaml_node *node, sptx_param *param) {
  char what[MAX_NAME + 32];
  snprintf(what, sizeof what, "the parameter '%s'", param->name);
  if (param->is_list)
    return sptx_parse_integers(parse, node, what, SPTX_NAMES_PARAM, false, &param->value);
  param->value.exprs = calloc(1, sizeof *param->value.exprs);
  if (!param->value.exprs)
    return out_of_memory(parse->error);
  param->value.place = node->place;
  param->value.count = 1;
  return sptx_parse_expr(parse, node, what, SPTX_NAMES_PARAM, &param->value.exprs[0]);
}

/* The last override of a name counts. Its text is YAML: an expression, or [..] for a list. */
static enum sptx_code parse_override(sptx_parse *parse, const sptx_override *override, sptx_param *param) {
  size_t size = strlen(param->name) + sizeof "--set ";
  param->source = malloc(size);
  if (!param->source)
    return out_of_memory(parse->error);
  snprintf(param->source, size, "--set %s", param->name);
  sptx_yaml yaml;
  SPTX_TRY(sptx_yaml_parse(override->value, strlen(override->value), param->source, &yaml, parse->error));
  enum sptx_code code = parse_param_value(parse, yaml.root, param);
  sptx_yaml_clear(&yaml);
  return code;
}

static enum sptx_code parse_param(sptx_parse *parse, const sptx_yaml_node *key, const sptx_yaml_node *value,
                                  const sptx_override *override) {
  SPTX_TRY(check_param_name(parse, key));
  sptx_param param = {.is_list = value->kind == SPTX_YAML_SEQUENCE, .value.list_param = -1};
  SPTX_TRY(sptx_copy_text(key->text, &param.name, parse->error));
  enum sptx_code code = parse_param_value(parse, value, &param); /* also checked when it is overridden */
  if (code == SPTX_CODE_OK && override) {
    sptx_integers_clear(&param.value);
    code = parse_override(parse, override, &param);
  }
  /* Known to the file from here on; freed with the pattern, also after a failure. */
  parse->pattern->params[parse->pattern->param_count++] = param;
  return code;
}

static enum sptx_code parse_params(sptx_parse *parse, const sptx_yaml_node *node,
                                   const sptx_override *overrides, size_t override_count) {
  if (!node)
    return SPTX_CODE_OK;
  if (node->kind != SPTX_YAML_MAPPING)
    return wrong(parse, node, "`params` expects a mapping of names to integers");
  size_t count = node->item_count / 2;
  if (count > SPTX_MAX_PARAMS)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_LIMIT, node->place,
                        "a pattern may have at most %d params", SPTX_MAX_PARAMS);
  parse->pattern->params = calloc(count + 1, sizeof *parse->pattern->params);
  if (!parse->pattern->params)
    return out_of_memory(parse->error);
  for (size_t k = 0; k < count; k++) {
    const sptx_override *override = NULL;
    for (size_t o = 0; o < override_count; o++)
      if (sptx_yaml_is(node->items[2 * k], overrides[o].name))
        override = &overrides[o];
    SPTX_TRY(parse_param(parse, node->items[2 * k], node->items[2 * k + 1], override));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code check_overrides(sptx_parse *parse, const sptx_override *overrides,
                                      size_t override_count) {
  const char *names[SPTX_MAX_PARAMS];
  for (int k = 0; k < parse->pattern->param_count; k++)
    names[k] = parse->pattern->params[k].name;
  for (size_t k = 0; k < override_count; k++) {
    if (find_param(parse->pattern, overrides[k].name) >= 0)
      continue;
    sptx_place place = {"--set", 1, 1};
    return sptx_unknown_word(parse->error, place, "parameter", overrides[k].name, names,
                             (size_t)parse->pattern->param_count);
  }
  return SPTX_CODE_OK;
}

static enum sptx_code parse_version(sptx_parse *parse, const sptx_yaml_node *root) {
  const sptx_yaml_node *node = sptx_yaml_get(root, "sptx");
  if (!node)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, root->place,
                        "a pattern file expects the key 'sptx', the version of its language: write sptx: 1");
  return sptx_yaml_is(node, "1") ? SPTX_CODE_OK
                                 : wrong(parse, node, "`sptx` expects 1, the only version there is");
}

/* name, or the file's own name without folder and ending. */
static enum sptx_code parse_name(sptx_parse *parse, const sptx_yaml_node *node) {
  if (node) {
    bool printable = node->kind == SPTX_YAML_SCALAR && node->length > 0 && node->length <= MAX_NAME;
    for (size_t k = 0; printable && k < node->length; k++)
      printable = isalnum((unsigned char)node->text[k]) || strchr("_-.", node->text[k]);
    if (!printable)
      return wrong(parse, node, "`name` expects 1 to 63 letters, digits, '-', '_' and '.'");
    return sptx_copy_text(node->text, &parse->pattern->name, parse->error);
  }
  const char *slash = strrchr(parse->pattern->file, '/');
  SPTX_TRY(sptx_copy_text(slash ? slash + 1 : parse->pattern->file, &parse->pattern->name, parse->error));
  char *dot = strrchr(parse->pattern->name, '.');
  if (dot && dot != parse->pattern->name)
    *dot = 0;
  return SPTX_CODE_OK;
}

static enum sptx_code parse_about(sptx_parse *parse, const sptx_yaml_node *node) {
  if (node && (node->kind != SPTX_YAML_SCALAR || node->length > MAX_ABOUT))
    return wrong(parse, node, "`about` expects a text of at most 4096 characters");
  return sptx_copy_text(node ? node->text : "", &parse->pattern->about, parse->error);
}

static enum sptx_code parse_causal(sptx_parse *parse, const sptx_yaml_node *node) {
  if (!node)
    return SPTX_CODE_OK;
  parse->pattern->causal = sptx_yaml_is(node, "true");
  if (!node->quoted && (parse->pattern->causal || sptx_yaml_is(node, "false")))
    return SPTX_CODE_OK;
  return wrong(parse, node, "`causal` expects true or false");
}

static enum sptx_code make_groups(sptx_parse *parse, size_t count) {
  parse->pattern->groups = calloc(count, sizeof *parse->pattern->groups);
  if (!parse->pattern->groups)
    return out_of_memory(parse->error);
  parse->pattern->group_count = (int)count;
  return SPTX_CODE_OK;
}

static enum sptx_code parse_attend(sptx_parse *parse, const sptx_yaml_node *node) {
  SPTX_TRY(make_groups(parse, 1));
  return sptx_spec_parse(parse, node, &parse->pattern->groups[0].spec);
}

static enum sptx_code parse_heads(sptx_parse *parse, const sptx_yaml_node *node) {
  static const char *const keys[] = {"attend", "count"};
  if (node->kind != SPTX_YAML_SEQUENCE || node->item_count == 0)
    return wrong(parse, node, "`heads` expects a list of {attend: SET, count: m}");
  SPTX_TRY(make_groups(parse, node->item_count));
  for (size_t k = 0; k < node->item_count; k++) {
    const sptx_yaml_node *item = node->items[k];
    sptx_group *group = &parse->pattern->groups[k];
    SPTX_TRY(sptx_check_keys(parse, item, "an entry of `heads`", keys, 2));
    const sptx_yaml_node *attend = sptx_yaml_get(item, "attend"), *count = sptx_yaml_get(item, "count");
    if (!attend)
      return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, item->place,
                          "an entry of `heads` expects the key 'attend'");
    SPTX_TRY(sptx_spec_parse(parse, attend, &group->spec));
    if (count)
      SPTX_TRY(sptx_parse_expr(parse, count, "`count`", SPTX_NAMES_PARAM, &group->count));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code unknown_step(sptx_parse *parse, const sptx_yaml_node *node) {
  const char *names[SPTX_YAML_MAX_KEYS];
  for (int k = 0; k < parse->pattern->group_count; k++)
    names[k] = parse->pattern->groups[k].name;
  if (node->kind != SPTX_YAML_SCALAR)
    return wrong(parse, node, "`interleave` expects the names of steps");
  return sptx_unknown_word(parse->error, node->place, "step", node->text, names,
                           (size_t)parse->pattern->group_count);
}

static enum sptx_code parse_order(sptx_parse *parse, const sptx_yaml_node *node) {
  sptx_pattern *pattern = parse->pattern;
  bool listed = node && node->item_count > 0;
  if (node && (node->kind != SPTX_YAML_SEQUENCE || !listed))
    return wrong(parse, node, "`interleave` expects a list of steps");
  int count = listed ? (int)node->item_count : pattern->group_count;
  pattern->order = calloc((size_t)count, sizeof *pattern->order);
  if (!pattern->order)
    return out_of_memory(parse->error);
  pattern->order_count = count;
  for (int k = 0; k < count; k++) {
    int step = listed ? 0 : k;
    while (listed && step < pattern->group_count && !sptx_yaml_is(node->items[k], pattern->groups[step].name))
      step++;
    if (step == pattern->group_count)
      return unknown_step(parse, node->items[k]);
    pattern->order[k] = step;
  }
  pattern->interleaved = true;
  return SPTX_CODE_OK;
}

/* All steps in one set. */
static enum sptx_code merge_steps(sptx_parse *parse, sptx_place place) {
  sptx_pattern *pattern = parse->pattern;
  sptx_spec *all = calloc(1, sizeof *all);
  if (!all)
    return out_of_memory(parse->error);
  all->kind = SPTX_SET_ANY;
  all->place = place;
  all->children = calloc((size_t)pattern->group_count, sizeof *all->children);
  if (!all->children) {
    free(all);
    return out_of_memory(parse->error);
  }
  all->child_count = pattern->group_count;
  for (int k = 0; k < pattern->group_count; k++) {
    all->children[k] = pattern->groups[k].spec;
    all->uses_head = all->uses_head || all->children[k]->uses_head;
    free(pattern->groups[k].name);
    pattern->groups[k] = (sptx_group){0};
  }
  pattern->groups[0].spec = all;
  pattern->group_count = 1;
  return SPTX_CODE_OK;
}

static enum sptx_code parse_use(sptx_parse *parse, const sptx_yaml_node *node, const sptx_yaml_node *steps) {
  static const char *const ways[] = {"interleave", "merge", "heads"};
  if (!node)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, steps->place,
                        "`steps` expects the key 'use' beside it: interleave, merge or heads");
  if (node->kind == SPTX_YAML_MAPPING) {
    SPTX_TRY(sptx_check_keys(parse, node, "`use`", ways, 1));
    return node->item_count ? parse_order(parse, node->items[1])
                            : wrong(parse, node, "`use` expects interleave, merge or heads");
  }
  if (sptx_yaml_is(node, ways[0]))
    return parse_order(parse, NULL);
  if (sptx_yaml_is(node, ways[1]))
    return merge_steps(parse, steps->place);
  if (sptx_yaml_is(node, ways[2]))
    return SPTX_CODE_OK;
  return sptx_unknown_word(parse->error, node->place, "way to use steps",
                           node->text ? node->text : "(a list)", ways, 3);
}

static enum sptx_code parse_steps(sptx_parse *parse, const sptx_yaml_node *node, const sptx_yaml_node *use) {
  if (node->kind != SPTX_YAML_MAPPING || node->item_count == 0)
    return wrong(parse, node, "`steps` expects a mapping of names to sets");
  SPTX_TRY(make_groups(parse, node->item_count / 2));
  for (int k = 0; k < parse->pattern->group_count; k++) {
    const sptx_yaml_node *name = node->items[2 * k];
    if (!is_name(name->text))
      return wrong(parse, name, "a step's name is a letter, then at most 62 letters, digits and '_'");
    SPTX_TRY(sptx_copy_text(name->text, &parse->pattern->groups[k].name, parse->error));
    SPTX_TRY(sptx_spec_parse(parse, node->items[2 * k + 1], &parse->pattern->groups[k].spec));
  }
  return parse_use(parse, use, node);
}

static enum sptx_code parse_sets(sptx_parse *parse, const sptx_yaml_node *root) {
  const sptx_yaml_node *attend = sptx_yaml_get(root, "attend"), *heads = sptx_yaml_get(root, "heads");
  const sptx_yaml_node *steps = sptx_yaml_get(root, "steps"), *use = sptx_yaml_get(root, "use");
  if (!!attend + !!heads + !!steps != 1)
    return sptx_fail_at(parse->error, SPTX_CODE_PATTERN_VALUE, root->place,
                        "a pattern file expects one of the keys 'attend', 'heads' and 'steps', found %s",
                        attend || heads || steps ? "more than one" : "none");
  if (use && !steps)
    return wrong(parse, use, "`use` goes with `steps`, which is not there");
  return attend  ? parse_attend(parse, attend)
         : heads ? parse_heads(parse, heads)
                 : parse_steps(parse, steps, use);
}

static enum sptx_code parse_root(sptx_parse *parse, const sptx_yaml_node *root,
                                 const sptx_override *overrides, size_t override_count) {
  static const char *const keys[] = {"sptx",   "name",  "about", "params", "causal",
                                     "attend", "heads", "steps", "use"};
  SPTX_TRY(sptx_check_keys(parse, root, "a pattern file", keys, sizeof keys / sizeof *keys));
  SPTX_TRY(parse_version(parse, root));
  SPTX_TRY(parse_name(parse, sptx_yaml_get(root, "name")));
  SPTX_TRY(parse_about(parse, sptx_yaml_get(root, "about")));
  SPTX_TRY(parse_causal(parse, sptx_yaml_get(root, "causal")));
  SPTX_TRY(parse_params(parse, sptx_yaml_get(root, "params"), overrides, override_count));
  SPTX_TRY(check_overrides(parse, overrides, override_count));
  return parse_sets(parse, root);
}

enum sptx_code sptx_pattern_parse(const char *text, size_t length, const char *file,
                                  const sptx_override *overrides, size_t override_count,
                                  sptx_pattern **pattern, sptx_error *error) {
  *pattern = NULL;
  sptx_pattern *made = calloc(1, sizeof *made);
  if (!made)
    return out_of_memory(error);
  sptx_parse parse = {.pattern = made, .error = error};
  sptx_yaml yaml = {0};
  enum sptx_code code;
  SPTX_TRY_GOTO(sptx_copy_text(file, &made->file, error), failed);
  SPTX_TRY_GOTO(sptx_yaml_parse(text, length, made->file, &yaml, error), failed);
  SPTX_TRY_GOTO(parse_root(&parse, yaml.root, overrides, override_count), failed);
  sptx_yaml_clear(&yaml);
  *pattern = made;
  return SPTX_CODE_OK;
failed:
  sptx_yaml_clear(&yaml);
  sptx_pattern_release(made);
  return code;
}

enum sptx_code sptx_pattern_read(const char *path, const sptx_override *overrides, size_t override_count,
                                 sptx_pattern **pattern, sptx_error *error) {
  *pattern = NULL;
  FILE *file = fopen(path, "rbe");
  if (!file)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot open: %s", path, strerror(errno));
  char *text = malloc(SPTX_YAML_MAX_BYTES + 1); /* one more than is allowed tells that there is more */
  enum sptx_code code = SPTX_CODE_OK;
  size_t length = text ? fread(text, 1, SPTX_YAML_MAX_BYTES + 1, file) : 0;
  if (!text)
    code = out_of_memory(error);
  else if (ferror(file))
    code = sptx_fail(error, SPTX_CODE_IO, "%s: cannot read: %s", path, strerror(errno));
  fclose(file);
  if (code == SPTX_CODE_OK)
    code = sptx_pattern_parse(text, length, path, overrides, override_count, pattern, error);
  free(text);
  return code;
}

void sptx_pattern_release(sptx_pattern *pattern) {
  if (!pattern)
    return;
  for (int k = 0; k < pattern->param_count; k++) {
    free(pattern->params[k].name);
    free(pattern->params[k].source);
    sptx_integers_clear(&pattern->params[k].value);
  }
  for (int k = 0; k < pattern->group_count; k++) {
    free(pattern->groups[k].name);
    sptx_expr_free(pattern->groups[k].count);
    sptx_spec_free(pattern->groups[k].spec);
  }
  free(pattern->params);
  free(pattern->groups);
  free(pattern->order);
  free(pattern->file);
  free(pattern->name);
  free(pattern->about);
  free(pattern);
}

const char *sptx_pattern_name(const sptx_pattern *pattern) {
  return pattern->name;
}

const char *sptx_pattern_about(const sptx_pattern *pattern) {
  return pattern->about;
}

size_t sptx_pattern_step_count(const sptx_pattern *pattern) {
  return pattern->interleaved ? (size_t)pattern->group_count : 1;
}

const char *sptx_pattern_step_name(const sptx_pattern *pattern, size_t step) {
  bool named = pattern->interleaved && step < (size_t)pattern->group_count;
  return named ? pattern->groups[step].name : "";
}

size_t sptx_pattern_layer_step(const sptx_pattern *pattern, int64_t layer) {
  return pattern->interleaved ? (size_t)pattern->order[sptx_floor_mod(layer, pattern->order_count)] : 0;
}

size_t sptx_pattern_layer_period(const sptx_pattern *pattern) {
  return pattern->interleaved ? (size_t)pattern->order_count : 1;
}
