/* Writing PTX kernels as LLVM IR: kernel signature and annotations, inline assembly, intrinsics, structured
 * control flow. Both kernel families use it; it knows nothing of attention.
 *
 * Values that change in loops live in slots (scalar allocas at the top of the function), which the optimiser
 * turns into registers. Never make a slot of an array: a missed promotion is local memory. */
#ifndef SPTX_GEN_PTX_EMITTER_H
#define SPTX_GEN_PTX_EMITTER_H

#include "gen/ptx/plan.h"

typedef LLVMValueRef sptx_value;

typedef struct sptx_gpu_emitter {
  LLVMContextRef context;
  LLVMModuleRef module;
  LLVMBuilderRef builder;
  LLVMTypeRef void_type, i1, i8, i16, i32, i64, f16, bf16, f32, pointer, global_pointer, shared_pointer;
  LLVMValueRef shared; /* external shared memory of unknown size, 1024-byte aligned */
  /* The kernel under construction. */
  LLVMValueRef function;
  LLVMBasicBlockRef entry; /* holds the slots */
  LLVMValueRef args, params, maps[SPTX_GPU_MAX_MAPS];
} sptx_gpu_emitter;

void sptx_emitter_open(sptx_gpu_emitter *e, LLVMContextRef context, LLVMModuleRef module);
void sptx_emitter_close(sptx_gpu_emitter *e);

/* Starts and ends a kernel with the plan's signature. threads is exact; min_ctas is 0 for none. The
 * code between runs in the block "body". */
void sptx_kernel_begin(sptx_gpu_emitter *e, const char *symbol, size_t params_bytes, int map_count,
                       int threads, int min_ctas);
void sptx_kernel_end(sptx_gpu_emitter *e);

/* Fields of the two leading parameters, as loads from constant memory. */
sptx_value sptx_load_arg(sptx_gpu_emitter *e, LLVMTypeRef type, size_t offset);
sptx_value sptx_load_param(sptx_gpu_emitter *e, LLVMTypeRef type, size_t offset);

/* Constants. */
sptx_value sptx_i32(sptx_gpu_emitter *e, int64_t value);
sptx_value sptx_i64(sptx_gpu_emitter *e, int64_t value);
sptx_value sptx_f32(sptx_gpu_emitter *e, double value);

/* Arithmetic on integers and floats; both operands have the same type. */
sptx_value sptx_add(sptx_gpu_emitter *e, sptx_value a, sptx_value b);
sptx_value sptx_sub(sptx_gpu_emitter *e, sptx_value a, sptx_value b);
sptx_value sptx_mul(sptx_gpu_emitter *e, sptx_value a, sptx_value b);
sptx_value sptx_addi(sptx_gpu_emitter *e, sptx_value a, int64_t b);
sptx_value sptx_muli(sptx_gpu_emitter *e, sptx_value a, int64_t b);
sptx_value sptx_andi(sptx_gpu_emitter *e, sptx_value a, int64_t b);
sptx_value sptx_shri(sptx_gpu_emitter *e, sptx_value a, int64_t b);    /* logical */
sptx_value sptx_udiv(sptx_gpu_emitter *e, sptx_value a, sptx_value b); /* unsigned */
sptx_value sptx_urem(sptx_gpu_emitter *e, sptx_value a, sptx_value b);
sptx_value sptx_min(sptx_gpu_emitter *e, sptx_value a, sptx_value b); /* signed, or float */
sptx_value sptx_max(sptx_gpu_emitter *e, sptx_value a, sptx_value b);
sptx_value sptx_fma(sptx_gpu_emitter *e, sptx_value a, sptx_value b, sptx_value c);
sptx_value sptx_icmp(sptx_gpu_emitter *e, LLVMIntPredicate predicate, sptx_value a, sptx_value b);
sptx_value sptx_fcmp(sptx_gpu_emitter *e, LLVMRealPredicate predicate, sptx_value a, sptx_value b);
sptx_value sptx_and(sptx_gpu_emitter *e, sptx_value a, sptx_value b);
sptx_value sptx_or(sptx_gpu_emitter *e, sptx_value a, sptx_value b);
sptx_value sptx_select(sptx_gpu_emitter *e, sptx_value condition, sptx_value a, sptx_value b);
sptx_value sptx_zext64(sptx_gpu_emitter *e, sptx_value a);
sptx_value sptx_sext64(sptx_gpu_emitter *e, sptx_value a);
sptx_value sptx_trunc32(sptx_gpu_emitter *e, sptx_value a);
sptx_value sptx_bits(sptx_gpu_emitter *e, sptx_value a, LLVMTypeRef type); /* same bits, other type */
/* An f16, bf16 or f32 as f32. */
sptx_value sptx_widen(sptx_gpu_emitter *e, sptx_value a);

/* Approximate functions of one instruction: 2^x, log2 x, 1/x. */
sptx_value sptx_exp2(sptx_gpu_emitter *e, sptx_value x);
sptx_value sptx_log2(sptx_gpu_emitter *e, sptx_value x);
sptx_value sptx_reciprocal(sptx_gpu_emitter *e, sptx_value x);
sptx_value sptx_shuffle_xor(sptx_gpu_emitter *e, sptx_value f32, int lane_mask);

/* Global memory: address is i64, in bytes. load_constant: nothing writes it while the kernel runs. */
sptx_value sptx_load_global(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value address, int align);
sptx_value sptx_load_constant(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value address, int align);
void sptx_store_global(sptx_gpu_emitter *e, sptx_value value, sptx_value address, int align);

/* The first byte of dynamic shared memory as an i32 address of the shared window. */
sptx_value sptx_shared_base(sptx_gpu_emitter *e);
sptx_value sptx_thread_index(sptx_gpu_emitter *e);
sptx_value sptx_block_index(sptx_gpu_emitter *e);
void sptx_barrier(sptx_gpu_emitter *e); /* all threads of the CTA */

/* Inline assembly. pure: no side effect, the result depends on the operands only. All calls are convergent.
 */
sptx_value sptx_asm(sptx_gpu_emitter *e, LLVMTypeRef result, const char *text, const char *constraints,
                    const sptx_value *operands, int count, bool pure);
sptx_value sptx_intrinsic(sptx_gpu_emitter *e, const char *name, LLVMTypeRef *overloads, int overload_count,
                          const sptx_value *operands, int count);
/* The same i32, computed here: what depends on it is not held in registers from where it was known. */
sptx_value sptx_recompute(sptx_gpu_emitter *e, sptx_value x);
LLVMTypeRef sptx_struct_of(sptx_gpu_emitter *e, LLVMTypeRef type, int count); /* {type, type, ...} */
sptx_value sptx_extract(sptx_gpu_emitter *e, sptx_value aggregate, int index);

/* Scalar variables. */
sptx_value sptx_slot(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value initial);
sptx_value sptx_get(sptx_gpu_emitter *e, sptx_value slot);
void sptx_set_slot(sptx_gpu_emitter *e, sptx_value slot, sptx_value value);
void sptx_get_slots(sptx_gpu_emitter *e, const sptx_value *slots, sptx_value *values, int count);
void sptx_set_slots(sptx_gpu_emitter *e, const sptx_value *slots, const sptx_value *values, int count);

/* if (condition) { ... } else { ... }; the else part may be left out. */
typedef struct sptx_if {
  LLVMBasicBlockRef else_block, end;
  bool has_else;
} sptx_if;
sptx_if sptx_if_begin(sptx_gpu_emitter *e, sptx_value condition);
void sptx_if_else(sptx_gpu_emitter *e, sptx_if *branch);
void sptx_if_end(sptx_gpu_emitter *e, sptx_if *branch);

/* for (i = slot's value; i < stop; i += step) { ... }, signed i32, never unrolled by the optimiser. */
typedef struct sptx_loop {
  LLVMBasicBlockRef head, end;
  sptx_value slot, index, step;
} sptx_loop;
sptx_loop sptx_loop_begin(sptx_gpu_emitter *e, sptx_value begin, sptx_value stop, sptx_value step);
void sptx_loop_end(sptx_gpu_emitter *e, sptx_loop *loop);

#endif
