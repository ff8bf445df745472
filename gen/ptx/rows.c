/* Row kernels of the GPU; see rows.h. Lane i of a row handles elements 8i..8i+7; a warp holds as many rows as
 * fit its 32 lanes. */
#include "gen/ptx/rows.h"
#include "gen/ptx/emitter.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROW_WARPS 8

enum rows_role { ROWS_EMPTY, ROWS_DELTA, ROWS_CONVERT };

typedef struct rows_spec {
  enum rows_role role;
  enum sptx_element element;
  int head_dim;
  enum sptx_gpu_tensor gradient;
  bool aligned; /* rows start at multiples of 8 elements */
} rows_spec;

typedef struct rows_params {
  int64_t stride[3]; /* bytes: batch, head, position of the tensor that is written, or of O and dO */
  int64_t head_table, scratch;
  int32_t heads_here, heads, n, rows; /* rows = batch * heads_here * n */
} rows_params;

typedef struct rows_kernel {
  sptx_gpu_emitter *e;
  const rows_spec *spec;
  int element_bytes;
  sptx_value lane, flat; /* flat: (batch * heads + head) * n + position */
  sptx_value row;        /* byte offset of the row in the strided tensor */
  sptx_value exists;     /* false in lanes past the last row, which repeat it and write nothing */
} rows_kernel;

#define ROWS_PARAM(k, type, field) sptx_load_param((k)->e, (k)->e->type, offsetof(rows_params, field))

static void begin_row(rows_kernel *k, sptx_value index) {
  sptx_gpu_emitter *e = k->e;
  sptx_value n = ROWS_PARAM(k, i32, n), here = ROWS_PARAM(k, i32, heads_here);
  sptx_value rest = sptx_udiv(e, index, n), place = sptx_urem(e, index, n);
  sptx_value table = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, constants)),
                              ROWS_PARAM(k, i64, head_table));
  sptx_value batch = sptx_udiv(e, rest, here);
  sptx_value entry = sptx_add(e, table, sptx_muli(e, sptx_zext64(e, sptx_urem(e, rest, here)), 4));
  sptx_value head = sptx_load_constant(e, e->i32, entry, 4);
  sptx_value plane = sptx_add(e, sptx_mul(e, batch, ROWS_PARAM(k, i32, heads)), head);
  k->flat = sptx_add(e, sptx_mul(e, sptx_zext64(e, plane), sptx_zext64(e, n)), sptx_zext64(e, place));
  const sptx_value digit[3] = {batch, head, place};
  k->row = sptx_i64(e, 0);
  for (int i = 0; i < 3; i++) {
    sptx_value stride = sptx_load_param(e, e->i64, offsetof(rows_params, stride) + 8 * (size_t)i);
    k->row = sptx_add(e, k->row, sptx_mul(e, sptx_zext64(e, digit[i]), stride));
  }
}

static LLVMTypeRef element_type(const rows_kernel *k) {
  return k->spec->element == SPTX_ELEMENT_F32   ? k->e->f32
         : k->spec->element == SPTX_ELEMENT_F16 ? k->e->f16
                                                : k->e->bf16;
}

/* Eight neighbouring elements of a type, as one or two vectors where rows are aligned. */
static void load_eight(rows_kernel *k, LLVMTypeRef type, bool aligned, sptx_value address,
                       sptx_value out[8]) {
  sptx_gpu_emitter *e = k->e;
  int bytes = type == e->f32 ? 4 : 2, width = aligned ? 16 / bytes : 1;
  for (int i = 0; i < 8; i += width) {
    LLVMTypeRef vector = LLVMVectorType(type, (unsigned)width);
    sptx_value loaded = sptx_load_global(e, vector, sptx_addi(e, address, i * bytes), width * bytes);
    for (int j = 0; j < width; j++) {
      sptx_value value = LLVMBuildExtractElement(e->builder, loaded, sptx_i32(e, j), "");
      out[i + j] = sptx_widen(e, value);
    }
  }
}

static void store_eight(rows_kernel *k, sptx_value address, const sptx_value values[8]) {
  sptx_gpu_emitter *e = k->e;
  LLVMTypeRef type = element_type(k);
  int bytes = k->element_bytes, width = k->spec->aligned ? 16 / bytes : 1;
  for (int i = 0; i < 8; i += width) {
    sptx_value vector = LLVMGetUndef(LLVMVectorType(type, (unsigned)width));
    for (int j = 0; j < width; j++) {
      sptx_value value = values[i + j];
      if (type != e->f32)
        value = LLVMBuildFPTrunc(e->builder, value, type, "");
      vector = LLVMBuildInsertElement(e->builder, vector, value, sptx_i32(e, j), "");
    }
    sptx_store_global(e, vector, sptx_addi(e, address, i * bytes), width * bytes);
  }
}

/* Lanes of a row: the least power of 2 that holds head_dim / 8. */
static int lanes_of(const rows_spec *spec) {
  int lanes = 1;
  while (lanes * 8 < spec->head_dim)
    lanes *= 2;
  return lanes;
}

static void empty_row(rows_kernel *k) {
  sptx_gpu_emitter *e = k->e;
  sptx_value o = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, o)), k->row);
  o = sptx_add(e, o, sptx_zext64(e, sptx_muli(e, k->lane, 8 * k->element_bytes)));
  sptx_value zeros[8];
  for (int i = 0; i < 8; i++)
    zeros[i] = sptx_f32(e, 0.0);
  store_eight(k, o, zeros);
  sptx_value lse =
      sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, lse)), sptx_muli(e, k->flat, 4));
  sptx_store_global(e, sptx_f32(e, -INFINITY), lse, 4);
}

static sptx_value delta_part(rows_kernel *k) {
  sptx_gpu_emitter *e = k->e;
  sptx_value place = sptx_add(e, k->row, sptx_zext64(e, sptx_muli(e, k->lane, 8 * k->element_bytes)));
  sptx_value o = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, o)), place);
  sptx_value d_o = sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, d_o)), place);
  sptx_value sum = sptx_f32(e, 0.0), a[8], b[8];
  load_eight(k, element_type(k), k->spec->aligned, o, a);
  load_eight(k, element_type(k), k->spec->aligned, d_o, b);
  for (int i = 0; i < 8; i++)
    sum = sptx_fma(e, a[i], b[i], sum);
  return sum;
}

static void convert_row(rows_kernel *k) {
  static const size_t fields[] = {[SPTX_GPU_D_Q] = offsetof(sptx_gpu_args, d_q),
                                  [SPTX_GPU_D_K] = offsetof(sptx_gpu_args, d_k),
                                  [SPTX_GPU_D_V] = offsetof(sptx_gpu_args, d_v)};
  sptx_gpu_emitter *e = k->e;
  sptx_value to = sptx_add(e, sptx_load_arg(e, e->i64, fields[k->spec->gradient]), k->row);
  to = sptx_add(e, to, sptx_zext64(e, sptx_muli(e, k->lane, 8 * k->element_bytes)));
  sptx_value from =
      sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, workspace)), ROWS_PARAM(k, i64, scratch));
  from = sptx_add(e, from, sptx_muli(e, k->flat, 4 * k->spec->head_dim));
  from = sptx_add(e, from, sptx_zext64(e, sptx_muli(e, k->lane, 32)));
  sptx_value values[8];
  load_eight(k, e->f32, true, from, values);
  store_eight(k, to, values);
}

static void write_delta(rows_kernel *k, sptx_value part) {
  sptx_gpu_emitter *e = k->e;
  for (int mask = lanes_of(k->spec) / 2; mask > 0; mask /= 2)
    part = sptx_add(e, part, sptx_shuffle_xor(e, part, mask));
  sptx_value leads = sptx_icmp(e, LLVMIntEQ, k->lane, sptx_i32(e, 0));
  sptx_if first = sptx_if_begin(e, sptx_and(e, leads, k->exists));
  sptx_value at =
      sptx_add(e, sptx_load_arg(e, e->i64, offsetof(sptx_gpu_args, workspace)), ROWS_PARAM(k, i64, scratch));
  sptx_store_global(e, part, sptx_add(e, at, sptx_muli(e, k->flat, 4)), 4);
  sptx_if_end(e, &first);
}

static enum sptx_code emit_rows(struct sptx_gpu_emitter *e, const char *symbol, const void *spec,
                                sptx_error *error) {
  (void)error;
  rows_kernel k = {.e = e, .spec = spec};
  k.element_bytes = k.spec->element == SPTX_ELEMENT_F32 ? 4 : 2;
  sptx_kernel_begin(e, symbol, sizeof(rows_params), 0, ROW_WARPS * 32, 0);
  sptx_value thread = sptx_thread_index(e);
  int lanes = lanes_of(k.spec), rows = ROW_WARPS * 32 / lanes;
  k.lane = sptx_andi(e, thread, lanes - 1);
  sptx_value index =
      sptx_add(e, sptx_muli(e, sptx_block_index(e), rows), sptx_udiv(e, thread, sptx_i32(e, lanes)));
  sptx_value count = ROWS_PARAM(&k, i32, rows);
  k.exists = sptx_icmp(e, LLVMIntULT, index, count);
  begin_row(&k, sptx_select(e, k.exists, index, sptx_addi(e, count, -1)));
  sptx_value sum = sptx_slot(e, e->f32, sptx_f32(e, 0.0));
  sptx_value used = sptx_icmp(e, LLVMIntULT, k.lane, sptx_i32(e, k.spec->head_dim / 8));
  sptx_if active = sptx_if_begin(e, sptx_and(e, used, k.exists));
  if (k.spec->role == ROWS_EMPTY)
    empty_row(&k);
  else if (k.spec->role == ROWS_CONVERT)
    convert_row(&k);
  else
    sptx_set_slot(e, sum, delta_part(&k));
  sptx_if_end(e, &active);
  if (k.spec->role == ROWS_DELTA)
    write_delta(&k, sptx_get(e, sum));
  sptx_kernel_end(e);
  return SPTX_CODE_OK;
}

static enum sptx_code add_rows(sptx_gpu_planner *planner, rows_spec spec, const sptx_strides *strides,
                               int64_t heads, int64_t n, const int32_t *list, int64_t count, size_t scratch,
                               sptx_error *error) {
  static const char *const elements[] = {"f32", "f16", "bf16"};
  static const char *const roles[] = {"empty", "delta", "convert"};
  static const char *const gradients[] = {
      [SPTX_GPU_Q] = "", [SPTX_GPU_D_Q] = "_d_q", [SPTX_GPU_D_K] = "_d_k", [SPTX_GPU_D_V] = "_d_v"};
  int64_t bytes = spec.element == SPTX_ELEMENT_F32 ? 4 : 2, rows;
  if (__builtin_mul_overflow(planner->problem->batch * count, n, &rows) || rows > INT32_MAX - 32 * ROW_WARPS)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED, "more than 2^31 rows for one GPU launch: split the batch");
  if (rows == 0)
    return SPTX_CODE_OK;
  spec.aligned = strides->batch % 8 == 0 && strides->head % 8 == 0 && strides->position % 8 == 0;
  rows_params params = {.stride = {strides->batch * bytes, strides->head * bytes, strides->position * bytes},
                        .scratch = (int64_t)scratch,
                        .heads_here = (int32_t)count,
                        .heads = (int32_t)heads,
                        .n = (int32_t)n,
                        .rows = (int32_t)rows};
  size_t offset;
  SPTX_TRY(sptx_gpu_add_constants(planner, list, (size_t)count * 4, &offset, error));
  params.head_table = (int64_t)offset;
  char symbol[128];
  int kernel;
  sptx_gpu_launch *launch;
  snprintf(symbol, sizeof symbol, "sptx_%s_rows_%s%s_d%d%s", elements[spec.element], roles[spec.role],
           gradients[spec.gradient], spec.head_dim, spec.aligned ? "_aligned" : "");
  SPTX_TRY(sptx_gpu_add_kernel(planner, symbol, emit_rows, &spec, sizeof spec, &kernel, error));
  SPTX_TRY(sptx_gpu_add_launch(planner, kernel, &params, sizeof params, &launch, error));
  int64_t rows_of_cta = ROW_WARPS * 32 / lanes_of(&spec);
  launch->grid[0] = (uint32_t)((rows + rows_of_cta - 1) / rows_of_cta);
  launch->grid[1] = launch->grid[2] = 1;
  launch->block = ROW_WARPS * 32;
  return SPTX_CODE_OK;
}

static rows_spec spec_of(const sptx_gpu_planner *planner, enum rows_role role) {
  rows_spec spec;
  memset(&spec, 0, sizeof spec);
  spec.role = role;
  spec.element = planner->problem->element;
  spec.head_dim = planner->problem->head_dim;
  return spec;
}

enum sptx_code sptx_rows_add_empty(sptx_gpu_planner *planner, const sptx_gpu_job *job, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  rows_spec spec = spec_of(planner, ROWS_EMPTY);
  return add_rows(planner, spec, &problem->o, problem->heads, problem->n_q, job->heads, job->head_count, 0,
                  error);
}

enum sptx_code sptx_rows_add_delta(sptx_gpu_planner *planner, sptx_gpu_job *job, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  rows_spec spec = spec_of(planner, ROWS_DELTA);
  size_t bytes = (size_t)problem->batch * (size_t)problem->heads * (size_t)problem->n_q * 4;
  SPTX_TRY(sptx_gpu_share_scratch(planner, SPTX_SCRATCH_DELTA, bytes, &job->delta_offset, error));
  return add_rows(planner, spec, &problem->o, problem->heads, problem->n_q, job->heads, job->head_count,
                  job->delta_offset, error);
}

enum sptx_code sptx_rows_add_convert(sptx_gpu_planner *planner, enum sptx_gpu_tensor gradient, size_t offset,
                                     const int32_t *heads, int64_t head_count, sptx_error *error) {
  const sptx_problem *problem = planner->problem;
  rows_spec spec = spec_of(planner, ROWS_CONVERT);
  spec.gradient = gradient;
  bool query = gradient == SPTX_GPU_D_Q;
  const sptx_strides *strides = query ? &problem->q : gradient == SPTX_GPU_D_K ? &problem->k : &problem->v;
  return add_rows(planner, spec, strides, query ? problem->heads : problem->kv_heads,
                  query ? problem->n_q : problem->n_k, heads, head_count, offset, error);
}
