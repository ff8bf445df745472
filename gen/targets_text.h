/* The support matrix as sptx-gen --targets prints it. */
#ifndef SPTX_GEN_TARGETS_TEXT_H
#define SPTX_GEN_TARGETS_TEXT_H

#include "patterns/error.h"
#include <stdbool.h>
#include <stdio.h>

/* One line, or one object of the JSON object's list "targets", for each row of gen/targets.h. */
enum sptx_code sptx_targets_print(bool json, FILE *stream, sptx_error *error);

#endif
