/* The safetensors format for float32 tensors: 8 bytes with the header's length (little-endian), a JSON header
 * (name -> dtype, shape, byte range; `__metadata__` -> strings), then the tensors' bytes without gaps. */
#ifndef SPTX_MODEL_SAFETENSORS_H
#define SPTX_MODEL_SAFETENSORS_H

#include "patterns/output.h"
#include <stddef.h>
#include <stdint.h>

typedef struct sptx_tensor {
  char name[96];
  int dims; /* 1 or 2 */
  int64_t shape[2];
} sptx_tensor;

static inline int64_t sptx_tensor_floats(const sptx_tensor *tensor) {
  return tensor->shape[0] * (tensor->dims == 2 ? tensor->shape[1] : 1);
}

typedef struct sptx_metadata {
  const char *key;
  char value[32];
} sptx_metadata;

/* Writes the header. The caller then writes the tensors' floats, in the same order, and commits. */
enum sptx_code sptx_safetensors_begin(sptx_output *file, const sptx_tensor *tensors, size_t tensor_count,
                                      const sptx_metadata *metadata, size_t metadata_count,
                                      sptx_error *error);

typedef struct sptx_safetensors sptx_safetensors;

/* Opens a file for reading and checks its header and size. Fails: SPTX_CODE_IO; SPTX_CODE_FORMAT: not
 * safetensors, damaged, or cut short. */
enum sptx_code sptx_safetensors_open(const char *path, sptx_safetensors **file, sptx_error *error);
void sptx_safetensors_close(sptx_safetensors *file); /* NULL is allowed */
size_t sptx_safetensors_count(const sptx_safetensors *file);
/* NULL when there is no such entry. */
const char *sptx_safetensors_metadata(const sptx_safetensors *file, const char *key);
/* Reads a tensor, which must have this name and shape, into floats. Fails: SPTX_CODE_FORMAT (missing, or of
 * another shape), SPTX_CODE_IO. */
enum sptx_code sptx_safetensors_read(sptx_safetensors *file, const sptx_tensor *tensor, float *floats,
                                     sptx_error *error);

#endif
