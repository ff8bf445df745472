/* The text forms `--dump pattern` and `--dump pieces` of the library against golden files, and the sets' text
 * read back. */
#include "patterns/print.h"
#include "tests/patterns/golden.h"
#include "tests/patterns/problem.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct text {
  char *buffer;
  size_t size;
  FILE *stream;
} text;

static void open_text(text *t) {
  t->stream = open_memstream(&t->buffer, &t->size);
}

Test(print, library) {
  static const sptx_selection shapes[] = {{1000, 1000, 4, NULL}, {100, 777, 2, NULL}};
  for (const char *const *name = problem_library_names; *name; name++) {
    sptx_pattern *pattern = problem_library(*name, NULL, 0);
    text pattern_text, pieces_text;
    sptx_error error = {0};
    char file[128];
    open_text(&pattern_text);
    open_text(&pieces_text);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
      cr_assert_eq(sptx_print_pattern(pattern, &shapes[k], pattern_text.stream, &error), SPTX_CODE_OK, "%s",
                   error.message);
      cr_assert_eq(sptx_print_pieces(pattern, &shapes[k], 0, 0, pieces_text.stream, &error), SPTX_CODE_OK,
                   "%s", error.message);
    }
    fclose(pattern_text.stream);
    fclose(pieces_text.stream);
    snprintf(file, sizeof file, "%s.pattern", *name);
    if (strcmp(*name, "block-layout") != 0) /* its matrix alone is 32 lines' worth */
      golden_check(file, pattern_text.buffer);
    snprintf(file, sizeof file, "%s.pieces", *name);
    golden_check(file, pieces_text.buffer);
    free(pattern_text.buffer);
    free(pieces_text.buffer);
    sptx_pattern_release(pattern);
  }
}

Test(print, one_step) {
  sptx_pattern *pattern = problem_library("strided", NULL, 0);
  const sptx_selection column = {64, 64, 1, "column"}, none = {64, 64, 1, "none"};
  sptx_error error = {0};
  text t;
  open_text(&t);
  cr_assert_eq(sptx_print_pattern(pattern, &column, t.stream, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_print_pattern(pattern, &none, t.stream, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_eq(sptx_print_pieces(pattern, &none, 0, 0, t.stream, &error), SPTX_CODE_INVALID_ARGUMENT);
  fclose(t.stream);
  cr_assert_str_eq(t.buffer, "pattern strided, n_q 64, n_k 64, causal\nstep column, heads 0\n"
                             "  stride: {every: 128, phase: 0}\n");
  free(t.buffer);
  sptx_pattern_release(pattern);
}

/* What a set prints resolves to an equal set, in block and in flow style. */
Test(print, sets_read_back, .timeout = 30) {
  problem_random random = problem_random_make("print/sets_read_back");
  for (int k = 0; k < 300; k++) {
    int64_t n = 1 + problem_random_below(&random, 200);
    char *yaml = problem_random_pattern(&random, n);
    bool causal = strstr(yaml, "causal: true") != NULL;
    sptx_pattern *pattern;
    sptx_instance instance, again;
    sptx_error error = {0};
    cr_assert_eq(sptx_pattern_parse(yaml, strlen(yaml), "r.yaml", NULL, 0, &pattern, &error), SPTX_CODE_OK);
    cr_assert_eq(sptx_pattern_resolve(pattern, 0, 1, n, n, &instance, &error), SPTX_CODE_OK);
    for (int flow = 0; flow < 2; flow++) {
      text t;
      open_text(&t);
      fprintf(t.stream, "causal: %s\nattend:\n  ", causal ? "true" : "false");
      if (flow)
        sptx_set_print_line(instance.classes[0], t.stream);
      else
        sptx_set_print(instance.classes[0], 2, t.stream);
      fclose(t.stream);
      sptx_pattern *read = problem_parse(t.buffer);
      cr_assert_eq(sptx_pattern_resolve(read, 0, 1, n, n, &again, &error), SPTX_CODE_OK, "%s\n%s",
                   error.message, t.buffer);
      cr_assert(sptx_set_equal(instance.classes[0], again.classes[0]), "seed %" PRIu64 "\n%s\nbecame\n%s",
                random.seed, yaml, t.buffer);
      sptx_instance_clear(&again);
      sptx_pattern_release(read);
      free(t.buffer);
    }
    sptx_instance_clear(&instance);
    sptx_pattern_release(pattern);
    free(yaml);
  }
}

static void check_bound(sptx_bound bound, const char *expected) {
  text t;
  open_text(&t);
  sptx_bound_print(&bound, t.stream);
  fclose(t.stream);
  cr_assert_str_eq(t.buffer, expected);
  free(t.buffer);
}

Test(print, bounds) {
  const int64_t far = INT64_MAX / 8;
  check_bound((sptx_bound){0, 0, 1, 0, 0, 7, 7, 7}, "7");
  check_bound((sptx_bound){0, 0, 1, 0, 0, 7, 0, 5}, "5");
  check_bound((sptx_bound){1, 0, 1, 0, 0, 0, 0, far}, "x");
  check_bound((sptx_bound){1, 3, 1, 0, 0, -4, 0, far}, "x - 1");
  check_bound((sptx_bound){1, 0, 1, 0, 0, 1, 2, 9}, "clamp(x + 1, 2, 9)");
  check_bound((sptx_bound){1, 0, 1, 0, 0, 1, 2, far}, "clamp(x + 1, 2, n)");
  check_bound((sptx_bound){4, 2, 6, 0, 0, 3, 0, far}, "4*floor((x + 2) / 6) + 3");
  check_bound((sptx_bound){1, -2, 6, 4, 2, 0, 0, far}, "floor((x - 2) / 6) + clamp((x - 2) mod 6 - 4, 0, 2)");
}
