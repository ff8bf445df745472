/* The Hopper forward kernel: its specification (one kernel for each), and the shape of its shared memory. */
#ifndef SPTX_GEN_PTX_HOPPER_FORWARD_H
#define SPTX_GEN_PTX_HOPPER_FORWARD_H

#include "gen/ptx/hopper_part.h"

typedef struct sptx_hopper_forward_spec {
  enum sptx_element element;
  int head_dim;
  int consumers;            /* warpgroups of 64 queries each */
  int key_tile;             /* keys of a step; packed: 64 */
  int stages, query_stages; /* of K and V; of Q */
  int ctas;                 /* that share a multiprocessor: short loops fill each other's gaps */
  int producer_registers, consumer_registers;
  bool packed;    /* each warpgroup has its own 64 keys, of several shared values */
  bool key_runs;  /* the key view has two digits */
  bool merge;     /* O and LSE hold earlier pieces */
  bool ping_pong; /* warpgroups take turns: one multiplies while another has its softmax */
  enum sptx_hopper_bound lower, upper;
} sptx_hopper_forward_spec;

/* Bytes and offsets in dynamic shared memory. A 64-row tile is chunks of 64 columns, 64 x 128 bytes each; K
 * and V tiles have key_rows rows in each chunk (packed: one 64-row tile for each warpgroup). */
typedef struct sptx_hopper_forward_layout {
  int chunks, group_bytes, query_bytes, key_bytes, key_chunk_bytes;
  int q, o, k, v, barriers, total;
} sptx_hopper_forward_layout;
sptx_hopper_forward_layout sptx_hopper_forward_layout_of(const sptx_hopper_forward_spec *spec);

enum sptx_code sptx_hopper_forward_emit(struct sptx_gpu_emitter *emitter, const char *symbol,
                                        const void *spec, sptx_error *error);

#endif
