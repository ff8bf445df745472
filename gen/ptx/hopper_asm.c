/* Hopper's own instructions as inline assembly; see hopper_asm.h. Every call is convergent and has side
 * effects, so that LLVM neither duplicates nor reorders it. */
#include "gen/ptx/hopper_asm.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct text {
  char data[8192];
  size_t length;
} text;

__attribute__((format(printf, 2, 3))) static void print(text *t, const char *format, ...) {
  va_list list;
  va_start(list, format);
  int length = vsnprintf(t->data + t->length, sizeof t->data - t->length, format, list);
  va_end(list);
  t->length += (size_t)length;
  assert(t->length < sizeof t->data);
}

/* "{$from, $from+1, ...}" */
static void print_list(text *t, int from, int count) {
  for (int i = 0; i < count; i++)
    print(t, "%s$%d", i ? ", " : "{", from + i);
  print(t, "}");
}

static void statement(sptx_gpu_emitter *e, const char *code, const char *constraints,
                      const sptx_value *operands, int count) {
  sptx_asm(e, e->void_type, code, constraints, operands, count, false);
}

/* Outputs, and, when accumulating, as many inputs tied to them. */
static void print_accumulators(text *constraints, int count, bool accumulate) {
  for (int i = 0; i < count; i++)
    print(constraints, "=f,");
  for (int i = 0; accumulate && i < count; i++)
    print(constraints, "%d,", i);
}

static void issue_wgmma(sptx_gpu_emitter *e, sptx_wgmma shape, bool accumulate, sptx_value *d,
                        const sptx_value *a, int a_count, sptx_value b) {
  int count = shape.n / 2, first = accumulate ? 2 * count : count;
  const char *type = shape.element == SPTX_ELEMENT_BF16 ? "bf16" : "f16";
  text code = {.length = 0}, constraints = {.length = 0};
  print(&code, "{ .reg .pred p; setp.ne.b32 p, %d, 0; wgmma.mma_async.sync.aligned.m64n%dk16.f32.%s.%s ",
        accumulate, shape.n, type, type);
  print_list(&code, 0, count);
  print_accumulators(&constraints, count, accumulate);
  if (a_count == 1) {
    print(&code, ", $%d, $%d, p, 1, 1, %d, %d; }", first, first + 1, shape.transpose_a, shape.transpose_b);
    print(&constraints, "l,l");
  } else {
    print(&code, ", ");
    print_list(&code, first, 4);
    print(&code, ", $%d, p, 1, 1, %d; }", first + 4, shape.transpose_b);
    print(&constraints, "r,r,r,r,l");
  }
  sptx_value operands[128 + 5];
  int used = 0;
  for (int i = 0; accumulate && i < count; i++)
    operands[used++] = d[i];
  for (int i = 0; i < a_count; i++)
    operands[used++] = a[i];
  operands[used++] = b;
  sptx_value result =
      sptx_asm(e, sptx_struct_of(e, e->f32, count), code.data, constraints.data, operands, used, false);
  for (int i = 0; i < count; i++)
    d[i] = sptx_extract(e, result, i);
}

void sptx_wgmma_shared(sptx_gpu_emitter *e, sptx_wgmma shape, bool accumulate, sptx_value *d,
                       sptx_value a_descriptor, sptx_value b_descriptor) {
  issue_wgmma(e, shape, accumulate, d, &a_descriptor, 1, b_descriptor);
}

void sptx_wgmma_registers(sptx_gpu_emitter *e, sptx_wgmma shape, bool accumulate, sptx_value *d,
                          const sptx_value a[4], sptx_value b_descriptor) {
  issue_wgmma(e, shape, accumulate, d, a, 4, b_descriptor);
}

void sptx_wgmma_fence(sptx_gpu_emitter *e) {
  statement(e, "wgmma.fence.sync.aligned;", "~{memory}", NULL, 0);
}

void sptx_wgmma_commit(sptx_gpu_emitter *e) {
  statement(e, "wgmma.commit_group.sync.aligned;", "~{memory}", NULL, 0);
}

void sptx_wgmma_wait(sptx_gpu_emitter *e, int pending, sptx_value *d, int count) {
  text code = {.length = 0}, constraints = {.length = 0};
  print(&code, "wgmma.wait_group.sync.aligned %d;", pending);
  print_accumulators(&constraints, count, true);
  print(&constraints, "~{memory}");
  sptx_value result =
      sptx_asm(e, sptx_struct_of(e, e->f32, count), code.data, constraints.data, d, count, false);
  for (int i = 0; i < count; i++)
    d[i] = sptx_extract(e, result, i);
}

/* Address >> 4 in bits 0-13, leading byte offset >> 4 in 16-29, stride byte offset >> 4 (8 rows: 1024 bytes)
 * in 32-45, 128-byte swizzle in 62-63 (PTX ISA, "Matrix descriptor"). */
static sptx_value descriptor(sptx_gpu_emitter *e, sptx_value address, int leading_bytes) {
  uint64_t constant = (1ull << 62) | (64ull << 32) | ((uint64_t)(leading_bytes >> 4) << 16);
  sptx_value units = sptx_zext64(e, sptx_shri(e, address, 4));
  return sptx_add(e, units, sptx_i64(e, (int64_t)constant));
}

sptx_value sptx_descriptor_k_major(sptx_gpu_emitter *e, sptx_value address) {
  return descriptor(e, address, 16);
}

sptx_value sptx_descriptor_mn_major(sptx_gpu_emitter *e, sptx_value address, int chunk_bytes) {
  return descriptor(e, address, chunk_bytes);
}

void sptx_mbarrier_init(sptx_gpu_emitter *e, sptx_value barrier, int count) {
  sptx_value operands[2] = {barrier, sptx_i32(e, count)};
  statement(e, "mbarrier.init.shared::cta.b64 [$0], $1;", "r,r,~{memory}", operands, 2);
}

void sptx_mbarrier_init_fence(sptx_gpu_emitter *e) {
  statement(e, "fence.mbarrier_init.release.cluster;", "~{memory}", NULL, 0);
}

void sptx_mbarrier_expect(sptx_gpu_emitter *e, sptx_value barrier, sptx_value bytes) {
  sptx_value operands[2] = {barrier, bytes};
  statement(e, "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r,~{memory}", operands, 2);
}

void sptx_mbarrier_arrive_if(sptx_gpu_emitter *e, sptx_value barrier, sptx_value condition) {
  sptx_value operands[2] = {barrier, condition};
  statement(e, "{ .reg .pred p; setp.ne.b32 p, $1, 0; @p mbarrier.arrive.shared::cta.b64 _, [$0]; }",
            "r,r,~{memory}", operands, 2);
}

void sptx_mbarrier_wait(sptx_gpu_emitter *e, sptx_value barrier, sptx_value parity) {
  sptx_value operands[2] = {barrier, parity};
  statement(e,
            "{ .reg .pred p; W${:uid}: mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1; "
            "@!p bra W${:uid}; }",
            "r,r,~{memory}", operands, 2);
}

void sptx_tensor_prefetch(sptx_gpu_emitter *e, sptx_value map) {
  statement(e, "prefetch.tensormap [$0];", "l,~{memory}", &map, 1);
}

void sptx_tensor_load(sptx_gpu_emitter *e, sptx_value shared, sptx_value map, const sptx_value coordinates[5],
                      sptx_value barrier) {
  sptx_value operands[8] = {shared, map, barrier};
  memcpy(operands + 3, coordinates, 5 * sizeof *coordinates);
  statement(e,
            "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
            "[$0], [$1, {$3, $4, $5, $6, $7}], [$2];",
            "r,l,r,r,r,r,r,r,~{memory}", operands, 8);
}

static void tensor_write(sptx_gpu_emitter *e, const char *code, sptx_value map,
                         const sptx_value coordinates[5], sptx_value shared) {
  sptx_value operands[7] = {map, shared};
  memcpy(operands + 2, coordinates, 5 * sizeof *coordinates);
  statement(e, code, "l,r,r,r,r,r,r,~{memory}", operands, 7);
}

void sptx_tensor_store(sptx_gpu_emitter *e, sptx_value map, const sptx_value coordinates[5],
                       sptx_value shared) {
  tensor_write(e,
               "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [$0, {$2, $3, $4, $5, $6}], [$1];",
               map, coordinates, shared);
}

void sptx_tensor_reduce_add(sptx_gpu_emitter *e, sptx_value map, const sptx_value coordinates[5],
                            sptx_value shared) {
  tensor_write(e,
               "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group "
               "[$0, {$2, $3, $4, $5, $6}], [$1];",
               map, coordinates, shared);
}

void sptx_bulk_commit(sptx_gpu_emitter *e) {
  statement(e, "cp.async.bulk.commit_group;", "~{memory}", NULL, 0);
}

void sptx_bulk_wait(sptx_gpu_emitter *e) {
  statement(e, "cp.async.bulk.wait_group 0;", "~{memory}", NULL, 0);
}

void sptx_bulk_wait_read(sptx_gpu_emitter *e) {
  statement(e, "cp.async.bulk.wait_group.read 0;", "~{memory}", NULL, 0);
}

void sptx_fence_proxy_async(sptx_gpu_emitter *e) {
  statement(e, "fence.proxy.async.shared::cta;", "~{memory}", NULL, 0);
}

void sptx_named_sync(sptx_gpu_emitter *e, sptx_value id, int threads) {
  sptx_value operands[2] = {id, sptx_i32(e, threads)};
  statement(e, "bar.sync $0, $1;", "r,n,~{memory}", operands, 2);
}

void sptx_named_arrive(sptx_gpu_emitter *e, sptx_value id, int threads) {
  sptx_value operands[2] = {id, sptx_i32(e, threads)};
  statement(e, "bar.arrive $0, $1;", "r,n,~{memory}", operands, 2);
}

void sptx_warp_sync(sptx_gpu_emitter *e) {
  sptx_value all = sptx_i32(e, -1);
  sptx_intrinsic(e, "llvm.nvvm.bar.warp.sync", NULL, 0, &all, 1);
}

void sptx_set_registers(sptx_gpu_emitter *e, int count, bool increase) {
  sptx_value operand = sptx_i32(e, count);
  sptx_intrinsic(
      e, increase ? "llvm.nvvm.setmaxnreg.inc.sync.aligned.u32" : "llvm.nvvm.setmaxnreg.dec.sync.aligned.u32",
      NULL, 0, &operand, 1);
}

sptx_value sptx_broadcast(sptx_gpu_emitter *e, sptx_value i32) {
  sptx_value operands[4] = {sptx_i32(e, -1), i32, sptx_i32(e, 0), sptx_i32(e, 31)};
  return sptx_intrinsic(e, "llvm.nvvm.shfl.sync.idx.i32", NULL, 0, operands, 4);
}

sptx_value sptx_pack(sptx_gpu_emitter *e, enum sptx_element element, sptx_value lo, sptx_value hi) {
  sptx_value operands[2] = {hi, lo};
  const char *name = element == SPTX_ELEMENT_BF16 ? "llvm.nvvm.ff2bf16x2.rn" : "llvm.nvvm.ff2f16x2.rn";
  return sptx_bits(e, sptx_intrinsic(e, name, NULL, 0, operands, 2), e->i32);
}

void sptx_unpack(sptx_gpu_emitter *e, enum sptx_element element, sptx_value packed, sptx_value out[2]) {
  if (element == SPTX_ELEMENT_BF16) {
    out[0] = sptx_bits(e, LLVMBuildShl(e->builder, packed, sptx_i32(e, 16), ""), e->f32);
    out[1] = sptx_bits(e, sptx_andi(e, packed, -65536), e->f32);
    return;
  }
  sptx_value pair = sptx_bits(e, packed, LLVMVectorType(e->f16, 2));
  for (int i = 0; i < 2; i++)
    out[i] =
        LLVMBuildFPExt(e->builder, LLVMBuildExtractElement(e->builder, pair, sptx_i32(e, i), ""), e->f32, "");
}

void sptx_stmatrix(sptx_gpu_emitter *e, sptx_value address, const sptx_value *values, int count,
                   bool transpose) {
  text code = {.length = 0};
  print(&code, "stmatrix.sync.aligned.m8n8.x%d%s.shared.b16 [$0], ", count, transpose ? ".trans" : "");
  print_list(&code, 1, count);
  print(&code, ";");
  sptx_value operands[5] = {address};
  memcpy(operands + 1, values, (size_t)count * sizeof *values);
  statement(e, code.data, count == 4 ? "r,r,r,r,r,~{memory}" : "r,r,r,~{memory}", operands, count + 1);
}

void sptx_ldmatrix(sptx_gpu_emitter *e, sptx_value address, sptx_value *values, int count) {
  text code = {.length = 0};
  print(&code, "ldmatrix.sync.aligned.m8n8.x%d.shared.b16 ", count);
  print_list(&code, 0, count);
  print(&code, ", [$%d];", count);
  const char *constraints = count == 4 ? "=r,=r,=r,=r,r,~{memory}" : "=r,=r,r,~{memory}";
  sptx_value result =
      sptx_asm(e, sptx_struct_of(e, e->i32, count), code.data, constraints, &address, 1, false);
  for (int i = 0; i < count; i++)
    values[i] = sptx_extract(e, result, i);
}

sptx_value sptx_shared_load(sptx_gpu_emitter *e, LLVMTypeRef type, sptx_value address, int align) {
  sptx_value place = LLVMBuildIntToPtr(e->builder, address, e->shared_pointer, "");
  sptx_value value = LLVMBuildLoad2(e->builder, type, place, "");
  LLVMSetAlignment(value, (unsigned)align);
  return value;
}

void sptx_shared_store(sptx_gpu_emitter *e, sptx_value value, sptx_value address, int align) {
  sptx_value place = LLVMBuildIntToPtr(e->builder, address, e->shared_pointer, "");
  LLVMSetAlignment(LLVMBuildStore(e->builder, value, place), (unsigned)align);
}
