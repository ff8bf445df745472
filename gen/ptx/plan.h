/* The GPU plan: the PTX kernels and launches that compute one attention call. gen/ptx makes it from the
 * pieces; sptx-gen writes it out, the runtime lets the driver assemble and run it. Kernel code is specialised
 * for structure (element type, head_dim, tiles, kind of mask and bound); sizes, strides and views arrive at
 * run time in a parameter block, so that one compiled kernel serves every n and most pieces.
 *
 * Every kernel has the same signature:
 *
 *   kernel(sptx_gpu_args args, block params, CUtensorMap map_0, CUtensorMap map_1, ...)
 *
 * all by value (byval and grid_constant): the tensors of the call, this launch's constant parameter block,
 * and the launch's tensor maps, which the runtime encodes from the call's pointers. */
#ifndef SPTX_GEN_PTX_PLAN_H
#define SPTX_GEN_PTX_PLAN_H

#include "gen/kernel.h"
#include <llvm-c/Core.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum sptx_ptx_target {
  SPTX_PTX_SM80,  /* cp.async, ldmatrix, mma.sync: Ampere and everything later */
  SPTX_PTX_SM90A, /* also TMA, mbarrier, wgmma, setmaxnreg: Hopper only */
};

/* The tensors of one call, in device memory. Generated code reads this struct by field order: change both or
 * none. Unused pointers are NULL. */
typedef struct sptx_gpu_args {
  uint64_t q, k, v, o;
  uint64_t lse; /* float32 (batch, heads, n_q); never NULL: the runtime lends one */
  uint64_t d_o, d_q, d_k, d_v;
  uint64_t workspace;    /* sptx_gpu_plan.workspace_bytes, 256-byte aligned, shared by all launches */
  uint64_t constants;    /* sptx_gpu_plan.constants, 256-byte aligned, read-only */
  uint64_t alibi_slopes; /* heads floats, or NULL */
  float scale, soft_cap;
  int64_t position; /* decode: the new query's position; else unused */
} sptx_gpu_args;

/* Which field of sptx_gpu_args a tensor map starts from. */
enum sptx_gpu_tensor {
  SPTX_GPU_Q,
  SPTX_GPU_K,
  SPTX_GPU_V,
  SPTX_GPU_O,
  SPTX_GPU_LSE,
  SPTX_GPU_D_O,
  SPTX_GPU_D_Q,
  SPTX_GPU_D_K,
  SPTX_GPU_D_V,
  SPTX_GPU_WORKSPACE,
};

#define SPTX_GPU_MAP_RANK 5

/* A tensor map (PTX ISA, "Tensors"): dimension 0 is contiguous; sizes and boxes in elements, strides in
 * bytes. Reads outside the sizes give zero, writes are dropped. */
typedef struct sptx_gpu_map {
  enum sptx_gpu_tensor tensor;
  int64_t byte_offset;       /* from the tensor's pointer to the map's origin: a multiple of 16 */
  enum sptx_element element; /* F32 for scratch, else the problem's */
  int rank;                  /* 2..5 */
  uint64_t size[SPTX_GPU_MAP_RANK];
  uint64_t stride[SPTX_GPU_MAP_RANK]; /* stride[0] is not read; multiples of 16 below 2^40 */
  uint32_t box[SPTX_GPU_MAP_RANK];    /* at most 256 each */
  int swizzle_bytes;                  /* 0, 32, 64 or 128 */
} sptx_gpu_map;

/* The free choices of a GPU kernel. Zero (or SPTX_PTX_SM80 for the target) means: the default for this piece.
 * What a family does not use, it ignores; what it cannot do, it refuses with SPTX_CODE_UNSUPPORTED. */
typedef struct sptx_ptx_schedule {
  int query_tile;         /* queries of one CTA step; portable backward: of a CTA for dQ */
  int key_tile;           /* keys of one CTA step; portable backward: of a CTA for dK and dV */
  int warps;              /* portable: warps of a CTA */
  int consumers;          /* Hopper: consumer warpgroups of a CTA */
  int stages;             /* depth of the load pipeline */
  int ctas;               /* Hopper: CTAs that share a multiprocessor */
  int producer_registers; /* Hopper: setmaxnreg of the producer and of the consumers */
  int consumer_registers;
  int f32_mode; /* float32 matrix products: 1 = three TF32 products, 2 = plain FFMA, 3 = one TF32 product */
  int family;   /* 1 = portable kernels also where Hopper ones exist: the schedule is theirs */
} sptx_ptx_schedule;

struct sptx_gpu_emitter;

/* A distinct kernel of a plan: emit writes the function `symbol` into the emitter's module from spec. Equal
 * symbols mean equal specs. */
typedef struct sptx_gpu_kernel {
  char symbol[128]; /* says what it is: type_pass_arch_dim_tile... */
  enum sptx_code (*emit)(struct sptx_gpu_emitter *emitter, const char *symbol, const void *spec,
                         sptx_error *error);
  void *spec; /* owned by the plan */
  size_t spec_bytes;
} sptx_gpu_kernel;

#define SPTX_GPU_MAX_MAPS 16

/* One kernel launch; launches of a plan run in order on one stream. */
typedef struct sptx_gpu_launch {
  int kernel;              /* index into kernels */
  uint32_t grid[3], block; /* block: threads of a CTA; a cluster is an annotation of the kernel */
  uint32_t shared_bytes;   /* dynamic shared memory */
  void *params;            /* constant parameter block, owned by the plan */
  size_t params_bytes;
  sptx_gpu_map maps[SPTX_GPU_MAX_MAPS];
  int map_count;
  size_t clear_offset, clear_bytes; /* this part of the workspace is set to zero before the launch */
} sptx_gpu_launch;

typedef struct sptx_gpu_plan {
  enum sptx_ptx_target target;
  sptx_gpu_kernel *kernels;
  int kernel_count;
  sptx_gpu_launch *launches;
  int launch_count;
  sptx_set **sets; /* predicates that kernels are specialised on */
  int set_count;
  void *constants; /* tables the kernels read: work items, tile lists, masks; uploaded once */
  size_t constants_bytes;
  size_t workspace_bytes;
  int64_t useful_pairs, computed_pairs; /* over batch and heads */
} sptx_gpu_plan;

const char *sptx_ptx_target_name(enum sptx_ptx_target target); /* "sm_80", "sm_90a" */

/* Plans one pass. lists[c] holds the pieces of class c of the instance, class_of_head as in the instance.
 * schedule may be NULL (defaults). The plan copies what it needs from the pieces, predicates too. */
enum sptx_code sptx_gpu_plan_create(const sptx_problem *problem, enum sptx_pass pass,
                                    enum sptx_ptx_target target, const sptx_piece_list *lists,
                                    const int *class_of_head, const sptx_ptx_schedule *schedule,
                                    sptx_gpu_plan **plan, sptx_error *error);
void sptx_gpu_plan_free(sptx_gpu_plan *plan); /* NULL is allowed */
/* The plan's text form, one line for each launch, for `sptx-gen --dump schedule`. */
void sptx_gpu_plan_print(const sptx_gpu_plan *plan, FILE *stream);

/* Writes the kernels of the plan into a new module of context (triple and data layout set, verified, not yet
 * optimised). */
enum sptx_code sptx_gpu_plan_build(const sptx_gpu_plan *plan, LLVMContextRef context, LLVMModuleRef *module,
                                   sptx_error *error);

/* Optimises a module and writes its PTX; *ptx is NUL terminated, freed with free(). Thread safe for different
 * contexts. */
enum sptx_code sptx_ptx_emit(LLVMModuleRef module, enum sptx_ptx_target target, char **ptx,
                             sptx_error *error);
/* Build and emit in a context of its own. */
enum sptx_code sptx_gpu_plan_ptx(const sptx_gpu_plan *plan, char **ptx, sptx_error *error);

#endif
