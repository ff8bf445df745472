/* The mask, row by row, so that memory stays that of one row whatever the number of heads is. */
#include "patterns/mask.h"
#include "patterns/npy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static enum sptx_code write_row(const sptx_instance *instance, int64_t head, int64_t i, bool *row,
                                sptx_output *output, sptx_error *error) {
  for (int64_t j = 0; j < instance->n_k; j++)
    SPTX_TRY(sptx_instance_contains(instance, head, i, j, &row[j], error));
  if (fwrite(row, sizeof *row, (size_t)instance->n_k, output->stream) == (size_t)instance->n_k)
    return SPTX_CODE_OK;
  return sptx_fail(error, SPTX_CODE_IO, "%s: cannot write: %s", output->path, strerror(errno));
}

static enum sptx_code write_step(const sptx_pattern *pattern, size_t step, const sptx_selection *s, bool *row,
                                 sptx_output *output, sptx_error *error) {
  _Static_assert(sizeof *row == 1, "a bool is NumPy's byte");
  sptx_instance instance;
  SPTX_TRY(sptx_pattern_resolve(pattern, step, s->heads, s->n_q, s->n_k, &instance, error));
  enum sptx_code code = SPTX_CODE_OK;
  for (int64_t head = 0; head < s->heads && code == SPTX_CODE_OK; head++)
    for (int64_t i = 0; i < s->n_q && code == SPTX_CODE_OK; i++)
      code = write_row(&instance, head, i, row, output, error);
  sptx_instance_clear(&instance);
  return code;
}

static enum sptx_code write_array(const sptx_pattern *pattern, const sptx_selection *s, size_t first,
                                  size_t count, sptx_output *output, sptx_error *error) {
  const int64_t shape[] = {(int64_t)count * s->heads, s->n_q, s->n_k};
  SPTX_TRY(sptx_npy_write_head(output, SPTX_NPY_BOOL, 3, shape, error));
  bool *row = malloc((size_t)s->n_k * sizeof *row);
  if (!row)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a row of the mask");
  enum sptx_code code = SPTX_CODE_OK;
  for (size_t step = first; step < first + count && code == SPTX_CODE_OK; step++)
    code = write_step(pattern, step, s, row, output, error);
  free(row);
  return code;
}

enum sptx_code sptx_mask_write(const sptx_pattern *pattern, const sptx_selection *selection, const char *path,
                               sptx_error *error) {
  size_t first, count;
  SPTX_TRY(sptx_step_select(pattern, selection->step, &first, &count, error));
  if (selection->n_k < 1 || selection->n_k > SPTX_MASK_MAX_N)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "a mask is written for n from 1 to %d, not %" PRId64
                     ": it holds a byte for every pair; choose a smaller n",
                     SPTX_MASK_MAX_N, selection->n_k);
  sptx_instance probe; /* a pattern that does not fit the shape fails before a file is made */
  SPTX_TRY(
      sptx_pattern_resolve(pattern, first, selection->heads, selection->n_q, selection->n_k, &probe, error));
  sptx_instance_clear(&probe);
  sptx_output output;
  SPTX_TRY(sptx_output_open(path, &output, error));
  enum sptx_code code = write_array(pattern, selection, first, count, &output, error);
  if (code == SPTX_CODE_OK)
    return sptx_output_commit(&output, error);
  sptx_output_discard(&output);
  return code;
}
