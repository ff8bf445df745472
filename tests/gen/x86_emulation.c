/* The instructions by their definitions, and the rewriting; see x86_emulation.h. */
#include "tests/gen/x86_emulation.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

static _Thread_local unsigned char tiles[TILES][ROWS][ROW_BYTES];
static _Thread_local bool configured;

static float widen(uint16_t half) {
  uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static void load_configuration(const unsigned char *bytes) {
  bool whole = bytes[0] == 1;
  for (int tile = 0; tile < TILES; tile++)
    whole = whole && bytes[16 + 2 * tile] == ROW_BYTES && bytes[48 + tile] == ROWS;
  cr_assert(whole, "the emulation knows whole tiles only");
  configured = true;
}

static void release(void) {
  configured = false;
}

static void zero(int64_t tile) {
  memset(tiles[tile], 0, sizeof tiles[tile]);
}

static void load(int64_t tile, const unsigned char *from, int64_t stride) {
  cr_assert(configured, "a tile is loaded before the tiles are configured");
  for (int64_t row = 0; row < ROWS; row++)
    memcpy(tiles[tile][row], from + row * stride, ROW_BYTES);
}

static void store(int64_t tile, unsigned char *to, int64_t stride) {
  for (int64_t row = 0; row < ROWS; row++)
    memcpy(to + row * stride, tiles[tile][row], ROW_BYTES);
}

/* sum[m][n] += left[m][2k] right[k][2n] + left[m][2k + 1] right[k][2n + 1]. */
static void multiply(int64_t sum, int64_t left, int64_t right) {
  float sums[ROWS][ROW_BYTES / 4];
  uint16_t a[ROWS][ROW_BYTES / 2], b[ROWS][ROW_BYTES / 2];
  memcpy(sums, tiles[sum], sizeof sums), memcpy(a, tiles[left], sizeof a), memcpy(b, tiles[right], sizeof b);
  for (int m = 0; m < ROWS; m++)
    for (int n = 0; n < ROW_BYTES / 4; n++)
      for (int k = 0; k < ROWS; k++)
        for (int half = 0; half < 2; half++)
          sums[m][n] += widen(a[m][2 * k + half]) * widen(b[k][2 * n + half]);
  memcpy(tiles[sum], sums, sizeof sums);
}

static void scalef(float *to, const float *x, const float *power, const float *other, int64_t mask) {
  for (int lane = 0; lane < 16; lane++)
    to[lane] =
        mask >> lane & 1 ? (isnan(power[lane]) ? NAN : x[lane] * exp2f(floorf(power[lane]))) : other[lane];
}

/* VCVTNEPS2BF16: to nearest, subnormal numbers become 0. */
static void narrow(uint16_t *to, const float *from, int64_t lanes) {
  for (int64_t lane = 0; lane < lanes; lane++) {
    uint32_t bits;
    memcpy(&bits, from + lane, sizeof bits);
    if (isnan(from[lane]))
      to[lane] = (uint16_t)(bits >> 16 | 0x40);
    else if (fabsf(from[lane]) < 0x1p-126f)
      to[lane] = (uint16_t)(bits >> 16 & 0x8000);
    else
      to[lane] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
}

/* VCVTNE2PS2BF16: the first source gives the upper half. */
static void narrow_two(uint16_t *to, const float *upper, const float *lower) {
  narrow(to, lower, 16);
  narrow(to + 16, upper, 16);
}

static const struct {
  const char *name;
  void (*function)(void);
} replacements[] = {
    {"llvm.x86.ldtilecfg", (void (*)(void))load_configuration},
    {"llvm.x86.tilerelease", release},
    {"llvm.x86.tilezero", (void (*)(void))zero},
    {"llvm.x86.tileloadd64", (void (*)(void))load},
    {"llvm.x86.tilestored64", (void (*)(void))store},
    {"llvm.x86.tdpbf16ps", (void (*)(void))multiply},
    {"llvm.x86.avx512.mask.scalef.ps.512", (void (*)(void))scalef},
    {"llvm.x86.avx512bf16.cvtne2ps2bf16.512", (void (*)(void))narrow_two},
};

typedef struct rewriter {
  LLVMContextRef context;
  LLVMBuilderRef builder;
  LLVMBasicBlockRef entry; /* of the function at hand, where stack variables are made */
  LLVMTypeRef i64, pointer;
} rewriter;

static LLVMValueRef variable(const rewriter *r, LLVMTypeRef type) {
  LLVMBuilderRef builder = LLVMCreateBuilderInContext(r->context);
  LLVMPositionBuilderBefore(builder, LLVMGetFirstInstruction(r->entry));
  LLVMValueRef value = LLVMBuildAlloca(builder, type, "");
  LLVMDisposeBuilder(builder);
  return value;
}

/* Calls the C function: vectors go by address, integers as 64 bits, a vector result comes through the first
 * argument. */
static LLVMValueRef call(const rewriter *r, void (*function)(void), LLVMTypeRef result,
                         LLVMValueRef *operands, unsigned count) {
  LLVMTypeRef types[8];
  LLVMValueRef arguments[8], returned = NULL;
  unsigned used = 0;
  if (LLVMGetTypeKind(result) != LLVMVoidTypeKind)
    types[used] = r->pointer, arguments[used++] = returned = variable(r, result);
  for (unsigned k = 0; k < count; k++) {
    LLVMTypeRef type = LLVMTypeOf(operands[k]);
    LLVMValueRef value = operands[k];
    if (LLVMGetTypeKind(type) == LLVMVectorTypeKind) {
      value = variable(r, type);
      LLVMBuildStore(r->builder, operands[k], value);
    } else if (LLVMGetTypeKind(type) == LLVMIntegerTypeKind) {
      value = LLVMBuildZExt(r->builder, value, r->i64, "");
    }
    types[used] = LLVMTypeOf(value);
    arguments[used++] = value;
  }
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(r->context), types, used, false);
  LLVMValueRef address = LLVMConstIntToPtr(LLVMConstInt(r->i64, (uintptr_t)function, false), r->pointer);
  LLVMBuildCall2(r->builder, type, address, arguments, used, "");
  return returned ? LLVMBuildLoad2(r->builder, result, returned, "") : NULL;
}

/* Of each 32-bit number of a vector, the bits of a mask. */
static LLVMValueRef and_all(const rewriter *r, LLVMValueRef vector, uint32_t mask) {
  LLVMTypeRef type = LLVMTypeOf(vector);
  LLVMValueRef lanes[16];
  for (unsigned k = 0; k < LLVMGetVectorSize(type); k++)
    lanes[k] = LLVMConstInt(LLVMGetElementType(type), mask, false);
  return LLVMBuildAnd(r->builder, vector, LLVMConstVector(lanes, LLVMGetVectorSize(type)), "");
}

/* Floats, from and as 32-bit numbers; subnormal ones become 0. */
static LLVMValueRef flush(const rewriter *r, LLVMValueRef bits) {
  LLVMValueRef exponent = and_all(r, bits, 0x7f800000);
  LLVMValueRef none = LLVMBuildICmp(r->builder, LLVMIntEQ, exponent, LLVMConstNull(LLVMTypeOf(bits)), "");
  return LLVMBuildSelect(r->builder, none, and_all(r, bits, 0x80000000), bits, "");
}

/* VDPBF16PS: the odd halves first; each sum is rounded to nearest, and subnormal numbers are 0 on the way in
 * and out. */
static LLVMValueRef emit_dot(const rewriter *r, LLVMTypeRef floats, LLVMTypeRef words,
                             LLVMValueRef *sources) {
  unsigned fma = LLVMLookupIntrinsicID("llvm.fma", 8);
  LLVMTypeRef type = LLVMIntrinsicGetType(r->context, fma, &floats, 1);
  LLVMModuleRef module = LLVMGetGlobalParent(LLVMGetBasicBlockParent(r->entry));
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(module, fma, &floats, 1), factors[3];
  LLVMValueRef sum = flush(r, sources[0]), sixteen[16];
  for (unsigned k = 0; k < LLVMGetVectorSize(words); k++)
    sixteen[k] = LLVMConstInt(LLVMGetElementType(words), 16, false);
  LLVMValueRef places = LLVMConstVector(sixteen, LLVMGetVectorSize(words));
  for (int half = 1; half >= 0; half--) {
    for (int k = 1; k < 3; k++) {
      LLVMValueRef value =
          half ? and_all(r, sources[k], 0xffff0000) : LLVMBuildShl(r->builder, sources[k], places, "");
      factors[k - 1] = LLVMBuildBitCast(r->builder, flush(r, value), floats, "");
    }
    factors[2] = LLVMBuildBitCast(r->builder, sum, floats, "");
    LLVMValueRef result = LLVMBuildCall2(r->builder, type, function, factors, 3, "");
    sum = flush(r, LLVMBuildBitCast(r->builder, result, words, ""));
  }
  return sum;
}

/* The instruction is most of what kernels do: a function of the module itself, which takes vectors in
 * registers, compiles and runs faster than one in C. */
static LLVMValueRef replace_dot(const rewriter *r, LLVMValueRef instruction) {
  LLVMTypeRef floats = LLVMTypeOf(instruction);
  LLVMTypeRef words = LLVMVectorType(LLVMInt32TypeInContext(r->context), LLVMGetVectorSize(floats));
  LLVMTypeRef type = LLVMFunctionType(words, (LLVMTypeRef[]){words, words, words}, 3, false);
  LLVMModuleRef module = LLVMGetGlobalParent(LLVMGetBasicBlockParent(r->entry));
  const char *name = LLVMGetVectorSize(floats) == 16 ? "emulated.dot.512" : "emulated.dot.256";
  LLVMValueRef function = LLVMGetNamedFunction(module, name), operands[3];
  if (!function) {
    function = LLVMAddFunction(module, name, type);
    LLVMSetLinkage(function, LLVMInternalLinkage);
    LLVMAddAttributeAtIndex(
        function, LLVMAttributeFunctionIndex,
        LLVMCreateEnumAttribute(r->context, LLVMGetEnumAttributeKindForName("noinline", 8), 0));
    rewriter inside = *r;
    inside.builder = LLVMCreateBuilderInContext(r->context);
    inside.entry = LLVMAppendBasicBlockInContext(r->context, function, "");
    LLVMPositionBuilderAtEnd(inside.builder, inside.entry);
    LLVMGetParams(function, operands);
    LLVMBuildRet(inside.builder, emit_dot(&inside, floats, words, operands));
    LLVMDisposeBuilder(inside.builder);
  }
  for (unsigned k = 0; k < 3; k++)
    operands[k] = LLVMBuildBitCast(r->builder, LLVMGetOperand(instruction, k), words, "");
  LLVMValueRef result = LLVMBuildCall2(r->builder, type, function, operands, 3, "");
  return LLVMBuildBitCast(r->builder, result, floats, "");
}

static LLVMValueRef replace_call(const rewriter *r, LLVMValueRef instruction) {
  size_t length;
  const char *name = LLVMGetValueName2(LLVMGetCalledValue(instruction), &length);
  unsigned count = LLVMGetNumArgOperands(instruction);
  LLVMValueRef operands[8];
  if (strncmp(name, "llvm.x86.avx512bf16.dpbf16ps", 28) == 0)
    return replace_dot(r, instruction);
  for (size_t k = 0; k < sizeof replacements / sizeof *replacements; k++)
    if (strcmp(name, replacements[k].name) == 0) {
      bool scaled = replacements[k].function == (void (*)(void))scalef;
      for (unsigned a = 0; a < count; a++)
        operands[a] = LLVMGetOperand(instruction, a);
      return call(r, replacements[k].function, LLVMTypeOf(instruction), operands, count - scaled)
                 ?: instruction;
    }
  cr_assert(strncmp(name, "llvm.x86.avx512", 15) != 0 && strncmp(name, "llvm.x86.t", 10) != 0,
            "no emulation of %s", name);
  return NULL;
}

static LLVMValueRef replace_conversion(const rewriter *r, LLVMValueRef instruction) {
  LLVMTypeRef type = LLVMTypeOf(instruction);
  if (LLVMGetTypeKind(type) != LLVMVectorTypeKind ||
      LLVMGetTypeKind(LLVMGetElementType(type)) != LLVMBFloatTypeKind)
    return NULL;
  LLVMValueRef operands[] = {LLVMGetOperand(instruction, 0),
                             LLVMConstInt(r->i64, LLVMGetVectorSize(type), false)};
  return call(r, (void (*)(void))narrow, type, operands, 2);
}

static void rewrite(rewriter *r, LLVMValueRef instruction) {
  LLVMValueRef replaced = NULL;
  LLVMPositionBuilderBefore(r->builder, instruction);
  if (LLVMGetInstructionOpcode(instruction) == LLVMCall)
    replaced = replace_call(r, instruction);
  else if (LLVMGetInstructionOpcode(instruction) == LLVMFPTrunc)
    replaced = replace_conversion(r, instruction);
  if (!replaced)
    return;
  if (replaced != instruction)
    LLVMReplaceAllUsesWith(instruction, replaced);
  LLVMInstructionEraseFromParent(instruction);
}

static void retarget(LLVMValueRef function) {
  static const char *const names[] = {"target-cpu", "target-features", "min-legal-vector-width"};
  for (size_t k = 0; k < sizeof names / sizeof *names; k++)
    LLVMRemoveStringAttributeAtIndex(function, LLVMAttributeFunctionIndex, names[k],
                                     (unsigned)strlen(names[k]));
  LLVMAddTargetDependentFunctionAttr(function, "target-cpu", "x86-64-v3");
}

void x86_emulate(LLVMModuleRef module) {
  LLVMContextRef context = LLVMGetModuleContext(module);
  rewriter r = {context, LLVMCreateBuilderInContext(context), NULL, LLVMInt64TypeInContext(context),
                LLVMPointerTypeInContext(context, 0)};
  for (LLVMValueRef function = LLVMGetFirstFunction(module); function;
       function = LLVMGetNextFunction(function)) {
    if (LLVMIsDeclaration(function))
      continue;
    retarget(function);
    r.entry = LLVMGetEntryBasicBlock(function);
    for (LLVMBasicBlockRef block = r.entry; block; block = LLVMGetNextBasicBlock(block))
      for (LLVMValueRef next, instruction = LLVMGetFirstInstruction(block); instruction; instruction = next) {
        next = LLVMGetNextInstruction(instruction);
        rewrite(&r, instruction);
      }
  }
  LLVMDisposeBuilder(r.builder);
}
