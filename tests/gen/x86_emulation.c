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

static LLVMValueRef replace_call(const rewriter *r, LLVMValueRef instruction) {
  size_t length;
  const char *name = LLVMGetValueName2(LLVMGetCalledValue(instruction), &length);
  unsigned count = LLVMGetNumArgOperands(instruction);
  LLVMValueRef operands[8];
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
