/* Decoding functions into flat code, scheduling blocks, plain instructions; see simt.h. */
#include "tests/support/simt_internal.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- values ---- */

static int field_count(LLVMTypeRef type) {
  switch (LLVMGetTypeKind(type)) {
  case LLVMVectorTypeKind:
    return (int)LLVMGetVectorSize(type);
  case LLVMStructTypeKind:
    return (int)LLVMCountStructElementTypes(type);
  default:
    return 1;
  }
}

static LLVMTypeRef field_type(LLVMTypeRef type) {
  switch (LLVMGetTypeKind(type)) {
  case LLVMVectorTypeKind:
    return LLVMGetElementType(type);
  case LLVMStructTypeKind:
    return LLVMStructGetTypeAtIndex(type, 0);
  default:
    return type;
  }
}

static int bits_of(LLVMTypeRef type) {
  switch (LLVMGetTypeKind(type)) {
  case LLVMIntegerTypeKind:
    return (int)LLVMGetIntTypeWidth(type);
  case LLVMHalfTypeKind:
  case LLVMBFloatTypeKind:
    return 16;
  case LLVMFloatTypeKind:
    return 32;
  default:
    return 64;
  }
}

static int find_value(simt_code *code, LLVMValueRef value) {
  for (unsigned slot = (unsigned)((uintptr_t)value >> 4) % SIMT_HASH;; slot = (slot + 1) % SIMT_HASH)
    if (!code->key[slot] || code->key[slot] == value)
      return (int)slot;
}

static int new_value(simt_code *code, LLVMValueRef value) {
  LLVMTypeRef type = LLVMTypeOf(value);
  bool nothing = LLVMGetTypeKind(type) == LLVMVoidTypeKind;
  int slot = find_value(code, value);
  code->key[slot] = value;
  code->place[slot] = code->words;
  code->words += nothing ? 0 : field_count(type);
  return code->place[slot];
}

static uint64_t constant_bits(LLVMValueRef value, bool *known) {
  LLVMBool lossy;
  *known = true;
  if (LLVMIsAConstantInt(value)) {
    uint64_t all = LLVMConstIntGetZExtValue(value);
    return all;
  }
  if (LLVMIsAConstantFP(value)) {
    float f = (float)LLVMConstRealGetDouble(value, &lossy);
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
  }
  if (LLVMIsUndef(value) || LLVMIsNull(value))
    return 0;
  if (!LLVMIsAConstantExpr(value)) {
    *known = false;
    return 0;
  }
  if (LLVMGetConstOpcode(value) == LLVMPtrToInt)
    return SIMT_SHARED_BASE; /* of the only global, shared memory */
  if (LLVMGetConstOpcode(value) != LLVMAdd) {
    *known = false;
    return 0;
  }
  bool both;
  uint64_t sum = constant_bits(LLVMGetOperand(value, 0), &both);
  sum += constant_bits(LLVMGetOperand(value, 1), known);
  *known &= both;
  return (uint32_t)sum; /* the address is 32 bits */
}

static int operand_place(simt_code *code, LLVMValueRef value) {
  int slot = find_value(code, value);
  if (code->key[slot])
    return code->place[slot];
  if (LLVMIsABasicBlock(value) || LLVMIsAFunction(value) || LLVMIsAInlineAsm(value))
    return -1;
  bool known = true;
  int count = field_count(LLVMTypeOf(value)), place = new_value(code, value);
  for (int i = 0; i < count; i++) {
    LLVMValueRef part = count == 1 ? value : LLVMGetAggregateElement(value, (unsigned)i);
    code->constant[code->constant_count++] = (simt_constant){place + i, constant_bits(part, &known)};
    if (!known || code->constant_count == SIMT_MAX_CONSTANTS)
      code->failure = "a constant of unknown kind, or too many";
    if (!known)
      return place;
  }
  return place;
}

/* ---- decoding ---- */

/* Reverse post-order with the first successor first: a loop's exit comes after its body, a join after both
 * branches. */
static void visit(simt_code *code, LLVMBasicBlockRef block) {
  int index = 0;
  while (code->block[index] != block)
    index++;
  if (code->rank[index] >= 0)
    return;
  code->rank[index] = 0;
  LLVMValueRef end = LLVMGetBasicBlockTerminator(block);
  for (unsigned i = LLVMGetNumSuccessors(end); i-- > 0;)
    visit(code, LLVMGetSuccessor(end, i));
  code->rank[index] = --code->next_rank;
}

static int rank_of(const simt_code *code, LLVMBasicBlockRef block) {
  int index = 0;
  while (code->block[index] != block)
    index++;
  return code->rank[index];
}

static void decode_call(simt_code *code, LLVMValueRef value, simt_instruction *out) {
  LLVMValueRef callee = LLVMGetCalledValue(value);
  size_t length;
  out->text = LLVMIsAInlineAsm(callee) ? LLVMGetInlineAsmAsmString(callee, &length)
                                       : LLVMGetValueName2(callee, &length);
  out->operand_count = (int)LLVMGetNumArgOperands(value);
  (void)code;
}

static void decode_instruction(simt_code *code, LLVMValueRef value) {
  if (code->count == SIMT_MAX_CODE) {
    code->failure = "too much code";
    return;
  }
  simt_instruction *out = &code->instruction[code->count++];
  *out = (simt_instruction){.opcode = LLVMGetInstructionOpcode(value),
                            .operand_count = LLVMGetNumOperands(value)};
  if (out->opcode == LLVMCall)
    decode_call(code, value, out);
  if (out->operand_count > SIMT_MAX_OPERANDS) {
    code->failure = "too many operands";
    return;
  }
  LLVMTypeRef type = LLVMTypeOf(value);
  out->fields = field_count(type);
  out->bits = bits_of(field_type(type));
  out->type = LLVMGetTypeKind(field_type(type));
  for (int i = 0; i < out->operand_count; i++)
    out->operand[i] = operand_place(code, LLVMGetOperand(value, (unsigned)i));
  if (out->operand_count > 0 && out->opcode != LLVMBr) {
    LLVMTypeRef from = LLVMTypeOf(LLVMGetOperand(value, 0));
    out->from_bits = bits_of(field_type(from));
    out->from_type = LLVMGetTypeKind(field_type(from));
    out->from_fields = field_count(from);
  }
  LLVMValueRef pointer = NULL;
  if (out->opcode == LLVMLoad)
    pointer = LLVMGetOperand(value, 0);
  if (out->opcode == LLVMStore)
    pointer = LLVMGetOperand(value, 1);
  out->is_slot = pointer && LLVMIsAAllocaInst(pointer);
  if (out->opcode == LLVMICmp)
    out->predicate = (int)LLVMGetICmpPredicate(value);
  if (out->opcode == LLVMFCmp)
    out->predicate = (int)LLVMGetFCmpPredicate(value);
  if (out->opcode == LLVMExtractValue)
    out->index = (int)LLVMGetIndices(value)[0];
  if (out->opcode == LLVMBr && LLVMIsConditional(value)) {
    out->operand[0] = operand_place(code, LLVMGetCondition(value));
    out->operand_count = 3;
  } else if (out->opcode == LLVMBr) {
    out->operand_count = 1;
  }
  for (unsigned i = 0; out->opcode == LLVMBr && i < LLVMGetNumSuccessors(value); i++)
    out->target[i] = rank_of(code, LLVMGetSuccessor(value, i));
  out->result = new_value(code, value);
}

static void decode(simt_code *code, LLVMValueRef function) {
  int index = 0;
  for (LLVMBasicBlockRef b = LLVMGetFirstBasicBlock(function); b; b = LLVMGetNextBasicBlock(b)) {
    code->rank[index] = -1;
    code->block[index++] = b;
    if (index == SIMT_MAX_BLOCKS) {
      code->failure = "too many blocks";
      return;
    }
  }
  code->block_count = code->next_rank = index;
  for (unsigned i = 0; i < LLVMCountParams(function); i++)
    new_value(code, LLVMGetParam(function, i));
  visit(code, LLVMGetEntryBasicBlock(function));
  for (int rank = 0; rank < code->block_count; rank++)
    for (int b = 0; b < code->block_count; b++)
      if (code->rank[b] == rank) {
        code->start[rank] = code->count;
        for (LLVMValueRef i = LLVMGetFirstInstruction(code->block[b]); i; i = LLVMGetNextInstruction(i))
          decode_instruction(code, i);
      }
}

/* ---- plain instructions ---- */

static int64_t sign(uint64_t value, int bits) {
  return bits == 64 ? (int64_t)value : (int64_t)(value << (64 - bits)) >> (64 - bits);
}

static uint64_t cut(uint64_t value, int bits) {
  return bits == 64 ? value : value & (((uint64_t)1 << bits) - 1);
}

static uint64_t integer(int opcode, uint64_t a, uint64_t b, int bits) {
  switch (opcode) {
  case LLVMAdd:
    return cut(a + b, bits);
  case LLVMSub:
    return cut(a - b, bits);
  case LLVMMul:
    return cut(a * b, bits);
  case LLVMUDiv:
    return b ? a / b : UINT64_MAX;
  case LLVMURem:
    return b ? a % b : a;
  case LLVMShl:
    return cut(a << (b & 63), bits);
  case LLVMLShr:
    return a >> (b & 63);
  case LLVMAShr:
    return cut((uint64_t)(sign(a, bits) >> (b & 63)), bits);
  case LLVMAnd:
    return a & b;
  case LLVMOr:
    return a | b;
  default:
    return a ^ b;
  }
}

static bool compare_integers(int predicate, uint64_t a, uint64_t b, int bits) {
  int64_t x = sign(a, bits), y = sign(b, bits);
  switch (predicate) {
  case LLVMIntEQ:
    return a == b;
  case LLVMIntNE:
    return a != b;
  case LLVMIntUGT:
    return a > b;
  case LLVMIntUGE:
    return a >= b;
  case LLVMIntULT:
    return a < b;
  case LLVMIntULE:
    return a <= b;
  case LLVMIntSGT:
    return x > y;
  case LLVMIntSGE:
    return x >= y;
  case LLVMIntSLT:
    return x < y;
  default:
    return x <= y;
  }
}

static bool compare_floats(int predicate, float a, float b) {
  bool unordered = isnan(a) || isnan(b);
  if (predicate >= LLVMRealUNO)
    return unordered || (predicate == LLVMRealUGT   ? a > b
                         : predicate == LLVMRealUGE ? a >= b
                         : predicate == LLVMRealULT ? a < b
                         : predicate == LLVMRealULE ? a <= b
                                                    : a != b);
  return !unordered && (predicate == LLVMRealOEQ   ? a == b
                        : predicate == LLVMRealOGT ? a > b
                        : predicate == LLVMRealOGE ? a >= b
                        : predicate == LLVMRealOLT ? a < b
                        : predicate == LLVMRealOLE ? a <= b
                                                   : a != b);
}

static uint64_t floating(int opcode, float a, float b) {
  float result = opcode == LLVMFAdd ? a + b : opcode == LLVMFSub ? a - b : opcode == LLVMFMul ? a * b : a / b;
  return simt_from_float(result);
}

static uint64_t convert(const simt_instruction *in, uint64_t a) {
  switch (in->opcode) {
  case LLVMSExt:
    return cut((uint64_t)sign(a, in->from_bits), in->bits);
  case LLVMSIToFP:
    return simt_from_float((float)sign(a, in->from_bits));
  case LLVMUIToFP:
    return simt_from_float((float)a);
  case LLVMFPExt:
    return simt_from_float(in->from_type == LLVMBFloatTypeKind ? simt_to_float((uint32_t)a << 16)
                                                               : simt_half_to_float((uint16_t)a));
  case LLVMFPTrunc:
    return in->type == LLVMBFloatTypeKind ? simt_to_bfloat(simt_to_float(a)) : simt_to_half(simt_to_float(a));
  default:
    return cut(a, in->bits);
  }
}

static void copy_memory(simt *s, const simt_instruction *in, int t) {
  bool load = in->opcode == LLVMLoad;
  int bytes = (load ? in->bits : in->from_bits) / 8, fields = load ? in->fields : in->from_fields;
  char *address = (char *)(uintptr_t)AT(s, load ? in->operand[0] : in->operand[1], 0, t);
  for (int f = 0; f < fields; f++) {
    if (load) {
      AT(s, in->result, f, t) = 0;
      memcpy(&AT(s, in->result, f, t), address + f * bytes, (size_t)bytes);
    } else {
      memcpy(address + f * bytes, &AT(s, in->operand[0], f, t), (size_t)bytes);
    }
  }
}

static bool run_plain(simt *s, const simt_instruction *in, int t) {
  uint64_t a = in->operand_count > 0 && in->operand[0] >= 0 ? AT(s, in->operand[0], 0, t) : 0;
  uint64_t b = in->operand_count > 1 && in->operand[1] >= 0 ? AT(s, in->operand[1], 0, t) : 0;
  uint64_t *result = &AT(s, in->result, 0, t);
  switch (in->opcode) {
  case LLVMAlloca:
    return true;
  case LLVMLoad:
  case LLVMStore:
    if (!in->is_slot)
      copy_memory(s, in, t);
    else if (in->opcode == LLVMLoad)
      *result = b = a;
    else
      AT(s, in->operand[1], 0, t) = a;
    return true;
  case LLVMGetElementPtr:
    *result = a + b;
    return true;
  case LLVMAdd:
  case LLVMSub:
  case LLVMMul:
  case LLVMUDiv:
  case LLVMURem:
  case LLVMShl:
  case LLVMLShr:
  case LLVMAShr:
  case LLVMAnd:
  case LLVMOr:
  case LLVMXor:
    *result = integer(in->opcode, a, b, in->bits);
    return true;
  case LLVMFAdd:
  case LLVMFSub:
  case LLVMFMul:
  case LLVMFDiv:
    *result = floating(in->opcode, simt_to_float(a), simt_to_float(b));
    return true;
  case LLVMFNeg:
    *result = a ^ 0x80000000u;
    return true;
  case LLVMICmp:
    *result = compare_integers(in->predicate, a, b, in->from_bits);
    return true;
  case LLVMFCmp:
    *result = compare_floats(in->predicate, simt_to_float(a), simt_to_float(b));
    return true;
  case LLVMSelect:
    *result = a & 1 ? b : AT(s, in->operand[2], 0, t);
    return true;
  case LLVMZExt:
  case LLVMSExt:
  case LLVMTrunc:
  case LLVMBitCast:
  case LLVMIntToPtr:
  case LLVMPtrToInt:
  case LLVMSIToFP:
  case LLVMUIToFP:
  case LLVMFPExt:
  case LLVMFPTrunc:
    *result = convert(in, a);
    return in->fields == 1 && in->from_fields == 1;
  case LLVMExtractValue:
    *result = AT(s, in->operand[0], in->index, t);
    return true;
  case LLVMExtractElement:
    *result = AT(s, in->operand[0], (int)b, t);
    return true;
  case LLVMInsertElement:
    for (int f = 0; f < in->fields; f++)
      AT(s, in->result, f, t) = AT(s, in->operand[0], f, t);
    AT(s, in->result, (int)AT(s, in->operand[2], 0, t), t) = b;
    return true;
  default:
    return false;
  }
}

/* ---- control ---- */

/* Runs one block for the threads that stand at it; their ranks move on. */
static const char *run_block(simt *s, int rank) {
  const simt_code *code = s->code;
  for (int t = 0; t < s->threads; t++)
    s->active[t] = s->rank[t] == rank;
  for (const simt_instruction *in = &code->instruction[code->start[rank]];; in++) {
    if (in->opcode == LLVMBr || in->opcode == LLVMRet) {
      for (int t = 0; t < s->threads; t++)
        if (s->active[t])
          s->rank[t] = in->opcode == LLVMRet             ? INT32_MAX
                       : in->operand_count == 1          ? in->target[0]
                       : AT(s, in->operand[0], 0, t) & 1 ? in->target[0]
                                                         : in->target[1];
      return NULL;
    }
    if (in->opcode == LLVMCall) {
      const char *failure = simt_call(s, in);
      if (failure)
        return failure;
      continue;
    }
    for (int t = 0; t < s->threads; t++)
      if (s->active[t] && !run_plain(s, in, t))
        return "an instruction it does not know";
  }
}

static const char *run_cta(simt *s, const sptx_gpu_args *args, const void *params) {
  memset(s->rank, 0, sizeof s->rank);
  memset(s->shared, 0xff, sizeof s->shared);
  s->epoch++;
  for (int t = 0; t < s->threads; t++) {
    s->copy_count[t] = 0;
    AT(s, 0, 0, t) = (uintptr_t)args;
    AT(s, 1, 0, t) = (uintptr_t)params;
  }
  for (;;) {
    int rank = INT32_MAX;
    for (int t = 0; t < s->threads; t++)
      rank = s->rank[t] < rank ? s->rank[t] : rank;
    if (rank == INT32_MAX)
      break;
    const char *failure = run_block(s, rank);
    if (failure)
      return failure;
  }
  for (int t = 0; t < s->threads; t++)
    if (s->copy_count[t])
      return "the kernel ends with copies under way";
  return NULL;
}

static enum sptx_code run_launch(const sptx_gpu_plan *plan, const sptx_gpu_launch *launch,
                                 LLVMModuleRef module, const sptx_gpu_args *args, sptx_error *error) {
  const char *symbol = plan->kernels[launch->kernel].symbol, *failure = NULL;
  simt *s = calloc(1, sizeof *s);
  simt_code *code = calloc(1, sizeof *code);
  decode(code, LLVMGetNamedFunction(module, symbol));
  failure = code->failure;
  s->code = code;
  s->threads = (int)launch->block;
  s->shared_bytes = (int)launch->shared_bytes;
  s->values = malloc((size_t)(code->words + 1) * (size_t)s->threads * 8);
  memset(s->values, 0xa5, (size_t)(code->words + 1) * (size_t)s->threads * 8);
  for (int t = 0; t < s->threads; t++)
    for (int i = 0; i < code->constant_count; i++)
      AT(s, code->constant[i].place, 0, t) = code->constant[i].bits;
  if (s->threads > SIMT_MAX_THREADS || launch->map_count > 0 || s->shared_bytes > SIMT_SHARED_BYTES)
    failure = "a launch that is too large, or has tensor maps";
  for (s->cta = 0; !failure && s->cta < (int)launch->grid[0]; s->cta++)
    failure = run_cta(s, args, launch->params);
  enum sptx_code result = SPTX_CODE_OK;
  if (failure)
    result =
        sptx_fail(error, SPTX_CODE_UNSUPPORTED, "%s, CTA %d: %s %s", symbol, s->cta - 1, failure, s->detail);
  free(s->values);
  free(code);
  free(s);
  return result;
}

enum sptx_code simt_run(const sptx_gpu_plan *plan, const sptx_gpu_args *args, sptx_error *error) {
  LLVMContextRef context = LLVMContextCreate();
  LLVMModuleRef module = NULL;
  sptx_gpu_args filled = *args;
  char *workspace = aligned_alloc(256, (plan->workspace_bytes + 511) / 256 * 256);
  enum sptx_code code = sptx_gpu_plan_build(plan, context, &module, error);
  memset(workspace, 0xff, plan->workspace_bytes);
  filled.workspace = (uintptr_t)workspace;
  filled.constants = (uintptr_t)plan->constants;
  for (int i = 0; i < plan->launch_count && code == SPTX_CODE_OK; i++) {
    const sptx_gpu_launch *launch = &plan->launches[i];
    memset(workspace + launch->clear_offset, 0, launch->clear_bytes);
    code = run_launch(plan, launch, module, &filled, error);
  }
  free(workspace);
  if (module)
    LLVMDisposeModule(module);
  LLVMContextDispose(context);
  return code;
}
