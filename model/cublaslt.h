/* Matrix products on a GPU by cuBLASLt, which is opened at run time: neither building nor the CPU needs it.
 * The declarations are our own, of the stable C interface that versions 11 to 13 share. */
#ifndef SPTX_MODEL_CUBLASLT_H
#define SPTX_MODEL_CUBLASLT_H

#include "model/device.h"

typedef struct sptx_cublaslt sptx_cublaslt;

/* With the device's context current; products are timed on it. Fails with SPTX_CODE_NO_DEVICE in one sentence
 * where the library is missing, SPTX_CODE_DEVICE, SPTX_CODE_OUT_OF_MEMORY. workspace: device memory that
 * products may use. */
enum sptx_code sptx_cublaslt_open(sptx_device *device, void *workspace, size_t workspace_bytes,
                                  sptx_cublaslt **library, sptx_error *error);
void sptx_cublaslt_close(sptx_cublaslt *library); /* NULL is allowed */

/* As sptx_device_ops.multiply, on the legacy stream. bias: NULL, or n entries of c's type to add to each row.
 * A shape's algorithm is chosen once and kept: the fastest of several, or, where the device is deterministic,
 * the one that cuBLASLt proposes. c must not overlap a or b. */
enum sptx_code sptx_cublaslt_multiply(sptx_cublaslt *library, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                                      sptx_matrix b, sptx_matrix c, bool accumulate, const void *bias,
                                      sptx_error *error);

#endif
