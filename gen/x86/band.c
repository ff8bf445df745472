/* Bounds and masks: which keys each lane's query attends to, and the walk over the tiles of keys that hold
 * any of them. */
#include "gen/predicate.h"
#include "gen/x86/emit.h"

/* Parameters of the function void bound(bound, first, begin, last, key_begin, key_end, target, lanes): lanes
 * x = first .. get the bound at x, with x cut to begin <= x <= last, as 32 bits cut to the keys. */
enum { P_BOUND, P_FIRST, P_BEGIN, P_LAST, P_KEY_BEGIN, P_KEY_END, P_TARGET, P_LANES, P_COUNT };

static LLVMValueRef bound_field(sptx_x86_emitter *e, LLVMValueRef bound, size_t field) {
  return sptx_ir_load(&e->ir, e->ir.i64, sptx_ir_at_constant(&e->ir, bound, (int64_t)field), 8);
}
#define BOUND(p, name) bound_field(e, (p)[P_BOUND], offsetof(sptx_bound, name))

static LLVMValueRef clamp(sptx_x86_emitter *e, LLVMValueRef value, LLVMValueRef low, LLVMValueRef high) {
  return sptx_ir_min(&e->ir, sptx_ir_max(&e->ir, value, low), high);
}

static LLVMValueRef splat_double(sptx_x86_emitter *e, LLVMValueRef value) {
  LLVMTypeRef type = LLVMDoubleTypeInContext(e->ir.context);
  return sptx_ir_splat(&e->ir, LLVMBuildSIToFP(e->ir.builder, value, type, ""), 8);
}

/* A bound of period 1 is affine: 8 lanes at a time, in doubles, which AVX2 can multiply and cut where it
 * cannot 64-bit integers. They are exact where it matters: a value beyond 2^53 is cut to the keys. */
static void fill_affine(sptx_x86_emitter *e, LLVMValueRef *p) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef zero = sptx_ir_i64(ir, 0), mult = BOUND(p, mult);
  LLVMValueRef ramp = clamp(e, sptx_ir_sub(ir, zero, BOUND(p, ramp_from)), zero, BOUND(p, ramp_max));
  LLVMValueRef add =
      sptx_ir_add(ir, sptx_ir_add(ir, ramp, BOUND(p, add)), sptx_ir_mul(ir, BOUND(p, shift), mult));
  LLVMValueRef low = splat_double(e, clamp(e, BOUND(p, low), p[P_KEY_BEGIN], p[P_KEY_END]));
  LLVMValueRef high = splat_double(e, clamp(e, BOUND(p, high), p[P_KEY_BEGIN], p[P_KEY_END]));
  LLVMValueRef begin = splat_double(e, p[P_BEGIN]), last = splat_double(e, p[P_LAST]);
  LLVMTypeRef doubles = LLVMVectorType(LLVMDoubleTypeInContext(ir->context), 8);
  LLVMValueRef lanes = LLVMBuildSIToFP(ir->builder, sptx_ir_iota(ir, ir->i32, 8), doubles, "");
  add = splat_double(e, add), mult = splat_double(e, mult);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, zero, p[P_LANES], sptx_ir_i64(ir, 8), true, NULL, 0);
  LLVMValueRef x = sptx_ir_fadd(ir, splat_double(e, sptx_ir_add(ir, p[P_FIRST], loop.index)), lanes);
  LLVMValueRef value = clamp(e, sptx_ir_fma(ir, clamp(e, x, begin, last), mult, add), low, high);
  value = LLVMBuildFPToSI(ir->builder, value, LLVMVectorType(ir->i32, 8), "");
  sptx_ir_store(ir, value, sptx_ir_at(ir, p[P_TARGET], sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 4))), 4);
  sptx_ir_loop_end(ir, &loop);
}

/* floor((x + shift) / period) for an x + shift of either sign. */
static LLVMValueRef floor_quotient(sptx_x86_emitter *e, LLVMValueRef value, LLVMValueRef period) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef quotient = LLVMBuildSDiv(ir->builder, value, period, "");
  LLVMValueRef rest = sptx_ir_sub(ir, value, sptx_ir_mul(ir, quotient, period));
  LLVMValueRef negative = sptx_ir_compare(ir, LLVMIntSLT, rest, sptx_ir_i64(ir, 0));
  return sptx_ir_add(ir, quotient, LLVMBuildSExt(ir->builder, negative, ir->i64, ""));
}

/* Any bound, lane by lane: one division at the start, then quotient and remainder count along. */
static void fill_periodic(sptx_x86_emitter *e, LLVMValueRef *p) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef zero = sptx_ir_i64(ir, 0), one = sptx_ir_i64(ir, 1), period = BOUND(p, period);
  LLVMValueRef first = clamp(e, p[P_FIRST], p[P_BEGIN], p[P_LAST]);
  LLVMValueRef shifted = sptx_ir_add(ir, first, BOUND(p, shift));
  LLVMValueRef quotient = floor_quotient(e, shifted, period);
  LLVMValueRef rest = sptx_ir_sub(ir, shifted, sptx_ir_mul(ir, quotient, period));
  LLVMValueRef base = sptx_ir_add(ir, sptx_ir_mul(ir, quotient, BOUND(p, mult)), BOUND(p, add));
  LLVMValueRef carried[] = {base, rest}, mult = BOUND(p, mult), from = BOUND(p, ramp_from);
  LLVMValueRef ramp_max = BOUND(p, ramp_max), low = BOUND(p, low), high = BOUND(p, high);
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, zero, p[P_LANES], one, true, carried, 2);
  LLVMValueRef ramp = clamp(e, sptx_ir_sub(ir, loop.carried[1], from), zero, ramp_max);
  LLVMValueRef value = clamp(e, sptx_ir_add(ir, loop.carried[0], ramp), low, high);
  value = LLVMBuildTrunc(ir->builder, clamp(e, value, p[P_KEY_BEGIN], p[P_KEY_END]), ir->i32, "");
  sptx_ir_store(ir, value, sptx_ir_at(ir, p[P_TARGET], sptx_ir_mul(ir, loop.index, sptx_ir_i64(ir, 4))), 4);
  /* The lane's x moves only while it is inside the range. */
  LLVMValueRef x = sptx_ir_add(ir, p[P_FIRST], loop.index);
  LLVMValueRef moves = LLVMBuildAnd(ir->builder, sptx_ir_compare(ir, LLVMIntSGE, x, p[P_BEGIN]),
                                    sptx_ir_compare(ir, LLVMIntSLT, x, p[P_LAST]), "");
  LLVMValueRef next = sptx_ir_add(ir, loop.carried[1], LLVMBuildZExt(ir->builder, moves, ir->i64, ""));
  LLVMValueRef wraps = sptx_ir_compare(ir, LLVMIntEQ, next, period);
  loop.carried[0] = sptx_ir_add(ir, loop.carried[0], sptx_ir_select(ir, wraps, mult, zero));
  loop.carried[1] = sptx_ir_select(ir, wraps, zero, next);
  sptx_ir_loop_end(ir, &loop);
}

void sptx_x86_emit_bound(sptx_x86_emitter *e) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef types[P_COUNT] = {ir->pointer, ir->i64, ir->i64,     ir->i64,
                                ir->i64,     ir->i64, ir->pointer, ir->i64};
  if (!sptx_x86_common_function(e, "bound", ir->void_type, types, P_COUNT, &e->fill_bound))
    return;
  LLVMValueRef p[P_COUNT];
  LLVMGetParams(ir->function, p);
  sptx_ir_branch branch;
  sptx_ir_if(ir, &branch, sptx_ir_compare(ir, LLVMIntEQ, BOUND(p, period), sptx_ir_i64(ir, 1)));
  fill_affine(e, p);
  sptx_ir_else(ir, &branch);
  fill_periodic(e, p);
  sptx_ir_end_if(ir, &branch);
  LLVMBuildRetVoid(ir->builder);
}

void sptx_x86_bounds(sptx_x86_emitter *e, const sptx_x86_side *queries, const sptx_x86_side *keys,
                     LLVMValueRef first) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef last = sptx_ir_sub(ir, queries->end, sptx_ir_i64(ir, 1));
  LLVMValueRef low = sptx_x86_scratch(e, e->layout.low), width = sptx_x86_scratch(e, e->layout.width);
  const int64_t fields[] = {SPTX_X86_FIELD(lo), SPTX_X86_FIELD(hi)};
  for (int k = 0; k < 2; k++) {
    LLVMValueRef bound = sptx_ir_at_constant(ir, e->params, fields[k]), target = k ? width : low;
    LLVMValueRef arguments[P_COUNT] = {
        bound, first, queries->begin, last, keys->begin, keys->end, target, sptx_ir_i64(ir, e->query_tile)};
    sptx_x86_call(e, e->fill_bound, arguments, P_COUNT);
  }
  sptx_ir_loop loop;
  sptx_ir_loop_begin(ir, &loop, sptx_ir_i64(ir, 0), sptx_ir_i64(ir, e->query_tile * 4), sptx_ir_i64(ir, 32),
                     true, NULL, 0);
  LLVMTypeRef type = LLVMVectorType(ir->i32, 8);
  LLVMValueRef address = sptx_ir_at(ir, width, loop.index);
  LLVMValueRef difference = sptx_ir_sub(ir, sptx_ir_load(ir, type, address, 4),
                                        sptx_ir_load(ir, type, sptx_ir_at(ir, low, loop.index), 4));
  if (e->mutant == SPTX_X86_MUTANT_MASK)
    difference = sptx_ir_add(ir, difference, sptx_ir_splat(ir, sptx_ir_i32(ir, 1), 8));
  sptx_ir_store(ir, sptx_ir_max(ir, difference, LLVMConstNull(type)), address, 4);
  sptx_ir_loop_end(ir, &loop);
}

LLVMValueRef sptx_x86_mask_lanes(sptx_x86_emitter *e, const sptx_x86_mask *mask, LLVMValueRef vector_index) {
  sptx_ir *ir = &e->ir;
  LLVMTypeRef integers = LLVMVectorType(ir->i32, e->lanes), booleans = LLVMVectorType(ir->i1, e->lanes);
  if (e->shape->listed) {
    LLVMValueRef shift = sptx_ir_mul(ir, vector_index, sptx_ir_i64(ir, e->lanes));
    LLVMValueRef bits = LLVMBuildLShr(ir->builder, mask->bits, shift, "");
    bits = LLVMBuildTrunc(ir->builder, bits, LLVMIntTypeInContext(ir->context, e->lanes), "");
    return LLVMBuildBitCast(ir->builder, bits, booleans, "");
  }
  LLVMValueRef offset = sptx_ir_mul(ir, vector_index, sptx_ir_i64(ir, e->lanes * 4));
  LLVMValueRef low =
      sptx_ir_load(ir, integers, sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.low), offset), 32);
  LLVMValueRef width =
      sptx_ir_load(ir, integers, sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.width), offset), 32);
  LLVMValueRef inside = sptx_ir_sub(ir, sptx_ir_splat(ir, mask->key_index, e->lanes), low);
  LLVMValueRef result = sptx_ir_compare(ir, LLVMIntULT, inside, width);
  if (!e->shape->predicate)
    return result;
  LLVMValueRef queries =
      sptx_ir_load(ir, integers, sptx_ir_at(ir, sptx_x86_scratch(e, e->layout.query_position), offset), 32);
  LLVMValueRef member = sptx_predicate_emit(ir, e->shape->predicate, queries, mask->key_position);
  return LLVMBuildAnd(ir->builder, result, member, "");
}

static LLVMValueRef lane_value(sptx_x86_emitter *e, int64_t array, LLVMValueRef lane) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef offset = sptx_ir_mul(ir, lane, sptx_ir_i64(ir, 4));
  LLVMValueRef value = sptx_ir_load(ir, ir->i32, sptx_ir_at(ir, sptx_x86_scratch(e, array), offset), 4);
  return LLVMBuildSExt(ir->builder, value, ir->i64, "");
}

/* Bounds are monotonic, so the extreme values stand in the outermost lanes. */
void sptx_x86_lane_range(sptx_x86_emitter *e, LLVMValueRef first_lane, int count, sptx_x86_range *range) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef low[2], high[2];
  for (int end = 0; end < 2; end++) {
    LLVMValueRef lane = sptx_ir_add(ir, first_lane, sptx_ir_i64(ir, end * (count - 1)));
    low[end] = lane_value(e, e->layout.low, lane);
    high[end] = sptx_ir_add(ir, low[end], lane_value(e, e->layout.width, lane));
  }
  *range = (sptx_x86_range){sptx_ir_min(ir, low[0], low[1]), sptx_ir_max(ir, high[0], high[1]),
                            sptx_ir_max(ir, low[0], low[1]), sptx_ir_min(ir, high[0], high[1])};
}

static void walk_band(sptx_x86_emitter *e, LLVMValueRef key_begin, LLVMValueRef key_end,
                      sptx_x86_key_walk *walk) {
  sptx_ir *ir = &e->ir;
  sptx_x86_range range;
  sptx_x86_lane_range(e, sptx_ir_i64(ir, 0), e->query_tile, &range);
  LLVMValueRef begin = sptx_ir_max(ir, range.begin, key_begin);
  LLVMValueRef end = sptx_ir_min(ir, range.end, key_end), step = sptx_ir_i64(ir, e->key_tile);
  sptx_ir_loop_begin(ir, &walk->loop, begin, end, step, false, NULL, 0);
  walk->first = walk->loop.index;
  walk->count = sptx_ir_min(ir, sptx_ir_sub(ir, end, walk->first), step);
  walk->bits = NULL;
  LLVMValueRef last = sptx_ir_add(ir, walk->first, walk->count);
  LLVMValueRef common =
      LLVMBuildAnd(ir->builder, sptx_ir_compare(ir, LLVMIntSGE, walk->first, range.common_begin),
                   sptx_ir_compare(ir, LLVMIntSLE, last, range.common_end), "");
  walk->masked = e->shape->predicate ? LLVMConstInt(ir->i1, 1, false) : LLVMBuildNot(ir->builder, common, "");
}

static LLVMValueRef list_entry(sptx_x86_emitter *e, LLVMValueRef table, LLVMValueRef index, LLVMTypeRef type,
                               int size) {
  LLVMValueRef address = sptx_ir_at(&e->ir, table, sptx_ir_mul(&e->ir, index, sptx_ir_i64(&e->ir, size)));
  LLVMValueRef value = sptx_ir_load(&e->ir, type, address, (unsigned)size);
  return type == e->ir.i64 ? value : LLVMBuildSExt(e->ir.builder, value, e->ir.i64, "");
}

/* Listed tiles are SPTX_GENERIC_TILE keys long; key tiles of the kernel are no shorter, and one query tile
 * lies in one row of the list. */
static void walk_list(sptx_x86_emitter *e, const sptx_x86_side *keys, LLVMValueRef query_first,
                      LLVMValueRef key_begin, LLVMValueRef key_end, sptx_x86_key_walk *walk) {
  sptx_ir *ir = &e->ir;
  LLVMValueRef tile = sptx_ir_i64(ir, SPTX_GENERIC_TILE), one = sptx_ir_i64(ir, 1);
  LLVMValueRef row = sptx_ir_div(ir, query_first, tile), table = sptx_x86_table(e, SPTX_X86_FIELD(row_start));
  LLVMValueRef begin = list_entry(e, table, row, ir->i64, 8);
  LLVMValueRef end = list_entry(e, table, sptx_ir_add(ir, row, one), ir->i64, 8);
  sptx_ir_loop_begin(ir, &walk->loop, begin, end, one, false, NULL, 0);
  LLVMValueRef key_tile =
      list_entry(e, sptx_x86_table(e, SPTX_X86_FIELD(key_tile)), walk->loop.index, ir->i32, 4);
  LLVMValueRef mask = list_entry(e, sptx_x86_table(e, SPTX_X86_FIELD(mask)), walk->loop.index, ir->i32, 4);
  walk->first = sptx_ir_mul(ir, key_tile, tile);
  LLVMValueRef limit = sptx_ir_min(ir, key_end, keys->end);
  LLVMValueRef count = sptx_ir_min(ir, sptx_ir_sub(ir, limit, walk->first), tile);
  /* Chunks of the backward begin at multiples of the tile: a tile is inside or outside as a whole. */
  LLVMValueRef inside = sptx_ir_compare(ir, LLVMIntSGE, walk->first, key_begin);
  walk->count = sptx_ir_select(ir, inside, sptx_ir_max(ir, count, sptx_ir_i64(ir, 0)), sptx_ir_i64(ir, 0));
  walk->masked = sptx_ir_compare(ir, LLVMIntSGE, mask, sptx_ir_i64(ir, 0));
  LLVMValueRef offset = sptx_ir_mul(ir, mask, sptx_ir_i64(ir, SPTX_GENERIC_TILE * 8));
  walk->bits = sptx_ir_at(ir, sptx_x86_table(e, SPTX_X86_FIELD(masks)), offset);
}

void sptx_x86_key_walk_begin(sptx_x86_emitter *e, const sptx_x86_side *keys, LLVMValueRef query_first,
                             LLVMValueRef key_begin, LLVMValueRef key_end, sptx_x86_key_walk *walk) {
  if (e->shape->listed)
    walk_list(e, keys, query_first, key_begin, key_end, walk);
  else
    walk_band(e, key_begin, key_end, walk);
}

void sptx_x86_key_walk_end(sptx_x86_emitter *e, sptx_x86_key_walk *walk) {
  sptx_ir_loop_end(&e->ir, &walk->loop);
}
