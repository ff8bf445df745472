/* What the two halves of the interpreter share: simt.c has plain instructions, simt_warp.c what threads do
 * together. */
#ifndef SPTX_TESTS_SIMT_INTERNAL_H
#define SPTX_TESTS_SIMT_INTERNAL_H

#include "tests/support/simt.h"
#include <llvm-c/Core.h>

enum {
  SIMT_MAX_THREADS = 512,
  SIMT_MAX_CODE = 1 << 17,
  SIMT_MAX_BLOCKS = 4096,
  SIMT_MAX_CONSTANTS = 1 << 16,
  SIMT_MAX_OPERANDS = 12,
  SIMT_HASH = 1 << 19,
  SIMT_SHARED_BYTES = 101376,
  SIMT_SHARED_BASE = 1024, /* address of the first byte */
  SIMT_MAX_COPIES = 512,   /* under way, of one thread */
};

typedef struct simt_instruction {
  int opcode, result, fields, bits, type, from_bits, from_type, from_fields;
  int operand_count, operand[SIMT_MAX_OPERANDS];
  int predicate, index, target[2];
  bool is_slot;     /* load or store of a slot: the value lives in the alloca's place */
  const char *text; /* of calls: intrinsic or assembly */
} simt_instruction;

typedef struct simt_constant {
  int place;
  uint64_t bits;
} simt_constant;

/* A decoded function: blocks by rank in reverse post-order. */
typedef struct simt_code {
  simt_instruction instruction[SIMT_MAX_CODE];
  int count, start[SIMT_MAX_BLOCKS];
  LLVMBasicBlockRef block[SIMT_MAX_BLOCKS];
  int rank[SIMT_MAX_BLOCKS], block_count, next_rank;
  LLVMValueRef key[SIMT_HASH];
  int place[SIMT_HASH], words;
  simt_constant constant[SIMT_MAX_CONSTANTS];
  int constant_count;
  const char *failure;
} simt_code;

typedef struct simt_copy {
  uint32_t to;
  int bytes, read;
  const void *from;
} simt_copy;

/* A CTA that runs. */
typedef struct simt {
  const simt_code *code;
  int threads, cta, shared_bytes;
  uint64_t *values; /* [word][thread] */
  int rank[SIMT_MAX_THREADS];
  bool active[SIMT_MAX_THREADS];
  unsigned char shared[SIMT_SHARED_BYTES];
  /* Of each 4 bytes: who touched them since which barrier. */
  int epoch, write_epoch[SIMT_SHARED_BYTES / 4], read_epoch[SIMT_SHARED_BYTES / 4];
  int writer[SIMT_SHARED_BYTES / 4];
  uint32_t readers[SIMT_SHARED_BYTES / 4];
  simt_copy copy[SIMT_MAX_THREADS][SIMT_MAX_COPIES];
  int copy_count[SIMT_MAX_THREADS];
  char detail[128];
} simt;

#define AT(s, place, field, thread)                                                                          \
  ((s)->values[(size_t)((place) + (field)) * (size_t)(s)->threads + (size_t)(thread)])

/* Calls of intrinsics and assembly for all active threads. NULL, or what went wrong. */
const char *simt_call(simt *s, const simt_instruction *in);

float simt_to_float(uint64_t bits);
uint64_t simt_from_float(float value);
float simt_half_to_float(uint16_t bits);
uint16_t simt_to_half(float value);
uint16_t simt_to_bfloat(float value);

#endif
