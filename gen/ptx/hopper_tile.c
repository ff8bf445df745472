/* Shared parts of the Hopper kernels; see hopper_tile.h. */
#include "gen/ptx/hopper_tile.h"

sptx_ring sptx_ring_open(sptx_gpu_emitter *e, sptx_value base, int bytes, int stages, sptx_value full,
                         sptx_value empty, bool producer) {
  sptx_ring ring = {.base = base, .full = full, .empty = empty, .stages = stages, .bytes = bytes};
  ring.stage = sptx_slot(e, e->i32, sptx_i32(e, 0));
  ring.parity = sptx_slot(e, e->i32, sptx_i32(e, producer));
  return ring;
}

void sptx_ring_init(sptx_gpu_emitter *e, const sptx_ring *ring, int full_count, int empty_count) {
  for (int i = 0; i < ring->stages; i++) {
    sptx_mbarrier_init(e, sptx_addi(e, ring->full, 8 * i), full_count);
    sptx_mbarrier_init(e, sptx_addi(e, ring->empty, 8 * i), empty_count);
  }
}

sptx_value sptx_ring_buffer(sptx_gpu_emitter *e, const sptx_ring *ring) {
  return sptx_add(e, ring->base, sptx_muli(e, sptx_get(e, ring->stage), ring->bytes));
}

static sptx_value barrier_at(sptx_gpu_emitter *e, const sptx_ring *ring, sptx_value first) {
  return sptx_add(e, first, sptx_muli(e, sptx_get(e, ring->stage), 8));
}

sptx_value sptx_ring_full(sptx_gpu_emitter *e, const sptx_ring *ring) {
  return barrier_at(e, ring, ring->full);
}

void sptx_ring_wait_full(sptx_gpu_emitter *e, const sptx_ring *ring) {
  sptx_mbarrier_wait(e, barrier_at(e, ring, ring->full), sptx_get(e, ring->parity));
}

void sptx_ring_wait_empty(sptx_gpu_emitter *e, const sptx_ring *ring) {
  sptx_mbarrier_wait(e, barrier_at(e, ring, ring->empty), sptx_get(e, ring->parity));
}

void sptx_ring_fill(sptx_gpu_emitter *e, const sptx_ring *ring, sptx_value bytes) {
  sptx_ring_wait_empty(e, ring);
  sptx_mbarrier_expect(e, barrier_at(e, ring, ring->full), bytes);
}

void sptx_ring_release(sptx_gpu_emitter *e, const sptx_ring *ring, sptx_value arrives) {
  sptx_mbarrier_arrive_if(e, barrier_at(e, ring, ring->empty), arrives);
}

void sptx_ring_advance(sptx_gpu_emitter *e, const sptx_ring *ring) {
  sptx_value next = sptx_addi(e, sptx_get(e, ring->stage), 1);
  sptx_value wraps = sptx_icmp(e, LLVMIntEQ, next, sptx_i32(e, ring->stages));
  sptx_set_slot(e, ring->stage, sptx_select(e, wraps, sptx_i32(e, 0), next));
  sptx_value flipped =
      LLVMBuildXor(e->builder, sptx_get(e, ring->parity), LLVMBuildZExt(e->builder, wraps, e->i32, ""), "");
  sptx_set_slot(e, ring->parity, flipped);
}

sptx_ring sptx_ring_ahead(sptx_gpu_emitter *e, const sptx_ring *ring, sptx_value stays) {
  sptx_ring ahead = *ring;
  ahead.stage = sptx_slot(e, e->i32, sptx_get(e, ring->stage));
  ahead.parity = sptx_slot(e, e->i32, sptx_get(e, ring->parity));
  sptx_ring_advance(e, &ahead);
  sptx_set_slot(e, ahead.stage, sptx_select(e, stays, sptx_get(e, ring->stage), sptx_get(e, ahead.stage)));
  sptx_set_slot(e, ahead.parity, sptx_select(e, stays, sptx_get(e, ring->parity), sptx_get(e, ahead.parity)));
  return ahead;
}

sptx_item_loop sptx_item_loop_begin(sptx_gpu_emitter *e) {
  sptx_item_loop loop;
  loop.turn = sptx_slot(e, e->i32, sptx_block_index(e));
  loop.rounds = sptx_loop_begin(e, sptx_i32(e, 0), SPTX_HOPPER_PARAM(e, items), NULL);
  sptx_value index = sptx_add(e, loop.rounds.index, sptx_get(e, loop.turn));
  sptx_value group = SPTX_HOPPER_PARAM(e, lane_group), group_items = SPTX_HOPPER_PARAM(e, group_items);
  sptx_value number = sptx_udiv(e, index, group_items);
  loop.first = sptx_mul(e, number, group);
  loop.width = sptx_min(e, group, sptx_sub(e, SPTX_HOPPER_PARAM(e, lanes), loop.first));
  loop.place = sptx_sub(e, index, sptx_mul(e, number, group_items));
  sptx_value places = sptx_mul(e, loop.width, SPTX_HOPPER_PARAM(e, query_tiles));
  loop.valid = sptx_if_begin(e, sptx_icmp(e, LLVMIntSLT, loop.place, places));
  return loop;
}

void sptx_item_loop_end(sptx_gpu_emitter *e, sptx_item_loop *loop) {
  sptx_if_end(e, &loop->valid);
  /* Read here, since consumers have no register to keep it in. */
  loop->rounds.step = sptx_asm(e, e->i32, "mov.u32 $0, %nctaid.x;", "=r", NULL, 0, false);
  sptx_value last = sptx_addi(e, loop->rounds.step, -1);
  sptx_set_slot(e, loop->turn, sptx_sub(e, last, sptx_get(e, loop->turn)));
  sptx_loop_end(e, &loop->rounds);
}

static sptx_value head_of(sptx_gpu_emitter *e, sptx_value index) {
  sptx_value table = SPTX_HOPPER_PARAM64(e, head_table);
  table = sptx_asm(e, e->i64, "mov.b64 $0, $1;", "=l,l", &table, 1, false); /* compared here, not kept */
  sptx_value head = sptx_slot(e, e->i32, index);
  sptx_if listed = sptx_if_begin(e, sptx_icmp(e, LLVMIntSGE, table, sptx_i64(e, 0)));
  sptx_value constants = sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, constants));
  sptx_value entry = sptx_muli(e, sptx_zext64(e, index), 4);
  sptx_value address = sptx_add(e, sptx_add(e, constants, table), entry);
  sptx_set_slot(e, head, sptx_load_constant(e, e->i32, address, 4));
  sptx_if_end(e, &listed);
  return sptx_get(e, head);
}

sptx_item sptx_item_decode(sptx_gpu_emitter *e, const sptx_item_loop *loop) {
  sptx_item item;
  sptx_value row = sptx_udiv(e, loop->place, loop->width);
  item.tile = sptx_sub(e, sptx_addi(e, SPTX_HOPPER_PARAM(e, query_tiles), -1), row);
  sptx_value lane = sptx_add(e, loop->first, sptx_sub(e, loop->place, sptx_mul(e, row, loop->width)));
  sptx_value shared = SPTX_HOPPER_PARAM(e, shared_groups), heads = SPTX_HOPPER_PARAM(e, head_count);
  sptx_value problem = sptx_udiv(e, lane, shared);
  item.shared_group = sptx_sub(e, lane, sptx_mul(e, problem, shared));
  item.batch = sptx_udiv(e, problem, heads);
  item.head = head_of(e, sptx_sub(e, problem, sptx_mul(e, item.batch, heads)));
  item.kv_head = sptx_udiv(e, item.head, SPTX_HOPPER_PARAM(e, heads_per_kv));
  return item;
}

sptx_value sptx_clamp(sptx_gpu_emitter *e, sptx_value x, sptx_value low, sptx_value high) {
  return sptx_min(e, sptx_max(e, x, low), high);
}

static sptx_value bound_value(sptx_gpu_emitter *e, enum sptx_hopper_bound kind, size_t offset, sptx_value x) {
#define FIELD(name) sptx_load_param(e, e->i32, offset + offsetof(sptx_hopper_bound_params, name))
  sptx_value t = sptx_add(e, x, FIELD(shift)), value;
  if (kind == SPTX_HOPPER_LINE) {
    value = sptx_mul(e, FIELD(mult), t);
  } else {
    sptx_value turns = sptx_udiv(e, t, FIELD(period));
    sptx_value rest = sptx_sub(e, t, sptx_mul(e, turns, FIELD(period)));
    sptx_value ramp = sptx_clamp(e, sptx_sub(e, rest, FIELD(ramp_from)), sptx_i32(e, 0), FIELD(ramp_max));
    value = sptx_add(e, sptx_mul(e, FIELD(mult), turns), ramp);
  }
  return sptx_clamp(e, sptx_add(e, value, FIELD(add)), FIELD(low), FIELD(high));
#undef FIELD
}

sptx_value sptx_hopper_bound_at(sptx_gpu_emitter *e, enum sptx_hopper_bound kind, bool upper, sptx_value x) {
  sptx_value keys = SPTX_HOPPER_PARAM(e, key_count);
  if (kind == SPTX_HOPPER_NONE)
    return upper ? keys : sptx_i32(e, 0);
  size_t offset = upper ? offsetof(sptx_hopper_params, hi) : offsetof(sptx_hopper_params, lo);
  return sptx_clamp(e, bound_value(e, kind, offset, x), sptx_i32(e, 0), keys);
}

/* The first shared value of a packed group. */
static sptx_value first_shared(sptx_gpu_emitter *e, const sptx_hopper_rows *rows, sptx_value group) {
  sptx_value groups = sptx_add(e, sptx_muli(e, rows->item.shared_group, rows->consumers), group);
  return sptx_mul(e, groups, SPTX_HOPPER_PARAM(e, pack));
}

sptx_hopper_row sptx_hopper_row_of(sptx_gpu_emitter *e, const sptx_hopper_rows *rows, sptx_value group,
                                   sptx_value row) {
  sptx_hopper_row r;
  sptx_value count = SPTX_HOPPER_PARAM(e, query_count);
  if (!rows->packed) {
    r.x = sptx_add(e, rows->first, sptx_add(e, sptx_muli(e, group, 64), row));
    r.shared = rows->item.shared_group;
    r.local = sptx_i32(e, 0);
    r.exists = sptx_icmp(e, LLVMIntSLT, r.x, count);
    return r;
  }
  r.local = sptx_udiv(e, row, count);
  r.x = sptx_sub(e, row, sptx_mul(e, r.local, count));
  r.shared = sptx_add(e, first_shared(e, rows, group), r.local);
  sptx_value inside = sptx_icmp(e, LLVMIntSLT, r.shared, SPTX_HOPPER_PARAM(e, shared_count));
  r.exists = sptx_and(e, sptx_icmp(e, LLVMIntSLT, r.local, SPTX_HOPPER_PARAM(e, pack)), inside);
  return r;
}

void sptx_hopper_row_keys(sptx_gpu_emitter *e, const sptx_hopper_rows *rows, const sptx_hopper_row *row,
                          enum sptx_hopper_bound lower, enum sptx_hopper_bound upper, sptx_value *low,
                          sptx_value *high) {
  *low = sptx_hopper_bound_at(e, lower, false, row->x);
  *high = sptx_hopper_bound_at(e, upper, true, row->x);
  if (!rows->packed)
    return;
  sptx_value first = sptx_mul(e, row->local, SPTX_HOPPER_PARAM(e, key_count));
  *low = sptx_add(e, *low, first);
  *high = sptx_add(e, *high, first);
}

sptx_value sptx_hopper_row_index(sptx_gpu_emitter *e, const sptx_hopper_rows *rows,
                                 const sptx_hopper_row *row) {
  const sptx_item *item = &rows->item;
  sptx_value problem = sptx_add(e, sptx_mul(e, item->batch, SPTX_HOPPER_PARAM(e, heads)), item->head);
  sptx_value index = sptx_mul(e, sptx_zext64(e, problem), sptx_zext64(e, SPTX_HOPPER_PARAM(e, n_q)));
  sptx_value position =
      sptx_add(e, SPTX_HOPPER_PARAM(e, row_base), sptx_mul(e, row->shared, SPTX_HOPPER_PARAM(e, row_shared)));
  position = sptx_add(e, position, sptx_mul(e, row->x, SPTX_HOPPER_PARAM(e, row_inner)));
  return sptx_add(e, index, sptx_zext64(e, position));
}

void sptx_hopper_place(sptx_gpu_emitter *e, const sptx_hopper_rows *rows, sptx_value group, sptx_value head,
                       sptx_value column, sptx_value place[5]) {
  place[0] = column;
  place[1] = rows->packed ? sptx_i32(e, 0) : sptx_add(e, rows->first, sptx_muli(e, group, 64));
  place[2] = rows->packed ? first_shared(e, rows, group) : rows->item.shared_group;
  place[3] = head;
  place[4] = rows->item.batch;
}

sptx_thread_place sptx_thread_place_of(sptx_gpu_emitter *e) {
  sptx_thread_place p;
  sptx_value index = sptx_thread_index(e);
  p.group = sptx_broadcast(e, sptx_shri(e, index, 7));
  p.thread = sptx_andi(e, index, 127);
  p.warp = sptx_broadcast(e, sptx_shri(e, p.thread, 5));
  p.lane = sptx_andi(e, index, 31);
  p.row = sptx_add(e, sptx_muli(e, p.warp, 16), sptx_shri(e, p.lane, 2));
  p.quad = sptx_andi(e, p.lane, 3);
  p.first_lane = LLVMBuildZExt(e->builder, sptx_icmp(e, LLVMIntEQ, p.lane, sptx_i32(e, 0)), e->i32, "");
  p.leader = LLVMBuildZExt(e->builder, sptx_icmp(e, LLVMIntEQ, p.thread, sptx_i32(e, 0)), e->i32, "");
  return p;
}

/* Lane i serves row i % 16 of its warp and unit (16 bytes) i / 16 of a slab of two; unit u of row r lies at
 * u ^ (r % 8). */
sptx_value sptx_fragment_address(sptx_gpu_emitter *e, const sptx_thread_place *place, sptx_value region) {
  sptx_value row = sptx_add(e, sptx_muli(e, place->warp, 16), sptx_andi(e, place->lane, 15));
  sptx_value unit = LLVMBuildXor(e->builder, sptx_shri(e, place->lane, 4), sptx_andi(e, place->lane, 7), "");
  return sptx_add(e, region, sptx_add(e, sptx_muli(e, row, 128), sptx_muli(e, unit, 16)));
}

sptx_value sptx_fragment_slab(sptx_gpu_emitter *e, sptx_value address, int slab, int chunk_bytes) {
  sptx_value swizzled = LLVMBuildXor(e->builder, address, sptx_i32(e, (slab % 4) * 32), "");
  return sptx_addi(e, swizzled, slab / 4 * chunk_bytes);
}

sptx_value sptx_ceil_div_by(sptx_gpu_emitter *e, sptx_value a, int b) {
  return sptx_udiv(e, sptx_addi(e, a, b - 1), sptx_i32(e, b));
}
