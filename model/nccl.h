/* NCCL as a table of pointers, opened at run time: neither building nor a run on one device needs it, and a
 * test puts its own functions into the table. The declarations are our own, of the stable C interface of NCCL
 * 2; tests/model/nccl.c checks each against nccl.h where that is present. Enumerations are unsigned int. */
#ifndef SPTX_MODEL_NCCL_H
#define SPTX_MODEL_NCCL_H

#include "patterns/error.h"
#include "runtime/cuda_driver.h"
#include <stddef.h>

typedef unsigned int sptx_nccl_result; /* 0 is success */
typedef struct ncclComm *sptx_nccl_comm;

/* What the first process draws, and all processes of a communicator must know. */
typedef struct sptx_nccl_id {
  char bytes[128];
} sptx_nccl_id;

/* X(result, name without its nccl, parameters) */
#define SPTX_NCCL_FUNCTIONS(X)                                                                               \
  X(sptx_nccl_result, GetUniqueId, (sptx_nccl_id *))                                                         \
  X(sptx_nccl_result, CommInitRank, (sptx_nccl_comm *, int size, sptx_nccl_id, int rank))                    \
  X(sptx_nccl_result, CommDestroy, (sptx_nccl_comm))                                                         \
  X(sptx_nccl_result, CommAbort, (sptx_nccl_comm))                                                           \
  X(sptx_nccl_result, CommGetAsyncError, (sptx_nccl_comm, sptx_nccl_result *))                               \
  X(const char *, GetErrorString, (sptx_nccl_result))                                                        \
  X(sptx_nccl_result, AllReduce,                                                                             \
    (const void *from, void *to, size_t count, unsigned int type, unsigned int operation, sptx_nccl_comm,    \
     sptx_cu_stream))

typedef struct sptx_nccl {
#define SPTX_NCCL_FIELD(result, name, parameters) result(*name) parameters;
  SPTX_NCCL_FUNCTIONS(SPTX_NCCL_FIELD)
#undef SPTX_NCCL_FIELD
  void *handle; /* of dlopen; NULL in a table that a test made */
} sptx_nccl;

/* Constants of nccl.h that we use; the test compares them too. */
enum { SPTX_NCCL_IN_PROGRESS = 7, SPTX_NCCL_FLOAT32 = 7, SPTX_NCCL_SUM = 0 };

#define SPTX_NCCL_LIBRARY "libnccl.so.2"

/* Opens the library, SPTX_NCCL_LIBRARY but in tests. Fails: SPTX_CODE_NO_DEVICE, in one sentence, where it is
 * missing or too old. */
enum sptx_code sptx_nccl_open(const char *name, sptx_nccl *nccl, sptx_error *error);
void sptx_nccl_close(sptx_nccl *nccl);

#endif
