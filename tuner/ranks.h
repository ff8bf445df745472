/* The processes that share a sweep: the ranks that mpirun started, or this one alone. Built with Open MPI
 * where it is installed; without it, or without mpirun, there is one rank. */
#ifndef SPTX_TUNER_RANKS_H
#define SPTX_TUNER_RANKS_H

#include "patterns/error.h"

typedef struct sptx_ranks {
  int rank, count;
  int local_rank; /* among those of the same machine: which GPU is this one's */
} sptx_ranks;

void sptx_ranks_begin(sptx_ranks *ranks);
/* Brings every rank's text to rank 0, where *texts becomes an array of count strings to be freed one by one;
 * NULL elsewhere. All ranks must call it. */
enum sptx_code sptx_ranks_gather(const sptx_ranks *ranks, const char *text, char ***texts, sptx_error *error);
void sptx_ranks_end(void);

#endif
