/* The compiler: every pass from the pattern's text to machine code, in order. In debug builds each pass's
 * guarantee is verified before the next one runs. */
#include "gen/compile.h"

#include "gen/machine.h"
#include "gen/problem.h"
#include "gen/verify.h"
#include <stdlib.h>
#include <string.h>

/* parse: requires a path; guarantees a pattern that is well formed, its parameters overridden. */
static enum sptx_code parse(sptx_compilation *c, sptx_error *error) {
  if (c->pattern)
    return SPTX_CODE_OK;
  SPTX_TRY(sptx_pattern_read(c->path, c->overrides, c->override_count, &c->parsed, error));
  c->pattern = c->parsed;
  return SPTX_CODE_OK;
}

/* check: requires a problem as the caller wrote it; guarantees one that kernels can do, with strides, and the
 * set of every head, all its expressions evaluated for this n. */
static enum sptx_code check(sptx_compilation *c, sptx_error *error) {
  SPTX_TRY(sptx_problem_check(&c->problem, error));
  return sptx_pattern_resolve(c->pattern, c->step, c->problem.heads, c->problem.n_q, c->problem.n_k,
                              &c->instance, error);
}

/* lower: requires the sets; guarantees for each class disjoint pieces whose union is the class's set. */
static enum sptx_code lower(sptx_compilation *c, sptx_error *error) {
  c->lists = calloc((size_t)c->instance.class_count, sizeof *c->lists);
  if (!c->lists)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the pieces of %d classes",
                     c->instance.class_count);
  for (int class_index = 0; class_index < c->instance.class_count; class_index++)
    SPTX_TRY(sptx_lower(&c->instance, class_index, &c->lists[class_index], error));
  return SPTX_CODE_OK;
}

/* schedule: requires pieces; guarantees launches whose items cover every piece's pairs, each with its
 * kernel's name and parameters. */
static enum sptx_code schedule(sptx_unit *u, sptx_error *error) {
  if (u->target->family == SPTX_FAMILY_PTX)
    return sptx_gpu_plan_create(u->problem, u->pass, u->target->ptx, u->lists, u->class_of_head, u->schedule,
                                &u->gpu, error);
  sptx_x86_schedule x86 = u->schedule ? *(const sptx_x86_schedule *)u->schedule : (sptx_x86_schedule){0};
  x86.isa = u->target->isa;
  return sptx_x86_plan_create(u->problem, u->pass, u->lists, u->class_of_head, &x86, &u->x86, error);
}

/* build: requires a plan; guarantees a valid module with one function for each distinct kernel of it, or for
 * the one kernel asked for. */
static enum sptx_code build(sptx_unit *u, sptx_error *error) {
  u->context = sptx_llvm_context_create(&u->diagnostic);
  if (u->gpu)
    return sptx_gpu_plan_build(u->gpu, u->context, &u->module, error);
  return sptx_x86_plan_build(u->x86, u->symbol, u->context, &u->module, error);
}

/* optimise: requires a valid module; guarantees the same functions, faster. PTX is optimised as it is
 * emitted. */
static enum sptx_code optimise(sptx_unit *u, sptx_error *error) {
  return u->gpu ? SPTX_CODE_OK : sptx_x86_optimise(u->module, error);
}

/* emit: requires a valid module; guarantees an object (or PTX text) that defines every kernel of the plan. */
static enum sptx_code emit(sptx_unit *u, sptx_error *error) {
  if (!u->gpu)
    return sptx_x86_emit(u->module, false, &u->code, &u->code_bytes, error);
  SPTX_TRY(sptx_ptx_emit(u->module, u->target->ptx, &u->code, error));
  u->code_bytes = strlen(u->code);
  return SPTX_CODE_OK;
}

static const struct compilation_pass {
  enum sptx_stage stage;
  enum sptx_code (*run)(sptx_compilation *, sptx_error *);
  enum sptx_code (*verify)(const sptx_compilation *, sptx_error *); /* the guarantee; NULL: nothing to add */
} compilation_passes[] = {
    {SPTX_STAGE_PARSE, parse, NULL},
    {SPTX_STAGE_CHECK, check, NULL},
    {SPTX_STAGE_LOWER, lower, sptx_verify_pieces},
};

static const struct unit_pass {
  enum sptx_stage stage;
  enum sptx_code (*run)(sptx_unit *, sptx_error *);
  enum sptx_code (*verify)(const sptx_unit *, sptx_error *);
} unit_passes[] = {
    {SPTX_STAGE_SCHEDULE, schedule, sptx_verify_plan},
    {SPTX_STAGE_BUILD, build, sptx_verify_module},
    {SPTX_STAGE_OPTIMISE, optimise, sptx_verify_module},
    {SPTX_STAGE_EMIT, emit, NULL},
};

#ifdef NDEBUG
#define VERIFY(pass, subject, error) SPTX_CODE_OK
#else
#define VERIFY(pass, subject, error) ((pass).verify ? (pass).verify((subject), (error)) : SPTX_CODE_OK)
#endif
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum sptx_code sptx_compile(sptx_compilation *compilation, enum sptx_stage until, sptx_error *error) {
  for (size_t i = 0; i < COUNT(compilation_passes) && compilation_passes[i].stage <= until; i++) {
    if (compilation_passes[i].stage <= compilation->done)
      continue;
    SPTX_TRY(compilation_passes[i].run(compilation, error));
    SPTX_TRY(VERIFY(compilation_passes[i], compilation, error));
    compilation->done = compilation_passes[i].stage;
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_compile_unit(sptx_unit *unit, enum sptx_stage until, sptx_error *error) {
  for (size_t i = 0; i < COUNT(unit_passes) && unit_passes[i].stage <= until; i++) {
    if (unit_passes[i].stage <= unit->done)
      continue;
    SPTX_TRY(unit_passes[i].run(unit, error));
    SPTX_TRY(VERIFY(unit_passes[i], unit, error));
    unit->done = unit_passes[i].stage;
  }
  return SPTX_CODE_OK;
}

void sptx_compilation_clear(sptx_compilation *compilation) {
  if (compilation->lists)
    for (int i = 0; i < compilation->instance.class_count; i++)
      sptx_piece_list_clear(&compilation->lists[i]);
  free(compilation->lists);
  sptx_instance_clear(&compilation->instance);
  sptx_pattern_release(compilation->parsed);
  *compilation = (sptx_compilation){0};
}

void sptx_unit_clear(sptx_unit *unit) {
  if (unit->module)
    LLVMDisposeModule(unit->module);
  if (unit->context)
    LLVMContextDispose(unit->context);
  sptx_x86_plan_free(unit->x86);
  sptx_gpu_plan_free(unit->gpu);
  free(unit->code);
  *unit = (sptx_unit){0};
}
