/* The Hopper backward kernel for dK and dV, and where asked for dQ. A CTA holds a tile of keys; scores are
 * computed transposed, S^T = K Q^T, so that both P^T and dS^T are register operands of the next products:
 *
 *   P^T = exp2(S^T c - lse2)   dP^T = V dO^T   dS^T = P^T (dP^T - D)
 *   dV += P^T dO               dK += dS^T Q    dQ = dS K (dS^T through shared memory)
 *
 * dQ of a block needs dS of both consumers, and is computed while the next block's probabilities are. Warps 0
 * and 3 of the producer warpgroup issue the tensor copies of queries and of keys, warp 1 gathers LSE of the
 * query rows, since views may put them 4 bytes at a stride, and warp 2 their bounds; both make D, or warp 1
 * gathers it where a launch before has made it. */
#include "gen/ptx/hopper_backward_kernel.h"

static int map_count(const sptx_backward *b) {
  return sptx_backward_makes_delta(b->spec->d_q) ? MAP_COUNT : MAP_O;
}

/* Rows of packed tiles that no copy writes would hold anything, and 0 * NaN is NaN. */
static void clear_tiles(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  sptx_value first = sptx_muli(e, sptx_thread_index(e), 8);
  sptx_loop loop =
      sptx_loop_begin(e, first, sptx_i32(e, b->layout.scores), sptx_i32(e, 8 * 128 * (CONSUMERS + 1)));
  sptx_shared_store(e, sptx_i64(e, 0), sptx_add(e, sptx_shared_base(e), loop.index), 8);
  sptx_loop_end(e, &loop);
  sptx_fence_proxy_async(e);
}

static void initialise(sptx_backward *b) {
  sptx_gpu_emitter *e = b->e;
  if (b->spec->packed)
    clear_tiles(b);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, sptx_thread_index(e), sptx_i32(e, 0)));
  sptx_ring_init(e, &b->keys, 1, 4 * CONSUMERS);
  sptx_ring_init(e, &b->q, 1, 4 * CONSUMERS);
  sptx_ring_init(e, &b->d_o, 1, 4 * CONSUMERS);
  sptx_ring_init(e, &b->row_data, 2 * 32, 128 * CONSUMERS);
  /* Nobody says that a stage of dS is empty: whoever has shared block j + 1 has read block j. */
  sptx_ring_init(e, &b->scores, 4 * CONSUMERS, 4 * CONSUMERS);
  sptx_ring_init(e, &b->ranges, 1, 128 * CONSUMERS);
  sptx_mbarrier_init_fence(e);
  for (int i = 0; i < map_count(b); i++)
    sptx_tensor_prefetch(e, e->maps[i]);
  sptx_if_end(e, &one);
  sptx_barrier(e);
}

enum sptx_code sptx_hopper_backward_emit(struct sptx_gpu_emitter *emitter, const char *symbol,
                                         const void *spec, sptx_error *error) {
  (void)error;
  sptx_backward b = {.e = emitter, .spec = spec};
  b.layout = sptx_hopper_backward_layout_of(b.spec);
  sptx_kernel_begin(emitter, symbol, sizeof(sptx_hopper_params), map_count(&b), 128 * (CONSUMERS + 1), 1);
  sptx_backward_open_rings(&b, false);
  initialise(&b);
  sptx_value group = sptx_broadcast(emitter, sptx_shri(emitter, sptx_thread_index(emitter), 7));
  sptx_if producer = sptx_if_begin(emitter, sptx_icmp(emitter, LLVMIntEQ, group, sptx_i32(emitter, 0)));
  sptx_backward_produce(&b);
  sptx_if_else(emitter, &producer);
  sptx_backward_consume(&b);
  sptx_if_end(emitter, &producer);
  sptx_kernel_end(emitter);
  return SPTX_CODE_OK;
}
