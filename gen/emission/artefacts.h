/* The files that sptx-gen writes: collected in memory first, so that a pattern that cannot be compiled, a
 * full disk or a folder that may not be written leaves nothing behind. */
#ifndef SPTX_GEN_EMISSION_ARTEFACTS_H
#define SPTX_GEN_EMISSION_ARTEFACTS_H

#include "patterns/error.h"
#include <stddef.h>

typedef struct sptx_artefact {
  char *name; /* inside the folder */
  char *bytes;
  size_t size;
} sptx_artefact;

/* Zero it to begin. */
typedef struct sptx_artefacts {
  sptx_artefact *files;
  size_t count;
} sptx_artefacts;

/* Adds the file name + suffix; takes bytes, which free() frees, also when it fails. NULL bytes: no memory. */
enum sptx_code sptx_artefacts_add(sptx_artefacts *artefacts, const char *name, const char *suffix,
                                  char *bytes, size_t size, sptx_error *error);
/* Writes all files into the folder, which is made when it is missing. Failing leaves no new file, and the
 * folder as it was. */
enum sptx_code sptx_artefacts_write(const sptx_artefacts *artefacts, const char *folder, sptx_error *error);
void sptx_artefacts_clear(sptx_artefacts *artefacts);

#endif
