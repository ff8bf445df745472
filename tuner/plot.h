/* Small SVG plots for the tuner's page: axes with round ticks, marks with a text that shows when the pointer
 * rests on them. No scripts, no styles of their own beyond class names. */
#ifndef SPTX_TUNER_PLOT_H
#define SPTX_TUNER_PLOT_H

#include <stdbool.h>
#include <stdio.h>

typedef struct sptx_plot_axis {
  const char *name; /* with its unit */
  double low, high; /* low < high after sptx_plot_begin */
  bool logarithmic;
} sptx_plot_axis;

typedef struct sptx_plot {
  FILE *stream;
  sptx_plot_axis x, y;
} sptx_plot;

enum { SPTX_PLOT_WIDTH = 460, SPTX_PLOT_HEIGHT = 290 };

/* Opens a figure and draws the axes; a logarithmic axis needs positive ends. */
void sptx_plot_begin(sptx_plot *plot, const char *title);
void sptx_plot_end(sptx_plot *plot, const char *caption);
/* A circle of the CSS class, with a text for the pointer: plain text without <, > or &. */
void sptx_plot_point(const sptx_plot *plot, const char *class_name, double x, double y, const char *hover);
void sptx_plot_line(const sptx_plot *plot, const char *class_name, double x1, double y1, double x2,
                    double y2);

#endif
