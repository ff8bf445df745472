/* Instruction sets: what this machine has, their names, and the kernel families that exist for each. */
#include "gen/x86/kernel.h"

static const char *const isa_names[] = {"avx2", "avx512", "avx512_bf16", "amx"};

const char *sptx_isa_name(enum sptx_isa isa) {
  return isa_names[isa];
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* CPUID leaf 7 tells what gcc's __builtin_cpu_supports does not know yet. */
static bool has_amx_bf16(void) {
  enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_BF16) && (d & AMX_TILE);
}

/* Linux hands out the tile registers' 8 KiB of state only to processes that ask (arch_prctl). */
static bool enable_amx(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILE_DATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
}
bool sptx_x86_isa_available(enum sptx_isa isa) {
  bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512cd");
  bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  switch (isa) {
  case SPTX_ISA_AVX2:
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  case SPTX_ISA_AVX512:
    return avx512;
  case SPTX_ISA_AVX512_BF16:
    return bf16;
  case SPTX_ISA_AMX:
    return bf16 && has_amx_bf16() && enable_amx();
  }
  return false;
}

#else
bool sptx_x86_isa_available(enum sptx_isa isa) {
  (void)isa;
  return false;
}
#endif

enum sptx_isa sptx_x86_host_isa(void) {
  enum sptx_isa best = SPTX_ISA_AVX2;
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    if (sptx_x86_isa_available((enum sptx_isa)isa))
      best = (enum sptx_isa)isa;
  return best;
}
