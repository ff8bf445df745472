/* The options that describe a shape to measure: those of gen/command_options.h, with defaults for measuring,
 * filled into a request. */
#ifndef SPTX_TUNER_SHAPE_OPTIONS_H
#define SPTX_TUNER_SHAPE_OPTIONS_H

#include "gen/command_options.h"
#include "tuner/bench.h"

typedef struct sptx_shape_options {
  sptx_command_options common;
  sptx_bench_request request; /* its params borrow from common */
  const char *step;           /* --step, or NULL for all in turn */
  sptx_param params[SPTX_MOST_SETS];
} sptx_shape_options;

enum { SPTX_NONDETERMINISTIC_OPTION = SPTX_OWN_OPTION - 1 };

#define SPTX_MEASURE_OPTIONS                                                                                 \
  SPTX_SHAPE_OPTIONS, {                                                                                      \
    "nondeterministic", no_argument, NULL, SPTX_NONDETERMINISTIC_OPTION                                      \
  }

#define SPTX_SHAPE_USAGE                                                                                     \
  SPTX_SIZE_USAGE                                                                                            \
  "  --pass P           forward, backward or forward,backward (forward)\n" SPTX_STEP_USAGE                   \
  "  --nondeterministic the backward may add up in no fixed order, where that is faster\n"                   \
  "  --device D         cpu or cuda:N (cpu)\n"                                                               \
  "  --threads T        threads of the kernels and of sgemm (all usable cores)\n"

void sptx_shape_options_begin(sptx_shape_options *options, const char *command);
void sptx_shape_options_clear(sptx_shape_options *options);
/* Reads one option of the common table; false after saying on stderr what is wrong. */
bool sptx_shape_option(sptx_shape_options *options, int option, const char *value);
/* Fills what was left out, checks what only all options together show, and fills the request. */
bool sptx_shape_options_finish(sptx_shape_options *options, const char *pattern_path);

#endif
