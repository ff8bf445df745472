/* The builder behind ir.h: each function is one or two calls of the LLVM C API. */
#include "gen/ir.h"

#include <stdlib.h>
#include <string.h>

void sptx_ir_begin(sptx_ir *ir, LLVMModuleRef module) {
  LLVMContextRef context = LLVMGetModuleContext(module);
  *ir = (sptx_ir){.context = context,
                  .module = module,
                  .builder = LLVMCreateBuilderInContext(context),
                  .void_type = LLVMVoidTypeInContext(context),
                  .i1 = LLVMInt1TypeInContext(context),
                  .i8 = LLVMInt8TypeInContext(context),
                  .i16 = LLVMInt16TypeInContext(context),
                  .i32 = LLVMInt32TypeInContext(context),
                  .i64 = LLVMInt64TypeInContext(context),
                  .f16 = LLVMHalfTypeInContext(context),
                  .bf16 = LLVMBFloatTypeInContext(context),
                  .f32 = LLVMFloatTypeInContext(context),
                  .pointer = LLVMPointerTypeInContext(context, 0)};
}

void sptx_ir_end(sptx_ir *ir) {
  LLVMDisposeBuilder(ir->builder);
}

static LLVMBasicBlockRef new_block(const sptx_ir *ir) {
  return LLVMAppendBasicBlockInContext(ir->context, ir->function, "");
}

void sptx_ir_function(sptx_ir *ir, const char *name, LLVMTypeRef result, const LLVMTypeRef *parameters,
                      unsigned count, bool exported) {
  LLVMTypeRef types[16];
  memcpy(types, parameters, count * sizeof *types);
  ir->function = LLVMAddFunction(ir->module, name, LLVMFunctionType(result, types, count, false));
  unsigned nounwind = LLVMGetEnumAttributeKindForName("nounwind", 8);
  LLVMAddAttributeAtIndex(ir->function, LLVMAttributeFunctionIndex,
                          LLVMCreateEnumAttribute(ir->context, nounwind, 0));
  if (!exported)
    LLVMSetLinkage(ir->function, LLVMInternalLinkage);
  LLVMPositionBuilderAtEnd(ir->builder, new_block(ir));
}

LLVMValueRef sptx_ir_i64(const sptx_ir *ir, int64_t value) {
  return LLVMConstInt(ir->i64, (unsigned long long)value, true);
}

LLVMValueRef sptx_ir_i32(const sptx_ir *ir, int64_t value) {
  return LLVMConstInt(ir->i32, (unsigned long long)value, true);
}

LLVMValueRef sptx_ir_f32(const sptx_ir *ir, double value) {
  return LLVMConstReal(ir->f32, value);
}

LLVMValueRef sptx_ir_splat(const sptx_ir *ir, LLVMValueRef scalar, unsigned lanes) {
  LLVMValueRef copies[64];
  if (lanes == 1)
    return scalar;
  if (LLVMIsConstant(scalar)) {
    for (unsigned k = 0; k < lanes; k++)
      copies[k] = scalar;
    return LLVMConstVector(copies, lanes);
  }
  LLVMValueRef poison = LLVMGetPoison(LLVMVectorType(LLVMTypeOf(scalar), lanes));
  LLVMValueRef first = LLVMBuildInsertElement(ir->builder, poison, scalar, sptx_ir_i32(ir, 0), "");
  return LLVMBuildShuffleVector(ir->builder, first, poison, LLVMConstNull(LLVMVectorType(ir->i32, lanes)),
                                "");
}

LLVMValueRef sptx_ir_iota(const sptx_ir *ir, LLVMTypeRef integer, unsigned lanes) {
  LLVMValueRef values[64];
  (void)ir;
  for (unsigned k = 0; k < lanes; k++)
    values[k] = LLVMConstInt(integer, k, false);
  return LLVMConstVector(values, lanes);
}

LLVMValueRef sptx_ir_shuffle(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b, const int *index,
                             unsigned count) {
  LLVMValueRef lanes[64];
  for (unsigned k = 0; k < count; k++)
    lanes[k] = sptx_ir_i32(ir, index[k]);
  return LLVMBuildShuffleVector(ir->builder, a, b, LLVMConstVector(lanes, count), "");
}

LLVMValueRef sptx_ir_at(const sptx_ir *ir, LLVMValueRef base, LLVMValueRef bytes) {
  return LLVMBuildGEP2(ir->builder, ir->i8, base, &bytes, 1, "");
}

LLVMValueRef sptx_ir_at_constant(const sptx_ir *ir, LLVMValueRef base, int64_t bytes) {
  return bytes ? sptx_ir_at(ir, base, sptx_ir_i64(ir, bytes)) : base;
}

LLVMValueRef sptx_ir_load(const sptx_ir *ir, LLVMTypeRef type, LLVMValueRef address, unsigned align) {
  LLVMValueRef value = LLVMBuildLoad2(ir->builder, type, address, "");
  LLVMSetAlignment(value, align);
  return value;
}

void sptx_ir_store(const sptx_ir *ir, LLVMValueRef value, LLVMValueRef address, unsigned align) {
  LLVMSetAlignment(LLVMBuildStore(ir->builder, value, address), align);
}

LLVMValueRef sptx_ir_intrinsic(const sptx_ir *ir, const char *name, LLVMTypeRef type, LLVMValueRef *arguments,
                               unsigned count) {
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name)), overloads = type ? 1 : 0;
  LLVMValueRef function = LLVMGetIntrinsicDeclaration(ir->module, id, &type, overloads);
  return LLVMBuildCall2(ir->builder, LLVMIntrinsicGetType(ir->context, id, &type, overloads), function,
                        arguments, count, "");
}

LLVMValueRef sptx_ir_fma(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c) {
  return sptx_ir_intrinsic(ir, "llvm.fma", LLVMTypeOf(a), (LLVMValueRef[]){a, b, c}, 3);
}

static bool is_float(LLVMValueRef value) {
  LLVMTypeRef type = LLVMTypeOf(value);
  if (LLVMGetTypeKind(type) == LLVMVectorTypeKind)
    type = LLVMGetElementType(type);
  return LLVMGetTypeKind(type) != LLVMIntegerTypeKind;
}

LLVMValueRef sptx_ir_select(const sptx_ir *ir, LLVMValueRef condition, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildSelect(ir->builder, condition, a, b, "");
}

LLVMValueRef sptx_ir_min(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  LLVMValueRef less =
      is_float(a) ? sptx_ir_fcompare(ir, LLVMRealOLT, a, b) : sptx_ir_compare(ir, LLVMIntSLT, a, b);
  return sptx_ir_select(ir, less, a, b);
}

LLVMValueRef sptx_ir_max(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  LLVMValueRef greater =
      is_float(a) ? sptx_ir_fcompare(ir, LLVMRealOGT, a, b) : sptx_ir_compare(ir, LLVMIntSGT, a, b);
  return sptx_ir_select(ir, greater, a, b);
}

void sptx_ir_loop_begin(sptx_ir *ir, sptx_ir_loop *loop, LLVMValueRef begin, LLVMValueRef limit,
                        LLVMValueRef step, bool at_least_once, const LLVMValueRef *carried, unsigned count) {
  LLVMBasicBlockRef before = LLVMGetInsertBlock(ir->builder);
  loop->limit = limit;
  loop->step = step;
  loop->count = count;
  loop->at_least_once = at_least_once;
  loop->head = new_block(ir);
  loop->exit = new_block(ir);
  LLVMBuildBr(ir->builder, loop->head);
  LLVMPositionBuilderAtEnd(ir->builder, loop->head);
  loop->index = LLVMBuildPhi(ir->builder, LLVMTypeOf(begin), "");
  LLVMAddIncoming(loop->index, &begin, &before, 1);
  for (unsigned k = 0; k < count; k++) {
    loop->phi[k] = loop->carried[k] = LLVMBuildPhi(ir->builder, LLVMTypeOf(carried[k]), "");
    LLVMValueRef first = carried[k];
    LLVMAddIncoming(loop->phi[k], &first, &before, 1);
  }
  if (!at_least_once) {
    LLVMBasicBlockRef body = new_block(ir);
    LLVMBuildCondBr(ir->builder, sptx_ir_compare(ir, LLVMIntSLT, loop->index, limit), body, loop->exit);
    LLVMPositionBuilderAtEnd(ir->builder, body);
  }
}

void sptx_ir_loop_end(sptx_ir *ir, sptx_ir_loop *loop) {
  LLVMBasicBlockRef last = LLVMGetInsertBlock(ir->builder);
  LLVMValueRef next = sptx_ir_add(ir, loop->index, loop->step);
  LLVMAddIncoming(loop->index, &next, &last, 1);
  for (unsigned k = 0; k < loop->count; k++)
    LLVMAddIncoming(loop->phi[k], &loop->carried[k], &last, 1);
  if (loop->at_least_once) {
    LLVMBuildCondBr(ir->builder, sptx_ir_compare(ir, LLVMIntSLT, next, loop->limit), loop->head, loop->exit);
  } else {
    LLVMBuildBr(ir->builder, loop->head);
    memcpy(loop->carried, loop->phi, sizeof loop->phi);
  }
  LLVMMoveBasicBlockAfter(loop->exit, last);
  LLVMPositionBuilderAtEnd(ir->builder, loop->exit);
}

void sptx_ir_if(sptx_ir *ir, sptx_ir_branch *branch, LLVMValueRef condition) {
  LLVMBasicBlockRef then = new_block(ir);
  branch->other = new_block(ir);
  branch->end = new_block(ir);
  branch->has_else = false;
  LLVMBuildCondBr(ir->builder, condition, then, branch->other);
  LLVMPositionBuilderAtEnd(ir->builder, then);
}

void sptx_ir_else(sptx_ir *ir, sptx_ir_branch *branch) {
  LLVMBuildBr(ir->builder, branch->end);
  LLVMPositionBuilderAtEnd(ir->builder, branch->other);
  branch->has_else = true;
}

void sptx_ir_end_if(sptx_ir *ir, sptx_ir_branch *branch) {
  LLVMBuildBr(ir->builder, branch->end);
  if (!branch->has_else) {
    LLVMPositionBuilderAtEnd(ir->builder, branch->other);
    LLVMBuildBr(ir->builder, branch->end);
  }
  LLVMPositionBuilderAtEnd(ir->builder, branch->end);
}

void sptx_ir_return_if(sptx_ir *ir, LLVMValueRef condition) {
  LLVMBasicBlockRef leave = new_block(ir), stay = new_block(ir);
  LLVMBuildCondBr(ir->builder, condition, leave, stay);
  LLVMPositionBuilderAtEnd(ir->builder, leave);
  LLVMBuildRetVoid(ir->builder);
  LLVMPositionBuilderAtEnd(ir->builder, stay);
}
