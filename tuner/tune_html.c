/* The landscape of a search as one HTML page with inline SVG: nothing is fetched, nothing runs. */
#include "tuner/tune_report.h"

#include "gen/problem.h"
#include "tuner/element.h"
#include <math.h>
#include <stdlib.h>

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta "
    "charset=\"utf-8\">\n<title>sptx-tune</title>\n<style>\n"
    "body{font:15px/1.45 system-ui,sans-serif;color:#1b2733;max-width:62rem;margin:2rem auto;padding:0 "
    "1rem}\n"
    "h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem;border-top:1px solid "
    "#d8dee4;"
    "padding-top:1rem}\np.sub{color:#57646f;margin-top:0}table{border-collapse:collapse;margin:.8rem 0}\n"
    "td,th{padding:.15rem .8rem .15rem 0;text-align:left;font-variant-numeric:tabular-nums}th{color:#57646f;"
    "font-weight:600}\n.plots{display:flex;flex-wrap:wrap;gap:1.2rem}figure{margin:0}figcaption{color:#"
    "57646f;"
    "font-size:.85rem}\nsvg text{font:11px system-ui,sans-serif;fill:#57646f}svg "
    ".axis{stroke:#b6c0c9;fill:none}\n"
    ".default{fill:#8a97a3}.other{fill:#7fb3d8}.best{fill:#d9622b}\n</style>\n</head>\n<body>\n";

enum { WIDTH = 440, HEIGHT = 260, LEFT = 52, BOTTOM = 34, TOP = 10, RIGHT = 12 };

/* A range of values on one axis, linear or logarithmic. */
typedef struct axis {
  double low, high;
  bool logarithmic;
} axis;

static double place(const axis *a, double value, double from, double to) {
  double low = a->low, high = a->high;
  if (a->logarithmic)
    low = log(low), high = log(high), value = log(value);
  return from + (to - from) * (high > low ? (value - low) / (high - low) : 0.5);
}

static double place_x(const axis *a, double value) {
  return place(a, value, LEFT, WIDTH - RIGHT);
}

static double place_y(const axis *a, double value) {
  return place(a, value, HEIGHT - BOTTOM, TOP);
}

static void open_plot(const axis *x, const axis *y, const char *x_name, const char *y_name, FILE *stream) {
  fprintf(stream, "<figure><svg width=\"%d\" height=\"%d\" role=\"img\">\n", WIDTH, HEIGHT);
  fprintf(stream, "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
  fprintf(stream, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", WIDTH - RIGHT, HEIGHT - 4,
          x_name);
  fprintf(stream, "<text transform=\"rotate(-90)\" x=\"%d\" y=\"12\" text-anchor=\"end\">%s</text>\n", -TOP,
          y_name);
  const double ends[] = {0, 0.5, 1};
  for (int k = 0; k < 3; k++) {
    double value =
        y->logarithmic ? y->low * pow(y->high / y->low, ends[k]) : y->low + ends[k] * (y->high - y->low);
    fprintf(stream, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>\n", LEFT - 4,
            place_y(y, value) + 4, value);
    if (x) {
      value =
          x->logarithmic ? x->low * pow(x->high / x->low, ends[k]) : x->low + ends[k] * (x->high - x->low);
      fprintf(stream, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.3g</text>\n", place_x(x, value),
              HEIGHT - BOTTOM + 14, value);
    }
  }
}

static void close_plot(const char *caption, FILE *stream) {
  fprintf(stream, "</svg><figcaption>%s</figcaption></figure>\n", caption);
}

static const char *class_of(const sptx_search *search, int candidate) {
  return candidate == search->best_index ? "best" : candidate == search->default_index ? "default" : "other";
}

/* What a mark is, shown when the pointer rests on it. */
static void write_title(const sptx_tune_result *result, int candidate, FILE *stream) {
  char text[SPTX_TUNE_MOST];
  sptx_schedule_print(result->family, &result->schedules[candidate], text, sizeof text);
  fprintf(stream, "<title>%s%s: %.4g ms</title>",
          candidate == result->search.default_index ? "default, " : "", text,
          result->candidates[candidate].ms);
}

/* Measured candidates in the order of their times. */
static int sort_measured(const sptx_tune_result *result, int *order) {
  int count = 0;
  for (int k = 0; k < result->search.count; k++) {
    double ms = result->candidates[k].ms;
    int at = count;
    if (!(ms > 0) || result->candidates[k].struck_out)
      continue;
    for (; at > 0 && result->candidates[order[at - 1]].ms > ms; at--)
      order[at] = order[at - 1];
    order[at] = k;
    count++;
  }
  return count;
}

static void plot_times(const sptx_tune_result *result, const int *order, int count, FILE *stream) {
  axis y = {0, result->candidates[order[count - 1]].ms * 1.05, false};
  double step = (double)(WIDTH - LEFT - RIGHT) / count;
  open_plot(NULL, &y, "candidates, fastest first", "ms", stream);
  for (int k = 0; k < count; k++) {
    double top = place_y(&y, result->candidates[order[k]].ms);
    fprintf(stream, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">",
            class_of(&result->search, order[k]), LEFT + 1 + k * step, top, fmax(1, step - 2),
            HEIGHT - BOTTOM - top);
    write_title(result, order[k], stream);
    fputs("</rect>\n", stream);
  }
  close_plot("Time of each measured schedule: the default is grey, the best orange", stream);
}

static void plot_model(const sptx_tune_result *result, const int *order, int count, FILE *stream) {
  axis x = {INFINITY, 0, true},
       y = {result->candidates[order[0]].ms, result->candidates[order[count - 1]].ms, true};
  for (int k = 0; k < count; k++) {
    x.low = fmin(x.low, result->candidates[order[k]].predicted_ms);
    x.high = fmax(x.high, result->candidates[order[k]].predicted_ms);
  }
  open_plot(&x, &y, "predicted, of its own unit", "measured ms", stream);
  for (int k = 0; k < count; k++) {
    const sptx_candidate *candidate = &result->candidates[order[k]];
    fprintf(stream, "<circle class=\"%s\" r=\"4\" cx=\"%.1f\" cy=\"%.1f\">",
            class_of(&result->search, order[k]), place_x(&x, candidate->predicted_ms),
            place_y(&y, candidate->ms));
    write_title(result, order[k], stream);
    fputs("</circle>\n", stream);
  }
  close_plot("The cost model against the measurement", stream);
}

/* Operations of one call and the bytes that it must move at least once. */
static void count_work(const sptx_bench_request *shape, const sptx_tuned *tuned, double *operations,
                       double *bytes) {
  double queries = (double)shape->batch * (double)shape->heads * (double)shape->n_q * (double)shape->head_dim;
  double keys = (double)shape->batch * (double)shape->kv_heads * (double)shape->n_k * (double)shape->head_dim;
  bool backward = tuned->pass == SPTX_PASS_BACKWARD;
  double tensors = backward ? 4 * queries + 4 * keys : 2 * queries + 2 * keys;
  *bytes = tensors * (double)sptx_element_size(shape->dtype);
  *operations = 4.0 * (double)tuned->result.useful_pairs * (double)shape->head_dim * (backward ? 2.5 : 1);
}

static void plot_roofline(const sptx_bench_request *shape, const sptx_tuned *tuned,
                          const sptx_tune_limits *limits, FILE *stream) {
  const sptx_tune_result *result = &tuned->result;
  double operations, bytes;
  count_work(shape, tuned, &operations, &bytes);
  double ridge = limits->gemm_gflops / limits->copy_gbs, intensity = operations / bytes;
  double best = 1e-6 * operations / sptx_tune_best_ms(result);
  axis x = {fmin(ridge, intensity) / 4, fmax(ridge, intensity) * 4, true};
  axis y = {fmin(best, x.low * limits->copy_gbs) / 2, limits->gemm_gflops * 2, true};
  open_plot(&x, &y, "operations for each byte", "GFLOP/s", stream);
  fprintf(stream, "<path class=\"axis\" d=\"M%.1f %.1fL%.1f %.1fH%d\" style=\"stroke:#1b2733\"/>\n",
          place_x(&x, x.low), place_y(&y, x.low * limits->copy_gbs), place_x(&x, ridge),
          place_y(&y, limits->gemm_gflops), WIDTH - RIGHT);
  const int marks[] = {result->search.default_index, result->search.best_index};
  for (int k = 0; k < 2; k++)
    fprintf(stream, "<circle class=\"%s\" r=\"5\" cx=\"%.1f\" cy=\"%.1f\"/>\n",
            class_of(&result->search, marks[k]), place_x(&x, intensity),
            place_y(&y, 1e-6 * operations / result->candidates[marks[k]].ms));
  close_plot("Useful work against the machine's copy and float32 GEMM rates of the same run", stream);
}

static void write_pass(const sptx_bench_request *shape, const sptx_tuned *tuned,
                       const sptx_tune_limits *limits, FILE *stream) {
  const sptx_tune_result *result = &tuned->result;
  const sptx_search *search = &result->search;
  int order[SPTX_TUNE_MOST], count = sort_measured(result, order);
  char schedule[SPTX_TUNE_MOST];
  sptx_schedule_print(result->family, &result->schedules[search->best_index], schedule, sizeof schedule);
  fprintf(stream, "<h2>%s%s%s</h2>\n<p class=\"sub\">%s</p>\n", tuned->step, tuned->step[0] ? ", " : "",
          sptx_pass_name(tuned->pass), result->piece);
  fprintf(
      stream,
      "<table><tr><th>default</th><th>best</th><th>gain</th><th>measured</th><th>struck out</th><th>rank "
      "correlation</th><th>schedule</th></tr>\n<tr><td>%.4f ms</td><td>%.4f ms</td><td>%.2fx</td><td>%d of "
      "%d</td><td>%d</td><td>%.2f</td><td><code>%s</code></td></tr></table>\n<div class=\"plots\">\n",
      sptx_tune_default_ms(result), sptx_tune_best_ms(result),
      sptx_tune_default_ms(result) / sptx_tune_best_ms(result), search->measured, search->count,
      search->struck_out, search->spearman,
      search->best_index == search->default_index ? "default" : schedule);
  plot_times(result, order, count, stream);
  if (count > 1)
    plot_model(result, order, count, stream);
  plot_roofline(shape, tuned, limits, stream);
  fputs("</div>\n", stream);
}

static void write_escaped(const char *text, FILE *stream) {
  for (; *text; text++) {
    if (*text == '<' || *text == '>' || *text == '&')
      fprintf(stream, "&#%d;", *text);
    else
      fputc(*text, stream);
  }
}

void sptx_tune_html(const sptx_bench_request *shape, const char *pattern, const sptx_tuned *tuned, int count,
                    const sptx_tune_limits *limits, FILE *stream) {
  fputs(head, stream);
  fputs("<h1>", stream);
  write_escaped(pattern, stream);
  fprintf(stream,
          "</h1>\n<p class=\"sub\">%s, batch %lld, %lld heads of %lld (%lld key/value), %lld queries, %lld "
          "keys, %s, %d "
          "threads; GEMM %.0f GFLOP/s, copy %.1f GB/s; sptx " SPTX_VERSION "</p>\n",
          shape->device, (long long)shape->batch, (long long)shape->heads, (long long)shape->head_dim,
          (long long)shape->kv_heads, (long long)shape->n_q, (long long)shape->n_k,
          sptx_element_name((enum sptx_element)shape->dtype), shape->threads, limits->gemm_gflops,
          limits->copy_gbs);
  for (int k = 0; k < count; k++)
    write_pass(shape, &tuned[k], limits, stream);
  fputs("</body>\n</html>\n", stream);
}
