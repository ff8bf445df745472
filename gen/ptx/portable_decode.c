/* Decoding: one query for each (batch, head) against the cache of keys and values. There is nothing for
 * matrix instructions to do; the kernel reads each key and value that the query attends to once, with 16-byte
 * loads.
 *
 * A key's row is spread over a few neighbouring lanes, 8 elements each, so that a CTA has many keys at once,
 * and each lane several of them under way. `splits` CTAs share the keys of a query. Each leaves a partial
 * softmax: partial_out (batch, heads, slots, head_dim), and (maximum, sum) in partial_sum (batch, heads,
 * slots, 2), log2 units, float32. The combine kernel turns the slots of all pieces into O and LSE. */
#include "gen/ptx/portable.h"
#include <math.h>

enum { AT_ONCE = 4, EIGHT = 8, MAX_GROUP = SPTX_DECODE_MAX_GROUP };

/* One query head of the CTA. most, sum and out are slots: the softmax so far. */
typedef struct decode_head {
  sptx_value number, q[EIGHT], most, sum, out[EIGHT];
  sptx_score score;
} decode_head;

typedef struct decode {
  sptx_portable p;
  decode_head heads[MAX_GROUP];
  int lanes, groups;          /* lanes of a row; rows side by side in the CTA */
  sptx_value lane, group;     /* this thread's */
  sptx_value byte;            /* of the lane's elements in a row */
  sptx_value position, inner; /* of the query */
  sptx_value begin, end;      /* this CTA's places: keys, or 64 for each listed tile */
  sptx_value k_rows, v_rows;
} decode;

static void load_eight(sptx_portable *p, sptx_value address, sptx_value out[EIGHT]) {
  sptx_gpu_emitter *e = p->e;
  enum sptx_element element = p->spec->element;
  LLVMTypeRef type = element == SPTX_ELEMENT_F32 ? e->f32 : element == SPTX_ELEMENT_F16 ? e->f16 : e->bf16;
  int width = 16 / p->element_bytes;
  for (int i = 0; i < EIGHT; i += width) {
    sptx_value at = sptx_addi(e, address, i * p->element_bytes);
    sptx_value vector = sptx_load_global(e, LLVMVectorType(type, (unsigned)width), at,
                                         p->spec->loose ? p->element_bytes : 16);
    for (int j = 0; j < width; j++) {
      sptx_value value = LLVMBuildExtractElement(e->builder, vector, sptx_i32(e, j), "");
      out[i + j] = sptx_widen(e, value);
    }
  }
}

/* ---- which query, which keys ---- */

/* The digits of the position in the query view. *valid: the piece has such a query. */
static sptx_value locate(decode *d, sptx_value *valid) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value rest = sptx_sub(e, d->position, SPTX_PARAM32(p, query_view_base));
  sptx_value shared = sptx_i32(e, 0), inner = sptx_i32(e, 0);
  *valid = sptx_icmp(e, LLVMIntSGE, rest, sptx_i32(e, 0));
  rest = sptx_max(e, rest, sptx_i32(e, 0));
  for (int i = 0; i < p->spec->view_digits; i++) {
    size_t at = offsetof(sptx_portable_params, digits) + (size_t)i * sizeof(sptx_portable_digit);
    sptx_value stride = sptx_param32(p, at + offsetof(sptx_portable_digit, stride));
    sptx_value digit = sptx_udiv(e, rest, stride);
    rest = sptx_sub(e, rest, sptx_mul(e, digit, stride));
    sptx_value size = sptx_param32(p, at + offsetof(sptx_portable_digit, size));
    *valid = sptx_and(e, *valid, sptx_icmp(e, LLVMIntSLT, digit, size));
    sptx_value of_shared = sptx_param32(p, at + offsetof(sptx_portable_digit, shared_weight));
    sptx_value of_inner = sptx_param32(p, at + offsetof(sptx_portable_digit, inner_weight));
    shared = sptx_add(e, shared, sptx_mul(e, digit, of_shared));
    inner = sptx_add(e, inner, sptx_mul(e, digit, of_inner));
  }
  *valid = sptx_and(e, *valid, sptx_icmp(e, LLVMIntEQ, rest, sptx_i32(e, 0)));
  d->inner = sptx_select(e, *valid, inner, sptx_i32(e, 0));
  return sptx_select(e, *valid, shared, sptx_i32(e, 0));
}

/* The query's places, and of these the part of this CTA. */
static void find_places(decode *d, sptx_value valid, sptx_value split) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value begin, end;
  if (p->spec->kind == SPTX_PIECE_TILES) {
    sptx_value table = SPTX_PARAM64(p, tile_start);
    sptx_value line = sptx_udiv(e, d->inner, sptx_i32(e, SPTX_GENERIC_TILE));
    begin = sptx_muli(e, sptx_constant_i32(p, table, line), SPTX_GENERIC_TILE);
    end = sptx_muli(e, sptx_constant_i32(p, table, sptx_addi(e, line, 1)), SPTX_GENERIC_TILE);
  } else {
    begin = sptx_bound_lo(p, d->inner);
    end = sptx_bound_hi(p, d->inner);
  }
  end = sptx_select(e, valid, end, begin);
  sptx_value length = sptx_max(e, sptx_sub(e, end, begin), sptx_i32(e, 0)), splits = SPTX_PARAM32(p, splits);
  sptx_value part = sptx_udiv(e, sptx_add(e, length, sptx_addi(e, splits, -1)), splits);
  d->begin = sptx_add(e, begin, sptx_mul(e, part, split));
  d->end = sptx_min(e, sptx_add(e, d->begin, part), end);
}

/* The position of a place's key; *member: the query attends to it. Row 0 stands in for keys that are none of
 * the query's: rows of the cache past the query may hold anything. */
static sptx_value key_of_place(decode *d, sptx_value place, sptx_value *member) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  *member = sptx_icmp(e, LLVMIntSLT, place, d->end);
  place = sptx_min(e, place, sptx_addi(e, d->end, -1));
  sptx_value key = place;
  if (p->spec->kind == SPTX_PIECE_TILES) {
    sptx_value entry = sptx_udiv(e, place, sptx_i32(e, SPTX_GENERIC_TILE));
    sptx_value column = sptx_andi(e, place, SPTX_GENERIC_TILE - 1);
    sptx_value mask = sptx_constant_i32(p, SPTX_PARAM64(p, tile_mask), entry), zero = sptx_i32(e, 0);
    key = sptx_constant_i32(p, SPTX_PARAM64(p, tile_index), entry);
    key = sptx_add(e, sptx_muli(e, key, SPTX_GENERIC_TILE), column);
    sptx_value word = sptx_sext64(e, sptx_max(e, mask, zero));
    word = sptx_add(e, sptx_muli(e, word, SPTX_GENERIC_TILE), sptx_zext64(e, column));
    word = sptx_add(e, sptx_muli(e, word, 8), SPTX_PARAM64(p, masks));
    word = sptx_load_constant(e, e->i64, sptx_add(e, word, SPTX_ARG(p, i64, constants)), 8);
    sptx_value row = sptx_zext64(e, sptx_andi(e, d->inner, SPTX_GENERIC_TILE - 1));
    sptx_value bit = sptx_andi(e, LLVMBuildLShr(e->builder, word, row, ""), 1);
    sptx_value full = sptx_icmp(e, LLVMIntSLT, mask, zero);
    full = sptx_or(e, full, sptx_icmp(e, LLVMIntNE, bit, sptx_i64(e, 0)));
    *member = sptx_and(e, *member, full);
  }
  sptx_value position = sptx_key_position(p, key);
  if (p->spec->predicate)
    *member = sptx_and(e, *member, sptx_predicate_holds(p, d->position, position));
  return sptx_select(e, *member, position, sptx_i32(e, 0));
}

/* ---- softmax ---- */

static sptx_value scale_of(decode *d, sptx_value old, sptx_value most) {
  sptx_gpu_emitter *e = d->p.e;
  sptx_value none = sptx_fcmp(e, LLVMRealOEQ, most, sptx_f32(e, -INFINITY));
  return sptx_exp2(e, sptx_sub(e, old, sptx_select(e, none, sptx_f32(e, 0.0), most)));
}

static sptx_value score_of(decode *d, const decode_head *head, const sptx_value k[EIGHT], sptx_value key,
                           sptx_value member) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value sum = sptx_mul(e, head->q[0], k[0]);
  for (int i = 1; i < EIGHT; i++)
    sum = sptx_fma(e, head->q[i], k[i], sum);
  for (int mask = d->lanes / 2; mask > 0; mask /= 2)
    sum = sptx_add(e, sum, sptx_shuffle_xor(e, sum, mask));
  sum = sptx_score_apply(p, &head->score, sum, sptx_sub(e, key, d->position), NULL);
  return sptx_select(e, member, sum, sptx_f32(e, -INFINITY));
}

/* A few keys as they are loaded. */
typedef struct decode_keys {
  sptx_value k[AT_ONCE][EIGHT], v[AT_ONCE][EIGHT], position[AT_ONCE], member[AT_ONCE];
} decode_keys;

static void add_keys_to_head(decode *d, decode_head *head, const decode_keys *keys) {
  sptx_gpu_emitter *e = d->p.e;
  sptx_value old = sptx_get(e, head->most), most = old, score[AT_ONCE], out[EIGHT];
  for (int u = 0; u < AT_ONCE; u++) {
    score[u] = score_of(d, head, keys->k[u], keys->position[u], keys->member[u]);
    most = sptx_max(e, most, score[u]);
  }
  sptx_value shrink = scale_of(d, old, most), sum = sptx_mul(e, sptx_get(e, head->sum), shrink);
  for (int i = 0; i < EIGHT; i++)
    out[i] = sptx_mul(e, sptx_get(e, head->out[i]), shrink);
  for (int u = 0; u < AT_ONCE; u++) {
    sptx_value weight = scale_of(d, score[u], most);
    sum = sptx_add(e, sum, weight);
    for (int i = 0; i < EIGHT; i++)
      out[i] = sptx_fma(e, weight, keys->v[u][i], out[i]);
  }
  sptx_set_slot(e, head->most, most);
  sptx_set_slot(e, head->sum, sum);
  for (int i = 0; i < EIGHT; i++)
    sptx_set_slot(e, head->out[i], out[i]);
}

/* All loads first. */
static void add_keys(decode *d, sptx_value first) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  decode_keys keys;
  for (int u = 0; u < AT_ONCE; u++)
    keys.position[u] = key_of_place(d, sptx_addi(e, first, u * d->groups), &keys.member[u]);
  for (int u = 0; u < AT_ONCE; u++) {
    sptx_value place = sptx_zext64(e, keys.position[u]);
    load_eight(p, sptx_add(e, d->k_rows, sptx_mul(e, place, SPTX_PARAM64(p, k[2]))), keys.k[u]);
    load_eight(p, sptx_add(e, d->v_rows, sptx_mul(e, place, SPTX_PARAM64(p, v[2]))), keys.v[u]);
  }
  for (int g = 0; g < p->spec->group; g++)
    add_keys_to_head(d, &d->heads[g], &keys);
}

/* The rows side by side in a warp become one. */
static void merge_in_warp(decode *d, decode_head *head) {
  sptx_gpu_emitter *e = d->p.e;
  for (int mask = d->lanes; mask < 32; mask *= 2) {
    sptx_value mine = sptx_get(e, head->most), most = sptx_max(e, mine, sptx_shuffle_xor(e, mine, mask));
    sptx_value scale = scale_of(d, mine, most);
    for (int i = 0; i < 1 + EIGHT; i++) {
      sptx_value slot = i < EIGHT ? head->out[i] : head->sum;
      sptx_value value = sptx_mul(e, sptx_get(e, slot), scale);
      sptx_set_slot(e, slot, sptx_add(e, value, sptx_shuffle_xor(e, value, mask)));
    }
    sptx_set_slot(e, head->most, most);
  }
}

static void store_shared(sptx_gpu_emitter *e, sptx_value address, sptx_value value) {
  sptx_value operands[2] = {address, sptx_bits(e, value, e->i32)};
  sptx_asm(e, e->void_type, "st.shared.b32 [$0], $1;", "r,r,~{memory}", operands, 2, false);
}

static int part_bytes(const sptx_portable *p) {
  return (p->spec->head_dim + 2) * 4;
}

/* Shared memory, for each head and warp: maximum, sum, out. */
static void leave_warp(decode *d, int g) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  const decode_head *head = &d->heads[g];
  sptx_value base = sptx_add(e, p->shared, sptx_muli(e, p->warp, part_bytes(p)));
  base = sptx_addi(e, base, g * p->spec->warps * part_bytes(p));
  sptx_value leads = sptx_icmp(e, LLVMIntULT, sptx_muli(e, p->lane, EIGHT), sptx_i32(e, p->spec->head_dim));
  sptx_if first = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, p->lane, sptx_i32(e, 0)));
  store_shared(e, base, sptx_get(e, head->most));
  store_shared(e, sptx_addi(e, base, 4), sptx_get(e, head->sum));
  sptx_if_end(e, &first);
  sptx_if writes = sptx_if_begin(e, leads);
  sptx_value at = sptx_add(e, sptx_addi(e, base, 8), sptx_muli(e, p->lane, EIGHT * 4));
  for (int i = 0; i < EIGHT; i++)
    store_shared(e, sptx_addi(e, at, i * 4), sptx_get(e, head->out[i]));
  sptx_if_end(e, &writes);
}

/* (batch, heads, slots): the first slot of a head. */
static sptx_value first_slot(sptx_portable *p, sptx_value head) {
  sptx_gpu_emitter *e = p->e;
  sptx_value row = sptx_add(e, sptx_mul(e, p->batch, SPTX_PARAM32(p, heads)), head);
  return sptx_mul(e, sptx_zext64(e, row), sptx_zext64(e, SPTX_PARAM32(p, slots)));
}

/* The warps' parts become the CTA's slot: a thread has two elements. */
static void leave_cta(decode *d, int g, sptx_value slot) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  int dim = p->spec->head_dim, warps = p->spec->warps;
  slot = sptx_add(e, first_slot(p, d->heads[g].number), sptx_zext64(e, slot));
  sptx_value base = sptx_addi(e, p->shared, g * warps * part_bytes(p)), part[8][2];
  sptx_value most = sptx_f32(e, -INFINITY), total = sptx_f32(e, 0.0), out[2] = {total, total};
  for (int w = 0; w < warps; w++) {
    sptx_load_shared_pair(p, sptx_addi(e, base, w * part_bytes(p)), part[w]);
    most = sptx_max(e, most, part[w][0]);
  }
  for (int w = 0; w < warps; w++) {
    sptx_value values[2], scale = scale_of(d, part[w][0], most);
    sptx_value at = sptx_add(e, base, sptx_muli(e, p->thread, 8));
    sptx_load_shared_pair(p, sptx_addi(e, at, w * part_bytes(p) + 8), values);
    total = sptx_fma(e, part[w][1], scale, total);
    for (int i = 0; i < 2; i++)
      out[i] = sptx_fma(e, values[i], scale, out[i]);
  }
  sptx_value workspace = SPTX_ARG(p, i64, workspace);
  sptx_value to = sptx_add(e, sptx_muli(e, slot, dim * 4), sptx_zext64(e, sptx_muli(e, p->thread, 8)));
  to = sptx_add(e, to, sptx_add(e, workspace, SPTX_PARAM64(p, partial_out)));
  sptx_store_pair(p, SPTX_ELEMENT_F32, to, out[0], out[1]);
  sptx_if first = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, p->thread, sptx_i32(e, 0)));
  to = sptx_add(e, sptx_muli(e, slot, 8), sptx_add(e, workspace, SPTX_PARAM64(p, partial_sum)));
  sptx_store_pair(p, SPTX_ELEMENT_F32, to, most, total);
  sptx_if_end(e, &first);
}

/* ---- kernels ---- */

static void begin(sptx_portable *p, sptx_gpu_emitter *e, const char *symbol, const sptx_portable_spec *spec) {
  *p = (sptx_portable){.e = e, .spec = spec, .columns_are_keys = true};
  p->element_bytes = spec->element == SPTX_ELEMENT_F32 ? 4 : 2;
  p->threads = spec->warps * 32;
  sptx_kernel_begin(e, symbol, sizeof(sptx_portable_params), 0, p->threads, 0);
  p->thread = sptx_thread_index(e);
  p->lane = sptx_andi(e, p->thread, 31);
  p->warp = sptx_shri(e, p->thread, 5);
  p->shared = sptx_shared_base(e);
}

/* The (batch, key head) and its query heads, from the flat index over the table's groups. Where a group has
 * fewer heads than the kernel, the last one is done again. */
static void find_heads(decode *d, sptx_value index) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  sptx_value here = SPTX_PARAM32(p, heads_here), table = SPTX_PARAM64(p, head_table);
  p->batch = sptx_udiv(e, index, here);
  sptx_value entry = sptx_muli(e, sptx_urem(e, index, here), 3);
  p->kv_head = sptx_constant_i32(p, table, entry);
  sptx_value first = sptx_constant_i32(p, table, sptx_addi(e, entry, 1));
  sptx_value last = sptx_addi(e, sptx_constant_i32(p, table, sptx_addi(e, entry, 2)), -1);
  first = sptx_add(e, first, sptx_muli(e, here, 3));
  for (int g = 0; g < p->spec->group; g++) {
    sptx_value place = sptx_add(e, first, sptx_min(e, sptx_i32(e, g), last));
    d->heads[g].number = sptx_constant_i32(p, table, place);
    d->heads[g].score = sptx_score_begin(p, d->heads[g].number);
  }
}

static void begin_head(decode *d, decode_head *head, sptx_value used) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  size_t q = offsetof(sptx_portable_params, q);
  sptx_value row = sptx_tensor_rows(p, SPTX_ARG(p, i64, q), q, head->number);
  load_eight(p, sptx_add(e, row, d->byte), head->q);
  head->most = sptx_slot(e, e->f32, sptx_f32(e, -INFINITY));
  head->sum = sptx_slot(e, e->f32, sptx_f32(e, 0.0));
  for (int i = 0; i < EIGHT; i++) {
    head->q[i] =
        sptx_select(e, used, head->q[i], sptx_f32(e, 0.0)); /* lanes past the row's end add nothing */
    head->out[i] = sptx_slot(e, e->f32, sptx_f32(e, 0.0));
  }
}

static void begin_lanes(decode *d) {
  sptx_portable *p = &d->p;
  sptx_gpu_emitter *e = p->e;
  int dim = p->spec->head_dim;
  d->lanes = 1;
  while (d->lanes * EIGHT < dim)
    d->lanes *= 2;
  d->groups = p->threads / d->lanes;
  d->lane = sptx_andi(e, p->thread, d->lanes - 1);
  d->group = sptx_udiv(e, p->thread, sptx_i32(e, d->lanes));
  sptx_value used = sptx_icmp(e, LLVMIntULT, sptx_muli(e, d->lane, EIGHT), sptx_i32(e, dim));
  sptx_value lane = sptx_select(e, used, d->lane, sptx_i32(e, 0));
  d->byte = sptx_zext64(e, sptx_muli(e, lane, EIGHT * p->element_bytes));
  for (int g = 0; g < p->spec->group; g++)
    begin_head(d, &d->heads[g], used);
  size_t k = offsetof(sptx_portable_params, k), v = offsetof(sptx_portable_params, v);
  d->k_rows = sptx_add(e, sptx_tensor_rows(p, SPTX_ARG(p, i64, k), k, p->kv_head), d->byte);
  d->v_rows = sptx_add(e, sptx_tensor_rows(p, SPTX_ARG(p, i64, v), v, p->kv_head), d->byte);
}

enum sptx_code sptx_emit_portable_decode(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                         sptx_error *error) {
  (void)error;
  decode d = {0};
  sptx_portable *p = &d.p;
  begin(p, e, symbol, spec);
  sptx_value item = sptx_block_index(e), splits = SPTX_PARAM32(p, splits), valid;
  sptx_value split = sptx_urem(e, item, splits);
  find_heads(&d, sptx_udiv(e, item, splits));
  d.position = sptx_trunc32(e, SPTX_ARG(p, i64, position));
  sptx_portable_shared_value(p, locate(&d, &valid));
  find_places(&d, valid, split);
  begin_lanes(&d);
  sptx_loop loop = sptx_loop_begin(e, d.begin, d.end, sptx_i32(e, AT_ONCE * d.groups));
  add_keys(&d, sptx_add(e, loop.index, d.group));
  sptx_loop_end(e, &loop);
  for (int g = 0; g < p->spec->group; g++) {
    merge_in_warp(&d, &d.heads[g]);
    leave_warp(&d, g);
  }
  sptx_barrier(e);
  sptx_value slot = sptx_add(e, SPTX_PARAM32(p, first_slot), split);
  sptx_value half = sptx_i32(e, p->spec->head_dim / 2);
  sptx_if active = sptx_if_begin(e, sptx_icmp(e, LLVMIntULT, p->thread, half));
  for (int g = 0; g < p->spec->group; g++)
    leave_cta(&d, g, slot);
  sptx_if_end(e, &active);
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}

/* One CTA for a (batch, head) of a plain table, two elements for a thread. Slots are added in their order. */
enum sptx_code sptx_emit_portable_combine(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                          sptx_error *error) {
  (void)error;
  decode d = {0};
  sptx_portable *p = &d.p;
  begin(p, e, symbol, spec);
  int dim = p->spec->head_dim;
  sptx_value here = SPTX_PARAM32(p, heads_here), index = sptx_block_index(e);
  p->batch = sptx_udiv(e, index, here);
  p->head = sptx_constant_i32(p, SPTX_PARAM64(p, head_table), sptx_urem(e, index, here));
  sptx_value workspace = SPTX_ARG(p, i64, workspace), slots = SPTX_PARAM32(p, slots);
  sptx_value slot = first_slot(p, p->head);
  sptx_value sums = sptx_add(e, workspace, SPTX_PARAM64(p, partial_sum));
  sptx_value outs = sptx_add(e, workspace, SPTX_PARAM64(p, partial_out));
  sums = sptx_add(e, sums, sptx_muli(e, slot, 8));
  outs = sptx_add(e, outs, sptx_muli(e, slot, 4 * dim));
  sptx_value most = sptx_slot(e, e->f32, sptx_f32(e, -INFINITY)), zero = sptx_f32(e, 0.0);
  sptx_value total = sptx_slot(e, e->f32, zero),
             out[2] = {sptx_slot(e, e->f32, zero), sptx_slot(e, e->f32, zero)};
  sptx_if active = sptx_if_begin(e, sptx_icmp(e, LLVMIntULT, p->thread, sptx_i32(e, dim / 2)));
  sptx_value element = sptx_zext64(e, p->thread);
  sptx_loop loop = sptx_loop_begin(e, sptx_i32(e, 0), slots, sptx_i32(e, 1));
  sptx_value place = sptx_zext64(e, loop.index), part[2], values[2];
  sptx_load_pair(p, SPTX_ELEMENT_F32, sptx_add(e, sums, sptx_muli(e, place, 8)), part);
  sptx_value from = sptx_add(e, sptx_muli(e, place, 4 * dim), sptx_muli(e, element, 8));
  sptx_load_pair(p, SPTX_ELEMENT_F32, sptx_add(e, outs, from), values);
  sptx_value old = sptx_get(e, most), now = sptx_max(e, old, part[0]);
  sptx_value shrink = scale_of(&d, old, now), scale = scale_of(&d, part[0], now);
  sptx_set_slot(e, most, now);
  sptx_set_slot(e, total, sptx_fma(e, part[1], scale, sptx_mul(e, sptx_get(e, total), shrink)));
  for (int i = 0; i < 2; i++)
    sptx_set_slot(e, out[i], sptx_fma(e, values[i], scale, sptx_mul(e, sptx_get(e, out[i]), shrink)));
  sptx_loop_end(e, &loop);
  sptx_value sum = sptx_get(e, total), some = sptx_fcmp(e, LLVMRealOGT, sum, zero);
  sptx_value inverse = sptx_reciprocal(e, sptx_select(e, some, sum, sptx_f32(e, 1.0)));
  sptx_value row = sptx_tensor_rows(p, SPTX_ARG(p, i64, o), offsetof(sptx_portable_params, o), p->head);
  row = sptx_add(e, row, sptx_muli(e, element, 2 * p->element_bytes));
  sptx_store_pair(p, p->spec->element, row, sptx_mul(e, sptx_get(e, out[0]), inverse),
                  sptx_mul(e, sptx_get(e, out[1]), inverse));
  sptx_if first = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, p->thread, sptx_i32(e, 0)));
  sptx_value lse = sptx_add(e, sptx_get(e, most), sptx_log2(e, sum));
  lse = sptx_select(e, some, sptx_mul(e, lse, sptx_f32(e, 1 / SPTX_LOG2_E)), sptx_f32(e, -INFINITY));
  row = sptx_add(e, sptx_mul(e, p->batch, SPTX_PARAM32(p, heads)), p->head);
  sptx_store_global(e, lse, sptx_add(e, SPTX_ARG(p, i64, lse), sptx_muli(e, sptx_zext64(e, row), 4)), 4);
  sptx_if_end(e, &first);
  sptx_if_end(e, &active);
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}
