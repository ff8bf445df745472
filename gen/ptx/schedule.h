/* The schedules worth trying on a GPU, for gen/space.c. */
#ifndef SPTX_GEN_PTX_SCHEDULE_H
#define SPTX_GEN_PTX_SCHEDULE_H

#include "gen/ptx/plan.h"
#include "gen/rates.h"
#include <stdbool.h>

enum { SPTX_GPU_OFFERS = 512 };

typedef struct sptx_gpu_subject {
  const sptx_problem *problem;
  enum sptx_pass pass;
  enum sptx_ptx_target target;
  const sptx_piece_list *lists;
  int class_count;
  const int *class_of_head;
} sptx_gpu_subject;

typedef struct sptx_gpu_offer {
  sptx_ptx_schedule schedule;
  bool possible;        /* the planner takes it; always true of the result's entries but the first */
  uint64_t fingerprint; /* of the launches it leads to */
  double seconds;       /* expected */
} sptx_gpu_offer;

/* Fills offers, the default first, no two of which lead to the same launches; returns how many. */
int sptx_gpu_schedule_space(const sptx_gpu_subject *subject, const sptx_rates *rates,
                            sptx_gpu_offer offers[SPTX_GPU_OFFERS]);

#endif
