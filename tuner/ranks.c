/* Ranks by Open MPI, or the one rank of a process that nobody started as one of several. */
#include "tuner/ranks.h"

#include <stdlib.h>
#include <string.h>

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the results of all ranks");
}

static enum sptx_code gather_alone(const char *text, char ***texts, sptx_error *error) {
  *texts = calloc(1, sizeof **texts);
  if (!*texts || !(**texts = strdup(text))) {
    free(*texts);
    *texts = NULL;
    return no_memory(error);
  }
  return SPTX_CODE_OK;
}

#ifdef SPTX_MPI
#include <mpi.h>

/* Without mpirun, MPI_Init would start a daemon for a single process. */
static int launched(void) {
  return getenv("OMPI_COMM_WORLD_SIZE") != NULL;
}

void sptx_ranks_begin(sptx_ranks *ranks) {
  *ranks = (sptx_ranks){0, 1, 0};
  if (!launched() || MPI_Init(NULL, NULL) != MPI_SUCCESS)
    return;
  MPI_Comm machine;
  MPI_Comm_rank(MPI_COMM_WORLD, &ranks->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks->count);
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, ranks->rank, MPI_INFO_NULL, &machine);
  MPI_Comm_rank(machine, &ranks->local_rank);
  MPI_Comm_free(&machine);
}

/* Rank 0's side: each text's length, then the text. */
static enum sptx_code receive_all(const sptx_ranks *ranks, const char *text, char ***texts,
                                  sptx_error *error) {
  char **all = calloc((size_t)ranks->count, sizeof *all);
  int failed = !all || !(all[0] = strdup(text));
  for (int k = 1; k < ranks->count && !failed; k++) {
    int length = 0;
    MPI_Recv(&length, 1, MPI_INT, k, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    all[k] = calloc((size_t)length + 1, 1);
    failed = !all[k];
    if (!failed)
      MPI_Recv(all[k], length, MPI_CHAR, k, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  if (failed)
    return no_memory(error); /* the caller ends the job, and all ranks with it */
  *texts = all;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_ranks_gather(const sptx_ranks *ranks, const char *text, char ***texts,
                                 sptx_error *error) {
  *texts = NULL;
  if (ranks->count == 1)
    return gather_alone(text, texts, error);
  if (ranks->rank == 0)
    return receive_all(ranks, text, texts, error);
  int length = (int)strlen(text);
  MPI_Send(&length, 1, MPI_INT, 0, 0, MPI_COMM_WORLD);
  MPI_Send(text, length, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
  return SPTX_CODE_OK;
}

void sptx_ranks_end(void) {
  int started = 0;
  MPI_Initialized(&started);
  if (started)
    MPI_Finalize();
}

#else
void sptx_ranks_begin(sptx_ranks *ranks) {
  *ranks = (sptx_ranks){0, 1, 0};
}

enum sptx_code sptx_ranks_gather(const sptx_ranks *ranks, const char *text, char ***texts,
                                 sptx_error *error) {
  (void)ranks;
  return gather_alone(text, texts, error);
}

void sptx_ranks_end(void) {}
#endif
