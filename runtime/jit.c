/* Loading objects with ORC; see jit.h. One LLJIT for each sptx_jit: unloading is then freeing. */
#include "runtime/jit.h"

#include "gen/machine.h"
#include <llvm-c/LLJIT.h>
#include <stdint.h>
#include <stdlib.h>

struct sptx_jit {
  LLVMOrcLLJITRef lljit;
};

static enum sptx_code take_error(LLVMErrorRef failure, const char *what, sptx_error *error) {
  char *message = LLVMGetErrorMessage(failure);
  sptx_fail(error, SPTX_CODE_COMPILE, "%s: %s", what, message);
  LLVMDisposeErrorMessage(message);
  return SPTX_CODE_COMPILE;
}

/* Without it ORC prints what sptx_jit_lookup returns. */
static void drop_report(void *unused, LLVMErrorRef failure) {
  (void)unused;
  LLVMConsumeError(failure);
}

enum sptx_code sptx_jit_create(sptx_jit **jit, sptx_error *error) {
  *jit = calloc(1, sizeof **jit);
  if (!*jit)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the JIT");
  sptx_x86_register();
  LLVMErrorRef failure = LLVMOrcCreateLLJIT(&(*jit)->lljit, NULL);
  if (failure) {
    (*jit)->lljit = NULL;
    sptx_jit_free(*jit);
    *jit = NULL;
    return take_error(failure, "the JIT cannot start", error);
  }
  LLVMOrcExecutionSessionSetErrorReporter(LLVMOrcLLJITGetExecutionSession((*jit)->lljit), drop_report, NULL);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_jit_add(sptx_jit *jit, const char *object, size_t size, sptx_error *error) {
  LLVMMemoryBufferRef buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(object, size, "sptx");
  LLVMErrorRef failure =
      LLVMOrcLLJITAddObjectFile(jit->lljit, LLVMOrcLLJITGetMainJITDylib(jit->lljit), buffer);
  return failure ? take_error(failure, "the JIT refused an object", error) : SPTX_CODE_OK;
}

enum sptx_code sptx_jit_load(const char *object, size_t size, sptx_jit **jit, sptx_error *error) {
  SPTX_TRY(sptx_jit_create(jit, error));
  enum sptx_code code = sptx_jit_add(*jit, object, size, error);
  if (code != SPTX_CODE_OK) {
    sptx_jit_free(*jit);
    *jit = NULL;
  }
  return code;
}

enum sptx_code sptx_jit_lookup(sptx_jit *jit, const char *symbol, void **address, sptx_error *error) {
  LLVMOrcExecutorAddress found = 0;
  LLVMErrorRef failure = LLVMOrcLLJITLookup(jit->lljit, &found, symbol);
  if (failure)
    return take_error(failure, "the JIT cannot link a kernel", error);
  *address = (void *)(uintptr_t)found;
  return SPTX_CODE_OK;
}

void sptx_jit_free(sptx_jit *jit) {
  if (!jit)
    return;
  if (jit->lljit) {
    LLVMErrorRef failure = LLVMOrcDisposeLLJIT(jit->lljit);
    if (failure)
      LLVMConsumeError(failure);
  }
  free(jit);
}
