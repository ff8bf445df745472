/* Matrix products of the portable kernels: bf16 and f16 by mma.m16n8k16, float32 by TF32 products of m16n8k8
 * (one, or three that recover float32 accuracy: hi*hi + hi*lo + lo*hi), or by plain FFMA.
 *
 * A row of a tile is an odd number of 16-byte units long, so that eight rows at one unit fall into eight
 * different bank groups: ldmatrix is free of conflicts without a swizzle. */
#include "gen/ptx/portable.h"
#include <string.h>

static bool is_f32(const sptx_portable *p) {
  return p->spec->element == SPTX_ELEMENT_F32;
}

static bool is_ffma(const sptx_portable *p) {
  return is_f32(p) && p->spec->f32_mode == SPTX_F32_FFMA;
}

static bool is_split(const sptx_portable *p) {
  return is_f32(p) && p->spec->f32_mode == SPTX_F32_TF32X3;
}

static void set_zero(sptx_portable *p, sptx_accumulator *acc, int blocks) {
  acc->blocks = blocks;
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int n = 0; n < blocks; n++)
      for (int i = 0; i < 4; i++)
        acc->at[m][n][i] = sptx_f32(p->e, 0.0);
}

static void load_matrix(sptx_portable *p, sptx_value address, bool transpose, sptx_value out[4]) {
  sptx_value all = sptx_asm(p->e, sptx_struct_of(p->e, p->e->i32, 4),
                            transpose ? "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];"
                                      : "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];",
                            "=r,=r,=r,=r,r,~{memory}", &address, 1, false);
  for (int i = 0; i < 4; i++)
    out[i] = sptx_extract(p->e, all, i);
}

/* x = hi + lo, hi with the 10 mantissa bits of TF32: x - hi is exact. */
static void split(sptx_portable *p, sptx_value x, sptx_value *hi, sptx_value *lo) {
  *hi = x;
  if (!is_split(p))
    return;
  *hi = sptx_andi(p->e, x, (int32_t)0xffffe000);
  sptx_value rest = sptx_sub(p->e, sptx_bits(p->e, x, p->e->f32), sptx_bits(p->e, *hi, p->e->f32));
  *lo = sptx_bits(p->e, rest, p->e->i32);
}

static void split_all(sptx_portable *p, sptx_fragment *fragment, int count) {
  for (int i = 0; i < count; i++)
    split(p, fragment->hi[i], &fragment->hi[i], &fragment->lo[i]);
}

static void multiply_one(sptx_portable *p, sptx_value acc[4], const sptx_value *a, const sptx_value *b) {
  static const char *const text[] = {
      [SPTX_ELEMENT_F32] = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0,$1,$2,$3}, "
                           "{$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
      [SPTX_ELEMENT_F16] = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {$0,$1,$2,$3}, "
                           "{$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
      [SPTX_ELEMENT_BF16] = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {$0,$1,$2,$3}, "
                            "{$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
  };
  sptx_value operands[10] = {a[0], a[1], a[2], a[3], b[0], b[1], acc[0], acc[1], acc[2], acc[3]};
  sptx_value all = sptx_asm(p->e, sptx_struct_of(p->e, p->e->f32, 4), text[p->spec->element],
                            "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", operands, 10, true);
  for (int i = 0; i < 4; i++)
    acc[i] = sptx_extract(p->e, all, i);
}

static void multiply(sptx_portable *p, sptx_value acc[4], const sptx_fragment *a, const sptx_fragment *b,
                     int first) {
  multiply_one(p, acc, a->hi, b->hi + first);
  if (is_split(p)) {
    multiply_one(p, acc, a->hi, b->lo + first);
    multiply_one(p, acc, a->lo, b->hi + first);
  }
}

/* Steps of 32 bytes along head_dim: 16 elements of 2 bytes or 8 of 4. */
static int step_count(const sptx_portable *p) {
  return p->padded_dim * p->element_bytes / 32;
}

/* This lane's address in a row operand: matrices are (rows 0-7, 8-15) x (units 0, 1) of the warp's tile. */
static sptx_value row_operand_address(sptx_portable *p, sptx_value tile) {
  sptx_gpu_emitter *e = p->e;
  sptx_value row = sptx_add(e, sptx_muli(e, p->warp, 16 * p->spec->row_blocks), sptx_andi(e, p->lane, 15));
  sptx_value unit = sptx_shri(e, p->lane, 4);
  return sptx_add(e, tile, sptx_add(e, sptx_muli(e, row, p->row_bytes), sptx_muli(e, unit, 16)));
}

static void load_rows(sptx_portable *p, sptx_value address, int block, int step, sptx_fragment *fragment) {
  load_matrix(p, sptx_addi(p->e, address, block * 16 * p->row_bytes + step * 32), false, fragment->hi);
  split_all(p, fragment, 4);
}

void sptx_hold_rows(sptx_portable *p, sptx_value tile, sptx_held_rows *held) {
  sptx_value address = row_operand_address(p, tile);
  for (int m = 0; m < p->spec->row_blocks; m++)
    for (int s = 0; s < step_count(p); s++)
      load_rows(p, address, m, s, &held->at[m][s]);
}

/* Plain float32: 16 bytes of each row and column at a time, four products for each pair. */
static void product_nt_ffma(sptx_portable *p, sptx_accumulator *acc, sptx_value rows, sptx_value columns) {
  sptx_gpu_emitter *e = p->e;
  LLVMTypeRef four = sptx_struct_of(e, e->f32, 4);
  static const char text[] = "ld.shared.v4.f32 {$0,$1,$2,$3}, [$4];";
  static const char constraints[] = "=f,=f,=f,=f,r,~{memory}";
  sptx_value row = sptx_add(e, sptx_muli(e, p->warp, 16 * p->spec->row_blocks), p->group);
  sptx_value a_at = sptx_add(e, rows, sptx_muli(e, row, p->row_bytes));
  sptx_value b_at = sptx_add(e, columns, sptx_muli(e, p->quad, 2 * p->row_bytes));
  for (int unit = 0; unit < p->padded_dim / 4; unit++) {
    sptx_value a[2][2];
    for (int m = 0; m < p->spec->row_blocks; m++)
      for (int h = 0; h < 2; h++) {
        sptx_value at = sptx_addi(e, a_at, (m * 16 + h * 8) * p->row_bytes + unit * 16);
        a[m][h] = sptx_asm(e, four, text, constraints, &at, 1, false);
      }
    for (int n = 0; n < acc->blocks; n++)
      for (int c = 0; c < 2; c++) {
        sptx_value at = sptx_addi(e, b_at, (n * 8 + c) * p->row_bytes + unit * 16);
        sptx_value b = sptx_asm(e, four, text, constraints, &at, 1, false);
        for (int m = 0; m < p->spec->row_blocks; m++)
          for (int h = 0; h < 2; h++)
            for (int i = 0; i < 4; i++)
              acc->at[m][n][2 * h + c] =
                  sptx_fma(e, sptx_extract(e, a[m][h], i), sptx_extract(e, b, i), acc->at[m][n][2 * h + c]);
      }
  }
}

void sptx_product_nt(sptx_portable *p, sptx_accumulator *acc, sptx_value rows, const sptx_held_rows *held,
                     sptx_value columns) {
  sptx_gpu_emitter *e = p->e;
  set_zero(p, acc, p->spec->columns / 8);
  if (is_ffma(p)) {
    product_nt_ffma(p, acc, rows, columns);
    return;
  }
  sptx_value row_address = held ? NULL : row_operand_address(p, rows);
  /* Matrices: (columns 0-7, units 0 and 1), (columns 8-15, units 0 and 1). */
  sptx_value column = sptx_add(e, sptx_andi(e, p->lane, 7), sptx_muli(e, sptx_shri(e, p->lane, 4), 8));
  sptx_value unit = sptx_andi(e, sptx_shri(e, p->lane, 3), 1);
  sptx_value address =
      sptx_add(e, columns, sptx_add(e, sptx_muli(e, column, p->row_bytes), sptx_muli(e, unit, 16)));
  for (int s = 0; s < step_count(p); s++) {
    sptx_fragment a[2];
    for (int m = 0; m < p->spec->row_blocks; m++) {
      if (held)
        a[m] = held->at[m][s];
      else
        load_rows(p, row_address, m, s, &a[m]);
    }
    for (int n = 0; n < acc->blocks; n += 2) {
      sptx_fragment b;
      load_matrix(p, sptx_addi(e, address, n * 8 * p->row_bytes + s * 32), false, b.hi);
      split_all(p, &b, 4);
      for (int m = 0; m < p->spec->row_blocks; m++)
        for (int i = 0; i < 2; i++)
          multiply(p, acc->at[m][n + i], &a[m], &b, 2 * i);
    }
  }
}

/* 16-bit: 16 rows of the column tile at a time, two blocks of 8 columns of head_dim from each ldmatrix. */
static void product_nn_half(sptx_portable *p, sptx_accumulator *acc, const sptx_accumulator *weights,
                            sptx_value columns) {
  sptx_gpu_emitter *e = p->e;
  sptx_value row = sptx_andi(e, p->lane, 15), unit = sptx_shri(e, p->lane, 4);
  sptx_value address =
      sptx_add(e, columns, sptx_add(e, sptx_muli(e, row, p->row_bytes), sptx_muli(e, unit, 16)));
  for (int k = 0; k < weights->blocks / 2; k++) {
    sptx_fragment a[2];
    for (int m = 0; m < p->spec->row_blocks; m++)
      for (int i = 0; i < 4; i++) {
        const sptx_value *from = weights->at[m][2 * k + i / 2] + 2 * (i % 2);
        a[m].hi[i] = sptx_portable_pack(p, from[0], from[1]);
      }
    for (int n = 0; n < acc->blocks; n += 2) {
      sptx_fragment b;
      load_matrix(p, sptx_addi(e, address, k * 16 * p->row_bytes + n * 16), true, b.hi);
      for (int m = 0; m < p->spec->row_blocks; m++)
        for (int i = 0; i < 2 && n + i < acc->blocks; i++)
          multiply_one(p, acc->at[m][n + i], a[m].hi, b.hi + 2 * i);
    }
  }
}

/* TF32: the eight products of a step may be summed in any order, so weight column 2t plays k = t and 2t + 1
 * plays k = t + 4: the accumulator is the operand, without a shuffle. */
static void product_nn_tf32(sptx_portable *p, sptx_accumulator *acc, const sptx_accumulator *weights,
                            sptx_value columns) {
  sptx_gpu_emitter *e = p->e;
  sptx_value address =
      sptx_add(e, columns, sptx_add(e, sptx_muli(e, p->quad, 2 * p->row_bytes), sptx_muli(e, p->group, 4)));
  static const int order[4] = {0, 2, 1, 3};
  for (int k = 0; k < weights->blocks; k++) {
    sptx_fragment a[2];
    for (int m = 0; m < p->spec->row_blocks; m++) {
      for (int i = 0; i < 4; i++)
        a[m].hi[i] = sptx_bits(e, weights->at[m][k][order[i]], e->i32);
      split_all(p, &a[m], 4);
    }
    for (int n = 0; n < acc->blocks; n++) {
      sptx_fragment b;
      for (int i = 0; i < 2; i++) {
        sptx_value at = sptx_addi(e, address, (k * 8 + i) * p->row_bytes + n * 32);
        b.hi[i] = sptx_bits(e, sptx_load_shared_f32(p, at), e->i32);
      }
      split_all(p, &b, 2);
      for (int m = 0; m < p->spec->row_blocks; m++)
        multiply(p, acc->at[m][n], &a[m], &b, 0);
    }
  }
}

/* Plain float32: the weight of a column is handed round its four lanes. */
static void product_nn_ffma(sptx_portable *p, sptx_accumulator *acc, const sptx_accumulator *weights,
                            sptx_value columns) {
  sptx_gpu_emitter *e = p->e;
  LLVMTypeRef two = sptx_struct_of(e, e->f32, 2);
  sptx_value base = sptx_add(e, columns, sptx_muli(e, p->quad, 8));
  for (int k = 0; k < weights->blocks * 8; k++) {
    sptx_value w[2][2];
    sptx_value source = sptx_addi(e, sptx_andi(e, p->lane, 28), k % 8 / 2);
    for (int m = 0; m < p->spec->row_blocks; m++)
      for (int h = 0; h < 2; h++) {
        sptx_value operands[4] = {sptx_i32(e, -1), weights->at[m][k / 8][2 * h + k % 2], source,
                                  sptx_i32(e, 31)};
        w[m][h] = sptx_intrinsic(e, "llvm.nvvm.shfl.sync.idx.f32", NULL, 0, operands, 4);
      }
    for (int n = 0; n < acc->blocks; n++) {
      sptx_value at = sptx_addi(e, base, k * p->row_bytes + n * 32);
      sptx_value v = sptx_asm(e, two, "ld.shared.v2.f32 {$0,$1}, [$2];", "=f,=f,r,~{memory}", &at, 1, false);
      for (int m = 0; m < p->spec->row_blocks; m++)
        for (int i = 0; i < 4; i++)
          acc->at[m][n][i] = sptx_fma(e, w[m][i / 2], sptx_extract(e, v, i % 2), acc->at[m][n][i]);
    }
  }
}

void sptx_product_nn(sptx_portable *p, sptx_accumulator *acc, const sptx_accumulator *weights,
                     sptx_value columns) {
  if (is_ffma(p))
    product_nn_ffma(p, acc, weights, columns);
  else if (is_f32(p))
    product_nn_tf32(p, acc, weights, columns);
  else
    product_nn_half(p, acc, weights, columns);
}
