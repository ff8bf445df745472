/* Inside the Hopper backward kernel: what its parts share. hopper_backward.c starts both roles,
 * hopper_backward_tiles.c lays out shared memory and walks over tiles, hopper_backward_producers.c loads,
 * hopper_backward_consumers.c multiplies, hopper_backward_d_q.c and hopper_backward_gradients.c move finished
 * gradients to memory. */
#ifndef SPTX_GEN_PTX_HOPPER_BACKWARD_KERNEL_H
#define SPTX_GEN_PTX_HOPPER_BACKWARD_KERNEL_H

#include "gen/ptx/hopper_backward.h"
#include "gen/ptx/hopper_tile.h"

enum { MAP_Q, MAP_D_O, MAP_K, MAP_V, MAP_D_Q, MAP_D_K, MAP_D_V, MAP_O, MAP_COUNT };
enum { BARRIER_GROUP = 1, BARRIER_ALL = 4 };
enum { CONSUMERS = SPTX_HOPPER_BACKWARD_CONSUMERS, BLOCK = SPTX_HOPPER_BACKWARD_BLOCK };
/* Of a thread; 128 producers and 256 consumers share 384 * 168, what the CTA starts with. */
enum {
  PRODUCER_REGISTERS = 40,
  CONSUMER_REGISTERS = 232,
  FEWER_PRODUCER_REGISTERS = 24,
  MORE_CONSUMER_REGISTERS = 240
};
/* Staging of each consumer: 64 x 64 float32, or 64 x 128 elements. */
enum { SPTX_BACKWARD_OUT_BYTES = 16384 };
enum { RANGE_BYTES = sizeof(sptx_hopper_block_range) };
enum { ROW_LSE, ROW_DELTA, ROW_LOW, ROW_HIGH, ROW_FIELDS };

typedef struct sptx_backward {
  sptx_gpu_emitter *e;
  const sptx_hopper_backward_spec *spec;
  sptx_hopper_backward_layout layout;
  sptx_ring keys, q, d_o, row_data, scores, ranges;
  bool producer; /* which role is being written */
  sptx_thread_place at;
  sptx_value consumer, base, scale, scale_log2;
  sptx_hopper_rows query, key; /* rows of the query block and of the key tile */
  sptx_value key_tile, tile;   /* tile: its entry in the block table */
  sptx_value first, last;      /* query blocks */
  sptx_value carries;          /* whether dQ of the block has been begun */
  sptx_value held[2][16];      /* K and V of narrow heads, as operands */
  sptx_value d_k[64], d_v[64]; /* slots */
  sptx_value scores_ahead[32]; /* slots: S^T of the block that comes next */
} sptx_backward;

void sptx_backward_open_rings(sptx_backward *b, bool producer);
void sptx_backward_produce(sptx_backward *b);
void sptx_backward_consume(sptx_backward *b);

/* This thread's place, from the lane alone. */
sptx_thread_place sptx_backward_place(sptx_backward *b);

/* The loop over this CTA's key tiles: sets item, key_tile, first and last. */
typedef struct sptx_backward_tiles {
  sptx_item_loop items;
  sptx_loop of_run;
} sptx_backward_tiles;
sptx_backward_tiles sptx_backward_tiles_begin(sptx_backward *b);
void sptx_backward_tiles_end(sptx_backward *b, sptx_backward_tiles *tiles);
/* A loop over query blocks; a field of the tile's sptx_hopper_block_range, loaded where it is needed: by
 * producers from memory, by consumers from where the producer of keys has laid it. */
sptx_loop sptx_backward_block_loop(sptx_backward *b, sptx_value first, sptx_value last);
sptx_value sptx_backward_block_limit(sptx_backward *b, size_t field);
/* The address in memory of the tile's entry in the block table, i64. */
sptx_value sptx_backward_range_address(sptx_backward *b);

/* Each consumer computes half the columns of a block's dQ, 32 or 64; packed: all columns of its own rows. */
int sptx_backward_d_q_columns(const sptx_backward *b);

/* What earlier key tiles of the run have added to dQ of the query block, for sinks that carry: loads begin,
 * and are waited for where they are taken; zeros where there is nothing. */
void sptx_backward_read_carried(sptx_backward *b, sptx_value *d_q);
void sptx_backward_take_carried(sptx_backward *b, sptx_value *d_q);
/* Wide heads that stage dQ need all registers that consumers can get. */
bool sptx_backward_is_large(const sptx_hopper_backward_spec *spec);
/* A warp's 16 rows as float32 in boxes of 32 columns (128 bytes, swizzled), box_bytes from one to the next.
 */
void sptx_backward_stage_boxes(sptx_backward *b, sptx_value region, int box_bytes, const sptx_value *x,
                               int columns);
void sptx_backward_stage_d_q(sptx_backward *b, const sptx_value *sum);
void sptx_backward_add_d_q(sptx_backward *b);
/* Registers of a consumer to the gradients' sinks, through its staging region. dQ and dK are scaled first. */
void sptx_backward_write_d_q(sptx_backward *b, const sptx_value *d_q);
void sptx_backward_write_d_v(sptx_backward *b, const sptx_value *d_v);
void sptx_backward_write_d_k(sptx_backward *b, sptx_value *d_k);

/* count registers of two elements from twice as many values. */
void sptx_backward_pack(sptx_backward *b, const sptx_value *x, sptx_value *packed, int count);
void sptx_backward_group_sync(sptx_backward *b); /* this consumer's 128 threads */

#endif
