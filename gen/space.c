/* Unites the spaces of a pass's pieces: one schedule serves all of them, so it must fit all of them. */
#include "gen/space.h"

#include "gen/ptx/schedule.h"
#include <stdlib.h>
#include <string.h>

static int64_t heads_of_class(const sptx_space_subject *subject, int class_index) {
  int64_t heads = 0;
  for (int64_t h = 0; h < subject->problem->heads; h++)
    heads += subject->class_of_head[h] == class_index;
  return heads;
}

/* Whether a schedule fits every piece; *seconds is what all of them are expected to take. */
static bool judge_x86(const sptx_space_subject *subject, const sptx_x86_schedule *schedule,
                      const sptx_rates *rates, double *seconds) {
  *seconds = 0;
  for (int c = 0; c < subject->class_count; c++)
    for (int k = 0; k < subject->lists[c].count; k++) {
      const sptx_piece *piece = &subject->lists[c].pieces[k];
      if (!sptx_x86_schedule_fits(schedule, subject->problem, subject->pass, piece))
        return false;
      *seconds += sptx_x86_schedule_cost(schedule, subject->problem, subject->pass, piece,
                                         heads_of_class(subject, c), rates);
    }
  return true;
}

static void add_x86(const sptx_space_subject *subject, const sptx_x86_schedule *schedule,
                    const sptx_rates *rates, sptx_space *space) {
  double seconds;
  for (int k = 1; k < space->count; k++)
    if (memcmp(&space->schedules[k].x86, schedule, sizeof *schedule) == 0)
      return;
  if (space->count == SPTX_SPACE_MOST || !judge_x86(subject, schedule, rates, &seconds))
    return;
  space->schedules[space->count].x86 = *schedule;
  space->expected_ms[space->count++] = 1e3 * seconds;
}

static void fill_x86(const sptx_space_subject *subject, const sptx_rates *given, sptx_x86_schedule *offers,
                     sptx_space *space) {
  sptx_rates widest = *given, *rates = &widest;
  double seconds;
  widest.lanes = sptx_x86_lanes(sptx_x86_host_isa());
  space->schedules[0].x86.isa = sptx_x86_host_isa();
  judge_x86(subject, &space->schedules[0].x86, rates, &seconds);
  space->expected_ms[0] = 1e3 * seconds;
  space->count = 1;
  for (int isa = SPTX_ISA_AVX2; isa <= SPTX_ISA_AMX; isa++)
    for (int c = 0; c < subject->class_count && sptx_x86_isa_available((enum sptx_isa)isa); c++)
      for (int k = 0; k < subject->lists[c].count; k++) {
        int count = sptx_x86_schedule_space(subject->problem, subject->pass, &subject->lists[c].pieces[k],
                                            (enum sptx_isa)isa, offers, SPTX_SPACE_MOST);
        for (int s = 0; s < count; s++)
          add_x86(subject, &offers[s], rates, space);
      }
}

static enum sptx_code fill_gpu(const sptx_space_subject *subject, const sptx_rates *rates, sptx_space *space,
                               sptx_error *error) {
  sptx_gpu_subject gpu = {.problem = subject->problem,
                          .pass = subject->pass,
                          .target = subject->ptx,
                          .lists = subject->lists,
                          .class_count = subject->class_count,
                          .class_of_head = subject->class_of_head};
  sptx_gpu_offer *offers = calloc(SPTX_GPU_OFFERS, sizeof *offers);
  if (!offers)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d schedules", SPTX_GPU_OFFERS);
  space->count = sptx_gpu_schedule_space(&gpu, rates, offers);
  for (int k = 0; k < space->count; k++) {
    space->schedules[k].ptx = offers[k].schedule;
    space->expected_ms[k] = 1e3 * offers[k].seconds;
  }
  free(offers);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_space_make(const sptx_space_subject *subject, const sptx_rates *rates, sptx_space *space,
                               sptx_error *error) {
  sptx_schedule *offers = calloc(SPTX_SPACE_MOST, sizeof *offers);
  *space = (sptx_space){.schedules = calloc(SPTX_SPACE_MOST, sizeof *space->schedules),
                        .expected_ms = calloc(SPTX_SPACE_MOST, sizeof *space->expected_ms)};
  enum sptx_code code = SPTX_CODE_OK;
  if (!offers || !space->schedules || !space->expected_ms)
    code = sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %d schedules", SPTX_SPACE_MOST);
  else if (subject->family == SPTX_FAMILY_X86)
    fill_x86(subject, rates ? rates : &sptx_x86_rates, &offers->x86, space);
  else
    code = fill_gpu(subject, rates ? rates : &sptx_ptx_rates, space, error);
  free(offers);
  return code;
}

void sptx_space_clear(sptx_space *space) {
  free(space->schedules);
  free(space->expected_ms);
  *space = (sptx_space){0};
}
