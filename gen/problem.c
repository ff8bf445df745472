/* Validation of shapes and strides; see problem.h. All arithmetic is checked: sizes come from the caller. */
#include "gen/problem.h"

#include <inttypes.h>

static const char *const element_names[] = {"f32", "f16", "bf16"};
static const char *const pass_names[] = {"forward", "backward", "decode"};

int sptx_element_bytes(enum sptx_element element) {
  return element == SPTX_ELEMENT_F32 ? 4 : 2;
}

const char *sptx_element_name(enum sptx_element element) {
  return element_names[element];
}

const char *sptx_pass_name(enum sptx_pass pass) {
  return pass_names[pass];
}

sptx_strides sptx_contiguous_strides(int64_t heads, int64_t n, int64_t head_dim) {
  return (sptx_strides){.batch = heads * n * head_dim, .head = n * head_dim, .position = head_dim};
}

static enum sptx_code check_positive(const char *field, int64_t value, sptx_error *error) {
  if (value > 0)
    return SPTX_CODE_OK;
  return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s is %" PRId64 "; it must be at least 1", field,
                   value);
}

static enum sptx_code check_sizes(const sptx_problem *problem, sptx_error *error) {
  if ((unsigned)problem->element > SPTX_ELEMENT_BF16)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "dtype is %d; it must be 0 (f32), 1 (f16) or 2 (bf16)", (int)problem->element);
  SPTX_TRY(check_positive("batch", problem->batch, error));
  SPTX_TRY(check_positive("heads", problem->heads, error));
  SPTX_TRY(check_positive("kv_heads", problem->kv_heads, error));
  SPTX_TRY(check_positive("n_q", problem->n_q, error));
  SPTX_TRY(check_positive("n_k", problem->n_k, error));
  if (problem->heads % problem->kv_heads != 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "kv_heads is %" PRId64 "; it must divide heads, which is %" PRId64, problem->kv_heads,
                     problem->heads);
  if (problem->n_q > problem->n_k)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "n_q is %" PRId64 "; it must not exceed n_k, which is %" PRId64
                     ", because the last query stands at the last key",
                     problem->n_q, problem->n_k);
  if (problem->head_dim < 16 || problem->head_dim > 256 || problem->head_dim % 8 != 0)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "head_dim is %d; it must be a multiple of 8 from 16 to 256", problem->head_dim);
  return SPTX_CODE_OK;
}

/* Every product that a planner may form in 64 bits. */
static enum sptx_code check_products(const sptx_problem *problem, sptx_error *error) {
  int64_t rows, pairs, bytes, k_bytes;
  if (__builtin_mul_overflow(problem->batch, problem->heads, &rows) ||
      __builtin_mul_overflow(rows, problem->n_k, &k_bytes) ||
      __builtin_mul_overflow(k_bytes, (int64_t)problem->head_dim * 4, &k_bytes) ||
      __builtin_mul_overflow(rows, problem->n_q, &bytes) ||
      __builtin_mul_overflow(bytes, problem->n_k, &pairs) ||
      __builtin_mul_overflow(bytes, (int64_t)problem->head_dim * 4, &bytes))
    return sptx_fail(error, SPTX_CODE_OVERFLOW,
                     "batch %" PRId64 ", heads %" PRId64 ", n_q %" PRId64 ", n_k %" PRId64
                     " and head_dim %d multiply to more than 63 bits",
                     problem->batch, problem->heads, problem->n_q, problem->n_k, problem->head_dim);
  return SPTX_CODE_OK;
}

typedef struct axis {
  const char *name;
  int64_t size, stride;
} axis;

static void sort_by_stride(axis axes[3]) {
  for (int i = 1; i < 3; i++)
    for (int j = i; j > 0 && axes[j].stride < axes[j - 1].stride; j--) {
      axis swapped = axes[j];
      axes[j] = axes[j - 1];
      axes[j - 1] = swapped;
    }
}

/* The tensor's elements have places of their own and end below 2^63 bytes. Axes of size 1 have no stride. */
static enum sptx_code check_strides(const char *tensor, const sptx_strides *strides, int64_t batch,
                                    int64_t heads, int64_t n, const sptx_problem *problem,
                                    sptx_error *error) {
  axis axes[3] = {
      {"batch", batch, strides->batch}, {"head", heads, strides->head}, {"position", n, strides->position}};
  for (int i = 0; i < 3; i++)
    if (axes[i].stride < 0)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                       "%s.%s is %" PRId64 "; strides count elements and must not be negative", tensor,
                       axes[i].name, axes[i].stride);
  sort_by_stride(axes);
  int64_t extent = problem->head_dim, bytes;
  for (int i = 0; i < 3; i++) {
    if (axes[i].size == 1)
      continue;
    if (axes[i].stride < extent)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                       "%s.%s is %" PRId64 "; it must be at least %" PRId64
                       " elements, or elements of the tensor overlap",
                       tensor, axes[i].name, axes[i].stride, extent);
    int64_t span;
    if (__builtin_mul_overflow(axes[i].stride, axes[i].size - 1, &span) ||
        __builtin_add_overflow(span, extent, &extent))
      return sptx_fail(error, SPTX_CODE_OVERFLOW,
                       "%s.%s is %" PRId64 "; offsets into the tensor exceed 63 bits", tensor, axes[i].name,
                       axes[i].stride);
  }
  if (__builtin_mul_overflow(extent, 4, &bytes))
    return sptx_fail(error, SPTX_CODE_OVERFLOW, "%s spans %" PRId64 " elements; its bytes exceed 63 bits",
                     tensor, extent);
  return SPTX_CODE_OK;
}

static void fill_strides(sptx_strides *strides, int64_t heads, int64_t n, int64_t head_dim) {
  if (strides->batch == 0 && strides->head == 0 && strides->position == 0)
    *strides = sptx_contiguous_strides(heads, n, head_dim);
}

enum sptx_code sptx_problem_check(sptx_problem *problem, sptx_error *error) {
  SPTX_TRY(check_sizes(problem, error));
  SPTX_TRY(check_products(problem, error));
  fill_strides(&problem->q, problem->heads, problem->n_q, problem->head_dim);
  fill_strides(&problem->k, problem->kv_heads, problem->n_k, problem->head_dim);
  fill_strides(&problem->v, problem->kv_heads, problem->n_k, problem->head_dim);
  fill_strides(&problem->o, problem->heads, problem->n_q, problem->head_dim);
  int64_t batch = problem->batch, heads = problem->heads, kv_heads = problem->kv_heads;
  SPTX_TRY(check_strides("q", &problem->q, batch, heads, problem->n_q, problem, error));
  SPTX_TRY(check_strides("k", &problem->k, batch, kv_heads, problem->n_k, problem, error));
  SPTX_TRY(check_strides("v", &problem->v, batch, kv_heads, problem->n_k, problem, error));
  return check_strides("o", &problem->o, batch, heads, problem->n_q, problem, error);
}
