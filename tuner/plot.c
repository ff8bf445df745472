/* Axes, ticks and marks written as SVG elements, in the order in which they are drawn. */
#include "tuner/plot.h"

#include <math.h>

enum { LEFT = 58, RIGHT = 14, TOP = 30, BOTTOM = 42 };

static double place(const sptx_plot_axis *axis, double value, double from, double to) {
  double low = axis->low, high = axis->high;
  if (axis->logarithmic)
    low = log(low), high = log(high), value = log(value);
  return from + (to - from) * fmin(1, fmax(0, (value - low) / (high - low)));
}

static double place_x(const sptx_plot *plot, double value) {
  return place(&plot->x, value, LEFT, SPTX_PLOT_WIDTH - RIGHT);
}

static double place_y(const sptx_plot *plot, double value) {
  return place(&plot->y, value, SPTX_PLOT_HEIGHT - BOTTOM, TOP);
}

/* Widens an axis whose ends coincide. */
static void widen(sptx_plot_axis *axis) {
  if (axis->high > axis->low)
    return;
  axis->low = axis->logarithmic ? axis->low / 2 : axis->low - 1;
  axis->high = axis->logarithmic ? axis->high * 2 : axis->high + 1;
}

/* The round number at or above value: 1, 2 or 5 times a power of ten. */
static double round_up(double value) {
  double power = pow(10, floor(log10(value)));
  double lead = value / power;
  return power * (lead <= 1.0001 ? 1 : lead <= 2.0001 ? 2 : lead <= 5.0001 ? 5 : 10);
}

/* Whether ticks stand at equal steps: also on a logarithmic axis that is too short for powers. */
static bool is_even(const sptx_plot_axis *axis) {
  return !axis->logarithmic || axis->high < 8 * axis->low;
}

static double next_tick(const sptx_plot_axis *axis, double step, double value) {
  if (is_even(axis))
    return value + step;
  double next = value;
  do
    next = round_up(next * 1.2);
  while (log(next / value) < step);
  return next;
}

static void draw_tick(const sptx_plot *plot, bool vertical, double value) {
  if (vertical) {
    double y = place_y(plot, value);
    fprintf(plot->stream,
            "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
            "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
            LEFT, SPTX_PLOT_WIDTH - RIGHT, y, y, LEFT - 6, y + 4, value);
  } else {
    double x = place_x(plot, value);
    fprintf(plot->stream,
            "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>"
            "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.4g</text>\n",
            x, x, TOP, SPTX_PLOT_HEIGHT - BOTTOM, x, SPTX_PLOT_HEIGHT - BOTTOM + 16, value);
  }
}

/* About five ticks at round numbers. */
static void draw_ticks(const sptx_plot *plot, const sptx_plot_axis *axis, bool vertical) {
  enum { TICKS = 5, MOST = 40 };
  double step =
      is_even(axis) ? round_up((axis->high - axis->low) / TICKS) : log(axis->high / axis->low) / TICKS;
  double value = is_even(axis) ? ceil(axis->low / step) * step : round_up(axis->low);
  for (int k = 0; k < MOST && value <= axis->high * 1.0001; k++) {
    draw_tick(plot, vertical, value);
    value = next_tick(axis, step, value);
  }
}

void sptx_plot_begin(sptx_plot *plot, const char *title) {
  widen(&plot->x);
  widen(&plot->y);
  fprintf(plot->stream,
          "<figure><svg viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\" aria-label=\"%s\">\n"
          "<text class=\"title\" x=\"%d\" y=\"16\">%s</text>\n",
          SPTX_PLOT_WIDTH, SPTX_PLOT_HEIGHT, SPTX_PLOT_WIDTH, title, LEFT, title);
  draw_ticks(plot, &plot->x, false);
  draw_ticks(plot, &plot->y, true);
  fprintf(plot->stream, "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n", LEFT, TOP, SPTX_PLOT_HEIGHT - BOTTOM,
          SPTX_PLOT_WIDTH - RIGHT);
  fprintf(plot->stream, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n",
          (LEFT + SPTX_PLOT_WIDTH - RIGHT) / 2, SPTX_PLOT_HEIGHT - 6, plot->x.name);
  fprintf(plot->stream,
          "<text transform=\"rotate(-90)\" x=\"%d\" y=\"13\" text-anchor=\"middle\">%s</text>\n",
          -(TOP + SPTX_PLOT_HEIGHT - BOTTOM) / 2, plot->y.name);
}

void sptx_plot_end(sptx_plot *plot, const char *caption) {
  fprintf(plot->stream, "</svg><figcaption>%s</figcaption></figure>\n", caption);
}

void sptx_plot_point(const sptx_plot *plot, const char *class_name, double x, double y, const char *hover) {
  fprintf(plot->stream, "<circle class=\"%s\" r=\"4.5\" cx=\"%.1f\" cy=\"%.1f\"><title>%s</title></circle>\n",
          class_name, place_x(plot, x), place_y(plot, y), hover);
}

void sptx_plot_line(const sptx_plot *plot, const char *class_name, double x1, double y1, double x2,
                    double y2) {
  fprintf(plot->stream, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class_name,
          place_x(plot, x1), place_y(plot, y1), place_x(plot, x2), place_y(plot, y2));
}
