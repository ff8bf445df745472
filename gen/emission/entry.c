/* The entry of an emitted x86 object: one function that computes one work item of one launch,
 *
 *   void NAME_PASS_item(const tensors *tensors, int32_t launch, int64_t item, void *scratch)
 *
 * with the plan's parameter blocks as constants beside it. Sharing items out to threads is left to the
 * header, which the caller compiles with the threads it has. */
#include "gen/emission/emission.h"

#include "gen/ir.h"
#include "gen/problem.h"
#include <stdlib.h>
#include <string.h>

/* The block as an array of 64-bit words, which the planner pads it to. */
static LLVMValueRef add_params(sptx_ir *ir, const sptx_x86_launch *launch, int index) {
  size_t count = launch->params_bytes / sizeof(uint64_t);
  LLVMValueRef *words = malloc((count + 1) * sizeof *words);
  if (!words)
    return NULL;
  for (size_t i = 0; i < count; i++) {
    uint64_t word;
    memcpy(&word, (const char *)launch->params + i * sizeof word, sizeof word);
    words[i] = LLVMConstInt(ir->i64, word, false);
  }
  char name[32];
  snprintf(name, sizeof name, "params_%d", index);
  LLVMValueRef params = LLVMAddGlobal(ir->module, LLVMArrayType2(ir->i64, count), name);
  LLVMSetInitializer(params, LLVMConstArray2(ir->i64, words, count));
  LLVMSetGlobalConstant(params, true);
  LLVMSetLinkage(params, LLVMPrivateLinkage);
  LLVMSetAlignment(params, 64);
  free(words);
  return params;
}

/* One case of the switch: a call of the launch's kernel. */
static bool add_launch(sptx_ir *ir, const sptx_x86_launch *launch, int index, LLVMValueRef cases) {
  LLVMValueRef params = add_params(ir, launch, index);
  if (!params)
    return false;
  LLVMValueRef kernel = LLVMGetNamedFunction(ir->module, launch->symbol);
  LLVMSetLinkage(kernel, LLVMInternalLinkage);
  LLVMBasicBlockRef block = LLVMAppendBasicBlockInContext(ir->context, ir->function, "launch");
  LLVMAddCase(cases, LLVMConstInt(ir->i32, (unsigned)index, false), block);
  LLVMPositionBuilderAtEnd(ir->builder, block);
  LLVMValueRef arguments[] = {LLVMGetParam(ir->function, 0), params, LLVMGetParam(ir->function, 2),
                              LLVMGetParam(ir->function, 3)};
  LLVMBuildCall2(ir->builder, LLVMGlobalGetValueType(kernel), kernel, arguments, 4, "");
  LLVMBuildRetVoid(ir->builder);
  return true;
}

enum sptx_code sptx_entry_add(const sptx_emission *emission, sptx_unit *unit, sptx_error *error) {
  sptx_ir ir;
  char *name = NULL;
  if (asprintf(&name, "%s_%s_item", emission->name, sptx_pass_name(unit->pass)) < 0)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the name of an entry");
  sptx_ir_begin(&ir, unit->module);
  LLVMTypeRef parameters[] = {ir.pointer, ir.i32, ir.i64, ir.pointer};
  sptx_ir_function(&ir, name, ir.void_type, parameters, 4, true);
  free(name);
  LLVMBasicBlockRef none = LLVMAppendBasicBlockInContext(ir.context, ir.function, "none");
  LLVMValueRef cases =
      LLVMBuildSwitch(ir.builder, LLVMGetParam(ir.function, 1), none, (unsigned)unit->x86->launch_count);
  LLVMPositionBuilderAtEnd(ir.builder, none);
  LLVMBuildRetVoid(ir.builder);
  bool added = true;
  for (int i = 0; i < unit->x86->launch_count && added; i++)
    added = add_launch(&ir, &unit->x86->launches[i], i, cases);
  sptx_ir_end(&ir);
  return added ? SPTX_CODE_OK
               : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the parameter blocks");
}
