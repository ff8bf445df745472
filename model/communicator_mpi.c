/* Sums over processes by Open MPI. Reductions are started without blocking; Open MPI moves them on whenever
 * it is called, so each new start also polls those under way. */
#include "model/communicator.h"

#include <mpi.h>
#include <stdlib.h>
#include <time.h>

struct mpi {
  sptx_communicator base;
  MPI_Request *requests;
  int count, capacity;
};

static enum sptx_code check(int status, const char *what, sptx_error *error) {
  if (status == MPI_SUCCESS)
    return SPTX_CODE_OK;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length;
  MPI_Error_string(status, text, &length);
  return sptx_fail(error, SPTX_CODE_DEVICE, "MPI: %s failed: %s", what, text);
}

static enum sptx_code start_sum(sptx_communicator *communicator, float *floats, int64_t count,
                                sptx_error *error) {
  struct mpi *mpi = (struct mpi *)communicator;
  enum { MOST = 1 << 30 }; /* MPI counts in int */
  for (int64_t first = 0; first < count; first += MOST) {
    if (mpi->count == mpi->capacity) {
      int capacity = mpi->capacity ? 2 * mpi->capacity : 32;
      MPI_Request *grown = realloc(mpi->requests, (size_t)capacity * sizeof *grown);
      if (!grown)
        return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the list of reductions");
      mpi->requests = grown;
      mpi->capacity = capacity;
    }
    int part = (int)(count - first < MOST ? count - first : MOST);
    SPTX_TRY(check(MPI_Iallreduce(MPI_IN_PLACE, floats + first, part, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD,
                                  &mpi->requests[mpi->count]),
                   "the reduction of gradients", error));
    mpi->count++;
  }
  int done;
  return check(MPI_Testall(mpi->count, mpi->requests, &done, MPI_STATUSES_IGNORE),
               "the reduction of gradients", error);
}

/* Polls instead of blocking: when another process dies, mpirun sends this one a signal, which must be heard.
 */
static enum sptx_code wait_for(struct mpi *mpi, MPI_Request *requests, int count, const char *what,
                               sptx_error *error) {
  for (int done = 0, polls = 0; !done; polls++) {
    SPTX_TRY(check(MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE), what, error));
    if (mpi->base.interrupted && *mpi->base.interrupted && polls > 1000)
      return sptx_fail(error, SPTX_CODE_DEVICE,
                       "interrupted during %s: another process ended the job, or a signal did", what);
    if (polls > 1000) /* then it takes long: leave the core to others */
      nanosleep(&(struct timespec){0, 50000}, NULL);
  }
  return SPTX_CODE_OK;
}

static enum sptx_code finish_sums(sptx_communicator *communicator, sptx_error *error) {
  struct mpi *mpi = (struct mpi *)communicator;
  SPTX_TRY(wait_for(mpi, mpi->requests, mpi->count, "the reduction of gradients", error));
  mpi->count = 0;
  return SPTX_CODE_OK;
}

static enum sptx_code sum_values(sptx_communicator *communicator, double *values, int count,
                                 sptx_error *error) {
  MPI_Request request;
  SPTX_TRY(check(MPI_Iallreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD, &request),
                 "the sum of the losses", error));
  return wait_for((struct mpi *)communicator, &request, 1, "the sum of the losses", error);
}

static void abort_all(sptx_communicator *communicator, int status) {
  (void)communicator;
  MPI_Abort(MPI_COMM_WORLD, status);
}

static void destroy(sptx_communicator *communicator) {
  free(((struct mpi *)communicator)->requests);
  free(communicator);
  MPI_Finalize();
}

static const struct sptx_communicator_ops MPI_OPS = {start_sum, finish_sums, sum_values, abort_all, destroy};

static enum sptx_code find_local_rank(int *rank, sptx_error *error) {
  MPI_Comm machine;
  SPTX_TRY(check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine),
                 "its start", error));
  enum sptx_code code = check(MPI_Comm_rank(machine, rank), "its start", error);
  MPI_Comm_free(&machine);
  return code;
}

enum sptx_code sptx_communicator_create_mpi(sptx_communicator **communicator, sptx_error *error) {
  struct mpi *mpi = calloc(1, sizeof *mpi);
  *communicator = NULL;
  if (!mpi)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a communicator");
  int provided;
  enum sptx_code code =
      check(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "its start", error);
  if (code == SPTX_CODE_OK)
    code = check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "its start", error);
  if (code == SPTX_CODE_OK)
    code = check(MPI_Comm_rank(MPI_COMM_WORLD, &mpi->base.rank), "its start", error);
  if (code == SPTX_CODE_OK)
    code = check(MPI_Comm_size(MPI_COMM_WORLD, &mpi->base.size), "its start", error);
  if (code == SPTX_CODE_OK)
    code = find_local_rank(&mpi->base.local_rank, error);
  if (code != SPTX_CODE_OK) {
    free(mpi);
    return code;
  }
  mpi->base.ops = &MPI_OPS;
  *communicator = &mpi->base;
  return SPTX_CODE_OK;
}
