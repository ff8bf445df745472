/* A thin builder over the LLVM C API: types at hand, byte-addressed loads and stores, structured loops and
 * branches. Values that a loop carries are phi nodes from the start, so that emitted code needs no clean-up
 * passes before it is compiled. */
#ifndef SPTX_GEN_IR_H
#define SPTX_GEN_IR_H

#include <llvm-c/Core.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct sptx_ir {
  LLVMContextRef context;
  LLVMModuleRef module;
  LLVMBuilderRef builder;
  LLVMValueRef function; /* the one being written */
  LLVMTypeRef void_type, i1, i8, i16, i32, i64, f16, bf16, f32, pointer;
} sptx_ir;

void sptx_ir_begin(sptx_ir *ir, LLVMModuleRef module);
void sptx_ir_end(sptx_ir *ir);

/* A function in the module and its entry block; parameters by LLVMGetParam(ir->function, k). */
void sptx_ir_function(sptx_ir *ir, const char *name, LLVMTypeRef result, const LLVMTypeRef *parameters,
                      unsigned count, bool exported);

LLVMValueRef sptx_ir_i64(const sptx_ir *ir, int64_t value);
LLVMValueRef sptx_ir_i32(const sptx_ir *ir, int64_t value);
LLVMValueRef sptx_ir_f32(const sptx_ir *ir, double value);
/* The same scalar in every lane; constants stay constants. lanes 1 returns the scalar. */
LLVMValueRef sptx_ir_splat(const sptx_ir *ir, LLVMValueRef scalar, unsigned lanes);
/* The constant (0, 1, .., lanes - 1) of an integer type. */
LLVMValueRef sptx_ir_iota(const sptx_ir *ir, LLVMTypeRef integer, unsigned lanes);
/* Lanes of a and b (numbered on from a's) by constant index. */
LLVMValueRef sptx_ir_shuffle(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b, const int *index,
                             unsigned count);

/* Address arithmetic in bytes. */
LLVMValueRef sptx_ir_at(const sptx_ir *ir, LLVMValueRef base, LLVMValueRef bytes);
LLVMValueRef sptx_ir_at_constant(const sptx_ir *ir, LLVMValueRef base, int64_t bytes);
LLVMValueRef sptx_ir_load(const sptx_ir *ir, LLVMTypeRef type, LLVMValueRef address, unsigned align);
void sptx_ir_store(const sptx_ir *ir, LLVMValueRef value, LLVMValueRef address, unsigned align);

/* An intrinsic by name, overloaded on `type` when that is not NULL. */
LLVMValueRef sptx_ir_intrinsic(const sptx_ir *ir, const char *name, LLVMTypeRef type, LLVMValueRef *arguments,
                               unsigned count);
LLVMValueRef sptx_ir_fma(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b, LLVMValueRef c);
/* a < b ? a : b and a > b ? a : b, of integers (signed) or floats; a NaN in either float yields b. */
LLVMValueRef sptx_ir_min(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef sptx_ir_max(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef sptx_ir_select(const sptx_ir *ir, LLVMValueRef condition, LLVMValueRef a, LLVMValueRef b);

enum { SPTX_IR_CARRIED = 40 };

/* for (index = begin; index < limit; index += step), signed, carrying values from one round to the next.
 * While the loop is open, carried[] are this round's values; after its end, they are the last ones. */
typedef struct sptx_ir_loop {
  LLVMValueRef index, limit, step;
  LLVMValueRef carried[SPTX_IR_CARRIED], phi[SPTX_IR_CARRIED];
  unsigned count;
  bool at_least_once; /* the caller knows that begin < limit: the test moves to the end of the body */
  LLVMBasicBlockRef head, exit;
} sptx_ir_loop;

void sptx_ir_loop_begin(sptx_ir *ir, sptx_ir_loop *loop, LLVMValueRef begin, LLVMValueRef limit,
                        LLVMValueRef step, bool at_least_once, const LLVMValueRef *carried, unsigned count);
/* loop->carried[] must hold the next round's values. */
void sptx_ir_loop_end(sptx_ir *ir, sptx_ir_loop *loop);

/* if (condition) { .. } else { .. }; sptx_ir_else may be left out. */
typedef struct sptx_ir_branch {
  LLVMBasicBlockRef other, end;
  bool has_else;
} sptx_ir_branch;

void sptx_ir_if(sptx_ir *ir, sptx_ir_branch *branch, LLVMValueRef condition);
void sptx_ir_else(sptx_ir *ir, sptx_ir_branch *branch);
void sptx_ir_end_if(sptx_ir *ir, sptx_ir_branch *branch);
/* Leaves a void function when the condition holds; code goes on otherwise. */
void sptx_ir_return_if(sptx_ir *ir, LLVMValueRef condition);

static inline LLVMValueRef sptx_ir_add(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildAdd(ir->builder, a, b, "");
}
static inline LLVMValueRef sptx_ir_sub(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildSub(ir->builder, a, b, "");
}
static inline LLVMValueRef sptx_ir_mul(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildMul(ir->builder, a, b, "");
}
/* The operands are never negative: the unsigned division is the cheaper one. */
static inline LLVMValueRef sptx_ir_div(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildUDiv(ir->builder, a, b, "");
}
static inline LLVMValueRef sptx_ir_compare(const sptx_ir *ir, LLVMIntPredicate predicate, LLVMValueRef a,
                                           LLVMValueRef b) {
  return LLVMBuildICmp(ir->builder, predicate, a, b, "");
}
static inline LLVMValueRef sptx_ir_fcompare(const sptx_ir *ir, LLVMRealPredicate predicate, LLVMValueRef a,
                                            LLVMValueRef b) {
  return LLVMBuildFCmp(ir->builder, predicate, a, b, "");
}
static inline LLVMValueRef sptx_ir_fadd(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildFAdd(ir->builder, a, b, "");
}
static inline LLVMValueRef sptx_ir_fsub(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildFSub(ir->builder, a, b, "");
}
static inline LLVMValueRef sptx_ir_fmul(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildFMul(ir->builder, a, b, "");
}
static inline LLVMValueRef sptx_ir_fdiv(const sptx_ir *ir, LLVMValueRef a, LLVMValueRef b) {
  return LLVMBuildFDiv(ir->builder, a, b, "");
}

#endif
