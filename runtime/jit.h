/* Machine code of ELF objects, loaded into this process by LLVM's ORC JIT. */
#ifndef SPTX_RUNTIME_JIT_H
#define SPTX_RUNTIME_JIT_H

#include "patterns/error.h"
#include <stddef.h>

typedef struct sptx_jit sptx_jit;

/* Each thread may have its own; one is used by one thread at a time. */
enum sptx_code sptx_jit_create(sptx_jit **jit, sptx_error *error);
/* Loads a copy of the object. It may call the process's C and mathematical library, and the other objects. */
enum sptx_code sptx_jit_add(sptx_jit *jit, const char *object, size_t size, sptx_error *error);
/* Both at once. */
enum sptx_code sptx_jit_load(const char *object, size_t size, sptx_jit **jit, sptx_error *error);
/* The address of a function of the object; the first call links it. */
enum sptx_code sptx_jit_lookup(sptx_jit *jit, const char *symbol, void **address, sptx_error *error);
/* Unloads the code: none of it may be running. NULL is allowed. */
void sptx_jit_free(sptx_jit *jit);

#endif
