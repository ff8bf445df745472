/* The page: a column for each step and class of heads, with the keys of one query above and the connectivity
 * matrix below, then the legend. Lengths are in points; pictures have SCALE pixels to a point. */
#include "patterns/draw.h"
#include "patterns/integer.h"
#include "patterns/output.h"
#include "patterns/picture.h"

#include <cairo-svg.h>
#include <cairo.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SCALE = 2, SIDE = 360, MARGIN = 28, GAP = 40, LINE = 17, LEGEND_COLUMN = 170 };

/* A class of heads of a step: one column of the page. */
typedef struct panel {
  const sptx_step *step;
  int class_index;
  int *colours; /* of its pieces */
  sptx_picture query, matrix;
} panel;

/* A legend entry: the k-th piece of its name in a class. */
typedef struct entry {
  const char *name;
  int turn;
} entry;

typedef struct page {
  const sptx_pattern *pattern;
  sptx_draw_request request;
  sptx_step *steps;
  size_t step_count;
  panel *panels;
  int panel_count, hidden_classes;
  entry entries[SPTX_PICTURE_PALETTE];
  int entry_count;
  cairo_t *cairo;
} page;

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a drawing");
}

/* How far a length is from the side of a square of n positions, in octaves. */
static double distance_from_square(int64_t length, int64_t n) {
  return fabs(log2((double)length) - log2((double)n) / 2);
}

/* The stride, among those of the views, whose rows make the picture most nearly square; where there is none
 * within a factor of 16, a power of two. */
static int64_t suggest_row(const page *p) {
  const double most_octaves = 4;
  int64_t n = p->request.n_k, best = 0;
  for (size_t s = 0; s < p->step_count; s++)
    for (int c = 0; c < p->steps[s].instance.class_count; c++)
      for (int k = 0; k < p->steps[s].classes[c].count; k++) {
        const sptx_view *view = &p->steps[s].classes[c].pieces[k].key;
        for (int d = 0; d < view->shared_count + view->inner_count; d++) {
          int64_t stride =
              d < view->shared_count ? view->shared_stride[d] : view->inner_stride[d - view->shared_count];
          if (stride > 1 && stride < n &&
              (!best || distance_from_square(stride, n) < distance_from_square(best, n)))
            best = stride;
        }
      }
  if (best && distance_from_square(best, n) <= most_octaves)
    return best;
  return (int64_t)1 << (int)lrint(log2((double)n) / 2);
}

/* The palette's index for a piece; the last one serves all that find no place. */
static int colour_of(page *p, const char *name, int turn) {
  int k = 0;
  while (k < p->entry_count && (strcmp(p->entries[k].name, name) != 0 || p->entries[k].turn != turn))
    k++;
  if (k == p->entry_count && k < SPTX_PICTURE_PALETTE)
    p->entries[p->entry_count++] = (entry){name, turn};
  return k < SPTX_PICTURE_PALETTE ? k : SPTX_PICTURE_PALETTE - 1;
}

static enum sptx_code make_panel(page *p, panel *made, sptx_error *error) {
  const sptx_instance *instance = &made->step->instance;
  const sptx_piece_list *list = &made->step->classes[made->class_index];
  int64_t row = min64(p->request.row, instance->n_k);
  made->colours = calloc((size_t)list->count + 1, sizeof *made->colours);
  if (!made->colours)
    return no_memory(error);
  for (int k = 0; k < list->count; k++) {
    int turn = 1;
    for (int before = 0; before < k; before++)
      turn += strcmp(list->pieces[before].name, list->pieces[k].name) == 0;
    made->colours[k] = colour_of(p, list->pieces[k].name, turn);
  }
  SPTX_TRY(sptx_picture_create(row, ceil_div(instance->n_k, row), SIDE * SCALE, &made->query, error));
  SPTX_TRY(sptx_picture_create(instance->n_k, instance->n_q, SIDE * SCALE, &made->matrix, error));
  sptx_picture_query(&made->query, instance, list, made->colours, p->request.query);
  sptx_picture_matrix(&made->matrix, instance, list, made->colours);
  return SPTX_CODE_OK;
}

static enum sptx_code make_panels(page *p, sptx_error *error) {
  p->panels = calloc(p->step_count * SPTX_DRAW_MAX_CLASSES, sizeof *p->panels);
  if (!p->panels)
    return no_memory(error);
  for (size_t s = 0; s < p->step_count; s++)
    for (int c = 0; c < p->steps[s].instance.class_count; c++) {
      if (c >= SPTX_DRAW_MAX_CLASSES) {
        p->hidden_classes++;
        continue;
      }
      panel *made = &p->panels[p->panel_count++];
      *made = (panel){.step = &p->steps[s], .class_index = c};
      SPTX_TRY(make_panel(p, made, error));
    }
  return SPTX_CODE_OK;
}

static enum sptx_code make_page(page *p, sptx_error *error) {
  sptx_draw_request *r = &p->request;
  const sptx_selection selection = {r->n_q, r->n_k, r->heads, r->step};
  size_t first;
  SPTX_TRY(sptx_step_select(p->pattern, r->step, &first, &p->step_count, error));
  if (r->n_k > SPTX_DRAW_MAX_N)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "a pattern is drawn for n up to %d, not %" PRId64 "; choose a smaller n",
                     SPTX_DRAW_MAX_N, r->n_k);
  if (r->query < -1 || r->query >= r->n_q || r->row < 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "query %" PRId64 " in rows of %" PRId64 ": there are %" PRId64 " queries", r->query,
                     r->row, r->n_q);
  p->steps = calloc(p->step_count, sizeof *p->steps);
  if (!p->steps)
    return no_memory(error);
  for (size_t k = 0; k < p->step_count; k++)
    SPTX_TRY(sptx_step_lower(p->pattern, first + k, &selection, &p->steps[k], error));
  if (r->row == 0)
    r->row = suggest_row(p);
  if (r->query < 0) { /* two thirds down, two thirds across: keys on all sides of it can be seen */
    int64_t rows = ceil_div(r->n_k, r->row);
    int64_t position = rows * 2 / 3 * r->row + r->row * 2 / 3;
    r->query = clamp(position - (r->n_k - r->n_q), 0, r->n_q - 1);
  }
  return make_panels(p, error);
}

static void clear_page(page *p) {
  for (int k = 0; k < p->panel_count; k++) {
    free(p->panels[k].colours);
    sptx_picture_clear(&p->panels[k].query);
    sptx_picture_clear(&p->panels[k].matrix);
  }
  for (size_t k = 0; p->steps && k < p->step_count; k++)
    sptx_step_clear(&p->steps[k]);
  free(p->panels);
  free(p->steps);
}

/* Drawing. */

static void say(cairo_t *cairo, double x, double y, double size, bool bold, const char *text) {
  cairo_select_font_face(cairo, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                         bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
  cairo_set_font_size(cairo, size);
  cairo_move_to(cairo, x, y);
  cairo_show_text(cairo, text);
}

static void ink(cairo_t *cairo, double darkness) {
  cairo_set_source_rgb(cairo, 1 - darkness, 1 - darkness, 1 - darkness);
}

static double width_of(cairo_t *cairo, double size, const char *text) {
  cairo_text_extents_t extents;
  cairo_select_font_face(cairo, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
  cairo_set_font_size(cairo, size);
  cairo_text_extents(cairo, text, &extents);
  return extents.x_advance;
}

/* Text in lines of at most `width`, broken at spaces; returns the y below it. With a cairo context that draws
 * nowhere it measures. */
static double say_wrapped(cairo_t *cairo, double x, double y, double width, double size, const char *text) {
  char line[256];
  while (*text) {
    size_t taken = 0;
    for (size_t end = strcspn(text, " "); end < sizeof line;) {
      snprintf(line, sizeof line, "%.*s", (int)end, text);
      if (taken && width_of(cairo, size, line) > width)
        break;
      taken = end;
      if (text[end] == 0)
        break;
      end += 1 + strcspn(text + end + 1, " ");
    }
    taken = taken ? taken : strnlen(text, sizeof line - 1);
    snprintf(line, sizeof line, "%.*s", (int)taken, text);
    say(cairo, x, y, size, false, line);
    y += LINE;
    text += taken + strspn(text + taken, " ");
  }
  return y;
}

static enum sptx_code paint(cairo_t *cairo, const sptx_picture *picture, double x, double y,
                            sptx_error *error) {
  int width = (int)(picture->width * picture->cell), height = (int)(picture->height * picture->cell);
  cairo_surface_t *image = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
  if (cairo_surface_status(image) != CAIRO_STATUS_SUCCESS) {
    cairo_surface_destroy(image);
    return no_memory(error);
  }
  cairo_surface_flush(image);
  sptx_picture_render(picture, cairo_image_surface_get_data(image), cairo_image_surface_get_stride(image));
  cairo_surface_mark_dirty(image);
  cairo_save(cairo);
  cairo_translate(cairo, x, y);
  cairo_scale(cairo, 1.0 / SCALE, 1.0 / SCALE);
  cairo_set_source_surface(cairo, image, 0, 0);
  cairo_pattern_set_filter(cairo_get_source(cairo), CAIRO_FILTER_NEAREST);
  cairo_paint(cairo);
  cairo_restore(cairo);
  ink(cairo, 0.45);
  cairo_set_line_width(cairo, 0.5);
  cairo_rectangle(cairo, x - 0.5, y - 0.5, (double)width / SCALE + 1, (double)height / SCALE + 1);
  cairo_stroke(cairo);
  cairo_surface_destroy(image);
  return SPTX_CODE_OK;
}

static double height_of(const sptx_picture *picture) {
  return (double)(picture->height * picture->cell) / SCALE;
}

static void panel_title(const panel *shown, char *text, size_t size) {
  FILE *stream = fmemopen(text, size, "w");
  *text = 0;
  if (!stream)
    return;
  fputs(*shown->step->name ? shown->step->name : "attends", stream);
  fputs(shown->step->instance.heads > 1 ? ", heads " : "", stream);
  if (shown->step->instance.heads > 1)
    sptx_step_print_heads(&shown->step->instance, shown->class_index, stream);
  fclose(stream);
  text[size - 1] = 0;
}

static enum sptx_code draw_panel(const page *p, const panel *shown, double x, double y, double query_height,
                                 sptx_error *error) {
  const sptx_instance *instance = &shown->step->instance;
  const sptx_piece_list *list = &shown->step->classes[shown->class_index];
  char text[128];
  int64_t pairs = 0;
  for (int k = 0; k < list->count; k++)
    pairs += list->pieces[k].pairs;
  panel_title(shown, text, sizeof text);
  ink(p->cairo, 0.9);
  say(p->cairo, x, y + LINE, 14, true, text);
  snprintf(text, sizeof text, "keys of query %" PRId64 ", the sequence in rows of %" PRId64, p->request.query,
           shown->query.columns);
  ink(p->cairo, 0.65);
  say(p->cairo, x, y + 2 * LINE, 11, false, text);
  y += 2 * LINE + 8;
  SPTX_TRY(paint(p->cairo, &shown->query, x, y, error));
  y += query_height + LINE + 6;
  snprintf(text, sizeof text, "queries down, keys across: %" PRId64 " pairs, %.3g %% of all", pairs,
           100 * (double)pairs / ((double)instance->n_q * (double)instance->n_k));
  ink(p->cairo, 0.65);
  say(p->cairo, x, y, 11, false, text);
  return paint(p->cairo, &shown->matrix, x, y + 8, error);
}

static void draw_key(cairo_t *cairo, double x, double y, sptx_colour colour, const char *text) {
  cairo_set_source_rgb(cairo, (double)colour.red, (double)colour.green, (double)colour.blue);
  cairo_rectangle(cairo, x, y - 10, 12, 12);
  cairo_fill_preserve(cairo);
  ink(cairo, 0.45);
  cairo_set_line_width(cairo, 0.5);
  cairo_stroke(cairo);
  ink(cairo, 0.8);
  say(cairo, x + 18, y, 12, false, text);
}

static int legend_columns(double width) {
  int columns = (int)(width / LEGEND_COLUMN);
  return columns ? columns : 1;
}

static int legend_entries(const page *p) {
  return p->entry_count + 2 + p->steps[0].instance.causal;
}

static void draw_legend(const page *p, double x, double y, double width) {
  static const struct {
    sptx_colour colour;
    const char *text;
  } fixed[] = {{{0.08f, 0.08f, 0.10f}, "the query"},
               {{0.925f, 0.925f, 0.91f}, "not attended"},
               {{1, 1, 1}, "later: never attended"}};
  int columns = legend_columns(width);
  for (int k = 0; k < legend_entries(p); k++) {
    double at_x = x + k % columns * LEGEND_COLUMN, at_y = y + k / columns * (LINE + 4);
    char text[80];
    if (k >= p->entry_count)
      draw_key(p->cairo, at_x, at_y, fixed[k - p->entry_count].colour, fixed[k - p->entry_count].text);
    else {
      snprintf(text, sizeof text, p->entries[k].turn > 1 ? "%s (%d)" : "%s", p->entries[k].name,
               p->entries[k].turn);
      draw_key(p->cairo, at_x, at_y, sptx_palette[k], text);
    }
  }
}

/* Where things stand. */
typedef struct layout {
  double width, height, body, query_height, legend;
} layout;

static layout lay_out(const page *p, cairo_t *measure) {
  layout l = {.width = 2 * MARGIN + p->panel_count * SIDE + (p->panel_count - 1) * GAP};
  double inner = l.width - 2 * MARGIN, matrix_height = 0;
  for (int k = 0; k < p->panel_count; k++) {
    l.query_height = fmax(l.query_height, height_of(&p->panels[k].query));
    matrix_height = fmax(matrix_height, height_of(&p->panels[k].matrix));
  }
  l.body = say_wrapped(measure, 0, MARGIN + 22 + LINE, inner, 12, sptx_pattern_about(p->pattern)) - 6;
  l.legend = l.body + 3 * LINE + 22 + l.query_height + matrix_height + 2 * LINE;
  int columns = legend_columns(inner), lines = (legend_entries(p) + columns - 1) / columns;
  l.height = l.legend + lines * (LINE + 4) + MARGIN - 10 + (p->hidden_classes ? LINE : 0);
  return l;
}

static enum sptx_code draw_page(const page *p, const layout *l, sptx_error *error) {
  cairo_t *cairo = p->cairo;
  char text[128];
  cairo_set_source_rgb(cairo, 1, 1, 1);
  cairo_paint(cairo);
  ink(cairo, 0.95);
  snprintf(text, sizeof text, "%s, n = %" PRId64, sptx_pattern_name(p->pattern), p->request.n_k);
  say(cairo, MARGIN, MARGIN + 14, 19, true, text);
  ink(cairo, 0.7);
  say_wrapped(cairo, MARGIN, MARGIN + 22 + LINE, l->width - 2 * MARGIN, 12, sptx_pattern_about(p->pattern));
  for (int k = 0; k < p->panel_count; k++)
    SPTX_TRY(draw_panel(p, &p->panels[k], MARGIN + k * (SIDE + GAP), l->body, l->query_height, error));
  draw_legend(p, MARGIN, l->legend, l->width - 2 * MARGIN);
  if (p->hidden_classes) {
    snprintf(text, sizeof text, "%d more classes of heads are not drawn", p->hidden_classes);
    ink(cairo, 0.65);
    say(cairo, MARGIN, l->height - MARGIN + 8, 11, false, text);
  }
  return SPTX_CODE_OK;
}

static cairo_status_t write_bytes(void *closure, const unsigned char *bytes, unsigned length) {
  return fwrite(bytes, 1, length, closure) == length ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

static enum sptx_code cairo_failure(cairo_status_t status, const char *path, sptx_error *error) {
  if (status == CAIRO_STATUS_SUCCESS)
    return SPTX_CODE_OK;
  if (status == CAIRO_STATUS_NO_MEMORY)
    return no_memory(error);
  return sptx_fail(error, SPTX_CODE_IO, "%s: cannot write: %s", path, cairo_status_to_string(status));
}

static layout measured(const page *p) {
  cairo_surface_t *nowhere = cairo_recording_surface_create(CAIRO_CONTENT_COLOR, NULL);
  cairo_t *measure = cairo_create(nowhere);
  layout l = lay_out(p, measure);
  cairo_destroy(measure);
  cairo_surface_destroy(nowhere);
  return l;
}

static enum sptx_code draw_file(page *p, bool svg, sptx_output *output, sptx_error *error) {
  layout l = measured(p);
  cairo_surface_t *surface =
      svg ? cairo_svg_surface_create_for_stream(write_bytes, output->stream, l.width, l.height)
          : cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)ceil(l.width * SCALE),
                                       (int)ceil(l.height * SCALE));
  p->cairo = cairo_create(surface);
  if (!svg)
    cairo_scale(p->cairo, SCALE, SCALE);
  enum sptx_code code = draw_page(p, &l, error);
  cairo_status_t status = cairo_status(p->cairo);
  cairo_destroy(p->cairo);
  if (code == SPTX_CODE_OK && status == CAIRO_STATUS_SUCCESS && !svg)
    status = cairo_surface_write_to_png_stream(surface, write_bytes, output->stream);
  cairo_surface_finish(surface);
  if (status == CAIRO_STATUS_SUCCESS)
    status = cairo_surface_status(surface);
  cairo_surface_destroy(surface);
  return code == SPTX_CODE_OK ? cairo_failure(status, output->path, error) : code;
}

static bool ends_in(const char *path, const char *ending) {
  size_t length = strlen(path), tail = strlen(ending);
  return length > tail && strcmp(path + length - tail, ending) == 0;
}

enum sptx_code sptx_draw(const sptx_pattern *pattern, const sptx_draw_request *request, const char *path,
                         sptx_error *error) {
  bool svg = ends_in(path, ".svg");
  if (!svg && !ends_in(path, ".png"))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: a drawing's name ends in .svg or .png", path);
  page p = {.pattern = pattern, .request = *request};
  enum sptx_code code = make_page(&p, error);
  sptx_output output;
  if (code == SPTX_CODE_OK)
    code = sptx_output_open(path, &output, error);
  if (code == SPTX_CODE_OK) {
    code = draw_file(&p, svg, &output, error);
    if (code == SPTX_CODE_OK)
      code = sptx_output_commit(&output, error);
    else
      sptx_output_discard(&output);
  }
  clear_page(&p);
  return code;
}
