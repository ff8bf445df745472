/* How much work a piece is when it is cut into tiles of a given size: what both families' cost models start
 * from. An estimate from a sample of the tiles, so that it takes microseconds for any n. */
#ifndef SPTX_GEN_WORKLOAD_H
#define SPTX_GEN_WORKLOAD_H

#include "gen/kernel.h"

/* Of one head, all shared values together. */
typedef struct sptx_workload {
  double lanes;           /* shared values: independent small problems */
  double tiles;           /* query tiles */
  double keys;            /* keys that the tiles see, added up over tiles */
  double steps;           /* key tiles that the query tiles walk */
  double masked;          /* of the steps: those that some query sees in part only */
  double keys_of_longest; /* of the query tile that sees most */
} sptx_workload;

void sptx_workload_of(const sptx_problem *problem, const sptx_piece *piece, int query_tile, int key_tile,
                      sptx_workload *work);

#endif
