/* Sums over the GPUs of several processes by NCCL. The processes meet by the communicator that started them
 * (Open MPI), which still sums host values and ends the job; gradients are summed on the devices, on a stream
 * beside the one that computes: an event of the computing stream says that a bucket is complete, and NCCL
 * waits for it there, not here. */
#include "model/communicator.h"

#include "model/nccl.h"
#include "runtime/cuda_device.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct nccl {
  sptx_communicator base;
  sptx_communicator *processes; /* borrowed */
  const sptx_cuda_driver *driver;
  const sptx_nccl *table;
  sptx_nccl_comm comm;
  sptx_cu_stream stream;
  sptx_cu_event computed, summed;
  bool summing; /* sums have been started, and not waited for */
};

static enum sptx_code check(const struct nccl *nccl, sptx_nccl_result result, const char *what,
                            sptx_error *error) {
  if (result == 0)
    return SPTX_CODE_OK;
  return sptx_fail(error, SPTX_CODE_DEVICE,
                   "NCCL: %s failed: %s (NCCL_DEBUG=WARN in the environment tells more)", what,
                   nccl->table->GetErrorString(result));
}

/* Frees the devices from sums that will never be complete: what follows would wait for them. */
static enum sptx_code give_up(struct nccl *nccl, enum sptx_code code) {
  if (nccl->comm)
    nccl->table->CommAbort(nccl->comm);
  nccl->comm = NULL;
  return code;
}

static enum sptx_code start(const struct nccl *nccl, float *floats, int64_t count, sptx_error *error) {
  SPTX_TRY(SPTX_CU_CALL(nccl, EventRecord, nccl->computed, NULL));
  SPTX_TRY(SPTX_CU_CALL(nccl, StreamWaitEvent, nccl->stream, nccl->computed, 0));
  return check(nccl,
               nccl->table->AllReduce(floats, floats, (size_t)count, SPTX_NCCL_FLOAT32, SPTX_NCCL_SUM,
                                      nccl->comm, nccl->stream),
               "the reduction of gradients", error);
}

static enum sptx_code start_sum(sptx_communicator *communicator, float *floats, int64_t count,
                                sptx_error *error) {
  struct nccl *nccl = (struct nccl *)communicator;
  nccl->summing = true;
  enum sptx_code code = start(nccl, floats, count, error);
  return code == SPTX_CODE_OK ? code : give_up(nccl, code);
}

/* Errors of a network or of another process come up here, not from calls. */
static enum sptx_code look_for_errors(const struct nccl *nccl, sptx_error *error) {
  sptx_nccl_result of_others = 0;
  SPTX_TRY(check(nccl, nccl->table->CommGetAsyncError(nccl->comm, &of_others), "asking for errors", error));
  return check(nccl, of_others == SPTX_NCCL_IN_PROGRESS ? 0 : of_others, "the reduction of gradients", error);
}

/* Polls instead of blocking: a process that dies leaves the others' sums unfinished for ever, and mpirun then
 * sends them a signal, which must be heard. Sums that are merely under way get a quarter of a second to end.
 */
static enum sptx_code wait_for_sums(const struct nccl *nccl, sptx_error *error) {
  enum { POLL_NANOSECONDS = 20000, POLLS_AFTER_SIGNAL = 12500 };
  int polls_after_signal = 0;
  SPTX_TRY(SPTX_CU_CALL(nccl, EventRecord, nccl->summed, nccl->stream));
  for (;;) {
    sptx_cu_result result = nccl->driver->EventQuery(nccl->summed);
    if (result != SPTX_CU_ERROR_NOT_READY)
      return sptx_cuda_check(nccl->driver, result, "cuEventQuery", error);
    SPTX_TRY(look_for_errors(nccl, error));
    if (nccl->base.interrupted && *nccl->base.interrupted && ++polls_after_signal > POLLS_AFTER_SIGNAL)
      return sptx_fail(error, SPTX_CODE_DEVICE,
                       "interrupted during the reduction of gradients: another process ended the job, or a "
                       "signal did");
    nanosleep(&(struct timespec){0, POLL_NANOSECONDS}, NULL);
  }
}

static enum sptx_code finish_sums(sptx_communicator *communicator, sptx_error *error) {
  struct nccl *nccl = (struct nccl *)communicator;
  enum sptx_code code = wait_for_sums(nccl, error);
  nccl->summing = false;
  return code == SPTX_CODE_OK ? code : give_up(nccl, code);
}

static enum sptx_code sum_values(sptx_communicator *communicator, double *values, int count,
                                 sptx_error *error) {
  sptx_communicator *processes = ((struct nccl *)communicator)->processes;
  processes->interrupted = communicator->interrupted;
  return processes->ops->sum_values(processes, values, count, error);
}

static void abort_all(sptx_communicator *communicator, int status) {
  sptx_communicator *processes = ((struct nccl *)communicator)->processes;
  processes->ops->abort(processes, status);
}

static void destroy(sptx_communicator *communicator) {
  struct nccl *nccl = (struct nccl *)communicator;
  if (nccl->summing) /* the run failed in the midst of a step */
    give_up(nccl, SPTX_CODE_OK);
  if (nccl->comm)
    nccl->table->CommDestroy(nccl->comm);
  if (nccl->summed)
    nccl->driver->EventDestroy(nccl->summed);
  if (nccl->computed)
    nccl->driver->EventDestroy(nccl->computed);
  if (nccl->stream)
    nccl->driver->StreamDestroy(nccl->stream);
  free(nccl);
}

static const struct sptx_communicator_ops NCCL_OPS = {start_sum, finish_sums, sum_values, abort_all, destroy};

/* The first process's identifier, byte by byte, as a sum in which it alone has a part. */
static enum sptx_code share_id(struct nccl *nccl, sptx_nccl_id *id, sptx_error *error) {
  double bytes[sizeof id->bytes] = {0};
  if (nccl->base.rank == 0) {
    SPTX_TRY(check(nccl, nccl->table->GetUniqueId(id), "its start", error));
    for (size_t k = 0; k < sizeof id->bytes; k++)
      bytes[k] = (unsigned char)id->bytes[k];
  }
  SPTX_TRY(sum_values(&nccl->base, bytes, (int)sizeof id->bytes, error));
  for (size_t k = 0; k < sizeof id->bytes; k++)
    id->bytes[k] = (char)(unsigned char)bytes[k];
  return SPTX_CODE_OK;
}

static enum sptx_code connect(struct nccl *nccl, sptx_error *error) {
  sptx_nccl_id id;
  SPTX_TRY(SPTX_CU_CALL(nccl, StreamCreate, &nccl->stream, SPTX_CU_STREAM_NON_BLOCKING));
  SPTX_TRY(SPTX_CU_CALL(nccl, EventCreate, &nccl->computed, SPTX_CU_EVENT_DISABLE_TIMING));
  SPTX_TRY(SPTX_CU_CALL(nccl, EventCreate, &nccl->summed, SPTX_CU_EVENT_DISABLE_TIMING));
  SPTX_TRY(share_id(nccl, &id, error));
  return check(nccl, nccl->table->CommInitRank(&nccl->comm, nccl->base.size, id, nccl->base.rank),
               "connecting the devices", error);
}

enum sptx_code sptx_communicator_create_nccl(sptx_communicator *processes, const sptx_cuda_driver *driver,
                                             const struct sptx_nccl *table, sptx_communicator **communicator,
                                             sptx_error *error) {
  struct nccl *nccl = calloc(1, sizeof *nccl);
  *communicator = NULL;
  if (!nccl)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a communicator");
  nccl->base = (sptx_communicator){.ops = &NCCL_OPS,
                                   .rank = processes->rank,
                                   .size = processes->size,
                                   .local_rank = processes->local_rank,
                                   .interrupted = processes->interrupted};
  nccl->processes = processes;
  nccl->driver = driver;
  nccl->table = table;
  enum sptx_code code = connect(nccl, error);
  if (code != SPTX_CODE_OK)
    destroy(&nccl->base);
  else
    *communicator = &nccl->base;
  return code;
}
