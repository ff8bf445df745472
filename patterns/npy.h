/* NumPy's .npy files: bool, uint8, float32, float16 and bfloat16 arrays of any rank, C order, little endian.
 * Reading checks every size against the file before anything is allocated; writing leaves either the whole
 * file or none. */
#ifndef SPTX_PATTERNS_NPY_H
#define SPTX_PATTERNS_NPY_H

#include "patterns/error.h"
#include "patterns/output.h"
#include <stddef.h>
#include <stdint.h>

#define SPTX_NPY_MAX_RANK 32

enum sptx_npy_type {
  SPTX_NPY_BOOL, /* "|b1": bytes of 0 or 1; other bytes are refused */
  SPTX_NPY_F32,  /* "<f4" */
  SPTX_NPY_F16,  /* "<f2" */
  SPTX_NPY_BF16, /* "<u2" or "|V2", which is how NumPy stores bfloat16; written as "<u2" */
  SPTX_NPY_U8,   /* "|u1" */
};

typedef struct sptx_npy {
  enum sptx_npy_type type;
  int rank;
  int64_t shape[SPTX_NPY_MAX_RANK];
  int64_t count; /* elements */
  size_t bytes;
  void *data; /* owned; not NULL even when count is 0 */
} sptx_npy;

/* Reads a regular file of at most max_bytes of elements. Fails: SPTX_CODE_IO, SPTX_CODE_FORMAT (damaged,
 * another type, order or size; the sentence says which), SPTX_CODE_OVERFLOW, SPTX_CODE_OUT_OF_MEMORY; then
 * *npy is empty. */
enum sptx_code sptx_npy_read(const char *path, int64_t max_bytes, sptx_npy *npy, sptx_error *error);
/* The same from memory; name stands for the file in messages. */
enum sptx_code sptx_npy_parse(const void *bytes, size_t size, const char *name, sptx_npy *npy,
                              sptx_error *error);
void sptx_npy_clear(sptx_npy *npy);
/* The same without a copy, for mapped files: data points into bytes, which stay the caller's; not to be
 * cleared. Elements are not looked at. */
enum sptx_code sptx_npy_view(const void *bytes, size_t size, const char *name, sptx_npy *npy,
                             sptx_error *error);

size_t sptx_npy_element_size(enum sptx_npy_type type);
const char *sptx_npy_type_name(enum sptx_npy_type type); /* "float32"; static */

/* Writes a whole array. Fails: SPTX_CODE_IO, SPTX_CODE_OVERFLOW, SPTX_CODE_INVALID_ARGUMENT (rank, negative
 * sizes), SPTX_CODE_OUT_OF_MEMORY; then path is as it was. */
enum sptx_code sptx_npy_write(const char *path, enum sptx_npy_type type, int rank, const int64_t *shape,
                              const void *data, sptx_error *error);
/* Writes only the head; the caller then writes the elements in C order to output->stream and commits. */
enum sptx_code sptx_npy_write_head(sptx_output *output, enum sptx_npy_type type, int rank,
                                   const int64_t *shape, sptx_error *error);

#endif
