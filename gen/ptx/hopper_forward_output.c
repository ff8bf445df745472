/* Results of the Hopper forward kernel: the log-sum-exp and O of finished rows, merged with those of earlier
 * pieces, from registers through shared memory to the tensors. */
#include "gen/ptx/hopper_forward_kernel.h"
#include <math.h>

static sptx_value lse_address(sptx_forward *f, const sptx_hopper_row *row) {
  sptx_value offset = sptx_muli(f->e, sptx_hopper_row_index(f->e, &f->rows, row), 4);
  return sptx_add(f->e, sptx_load_arg(f->e, f->e->i64, offsetof(sptx_gpu_args, lse)), offset);
}

/* The log-sum-exp of each row, in base 2, and the factor that normalises its output. */
static void finish_row(sptx_forward *f, int half, sptx_value *lse, sptx_value *factor) {
  sptx_gpu_emitter *e = f->e;
  sptx_value sum = sptx_forward_across_quad(e, sptx_get(e, f->row_sum[half]), false);
  sptx_value empty = sptx_fcmp(e, LLVMRealOEQ, sum, sptx_f32(e, 0));
  sptx_value maximum = sptx_mul(e, sptx_get(e, f->row_max[half]), f->scale_log2);
  sptx_value value = sptx_add(e, maximum, sptx_log2(e, sum));
  *lse = sptx_select(e, empty, sptx_f32(e, -INFINITY), value);
  *factor = sptx_select(e, empty, sptx_f32(e, 0), sptx_reciprocal(e, sum));
}

/* Weights of this piece and of the earlier ones: exp(lse - both), where both = log(exp(lse) + exp(before)).
 */
static sptx_value merge_row(sptx_forward *f, sptx_value before, sptx_value *lse, sptx_value *factor) {
  sptx_gpu_emitter *e = f->e;
  sptx_value maximum = sptx_max(e, before, *lse);
  sptx_value none = sptx_fcmp(e, LLVMRealOEQ, maximum, sptx_f32(e, -INFINITY));
  sptx_value offset = sptx_select(e, none, sptx_f32(e, 0), maximum);
  sptx_value mine = sptx_exp2(e, sptx_sub(e, *lse, offset));
  sptx_value theirs = sptx_exp2(e, sptx_sub(e, before, offset));
  sptx_value sum = sptx_add(e, mine, theirs);
  sptx_value inverse = sptx_select(e, none, sptx_f32(e, 0), sptx_reciprocal(e, sum));
  *lse = sptx_select(e, none, maximum, sptx_add(e, maximum, sptx_log2(e, sum)));
  *factor = sptx_mul(e, *factor, sptx_mul(e, mine, inverse));
  return sptx_mul(e, theirs, inverse);
}

static void store_lse(sptx_forward *f, sptx_value address, sptx_value exists, sptx_value lse) {
  sptx_gpu_emitter *e = f->e;
  sptx_value mine = sptx_icmp(e, LLVMIntEQ, f->at.quad, sptx_i32(e, 0));
  sptx_if writes = sptx_if_begin(e, sptx_and(e, exists, mine));
  sptx_store_global(e, sptx_mul(e, lse, sptx_f32(e, M_LN2)), address, 4);
  sptx_if_end(e, &writes);
}

static void store_slab(sptx_forward *f, sptx_value place, int slab, sptx_value *o, const sptx_value factor[2],
                       const sptx_value before[2]) {
  sptx_gpu_emitter *e = f->e;
  int count = 8 * slab + 8 <= f->spec->head_dim / 2 ? 4 : 2;
  sptx_value address = sptx_fragment_slab(e, place, slab, 8192), packed[4];
  if (f->spec->merge)
    sptx_ldmatrix(e, address, packed, count);
  for (int i = 0; i < count; i++) {
    sptx_value pair[2], *x = &o[8 * slab + 2 * i];
    for (int k = 0; k < 2; k++)
      x[k] = sptx_mul(e, x[k], factor[i % 2]);
    if (f->spec->merge) {
      sptx_unpack(e, f->spec->element, packed[i], pair);
      for (int k = 0; k < 2; k++)
        x[k] = sptx_fma(e, pair[k], before[i % 2], x[k]);
    }
    packed[i] = sptx_pack(e, f->spec->element, x[0], x[1]);
  }
  sptx_stmatrix(e, address, packed, count, false);
}

/* O of this warpgroup through its shared region into the tensor. */
static void store_output(sptx_forward *f, sptx_value *o, const sptx_value factor[2],
                         const sptx_value before[2]) {
  sptx_gpu_emitter *e = f->e;
  sptx_value region = sptx_add(e, f->o.base, sptx_muli(e, f->consumer, f->layout.group_bytes));
  sptx_value group_barrier = sptx_addi(e, f->consumer, BARRIER_GROUP);
  sptx_value leads = sptx_icmp(e, LLVMIntNE, f->at.leader, sptx_i32(e, 0));
  if (f->spec->merge) {
    sptx_ring_wait_full(e, &f->o);
    sptx_ring_advance(e, &f->o);
  } else {
    sptx_if one = sptx_if_begin(e, leads);
    sptx_bulk_wait_read(e);
    sptx_if_end(e, &one);
    sptx_named_sync(e, group_barrier, 128);
  }
  sptx_value place = sptx_fragment_address(e, &f->at, region);
  for (int slab = 0; slab < (f->spec->head_dim + 15) / 16; slab++)
    store_slab(f, place, slab, o, factor, before);
  sptx_fence_proxy_async(e);
  sptx_named_sync(e, group_barrier, 128);
  sptx_if one = sptx_if_begin(e, leads);
  for (int chunk = 0; chunk < f->layout.chunks; chunk++) {
    sptx_value coordinates[5];
    sptx_hopper_place(e, &f->rows, f->consumer, f->rows.item.head, sptx_i32(e, 64 * chunk), coordinates);
    sptx_tensor_store(e, e->maps[MAP_O], coordinates, sptx_addi(e, region, chunk * 8192));
  }
  sptx_bulk_commit(e);
  if (f->spec->merge) {
    sptx_bulk_wait_read(e);
    sptx_mbarrier_arrive_if(e, f->o.empty, sptx_i32(e, 1));
  }
  sptx_if_end(e, &one);
}

sptx_forward_rows sptx_forward_find_rows(sptx_forward *f) {
  sptx_gpu_emitter *e = f->e;
  sptx_forward_rows rows = {{NULL}, {NULL}, {NULL}};
  for (int half = 0; half < 2; half++) {
    sptx_hopper_row row = sptx_forward_row_of(f, half);
    rows.lse[half] = lse_address(f, &row);
    rows.exists[half] = row.exists;
    if (f->spec->merge) {
      sptx_value first = sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, lse));
      rows.old[half] = sptx_load_global(e, e->f32, sptx_select(e, row.exists, rows.lse[half], first), 4);
    }
  }
  return rows;
}

void sptx_forward_write(sptx_forward *f, const sptx_forward_rows *rows, sptx_value *o) {
  sptx_gpu_emitter *e = f->e;
  sptx_value lse[2], factor[2], before[2] = {NULL, NULL};
  for (int half = 0; half < 2; half++) {
    finish_row(f, half, &lse[half], &factor[half]);
    if (f->spec->merge)
      before[half] =
          merge_row(f, sptx_mul(e, rows->old[half], sptx_f32(e, M_LOG2E)), &lse[half], &factor[half]);
    store_lse(f, rows->lse[half], rows->exists[half], lse[half]);
  }
  store_output(f, o, factor, before);
}
