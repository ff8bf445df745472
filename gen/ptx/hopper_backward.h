/* The Hopper backward kernels: specifications and shared memory. */
#ifndef SPTX_GEN_PTX_HOPPER_BACKWARD_H
#define SPTX_GEN_PTX_HOPPER_BACKWARD_H

#include "gen/ptx/hopper_part.h"

/* Where a gradient goes: to the caller's tensor, or added to float32 scratch of (batch, heads, n, head_dim).
 * Carry, for dQ: to the caller's tensor by the CTA that computes all of it, one key tile after the other. */
enum sptx_hopper_gradient { SPTX_HOPPER_STORE, SPTX_HOPPER_ADD, SPTX_HOPPER_CARRY };

/* A CTA of two consumers owns 128 keys (packed: two groups of 64 rows) and walks over blocks of queries. */
typedef struct sptx_hopper_backward_spec {
  enum sptx_element element;
  int head_dim;           /* at most 128 */
  int stages, key_stages; /* of Q and dO; of K and V */
  bool packed, key_runs;
  enum sptx_hopper_gradient d_q, d_kv;
  enum sptx_hopper_bound lower, upper;
} sptx_hopper_backward_spec;

enum { SPTX_HOPPER_BACKWARD_CONSUMERS = 2, SPTX_HOPPER_BACKWARD_BLOCK = 64 /* queries of a step */ };

/* A key tile, in query blocks: [first, full_first) masked, [full_first, full_last) full, [full_last, last)
 * masked. The rest is for runs of tiles (carry): of the blocks before `carried`, earlier tiles of the run
 * have computed a part; dQ of those before `kept` is complete here, of others before `own_end` in a later
 * tile of the run, and of those from there on in another run. owns_keys: dK and dV are computed here, all of
 * them. */
typedef struct sptx_hopper_block_range {
  _Alignas(16) int32_t first; /* read 16 bytes at a time */
  int32_t full_first, full_last, last;
  int32_t tile, owns_keys, carried, kept, own_end;
} sptx_hopper_block_range;
_Static_assert(sizeof(sptx_hopper_block_range) == 48, "kernels copy three times 16 bytes");

typedef struct sptx_hopper_backward_layout {
  int chunks, group_bytes; /* 64 rows of a tensor */
  int key_bytes, query_bytes;
  int score_bytes, score_stages; /* dS^T: rows of keys, chunks of 64 queries */
  int rows;                      /* query rows of a stage */
  int d_q_bytes;                 /* a warp's rows of a block's dQ, where warps add it up */
  int k, v, q, d_o, o, scores, out, d_q, row_data, ranges, barriers, total;
} sptx_hopper_backward_layout;
/* Where blocks of queries are visited once or twice, the kernel takes D from O itself; where many CTAs visit
 * each, and add to its dQ, a launch before it does. */
bool sptx_backward_makes_delta(enum sptx_hopper_gradient d_q);
/* Whether blocks of dQ are added to float32 sums warp by warp, 16 rows at a time: they are staged before a
 * fence of the async proxy and a warp_sync, and added after. */
bool sptx_backward_adds_by_warps(const sptx_hopper_backward_spec *spec);
sptx_hopper_backward_layout sptx_hopper_backward_layout_of(const sptx_hopper_backward_spec *spec);

enum sptx_code sptx_hopper_backward_emit(struct sptx_gpu_emitter *emitter, const char *symbol,
                                         const void *spec, sptx_error *error);

#endif
