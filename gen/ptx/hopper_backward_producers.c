/* The producer warpgroup of the Hopper backward kernel: tensor copies of K, V, Q and dO, and LSE, D and the
 * bounds of the query rows. */
#include "gen/ptx/hopper_backward_kernel.h"
#include <math.h>

static void load_keys(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_ring_fill(e, &b->keys, sptx_muli(e, SPTX_HOPPER_PARAM(e, key_load), 2));
  for (int group = 0; group < CONSUMERS; group++)
    for (int chunk = 0; chunk < b->layout.chunks; chunk++) {
      sptx_value place[5];
      sptx_hopper_place(e, &b->key, sptx_i32(e, group), b->key.item.kv_head, sptx_i32(e, 64 * chunk), place);
      if (b->spec->key_runs) {
        sptx_value run = SPTX_HOPPER_PARAM(e, key_run), first = place[1];
        place[2] = sptx_udiv(e, first, run);
        place[1] = sptx_sub(e, first, sptx_mul(e, place[2], run));
      }
      int offset = group * b->layout.group_bytes + chunk * 8192;
      sptx_value buffer = sptx_addi(e, sptx_ring_buffer(e, &b->keys), offset);
      sptx_tensor_load(e, buffer, e->maps[MAP_K], place, sptx_ring_full(e, &b->keys));
      sptx_tensor_load(e, sptx_addi(e, buffer, b->layout.v - b->layout.k), e->maps[MAP_V], place,
                       sptx_ring_full(e, &b->keys));
    }
}

/* Q; or dO, with O where D is made here. */
static void load_queries(sptx_backward *b, const sptx_ring *ring, int map) {
  sptx_gpu_emitter *e = b->e;
  bool with_o = map == MAP_D_O && sptx_backward_makes_delta(b->spec->d_q);
  sptx_ring_fill(e, ring, sptx_muli(e, SPTX_HOPPER_PARAM(e, query_load), with_o ? 2 : 1));
  for (int group = 0; group < (b->spec->packed ? CONSUMERS : 1); group++) {
    /* A loop, so that few registers hold coordinates at a time. */
    sptx_loop chunks = sptx_loop_begin(e, sptx_i32(e, 0), sptx_i32(e, b->layout.chunks), sptx_i32(e, 1));
    sptx_value place[5], chunk = sptx_recompute(e, chunks.index);
    sptx_hopper_place(e, &b->query, sptx_i32(e, group), b->query.item.head, sptx_muli(e, chunk, 64), place);
    sptx_value buffer = sptx_add(e, sptx_ring_buffer(e, ring), sptx_muli(e, chunk, 8192));
    buffer = sptx_addi(e, buffer, group * b->layout.group_bytes);
    sptx_tensor_load(e, buffer, e->maps[map], place, sptx_ring_full(e, ring));
    if (with_o)
      sptx_tensor_load(e, sptx_addi(e, buffer, b->layout.o - b->layout.d_o), e->maps[MAP_O], place,
                       sptx_ring_full(e, ring));
    sptx_loop_end(e, &chunks);
  }
}

/* The tile's limits, for the consumers; of sinks that do not carry the first four. */
static void write_range(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  int quads = b->spec->d_q == SPTX_HOPPER_CARRY ? RANGE_BYTES / 16 : 1;
  sptx_value from = sptx_backward_range_address(b), to = sptx_ring_buffer(e, &b->ranges),
             values[RANGE_BYTES / 16];
  for (int i = 0; i < quads; i++)
    values[i] = sptx_load_constant(e, LLVMVectorType(e->i32, 4), sptx_addi(e, from, 16 * i), 16);
  sptx_ring_wait_empty(e, &b->ranges);
  for (int i = 0; i < quads; i++)
    sptx_shared_store(e, values[i], sptx_addi(e, to, 16 * i), 16);
  sptx_mbarrier_arrive_if(e, sptx_ring_full(e, &b->ranges), sptx_i32(e, 1));
}

static void produce_keys(sptx_backward *b) {
  sptx_backward_open_rings(b, true);
  sptx_backward_tiles tiles = sptx_backward_tiles_begin(b);
  load_keys(b);
  if (!b->spec->packed) /* last, since its place comes free after the keys' */
    write_range(b);
  sptx_ring_advance(b->e, &b->keys);
  sptx_backward_tiles_end(b, &tiles);
}

static void produce_queries(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_backward_open_rings(b, true);
  sptx_backward_tiles tiles = sptx_backward_tiles_begin(b);
  sptx_loop blocks = sptx_backward_block_loop(b, b->first, b->last);
  load_queries(b, &b->q, MAP_Q);
  load_queries(b, &b->d_o, MAP_D_O);
  sptx_ring_advance(e, &b->q);
  sptx_loop_end(e, &blocks);
  sptx_backward_tiles_end(b, &tiles);
}

static sptx_hopper_row block_row(sptx_backward *b, sptx_value row) {
  sptx_gpu_emitter *e = b->e;
  sptx_value group = b->spec->packed ? sptx_shri(e, row, 6) : sptx_i32(e, 0);
  return sptx_hopper_row_of(e, &b->query, group, b->spec->packed ? sptx_andi(e, row, 63) : row);
}

static void put_field(sptx_backward *b, int field, sptx_value row, sptx_value value) {
  sptx_gpu_emitter *e = b->e;
  sptx_value buffer = sptx_add(e, sptx_ring_buffer(e, &b->row_data), sptx_muli(e, row, 4));
  sptx_shared_store(e, value, sptx_addi(e, buffer, 4 * field * b->layout.rows), 4);
}

typedef struct row_sums {
  sptx_value row, exists, lse, delta; /* delta: where a launch before has made it */
} row_sums;

static row_sums read_row_sums(sptx_backward *b, sptx_value row) {
  sptx_gpu_emitter *e = b->e;
  sptx_hopper_row r = block_row(b, row);
  sptx_value offset = sptx_muli(e, sptx_hopper_row_index(e, &b->query, &r), 4);
  offset = sptx_select(e, r.exists, offset, sptx_i64(e, 0));
  sptx_value lse = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, lse)), offset);
  row_sums sums = {row, r.exists, sptx_load_constant(e, e->f32, lse, 4), NULL};
  if (sptx_backward_makes_delta(b->spec->d_q))
    return sums;
  sptx_value delta = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, workspace)),
                              sptx_add(e, SPTX_HOPPER_PARAM64(e, delta_offset), offset));
  sums.delta = sptx_load_constant(e, e->f32, delta, 4);
  return sums;
}

/* LSE in base 2 and D. Rows that do not exist, or have no key, get the LSE +inf: their probabilities are 0.
 */
static void write_row_sums(sptx_backward *b, const row_sums *sums) {
  sptx_gpu_emitter *e = b->e;
  sptx_value some = sptx_fcmp(e, LLVMRealOGT, sums->lse, sptx_f32(e, -INFINITY));
  sptx_value lse = sptx_mul(e, sums->lse, sptx_f32(e, M_LOG2E));
  lse = sptx_select(e, sptx_and(e, some, sums->exists), lse, sptx_f32(e, INFINITY));
  put_field(b, ROW_LSE, sums->row, lse);
  if (sums->delta)
    put_field(b, ROW_DELTA, sums->row, sums->delta);
}

/* Rows of a lane: every 32nd. Where registers allow, two are read at once: views put them in lines of their
 * own. */
static void write_sums(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  int at_once = sptx_backward_is_large(b->spec) ? 1 : 2;
  sptx_value first = sptx_andi(e, sptx_recompute(e, sptx_thread_index(e)), 31);
  sptx_loop rows = sptx_loop_begin(e, first, sptx_i32(e, b->layout.rows), sptx_i32(e, 32 * at_once));
  row_sums sums[2];
  for (int i = 0; i < at_once; i++)
    sums[i] = read_row_sums(b, sptx_recompute(e, sptx_addi(e, rows.index, 32 * i)));
  for (int i = 0; i < at_once; i++)
    write_row_sums(b, &sums[i]);
  sptx_loop_end(e, &rows);
}

static void write_bounds(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value first = sptx_andi(e, sptx_recompute(e, sptx_thread_index(e)), 31);
  sptx_loop rows = sptx_loop_begin(e, first, sptx_i32(e, b->layout.rows), sptx_i32(e, 32));
  sptx_value row = sptx_recompute(e, rows.index), low, high;
  sptx_hopper_row r = block_row(b, row);
  sptx_hopper_row_keys(e, &b->query, &r, b->spec->lower, b->spec->upper, &low, &high);
  put_field(b, ROW_LOW, row, low);
  put_field(b, ROW_HIGH, row, high);
  sptx_loop_end(e, &rows);
}

/* Adds 8 columns of a row of dO * O to two sums, so that products wait less for each other. */
static void add_products(sptx_backward *b, sptx_value d_o, const sptx_value sums[2]) {
  sptx_gpu_emitter *e = b->e;
  LLVMTypeRef unit = LLVMVectorType(e->i32, 4);
  sptx_value x = sptx_shared_load(e, unit, d_o, 16);
  sptx_value y = sptx_shared_load(e, unit, sptx_addi(e, d_o, b->layout.o - b->layout.d_o), 16);
  for (int i = 0; i < 4; i++) {
    sptx_value of_d_o[2], of_o[2];
    sptx_unpack(e, b->spec->element, LLVMBuildExtractElement(e->builder, x, sptx_i32(e, i), ""), of_d_o);
    sptx_unpack(e, b->spec->element, LLVMBuildExtractElement(e->builder, y, sptx_i32(e, i), ""), of_o);
    for (int k = 0; k < 2; k++)
      sptx_set_slot(e, sums[k], sptx_fma(e, of_d_o[k], of_o[k], sptx_get(e, sums[k])));
  }
}

/* D from dO and O as they come: warps 1 and 2 take 32 rows of each 64, a row for each lane. Unit u of row r
 * lies at u ^ (r % 8). */
static void write_deltas(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_mbarrier_wait(e, sptx_ring_full(e, &b->d_o),
                     LLVMBuildXor(e->builder, sptx_get(e, b->d_o.parity), sptx_i32(e, 1), ""));
  sptx_value thread = sptx_recompute(e, sptx_thread_index(e));
  sptx_value sums[2] = {sptx_slot(e, e->f32, NULL), sptx_slot(e, e->f32, NULL)};
  sptx_loop rows =
      sptx_loop_begin(e, sptx_addi(e, thread, -32), sptx_i32(e, b->layout.rows), sptx_i32(e, 64));
  sptx_value row = sptx_recompute(e, rows.index);
  sptx_value place = sptx_add(e, sptx_ring_buffer(e, &b->d_o), sptx_muli(e, sptx_andi(e, row, 63), 128));
  place = sptx_add(e, place, sptx_muli(e, sptx_shri(e, row, 6), b->layout.group_bytes));
  for (int k = 0; k < 2; k++)
    sptx_set_slot(e, sums[k], sptx_f32(e, 0));
  sptx_loop units = sptx_loop_begin(e, sptx_i32(e, 0), sptx_i32(e, b->spec->head_dim / 8), sptx_i32(e, 1));
  sptx_value chunk = sptx_muli(e, sptx_shri(e, units.index, 3), 8192);
  sptx_value turned = sptx_andi(e, LLVMBuildXor(e->builder, units.index, row, ""), 7);
  add_products(b, sptx_add(e, place, sptx_add(e, chunk, sptx_muli(e, turned, 16))), sums);
  sptx_loop_end(e, &units);
  put_field(b, ROW_DELTA, row, sptx_add(e, sptx_get(e, sums[0]), sptx_get(e, sums[1])));
  sptx_loop_end(e, &rows);
}

static void produce_rows(sptx_backward *b, void (*write)(sptx_backward *)) {
  sptx_gpu_emitter *e = b->e;
  sptx_backward_open_rings(b, true);
  sptx_backward_tiles tiles = sptx_backward_tiles_begin(b);
  sptx_loop blocks = sptx_backward_block_loop(b, b->first, b->last);
  sptx_ring_wait_empty(e, &b->row_data);
  sptx_item *item = &b->query.item, kept = *item;
  b->query.first = sptx_recompute(e, b->query.first);
  item->head = sptx_recompute(e, kept.head);
  item->shared_group = sptx_recompute(e, kept.shared_group);
  write(b);
  if (sptx_backward_makes_delta(b->spec->d_q))
    write_deltas(b);
  *item = kept;
  sptx_mbarrier_arrive_if(e, sptx_ring_full(e, &b->row_data), sptx_i32(e, 1));
  sptx_ring_advance(e, &b->row_data);
  sptx_loop_end(e, &blocks);
  sptx_backward_tiles_end(b, &tiles);
}

static void produce_row_sums(sptx_backward *b) {
  produce_rows(b, write_sums);
}

static void produce_row_bounds(sptx_backward *b) {
  produce_rows(b, write_bounds);
}

/* A warp for each role, so that it fits the producers' registers; copies are issued by one lane. */
void sptx_backward_produce(sptx_backward *b) {
  enum { ROLES = 4 };
  static void (*const roles[ROLES])(sptx_backward *) = {produce_queries, produce_row_sums, produce_row_bounds,
                                                        produce_keys};
  sptx_gpu_emitter *e = b->e;
  sptx_set_registers(e, sptx_backward_is_large(b->spec) ? FEWER_PRODUCER_REGISTERS : PRODUCER_REGISTERS,
                     false);
  sptx_value thread = sptx_thread_index(e), warp = sptx_shri(e, thread, 5);
  const sptx_value mine[ROLES] = {
      sptx_icmp(e, LLVMIntEQ, thread, sptx_i32(e, 0)), sptx_icmp(e, LLVMIntEQ, warp, sptx_i32(e, 1)),
      sptx_icmp(e, LLVMIntEQ, warp, sptx_i32(e, 2)), sptx_icmp(e, LLVMIntEQ, thread, sptx_i32(e, 96))};
  for (int i = 0; i < ROLES; i++) {
    sptx_if role = sptx_if_begin(e, mine[i]);
    roles[i](b);
    sptx_if_end(e, &role);
  }
}
