/* Golden files: read, compared line by line, rewritten on demand. */
#include "tests/patterns/golden.h"
#include "tests/patterns/problem.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *golden_read(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return NULL;
  size_t capacity = 1 << 22;
  char *text = malloc(capacity + 1);
  *size = fread(text, 1, capacity, file);
  text[*size] = 0;
  fclose(file);
  return text;
}

void golden_check(const char *name, const char *text) {
  char relative[256];
  size_t size;
  snprintf(relative, sizeof relative, "tests/patterns/golden/%s", name);
  if (getenv("SPTX_UPDATE_GOLDEN")) {
    FILE *file = fopen(problem_path(relative), "wb");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0, "%s cannot be written", relative);
  }
  char *expected = golden_read(problem_path(relative), &size);
  cr_assert(expected, "%s cannot be read", relative);
  const char *a = expected, *b = text;
  for (int line = 1; *a || *b; line++) {
    size_t a_length = strcspn(a, "\n"), b_length = strcspn(b, "\n");
    cr_assert(a_length == b_length && memcmp(a, b, a_length) == 0 && a[a_length] == b[b_length],
              "%s, line %d:\nexpected %.*s\nfound    %.*s", relative, line, (int)a_length, a, (int)b_length,
              b);
    a += a_length + (a[a_length] == '\n');
    b += b_length + (b[b_length] == '\n');
  }
  free(expected);
}
