/* Appends to CSV files, and cuts them back to a step. */
#include "model/metrics.h"

#include "patterns/output.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* Copies the rows up to step from an older file, whose last row may be cut short by a kill. */
static enum sptx_code copy_rows(FILE *from, sptx_output *to, const char *columns, int64_t step,
                                double *seconds, sptx_error *error) {
  char *line = NULL;
  size_t capacity = 0, heading = strlen(columns);
  enum sptx_code code = SPTX_CODE_OK;
  ssize_t length = getline(&line, &capacity, from);
  if (length > 0 && ((size_t)length != heading + 1 || memcmp(line, columns, heading) != 0))
    code =
        sptx_fail(error, SPTX_CODE_FORMAT, "%s: its first line is not '%s'; move it away", to->path, columns);
  while (code == SPTX_CODE_OK && (length = getline(&line, &capacity, from)) > 0) {
    const char *comma = strchr(line, ',');
    if (line[length - 1] != '\n' || !comma || strtoll(line, NULL, 10) > step)
      continue;
    *seconds = strtod(comma + 1, NULL);
    code = sptx_output_write(to, line, (size_t)length, error);
  }
  free(line);
  return code;
}

enum sptx_code sptx_metrics_open(sptx_metrics *metrics, const char *folder, const char *name,
                                 const char *columns, int64_t step, sptx_error *error) {
  sptx_output file;
  metrics->stream = NULL;
  metrics->seconds = 0;
  if (snprintf(metrics->path, sizeof metrics->path, "%s/%s", folder, name) >= (int)sizeof metrics->path)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%.200s...: the path is too long", folder);
  SPTX_TRY(sptx_output_open(metrics->path, &file, error));
  enum sptx_code code = sptx_output_write(&file, columns, strlen(columns), error);
  if (code == SPTX_CODE_OK)
    code = sptx_output_write(&file, "\n", 1, error);
  FILE *old = step > 0 ? fopen(metrics->path, "r") : NULL;
  if (old && code == SPTX_CODE_OK)
    code = copy_rows(old, &file, columns, step, &metrics->seconds, error);
  if (old)
    fclose(old);
  if (code != SPTX_CODE_OK) {
    sptx_output_discard(&file);
    return code;
  }
  SPTX_TRY(sptx_output_commit(&file, error));
  metrics->stream = fopen(metrics->path, "a");
  if (!metrics->stream)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", metrics->path, strerror(errno));
  return SPTX_CODE_OK;
}

enum sptx_code sptx_metrics_add(sptx_metrics *metrics, int64_t step, const double *numbers, int count,
                                sptx_error *error) {
  fprintf(metrics->stream, "%ld", (long)step);
  for (int i = 0; i < count; i++)
    fprintf(metrics->stream, ",%.9g", numbers[i]);
  fputc('\n', metrics->stream);
  bool failed = ferror(metrics->stream) != 0;
  clearerr(metrics->stream);
  if (fflush(metrics->stream) || failed)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot be written: %s", metrics->path, strerror(errno));
  return SPTX_CODE_OK;
}

void sptx_metrics_close(sptx_metrics *metrics) {
  if (metrics->stream)
    fclose(metrics->stream);
  metrics->stream = NULL;
}
