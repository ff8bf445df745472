/* Evaluates a pattern for one shape: params from the top, then each head's set. Requires a parsed pattern;
 * guarantees sets whose numbers are within their ranges, so that nothing later overflows or divides by zero.
 */
#include "patterns/spec.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The values of all variables while one head is resolved. */
typedef struct resolver {
  const sptx_pattern *pattern;
  sptx_scope scope;
  int64_t values[SPTX_MAX_VARS];
  int64_t *lists[SPTX_MAX_PARAMS]; /* of list parameters */
  int64_t bytes;                   /* of the lists and layouts made so far */
  sptx_error *error;
} resolver;

static enum sptx_code out_of_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory while a pattern is resolved");
}

static enum sptx_code eval_all(resolver *r, const sptx_integers *integers, int64_t **values) {
  *values = calloc((size_t)integers->count + 1, sizeof **values);
  if (!*values)
    return out_of_memory(r->error);
  for (int k = 0; k < integers->count; k++)
    SPTX_TRY(sptx_expr_eval(integers->exprs[k], r->values, &(*values)[k], r->error));
  return SPTX_CODE_OK;
}

static enum sptx_code eval_params(resolver *r) {
  for (int k = 0; k < r->pattern->param_count; k++) {
    const sptx_param *param = &r->pattern->params[k];
    if (param->is_list)
      SPTX_TRY(eval_all(r, &param->value, &r->lists[k]));
    else
      SPTX_TRY(sptx_expr_eval(param->value.exprs[0], r->values, &r->values[SPTX_VAR_PARAM + k], r->error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code check_range(resolver *r, const sptx_key *key, sptx_place place, int64_t value) {
  if (value >= key->low && value <= key->high)
    return SPTX_CODE_OK;
  return sptx_fail_at(r->error, SPTX_CODE_PATTERN_VALUE, place,
                      "`%s` expects %" PRId64 " to %" PRId64 ", found %" PRId64 " for n = %" PRId64,
                      key->name, key->low, key->high, value, r->scope.n);
}

/* *owned is an array that the caller frees, or NULL. */
static enum sptx_code eval_field(resolver *r, const sptx_key *key, const sptx_field *field, sptx_value *value,
                                 int64_t **owned) {
  const sptx_integers *integers = &field->integers;
  value->present = field->present;
  value->place = field->place;
  value->integer = field->word;
  value->cells = &field->cells;
  if (integers->list_param >= 0) {
    value->integers = r->lists[integers->list_param];
    value->count = r->pattern->params[integers->list_param].value.count;
  } else if (integers->count > 0) {
    SPTX_TRY(eval_all(r, integers, owned));
    value->integers = *owned;
    value->count = integers->count;
  }
  for (int k = 0; k < value->count; k++)
    SPTX_TRY(check_range(r, key, field->place, value->integers[k]));
  if (key->type == SPTX_KEY_INTEGER && value->count > 0)
    value->integer = value->integers[0];
  return SPTX_CODE_OK;
}

static enum sptx_code resolve_keys(resolver *r, const sptx_primitive *row, const sptx_spec *spec,
                                   sptx_set *set) {
  sptx_value values[SPTX_MAX_KEYS] = {{0}};
  int64_t *owned[SPTX_MAX_KEYS] = {NULL};
  enum sptx_code code = SPTX_CODE_OK;
  for (int k = 0; row->keys[k].name && code == SPTX_CODE_OK; k++)
    if (spec->fields[k].present)
      code = eval_field(r, &row->keys[k], &spec->fields[k], &values[k], &owned[k]);
  if (code == SPTX_CODE_OK)
    code = row->resolve(values, &r->scope, set, r->error);
  for (int k = 0; k < SPTX_MAX_KEYS; k++)
    free(owned[k]);
  SPTX_TRY(code);
  size_t bytes = 0;
  if (row->buffer)
    row->buffer(set, &bytes);
  r->bytes += (int64_t)bytes;
  if (r->bytes > SPTX_MAX_SET_BYTES)
    return sptx_fail_at(r->error, SPTX_CODE_PATTERN_LIMIT, spec->place,
                        "the lists and layouts of all heads together pass %" PRId64 " bytes",
                        SPTX_MAX_SET_BYTES);
  return SPTX_CODE_OK;
}

static enum sptx_code resolve_where(resolver *r, const sptx_spec *spec, sptx_set *set) {
  unsigned char known[SPTX_MAX_VARS];
  int remap[SPTX_MAX_VARS] = {[SPTX_VAR_QUERY] = SPTX_VARIABLE_QUERY, [SPTX_VAR_KEY] = SPTX_VARIABLE_KEY};
  memset(known, 1, sizeof known);
  known[SPTX_VAR_QUERY] = known[SPTX_VAR_KEY] = 0;
  return sptx_expr_substitute(spec->where, r->values, known, remap, &set->as.where.expr, r->error);
}

static enum sptx_code resolve_spec(resolver *r, const sptx_spec *spec, sptx_set **set);

static enum sptx_code resolve_content(resolver *r, const sptx_spec *spec, sptx_set *set) {
  if (spec->kind < SPTX_SET_ANY) {
    const sptx_primitive *row = sptx_primitive_of(spec->kind);
    if (row->syntax == SPTX_SYNTAX_KEYS)
      return resolve_keys(r, row, spec, set);
    return row->syntax == SPTX_SYNTAX_EXPRESSION ? resolve_where(r, spec, set) : SPTX_CODE_OK;
  }
  set->children = calloc((size_t)spec->child_count, sizeof *set->children);
  if (!set->children)
    return out_of_memory(r->error);
  set->child_count = spec->child_count;
  for (int k = 0; k < spec->child_count; k++)
    SPTX_TRY(resolve_spec(r, spec->children[k], &set->children[k]));
  return SPTX_CODE_OK;
}

static enum sptx_code resolve_spec(resolver *r, const sptx_spec *spec, sptx_set **set) {
  *set = NULL;
  sptx_set *made = calloc(1, sizeof *made);
  if (!made)
    return out_of_memory(r->error);
  made->kind = spec->kind;
  made->place = spec->place;
  enum sptx_code code = resolve_content(r, spec, made);
  if (code != SPTX_CODE_OK) {
    sptx_set_free(made);
    return code;
  }
  *set = made;
  return SPTX_CODE_OK;
}

/* Gives head the class of an equal set, or a new one; takes over set. */
static enum sptx_code classify(resolver *r, sptx_instance *instance, int64_t head, sptx_set *set) {
  for (int k = 0; k < instance->class_count; k++)
    if (sptx_set_equal(instance->classes[k], set)) {
      instance->class_of_head[head] = k;
      sptx_set_free(set);
      return SPTX_CODE_OK;
    }
  int count = instance->class_count;
  if ((count & (count - 1)) == 0) { /* capacity: the next power of two */
    sptx_set **wider = realloc(instance->classes, (count ? 2 * (size_t)count : 1) * sizeof *wider);
    if (!wider) {
      sptx_set_free(set);
      return out_of_memory(r->error);
    }
    instance->classes = wider;
  }
  instance->classes[count] = set;
  instance->class_of_head[head] = instance->class_count++;
  return SPTX_CODE_OK;
}

/* Heads take the groups in turn, each as often as it counts. */
static enum sptx_code resolve_heads(resolver *r, int first_group, int group_count, const int64_t *counts,
                                    sptx_instance *instance) {
  int64_t period = 0;
  for (int k = 0; k < group_count; k++)
    period += counts[k];
  for (int64_t head = 0; head < instance->heads; head++) {
    int64_t turn = head % period;
    int group = 0;
    while (turn >= counts[group])
      turn -= counts[group++];
    const sptx_spec *spec = r->pattern->groups[first_group + group].spec;
    int64_t before = turn > 0 ? head - 1 : head >= period ? head - period : -1;
    if (!spec->uses_head && before >= 0) { /* the same group resolved it before */
      instance->class_of_head[head] = instance->class_of_head[before];
      continue;
    }
    r->values[SPTX_VAR_HEAD] = head;
    sptx_set *set;
    SPTX_TRY(resolve_spec(r, spec, &set));
    SPTX_TRY(classify(r, instance, head, set));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code eval_counts(resolver *r, int64_t *counts) {
  static const sptx_key key = {.name = "count", .low = 1, .high = SPTX_MAX_HEADS};
  for (int k = 0; k < r->pattern->group_count; k++) {
    const sptx_expr *expr = r->pattern->groups[k].count;
    counts[k] = 1;
    if (!expr)
      continue;
    SPTX_TRY(sptx_expr_eval(expr, r->values, &counts[k], r->error));
    SPTX_TRY(check_range(r, &key, expr->place, counts[k]));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code resolve_all(resolver *r, size_t step, sptx_instance *instance) {
  SPTX_TRY(eval_params(r));
  instance->class_of_head = calloc((size_t)instance->heads, sizeof *instance->class_of_head);
  if (!instance->class_of_head)
    return out_of_memory(r->error);
  int64_t one = 1;
  if (r->pattern->interleaved)
    return resolve_heads(r, (int)step, 1, &one, instance);
  int64_t *counts = malloc((size_t)r->pattern->group_count * sizeof *counts);
  if (!counts)
    return out_of_memory(r->error);
  enum sptx_code code = eval_counts(r, counts);
  if (code == SPTX_CODE_OK)
    code = resolve_heads(r, 0, r->pattern->group_count, counts, instance);
  free(counts);
  return code;
}

enum sptx_code sptx_pattern_resolve(const sptx_pattern *pattern, size_t step, int64_t heads, int64_t n_q,
                                    int64_t n_k, sptx_instance *instance, sptx_error *error) {
  *instance = (sptx_instance){0};
  if (step >= sptx_pattern_step_count(pattern))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: step %zu is asked for, but the pattern has %zu",
                     pattern->name, step, sptx_pattern_step_count(pattern));
  if (heads < 1 || heads > SPTX_MAX_HEADS)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "the number of heads is 1 to %d, not %" PRId64,
                     SPTX_MAX_HEADS, heads);
  if (n_q < 1 || n_q > n_k || n_k > SPTX_MAX_POSITIONS)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "expected 1 <= queries <= keys <= %" PRId64 ", found %" PRId64 " queries and %" PRId64
                     " keys",
                     SPTX_MAX_POSITIONS, n_q, n_k);
  resolver r = {.pattern = pattern, .scope = {n_k, pattern->causal}, .error = error};
  r.values[SPTX_VAR_N] = n_k;
  instance->n_q = n_q;
  instance->n_k = n_k;
  instance->heads = heads;
  instance->causal = pattern->causal;
  enum sptx_code code = resolve_all(&r, step, instance);
  for (int k = 0; k < SPTX_MAX_PARAMS; k++)
    free(r.lists[k]);
  if (code != SPTX_CODE_OK)
    sptx_instance_clear(instance);
  return code;
}

void sptx_instance_clear(sptx_instance *instance) {
  for (int k = 0; k < instance->class_count; k++)
    sptx_set_free(instance->classes[k]);
  free(instance->classes);
  free(instance->class_of_head);
  *instance = (sptx_instance){0};
}

enum sptx_code sptx_instance_contains(const sptx_instance *instance, int64_t head, int64_t i, int64_t j,
                                      bool *contains, sptx_error *error) {
  *contains = false;
  int64_t position = instance->n_k - instance->n_q + i;
  if (instance->causal && j > position)
    return SPTX_CODE_OK;
  return sptx_set_contains(instance->classes[instance->class_of_head[head]], instance->n_k, position, j,
                           contains, error);
}
