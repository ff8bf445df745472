/* The compiler from a pattern to code, pass by pass; compile.c has the list. A compilation holds what belongs
 * to the pattern and the shape, a unit what belongs to one attention pass of it. Each keeps the result of
 * every compiler pass that it went through, for dumps and for callers that go on from there. */
#ifndef SPTX_GEN_COMPILE_H
#define SPTX_GEN_COMPILE_H

#include "gen/kernel.h"
#include "gen/ptx/plan.h"
#include "gen/targets.h"
#include "gen/x86/plan.h"
#include <llvm-c/Core.h>

enum sptx_stage {
  SPTX_STAGE_NONE,
  SPTX_STAGE_PARSE, /* of a compilation */
  SPTX_STAGE_CHECK,
  SPTX_STAGE_LOWER,
  SPTX_STAGE_SCHEDULE, /* of a unit */
  SPTX_STAGE_BUILD,
  SPTX_STAGE_OPTIMISE,
  SPTX_STAGE_EMIT,
};

/* Zero it, fill the first part, and call sptx_compile; sptx_compilation_clear frees the second part. */
typedef struct sptx_compilation {
  const char *path; /* the pattern's file; not read when pattern is given */
  const sptx_override *overrides;
  size_t override_count;
  const sptx_pattern *pattern; /* borrowed when given, else made by the pass "parse" */
  size_t step;
  sptx_problem problem;

  enum sptx_stage done;
  sptx_pattern *parsed;
  sptx_instance instance;
  sptx_piece_list *lists; /* one for each class of the instance */
} sptx_compilation;

/* The same for one attention pass on one target. The pieces are borrowed, and must be those of problem. */
typedef struct sptx_unit {
  const sptx_problem *problem;
  const sptx_piece_list *lists;
  const int *class_of_head;
  enum sptx_pass pass;
  const sptx_target *target;
  const char *symbol;   /* x86: of the one kernel to build, or NULL for all of the plan's */
  const void *schedule; /* sptx_x86_schedule or sptx_ptx_schedule of the target's family, or NULL: defaults */

  enum sptx_stage done;
  sptx_x86_plan *x86; /* the plan of the target's family; the other is NULL */
  sptx_gpu_plan *gpu;
  LLVMContextRef context;
  LLVMModuleRef module;
  sptx_error diagnostic; /* the context's */
  char *code;            /* an ELF object, or PTX text */
  size_t code_bytes;
} sptx_unit;

/* Runs the passes that are not done yet, up to and with `until`. A failure leaves what was done before it. */
enum sptx_code sptx_compile(sptx_compilation *compilation, enum sptx_stage until, sptx_error *error);
enum sptx_code sptx_compile_unit(sptx_unit *unit, enum sptx_stage until, sptx_error *error);
void sptx_compilation_clear(sptx_compilation *compilation);
void sptx_unit_clear(sptx_unit *unit);

#endif
