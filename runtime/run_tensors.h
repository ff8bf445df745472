/* The tensors of sptx-run: read from .npy files, checked against each other, copied to the device and back,
 * and written so that a failure leaves every file as it was. */
#ifndef SPTX_RUNTIME_RUN_TENSORS_H
#define SPTX_RUNTIME_RUN_TENSORS_H

#include "patterns/npy.h"
#include "runtime/sptx.h"
#include <stdbool.h>

enum sptx_run_tensor {
  SPTX_RUN_Q,
  SPTX_RUN_K,
  SPTX_RUN_V,
  SPTX_RUN_GRAD_O,
  SPTX_RUN_INPUTS,
  SPTX_RUN_O = SPTX_RUN_INPUTS,
  SPTX_RUN_LSE,
  SPTX_RUN_GRAD_Q,
  SPTX_RUN_GRAD_K,
  SPTX_RUN_GRAD_V,
  SPTX_RUN_TENSORS
};

typedef struct sptx_run_tensors {
  const char *paths[SPTX_RUN_TENSORS]; /* NULL: not given */
  sptx_npy arrays[SPTX_RUN_TENSORS];   /* in this process's memory */
  sptx_output outputs[SPTX_RUN_TENSORS];
  void *pointers[SPTX_RUN_TENSORS]; /* what the library is given: the array's data, or device memory */
  sptx_context *context;            /* whose memory pointers are in; NULL: none yet */
} sptx_run_tensors;

/* The option that names the tensor's file, without dashes. */
const char *sptx_run_tensor_name(enum sptx_run_tensor tensor);

/* Reads the inputs, checks types and shapes, fills the desc's sizes and type, and opens the outputs: what
 * cannot be written shows before anything is computed. Zero the struct and fill the paths first. */
enum sptx_code sptx_run_tensors_read(sptx_run_tensors *tensors, sptx_attention_desc *desc, sptx_error *error);
/* Makes the outputs that the wanted passes write, and brings all to where the context's device reads. */
enum sptx_code sptx_run_tensors_place(sptx_run_tensors *tensors, sptx_context *context, sptx_error *error);
/* Brings back the outputs that have a path, and writes them. Waits for the device. */
enum sptx_code sptx_run_tensors_write(sptx_run_tensors *tensors, sptx_error *error);
void sptx_run_tensors_clear(sptx_run_tensors *tensors); /* before the context is destroyed */

#endif
