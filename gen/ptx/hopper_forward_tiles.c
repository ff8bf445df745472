/* What both roles of the Hopper forward kernel go by: the layout of shared memory, its rings, and which key
 * tiles an item's queries see. */
#include "gen/ptx/hopper_forward_kernel.h"

sptx_hopper_forward_layout sptx_hopper_forward_layout_of(const sptx_hopper_forward_spec *spec) {
  sptx_hopper_forward_layout l;
  l.chunks = (spec->head_dim + 63) / 64;
  l.group_bytes = 64 * l.chunks * 128;
  l.query_bytes = spec->consumers * l.group_bytes;
  l.key_chunk_bytes = (spec->packed ? 64 : spec->key_tile) * 128;
  l.key_bytes = spec->packed ? l.query_bytes : l.chunks * l.key_chunk_bytes;
  l.q = 0;
  l.o = l.q + spec->query_stages * l.query_bytes;
  l.k = l.o + l.query_bytes;
  l.v = l.k + spec->stages * l.key_bytes;
  l.barriers = l.v + spec->stages * l.key_bytes;
  l.total = l.barriers + 8 * (2 * spec->query_stages + 4 * spec->stages + 2);
  return l;
}

void sptx_forward_open_rings(sptx_forward *f, bool producer) {
  const sptx_hopper_forward_spec *spec = f->spec;
  sptx_value base = sptx_shared_base(f->e);
  int barrier = f->layout.barriers, key = f->layout.key_bytes;
#define RING(buffer, bytes, stages)                                                                          \
  sptx_ring_open(f->e, sptx_addi(f->e, base, buffer), bytes, stages, sptx_addi(f->e, base, barrier),         \
                 sptx_addi(f->e, base, barrier + 8 * (stages)), producer);                                   \
  barrier += 16 * (stages)
  f->q = RING(f->layout.q, f->layout.query_bytes, spec->query_stages);
  f->k = RING(f->layout.k, key, spec->stages);
  f->v = RING(f->layout.v, key, spec->stages);
  f->o = RING(f->layout.o, f->layout.query_bytes, 1);
#undef RING
}

static sptx_value bound_at(sptx_forward *f, bool upper, sptx_value x) {
  return sptx_hopper_bound_at(f->e, upper ? f->spec->upper : f->spec->lower, upper, x);
}

/* Which key tiles queries first .. first + rows - 1 see; at least one, so that rows without keys are written
 * too. */
static void find_range(sptx_forward *f, sptx_value first, int rows) {
  sptx_gpu_emitter *e = f->e;
  int keys = f->spec->key_tile;
  sptx_value end = sptx_addi(e, SPTX_HOPPER_PARAM(e, query_count), -1);
  sptx_value last_query = sptx_min(e, sptx_addi(e, first, rows - 1), end);
  sptx_value width = sptx_i32(e, keys);
  sptx_value tiles = sptx_addi(e, SPTX_HOPPER_PARAM(e, key_tiles), -1);
  f->first_key = sptx_min(e, sptx_udiv(e, bound_at(f, false, first), width), tiles);
  f->last =
      sptx_max(e, sptx_ceil_div_by(e, bound_at(f, true, last_query), keys), sptx_addi(e, f->first_key, 1));
  sptx_value full_first = sptx_ceil_div_by(e, bound_at(f, false, last_query), keys);
  f->high_first = sptx_udiv(e, bound_at(f, true, first), width);
  f->full_first = sptx_clamp(e, full_first, f->first_key, f->last);
  f->full_last = sptx_clamp(e, f->high_first, f->full_first, f->last);
}

void sptx_forward_find_tiles(sptx_forward *f, const sptx_item_loop *items) {
  sptx_gpu_emitter *e = f->e;
  int rows = 64 * f->spec->consumers;
  f->rows.packed = f->spec->packed;
  f->rows.consumers = f->spec->consumers;
  f->rows.item = sptx_item_decode(e, items);
  f->rows.first = sptx_muli(e, f->rows.item.tile, rows);
  if (f->spec->packed) {
    f->first_key = f->full_first = f->full_last = sptx_i32(e, 0);
    f->last = sptx_i32(e, 1);
  } else {
    find_range(f, f->rows.first, rows);
  }
  f->item_first = f->first_key;
  f->item_last = f->last;
}

void sptx_forward_find_own_tiles(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  if (f->spec->packed || f->spec->consumers == 1)
    return;
  find_range(f, sptx_add(e, f->rows.first, sptx_muli(e, f->consumer, 64)), 64);
  sptx_value last_tile = sptx_addi(e, f->item_last, -1);
  f->first_key = sptx_min(e, f->first_key, last_tile);
  f->last = sptx_min(e, f->last, f->item_last);
  f->full_first = sptx_clamp(e, f->full_first, f->first_key, f->last);
  f->full_last = sptx_clamp(e, f->full_last, f->full_first, f->last);
}

sptx_value sptx_forward_has_keys(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  if (!f->spec->merge || f->spec->packed)
    return LLVMConstInt(e->i1, 1, 0);
  sptx_value end = sptx_addi(e, SPTX_HOPPER_PARAM(e, query_count), -1);
  sptx_value last = sptx_addi(e, f->rows.first, 64 * f->spec->consumers - 1);
  return sptx_icmp(e, LLVMIntSLT, bound_at(f, false, f->rows.first),
                   bound_at(f, true, sptx_min(e, last, end)));
}

sptx_hopper_row sptx_forward_row_of(sptx_forward *f, int half) {
  return sptx_hopper_row_of(f->e, &f->rows, f->consumer, sptx_addi(f->e, f->at.row, 8 * half));
}

sptx_value sptx_forward_across_quad(sptx_gpu_emitter *e, sptx_value x, bool maximum) {
  for (int mask = 1; mask <= 2; mask *= 2) {
    sptx_value other = sptx_shuffle_xor(e, x, mask);
    x = maximum ? sptx_max(e, x, other) : sptx_add(e, x, other);
  }
  return x;
}
