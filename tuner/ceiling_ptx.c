/* The kernels that measure a GPU's ceilings. All have one signature, (from, to, count), and keep their
 * results by a store that never happens, so that the assembler cannot leave the work out. */
#include "tuner/ceiling_cuda.h"

#include "tuner/ceiling_work.h"

static const char signature[] =
    "(.param .u64 from, .param .u64 to, .param .u32 count)\n.maxntid 256, 1, 1\n{\n"
    "  .reg .pred %p;\n  .reg .u32 %n, %i, %step;\n  .reg .u64 %from, %to, %at;\n"
    "  ld.param.u64 %from, [from];\n  ld.param.u64 %to, [to];\n"
    "  ld.param.u32 %n, [count];\n";

static void begin(const char *name, FILE *stream) {
  fprintf(stream, ".visible .entry %s%s", name, signature);
}

/* Different numbers to start from, lest equal chains become one. */
static void start_sums(int count, FILE *stream) {
  fputs("  mov.u32 %i, %tid.x;\n", stream);
  for (int k = 0; k < count; k++)
    fprintf(stream, "  cvt.rn.f32.u32 %%f%d, %%i;\n  add.u32 %%i, %%i, 1;\n", k);
}

/* The end of a loop of %n rounds, and a store of the sum of %f0 .. which no sum brings about. */
static void end_rounds(int results, FILE *stream) {
  fputs("  sub.u32 %n, %n, 1;\n  setp.ne.u32 %p, %n, 0;\n  @%p bra again;\n", stream);
  for (int k = 1; k < results; k++)
    fprintf(stream, "  add.f32 %%f0, %%f0, %%f%d;\n", k);
  fputs("  setp.eq.f32 %p, %f0, 0f7149F2CA;\n  @%p st.global.f32 [%to], %f0;\n  ret;\n}\n", stream);
}

static void write_registers(int first, int count, FILE *stream) {
  fputc('{', stream);
  for (int k = first; k < first + count; k++)
    fprintf(stream, "%s%%f%d", k > first ? ", " : "", k);
  fputc('}', stream);
}

/* Each warp multiplies fragments of ones in independent chains. */
static void write_mma(FILE *stream) {
  begin("products", stream);
  fprintf(stream, "  .reg .f32 %%f<%d>;\n  .reg .b32 %%a;\n  mov.b32 %%a, 0x3f803f80;\n",
          4 * SPTX_MMA_CHAINS);
  start_sums(4 * SPTX_MMA_CHAINS, stream);
  fputs("again:\n", stream);
  for (int k = 0; k < SPTX_MMA_CHAINS; k++) {
    fputs("  mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 ", stream);
    write_registers(4 * k, 4, stream);
    fputs(", {%a, %a, %a, %a}, {%a, %a}, ", stream);
    write_registers(4 * k, 4, stream);
    fputs(";\n", stream);
  }
  end_rounds(4 * SPTX_MMA_CHAINS, stream);
}

/* Each warpgroup multiplies tiles of shared memory of 64 x 16 and 16 x 256 elements, in the layout without
 * swizzle: blocks of 8 rows by 16 bytes, 128 bytes apart along the products' depth and 256 along rows. */
static void write_wgmma(FILE *stream) {
  enum { SUMS = 128 };
  begin("products", stream);
  fprintf(
      stream,
      "  .reg .f32 %%f<%d>;\n  .reg .b32 %%word;\n  .reg .b64 %%a, %%b;\n"
      "  .shared .align 128 .b8 tiles[10240];\n"
      "  mov.u32 %%i, %%tid.x;\n  mov.b32 %%word, 0x3f803f80;\n"
      "fill:\n  shl.b32 %%step, %%i, 2;\n  mov.u32 %%n, tiles;\n  add.u32 %%step, %%step, %%n;\n"
      "  st.shared.b32 [%%step], %%word;\n  add.u32 %%i, %%i, 256;\n  setp.lt.u32 %%p, %%i, 2560;\n"
      "  @%%p bra fill;\n  bar.sync 0;\n  fence.proxy.async;\n  ld.param.u32 %%n, [count];\n"
      "  mov.u32 %%i, tiles;\n  shr.u32 %%i, %%i, 4;\n  and.b32 %%i, %%i, 0x3fff;\n  cvt.u64.u32 %%a, %%i;\n"
      "  or.b64 %%a, %%a, 0x0000001000080000;\n  add.u64 %%b, %%a, 128;\n",
      SUMS);
  start_sums(SUMS, stream);
  fputs("again:\n  wgmma.fence.sync.aligned;\n", stream);
  for (int k = 0; k < SPTX_WGMMA_BATCH; k++) {
    fputs("  wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 ", stream);
    write_registers(0, SUMS, stream);
    fputs(", %a, %b, 1, 1, 1, 0, 0;\n", stream);
  }
  fputs("  wgmma.commit_group.sync.aligned;\n  wgmma.wait_group.sync.aligned 0;\n", stream);
  end_rounds(SUMS, stream);
}

/* Chains x = 2^-x, which tend to 0.64. */
static void write_exponentials(FILE *stream) {
  begin("exponentials", stream);
  fprintf(stream, "  .reg .f32 %%f<%d>;\n", SPTX_EXP_CHAINS);
  start_sums(SPTX_EXP_CHAINS, stream);
  fputs("again:\n", stream);
  for (int k = 0; k < SPTX_EXP_CHAINS; k++)
    fprintf(stream, "  neg.f32 %%f%d, %%f%d;\n  ex2.approx.ftz.f32 %%f%d, %%f%d;\n", k, k, k, k);
  end_rounds(SPTX_EXP_CHAINS, stream);
}

/* count parts of 16 bytes, by all threads in turn. */
static void write_copy(FILE *stream) {
  begin("copy", stream);
  fputs("  .reg .u32 %size, %cta;\n  .reg .b32 %w<4>;\n"
        "  mov.u32 %size, %ntid.x;\n  mov.u32 %cta, %ctaid.x;\n  mov.u32 %i, %tid.x;\n"
        "  mad.lo.u32 %i, %cta, %size, %i;\n  mov.u32 %step, %nctaid.x;\n  mul.lo.u32 %step, %step, %size;\n"
        "again:\n  setp.ge.u32 %p, %i, %n;\n  @%p ret;\n"
        "  mul.wide.u32 %at, %i, 16;\n  add.u64 %at, %at, %from;\n"
        "  ld.global.v4.b32 {%w0, %w1, %w2, %w3}, [%at];\n  mul.wide.u32 %at, %i, 16;\n"
        "  add.u64 %at, %at, %to;\n  st.global.v4.b32 [%at], {%w0, %w1, %w2, %w3};\n"
        "  add.u32 %i, %i, %step;\n  bra again;\n}\n",
        stream);
}

void sptx_ceiling_ptx(enum sptx_ptx_target target, FILE *stream) {
  bool hopper = target == SPTX_PTX_SM90A;
  fprintf(stream, ".version %s\n.target %s\n.address_size 64\n", hopper ? "8.0" : "7.0",
          hopper ? "sm_90a" : "sm_80");
  if (hopper)
    write_wgmma(stream);
  else
    write_mma(stream);
  write_exponentials(stream);
  write_copy(stream);
  begin("nothing", stream);
  fputs("  ret;\n}\n", stream);
}
