/* Tensors of sptx-run, by one table of what each one's shape is; see run_tensors.h. */
#include "runtime/run_tensors.h"

#include "runtime/context.h"
#include "runtime/cuda_kind.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK = 4 };

/* like: whose shape it has. The log-sum-exp has q's without the last axis, and is always float32. */
static const struct {
  const char *name;
  enum sptx_run_tensor like;
} rows[SPTX_RUN_TENSORS] = {
    [SPTX_RUN_Q] = {"q", SPTX_RUN_Q},           [SPTX_RUN_K] = {"k", SPTX_RUN_K},
    [SPTX_RUN_V] = {"v", SPTX_RUN_K},           [SPTX_RUN_GRAD_O] = {"grad-o", SPTX_RUN_Q},
    [SPTX_RUN_O] = {"o", SPTX_RUN_Q},           [SPTX_RUN_LSE] = {"lse", SPTX_RUN_Q},
    [SPTX_RUN_GRAD_Q] = {"grad-q", SPTX_RUN_Q}, [SPTX_RUN_GRAD_K] = {"grad-k", SPTX_RUN_K},
    [SPTX_RUN_GRAD_V] = {"grad-v", SPTX_RUN_K},
};

const char *sptx_run_tensor_name(enum sptx_run_tensor tensor) {
  return rows[tensor].name;
}

static const char *shape_text(const sptx_npy *npy, char text[128]) {
  int used = snprintf(text, 128, "(");
  for (int axis = 0; axis < npy->rank && used < 128; axis++)
    used += snprintf(text + used, (size_t)(128 - used), "%s%" PRId64, axis ? ", " : "", npy->shape[axis]);
  if (used < 127)
    strcat(text, ")");
  return text;
}

static enum sptx_code check_type(const sptx_run_tensors *tensors, int which, sptx_error *error) {
  const sptx_npy *npy = &tensors->arrays[which], *q = &tensors->arrays[SPTX_RUN_Q];
  if (npy->type == SPTX_NPY_BOOL)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s: attention needs float32, float16 or bfloat16 elements, not bool",
                     tensors->paths[which]);
  if (npy->type != q->type)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s is %s but %s is %s; all tensors must have one type", tensors->paths[which],
                     sptx_npy_type_name(npy->type), tensors->paths[SPTX_RUN_Q], sptx_npy_type_name(q->type));
  return SPTX_CODE_OK;
}

static enum sptx_code check_shape(const sptx_run_tensors *tensors, int which, sptx_error *error) {
  char text[128], other[128];
  const sptx_npy *npy = &tensors->arrays[which], *like = &tensors->arrays[rows[which].like];
  if (npy->rank != RANK)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s has the shape %s; %s is (batch, heads, n, head_dim)", tensors->paths[which],
                     shape_text(npy, text), rows[which].name);
  if (memcmp(npy->shape, like->shape, RANK * sizeof *npy->shape) != 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s has the shape %s; %s must have that of %s, %s",
                     tensors->paths[which], shape_text(npy, text), rows[which].name,
                     rows[rows[which].like].name, shape_text(like, other));
  return SPTX_CODE_OK;
}

/* q is (batch, heads, n_q, d), k is (batch, kv_heads, n_k, d). */
static enum sptx_code check_pair(const sptx_run_tensors *tensors, sptx_error *error) {
  char text[128], other[128];
  const int64_t *q = tensors->arrays[SPTX_RUN_Q].shape, *k = tensors->arrays[SPTX_RUN_K].shape;
  const char *wrong = q[0] != k[0]               ? "batch (axis 0) must be the same"
                      : k[1] == 0 || q[1] % k[1] ? "k's heads (axis 1) must divide q's"
                      : q[3] != k[3]             ? "head_dim (axis 3) must be the same"
                                                 : NULL;
  if (!wrong)
    return SPTX_CODE_OK;
  return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "q is %s and k is %s: %s",
                   shape_text(&tensors->arrays[SPTX_RUN_Q], text),
                   shape_text(&tensors->arrays[SPTX_RUN_K], other), wrong);
}

static sptx_dtype dtype_of(enum sptx_npy_type type) {
  return type == SPTX_NPY_F32 ? SPTX_F32 : type == SPTX_NPY_F16 ? SPTX_F16 : SPTX_BF16;
}

static void fill_desc(const sptx_run_tensors *tensors, sptx_attention_desc *desc) {
  const int64_t *q = tensors->arrays[SPTX_RUN_Q].shape, *k = tensors->arrays[SPTX_RUN_K].shape;
  desc->dtype = dtype_of(tensors->arrays[SPTX_RUN_Q].type);
  desc->batch = q[0];
  desc->heads = q[1];
  desc->kv_heads = k[1];
  desc->n_q = q[2];
  desc->n_k = k[2];
  desc->head_dim = q[3];
}

static enum sptx_code read_inputs(sptx_run_tensors *tensors, sptx_error *error) {
  for (int which = 0; which < SPTX_RUN_INPUTS; which++) {
    if (!tensors->paths[which])
      continue;
    SPTX_TRY(sptx_npy_read(tensors->paths[which], INT64_MAX, &tensors->arrays[which], error));
    SPTX_TRY(check_type(tensors, which, error));
    SPTX_TRY(check_shape(tensors, which, error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code open_outputs(sptx_run_tensors *tensors, sptx_error *error) {
  for (int which = SPTX_RUN_INPUTS; which < SPTX_RUN_TENSORS; which++) {
    if (!tensors->paths[which])
      continue;
    SPTX_TRY(sptx_output_open(tensors->paths[which], &tensors->outputs[which], error));
    for (int other = SPTX_RUN_INPUTS; other < which; other++)
      if (tensors->outputs[which].temporary && tensors->paths[other] &&
          strcmp(tensors->outputs[other].path, tensors->outputs[which].path) == 0)
        return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "--%s and --%s would both write %s",
                         rows[other].name, rows[which].name, tensors->paths[which]);
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_run_tensors_read(sptx_run_tensors *tensors, sptx_attention_desc *desc,
                                     sptx_error *error) {
  SPTX_TRY(read_inputs(tensors, error));
  SPTX_TRY(check_pair(tensors, error));
  fill_desc(tensors, desc);
  return open_outputs(tensors, error);
}

/* An array of the output's shape, not yet filled. */
static enum sptx_code make_output(sptx_run_tensors *tensors, int which, sptx_error *error) {
  sptx_npy *npy = &tensors->arrays[which];
  *npy = tensors->arrays[rows[which].like];
  npy->data = NULL;
  if (which == SPTX_RUN_LSE) {
    npy->type = SPTX_NPY_F32;
    npy->rank = RANK - 1;
    npy->count = npy->shape[RANK - 1] ? npy->count / npy->shape[RANK - 1] : 0;
    npy->bytes = (size_t)npy->count * sizeof(float);
  }
  npy->data = malloc(npy->bytes ? npy->bytes : 1);
  return npy->data ? SPTX_CODE_OK
                   : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %s, %zu bytes",
                               rows[which].name, npy->bytes);
}

static const sptx_cuda_device *cuda_of(const sptx_context *context) {
  return context->kind == &sptx_cuda_kind ? sptx_cuda_kind_device(context->device) : NULL;
}

/* Device memory that holds the array; that of an output is filled too, so that nothing is undefined. */
static enum sptx_code upload(const sptx_cuda_device *device, const sptx_npy *npy, void **pointer,
                             sptx_error *error) {
  sptx_cu_pointer address = 0;
  SPTX_TRY(sptx_cuda_alloc(device, npy->bytes, &address, error));
  *pointer = (void *)(uintptr_t)address;
  return npy->bytes ? sptx_cuda_upload(device, address, npy->data, npy->bytes, error) : SPTX_CODE_OK;
}

enum sptx_code sptx_run_tensors_place(sptx_run_tensors *tensors, sptx_context *context, sptx_error *error) {
  bool backward = tensors->paths[SPTX_RUN_GRAD_O];
  const sptx_cuda_device *device = cuda_of(context);
  tensors->context = context;
  for (int which = 0; which < SPTX_RUN_TENSORS; which++) {
    if (which >= SPTX_RUN_INPUTS ? which >= SPTX_RUN_GRAD_Q && !backward : !tensors->paths[which])
      continue;
    if (which >= SPTX_RUN_INPUTS)
      SPTX_TRY(make_output(tensors, which, error));
    if (device)
      SPTX_TRY(upload(device, &tensors->arrays[which], &tensors->pointers[which], error));
    else
      tensors->pointers[which] = tensors->arrays[which].data;
  }
  return SPTX_CODE_OK;
}

static enum sptx_code write_array(sptx_run_tensors *tensors, int which, sptx_error *error) {
  const sptx_npy *npy = &tensors->arrays[which];
  sptx_output *output = &tensors->outputs[which];
  SPTX_TRY(sptx_npy_write_head(output, npy->type, npy->rank, npy->shape, error));
  if (fwrite(npy->data, 1, npy->bytes, output->stream) != npy->bytes || fflush(output->stream) != 0)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot write %zu bytes", tensors->paths[which], npy->bytes);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_run_tensors_write(sptx_run_tensors *tensors, sptx_error *error) {
  const sptx_cuda_device *device = cuda_of(tensors->context);
  for (int which = SPTX_RUN_INPUTS; which < SPTX_RUN_TENSORS; which++) {
    const sptx_npy *npy = &tensors->arrays[which];
    if (!tensors->paths[which])
      continue;
    if (device && npy->bytes)
      SPTX_TRY(sptx_cuda_download(device, npy->data, (sptx_cu_pointer)(uintptr_t)tensors->pointers[which],
                                  npy->bytes, error));
    SPTX_TRY(write_array(tensors, which, error));
  }
  /* All are written; now each takes its place. */
  for (int which = SPTX_RUN_INPUTS; which < SPTX_RUN_TENSORS; which++)
    if (tensors->paths[which])
      SPTX_TRY(sptx_output_commit(&tensors->outputs[which], error));
  return SPTX_CODE_OK;
}

void sptx_run_tensors_clear(sptx_run_tensors *tensors) {
  const sptx_cuda_device *device = tensors->context ? cuda_of(tensors->context) : NULL;
  for (int which = 0; which < SPTX_RUN_TENSORS; which++) {
    if (device)
      sptx_cuda_free(device, (sptx_cu_pointer)(uintptr_t)tensors->pointers[which]);
    sptx_npy_clear(&tensors->arrays[which]);
    sptx_output_discard(&tensors->outputs[which]);
    tensors->pointers[which] = NULL;
  }
  tensors->context = NULL;
}
