/* Files that show a pattern: the mask as .npy, pictures as .png and .svg. Written whole or not at all. */
#include "patterns/draw.h"
#include "patterns/mask.h"
#include "patterns/npy.h"
#include "patterns/picture.h"
#include "tests/patterns/golden.h"
#include "tests/patterns/problem.h"

#include <cairo.h>
#include <criterion/criterion.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/sptx-pictures-XXXXXX";
static char path[256];

static const char *file(const char *name) {
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void set_up(void) {
  cr_assert(mkdtemp(folder));
}

static void tear_down(void) {
  char command[256];
  snprintf(command, sizeof command, "rm -r %s", folder);
  cr_assert_eq(system(command), 0);
}

TestSuite(pictures, .init = set_up, .fini = tear_down);

static void check_mask(const sptx_pattern *pattern, int64_t heads, int64_t n_q, int64_t n_k) {
  const sptx_selection selection = {n_q, n_k, heads, NULL};
  int64_t steps = (int64_t)sptx_pattern_step_count(pattern);
  sptx_error error = {0};
  sptx_npy npy;
  cr_assert_eq(sptx_mask_write(pattern, &selection, file("mask.npy"), &error), SPTX_CODE_OK, "%s",
               error.message);
  cr_assert_eq(sptx_npy_read(file("mask.npy"), INT64_MAX, &npy, &error), SPTX_CODE_OK, "%s", error.message);
  cr_assert(npy.type == SPTX_NPY_BOOL && npy.rank == 3);
  cr_assert(npy.shape[0] == steps * heads && npy.shape[1] == n_q && npy.shape[2] == n_k);
  for (int64_t k = 0; k < steps * heads; k++) {
    sptx_instance instance;
    cr_assert_eq(sptx_pattern_resolve(pattern, (size_t)(k / heads), heads, n_q, n_k, &instance, &error),
                 SPTX_CODE_OK);
    for (int64_t i = 0; i < n_q; i++)
      for (int64_t j = 0; j < n_k; j++) {
        bool expected;
        sptx_instance_contains(&instance, k % heads, i, j, &expected, NULL);
        cr_assert_eq(((bool *)npy.data)[(k * n_q + i) * n_k + j], expected);
      }
    sptx_instance_clear(&instance);
  }
  sptx_npy_clear(&npy);
}

Test(pictures, masks) {
  sptx_pattern *pattern =
      problem_parse("causal: true\nheads:\n- attend: {window: {left: 3}}\n- attend: {random: "
                    "{block: 4, per_row: 1, seed: h}}\n");
  check_mask(pattern, 4, 20, 20);
  check_mask(pattern, 1, 7, 33);
  sptx_pattern_release(pattern);
  pattern = problem_library("fixed", NULL, 0);
  check_mask(pattern, 2, 150, 150);
  const sptx_selection column = {30, 30, 2, "columns"}, large = {8193, 8193, 1, NULL},
                       none = {30, 30, 2, "x"};
  sptx_error error = {0};
  sptx_npy npy;
  cr_assert_eq(sptx_mask_write(pattern, &column, file("column.npy"), &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_npy_read(file("column.npy"), INT64_MAX, &npy, &error), SPTX_CODE_OK);
  cr_assert_eq(npy.shape[0], 2);
  sptx_npy_clear(&npy);
  cr_assert_eq(sptx_mask_write(pattern, &large, file("large.npy"), &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_neq(access(path, F_OK), 0);
  cr_assert_eq(sptx_mask_write(pattern, &none, file("none.npy"), &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_neq(access(path, F_OK), 0);
  sptx_pattern_release(pattern);
}

/* A `where` that fails for the last query only: what stood there before stays. */
Test(pictures, a_failing_pattern_leaves_the_file_alone) {
  sptx_pattern *pattern = problem_parse("attend: {where: \"100 / (59 - i) >= 0\"}\n");
  const sptx_selection selection = {60, 60, 1, NULL};
  const sptx_draw_request request = {.n_q = 60, .n_k = 60, .heads = 1, .query = -1};
  sptx_error error = {0};
  size_t size;
  FILE *before = fopen(file("kept.npy"), "w");
  fputs("before", before);
  fclose(before);
  cr_assert_eq(sptx_mask_write(pattern, &selection, file("kept.npy"), &error), SPTX_CODE_PATTERN_VALUE);
  cr_assert_eq(strncmp(error.message, "test.yaml:2:22: division by zero: 100 / 0", 41), 0, "%s",
               error.message);
  char *text = golden_read(file("kept.npy"), &size);
  cr_assert_str_eq(text, "before");
  free(text);
  cr_assert_eq(sptx_draw(pattern, &request, file("none.png"), &error), SPTX_CODE_PATTERN_VALUE);
  glob_t found; /* nor is a part of any file left */
  cr_assert_eq(glob(file("*"), 0, NULL, &found), 0);
  cr_assert(found.gl_pathc == 1 && strstr(found.gl_pathv[0], "kept.npy"));
  globfree(&found);
  sptx_pattern_release(pattern);
}

Test(pictures, unwritable) {
  sptx_pattern *pattern = problem_library("strided", NULL, 0);
  const sptx_selection selection = {60, 60, 1, NULL};
  sptx_draw_request request = {.n_q = 60, .n_k = 60, .heads = 1, .query = -1};
  sptx_error error = {0};
  cr_assert_eq(sptx_mask_write(pattern, &selection, "/nonexistent/mask.npy", &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_mask_write(pattern, &selection, "/dev/full", &error), SPTX_CODE_IO, "%s", error.message);
  cr_assert_eq(sptx_draw(pattern, &request, "/nonexistent/x.svg", &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_draw(pattern, &request, file("x.gif"), &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_eq(symlink("/dev/full", file("full.png")), 0);
  cr_assert_eq(sptx_draw(pattern, &request, path, &error), SPTX_CODE_IO, "%s", error.message);
  cr_assert_eq(symlink("/dev/full", file("full.svg")), 0);
  cr_assert_eq(sptx_draw(pattern, &request, path, &error), SPTX_CODE_IO, "%s", error.message);
  request.query = 60;
  cr_assert_eq(sptx_draw(pattern, &request, file("x.svg"), &error), SPTX_CODE_INVALID_ARGUMENT);
  request.query = -1;
  request.n_q = request.n_k = SPTX_DRAW_MAX_N + 1;
  cr_assert_eq(sptx_draw(pattern, &request, file("x.svg"), &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_neq(access(path, F_OK), 0);
  sptx_pattern_release(pattern);
}

Test(pictures, every_library_pattern_is_drawn, .timeout = 60) {
  for (const char *const *name = problem_library_names; *name; name++) {
    sptx_pattern *pattern = problem_library(*name, NULL, 0);
    const sptx_draw_request request = {.n_q = 500, .n_k = 700, .heads = 8, .query = -1};
    sptx_error error = {0};
    size_t size;
    cr_assert_eq(sptx_draw(pattern, &request, file("x.png"), &error), SPTX_CODE_OK, "%s: %s", *name,
                 error.message);
    cairo_surface_t *image = cairo_image_surface_create_from_png(path);
    cr_assert_eq(cairo_surface_status(image), CAIRO_STATUS_SUCCESS, "%s", *name);
    cr_assert_gt(cairo_image_surface_get_width(image), 700);
    cairo_surface_destroy(image);
    cr_assert_eq(sptx_draw(pattern, &request, file("x.svg"), &error), SPTX_CODE_OK, "%s: %s", *name,
                 error.message);
    char *svg = golden_read(path, &size);
    cr_assert(strstr(svg, "<svg ") && strstr(svg, "</svg>"), "%s", *name);
    free(svg);
    sptx_pattern_release(pattern);
  }
}

static uint32_t pixel(const sptx_colour c) {
  return (uint32_t)(c.red * 255 + 0.5f) << 16 | (uint32_t)(c.green * 255 + 0.5f) << 8 |
         (uint32_t)(c.blue * 255 + 0.5f);
}

/* With a cell of a few pixels for each pair, the matrix shows just the pairs of the oracle. */
Test(pictures, pixels_are_pairs) {
  sptx_pattern *pattern =
      problem_parse("causal: true\nattend: {any: [{window: {left: 5}}, {stride: {every: 9}}]}\n");
  enum { N_Q = 50, N_K = 61, SIDE = 130 };
  const sptx_selection selection = {N_Q, N_K, 1, NULL};
  sptx_step step;
  sptx_picture picture;
  static uint32_t pixels[SIDE][SIDE];
  int colours[16] = {0};
  cr_assert_eq(sptx_step_lower(pattern, 0, &selection, &step, NULL), SPTX_CODE_OK);
  cr_assert_eq(sptx_picture_create(N_K, N_Q, SIDE, &picture, NULL), SPTX_CODE_OK);
  cr_assert(picture.cell == 2 && picture.span == 1 && picture.width == N_K && picture.height == N_Q);
  sptx_picture_matrix(&picture, &step.instance, &step.classes[0], colours);
  sptx_picture_render(&picture, (unsigned char *)pixels, sizeof pixels[0]);
  for (int64_t i = 0; i < N_Q; i++)
    for (int64_t j = 0; j < N_K; j++) {
      bool expected;
      sptx_instance_contains(&step.instance, 0, i, j, &expected, NULL);
      cr_assert_eq(pixels[2 * i + 1][2 * j] == pixel(sptx_palette[0]), expected, "(%" PRId64 ", %" PRId64 ")",
                   i, j);
      cr_assert_eq(pixels[2 * i][2 * j] == 0xffffff, j > N_K - N_Q + i);
    }
  sptx_picture_clear(&picture);
  cr_assert_eq(sptx_picture_create(7, 9, SIDE, &picture, NULL), SPTX_CODE_OK);
  sptx_picture_query(&picture, &step.instance, &step.classes[0], colours, 40);
  sptx_picture_render(&picture, (unsigned char *)pixels, sizeof pixels[0]);
  for (int64_t j = 0; j < N_K; j++) {
    bool expected;
    uint32_t found = pixels[j / 7 * picture.cell][j % 7 * picture.cell];
    sptx_instance_contains(&step.instance, 0, 40, j, &expected, NULL);
    cr_assert_eq(found == pixel(sptx_palette[0]), expected && j != N_K - N_Q + 40, "%" PRId64, j);
    cr_assert_eq(found == 0xffffff, j > N_K - N_Q + 40);
  }
  sptx_picture_clear(&picture);
  sptx_step_clear(&step);
  sptx_pattern_release(pattern);
}
