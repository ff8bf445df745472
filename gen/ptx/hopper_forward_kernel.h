/* Inside the Hopper forward kernel: what its parts share. hopper_forward.c starts both roles,
 * hopper_forward_tiles.c lays out shared memory and finds each item's tiles, hopper_forward_producer.c loads,
 * hopper_forward_consumers.c multiplies and takes the softmax, hopper_forward_output.c merges and stores. */
#ifndef SPTX_GEN_PTX_HOPPER_FORWARD_KERNEL_H
#define SPTX_GEN_PTX_HOPPER_FORWARD_KERNEL_H

#include "gen/ptx/hopper_forward.h"
#include "gen/ptx/hopper_tile.h"

enum { MAP_Q, MAP_K, MAP_V, MAP_O, MAP_COUNT };
enum { BARRIER_GROUP = 1, BARRIER_TURN = 6 }; /* named barriers; one for each consumer */

typedef struct sptx_forward {
  sptx_gpu_emitter *e;
  const sptx_hopper_forward_spec *spec;
  sptx_hopper_forward_layout layout;
  sptx_ring q, k, v, o;
  sptx_thread_place at;
  sptx_value consumer; /* index of this consumer warpgroup */
  sptx_value scale_log2;
  sptx_hopper_rows rows;
  sptx_value first_key, full_first, full_last, last; /* key tiles: [first, full_first) masked, ... */
  sptx_value high_first;            /* the first tile with a key at or past some row's high bound */
  sptx_value item_first, item_last; /* consumers: the tiles that the producer loads, which others may need */
  sptx_value low[2], high[2];       /* of this thread's rows, in keys */
  sptx_value p[128], accumulator[128], row_max[2], row_sum[2]; /* slots */
} sptx_forward;

void sptx_forward_open_rings(sptx_forward *f, bool producer);
void sptx_forward_produce(sptx_forward *f);
void sptx_forward_consume(sptx_forward *f);

/* The item, and the key tiles that any of its queries sees. */
void sptx_forward_find_tiles(sptx_forward *f, const sptx_item_loop *items);
/* Those that this consumer's own 64 queries see; queries past the end see the item's last tile. */
void sptx_forward_find_own_tiles(sptx_forward *f);
/* Where O already holds earlier pieces, an item without keys has nothing to do. */
sptx_value sptx_forward_has_keys(sptx_forward *f);

/* One of this thread's two rows. */
sptx_hopper_row sptx_forward_row_of(sptx_forward *f, int half);
/* Maximum or sum of x over the four threads that share a row. */
sptx_value sptx_forward_across_quad(sptx_gpu_emitter *e, sptx_value x, bool maximum);

/* Where the results of this thread's two rows go; old: the LSE of earlier pieces, where there are some. */
typedef struct sptx_forward_rows {
  sptx_value lse[2], exists[2], old[2];
} sptx_forward_rows;
sptx_forward_rows sptx_forward_find_rows(sptx_forward *f);
/* Normalises o, merges it with earlier pieces, and stores it and the LSE. */
void sptx_forward_write(sptx_forward *f, const sptx_forward_rows *rows, sptx_value *o);

#endif
