/* Access to arguments, parameters and scratch, element conversions, and the functions of the softmax. */
#include "gen/x86/emit.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

int sptx_x86_lanes(enum sptx_isa isa) {
  return isa == SPTX_ISA_AVX2 ? 8 : 16;
}

int64_t sptx_x86_element_bytes(enum sptx_element element) {
  return element == SPTX_ELEMENT_F32 ? 4 : 2;
}

void sptx_x86_emitter_begin(sptx_x86_emitter *e, LLVMModuleRef module, const sptx_x86_shape *shape,
                            const char *symbol, enum sptx_x86_commons commons, enum sptx_x86_mutant mutant) {
  *e = (sptx_x86_emitter){.shape = shape,
                          .mutant = mutant,
                          .products = sptx_x86_products_of(shape),
                          .commons = commons,
                          .lanes = (unsigned)sptx_x86_lanes(shape->schedule.isa),
                          .query_tile = shape->schedule.query_tile,
                          .key_tile = shape->schedule.key_tile,
                          .rows = shape->schedule.register_rows,
                          .vectors = shape->schedule.register_vectors,
                          .dim = shape->dim,
                          .panel = sptx_x86_panel(shape)};
  sptx_ir_begin(&e->ir, module);
  snprintf(e->prefix, sizeof e->prefix, "%s", symbol);
  sptx_x86_common_name(shape, e->common_prefix, sizeof e->common_prefix);
  sptx_x86_layout_of(shape, &e->layout);
  e->element = shape->element == SPTX_ELEMENT_F32   ? e->ir.f32
               : shape->element == SPTX_ELEMENT_F16 ? e->ir.f16
                                                    : e->ir.bf16;
  e->vector = LLVMVectorType(e->ir.f32, e->lanes);
}

/* CPU names fix the features; tuning for 256-bit vectors, which LLVM prefers on some, would split ours. */
static void set_target(sptx_x86_emitter *e) {
  static const char *const cpus[] = {"x86-64-v3", "x86-64-v4", "x86-64-v4", "x86-64-v4"};
  static const char *const features[] = {"", "-prefer-256-bit", "-prefer-256-bit,+avx512bf16",
                                         "-prefer-256-bit,+avx512bf16,+amx-tile,+amx-bf16"};
  enum sptx_isa isa = e->shape->schedule.isa;
  LLVMAddTargetDependentFunctionAttr(e->ir.function, "target-cpu", cpus[isa]);
  if (features[isa][0])
    LLVMAddTargetDependentFunctionAttr(e->ir.function, "target-features", features[isa]);
  LLVMAddTargetDependentFunctionAttr(e->ir.function, "min-legal-vector-width",
                                     isa == SPTX_ISA_AVX2 ? "256" : "512");
}

void sptx_x86_emitter_kernel(sptx_x86_emitter *e, const char *symbol) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[] = {ir->pointer, ir->pointer, ir->i64, ir->pointer};
  sptx_ir_function(ir, symbol, ir->void_type, types, 4, true);
  set_target(e);
  sptx_x86_bind(e);
}

void sptx_x86_bind(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  e->args = LLVMGetParam(ir->function, 0);
  e->params = LLVMGetParam(ir->function, 1);
  e->item = LLVMGetParam(ir->function, 2);
  e->scratch = LLVMGetParam(ir->function, 3);
}

static LLVMValueRef separate_function(sptx_x86_emitter *e, const char *name, LLVMTypeRef result,
                                      const LLVMTypeRef *parameters, unsigned count, bool exported) {
  sptx_ir_function(&e->ir, name, result, parameters, count, exported);
  set_target(e);
  static const char noinline_name[] = "noinline";
  unsigned kind = LLVMGetEnumAttributeKindForName(noinline_name, sizeof noinline_name - 1);
  LLVMAddAttributeAtIndex(e->ir.function, LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(e->ir.context, kind, 0));
  return e->ir.function;
}

LLVMValueRef sptx_x86_local_function(sptx_x86_emitter *e, const char *name, LLVMTypeRef result,
                                     const LLVMTypeRef *parameters, unsigned count) {
  char full[256];
  snprintf(full, sizeof full, "%s.%s", e->prefix, name);
  return separate_function(e, full, result, parameters, count, false);
}

bool sptx_x86_common_function(sptx_x86_emitter *e, const char *name, LLVMTypeRef result,
                              const LLVMTypeRef *parameters, unsigned count, LLVMValueRef *function) {
  char full[128];
  snprintf(full, sizeof full, "%s_%s", e->common_prefix, name);
  *function = LLVMGetNamedFunction(e->ir.module, full);
  if (*function)
    return false;
  if (e->commons == SPTX_X86_COMMONS_OUTSIDE) {
    LLVMTypeRef types[16];
    memcpy(types, parameters, count * sizeof *types);
    *function = LLVMAddFunction(e->ir.module, full, LLVMFunctionType(result, types, count, false));
    return false;
  }
  *function = separate_function(e, full, result, parameters, count, e->commons == SPTX_X86_COMMONS_EXPORTED);
  return true;
}

LLVMValueRef sptx_x86_bound_function(sptx_x86_emitter *e, const char *name, const LLVMTypeRef *more,
                                     unsigned count) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[12] = {ir->pointer, ir->pointer, ir->i64, ir->pointer};
  for (unsigned k = 0; k < count; k++)
    types[4 + k] = more[k];
  LLVMValueRef function = sptx_x86_local_function(e, name, ir->void_type, types, 4 + count);
  sptx_x86_bind(e);
  return function;
}

LLVMValueRef sptx_x86_call(sptx_x86_emitter *e, LLVMValueRef function, LLVMValueRef *arguments,
                           unsigned count) {
  return LLVMBuildCall2(e->ir.builder, LLVMGlobalGetValueType(function), function, arguments, count, "");
}

LLVMValueRef sptx_x86_arg(sptx_x86_emitter *e, int64_t byte_offset, LLVMTypeRef type) {
  return sptx_ir_load(&e->ir, type, sptx_ir_at_constant(&e->ir, e->args, byte_offset), 4);
}

LLVMValueRef sptx_x86_param(sptx_x86_emitter *e, int64_t byte_offset) {
  return sptx_ir_load(&e->ir, e->ir.i64, sptx_ir_at_constant(&e->ir, e->params, byte_offset), 8);
}

LLVMValueRef sptx_x86_table(sptx_x86_emitter *e, int64_t field) {
  return sptx_ir_at(&e->ir, e->params, sptx_x86_param(e, field));
}

LLVMValueRef sptx_x86_scratch(sptx_x86_emitter *e, int64_t offset) {
  return sptx_ir_at_constant(&e->ir, e->scratch, offset);
}

static LLVMValueRef splat(sptx_x86_emitter *e, double value) {
  return sptx_ir_splat(&e->ir, sptx_ir_f32(&e->ir, value), e->lanes);
}

/* 2^f on [-1/2, 1/2]: degree 5, the value at 0 exact, the largest relative error (9.3e-8) made least;
 * Horner's scheme. */
static LLVMValueRef exp2_fraction(sptx_x86_emitter *e, LLVMValueRef f) {
  static const double coefficient[] = {1.326225358e-03, 9.671391743e-03, 5.550742924e-02,
                                       2.402224481e-01, 6.931469701e-01, 1.0};
  LLVMValueRef sum = splat(e, coefficient[0]);
  for (int k = 1; k < 6; k++)
    sum = sptx_ir_fma(&e->ir, sum, f, splat(e, coefficient[k]));
  return sum;
}

/* Results below 2^-125 become 0: an instruction whose result is subnormal takes a hundred cycles. NaN passes
 * through: without scalef its whole part is the integer 1 << 31, which leaves the fraction's bits alone. */
LLVMValueRef sptx_x86_exp2(sptx_x86_emitter *e, LLVMValueRef x) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef least = splat(e, -125);
  LLVMTypeRef integers = LLVMVectorType(ir->i32, e->lanes);
  if (e->lanes == 16) {
    LLVMValueRef whole = sptx_ir_intrinsic(ir, "llvm.nearbyint", e->vector, &x, 1);
    LLVMValueRef kept = sptx_ir_fcompare(ir, LLVMRealUGE, x, least);
    LLVMValueRef arguments[] = {exp2_fraction(e, sptx_ir_fsub(ir, x, whole)), whole, splat(e, 0),
                                LLVMBuildBitCast(ir->builder, kept, ir->i16, ""), sptx_ir_i32(ir, 4)};
    return sptx_ir_intrinsic(ir, "llvm.x86.avx512.mask.scalef.ps.512", NULL, arguments, 5);
  }
  LLVMValueRef exponent = sptx_ir_intrinsic(ir, "llvm.x86.avx.cvt.ps2dq.256", NULL, &x, 1);
  LLVMValueRef whole = LLVMBuildSIToFP(ir->builder, exponent, e->vector, "");
  LLVMValueRef fraction = exp2_fraction(e, sptx_ir_fsub(ir, x, whole));
  exponent = LLVMBuildShl(ir->builder, exponent, sptx_ir_splat(ir, sptx_ir_i32(ir, 23), e->lanes), "");
  LLVMValueRef bits = sptx_ir_add(ir, LLVMBuildBitCast(ir->builder, fraction, integers, ""), exponent);
  LLVMValueRef value = LLVMBuildBitCast(ir->builder, bits, e->vector, "");
  return sptx_ir_select(ir, sptx_ir_fcompare(ir, LLVMRealOLT, x, least), splat(e, 0), value);
}

LLVMValueRef sptx_x86_log2(sptx_x86_emitter *e, LLVMValueRef x) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef integers = LLVMVectorType(ir->i32, e->lanes);
  LLVMValueRef bits = LLVMBuildBitCast(ir->builder, x, integers, "");
  /* x = 2^k m with m in [sqrt(1/2), sqrt(2)). */
  LLVMValueRef root_half = sptx_ir_splat(ir, sptx_ir_i32(ir, 0x3f3504f3), e->lanes);
  LLVMValueRef k = LLVMBuildAShr(ir->builder, sptx_ir_sub(ir, bits, root_half),
                                 sptx_ir_splat(ir, sptx_ir_i32(ir, 23), e->lanes), "");
  LLVMValueRef shifted = LLVMBuildShl(ir->builder, k, sptx_ir_splat(ir, sptx_ir_i32(ir, 23), e->lanes), "");
  LLVMValueRef m = LLVMBuildBitCast(ir->builder, sptx_ir_sub(ir, bits, shifted), e->vector, "");
  /* ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172. */
  LLVMValueRef s = sptx_ir_fdiv(ir, sptx_ir_fsub(ir, m, splat(e, 1)), sptx_ir_fadd(ir, m, splat(e, 1)));
  LLVMValueRef square = sptx_ir_fmul(ir, s, s), series = splat(e, 2 * M_LOG2E / 9);
  for (int odd = 7; odd >= 1; odd -= 2)
    series = sptx_ir_fma(ir, series, square, splat(e, 2 * M_LOG2E / odd));
  LLVMValueRef result = sptx_ir_fma(ir, s, series, LLVMBuildSIToFP(ir->builder, k, e->vector, ""));
  return sptx_ir_select(ir, sptx_ir_fcompare(ir, LLVMRealOLT, x, splat(e, INFINITY)), result, x);
}

/* By -|x|, so that exp2's argument is never positive; the sign is put back at the end. */
LLVMValueRef sptx_x86_tanh(sptx_x86_emitter *e, LLVMValueRef x) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef magnitude = sptx_ir_intrinsic(ir, "llvm.fabs", e->vector, &x, 1);
  LLVMValueRef power = sptx_x86_exp2(e, LLVMBuildFNeg(ir->builder, magnitude, ""));
  LLVMValueRef one = splat(e, 1);
  LLVMValueRef value = sptx_ir_fdiv(ir, sptx_ir_fsub(ir, one, power), sptx_ir_fadd(ir, one, power));
  return sptx_ir_intrinsic(ir, "llvm.copysign", e->vector, (LLVMValueRef[]){value, x}, 2);
}

LLVMValueRef sptx_x86_load_floats(sptx_x86_emitter *e, enum sptx_element element, LLVMValueRef address,
                                  unsigned lanes) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef floats = lanes == 1 ? ir->f32 : LLVMVectorType(ir->f32, lanes);
  if (element == SPTX_ELEMENT_F32)
    return sptx_ir_load(ir, floats, address, 4);
  LLVMTypeRef scalar = element == SPTX_ELEMENT_F16 ? ir->f16 : ir->i16;
  LLVMValueRef raw = sptx_ir_load(ir, lanes == 1 ? scalar : LLVMVectorType(scalar, lanes), address, 2);
  if (element == SPTX_ELEMENT_F16)
    return LLVMBuildFPExt(ir->builder, raw, floats, "");
  LLVMTypeRef integers = lanes == 1 ? ir->i32 : LLVMVectorType(ir->i32, lanes);
  LLVMValueRef wide = LLVMBuildZExt(ir->builder, raw, integers, "");
  wide = LLVMBuildShl(ir->builder, wide, sptx_ir_splat(ir, sptx_ir_i32(ir, 16), lanes), "");
  return LLVMBuildBitCast(ir->builder, wide, floats, "");
}

/* bfloat16 by integer arithmetic: the instruction flushes subnormals, and AVX2 has none. */
static LLVMValueRef round_bf16(sptx_x86_emitter *e, LLVMValueRef value, unsigned lanes) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef integers = LLVMVectorType(ir->i32, lanes), halves = LLVMVectorType(ir->i16, lanes);
  LLVMValueRef sixteen = sptx_ir_splat(ir, sptx_ir_i32(ir, 16), lanes);
  LLVMValueRef bits = LLVMBuildBitCast(ir->builder, value, integers, "");
  LLVMValueRef odd = LLVMBuildAnd(ir->builder, LLVMBuildLShr(ir->builder, bits, sixteen, ""),
                                  sptx_ir_splat(ir, sptx_ir_i32(ir, 1), lanes), "");
  LLVMValueRef half = sptx_ir_splat(ir, sptx_ir_i32(ir, 0x7fff), lanes);
  LLVMValueRef rounded = sptx_ir_add(ir, bits, sptx_ir_add(ir, odd, half));
  LLVMValueRef nan = sptx_ir_fcompare(ir, LLVMRealUNO, value, value);
  rounded = sptx_ir_select(ir, nan, sptx_ir_splat(ir, sptx_ir_i32(ir, 0x7fc00000), lanes), rounded);
  return LLVMBuildTrunc(ir->builder, LLVMBuildLShr(ir->builder, rounded, sixteen, ""), halves, "");
}

void sptx_x86_store_floats(sptx_x86_emitter *e, enum sptx_element element, LLVMValueRef value,
                           LLVMValueRef address) {
  sptx_ir *ir = &e->ir;
  unsigned lanes = LLVMGetVectorSize(LLVMTypeOf(value));
  if (element == SPTX_ELEMENT_F32) {
    sptx_ir_store(ir, value, address, 4);
  } else if (element == SPTX_ELEMENT_F16) {
    sptx_ir_store(ir, LLVMBuildFPTrunc(ir->builder, value, LLVMVectorType(ir->f16, lanes), ""), address, 2);
  } else {
    sptx_ir_store(ir, round_bf16(e, value, lanes), address, 2);
  }
}
