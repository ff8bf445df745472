/* Steps found by name, resolved and lowered class by class. */
#include "patterns/step.h"
#include "patterns/yaml.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum sptx_code unknown_step(const sptx_pattern *pattern, const char *name, sptx_error *error) {
  size_t count = sptx_pattern_step_count(pattern);
  if (*sptx_pattern_step_name(pattern, 0) == 0)
    return sptx_fail(
        error, SPTX_CODE_INVALID_ARGUMENT,
        "%s: step '%.64s' is asked for, but the pattern does not interleave steps; leave --step out",
        sptx_pattern_name(pattern), name);
  char known[512] = "";
  size_t used = 0;
  for (size_t k = 0; k < count && used + 2 < sizeof known; k++)
    used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "",
                             sptx_pattern_step_name(pattern, k));
  return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: there is no step '%.64s'; the steps are %s",
                   sptx_pattern_name(pattern), name, known);
}

enum sptx_code sptx_step_select(const sptx_pattern *pattern, const char *name, size_t *first, size_t *count,
                                sptx_error *error) {
  size_t steps = sptx_pattern_step_count(pattern);
  *first = 0;
  *count = steps;
  if (!name)
    return SPTX_CODE_OK;
  for (size_t k = 0; k < steps; k++)
    if (*name && strcmp(sptx_pattern_step_name(pattern, k), name) == 0) {
      *first = k;
      *count = 1;
      return SPTX_CODE_OK;
    }
  return unknown_step(pattern, name, error);
}

enum sptx_code sptx_step_lower(const sptx_pattern *pattern, size_t index, const sptx_selection *selection,
                               sptx_step *step, sptx_error *error) {
  *step = (sptx_step){.name = sptx_pattern_step_name(pattern, index)};
  SPTX_TRY(sptx_pattern_resolve(pattern, index, selection->heads, selection->n_q, selection->n_k,
                                &step->instance, error));
  enum sptx_code code = SPTX_CODE_OK;
  step->classes = calloc((size_t)step->instance.class_count, sizeof *step->classes);
  if (!step->classes)
    code = sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the pieces of a step");
  for (int k = 0; k < step->instance.class_count && code == SPTX_CODE_OK; k++)
    code = sptx_lower(&step->instance, k, &step->classes[k], error);
  if (code != SPTX_CODE_OK)
    sptx_step_clear(step);
  return code;
}

void sptx_step_clear(sptx_step *step) {
  for (int k = 0; step->classes && k < step->instance.class_count; k++)
    sptx_piece_list_clear(&step->classes[k]);
  free(step->classes);
  sptx_instance_clear(&step->instance);
  *step = (sptx_step){0};
}

void sptx_step_print_heads(const sptx_instance *instance, int class_index, FILE *stream) {
  const char *comma = "";
  for (int64_t head = 0; head < instance->heads; head++) {
    if (instance->class_of_head[head] != class_index)
      continue;
    int64_t last = head;
    while (last + 1 < instance->heads && instance->class_of_head[last + 1] == class_index)
      last++;
    fprintf(stream, last > head ? "%s%" PRId64 "-%" PRId64 : "%s%" PRId64, comma, head, last);
    comma = ",";
    head = last;
  }
}
