/* The search space of one attention pass, whatever its target: every schedule that its pieces admit, with the
 * cost that the family's model expects. Nothing in it is listed by hand for a pattern: the families derive it
 * from the pieces (gen/x86/space.c, gen/ptx/schedule.c), by rules that leave out what cannot run. */
#ifndef SPTX_GEN_SPACE_H
#define SPTX_GEN_SPACE_H

#include "gen/rates.h"
#include "gen/schedule_text.h"

enum { SPTX_SPACE_MOST = 2048 }; /* schedules of one space */

/* What the space is of. All borrowed for the length of the call. */
typedef struct sptx_space_subject {
  const sptx_problem *problem;
  enum sptx_pass pass;
  const sptx_piece_list *lists; /* one for each class */
  int class_count;
  const int *class_of_head;
  enum sptx_target_family family;
  enum sptx_ptx_target ptx; /* of the PTX family; x86 offers what this machine has */
} sptx_space_subject;

typedef struct sptx_space {
  sptx_schedule *schedules; /* the first is the default: every choice left to the generator */
  double *expected_ms;      /* for the whole pass */
  int count;
} sptx_space;

/* rates may be NULL: the family's built-in ones. Clear the space in any case. */
enum sptx_code sptx_space_make(const sptx_space_subject *subject, const sptx_rates *rates, sptx_space *space,
                               sptx_error *error);
void sptx_space_clear(sptx_space *space);

#endif
