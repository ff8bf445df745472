/* Writing PTX kernels as LLVM IR; see emitter.h. */
#include "gen/ptx/emitter.h"
#include <assert.h>
#include <llvm-c/DebugInfo.h>
#include <stdio.h>
#include <string.h>

void sptx_emitter_open(sptx_gpu_emitter *e, LLVMContextRef context, LLVMModuleRef module) {
  memset(e, 0, sizeof *e);
  e->context = context;
  e->module = module;
  e->builder = LLVMCreateBuilderInContext(context);
  e->void_type = LLVMVoidTypeInContext(context);
  e->i1 = LLVMInt1TypeInContext(context);
  e->i8 = LLVMInt8TypeInContext(context);
  e->i16 = LLVMInt16TypeInContext(context);
  e->i32 = LLVMInt32TypeInContext(context);
  e->i64 = LLVMInt64TypeInContext(context);
  e->f16 = LLVMHalfTypeInContext(context);
  e->bf16 = LLVMBFloatTypeInContext(context);
  e->f32 = LLVMFloatTypeInContext(context);
  e->pointer = LLVMPointerTypeInContext(context, 0);
  e->global_pointer = LLVMPointerTypeInContext(context, 1);
  e->shared_pointer = LLVMPointerTypeInContext(context, 3);
  e->shared = LLVMAddGlobalInAddressSpace(module, LLVMArrayType2(e->i8, 0), "sptx_shared", 3);
  LLVMSetLinkage(e->shared, LLVMExternalLinkage);
  LLVMSetAlignment(e->shared, 1024);
}

void sptx_emitter_close(sptx_gpu_emitter *e) {
  LLVMDisposeBuilder(e->builder);
}

static void add_attribute(sptx_gpu_emitter *e, unsigned index, const char *name, uint64_t value) {
  unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
  LLVMAddAttributeAtIndex(e->function, index, LLVMCreateEnumAttribute(e->context, kind, value));
}

static void add_byval(sptx_gpu_emitter *e, int parameter, size_t bytes, unsigned align) {
  unsigned kind = LLVMGetEnumAttributeKindForName("byval", 5);
  LLVMTypeRef type = LLVMArrayType2(e->i64, (bytes + 7) / 8);
  LLVMAddAttributeAtIndex(e->function, (unsigned)parameter + 1,
                          LLVMCreateTypeAttribute(e->context, kind, type));
  add_attribute(e, (unsigned)parameter + 1, "align", align);
}

static void annotate(sptx_gpu_emitter *e, const char *key, LLVMMetadataRef value) {
  LLVMMetadataRef fields[3] = {LLVMValueAsMetadata(e->function),
                               LLVMMDStringInContext2(e->context, key, strlen(key)), value};
  LLVMMetadataRef node = LLVMMDNodeInContext2(e->context, fields, 3);
  LLVMAddNamedMetadataOperand(e->module, "nvvm.annotations", LLVMMetadataAsValue(e->context, node));
}

static void annotate_int(sptx_gpu_emitter *e, const char *key, int value) {
  annotate(e, key, LLVMValueAsMetadata(sptx_i32(e, value)));
}

/* grid_constant lists parameters counted from 1. Without it LLVM copies by-value parameters to the stack. */
static void annotate_grid_constant(sptx_gpu_emitter *e, int parameters) {
  LLVMMetadataRef numbers[SPTX_GPU_MAX_MAPS + 2];
  for (int i = 0; i < parameters; i++)
    numbers[i] = LLVMValueAsMetadata(sptx_i32(e, i + 1));
  annotate(e, "grid_constant", LLVMMDNodeInContext2(e->context, numbers, (size_t)parameters));
}

void sptx_kernel_begin(sptx_gpu_emitter *e, const char *symbol, size_t params_bytes, int map_count,
                       int threads, int min_ctas) {
  LLVMTypeRef types[SPTX_GPU_MAX_MAPS + 2];
  for (int i = 0; i < map_count + 2; i++)
    types[i] = e->pointer;
  e->function =
      LLVMAddFunction(e->module, symbol, LLVMFunctionType(e->void_type, types, (unsigned)map_count + 2, 0));
  LLVMSetFunctionCallConv(e->function, 71); /* ptx_kernel */
  add_byval(e, 0, sizeof(sptx_gpu_args), 8);
  add_byval(e, 1, params_bytes, 8);
  e->args = LLVMGetParam(e->function, 0);
  e->params = LLVMGetParam(e->function, 1);
  for (int i = 0; i < map_count; i++) {
    add_byval(e, i + 2, 128, 64);
    e->maps[i] = LLVMGetParam(e->function, (unsigned)i + 2);
  }
  annotate_grid_constant(e, map_count + 2);
  annotate_int(e, "reqntidx", threads);
  if (min_ctas > 0)
    annotate_int(e, "minctasm", min_ctas);
  add_attribute(e, LLVMAttributeFunctionIndex, "nounwind", 0);
  LLVMAddAttributeAtIndex(
      e->function, LLVMAttributeFunctionIndex,
      LLVMCreateStringAttribute(e->context, "denormal-fp-math-f32", 20, "preserve-sign,preserve-sign", 27));
  e->entry = LLVMAppendBasicBlockInContext(e->context, e->function, "entry");
  LLVMBasicBlockRef body = LLVMAppendBasicBlockInContext(e->context, e->function, "body");
  LLVMPositionBuilderAtEnd(e->builder, e->entry);
  LLVMBuildBr(e->builder, body);
  LLVMPositionBuilderAtEnd(e->builder, body);
}

void sptx_kernel_end(sptx_gpu_emitter *e) {
  LLVMBuildRetVoid(e->builder);
}

static sptx_value load_at(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value base, size_t offset) {
  sptx_value index = sptx_i64(e, (int64_t)offset);
  sptx_value place = LLVMBuildInBoundsGEP2(e->builder, e->i8, base, &index, 1, "");
  sptx_value value = LLVMBuildLoad2(e->builder, type, place, "");
  unsigned kind = LLVMGetMDKindIDInContext(e->context, "invariant.load", 14);
  LLVMSetMetadata(value, kind, LLVMMetadataAsValue(e->context, LLVMMDNodeInContext2(e->context, NULL, 0)));
  return value;
}

sptx_value sptx_load_arg(sptx_gpu_emitter *e, LLVMTypeRef type, size_t offset) {
  return load_at(e, type, e->args, offset);
}

sptx_value sptx_load_param(sptx_gpu_emitter *e, LLVMTypeRef type, size_t offset) {
  return load_at(e, type, e->params, offset);
}

sptx_value sptx_i32(sptx_gpu_emitter *e, int64_t value) {
  return LLVMConstInt(e->i32, (unsigned long long)value, 1);
}

sptx_value sptx_i64(sptx_gpu_emitter *e, int64_t value) {
  return LLVMConstInt(e->i64, (unsigned long long)value, 1);
}

sptx_value sptx_f32(sptx_gpu_emitter *e, double value) {
  return LLVMConstReal(e->f32, value);
}

static bool is_float(sptx_value value) {
  return LLVMGetTypeKind(LLVMTypeOf(value)) == LLVMFloatTypeKind;
}

sptx_value sptx_add(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  return is_float(a) ? LLVMBuildFAdd(e->builder, a, b, "") : LLVMBuildAdd(e->builder, a, b, "");
}

sptx_value sptx_sub(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  return is_float(a) ? LLVMBuildFSub(e->builder, a, b, "") : LLVMBuildSub(e->builder, a, b, "");
}

sptx_value sptx_mul(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  return is_float(a) ? LLVMBuildFMul(e->builder, a, b, "") : LLVMBuildMul(e->builder, a, b, "");
}

static sptx_value like(sptx_value a, int64_t b) {
  return LLVMConstInt(LLVMTypeOf(a), (unsigned long long)b, 1);
}

sptx_value sptx_addi(sptx_gpu_emitter *e, sptx_value a, int64_t b) {
  return LLVMBuildAdd(e->builder, a, like(a, b), "");
}

sptx_value sptx_muli(sptx_gpu_emitter *e, sptx_value a, int64_t b) {
  return LLVMBuildMul(e->builder, a, like(a, b), "");
}

sptx_value sptx_andi(sptx_gpu_emitter *e, sptx_value a, int64_t b) {
  return LLVMBuildAnd(e->builder, a, like(a, b), "");
}

sptx_value sptx_shri(sptx_gpu_emitter *e, sptx_value a, int64_t b) {
  return LLVMBuildLShr(e->builder, a, like(a, b), "");
}

sptx_value sptx_udiv(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  return LLVMBuildUDiv(e->builder, a, b, "");
}

sptx_value sptx_urem(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  return LLVMBuildURem(e->builder, a, b, "");
}

sptx_value sptx_min(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  LLVMTypeRef type = LLVMTypeOf(a);
  sptx_value operands[2] = {a, b};
  return sptx_intrinsic(e, is_float(a) ? "llvm.minnum" : "llvm.smin", &type, 1, operands, 2);
}

sptx_value sptx_max(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  LLVMTypeRef type = LLVMTypeOf(a);
  sptx_value operands[2] = {a, b};
  return sptx_intrinsic(e, is_float(a) ? "llvm.maxnum" : "llvm.smax", &type, 1, operands, 2);
}

sptx_value sptx_fma(sptx_gpu_emitter *e, sptx_value a, sptx_value b, sptx_value c) {
  LLVMTypeRef type = LLVMTypeOf(a);
  sptx_value operands[3] = {a, b, c};
  return sptx_intrinsic(e, "llvm.fma", &type, 1, operands, 3);
}

sptx_value sptx_icmp(sptx_gpu_emitter *e, LLVMIntPredicate predicate, sptx_value a, sptx_value b) {
  return LLVMBuildICmp(e->builder, predicate, a, b, "");
}

sptx_value sptx_fcmp(sptx_gpu_emitter *e, LLVMRealPredicate predicate, sptx_value a, sptx_value b) {
  return LLVMBuildFCmp(e->builder, predicate, a, b, "");
}

sptx_value sptx_and(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  return LLVMBuildAnd(e->builder, a, b, "");
}

sptx_value sptx_or(sptx_gpu_emitter *e, sptx_value a, sptx_value b) {
  return LLVMBuildOr(e->builder, a, b, "");
}

sptx_value sptx_select(sptx_gpu_emitter *e, sptx_value condition, sptx_value a, sptx_value b) {
  return LLVMBuildSelect(e->builder, condition, a, b, "");
}

sptx_value sptx_zext64(sptx_gpu_emitter *e, sptx_value a) {
  return LLVMBuildZExt(e->builder, a, e->i64, "");
}

sptx_value sptx_sext64(sptx_gpu_emitter *e, sptx_value a) {
  return LLVMBuildSExt(e->builder, a, e->i64, "");
}

sptx_value sptx_trunc32(sptx_gpu_emitter *e, sptx_value a) {
  return LLVMBuildTrunc(e->builder, a, e->i32, "");
}

sptx_value sptx_bits(sptx_gpu_emitter *e, sptx_value a, LLVMTypeRef type) {
  return LLVMBuildBitCast(e->builder, a, type, "");
}

/* sm_80 has no instruction for bf16, but its bits are the upper half of the float's. */
sptx_value sptx_widen(sptx_gpu_emitter *e, sptx_value a) {
  LLVMTypeRef type = LLVMTypeOf(a);
  if (type == e->f32)
    return a;
  if (type == e->f16)
    return LLVMBuildFPExt(e->builder, a, e->f32, "");
  sptx_value bits = LLVMBuildZExt(e->builder, sptx_bits(e, a, e->i16), e->i32, "");
  return sptx_bits(e, LLVMBuildShl(e->builder, bits, sptx_i32(e, 16), ""), e->f32);
}

sptx_value sptx_exp2(sptx_gpu_emitter *e, sptx_value x) {
  return sptx_intrinsic(e, "llvm.nvvm.ex2.approx.ftz.f", NULL, 0, &x, 1);
}

sptx_value sptx_log2(sptx_gpu_emitter *e, sptx_value x) {
  return sptx_intrinsic(e, "llvm.nvvm.lg2.approx.f", NULL, 0, &x, 1);
}

sptx_value sptx_reciprocal(sptx_gpu_emitter *e, sptx_value x) {
  return sptx_intrinsic(e, "llvm.nvvm.rcp.approx.ftz.f", NULL, 0, &x, 1);
}

sptx_value sptx_shuffle_xor(sptx_gpu_emitter *e, sptx_value f32, int lane_mask) {
  sptx_value operands[4] = {sptx_i32(e, -1), f32, sptx_i32(e, lane_mask), sptx_i32(e, 31)};
  return sptx_intrinsic(e, "llvm.nvvm.shfl.sync.bfly.f32", NULL, 0, operands, 4);
}

sptx_value sptx_load_global(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value address, int align) {
  sptx_value place = LLVMBuildIntToPtr(e->builder, address, e->global_pointer, "");
  sptx_value value = LLVMBuildLoad2(e->builder, type, place, "");
  LLVMSetAlignment(value, (unsigned)align);
  return value;
}

sptx_value sptx_load_constant(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value address, int align) {
  sptx_value value = sptx_load_global(e, type, address, align);
  unsigned kind = LLVMGetMDKindIDInContext(e->context, "invariant.load", 14);
  LLVMSetMetadata(value, kind, LLVMMetadataAsValue(e->context, LLVMMDNodeInContext2(e->context, NULL, 0)));
  return value;
}

void sptx_store_global(sptx_gpu_emitter *e, sptx_value value, sptx_value address, int align) {
  sptx_value place = LLVMBuildIntToPtr(e->builder, address, e->global_pointer, "");
  LLVMSetAlignment(LLVMBuildStore(e->builder, value, place), (unsigned)align);
}

sptx_value sptx_shared_base(sptx_gpu_emitter *e) {
  return LLVMBuildPtrToInt(e->builder, e->shared, e->i32, "");
}

sptx_value sptx_thread_index(sptx_gpu_emitter *e) {
  return sptx_intrinsic(e, "llvm.nvvm.read.ptx.sreg.tid.x", NULL, 0, NULL, 0);
}

sptx_value sptx_block_index(sptx_gpu_emitter *e) {
  return sptx_intrinsic(e, "llvm.nvvm.read.ptx.sreg.ctaid.x", NULL, 0, NULL, 0);
}

void sptx_barrier(sptx_gpu_emitter *e) {
  sptx_intrinsic(e, "llvm.nvvm.barrier0", NULL, 0, NULL, 0);
}

sptx_value sptx_asm(sptx_gpu_emitter *e, LLVMTypeRef result, const char *text, const char *constraints,
                    const sptx_value *operands, int count, bool pure) {
  LLVMTypeRef types[320];
  assert(count <= 320);
  for (int i = 0; i < count; i++)
    types[i] = LLVMTypeOf(operands[i]);
  LLVMTypeRef type = LLVMFunctionType(result, types, (unsigned)count, 0);
  sptx_value code = LLVMGetInlineAsm(type, text, strlen(text), constraints, strlen(constraints), !pure, 0,
                                     LLVMInlineAsmDialectATT, 0);
  sptx_value call = LLVMBuildCall2(e->builder, type, code, (sptx_value *)operands, (unsigned)count, "");
  static const char *const names[] = {"convergent", "nounwind"};
  for (int i = 0; i < 2; i++) {
    unsigned kind = LLVMGetEnumAttributeKindForName(names[i], strlen(names[i]));
    LLVMAddCallSiteAttribute(call, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(e->context, kind, 0));
  }
  return call;
}

sptx_value sptx_recompute(sptx_gpu_emitter *e, sptx_value x) {
  return sptx_asm(e, e->i32, "mov.b32 $0, $1;", "=r,r", &x, 1, false);
}

sptx_value sptx_intrinsic(sptx_gpu_emitter *e, const char *name, LLVMTypeRef *overloads, int overload_count,
                          const sptx_value *operands, int count) {
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name));
  assert(id != 0);
  sptx_value callee = LLVMGetIntrinsicDeclaration(e->module, id, overloads, (size_t)overload_count);
  LLVMTypeRef type = LLVMIntrinsicGetType(e->context, id, overloads, (size_t)overload_count);
  return LLVMBuildCall2(e->builder, type, callee, (sptx_value *)operands, (unsigned)count, "");
}

LLVMTypeRef sptx_struct_of(sptx_gpu_emitter *e, LLVMTypeRef type, int count) {
  LLVMTypeRef types[256];
  assert(count <= 256);
  for (int i = 0; i < count; i++)
    types[i] = type;
  return LLVMStructTypeInContext(e->context, types, (unsigned)count, 0);
}

sptx_value sptx_extract(sptx_gpu_emitter *e, sptx_value aggregate, int index) {
  return LLVMBuildExtractValue(e->builder, aggregate, (unsigned)index, "");
}

sptx_value sptx_slot(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value initial) {
  LLVMBasicBlockRef here = LLVMGetInsertBlock(e->builder);
  LLVMPositionBuilderBefore(e->builder, LLVMGetBasicBlockTerminator(e->entry));
  sptx_value slot = LLVMBuildAlloca(e->builder, type, "");
  LLVMPositionBuilderAtEnd(e->builder, here);
  if (initial)
    LLVMBuildStore(e->builder, initial, slot);
  return slot;
}

sptx_value sptx_get(sptx_gpu_emitter *e, sptx_value slot) {
  return LLVMBuildLoad2(e->builder, LLVMGetAllocatedType(slot), slot, "");
}

void sptx_set_slot(sptx_gpu_emitter *e, sptx_value slot, sptx_value value) {
  LLVMBuildStore(e->builder, value, slot);
}

void sptx_get_slots(sptx_gpu_emitter *e, const sptx_value *slots, sptx_value *values, int count) {
  for (int i = 0; i < count; i++)
    values[i] = sptx_get(e, slots[i]);
}

void sptx_set_slots(sptx_gpu_emitter *e, const sptx_value *slots, const sptx_value *values, int count) {
  for (int i = 0; i < count; i++)
    sptx_set_slot(e, slots[i], values[i]);
}

static LLVMBasicBlockRef new_block(sptx_gpu_emitter *e, const char *name) {
  return LLVMAppendBasicBlockInContext(e->context, e->function, name);
}

sptx_if sptx_if_begin(sptx_gpu_emitter *e, sptx_value condition) {
  LLVMBasicBlockRef then = new_block(e, "then");
  sptx_if branch = {new_block(e, "else"), new_block(e, "endif"), false};
  LLVMBuildCondBr(e->builder, condition, then, branch.else_block);
  LLVMPositionBuilderAtEnd(e->builder, then);
  return branch;
}

void sptx_if_else(sptx_gpu_emitter *e, sptx_if *branch) {
  LLVMBuildBr(e->builder, branch->end);
  LLVMPositionBuilderAtEnd(e->builder, branch->else_block);
  branch->has_else = true;
}

void sptx_if_end(sptx_gpu_emitter *e, sptx_if *branch) {
  LLVMBuildBr(e->builder, branch->end);
  if (!branch->has_else) {
    LLVMPositionBuilderAtEnd(e->builder, branch->else_block);
    LLVMBuildBr(e->builder, branch->end);
  }
  LLVMPositionBuilderAtEnd(e->builder, branch->end);
}

sptx_loop sptx_loop_begin(sptx_gpu_emitter *e, sptx_value begin, sptx_value stop, sptx_value step) {
  sptx_loop loop = {new_block(e, "loop"), NULL, sptx_slot(e, LLVMTypeOf(begin), begin), NULL, step};
  LLVMBasicBlockRef body = new_block(e, "loop_body");
  loop.end = new_block(e, "loop_end");
  LLVMBuildBr(e->builder, loop.head);
  LLVMPositionBuilderAtEnd(e->builder, loop.head);
  loop.index = sptx_get(e, loop.slot);
  LLVMBuildCondBr(e->builder, sptx_icmp(e, LLVMIntSLT, loop.index, stop), body, loop.end);
  LLVMPositionBuilderAtEnd(e->builder, body);
  return loop;
}

void sptx_loop_end(sptx_gpu_emitter *e, sptx_loop *loop) {
  sptx_set_slot(e, loop->slot, sptx_add(e, sptx_get(e, loop->slot), loop->step));
  sptx_value back = LLVMBuildBr(e->builder, loop->head);
  LLVMMetadataRef name = LLVMMDStringInContext2(e->context, "llvm.loop.unroll.disable", 24);
  LLVMMetadataRef disable = LLVMMDNodeInContext2(e->context, &name, 1);
  LLVMMetadataRef temporary = LLVMTemporaryMDNode(e->context, NULL, 0);
  LLVMMetadataRef fields[2] = {temporary, disable};
  LLVMMetadataRef node = LLVMMDNodeInContext2(e->context, fields, 2);
  LLVMMetadataReplaceAllUsesWith(temporary, node); /* a loop id's first field is itself */
  LLVMSetMetadata(back, LLVMGetMDKindIDInContext(e->context, "llvm.loop", 9),
                  LLVMMetadataAsValue(e->context, node));
  LLVMPositionBuilderAtEnd(e->builder, loop->end);
}
