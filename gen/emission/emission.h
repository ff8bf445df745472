/* From a lowered pattern to the files that sptx-gen writes. For each pass: NAME_PASS.ll, .s and .o, or .ll
 * and .ptx; and one header NAME.h for all passes. What sptx-gen dumps is what it writes. */
#ifndef SPTX_GEN_EMISSION_EMISSION_H
#define SPTX_GEN_EMISSION_EMISSION_H

#include "gen/compile.h"
#include "gen/emission/artefacts.h"
#include "gen/schedule_text.h"

/* One step of a pattern, to be emitted. Everything is borrowed. */
typedef struct sptx_emission {
  const sptx_compilation *compilation; /* lowered */
  const char *command_line;            /* for the heads of the files */
  const char *name;                    /* a C identifier that files and symbols begin with */
  const sptx_target *target;
  const sptx_schedule *schedule; /* of the target's family, or NULL: defaults */
  unsigned passes;               /* bit (1 << enum sptx_pass) */
} sptx_emission;

enum sptx_dump { SPTX_DUMP_SCHEDULE, SPTX_DUMP_IR, SPTX_DUMP_ASM };

/* Adds the files of the step to artefacts. */
enum sptx_code sptx_emit(const sptx_emission *emission, sptx_artefacts *artefacts, sptx_error *error);
/* Writes one text form of every pass to stream. */
enum sptx_code sptx_emission_dump(const sptx_emission *emission, enum sptx_dump what, FILE *stream,
                                  sptx_error *error);

/* Inside gen/emission. */

/* One pass on its way to files. */
typedef struct sptx_emitted_pass {
  sptx_problem problem; /* the compilation's, but decode has one query in q and o */
  sptx_unit unit;
  char *origin; /* lines about where it came from, each ended by a newline; owned */
  char *ir;     /* text; owned */
} sptx_emitted_pass;

/* origin.c: the lines of a pass, for its plan; NULL when out of memory. */
char *sptx_origin_text(const sptx_emission *emission, const sptx_unit *unit);
/* Writes the lines, each after prefix; never ends a C comment. */
void sptx_origin_write(const char *origin, const char *prefix, FILE *stream);

/* entry.c: makes the kernels of an x86 module private to it and adds NAME_PASS_item, which holds the plan's
 * parameter blocks. */
enum sptx_code sptx_entry_add(const sptx_emission *emission, sptx_unit *unit, sptx_error *error);

/* The header of all passes; they have plans of the target's family. */
void sptx_header_x86(const sptx_emission *emission, const sptx_emitted_pass *passes, int count, FILE *stream);
void sptx_header_ptx(const sptx_emission *emission, const sptx_emitted_pass *passes, int count, FILE *stream);

/* template.c: writes text with every '@' replaced by name and every '$' by NAME. */
void sptx_template_write(const char *text, const char *name, FILE *stream);
/* Writes 64-bit words as the rows of an initialiser, the last one padded with zeros. */
void sptx_template_words(const void *bytes, size_t size, FILE *stream);
/* What both families' headers begin with, up to and with the sizes. */
void sptx_template_head(const sptx_emission *emission, const sptx_emitted_pass *passes, int count,
                        FILE *stream);
/* "float", or "uint16_t" for the bits of a half or bfloat16. */
const char *sptx_template_type(enum sptx_element element);

#endif
