/* The support matrix: every target that sptx generates code for, one row each. */
#ifndef SPTX_GEN_TARGETS_H
#define SPTX_GEN_TARGETS_H

#include "gen/kernel.h"
#include "gen/ptx/plan.h"
#include "gen/x86/plan.h"

enum sptx_target_family { SPTX_FAMILY_X86, SPTX_FAMILY_PTX };

typedef struct sptx_target {
  const char *name; /* of --target */
  enum sptx_target_family family;
  enum sptx_isa isa;        /* of the x86 family */
  enum sptx_ptx_target ptx; /* of the PTX family */
  unsigned passes;          /* bit (1 << enum sptx_pass): can be generated */
  const char *instructions; /* what its kernels are made of */
} sptx_target;

/* Ended by a row without a name. */
extern const sptx_target sptx_targets[];

/* The row of a name; "native" is the best row of this machine. Fails with SPTX_CODE_INVALID_ARGUMENT, listing
 * the names. */
enum sptx_code sptx_target_find(const char *name, const sptx_target **target, sptx_error *error);

/* The x86 row of an instruction set; there is one for each. */
const sptx_target *sptx_target_of_isa(enum sptx_isa isa);

#endif
