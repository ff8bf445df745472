/* LLVM's NVPTX backend: module -> optimised module -> PTX text. */
#include "gen/ptx/plan.h"
#include <llvm-c/Analysis.h>
#include <llvm-c/Error.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <stdlib.h>
#include <string.h>

static const struct {
  const char *name, *cpu, *features;
} targets[] = {
    [SPTX_PTX_SM80] = {"sm_80", "sm_80", "+ptx71"},
    [SPTX_PTX_SM90A] = {"sm_90a", "sm_90a", "+ptx83"},
};

const char *sptx_ptx_target_name(enum sptx_ptx_target target) {
  return targets[target].name;
}

static enum sptx_code create_machine(enum sptx_ptx_target target, LLVMTargetMachineRef *machine,
                                     sptx_error *error) {
  static const char triple[] = "nvptx64-nvidia-cuda";
  LLVMInitializeNVPTXTargetInfo();
  LLVMInitializeNVPTXTarget();
  LLVMInitializeNVPTXTargetMC();
  LLVMInitializeNVPTXAsmPrinter();
  LLVMTargetRef llvm_target = NULL;
  char *message = NULL;
  if (LLVMGetTargetFromTriple(triple, &llvm_target, &message)) {
    enum sptx_code code =
        sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                  "this LLVM was built without the NVPTX target (%s): use an LLVM that has it", message);
    LLVMDisposeMessage(message);
    return code;
  }
  *machine = LLVMCreateTargetMachine(llvm_target, triple, targets[target].cpu, targets[target].features,
                                     LLVMCodeGenLevelAggressive, LLVMRelocDefault, LLVMCodeModelDefault);
  if (!*machine)
    return sptx_fail(error, SPTX_CODE_COMPILE, "LLVM makes no target machine for %s", targets[target].cpu);
  return SPTX_CODE_OK;
}

static enum sptx_code optimise(LLVMModuleRef module, LLVMTargetMachineRef machine, sptx_error *error) {
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMPassBuilderOptionsSetLoopUnrolling(options, 0);
  LLVMPassBuilderOptionsSetLoopVectorization(options, 0);
  LLVMPassBuilderOptionsSetSLPVectorization(options, 0);
  LLVMErrorRef failure = LLVMRunPasses(module, "default<O2>", machine, options);
  LLVMDisposePassBuilderOptions(options);
  if (!failure)
    return SPTX_CODE_OK;
  char *text = LLVMGetErrorMessage(failure);
  enum sptx_code code = sptx_fail(error, SPTX_CODE_COMPILE, "LLVM's optimiser failed: %s", text);
  LLVMDisposeErrorMessage(text);
  return code;
}

static enum sptx_code print_ptx(LLVMModuleRef module, LLVMTargetMachineRef machine, char **ptx,
                                sptx_error *error) {
  LLVMMemoryBufferRef buffer = NULL;
  char *message = NULL;
  if (LLVMTargetMachineEmitToMemoryBuffer(machine, module, LLVMAssemblyFile, &message, &buffer)) {
    enum sptx_code code = sptx_fail(error, SPTX_CODE_COMPILE, "LLVM cannot print the PTX: %s", message);
    LLVMDisposeMessage(message);
    return code;
  }
  *ptx = strndup(LLVMGetBufferStart(buffer), LLVMGetBufferSize(buffer));
  LLVMDisposeMemoryBuffer(buffer);
  if (!*ptx)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for the PTX text");
  return SPTX_CODE_OK;
}

enum sptx_code sptx_ptx_emit(LLVMModuleRef module, enum sptx_ptx_target target, char **ptx,
                             sptx_error *error) {
  LLVMTargetMachineRef machine = NULL;
  *ptx = NULL;
  SPTX_TRY(create_machine(target, &machine, error));
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(machine);
  LLVMSetModuleDataLayout(module, layout);
  LLVMDisposeTargetData(layout);
  LLVMSetTarget(module, "nvptx64-nvidia-cuda");
  enum sptx_code code = optimise(module, machine, error);
  if (code == SPTX_CODE_OK)
    code = print_ptx(module, machine, ptx, error);
  LLVMDisposeTargetMachine(machine);
  return code;
}

enum sptx_code sptx_gpu_plan_ptx(const sptx_gpu_plan *plan, char **ptx, sptx_error *error) {
  LLVMContextRef context = LLVMContextCreate();
  LLVMModuleRef module = NULL;
  enum sptx_code code;
  *ptx = NULL;
  SPTX_TRY_GOTO(sptx_gpu_plan_build(plan, context, &module, error), done);
  code = sptx_ptx_emit(module, plan->target, ptx, error);
done:
  if (module)
    LLVMDisposeModule(module);
  LLVMContextDispose(context);
  return code;
}
