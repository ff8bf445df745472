/* One emitter for each primitive, in a table; the algebra combines their results. What depends on the key
 * alone or the query alone stays in its own width, so that it is computed once and not for each pair. */
#include "gen/predicate.h"

#include <limits.h>
#include <stdlib.h>

typedef struct sptx_pair {
  sptx_ir *ir;
  LLVMValueRef i, j;
} sptx_pair;

static unsigned lanes_of(LLVMValueRef value) {
  LLVMTypeRef type = LLVMTypeOf(value);
  return LLVMGetTypeKind(type) == LLVMVectorTypeKind ? LLVMGetVectorSize(type) : 1;
}

/* Brings two values to one width. */
static void widen(sptx_ir *ir, LLVMValueRef *a, LLVMValueRef *b) {
  unsigned lanes = lanes_of(*a) > lanes_of(*b) ? lanes_of(*a) : lanes_of(*b);
  if (lanes_of(*a) < lanes)
    *a = sptx_ir_splat(ir, *a, lanes);
  if (lanes_of(*b) < lanes)
    *b = sptx_ir_splat(ir, *b, lanes);
}

static LLVMValueRef combine(sptx_ir *ir, LLVMOpcode opcode, LLVMValueRef a, LLVMValueRef b) {
  widen(ir, &a, &b);
  return LLVMBuildBinOp(ir->builder, opcode, a, b, "");
}

static LLVMValueRef with_constant(sptx_ir *ir, LLVMOpcode opcode, LLVMValueRef a, int64_t constant) {
  return combine(ir, opcode, a, sptx_ir_i32(ir, constant));
}

static LLVMValueRef compare(sptx_ir *ir, LLVMIntPredicate predicate, LLVMValueRef a, LLVMValueRef b) {
  widen(ir, &a, &b);
  return sptx_ir_compare(ir, predicate, a, b);
}

static LLVMValueRef compare_constant(sptx_ir *ir, LLVMIntPredicate predicate, LLVMValueRef a,
                                     int64_t constant) {
  return compare(ir, predicate, a, sptx_ir_i32(ir, constant));
}

static LLVMValueRef truth(sptx_ir *ir, bool value) {
  return LLVMConstInt(ir->i1, value, false);
}

static int64_t to_i32(int64_t value) {
  return value > INT_MAX ? INT_MAX : value < INT_MIN + 1 ? INT_MIN + 1 : value;
}

static LLVMValueRef emit_all(sptx_pair *pair, const sptx_set *set) {
  (void)set;
  return truth(pair->ir, true);
}

static LLVMValueRef emit_window(sptx_pair *pair, const sptx_set *set) {
  LLVMValueRef distance = combine(pair->ir, LLVMSub, pair->i, pair->j);
  LLVMValueRef after = compare_constant(pair->ir, LLVMIntSGE, distance, -to_i32(set->as.window.right));
  LLVMValueRef before = compare_constant(pair->ir, LLVMIntSLT, distance, to_i32(set->as.window.left));
  return combine(pair->ir, LLVMAnd, after, before);
}

/* (i - j - phase) mod every == 0 as equality of two remainders of numbers >= 0. */
static LLVMValueRef same_remainder(sptx_pair *pair, int64_t every, int64_t phase) {
  LLVMValueRef query = with_constant(pair->ir, LLVMURem, pair->i, every);
  LLVMValueRef shifted = with_constant(pair->ir, LLVMAdd, pair->j, phase);
  return compare(pair->ir, LLVMIntEQ, query, with_constant(pair->ir, LLVMURem, shifted, every));
}

static LLVMValueRef emit_stride(sptx_pair *pair, const sptx_set *set) {
  return same_remainder(pair, set->as.stride.every, set->as.stride.phase);
}

static LLVMValueRef emit_block(sptx_pair *pair, const sptx_set *set) {
  LLVMValueRef query = with_constant(pair->ir, LLVMUDiv, pair->i, set->as.block.size);
  return compare(pair->ir, LLVMIntEQ, query, with_constant(pair->ir, LLVMUDiv, pair->j, set->as.block.size));
}

/* Is value among the ascending list? One comparison of a range for each run of neighbours. */
static LLVMValueRef among(sptx_ir *ir, LLVMValueRef value, const int64_t *list, int64_t count) {
  LLVMValueRef result = truth(ir, false);
  for (int64_t first = 0, last; first < count; first = last) {
    for (last = first + 1; last < count && list[last] == list[last - 1] + 1;)
      last++;
    LLVMValueRef offset = with_constant(ir, LLVMSub, value, list[first]);
    result = combine(ir, LLVMOr, result, compare_constant(ir, LLVMIntULT, offset, last - first));
  }
  return result;
}

static LLVMValueRef emit_columns(sptx_pair *pair, const sptx_set *set) {
  LLVMValueRef residue = with_constant(pair->ir, LLVMURem, pair->j, set->as.columns.every);
  return among(pair->ir, residue, set->as.columns.residues, set->as.columns.residue_count);
}

static LLVMValueRef emit_dilated(sptx_pair *pair, const sptx_set *set) {
  int64_t reach = set->as.dilated.window * set->as.dilated.dilation;
  LLVMValueRef distance = combine(pair->ir, LLVMSub, pair->i, pair->j);
  LLVMValueRef near =
      combine(pair->ir, LLVMAnd, compare_constant(pair->ir, LLVMIntSLT, distance, to_i32(reach)),
              compare_constant(pair->ir, LLVMIntSGT, distance, -to_i32(reach)));
  return combine(pair->ir, LLVMAnd, near, same_remainder(pair, set->as.dilated.dilation, 0));
}

/* Equal digits on the axes that attention does not run along; the outermost digit is not bounded. */
static LLVMValueRef emit_grid(sptx_pair *pair, const sptx_set *set) {
  LLVMValueRef result = truth(pair->ir, true), i = pair->i, j = pair->j;
  for (int axis = set->as.grid.axes - 1; axis >= 0; axis--) {
    int64_t size = set->as.grid.shape[axis];
    LLVMValueRef query = axis ? with_constant(pair->ir, LLVMURem, i, size) : i;
    LLVMValueRef key = axis ? with_constant(pair->ir, LLVMURem, j, size) : j;
    if (!set->as.grid.along[axis])
      result = combine(pair->ir, LLVMAnd, result, compare(pair->ir, LLVMIntEQ, query, key));
    i = with_constant(pair->ir, LLVMUDiv, i, size);
    j = with_constant(pair->ir, LLVMUDiv, j, size);
  }
  return result;
}

static LLVMValueRef emit_global(sptx_pair *pair, const sptx_set *set) {
  LLVMValueRef result = truth(pair->ir, false);
  if (set->as.global.as_query)
    result = combine(pair->ir, LLVMOr, result,
                     among(pair->ir, pair->i, set->as.global.at, set->as.global.at_count));
  if (set->as.global.as_key)
    result = combine(pair->ir, LLVMOr, result,
                     among(pair->ir, pair->j, set->as.global.at, set->as.global.at_count));
  return result;
}

static LLVMValueRef emit_set(sptx_pair *pair, const sptx_set *set);

static LLVMValueRef emit_any(sptx_pair *pair, const sptx_set *set) {
  LLVMValueRef result = truth(pair->ir, false);
  for (int k = 0; k < set->child_count; k++)
    result = combine(pair->ir, LLVMOr, result, emit_set(pair, set->children[k]));
  return result;
}

static LLVMValueRef emit_all_of(sptx_pair *pair, const sptx_set *set) {
  LLVMValueRef result = truth(pair->ir, true);
  for (int k = 0; k < set->child_count; k++)
    result = combine(pair->ir, LLVMAnd, result, emit_set(pair, set->children[k]));
  return result;
}

static LLVMValueRef emit_not(sptx_pair *pair, const sptx_set *set) {
  return LLVMBuildNot(pair->ir->builder, emit_set(pair, set->children[0]), "");
}

/* A primitive is one row; rows left out have no closed form. */
static LLVMValueRef (*const emitters[])(sptx_pair *, const sptx_set *) = {
    [SPTX_SET_ALL] = emit_all,       [SPTX_SET_WINDOW] = emit_window,   [SPTX_SET_STRIDE] = emit_stride,
    [SPTX_SET_BLOCK] = emit_block,   [SPTX_SET_COLUMNS] = emit_columns, [SPTX_SET_DILATED] = emit_dilated,
    [SPTX_SET_GRID] = emit_grid,     [SPTX_SET_GLOBAL] = emit_global,   [SPTX_SET_ANY] = emit_any,
    [SPTX_SET_ALL_OF] = emit_all_of, [SPTX_SET_NOT] = emit_not,
};

static LLVMValueRef emit_set(sptx_pair *pair, const sptx_set *set) {
  return emitters[set->kind](pair, set);
}

LLVMValueRef sptx_predicate_emit(sptx_ir *ir, const sptx_set *set, LLVMValueRef i, LLVMValueRef j) {
  sptx_pair pair = {ir, i, j};
  LLVMValueRef result = emit_set(&pair, set);
  unsigned lanes = lanes_of(i) > lanes_of(j) ? lanes_of(i) : lanes_of(j);
  return lanes_of(result) < lanes ? sptx_ir_splat(ir, result, lanes) : result;
}

static int numbers_fit(const sptx_set *set) {
  switch (set->kind) {
  case SPTX_SET_STRIDE:
    return set->as.stride.every < INT_MAX / 2;
  case SPTX_SET_BLOCK:
    return set->as.block.size <= INT_MAX;
  case SPTX_SET_COLUMNS:
    return set->as.columns.every <= INT_MAX;
  case SPTX_SET_DILATED:
    return set->as.dilated.dilation <= INT_MAX && set->as.dilated.window <= INT_MAX;
  case SPTX_SET_GRID:
    for (int axis = 0; axis < set->as.grid.axes; axis++)
      if (set->as.grid.shape[axis] > INT_MAX)
        return 0;
    return 1;
  case SPTX_SET_GLOBAL:
    return set->as.global.at_count == 0 || set->as.global.at[set->as.global.at_count - 1] <= INT_MAX;
  default:
    return 1;
  }
}

int sptx_predicate_supported(const sptx_set *set) {
  if ((size_t)set->kind >= sizeof emitters / sizeof *emitters || !emitters[set->kind] || !numbers_fit(set))
    return 0;
  for (int k = 0; k < set->child_count; k++)
    if (!sptx_predicate_supported(set->children[k]))
      return 0;
  return 1;
}

static uint64_t mix(uint64_t hash, int64_t value) {
  hash = (hash ^ (uint64_t)value) * 0x9e3779b97f4a7c15u;
  return hash ^ hash >> 29;
}

static uint64_t mix_list(uint64_t hash, const int64_t *list, int64_t count) {
  hash = mix(hash, count);
  for (int64_t k = 0; k < count; k++)
    hash = mix(hash, list[k]);
  return hash;
}

/* The numbers of one node, its children left out. */
static uint64_t hash_numbers(uint64_t hash, const sptx_set *set) {
  switch (set->kind) {
  case SPTX_SET_WINDOW:
    return mix(mix(hash, set->as.window.left), set->as.window.right);
  case SPTX_SET_STRIDE:
    return mix(mix(hash, set->as.stride.every), set->as.stride.phase);
  case SPTX_SET_BLOCK:
    return mix(hash, set->as.block.size);
  case SPTX_SET_COLUMNS:
    return mix_list(mix(hash, set->as.columns.every), set->as.columns.residues,
                    set->as.columns.residue_count);
  case SPTX_SET_DILATED:
    return mix(mix(hash, set->as.dilated.window), set->as.dilated.dilation);
  case SPTX_SET_GRID:
    hash = mix_list(hash, set->as.grid.shape, set->as.grid.axes);
    for (int axis = 0; axis < set->as.grid.axes; axis++)
      hash = mix(hash, set->as.grid.along[axis]);
    return hash;
  case SPTX_SET_GLOBAL:
    hash = mix(mix(hash, set->as.global.as_query), set->as.global.as_key);
    return mix_list(hash, set->as.global.at, set->as.global.at_count);
  default:
    return hash;
  }
}

uint64_t sptx_predicate_hash(const sptx_set *set) {
  uint64_t hash = hash_numbers(mix(0x5eed, set->kind), set);
  for (int k = 0; k < set->child_count; k++)
    hash = mix(hash, (int64_t)sptx_predicate_hash(set->children[k]));
  return hash;
}
