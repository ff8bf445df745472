/* A run's CSV files: metrics.csv while training and validation.csv. A resumed run drops the rows after the
 * checkpoint that it continues from, and appends. */
#ifndef SPTX_MODEL_METRICS_H
#define SPTX_MODEL_METRICS_H

#include "patterns/error.h"
#include <limits.h>
#include <stdint.h>
#include <stdio.h>

typedef struct sptx_metrics {
  FILE *stream;
  char path[PATH_MAX];
  double seconds; /* the second column of the last row that was there already; else 0 */
} sptx_metrics;

/* Opens folder/name for appending. columns: the heading, whose first ones are step and seconds. Rows of steps
 * after `step` (all of them when it is 0) go. Fails: SPTX_CODE_IO, SPTX_CODE_FORMAT (another heading). */
enum sptx_code sptx_metrics_open(sptx_metrics *metrics, const char *folder, const char *name,
                                 const char *columns, int64_t step, sptx_error *error);
/* Appends a row: the step, then `count` numbers. It is on its way to the disk on return. Fails: SPTX_CODE_IO.
 */
enum sptx_code sptx_metrics_add(sptx_metrics *metrics, int64_t step, const double *numbers, int count,
                                sptx_error *error);
void sptx_metrics_close(sptx_metrics *metrics); /* one that was never opened (zero) is allowed */

#endif
