/* LLVM's x86 back end behind three functions. What to generate for (CPU, features) stands in the module's
 * functions; nothing here depends on the machine that runs it. All may be called from many threads, each with
 * modules of a context of its own. */
#ifndef SPTX_GEN_MACHINE_H
#define SPTX_GEN_MACHINE_H

#include "patterns/error.h"
#include <llvm-c/Core.h>
#include <stdbool.h>
#include <stddef.h>

/* Makes LLVM's x86 back end known to LLVM; the functions below do so themselves. */
void sptx_x86_register(void);

/* A context that prints nothing: the first error of LLVM's is kept in *diagnostic, which lives as long as the
 * context and from which the functions below take it. */
LLVMContextRef sptx_llvm_context_create(sptx_error *diagnostic);

/* Fails with SPTX_CODE_COMPILE and LLVM's words where the module is not valid IR. */
enum sptx_code sptx_llvm_verify(LLVMModuleRef module, const char *after, sptx_error *error);

/* Runs LLVM's middle end over the module. */
enum sptx_code sptx_x86_optimise(LLVMModuleRef module, sptx_error *error);

/* Machine code of the module: an ELF object, or assembly text (NUL terminated, not counted in size). *code is
 * freed with free(). The module is left as it was. */
enum sptx_code sptx_x86_emit(LLVMModuleRef module, bool assembly, char **code, size_t *size,
                             sptx_error *error);

#endif
