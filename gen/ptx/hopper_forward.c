/* The Hopper forward kernel: one producer warpgroup issues tensor copies of Q, K, V (and of the O to merge
 * with); consumer warpgroups of 64 queries multiply with wgmma and keep S, P and O in registers. CTAs are
 * persistent: the producer already loads the next item while the consumers finish this one.
 *
 * In step j a consumer issues S_j = Q K_j^T and O += P_(j-1) V_(j-1) together and does the softmax of S_j
 * while the second product runs. Key tiles run from the last to the first: masked, full, masked. */
#include "gen/ptx/hopper_forward_kernel.h"

/* Rows of packed tiles that no copy writes would hold anything, and 0 * NaN is NaN. */
static void clear_keys(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  int threads = 128 * (f->spec->consumers + 1);
  int begin = f->layout.k, end = f->layout.barriers;
  sptx_value first = sptx_addi(e, sptx_muli(e, sptx_thread_index(e), 8), begin);
  sptx_loop loop = sptx_loop_begin(e, first, sptx_i32(e, end), sptx_i32(e, 8 * threads));
  sptx_shared_store(e, sptx_i64(e, 0), sptx_add(e, sptx_shared_base(e), loop.index), 8);
  sptx_loop_end(e, &loop);
  sptx_fence_proxy_async(e);
}

static void initialise(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  int warps = 4 * f->spec->consumers;
  if (f->spec->packed)
    clear_keys(f);
  sptx_value thread = sptx_thread_index(e);
  sptx_if one = sptx_if_begin(e, sptx_icmp(e, LLVMIntEQ, thread, sptx_i32(e, 0)));
  sptx_ring_init(e, &f->q, 1, warps);
  sptx_ring_init(e, &f->k, 1, warps);
  sptx_ring_init(e, &f->v, 1, warps);
  sptx_ring_init(e, &f->o, 1, f->spec->consumers);
  sptx_mbarrier_init_fence(e);
  for (int i = 0; i < MAP_COUNT; i++)
    sptx_tensor_prefetch(e, e->maps[i]);
  sptx_if_end(e, &one);
  sptx_barrier(e);
}

enum sptx_code sptx_hopper_forward_emit(struct sptx_gpu_emitter *emitter, const char *symbol,
                                        const void *spec, sptx_error *error) {
  (void)error;
  sptx_forward f = {.e = emitter, .spec = spec};
  f.layout = sptx_hopper_forward_layout_of(f.spec);
  sptx_kernel_begin(emitter, symbol, sizeof(sptx_hopper_params), MAP_COUNT, 128 * (f.spec->consumers + 1),
                    f.spec->ctas);
  sptx_forward_open_rings(&f, false);
  initialise(&f);
  sptx_value group = sptx_broadcast(emitter, sptx_shri(emitter, sptx_thread_index(emitter), 7));
  sptx_if producer = sptx_if_begin(emitter, sptx_icmp(emitter, LLVMIntEQ, group, sptx_i32(emitter, 0)));
  sptx_forward_produce(&f);
  sptx_if_else(emitter, &producer);
  sptx_forward_consume(&f);
  sptx_if_end(emitter, &producer);
  sptx_kernel_end(emitter);
  return SPTX_CODE_OK;
}
