/* What every portable kernel does around its matrix products: decoding the work item, walking views and
 * bounds, filling tiles, turning products into scores. */
#include "gen/ptx/portable.h"

static int round_to(int value, int unit) {
  return (value + unit - 1) / unit * unit;
}

static int element_bytes(const sptx_portable_spec *spec) {
  return spec->element == SPTX_ELEMENT_F32 ? 4 : 2;
}

/* head_dim in whole 32-byte steps, and one more 16-byte unit to spread rows over the banks. */
static size_t row_bytes(const sptx_portable_spec *spec) {
  return (size_t)round_to(spec->head_dim * element_bytes(spec), 32) + 16;
}

/* Forward: Q, K, V. D_Q: Q, dO, stages of K, V. D_KV: K and, for dK, V; stages of Q, dO and two floats for
 * each query. */
size_t sptx_portable_shared_bytes(const sptx_portable_spec *spec) {
  size_t rows = (size_t)(spec->warps * spec->row_blocks * 16), columns = (size_t)spec->columns;
  size_t row = row_bytes(spec);
  if (spec->role == SPTX_PORTABLE_DECODE)
    return (size_t)(spec->group * spec->warps * (spec->head_dim + 2)) * sizeof(float);
  if (spec->role == SPTX_PORTABLE_FORWARD)
    return (rows + 2 * columns) * row;
  bool both = spec->role == SPTX_PORTABLE_D_Q || spec->want_d_k;
  size_t stage = 2 * columns * row + (spec->role == SPTX_PORTABLE_D_KV ? 2 * columns * sizeof(float) : 0);
  return (both ? 2 : 1) * rows * row + (size_t)spec->stages * stage;
}

sptx_value sptx_param32(sptx_portable *p, size_t offset) {
  return sptx_load_param(p->e, p->e->i32, offset);
}

sptx_value sptx_param64(sptx_portable *p, size_t offset) {
  return sptx_load_param(p->e, p->e->i64, offset);
}

sptx_value sptx_constant_i32(sptx_portable *p, sptx_value table, sptx_value index) {
  sptx_gpu_emitter *e = p->e;
  sptx_value address = sptx_add(e, SPTX_ARG(p, i64, constants), table);
  address = sptx_add(e, address, sptx_muli(e, sptx_sext64(e, index), 4));
  return sptx_load_constant(e, e->i32, address, 4);
}

void sptx_portable_shared_value(sptx_portable *p, sptx_value index) {
  sptx_value table = SPTX_PARAM64(p, shared_table), first = sptx_muli(p->e, index, 8);
  sptx_value *fields[] = {&p->query_begin, &p->query_end,  &p->key_begin,
                          &p->key_end,     &p->query_base, &p->key_base};
  for (int i = 0; i < 6; i++)
    *fields[i] = sptx_constant_i32(p, table, sptx_addi(p->e, first, i));
}

/* Items: heads and batch slowest, then tiles (the costliest first where causal), shared values fastest. */
static void decode_item(sptx_portable *p) {
  sptx_gpu_emitter *e = p->e;
  sptx_value item = sptx_block_index(e), shared_total = SPTX_PARAM32(p, shared_total);
  sptx_value tiles = SPTX_PARAM32(p, tiles), heads_here = SPTX_PARAM32(p, heads_here);
  sptx_value rest = sptx_udiv(e, item, shared_total);
  sptx_portable_shared_value(p, sptx_urem(e, item, shared_total));
  sptx_value tile = sptx_urem(e, rest, tiles);
  if (p->spec->role != SPTX_PORTABLE_D_KV)
    tile = sptx_sub(e, sptx_addi(e, tiles, -1), tile);
  p->tile = sptx_add(e, tile, SPTX_PARAM32(p, first_tile));
  rest = sptx_udiv(e, rest, tiles);
  p->head_index = sptx_urem(e, rest, heads_here);
  p->batch = sptx_udiv(e, rest, heads_here);
  if (p->spec->role == SPTX_PORTABLE_D_KV) {
    sptx_value entry = sptx_muli(e, p->head_index, 3);
    p->kv_head = sptx_constant_i32(p, SPTX_PARAM64(p, head_table), entry);
    return;
  }
  p->head = sptx_constant_i32(p, SPTX_PARAM64(p, head_table), p->head_index);
  sptx_value group = sptx_udiv(e, SPTX_PARAM32(p, heads), SPTX_PARAM32(p, kv_heads));
  p->kv_head = sptx_udiv(e, p->head, group);
}

/* Warps that a multiprocessor must have room for, which leaves a thread 255, 168 or 128 registers. ptxas,
 * left alone, takes registers away until one more warp fits, and spills a few. The limits are the widest
 * heads that do not spill. */
static int least_warps(const sptx_portable_spec *spec) {
  enum { OF_255_REGISTERS = 8, OF_168_REGISTERS = 12, OF_128_REGISTERS = 16 };
  int width = spec->head_dim * spec->row_blocks, most_of_128 = 0, most_of_168 = 32;
  bool changed = spec->soft_cap || spec->alibi, f32 = spec->element == SPTX_ELEMENT_F32;
  bool one_line = spec->lo == SPTX_BOUND_CONSTANT && spec->hi != SPTX_BOUND_GENERAL; /* a cheap mask */
  if (spec->role == SPTX_PORTABLE_FORWARD && spec->row_blocks == 1) {
    most_of_128 = 64;
    most_of_168 = 128;
  } else if (spec->role == SPTX_PORTABLE_FORWARD) {
    most_of_168 = one_line && !changed ? 64 : 32;
  } else if (spec->role == SPTX_PORTABLE_D_Q) {
    most_of_128 = changed ? 0 : f32 ? 64 : 32;
    most_of_168 = 128;
  }
  return width <= most_of_128 ? OF_128_REGISTERS : width <= most_of_168 ? OF_168_REGISTERS : OF_255_REGISTERS;
}

void sptx_portable_begin(sptx_portable *p, sptx_gpu_emitter *e, const char *symbol,
                         const sptx_portable_spec *spec) {
  *p = (sptx_portable){.e = e, .spec = spec};
  p->element_bytes = element_bytes(spec);
  p->row_bytes = (int)row_bytes(spec);
  p->padded_dim = (p->row_bytes - 16) / p->element_bytes;
  p->columns_are_keys = spec->role != SPTX_PORTABLE_D_KV;
  p->threads = spec->warps * 32;
  p->rows = spec->warps * spec->row_blocks * 16;
  int ctas = least_warps(spec) / spec->warps;
  sptx_kernel_begin(e, symbol, sizeof(sptx_portable_params), 0, p->threads, ctas > 0 ? ctas : 1);
  p->thread = sptx_thread_index(e);
  p->lane = sptx_andi(e, p->thread, 31);
  p->warp = sptx_shri(e, p->thread, 5);
  p->group = sptx_shri(e, p->lane, 2);
  p->quad = sptx_andi(e, p->lane, 3);
  p->shared = sptx_shared_base(e);
  decode_item(p);
}

/* base + sum(digit * stride): all digits but the outermost are remainders. */
static sptx_value position(sptx_portable *p, sptx_value base, sptx_value inner, int digits, size_t sizes,
                           size_t strides) {
  sptx_gpu_emitter *e = p->e;
  sptx_value result = base, rest = inner;
  for (int d = digits - 1; d > 0; d--) {
    sptx_value size = sptx_param32(p, sizes + 4 * (size_t)d);
    sptx_value quotient = sptx_udiv(e, rest, size);
    sptx_value digit = sptx_sub(e, rest, sptx_mul(e, quotient, size));
    result = sptx_add(e, result, sptx_mul(e, digit, sptx_param32(p, strides + 4 * (size_t)d)));
    rest = quotient;
  }
  return sptx_add(e, result, sptx_mul(e, rest, sptx_param32(p, strides)));
}

sptx_value sptx_query_position(sptx_portable *p, sptx_value x) {
  return position(p, p->query_base, x, p->spec->query_digits, offsetof(sptx_portable_params, query_size),
                  offsetof(sptx_portable_params, query_stride));
}

sptx_value sptx_key_position(sptx_portable *p, sptx_value y) {
  return position(p, p->key_base, y, p->spec->key_digits, offsetof(sptx_portable_params, key_size),
                  offsetof(sptx_portable_params, key_stride));
}

static sptx_value bound_field(sptx_portable *p, size_t bound, size_t field) {
  return sptx_param32(p, bound + field);
}
#define FIELD(name) bound_field(p, bound, offsetof(sptx_portable_bound, name))

static sptx_value bound_at(sptx_portable *p, enum sptx_portable_bound_kind kind, size_t bound, sptx_value x) {
  sptx_gpu_emitter *e = p->e;
  sptx_value value = FIELD(low);
  if (kind == SPTX_BOUND_AFFINE)
    value = sptx_add(e, sptx_mul(e, FIELD(mult), x), FIELD(add));
  if (kind == SPTX_BOUND_GENERAL) {
    /* x + shift may be negative, and division floors: the planner made shift a non-negative residue. */
    sptx_value shifted = sptx_add(e, x, FIELD(shift)), period = FIELD(period);
    sptx_value quotient = sptx_udiv(e, shifted, period);
    sptx_value rest = sptx_sub(e, shifted, sptx_mul(e, quotient, period));
    sptx_value ramp = sptx_max(e, sptx_sub(e, rest, FIELD(ramp_from)), sptx_i32(e, 0));
    ramp = sptx_min(e, ramp, FIELD(ramp_max));
    value = sptx_add(e, sptx_add(e, sptx_mul(e, FIELD(mult), quotient), ramp), FIELD(add));
  }
  if (kind != SPTX_BOUND_CONSTANT)
    value = sptx_min(e, sptx_max(e, value, FIELD(low)), FIELD(high));
  return sptx_min(e, sptx_max(e, value, p->key_begin), p->key_end);
}

sptx_value sptx_bound_lo(sptx_portable *p, sptx_value x) {
  return bound_at(p, p->spec->lo, offsetof(sptx_portable_params, lo), x);
}

sptx_value sptx_bound_hi(sptx_portable *p, sptx_value x) {
  return bound_at(p, p->spec->hi, offsetof(sptx_portable_params, hi), x);
}

sptx_value sptx_tensor_rows(sptx_portable *p, sptx_value base, size_t strides, sptx_value head) {
  sptx_gpu_emitter *e = p->e;
  base = sptx_add(e, base, sptx_mul(e, sptx_zext64(e, p->batch), sptx_param64(p, strides)));
  return sptx_add(e, base, sptx_mul(e, sptx_zext64(e, head), sptx_param64(p, strides + 8)));
}

static sptx_value row_at(sptx_portable *p, sptx_value rows, size_t strides, sptx_value place) {
  sptx_gpu_emitter *e = p->e;
  return sptx_add(e, rows, sptx_mul(e, sptx_sext64(e, place), sptx_param64(p, strides + 16)));
}

sptx_value sptx_query_row(sptx_portable *p, sptx_value rows, size_t strides, sptx_value x) {
  sptx_value skipped = sptx_sub(p->e, SPTX_PARAM32(p, n_k), SPTX_PARAM32(p, n_q));
  return row_at(p, rows, strides, sptx_sub(p->e, sptx_query_position(p, x), skipped));
}

sptx_value sptx_key_row(sptx_portable *p, sptx_value rows, size_t strides, sptx_value y) {
  return row_at(p, rows, strides, sptx_key_position(p, y));
}

static void copy_unit(sptx_portable *p, sptx_value to, sptx_value from, sptx_value valid) {
  sptx_value bytes = sptx_select(p->e, valid, sptx_i32(p->e, 16), sptx_i32(p->e, 0));
  sptx_value operands[3] = {to, from, bytes};
  sptx_asm(p->e, p->e->void_type, "cp.async.cg.shared.global [$0], [$1], 16, $2;", "r,l,r,~{memory}",
           operands, 3, false);
}

/* 16 bytes by elements, at once; nothing is read where not valid. */
static void copy_elements(sptx_portable *p, sptx_value to, sptx_value from, sptx_value valid) {
  sptx_gpu_emitter *e = p->e;
  int per_word = 4 / p->element_bytes;
  LLVMTypeRef type = per_word == 1 ? e->i32 : e->i16;
  sptx_value words[4], operands[5] = {to};
  for (int w = 0; w < 4; w++)
    words[w] = sptx_slot(e, e->i32, sptx_i32(e, 0));
  sptx_if inside = sptx_if_begin(e, valid);
  for (int w = 0; w < 4; w++) {
    sptx_value word = sptx_i32(e, 0);
    for (int i = 0; i < per_word; i++) {
      sptx_value at = sptx_addi(e, from, w * 4 + i * p->element_bytes);
      sptx_value bits = sptx_load_constant(e, type, at, p->element_bytes);
      bits = per_word == 1 ? bits : LLVMBuildZExt(e->builder, bits, e->i32, "");
      word = sptx_or(e, word, LLVMBuildShl(e->builder, bits, sptx_i32(e, 16 * i), ""));
    }
    sptx_set_slot(e, words[w], word);
  }
  sptx_if_end(e, &inside);
  for (int w = 0; w < 4; w++)
    operands[1 + w] = sptx_get(e, words[w]);
  sptx_asm(e, e->void_type, "st.shared.v4.b32 [$0], {$1,$2,$3,$4};", "r,r,r,r,r,~{memory}", operands, 5,
           false);
}

void sptx_copy_word(sptx_portable *p, sptx_value to, sptx_value from, sptx_value valid) {
  sptx_value bytes = sptx_select(p->e, valid, sptx_i32(p->e, 4), sptx_i32(p->e, 0));
  sptx_value operands[3] = {to, from, bytes};
  sptx_asm(p->e, p->e->void_type, "cp.async.ca.shared.global [$0], [$1], 4, $2;", "r,l,r,~{memory}", operands,
           3, false);
}

static int row_units(const sptx_portable *p) {
  return p->padded_dim * p->element_bytes / 16;
}

/* Threads that copy a row together: the most, up to a warp, that have equally many of its units. */
static int threads_of_row(const sptx_portable *p) {
  int threads = 32;
  while (row_units(p) % threads != 0)
    threads--;
  return threads;
}

/* One unit of a row; those past head_dim are padding: zeros, from an address that exists. */
static void load_unit(sptx_portable *p, sptx_value to, sptx_value row, sptx_value unit, int past,
                      sptx_value valid) {
  sptx_gpu_emitter *e = p->e;
  int left = p->spec->head_dim * p->element_bytes / 16 - past;
  if (left < threads_of_row(p)) {
    valid = sptx_and(e, valid, sptx_icmp(e, LLVMIntULT, unit, sptx_i32(e, left)));
    unit = sptx_min(e, unit, sptx_i32(e, left - 1));
  }
  sptx_value from = sptx_add(e, row, sptx_zext64(e, sptx_muli(e, unit, 16)));
  (p->spec->loose ? copy_elements : copy_unit)(p, to, sptx_addi(e, from, past * 16), valid);
}

/* A copy of a tile: the first of this thread's places in it, by row and unit of 16 bytes. */
typedef struct tile_copy {
  sptx_value to, first, begin, end, row, unit;
  sptx_portable_tensor tensor;
  int count, rows; /* of the tile, and of a round */
} tile_copy;

static tile_copy begin_copy(const sptx_portable *p, sptx_value to, int count, sptx_portable_tensor tensor,
                            sptx_value first) {
  sptx_gpu_emitter *e = p->e;
  int sharing = threads_of_row(p);
  tile_copy copy = {.first = first, .tensor = tensor, .count = count, .rows = p->threads / sharing};
  copy.begin = tensor.query ? p->query_begin : p->key_begin;
  copy.end = tensor.query ? p->query_end : p->key_end;
  copy.row = sptx_udiv(e, p->thread, sptx_i32(e, sharing));
  copy.unit = sptx_sub(e, p->thread, sptx_muli(e, copy.row, sharing));
  copy.to = sptx_add(e, to, sptx_add(e, sptx_muli(e, copy.row, p->row_bytes), sptx_muli(e, copy.unit, 16)));
  return copy;
}

/* A round: the rows from `done` on, one for each thread; the first `limit` of them, or NULL: all. */
static void load_rows(sptx_portable *p, const tile_copy *copy, sptx_value done, sptx_value limit) {
  sptx_gpu_emitter *e = p->e;
  sptx_if inside;
  if (limit)
    inside = sptx_if_begin(e, sptx_icmp(e, LLVMIntULT, copy->row, limit));
  sptx_value row = sptx_add(e, copy->row, done), inner = sptx_add(e, copy->first, row);
  sptx_value length = sptx_sub(e, copy->end, copy->begin);
  sptx_value exists = sptx_max(e, sptx_min(e, inner, sptx_addi(e, copy->end, -1)), copy->begin);
  sptx_value valid = sptx_icmp(e, LLVMIntULT, sptx_sub(e, inner, copy->begin), length);
  sptx_value from = (copy->tensor.query ? sptx_query_row : sptx_key_row)(p, copy->tensor.rows,
                                                                         copy->tensor.strides, exists);
  sptx_value to = sptx_add(e, copy->to, sptx_muli(e, done, p->row_bytes));
  for (int past = 0; past < row_units(p); past += threads_of_row(p))
    load_unit(p, sptx_addi(e, to, past * 16), from, copy->unit, past, valid);
  if (limit)
    sptx_if_end(e, &inside);
}

/* Neighbouring threads copy neighbouring units. A thread's rows and units lie at fixed distances, so that one
 * row and one unit are all it keeps of the layout, whatever head_dim is. */
void sptx_load_tile(sptx_portable *p, sptx_value to, int count, sptx_portable_tensor tensor,
                    sptx_value first) {
  enum { UNROLLED = 8 }; /* copies; the addresses of more take too many registers */
  sptx_gpu_emitter *e = p->e;
  tile_copy copy = begin_copy(p, to, count, tensor, first);
  bool whole = p->threads % threads_of_row(p) == 0 && count % copy.rows == 0;
  int rounds = (count + copy.rows - 1) / copy.rows, copies = row_units(p) / threads_of_row(p);
  if (rounds * copies <= UNROLLED) {
    for (int done = 0; done < count; done += copy.rows)
      load_rows(p, &copy, sptx_i32(e, done),
                whole ? NULL : sptx_i32(e, count - done < copy.rows ? count - done : copy.rows));
    return;
  }
  sptx_value step = sptx_i32(e, copy.rows);
  sptx_loop loop = sptx_loop_begin(e, sptx_i32(e, 0), sptx_i32(e, count), step);
  sptx_value left = sptx_sub(e, sptx_i32(e, count), loop.index);
  load_rows(p, &copy, loop.index, whole ? NULL : sptx_min(e, step, left));
  sptx_loop_end(e, &loop);
}

void sptx_async_commit(sptx_portable *p) {
  sptx_asm(p->e, p->e->void_type, "cp.async.commit_group;", "~{memory}", NULL, 0, false);
}

void sptx_async_wait(sptx_portable *p) {
  sptx_asm(p->e, p->e->void_type, "cp.async.wait_group 0;", "~{memory}", NULL, 0, false);
}

sptx_value sptx_load_shared_f32(sptx_portable *p, sptx_value address) {
  return sptx_asm(p->e, p->e->f32, "ld.shared.f32 $0, [$1];", "=f,r,~{memory}", &address, 1, false);
}

void sptx_load_shared_pair(sptx_portable *p, sptx_value address, sptx_value out[2]) {
  sptx_value both = sptx_asm(p->e, sptx_struct_of(p->e, p->e->f32, 2), "ld.shared.v2.f32 {$0,$1}, [$2];",
                             "=f,=f,r,~{memory}", &address, 1, false);
  for (int i = 0; i < 2; i++)
    out[i] = sptx_extract(p->e, both, i);
}

void sptx_load_pair(sptx_portable *p, enum sptx_element element, sptx_value address, sptx_value out[2]) {
  sptx_gpu_emitter *e = p->e;
  LLVMTypeRef type = element == SPTX_ELEMENT_F32 ? e->f32 : element == SPTX_ELEMENT_F16 ? e->f16 : e->bf16;
  int align = (type == e->f32 ? 4 : 2) * (p->spec->loose ? 1 : 2);
  sptx_value pair = sptx_load_global(e, LLVMVectorType(type, 2), address, align);
  for (int i = 0; i < 2; i++) {
    out[i] = sptx_widen(e, LLVMBuildExtractElement(e->builder, pair, sptx_i32(e, i), ""));
  }
}

sptx_value sptx_portable_pack(sptx_portable *p, sptx_value low, sptx_value high) {
  sptx_value operands[2] = {high, low};
  return sptx_asm(p->e, p->e->i32,
                  p->spec->element == SPTX_ELEMENT_BF16 ? "cvt.rn.bf16x2.f32 $0, $1, $2;"
                                                        : "cvt.rn.f16x2.f32 $0, $1, $2;",
                  "=r,f,f", operands, 2, true);
}

void sptx_store_pair(sptx_portable *p, enum sptx_element element, sptx_value address, sptx_value a,
                     sptx_value b) {
  sptx_gpu_emitter *e = p->e;
  if (element != SPTX_ELEMENT_F32) {
    sptx_store_global(e, sptx_portable_pack(p, a, b), address, p->spec->loose ? 2 : 4);
    return;
  }
  sptx_value pair = LLVMGetUndef(LLVMVectorType(e->f32, 2));
  pair = LLVMBuildInsertElement(e->builder, pair, a, sptx_i32(e, 0), "");
  pair = LLVMBuildInsertElement(e->builder, pair, b, sptx_i32(e, 1), "");
  sptx_store_global(e, pair, address, p->spec->loose ? 4 : 8);
}

sptx_score sptx_score_begin(sptx_portable *p, sptx_value head) {
  sptx_gpu_emitter *e = p->e;
  sptx_score score = {.scale = SPTX_ARG(p, f32, scale)};
  score.scale_log2 = sptx_mul(e, score.scale, sptx_f32(e, SPTX_LOG2_E));
  if (p->spec->soft_cap) {
    score.cap = SPTX_ARG(p, f32, soft_cap);
    score.inverse_cap = sptx_reciprocal(e, score.cap);
  }
  if (p->spec->alibi) {
    sptx_value at = sptx_add(e, SPTX_ARG(p, i64, alibi_slopes), sptx_muli(e, sptx_zext64(e, head), 4));
    score.slope_log2 = sptx_mul(e, sptx_load_constant(e, e->f32, at, 4), sptx_f32(e, SPTX_LOG2_E));
  }
  return score;
}

/* tanh(u) = 1 - 2 / (1 + e^(2u)): right at both infinities, absolute error of a few float32 roundings. */
static sptx_value hyperbolic_tangent(sptx_portable *p, sptx_value u) {
  sptx_gpu_emitter *e = p->e;
  sptx_value power = sptx_exp2(e, sptx_mul(e, u, sptx_f32(e, 2 * SPTX_LOG2_E)));
  sptx_value inverse = sptx_reciprocal(e, sptx_add(e, power, sptx_f32(e, 1.0)));
  return sptx_fma(e, inverse, sptx_f32(e, -2.0), sptx_f32(e, 1.0));
}

sptx_value sptx_score_apply(sptx_portable *p, const sptx_score *score, sptx_value raw,
                            sptx_value key_minus_query, sptx_value *slope) {
  sptx_gpu_emitter *e = p->e;
  sptx_value result;
  if (p->spec->soft_cap) {
    sptx_value u = sptx_mul(e, sptx_mul(e, raw, score->scale), score->inverse_cap);
    sptx_value t = hyperbolic_tangent(p, u);
    result = sptx_mul(e, sptx_mul(e, t, score->cap), sptx_f32(e, SPTX_LOG2_E));
    if (slope)
      *slope = sptx_fma(e, sptx_sub(e, sptx_f32(e, 0.0), t), t, sptx_f32(e, 1.0));
  } else {
    result = sptx_mul(e, raw, score->scale_log2);
  }
  if (p->spec->alibi) {
    sptx_value distance = LLVMBuildSIToFP(e->builder, key_minus_query, e->f32, "");
    result = sptx_fma(e, distance, score->slope_log2, result);
  }
  return result;
}

bool sptx_scales_first(const sptx_portable_spec *spec) {
  return spec->soft_cap || spec->alibi || spec->negative_scale;
}

sptx_value sptx_score_factor(sptx_portable *p, const sptx_score *score) {
  return sptx_scales_first(p->spec) ? sptx_f32(p->e, 1.0) : score->scale_log2;
}
