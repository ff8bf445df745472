/* Schedules as text, "isa=avx512 query_tile=64 key_tile=96": how wisdom stores them and how tools show them.
 */
#ifndef SPTX_GEN_SCHEDULE_TEXT_H
#define SPTX_GEN_SCHEDULE_TEXT_H

#include "gen/targets.h"

/* A schedule of either family. */
typedef union sptx_schedule {
  sptx_x86_schedule x86;
  sptx_ptx_schedule ptx;
} sptx_schedule;

/* The numbers of a schedule's fields, 0 beyond the last: what schedules have in common. */
enum { SPTX_SCHEDULE_FIELDS = 10 };
void sptx_schedule_numbers(enum sptx_target_family family, const sptx_schedule *schedule,
                           int numbers[SPTX_SCHEDULE_FIELDS]);

/* Writes the fields that are not zero, cut at size bytes with the end. */
void sptx_schedule_print(enum sptx_target_family family, const sptx_schedule *schedule, char *text,
                         size_t size);
/* Reads them back; fields left out become zero. Fails with SPTX_CODE_FORMAT, naming the word it cannot read.
 */
enum sptx_code sptx_schedule_parse(enum sptx_target_family family, const char *text, sptx_schedule *schedule,
                                   sptx_error *error);

#endif
