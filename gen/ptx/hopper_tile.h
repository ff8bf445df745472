/* What Hopper kernels share: thread roles, the persistent loop over work items, bounds and tile ranges,
 * pipelines of shared-memory stages, and moving fragments through swizzled shared memory. */
#ifndef SPTX_GEN_PTX_HOPPER_TILE_H
#define SPTX_GEN_PTX_HOPPER_TILE_H

#include "gen/ptx/hopper_asm.h"
#include "gen/ptx/hopper_part.h"
#include <stddef.h>

#define SPTX_HOPPER_MULTIPROCESSORS 132 /* of an H100 or H200: as many persistent CTAs, or a multiple */

#define SPTX_HOPPER_PARAM(e, field) sptx_load_param(e, (e)->i32, offsetof(sptx_hopper_params, field))
#define SPTX_HOPPER_PARAM64(e, field) sptx_load_param(e, (e)->i64, offsetof(sptx_hopper_params, field))

/* A ring of stages: slots of the stage index and of its parity. Barriers full and empty of stage s are at
 * full + 8s and empty + 8s, buffers at base + s * bytes. */
typedef struct sptx_ring {
  sptx_value stage, parity; /* slots */
  sptx_value base, full, empty;
  int stages, bytes;
} sptx_ring;
/* A producer's ring starts one parity ahead, so that its first waits return at once. */
sptx_ring sptx_ring_open(sptx_gpu_emitter *e, sptx_value base, int bytes, int stages, sptx_value full,
                         sptx_value empty, bool producer);
void sptx_ring_init(sptx_gpu_emitter *e, const sptx_ring *ring, int full_count, int empty_count);
sptx_value sptx_ring_buffer(sptx_gpu_emitter *e, const sptx_ring *ring);
sptx_value sptx_ring_full(sptx_gpu_emitter *e, const sptx_ring *ring);
void sptx_ring_wait_full(sptx_gpu_emitter *e, const sptx_ring *ring);
void sptx_ring_wait_empty(sptx_gpu_emitter *e, const sptx_ring *ring);
void sptx_ring_fill(sptx_gpu_emitter *e, const sptx_ring *ring, sptx_value bytes); /* waits, then expects */
/* Gives a stage back where arrives (i32) is not 0: in first lanes, each for its warp, which must have met
 * where lanes have read the stage, or in all of them. */
void sptx_ring_release(sptx_gpu_emitter *e, const sptx_ring *ring, sptx_value arrives);
void sptx_ring_advance(sptx_gpu_emitter *e, const sptx_ring *ring);
/* The ring as it will be after an advance, or, where stays (i1) holds, as it is. */
sptx_ring sptx_ring_ahead(sptx_gpu_emitter *e, const sptx_ring *ring, sptx_value stays);

/* The persistent loop: CTA c of G takes items c, 2G-1-c, 2G+c, ... so that every CTA gets its share of long
 * items. */
typedef struct sptx_item_loop {
  sptx_loop rounds;
  sptx_if valid;
  sptx_value turn;                /* slot: this CTA's place in the round */
  sptx_value first, width, place; /* lanes of the item's group, and its place there */
} sptx_item_loop;
sptx_item_loop sptx_item_loop_begin(sptx_gpu_emitter *e);
void sptx_item_loop_end(sptx_gpu_emitter *e, sptx_item_loop *loop);

/* A decoded item; all i32. */
typedef struct sptx_item {
  sptx_value tile, shared_group, head, kv_head, batch;
} sptx_item;
sptx_item sptx_item_decode(sptx_gpu_emitter *e, const sptx_item_loop *loop);

/* The first key of inner query x (upper: the end of its keys), cut to the keys that exist. */
sptx_value sptx_hopper_bound_at(sptx_gpu_emitter *e, enum sptx_hopper_bound kind, bool upper, sptx_value x);

/* How 64-row groups of an item lie in the views. Packed: each group holds `pack` shared values; else the
 * groups of an item are consecutive rows from `first` on. */
typedef struct sptx_hopper_rows {
  bool packed;
  int consumers;
  sptx_item item;
  sptx_value first;
} sptx_hopper_rows;

/* Row `row` (0..63) of a group: its inner index, its shared value, the part of that inside the group
 * (packed), and whether it exists. */
typedef struct sptx_hopper_row {
  sptx_value x, shared, local, exists;
} sptx_hopper_row;
sptx_hopper_row sptx_hopper_row_of(sptx_gpu_emitter *e, const sptx_hopper_rows *rows, sptx_value group,
                                   sptx_value row);
/* Keys of a row; packed: counted inside the group. */
void sptx_hopper_row_keys(sptx_gpu_emitter *e, const sptx_hopper_rows *rows, const sptx_hopper_row *row,
                          enum sptx_hopper_bound lower, enum sptx_hopper_bound upper, sptx_value *low,
                          sptx_value *high);
/* Element of a row in a (batch, heads, n_q) tensor, i64. */
sptx_value sptx_hopper_row_index(sptx_gpu_emitter *e, const sptx_hopper_rows *rows,
                                 const sptx_hopper_row *row);
/* Map coordinates of a group's 64 rows from column `column` on. */
void sptx_hopper_place(sptx_gpu_emitter *e, const sptx_hopper_rows *rows, sptx_value group, sptx_value head,
                       sptx_value column, sptx_value place[5]);

/* This thread's place: warpgroup of the CTA (uniform), and in the warpgroup thread, warp, lane, row = 16 warp
 * + lane / 4, quad = lane % 4; first_lane is 1 in lane 0 of each warp, leader 1 in one thread. */
typedef struct sptx_place_in_group {
  sptx_value group, thread, warp, lane, row, quad, first_lane, leader;
} sptx_thread_place;
sptx_thread_place sptx_thread_place_of(sptx_gpu_emitter *e);

/* Address of this lane's row for stmatrix and ldmatrix of 16-column slab 0 of a 64-row swizzled region; slab
 * k is at sptx_fragment_slab. */
sptx_value sptx_fragment_address(sptx_gpu_emitter *e, const sptx_thread_place *place, sptx_value region);
sptx_value sptx_fragment_slab(sptx_gpu_emitter *e, sptx_value address, int slab, int chunk_bytes);

sptx_value sptx_ceil_div_by(sptx_gpu_emitter *e, sptx_value a, int b); /* a >= 0 */
sptx_value sptx_clamp(sptx_gpu_emitter *e, sptx_value x, sptx_value low, sptx_value high);

#endif
