/* The producer of the Hopper forward kernel: one thread issues the tensor copies of Q, K, V, and of the O to
 * merge with. */
#include "gen/ptx/hopper_forward_kernel.h"

static void load_queries(sptx_forward *f, const sptx_ring *ring, sptx_value map) {
  sptx_gpu_emitter *e = f->e;
  sptx_ring_fill(e, ring, SPTX_HOPPER_PARAM(e, query_load));
  for (int group = 0; group < f->spec->consumers; group++)
    for (int chunk = 0; chunk < f->layout.chunks; chunk++) {
      sptx_value place[5];
      sptx_hopper_place(e, &f->rows, sptx_i32(e, group), f->rows.item.head, sptx_i32(e, 64 * chunk), place);
      int offset = group * f->layout.group_bytes + chunk * 8192;
      sptx_tensor_load(e, sptx_addi(e, sptx_ring_buffer(e, ring), offset), map, place,
                       sptx_ring_full(e, ring));
    }
  sptx_ring_advance(e, ring);
}

static void load_keys(sptx_forward *f, const sptx_ring *ring, sptx_value map, sptx_value tile) {
  sptx_gpu_emitter *e = f->e;
  sptx_value place[5] = {NULL, NULL, NULL, f->rows.item.kv_head, f->rows.item.batch};
  sptx_ring_fill(e, ring, SPTX_HOPPER_PARAM(e, key_load));
  int boxes = f->spec->packed ? f->spec->consumers : 1;
  for (int box = 0; box < boxes; box++)
    for (int chunk = 0; chunk < f->layout.chunks; chunk++) {
      sptx_value first = sptx_muli(e, tile, f->spec->key_tile);
      if (f->spec->packed) {
        sptx_hopper_place(e, &f->rows, sptx_i32(e, box), f->rows.item.kv_head, sptx_i32(e, 0), place);
      } else if (f->spec->key_runs) {
        sptx_value run = SPTX_HOPPER_PARAM(e, key_run);
        place[2] = sptx_udiv(e, first, run);
        place[1] = sptx_sub(e, first, sptx_mul(e, place[2], run));
      } else {
        place[1] = first;
        place[2] = f->rows.item.shared_group;
      }
      place[0] = sptx_i32(e, 64 * chunk);
      int offset = box * f->layout.group_bytes + chunk * f->layout.key_chunk_bytes;
      sptx_tensor_load(e, sptx_addi(e, sptx_ring_buffer(e, ring), offset), map, place,
                       sptx_ring_full(e, ring));
    }
  sptx_ring_advance(e, ring);
}

void sptx_forward_produce(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  sptx_set_registers(e, f->spec->producer_registers, false);
  sptx_value thread = sptx_thread_index(e);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, thread, sptx_i32(e, 0)));
  sptx_forward_open_rings(f, true);
  sptx_item_loop items = sptx_item_loop_begin(e);
  sptx_forward_find_tiles(f, &items);
  sptx_if useful = sptx_if_begin(e, sptx_forward_has_keys(f));
  load_queries(f, &f->q, e->maps[MAP_Q]);
  sptx_value count = sptx_sub(e, f->last, f->first_key);
  sptx_loop tiles = sptx_loop_begin(e, sptx_i32(e, 0), count, sptx_i32(e, 1));
  sptx_value tile = sptx_sub(e, sptx_addi(e, f->last, -1), tiles.index);
  load_keys(f, &f->k, e->maps[MAP_K], tile);
  load_keys(f, &f->v, e->maps[MAP_V], tile);
  sptx_loop_end(e, &tiles);
  if (f->spec->merge)
    load_queries(f, &f->o, e->maps[MAP_O]);
  sptx_if_end(e, &useful);
  sptx_item_loop_end(e, &items);
  sptx_if_end(e, &one);
}
