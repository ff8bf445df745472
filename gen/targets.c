/* The table of targets; sptx-gen --targets prints it. */
#include "gen/targets.h"

#include <string.h>

enum {
  FORWARD = 1 << SPTX_PASS_FORWARD,
  BACKWARD = 1 << SPTX_PASS_BACKWARD,
  DECODE = 1 << SPTX_PASS_DECODE,
  EVERY_PASS = FORWARD | BACKWARD | DECODE,
};

#define X86(isa_) .family = SPTX_FAMILY_X86, .isa = (isa_), .passes = EVERY_PASS
#define PTX(ptx_) .family = SPTX_FAMILY_PTX, .ptx = (ptx_), .passes = EVERY_PASS

const sptx_target sptx_targets[] = {
    {.name = "x86-64-v3", X86(SPTX_ISA_AVX2), .instructions = "AVX2, FMA, F16C"},
    {.name = "x86-64-v4", X86(SPTX_ISA_AVX512), .instructions = "AVX-512"},
    {.name = "x86-64-avx512bf16", X86(SPTX_ISA_AVX512_BF16), .instructions = "AVX-512, VDPBF16PS (bf16)"},
    {.name = "x86-64-amx", X86(SPTX_ISA_AMX), .instructions = "AVX-512, AMX tiles (bf16)"},
    {.name = "sm_80", PTX(SPTX_PTX_SM80), .instructions = "cp.async, ldmatrix, mma.sync"},
    {.name = "sm_90a", PTX(SPTX_PTX_SM90A), .instructions = "TMA, mbarrier, wgmma"},
    {.name = NULL},
};

const sptx_target *sptx_target_of_isa(enum sptx_isa isa) {
  const sptx_target *row = sptx_targets;
  while (row->family != SPTX_FAMILY_X86 || row->isa != isa)
    row++;
  return row;
}

enum sptx_code sptx_target_find(const char *name, const sptx_target **target, sptx_error *error) {
  if (strcmp(name, "native") == 0) {
    *target = sptx_target_of_isa(sptx_x86_host_isa());
    return SPTX_CODE_OK;
  }
  for (*target = sptx_targets; (*target)->name; ++*target)
    if (strcmp((*target)->name, name) == 0)
      return SPTX_CODE_OK;
  *target = NULL;
  return sptx_fail(
      error, SPTX_CODE_INVALID_ARGUMENT,
      "'%s' is not a target; use native, x86-64-v3, x86-64-v4, x86-64-avx512bf16, x86-64-amx, sm_80 or "
      "sm_90a",
      name);
}
