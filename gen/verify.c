/* The verifiers between compiler passes; see verify.h. */
#include "gen/verify.h"

#include "gen/machine.h"
#include <inttypes.h>
#include <string.h>

/* Rows looked at: all of them up to this n, else so many keys in all, spread over the rows. */
enum { ALL_ROWS_LIMIT = 256, KEYS_LIMIT = 1 << 16 };

static int pieces_with(const sptx_piece_list *list, const sptx_instance *instance, int64_t i, int64_t j) {
  int found = 0;
  for (int p = 0; p < list->count; p++)
    found += sptx_piece_contains(&list->pieces[p], instance->n_q, instance->n_k, i, j);
  return found;
}

/* Looks at row i of a class; *pairs grows by its pairs. */
static enum sptx_code verify_row(const sptx_compilation *c, int64_t head, int64_t i, int64_t *pairs,
                                 sptx_error *error) {
  const sptx_instance *instance = &c->instance;
  const sptx_piece_list *list = &c->lists[instance->class_of_head[head]];
  for (int64_t j = 0; j < instance->n_k; j++) {
    bool expected;
    SPTX_TRY(sptx_instance_contains(instance, head, i, j, &expected, error));
    int found = pieces_with(list, instance, i, j);
    if (found != (int)expected)
      return sptx_fail(error, SPTX_CODE_COMPILE,
                       "lowering is wrong: head %" PRId64 ", query %" PRId64 ", key %" PRId64
                       " is %s the pattern but in %d pieces",
                       head, i, j, expected ? "in" : "not in", found);
    *pairs += expected;
  }
  return SPTX_CODE_OK;
}

static int64_t head_of_class(const sptx_instance *instance, int class_index) {
  int64_t head = 0;
  while (head < instance->heads && instance->class_of_head[head] != class_index)
    head++;
  return head;
}

static int64_t pairs_of(const sptx_piece_list *list) {
  int64_t pairs = 0;
  for (int p = 0; p < list->count; p++)
    pairs += list->pieces[p].pairs;
  return pairs;
}

enum sptx_code sptx_verify_pieces(const sptx_compilation *compilation, sptx_error *error) {
  const sptx_instance *instance = &compilation->instance;
  bool all = instance->n_k <= ALL_ROWS_LIMIT;
  int64_t rows = KEYS_LIMIT / instance->n_k + 1;
  int64_t step = all || rows >= instance->n_q ? 1 : instance->n_q / rows;
  for (int class_index = 0; class_index < instance->class_count; class_index++) {
    int64_t head = head_of_class(instance, class_index), pairs = 0;
    if (head == instance->heads)
      continue;
    for (int64_t i = instance->n_q - 1; i >= 0; i -= step)
      SPTX_TRY(verify_row(compilation, head, i, &pairs, error));
    int64_t claimed = pairs_of(&compilation->lists[class_index]);
    if (step == 1 && pairs != claimed)
      return sptx_fail(error, SPTX_CODE_COMPILE,
                       "lowering is wrong: class %d has %" PRId64 " pairs but its pieces claim %" PRId64,
                       class_index, pairs, claimed);
  }
  return SPTX_CODE_OK;
}

static int launch_count(const sptx_unit *unit) {
  return unit->gpu ? unit->gpu->launch_count : unit->x86->launch_count;
}

enum sptx_code sptx_verify_plan(const sptx_unit *unit, sptx_error *error) {
  int64_t expected = 0;
  for (int64_t head = 0; head < unit->problem->heads; head++)
    expected += pairs_of(&unit->lists[unit->class_of_head[head]]);
  expected *= unit->problem->batch;
  int64_t planned = unit->gpu ? unit->gpu->useful_pairs : unit->x86->useful_pairs;
  int64_t computed = unit->gpu ? unit->gpu->computed_pairs : unit->x86->computed_pairs;
  if (unit->pass != SPTX_PASS_DECODE && (planned != expected || computed < planned))
    return sptx_fail(error, SPTX_CODE_COMPILE,
                     "the plan is wrong: %" PRId64 " useful and %" PRId64
                     " computed pairs for pieces of %" PRId64,
                     planned, computed, expected);
  for (int i = 0; unit->x86 && i < launch_count(unit); i++)
    if (!unit->x86->launches[i].symbol[0] || unit->x86->launches[i].items < 1)
      return sptx_fail(error, SPTX_CODE_COMPILE, "the plan is wrong: launch %d has no kernel or no items", i);
  return SPTX_CODE_OK;
}

static const char *symbol_of(const sptx_unit *unit, int launch) {
  return unit->gpu ? unit->gpu->kernels[unit->gpu->launches[launch].kernel].symbol
                   : unit->x86->launches[launch].symbol;
}

enum sptx_code sptx_verify_module(const sptx_unit *unit, sptx_error *error) {
  SPTX_TRY(sptx_llvm_verify(unit->module, unit->done == SPTX_STAGE_BUILD ? "optimise" : "build", error));
  for (int i = 0; i < launch_count(unit); i++) {
    if (unit->symbol && strcmp(unit->symbol, symbol_of(unit, i)) != 0)
      continue;
    LLVMValueRef kernel = LLVMGetNamedFunction(unit->module, symbol_of(unit, i));
    if (!kernel || LLVMIsDeclaration(kernel))
      return sptx_fail(error, SPTX_CODE_COMPILE, "the module lacks the kernel '%s' of launch %d",
                       symbol_of(unit, i), i);
  }
  return SPTX_CODE_OK;
}
