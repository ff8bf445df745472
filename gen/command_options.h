/* The options that describe an attention call on the command line, the same in every command that takes them:
 * sizes, element type, passes, device, threads and the pattern's parameters. Messages go to stderr, name the
 * option and say what it accepts. For commands only: the libraries never print. */
#ifndef SPTX_GEN_COMMAND_OPTIONS_H
#define SPTX_GEN_COMMAND_OPTIONS_H

#include "gen/kernel.h"
#include "patterns/pattern.h"
#include <getopt.h>

enum { SPTX_MOST_SETS = 64 };

/* Values of struct option.val that sptx_command_option understands; a command's own start at SPTX_OWN_OPTION.
 */
enum { SPTX_OWN_OPTION = 1000 };

typedef struct sptx_command_options {
  const char *command; /* for messages */
  int64_t n_q, n_k, batch, heads, kv_heads, head_dim;
  enum sptx_element element;
  unsigned passes;     /* bit (1 << enum sptx_pass): wanted */
  unsigned passes_had; /* the same: what the command can do */
  const char *step;    /* --step, or NULL for all in turn */
  const char *device;
  int threads;                             /* 0: not given */
  sptx_override overrides[SPTX_MOST_SETS]; /* --set; names are owned, values point into argv */
  size_t override_count;
} sptx_command_options;

/* Rows for a command's own table of long options: what is computed, and with where it is run. */
#define SPTX_SIZE_OPTIONS                                                                                    \
  {"n", required_argument, NULL, 'n'}, {"n-q", required_argument, NULL, 'q'},                                \
      {"batch", required_argument, NULL, 'b'}, {"heads", required_argument, NULL, 'h'},                      \
      {"kv-heads", required_argument, NULL, 'k'}, {"head-dim", required_argument, NULL, 'd'},                \
      {"dtype", required_argument, NULL, 't'}, {"pass", required_argument, NULL, 'p'},                       \
      {"step", required_argument, NULL, 's'}, {"set", required_argument, NULL, 'S'}, {                       \
    "device", required_argument, NULL, 'D'                                                                   \
  }
#define SPTX_SHAPE_OPTIONS                                                                                   \
  SPTX_SIZE_OPTIONS, {                                                                                       \
    "threads", required_argument, NULL, 'T'                                                                  \
  }

#define SPTX_SIZE_USAGE                                                                                      \
  "  --n N              keys (and queries, unless --n-q says otherwise)\n"                                   \
  "  --n-q N            queries; the last one is aligned with the last key\n"                                \
  "  --batch B          sequences (1)\n"                                                                     \
  "  --heads H          query heads (8)\n"                                                                   \
  "  --kv-heads K       key and value heads, a divisor of H (H)\n"                                           \
  "  --head-dim D       16 to 256 in steps of 8 (64)\n"                                                      \
  "  --dtype T          f32, f16 or bf16 (f32)\n"
#define SPTX_STEP_USAGE                                                                                      \
  "  --step NAME        one step of an interleaved pattern; all in turn when left out\n"                     \
  "  --set NAME=VALUE   replaces a parameter of the pattern; may be given again\n"

void sptx_command_options_begin(sptx_command_options *options, const char *command, unsigned passes_had);
void sptx_command_options_clear(sptx_command_options *options);
/* Reads one option of the table above; false after saying on stderr what is wrong. */
bool sptx_command_option(sptx_command_options *options, int option, const char *value);
/* Fills what was left out (not threads), and checks what only all options together show. */
bool sptx_command_options_finish(sptx_command_options *options);
/* Says "command: message: value; see command --help" on stderr and is false. */
bool sptx_complain(const char *command, const char *message, const char *value);
/* Takes the one argument that getopt has left over; name says in the complaint what is missing. */
bool sptx_command_operand(const char *command, const char *name, int argc, char **argv, const char **operand);
/* Prints the error and returns the exit status: 2 where the user's input is at fault, else 1. */
int sptx_exit_status(const char *command, const sptx_error *error);

#endif
