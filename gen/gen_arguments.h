/* The command line of sptx-gen: its options, its help, and the text of a command line. */
#ifndef SPTX_GEN_GEN_ARGUMENTS_H
#define SPTX_GEN_GEN_ARGUMENTS_H

#include "gen/command_options.h"

/* The forms of --dump. */
enum sptx_form {
  SPTX_FORM_PATTERN,
  SPTX_FORM_PIECES,
  SPTX_FORM_SCHEDULE,
  SPTX_FORM_IR,
  SPTX_FORM_ASM,
  SPTX_FORM_NONE,
};

typedef struct sptx_gen_arguments {
  sptx_command_options common;
  const char *path, *target, *schedule, *folder, *name, *draw, *mask; /* NULL: not given */
  enum sptx_form dump;
  bool soft_cap, alibi, any_order, check, targets, json, help, version;
} sptx_gen_arguments;

extern const char sptx_gen_usage[];

/* False after saying on stderr what is wrong. sptx_command_options_clear(&arguments->common) frees. */
bool sptx_gen_arguments_read(int argc, char **argv, sptx_gen_arguments *arguments);
/* The command line as a shell would take it back; free() frees it. NULL when out of memory. */
char *sptx_gen_command_line(int argc, char **argv);

#endif
