/* The x86 target machine of LLVM: set-up, the middle end's pipeline, and emission. */
#include "gen/machine.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Error.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define X86_TRIPLE "x86_64-unknown-linux-gnu"
/* The generator writes loops blocked and vectorised already; what is left is to clean up address arithmetic.
 */
#define X86_PIPELINE "early-cse,loop-mssa(licm),simplifycfg"

static void keep_diagnostic(LLVMDiagnosticInfoRef info, void *diagnostic) {
  sptx_error *kept = diagnostic;
  if (LLVMGetDiagInfoSeverity(info) != LLVMDSError || kept->code != SPTX_CODE_OK)
    return;
  char *description = LLVMGetDiagInfoDescription(info);
  sptx_fail(kept, SPTX_CODE_COMPILE, "LLVM: %s", description);
  LLVMDisposeMessage(description);
}

LLVMContextRef sptx_llvm_context_create(sptx_error *diagnostic) {
  *diagnostic = (sptx_error){0};
  LLVMContextRef context = LLVMContextCreate();
  LLVMContextSetDiagnosticHandler(context, keep_diagnostic, diagnostic);
  return context;
}

/* Some of LLVM's failures are told to the context only. */
static enum sptx_code check_diagnostic(LLVMModuleRef module, sptx_error *error) {
  const sptx_error *kept = LLVMContextGetDiagnosticContext(LLVMGetModuleContext(module));
  return kept->code ? sptx_fail(error, kept->code, "%s", kept->message) : SPTX_CODE_OK;
}

/* LLVM's registry of targets is the process's; filling it is idempotent, but not thread safe. */
static void register_once(void) {
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
  LLVMInitializeX86AsmParser();
}

void sptx_x86_register(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, register_once);
}

static enum sptx_code create_machine(LLVMTargetMachineRef *machine, sptx_error *error) {
  sptx_x86_register();
  LLVMTargetRef target;
  char *message = NULL;
  if (LLVMGetTargetFromTriple(X86_TRIPLE, &target, &message)) {
    sptx_fail(error, SPTX_CODE_COMPILE, "LLVM has no x86-64 back end: %s", message);
    LLVMDisposeMessage(message);
    return SPTX_CODE_COMPILE;
  }
  /* Position independent: the same object is loaded by the JIT and linked into programs. */
  *machine = LLVMCreateTargetMachine(target, X86_TRIPLE, "x86-64", "", LLVMCodeGenLevelDefault, LLVMRelocPIC,
                                     LLVMCodeModelDefault);
  if (!*machine)
    return sptx_fail(error, SPTX_CODE_COMPILE, "LLVM cannot make a target machine for " X86_TRIPLE);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_llvm_verify(LLVMModuleRef module, const char *after, sptx_error *error) {
  char *message = NULL;
  LLVMBool broken = LLVMVerifyModule(module, LLVMReturnStatusAction, &message);
  if (broken)
    sptx_fail(error, SPTX_CODE_COMPILE, "the code is invalid after the pass '%s': %s", after, message);
  LLVMDisposeMessage(message);
  return broken ? SPTX_CODE_COMPILE : SPTX_CODE_OK;
}

enum sptx_code sptx_x86_optimise(LLVMModuleRef module, sptx_error *error) {
  LLVMTargetMachineRef machine;
  SPTX_TRY(create_machine(&machine, error));
  LLVMPassBuilderOptionsRef options = LLVMCreatePassBuilderOptions();
  LLVMErrorRef failure = LLVMRunPasses(module, X86_PIPELINE, machine, options);
  LLVMDisposePassBuilderOptions(options);
  LLVMDisposeTargetMachine(machine);
  if (!failure)
    return check_diagnostic(module, error);
  char *message = LLVMGetErrorMessage(failure);
  sptx_fail(error, SPTX_CODE_COMPILE, "LLVM's optimiser failed: %s", message);
  LLVMDisposeErrorMessage(message);
  return SPTX_CODE_COMPILE;
}

/* Copies LLVM's buffer into memory of ours, with a NUL behind it, and disposes of it. */
static enum sptx_code take_buffer(LLVMMemoryBufferRef buffer, char **code, size_t *size, sptx_error *error) {
  *size = LLVMGetBufferSize(buffer);
  *code = malloc(*size + 1);
  if (*code) {
    memcpy(*code, LLVMGetBufferStart(buffer), *size);
    (*code)[*size] = '\0';
  }
  LLVMDisposeMemoryBuffer(buffer);
  return *code ? SPTX_CODE_OK
               : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %zu bytes of code", *size);
}

enum sptx_code sptx_x86_emit(LLVMModuleRef module, bool assembly, char **code, size_t *size,
                             sptx_error *error) {
  *code = NULL;
  LLVMTargetMachineRef machine;
  SPTX_TRY(create_machine(&machine, error));
  LLVMModuleRef copy = LLVMCloneModule(module); /* the code generator changes what it is given */
  LLVMMemoryBufferRef buffer = NULL;
  char *message = NULL;
  LLVMBool failed = LLVMTargetMachineEmitToMemoryBuffer(
      machine, copy, assembly ? LLVMAssemblyFile : LLVMObjectFile, &message, &buffer);
  LLVMDisposeModule(copy);
  LLVMDisposeTargetMachine(machine);
  if (failed) {
    sptx_fail(error, SPTX_CODE_COMPILE, "LLVM's code generator failed: %s", message);
    LLVMDisposeMessage(message);
    return SPTX_CODE_COMPILE;
  }
  enum sptx_code code_taken = take_buffer(buffer, code, size, error);
  if (code_taken == SPTX_CODE_OK && check_diagnostic(module, error) != SPTX_CODE_OK) {
    free(*code);
    *code = NULL;
    code_taken = SPTX_CODE_COMPILE;
  }
  return code_taken;
}
