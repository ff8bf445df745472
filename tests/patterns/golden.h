/* Texts compared with files of tests/patterns/golden; SPTX_UPDATE_GOLDEN=1 rewrites these. */
#ifndef SPTX_TESTS_PATTERNS_GOLDEN_H
#define SPTX_TESTS_PATTERNS_GOLDEN_H

#include <stddef.h>

/* The bytes of a file, NUL terminated; the caller frees them. NULL when it cannot be read. */
char *golden_read(const char *path, size_t *size);
/* Asserts that text is what golden/name holds; a failure shows the first line that differs. */
void golden_check(const char *name, const char *text);

#endif
