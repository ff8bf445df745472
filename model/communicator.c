/* Buckets of gradients, and the process that is alone: its sums are what they are. */
#include "model/communicator.h"

#include <stdlib.h>

static const int64_t LARGE_BUCKET = 1 << 20; /* floats: 4 MiB amortise a message's start */

enum sptx_code sptx_communicator_add(sptx_communicator *communicator, float *gradients, int64_t count,
                                     sptx_error *error) {
  if (communicator->size == 1)
    return SPTX_CODE_OK;
  if (communicator->bucket_floats && gradients + count == communicator->bucket) {
    communicator->bucket = gradients;
    communicator->bucket_floats += count;
  } else {
    if (communicator->bucket_floats)
      SPTX_TRY(communicator->ops->start_sum(communicator, communicator->bucket, communicator->bucket_floats,
                                            error));
    communicator->bucket = gradients;
    communicator->bucket_floats = count;
  }
  if (communicator->bucket_floats < LARGE_BUCKET)
    return SPTX_CODE_OK;
  int64_t full = communicator->bucket_floats;
  communicator->bucket_floats = 0;
  return communicator->ops->start_sum(communicator, communicator->bucket, full, error);
}

enum sptx_code sptx_communicator_finish(sptx_communicator *communicator, sptx_error *error) {
  int64_t left = communicator->bucket_floats;
  communicator->bucket_floats = 0;
  if (left)
    SPTX_TRY(communicator->ops->start_sum(communicator, communicator->bucket, left, error));
  return communicator->ops->finish_sums(communicator, error);
}

static enum sptx_code start_nothing(sptx_communicator *communicator, float *floats, int64_t count,
                                    sptx_error *error) {
  (void)communicator, (void)floats, (void)count, (void)error;
  return SPTX_CODE_OK;
}
static enum sptx_code finish_nothing(sptx_communicator *communicator, sptx_error *error) {
  (void)communicator, (void)error;
  return SPTX_CODE_OK;
}
static enum sptx_code keep_values(sptx_communicator *communicator, double *values, int count,
                                  sptx_error *error) {
  (void)communicator, (void)values, (void)count, (void)error;
  return SPTX_CODE_OK;
}
static void abort_nobody(sptx_communicator *communicator, int status) {
  (void)communicator, (void)status;
}
static void destroy_single(sptx_communicator *communicator) {
  free(communicator);
}
static const struct sptx_communicator_ops SINGLE_OPS = {start_nothing, finish_nothing, keep_values,
                                                        abort_nobody, destroy_single};

enum sptx_code sptx_communicator_create(sptx_communicator **communicator, sptx_error *error) {
  *communicator = NULL;
  if (getenv("OMPI_COMM_WORLD_SIZE")) { /* how Open MPI tells a process that it is one of several */
#ifdef SPTX_WITH_MPI
    return sptx_communicator_create_mpi(communicator, error);
#else
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "started by mpirun, but built without Open MPI; install libopenmpi-dev and build again");
#endif
  }
  sptx_communicator *single = calloc(1, sizeof *single);
  if (!single)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a communicator");
  single->ops = &SINGLE_OPS;
  single->size = 1;
  *communicator = single;
  return SPTX_CODE_OK;
}

void sptx_communicator_destroy(sptx_communicator *communicator) {
  if (communicator)
    communicator->ops->destroy(communicator);
}
