/* The options that describe a shape to measure, the same in sptx-bench and sptx-tune: sizes, element type,
 * passes, device, threads and the pattern's parameters. */
#ifndef SPTX_TUNER_SHAPE_OPTIONS_H
#define SPTX_TUNER_SHAPE_OPTIONS_H

#include "tuner/bench.h"
#include <getopt.h>

enum { SPTX_MOST_SETS = 64 };

/* Values of struct option.val that sptx_shape_option understands; a command's own start at SPTX_OWN_OPTION.
 */
enum { SPTX_OWN_OPTION = 1000 };

typedef struct sptx_shape_options {
  const char *command; /* for messages */
  sptx_bench_request request;
  const char *step; /* --step, or NULL for all in turn */
  sptx_param params[SPTX_MOST_SETS];
  char *names[SPTX_MOST_SETS]; /* owned copies that params point into */
} sptx_shape_options;

/* Rows for a command's own table of long options. */
#define SPTX_SHAPE_OPTIONS                                                                                   \
  {"n", required_argument, NULL, 'n'}, {"n-q", required_argument, NULL, 'q'},                                \
      {"batch", required_argument, NULL, 'b'}, {"heads", required_argument, NULL, 'h'},                      \
      {"kv-heads", required_argument, NULL, 'k'}, {"head-dim", required_argument, NULL, 'd'},                \
      {"dtype", required_argument, NULL, 't'}, {"pass", required_argument, NULL, 'p'},                       \
      {"step", required_argument, NULL, 's'}, {"set", required_argument, NULL, 'S'},                         \
      {"device", required_argument, NULL, 'D'}, {                                                            \
    "threads", required_argument, NULL, 'T'                                                                  \
  }

#define SPTX_SHAPE_USAGE                                                                                     \
  "  --n N              keys (and queries, unless --n-q says otherwise)\n"                                   \
  "  --n-q N            queries; the last one is aligned with the last key\n"                                \
  "  --batch B          sequences (1)\n"                                                                     \
  "  --heads H          query heads (8)\n"                                                                   \
  "  --kv-heads K       key and value heads, a divisor of H (H)\n"                                           \
  "  --head-dim D       16 to 256 in steps of 8 (64)\n"                                                      \
  "  --dtype T          f32, f16 or bf16 (f32)\n"                                                            \
  "  --pass P           forward, backward or forward,backward (forward)\n"                                   \
  "  --step NAME        one step of an interleaved pattern; all in turn when left out\n"                     \
  "  --set NAME=VALUE   replaces a parameter of the pattern; may be given again\n"                           \
  "  --device D         cpu (cpu)\n"                                                                         \
  "  --threads T        threads of the kernels and of sgemm (all usable cores)\n"

void sptx_shape_options_begin(sptx_shape_options *options, const char *command);
void sptx_shape_options_clear(sptx_shape_options *options);
/* Reads one option of the table above; false after saying on stderr what is wrong. */
bool sptx_shape_option(sptx_shape_options *options, int option, const char *value);
/* Fills what was left out, and checks what only all options together show. */
bool sptx_shape_options_finish(sptx_shape_options *options, const char *pattern_path);
/* Says "command: message: value; see command --help" on stderr and is false. */
bool sptx_complain(const char *command, const char *message, const char *value);
/* Reads a number from 1 to most. */
bool sptx_read_count(const char *command, const char *option, const char *text, int64_t most, int64_t *value);
/* Prints the error and returns the exit status: 2 where the user's input is at fault, else 1. */
int sptx_exit_status(const char *command, const sptx_error *error);

#endif
