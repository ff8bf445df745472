/* The x86 plan: the kernels and launches that compute one attention call on the CPU. gen/x86 makes it from
 * the pieces; sptx-gen writes it out, the runtime compiles and runs it. Kernel code is specialised for
 * structure only (element type, head_dim, instruction set, schedule, kind of mask); sizes and views arrive in
 * parameter blocks, so that one compiled kernel serves every n and most pieces. */
#ifndef SPTX_GEN_X86_PLAN_H
#define SPTX_GEN_X86_PLAN_H

#include "gen/kernel.h"
#include "gen/rates.h"
#include <llvm-c/Core.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum sptx_isa { SPTX_ISA_AVX2, SPTX_ISA_AVX512, SPTX_ISA_AVX512_BF16, SPTX_ISA_AMX };

/* The tensors of one call. Generated code reads this struct by field order: change both or none. */
typedef struct sptx_x86_args {
  const void *q, *k, *v;
  void *o;
  float *lse; /* may not be NULL for backward; forward always writes it (the runtime lends one) */
  const void *d_o;
  void *d_q, *d_k, *d_v;
  void *workspace;           /* sptx_x86_plan.workspace_bytes, 64-byte aligned, shared by all launches */
  const float *alibi_slopes; /* heads entries or NULL */
  float scale, soft_cap;
  int64_t position; /* decode: the new query's position; else unused */
} sptx_x86_args;

/* Computes one work item. params is the launch's parameter block; scratch is this thread's own, of
 * scratch_bytes, 64-byte aligned. Items of one launch are independent and may run in any order. */
typedef void (*sptx_x86_kernel)(const sptx_x86_args *args, const void *params, int64_t item, void *scratch);

/* The free choices of an x86 kernel. Zero means: the generator's default for this piece. */
typedef struct sptx_x86_schedule {
  enum sptx_isa isa;
  int query_tile;       /* queries of one work item: a multiple of the vector length */
  int key_tile;         /* keys between two rescalings of the accumulator */
  int register_rows;    /* rows of the register block of a micro-kernel */
  int register_vectors; /* vectors of the register block */
  int tile_items;       /* forward: neighbouring query tiles that make one work item */
  int copy_rows;  /* float32 rows of a tile's keys, copied together first: 1 none, 2 V's, 3 K's and V's */
  int key_ranges; /* backward: ranges of keys, each with a dQ of its own */
} sptx_x86_schedule;

/* One parallel loop over items; launches run in order with a barrier between them. */
typedef struct sptx_x86_launch {
  char symbol[128]; /* type_pass_isa_dim_tile and so on: all that the kernel's code depends on is in it */
  char common[64];  /* names the functions that it has in common with other kernels; "": none */
  void *params;     /* constant parameter block, owned by the plan */
  size_t params_bytes;
  int64_t items;
  size_t scratch_bytes;
} sptx_x86_launch;

typedef struct sptx_x86_plan {
  sptx_x86_launch *launches;
  int launch_count;
  size_t workspace_bytes;
  int64_t useful_pairs, computed_pairs; /* over batch and heads */
} sptx_x86_plan;

/* Instruction sets of this machine (best last in preference order), or of an LLVM CPU name. */
enum sptx_isa sptx_x86_host_isa(void);
/* Asks Linux for the tile registers, too, when isa is AMX: after true, this process may run its kernels. */
bool sptx_x86_isa_available(enum sptx_isa isa);
int sptx_x86_lanes(enum sptx_isa isa);        /* float32 lanes of its vectors */
const char *sptx_isa_name(enum sptx_isa isa); /* "avx2", "avx512", "avx512_bf16", "amx" */
/* Schedules that may pay for a piece, at most capacity; returns how many. Tiles and register blocks are
 * filled in; the other choices are left to the planner where nothing speaks for another. */
int sptx_x86_schedule_space(const sptx_problem *problem, enum sptx_pass pass, const sptx_piece *piece,
                            enum sptx_isa isa, sptx_x86_schedule *schedules, int capacity);
/* Whether a schedule (zeros are defaults) can run a piece. */
bool sptx_x86_schedule_fits(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                            enum sptx_pass pass, const sptx_piece *piece);
/* Expected seconds of a pass over one piece for `heads` heads, with zeros filled in as the planner does. */
double sptx_x86_schedule_cost(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                              enum sptx_pass pass, const sptx_piece *piece, int64_t heads,
                              const sptx_rates *rates);

/* Plans one pass. lists[c] holds the pieces of class c of the instance, class_of_head as in the instance.
 * schedule may be NULL (defaults). The plan copies what it needs from the pieces. */
enum sptx_code sptx_x86_plan_create(const sptx_problem *problem, enum sptx_pass pass,
                                    const sptx_piece_list *lists, const int *class_of_head,
                                    const sptx_x86_schedule *schedule, sptx_x86_plan **plan,
                                    sptx_error *error);
void sptx_x86_plan_free(sptx_x86_plan *plan); /* NULL is allowed */
/* The plan's text form, one line for each launch, for `sptx-gen --dump schedule`. */
void sptx_x86_plan_print(const sptx_x86_plan *plan, FILE *stream);

/* Writes the kernel called symbol, or with NULL all distinct kernels of the plan, into a new module of
 * context (target triple, CPU and features set, verified, not yet optimised). With NULL the module needs
 * nothing else. A single kernel calls common functions of a module of their own, which a launch's `common` as
 * the symbol gives. Several threads may build from one plan, each in a context of its own. */
enum sptx_code sptx_x86_plan_build(const sptx_x86_plan *plan, const char *symbol, LLVMContextRef context,
                                   LLVMModuleRef *module, sptx_error *error);

#endif
