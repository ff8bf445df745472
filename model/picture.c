/* Draws images and attention with cairo, to .png or .svg files; see picture.h. */
#include "model/picture.h"
#include "patterns/output.h"

#include <cairo-svg.h>
#include <cairo.h>
#include <math.h>
#include <string.h>

enum { PIXEL = 12, CELL_WIDTH = 10, CELL_HEIGHT = 16, LARGEST = 16384 /* of a side, in points */ };

static cairo_status_t write_bytes(void *stream, const unsigned char *bytes, unsigned length) {
  return fwrite(bytes, 1, length, stream) == length ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static bool ends_with(const char *path, const char *ending) {
  size_t length = strlen(path), wanted = strlen(ending);
  return length > wanted && !strcmp(path + length - wanted, ending);
}

/* A surface that draw() fills; for .svg it writes to the stream meanwhile. */
static enum sptx_code draw_to(FILE *stream, const char *path, double width, double height,
                              void (*draw)(cairo_t *cairo, const void *what), const void *what,
                              sptx_error *error) {
  bool svg = ends_with(path, ".svg");
  cairo_surface_t *surface = svg ? cairo_svg_surface_create_for_stream(write_bytes, stream, width, height)
                                 : cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)width, (int)height);
  cairo_t *cairo = cairo_create(surface);
  draw(cairo, what);
  cairo_status_t status = cairo_status(cairo);
  cairo_destroy(cairo);
  if (status == CAIRO_STATUS_SUCCESS && !svg)
    status = cairo_surface_write_to_png_stream(surface, write_bytes, stream);
  cairo_surface_finish(surface);
  if (status == CAIRO_STATUS_SUCCESS)
    status = cairo_surface_status(surface);
  cairo_surface_destroy(surface);
  if (status == CAIRO_STATUS_SUCCESS)
    return SPTX_CODE_OK;
  return sptx_fail(error, status == CAIRO_STATUS_NO_MEMORY ? SPTX_CODE_OUT_OF_MEMORY : SPTX_CODE_IO, "%s: %s",
                   path, cairo_status_to_string(status));
}

static enum sptx_code write_picture(const char *path, double width, double height,
                                    void (*draw)(cairo_t *cairo, const void *what), const void *what,
                                    sptx_error *error) {
  if (!ends_with(path, ".png") && !ends_with(path, ".svg"))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: a picture's name ends in .png or .svg", path);
  if (width > LARGEST || height > LARGEST)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s: a picture of %.0f x %.0f is too large; --position lower down needs fewer rows",
                     path, width, height);
  sptx_output output;
  SPTX_TRY(sptx_output_open(path, &output, error));
  enum sptx_code code = draw_to(output.stream, path, width, height, draw, what, error);
  if (code == SPTX_CODE_OK)
    code = sptx_output_commit(&output, error);
  if (code != SPTX_CODE_OK)
    sptx_output_discard(&output);
  return code;
}

static void fill(cairo_t *cairo, double x, double y, double width, double height, double red, double green,
                 double blue) {
  cairo_set_source_rgb(cairo, red, green, blue);
  cairo_rectangle(cairo, x, y, width, height);
  cairo_fill(cairo);
}

struct image {
  const uint8_t *tokens;
  int64_t side;
};

static void draw_image(cairo_t *cairo, const void *what) {
  const struct image *image = what;
  cairo_set_antialias(cairo, CAIRO_ANTIALIAS_NONE);
  for (int64_t p = 0; p < image->side * image->side; p++) {
    const uint8_t *pixel = image->tokens + 3 * p;
    fill(cairo, (double)(p % image->side), (double)(p / image->side), 1, 1, pixel[0] / 255.0,
         pixel[1] / 255.0, pixel[2] / 255.0);
  }
}

enum sptx_code sptx_picture_image(const char *path, const uint8_t *tokens, int64_t side, sptx_error *error) {
  struct image image = {tokens, side};
  return write_picture(path, (double)side, (double)side, draw_image, &image, error);
}

static double largest_of(const double *weights, int64_t count) {
  double largest = 0;
  for (int64_t k = 0; k < count; k++)
    largest = fmax(largest, weights[k]);
  return largest > 0 ? largest : 1;
}

static double pixel_weight(const struct sptx_attention_view *view, int64_t pixel) {
  return view->weights[3 * pixel] + view->weights[3 * pixel + 1] + view->weights[3 * pixel + 2];
}

static void frame(cairo_t *cairo, double x, double y, double width, double height) {
  cairo_set_source_rgb(cairo, 1, 0.15, 0.1);
  cairo_set_line_width(cairo, 2);
  cairo_rectangle(cairo, x + 1, y + 1, width - 2, height - 2);
  cairo_stroke(cairo);
}

/* Brightness is the square root of the share of the largest weight: faint attention stays visible. */
static void draw_attention_on_image(cairo_t *cairo, const void *what) {
  const struct sptx_attention_view *view = what;
  int64_t side = view->side, at = view->position / 3;
  double largest = 0;
  for (int64_t pixel = 0; pixel < side * side; pixel++)
    largest = fmax(largest, pixel_weight(view, pixel));
  for (int64_t pixel = 0; pixel < side * side; pixel++) {
    double white = largest > 0 ? sqrt(pixel_weight(view, pixel) / largest) : 0, color[3] = {0};
    for (int channel = 0; channel < 3 && pixel <= at; channel++) {
      bool known = 3 * pixel + channel < view->position;
      color[channel] = white + (known ? (1 - white) * 0.45 * view->tokens[3 * pixel + channel] / 255 : 0);
    }
    fill(cairo, (double)(pixel % side * PIXEL), (double)(pixel / side * PIXEL), PIXEL, PIXEL, color[0],
         color[1], color[2]);
  }
  frame(cairo, (double)(at % side * PIXEL), (double)(at / side * PIXEL), PIXEL, PIXEL);
}

static void draw_letter(cairo_t *cairo, uint8_t token, double x, double y, double white) {
  char text[2] = {token > 32 && token < 127 ? (char)token : ' ', 0};
  cairo_set_source_rgb(cairo, white > 0.6 ? 0 : 0.85, white > 0.6 ? 0 : 0.85, white > 0.6 ? 0 : 0.85);
  cairo_move_to(cairo, x + 1.5, y + CELL_HEIGHT - 4);
  cairo_show_text(cairo, text);
}

static void draw_attention_on_rows(cairo_t *cairo, const void *what) {
  const struct sptx_attention_view *view = what;
  double largest = largest_of(view->weights, view->position + 1);
  /* cairo's own font: the same picture on every machine, also where no font is installed */
  cairo_select_font_face(cairo, "@cairo:monospace", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
  cairo_set_font_size(cairo, 12);
  cairo_set_source_rgb(cairo, 0, 0, 0);
  cairo_paint(cairo);
  for (int64_t p = 0; p <= view->position; p++) {
    double x = (double)(p % view->columns * CELL_WIDTH), y = (double)(p / view->columns * CELL_HEIGHT);
    double white = sqrt(view->weights[p] / largest);
    fill(cairo, x, y, CELL_WIDTH, CELL_HEIGHT, 0.12 + 0.88 * white, 0.12 + 0.88 * white, 0.2 + 0.8 * white);
    if (view->letters && p < view->position)
      draw_letter(cairo, view->tokens[p], x, y, white);
  }
  frame(cairo, (double)(view->position % view->columns * CELL_WIDTH),
        (double)(view->position / view->columns * CELL_HEIGHT), CELL_WIDTH, CELL_HEIGHT);
}

enum sptx_code sptx_picture_attention(const char *path, const struct sptx_attention_view *view,
                                      sptx_error *error) {
  if (view->side)
    return write_picture(path, (double)(view->side * PIXEL), (double)(view->side * PIXEL),
                         draw_attention_on_image, view, error);
  int64_t rows = view->position / view->columns + 1;
  return write_picture(path, (double)(view->columns * CELL_WIDTH), (double)(rows * CELL_HEIGHT),
                       draw_attention_on_rows, view, error);
}
