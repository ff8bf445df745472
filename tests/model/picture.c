/* Pictures: pixels of the written files, read back by cairo. */
#include "model/picture.h"
#include "tests/model/files.h"

#include <cairo.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_picture, .init = create_folder, .fini = test_folder_remove);

enum { SIDE = 8, LENGTH = 3 * SIDE * SIDE };

static void fill_tokens(uint8_t *tokens, int count) {
  for (int k = 0; k < count; k++)
    tokens[k] = (uint8_t)(k * 37 + k / 5);
}

static cairo_surface_t *read_png(const char *path, int width, int height) {
  cairo_surface_t *surface = cairo_image_surface_create_from_png(path);
  cr_assert_eq(cairo_surface_status(surface), CAIRO_STATUS_SUCCESS, "%s", path);
  cr_assert_eq(cairo_image_surface_get_width(surface), width);
  cr_assert_eq(cairo_image_surface_get_height(surface), height);
  return surface;
}

static uint32_t pixel(cairo_surface_t *surface, int x, int y) {
  const unsigned char *row =
      cairo_image_surface_get_data(surface) + (ptrdiff_t)y * cairo_image_surface_get_stride(surface);
  uint32_t value;
  memcpy(&value, row + 4 * x, 4);
  return value & 0xffffff;
}

Test(model_picture, an_image_is_its_tokens) {
  uint8_t tokens[LENGTH];
  sptx_error error = {0};
  fill_tokens(tokens, LENGTH);
  const char *path = test_path("a.png");
  cr_assert_eq(sptx_picture_image(path, tokens, SIDE, &error), SPTX_CODE_OK, "%s", error.message);
  cairo_surface_t *surface = read_png(path, SIDE, SIDE);
  for (int p = 0; p < SIDE * SIDE; p++)
    cr_expect_eq(pixel(surface, p % SIDE, p / SIDE),
                 (uint32_t)tokens[3 * p] << 16 | (uint32_t)tokens[3 * p + 1] << 8 | tokens[3 * p + 2]);
  cairo_surface_destroy(surface);
}

Test(model_picture, attention_on_an_image) {
  uint8_t tokens[LENGTH];
  double weights[LENGTH] = {0};
  sptx_error error = {0};
  memset(tokens, 200, sizeof tokens);
  int position = 3 * (4 * SIDE + 5) + 1; /* the green of row 4, column 5 */
  weights[3 * (2 * SIDE + 6)] = 0.5;     /* half to row 2, column 6, in two channels */
  weights[3 * (2 * SIDE + 6) + 2] = 0.3;
  weights[3 * (4 * SIDE + 1)] = 0.2;
  struct sptx_attention_view view = {tokens, weights, LENGTH, position, SIDE, 0, false};
  const char *path = test_path("a.png");
  cr_assert_eq(sptx_picture_attention(path, &view, &error), SPTX_CODE_OK, "%s", error.message);
  int scale = 12;
  cairo_surface_t *surface = read_png(path, SIDE * scale, SIDE * scale);
  for (int p = 0; p < SIDE * SIDE; p++) {
    uint32_t seen = pixel(surface, p % SIDE * scale + scale / 2, p / SIDE * scale + scale / 2) & 0xff;
    bool strong = p == 2 * SIDE + 6, weak = p == 4 * SIDE + 1, later = p >= 4 * SIDE + 5;
    cr_expect(strong  ? seen == 255
              : weak  ? seen > 120 && seen < 250
              : later ? seen == 0
                      : seen > 60 && seen < 110,
              "pixel %d is %u", p, seen);
  }
  cr_expect_eq(pixel(surface, 5 * scale + 1, 4 * scale + 1) >> 16, 255,
               "the pixel that attends has a red frame");
  cairo_surface_destroy(surface);
}

Test(model_picture, attention_on_text) {
  enum { TEXT = 23, COLUMNS = 6 };
  uint8_t tokens[TEXT];
  double weights[TEXT] = {0};
  sptx_error error = {0};
  memset(tokens, ' ', sizeof tokens);
  weights[3] = 0.75;
  weights[8] = 0.25;
  struct sptx_attention_view view = {tokens, weights, TEXT, 14, 0, COLUMNS, true};
  const char *path = test_path("a.png");
  cr_assert_eq(sptx_picture_attention(path, &view, &error), SPTX_CODE_OK, "%s", error.message);
  cairo_surface_t *surface = read_png(path, COLUMNS * 10, 3 * 16);
  uint32_t strong = pixel(surface, 35, 8) & 0xff, weak = pixel(surface, 25, 24) & 0xff,
           none = pixel(surface, 5, 8) & 0xff, later = pixel(surface, 35, 40);
  cr_expect(strong == 255 && weak > none && weak < 255 && none > 0 && later == 0, "%u %u %u %u", strong, weak,
            none, later);
  cairo_surface_destroy(surface);
}

Test(model_picture, svg_is_written_and_failures_leave_nothing) {
  uint8_t tokens[LENGTH] = {0};
  double weights[LENGTH] = {1};
  sptx_error error = {0};
  struct sptx_attention_view view = {tokens, weights, LENGTH, 20, SIDE, 0, false};
  const char *path = test_path("a.svg");
  cr_assert_eq(sptx_picture_attention(path, &view, &error), SPTX_CODE_OK, "%s", error.message);
  char head[4096] = {0};
  FILE *file = fopen(path, "rb");
  cr_assert_gt(fread(head, 1, sizeof head - 1, file), 100);
  fclose(file);
  cr_expect_not_null(strstr(head, "<svg"));
  cr_expect_eq(sptx_picture_attention(test_path("a.gif"), &view, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_eq(sptx_picture_image(test_path("none/a.png"), tokens, SIDE, &error), SPTX_CODE_IO);
  const char *full = test_path("full.png");
  cr_assert_eq(symlink("/dev/full", full), 0);
  cr_expect_eq(sptx_picture_image(full, tokens, SIDE, &error), SPTX_CODE_IO);
  cr_expect_not_null(strstr(error.message, "full"), "%s", error.message);
  view = (struct sptx_attention_view){tokens, weights, LENGTH, 20, 0, 3000, true};
  cr_expect_eq(sptx_picture_attention(test_path("b.png"), &view, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_eq(access(test_path("b.png"), F_OK), -1);
}
