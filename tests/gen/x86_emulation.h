/* Kernels for instructions that this machine lacks, rewritten so that AVX2 runs them. LLVM itself splits wide
 * vectors; what it cannot split (AMX tiles, VDPBF16PS, VSCALEFPS, conversions to bfloat16) becomes calls of C
 * functions that do what Intel's manual says. */
#ifndef SPTX_TESTS_GEN_X86_EMULATION_H
#define SPTX_TESTS_GEN_X86_EMULATION_H

#include <llvm-c/Core.h>

/* Rewrites the module in place. Its code is good for this process only: it holds addresses of functions. */
void x86_emulate(LLVMModuleRef module);

#endif
