/* Data-parallel training: one process a device, each with its own rows of the global batch. The processes sum
 * their gradients, bucket by bucket, while the backward pass is still computing the next ones. */
#ifndef SPTX_MODEL_COMMUNICATOR_H
#define SPTX_MODEL_COMMUNICATOR_H

#include "patterns/error.h"
#include "runtime/cuda_driver.h"
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct sptx_communicator sptx_communicator;

/* What a way of talking must do. Every process makes the same calls in the same order. */
struct sptx_communicator_ops {
  /* Starts to sum `count` floats of device memory over the processes, in place. */
  enum sptx_code (*start_sum)(sptx_communicator *communicator, float *floats, int64_t count,
                              sptx_error *error);
  /* Waits for all that was started. */
  enum sptx_code (*finish_sums)(sptx_communicator *communicator, sptx_error *error);
  /* Sums a few host values; also a meeting point. */
  enum sptx_code (*sum_values)(sptx_communicator *communicator, double *values, int count, sptx_error *error);
  /* Ends all processes of the job with this exit status; does not return when there are others. */
  void (*abort)(sptx_communicator *communicator, int status);
  void (*destroy)(sptx_communicator *communicator);
};

struct sptx_communicator {
  const struct sptx_communicator_ops *ops;
  int rank, size;
  int local_rank; /* among the processes of this machine */
  /* Not 0 (set by a signal): waiting for the others fails with SPTX_CODE_DEVICE. NULL: never. */
  const volatile sig_atomic_t *interrupted;
  float *bucket; /* gradients that are complete but not yet on their way */
  int64_t bucket_floats;
};

/* The processes that mpirun started, by Open MPI; or this process on its own. Once in a process's life.
 * Fails: SPTX_CODE_UNSUPPORTED (started by mpirun, but built without MPI), SPTX_CODE_DEVICE (MPI),
 * SPTX_CODE_OUT_OF_MEMORY. */
enum sptx_code sptx_communicator_create(sptx_communicator **communicator, sptx_error *error);
void sptx_communicator_destroy(sptx_communicator *communicator); /* NULL is allowed */

/* The table of Open MPI; only in a build that has it. */
enum sptx_code sptx_communicator_create_mpi(sptx_communicator **communicator, sptx_error *error);

struct sptx_nccl;
/* Sums device memory by NCCL; the rest goes to `processes`, which stays the caller's and, like both tables,
 * must outlive this. Each process calls it with its own GPU's context current, and waits for the others. A
 * sum that fails gives the device back at once. Fails: SPTX_CODE_DEVICE, SPTX_CODE_OUT_OF_MEMORY. */
enum sptx_code sptx_communicator_create_nccl(sptx_communicator *processes, const sptx_cuda_driver *driver,
                                             const struct sptx_nccl *table, sptx_communicator **communicator,
                                             sptx_error *error);

/* Adds gradients that are complete. What lies right below the last ones joins their bucket until that is
 * large enough to be worth a message. */
enum sptx_code sptx_communicator_add(sptx_communicator *communicator, float *gradients, int64_t count,
                                     sptx_error *error);
/* Sends what is left and waits for everything. */
enum sptx_code sptx_communicator_finish(sptx_communicator *communicator, sptx_error *error);

#endif
