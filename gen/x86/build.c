/* From a plan to a module: the table of kernel families, and one kernel for each distinct symbol. */
#include "gen/x86/forward.h"
#include "gen/x86/pairs.h"

#include <llvm-c/Analysis.h>
#include <stdio.h>
#include <string.h>

static const struct {
  const char *name;
  void (*emit)(sptx_x86_emitter *e, const char *symbol);
} families[] = {
    [SPTX_X86_FORWARD] = {"forward", sptx_x86_emit_forward},
    [SPTX_X86_DECODE] = {"decode", sptx_x86_emit_forward},
    [SPTX_X86_PREPARE] = {"prepare", sptx_x86_emit_prepare},
    [SPTX_X86_BACKWARD] = {"backward", sptx_x86_emit_backward},
    [SPTX_X86_FINISH] = {"finish", sptx_x86_emit_finish},
};

const char *sptx_x86_family_name(enum sptx_x86_family family) {
  return families[family].name;
}

static void emit_kernel(LLVMModuleRef module, const sptx_x86_shape *shape, const char *symbol,
                        enum sptx_x86_commons commons, enum sptx_x86_mutant mutant) {
  sptx_x86_emitter emitter;
  sptx_x86_emitter_begin(&emitter, module, shape, symbol, commons, mutant);
  families[shape->family].emit(&emitter, symbol);
  sptx_ir_end(&emitter.ir);
}

/* All functions that kernels of this element type, instruction set and head dimension have in common. */
static void emit_commons(LLVMModuleRef module, const sptx_x86_shape *shape, const char *symbol) {
  sptx_x86_emitter e;
  sptx_x86_emitter_begin(&e, module, shape, symbol, SPTX_X86_COMMONS_EXPORTED, SPTX_X86_SOUND);
  sptx_x86_emit_view_functions(&e);
  sptx_x86_emit_bound(&e);
  sptx_x86_emit_pack(&e);
  sptx_x86_emit_copy_rows(&e);
  sptx_x86_emit_fetch(&e);
  sptx_x86_emit_key_rows(&e);
  sptx_x86_emit_unpack(&e, shape->element);
  sptx_x86_emit_unpack(&e, SPTX_ELEMENT_F32);
  sptx_x86_emit_finite(&e, SPTX_ELEMENT_F32);
  if (e.products != SPTX_X86_FLOATS) {
    sptx_x86_emit_finite(&e, shape->element);
    sptx_x86_emit_pair_rows(&e);
  }
  sptx_x86_emit_careful(&e);
  sptx_x86_emit_careful_rows(&e);
  sptx_ir_end(&e.ir);
}

/* Provenance travels with the module as named metadata "sptx", one string for each kernel. */
static void describe(LLVMModuleRef module, const sptx_x86_launch *launch, const sptx_x86_shape *shape) {
  LLVMContextRef context = LLVMGetModuleContext(module);
  const sptx_x86_schedule *schedule = &shape->schedule;
  unsigned major, minor, patch;
  char text[512];
  LLVMGetVersion(&major, &minor, &patch);
  int length = snprintf(text, sizeof text,
                        "%s: sptx %s, LLVM %u.%u.%u, %s, query_tile %d, key_tile %d, register block %d x %d, "
                        "scratch %zu bytes",
                        launch->symbol, SPTX_VERSION, major, minor, patch, sptx_isa_name(schedule->isa),
                        schedule->query_tile, schedule->key_tile, schedule->register_rows,
                        schedule->register_vectors, launch->scratch_bytes);
  LLVMMetadataRef string = LLVMMDStringInContext2(context, text, (size_t)length);
  LLVMMetadataRef node = LLVMMDNodeInContext2(context, &string, 1);
  LLVMAddNamedMetadataOperand(module, "sptx", LLVMMetadataAsValue(context, node));
}

/* symbol: of the one kernel or the common functions wanted, or NULL for all. */
static enum sptx_code build(const sptx_x86_plan *plan, const char *symbol, enum sptx_x86_mutant mutant,
                            LLVMContextRef context, LLVMModuleRef *module, sptx_error *error) {
  const sptx_x86_plan_data *data = (const sptx_x86_plan_data *)plan;
  *module = LLVMModuleCreateWithNameInContext("sptx", context);
  LLVMSetTarget(*module, "x86_64-unknown-linux-gnu");
  for (int k = 0; k < plan->launch_count; k++) {
    const char *name = plan->launches[k].symbol;
    if (symbol && strcmp(plan->launches[k].common, symbol) == 0) {
      emit_commons(*module, &data->shapes[k], symbol);
      break;
    }
    if ((symbol && strcmp(name, symbol) != 0) || LLVMGetNamedFunction(*module, name))
      continue;
    emit_kernel(*module, &data->shapes[k], name, symbol ? SPTX_X86_COMMONS_OUTSIDE : SPTX_X86_COMMONS_INSIDE,
                mutant);
    describe(*module, &plan->launches[k], &data->shapes[k]);
  }
  char *message = NULL;
  enum sptx_code code = SPTX_CODE_OK;
  if (LLVMVerifyModule(*module, LLVMReturnStatusAction, &message)) {
    code = sptx_fail(error, SPTX_CODE_COMPILE, "generated x86 code does not verify, a defect of sptx: %s",
                     message);
    LLVMDisposeModule(*module);
    *module = NULL;
  }
  LLVMDisposeMessage(message);
  return code;
}

enum sptx_code sptx_x86_plan_build_mutant(const sptx_x86_plan *plan, enum sptx_x86_mutant mutant,
                                          LLVMContextRef context, LLVMModuleRef *module, sptx_error *error) {
  return build(plan, NULL, mutant, context, module, error);
}

enum sptx_code sptx_x86_plan_build(const sptx_x86_plan *plan, const char *symbol, LLVMContextRef context,
                                   LLVMModuleRef *module, sptx_error *error) {
  return build(plan, symbol, SPTX_X86_SOUND, context, module, error);
}
