/* A folder of test files that is removed again, and the text of the last failure. */
#ifndef SPTX_TESTS_MODEL_FILES_H
#define SPTX_TESTS_MODEL_FILES_H

#include <stddef.h>
#include <stdint.h>

/* A new folder; its path stays valid until the next call. */
const char *test_folder_create(void);
void test_folder_remove(void);
/* Removes a file or folder in it. */
void test_remove(const char *name);
/* A path in it; static, a few live side by side. */
const char *test_path(const char *name);
/* Writes the file, making the folder before a slash in its name. Returns its path as test_path does. */
const char *test_write(const char *name, const void *bytes, size_t size);

#endif
