/* A small text file read whole: sweeps, wisdom to import. */
#ifndef SPTX_TUNER_TEXT_FILE_H
#define SPTX_TUNER_TEXT_FILE_H

#include "patterns/error.h"
#include <stddef.h>

/* *text is freed with free(). Fails with SPTX_CODE_IO or SPTX_CODE_OUT_OF_MEMORY. "-" reads stdin. */
enum sptx_code sptx_text_file_read(const char *path, char **text, size_t *length, sptx_error *error);

#endif
