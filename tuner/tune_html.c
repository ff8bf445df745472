/* The page of what tuning found: one file, styles and SVG inside. */
#include "gen/problem.h"
#include "tuner/element.h"
#include "tuner/plot.h"
#include "tuner/tune_report.h"
#include <math.h>
#include <stdlib.h>

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>sptx-tune</title>\n"
    "<style>\n"
    ":root{color-scheme:light dark;--ink:#1b2733;--soft:#5b6875;--line:#d5dce2;--paper:#fff;--card:#f6f8fa;"
    "--other:#6aa5cf;--default:#7b8794;--best:#d9622b}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9fabb7;--line:#38444f;--paper:#151b21;"
    "--card:#1d252d;--other:#5d9bc9;--default:#a4afba;--best:#f08048}}\n"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1010px;"
    "margin:2rem auto;padding:0 1rem}\n"
    "h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .3rem;border-top:1px solid "
    "var(--line);"
    "padding-top:1.2rem}p{margin:.2rem 0 .8rem}.soft{color:var(--soft)}\n"
    "table{border-collapse:collapse;margin:.6rem 0}th,td{padding:.25rem .8rem .25rem 0;text-align:left;"
    "vertical-align:top}th{font-weight:600;color:var(--soft);font-size:.85rem;white-space:nowrap}td.number,"
    "th.number{"
    "text-align:right;font-variant-numeric:tabular-nums}code{font-size:.85rem}\n"
    ".plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:1rem}"
    "figure{margin:0;background:var(--card);border-radius:8px;padding:.7rem}"
    "figcaption{color:var(--soft);font-size:.85rem;padding:0 .4rem}svg{max-width:100%;height:auto}\n"
    "svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .title{font-size:13px;font-weight:600;"
    "fill:var(--ink)}.axis{stroke:var(--soft);fill:none}.grid{stroke:var(--line);stroke-width:.7}"
    ".guide{stroke:var(--soft);stroke-dasharray:4 3}.roof{stroke:var(--ink);stroke-width:1.6}\n"
    "circle{stroke:var(--card);stroke-width:1}.other{fill:var(--other)}.default{fill:var(--default)}"
    ".best{fill:var(--best)}svg .cell{font-size:11px;fill:#10202c}svg .guess{fill:var(--soft)}"
    ".key span{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;margin:0 .3rem 0 1rem;"
    "vertical-align:-1px}.key span:first-child{margin-left:0}\n"
    "</style>\n</head>\n<body>\n";

static void write_escaped(const char *text, FILE *stream) {
  for (; *text; text++) {
    if (*text == '<' || *text == '>' || *text == '&' || *text == '"')
      fprintf(stream, "&#%d;", *text);
    else
      fputc(*text, stream);
  }
}

static const char *class_of(const sptx_search *search, int candidate) {
  return candidate == search->best_index ? "best" : candidate == search->default_index ? "default" : "other";
}

static bool was_measured(const sptx_candidate *candidate) {
  return candidate->ms > 0 && !candidate->struck_out;
}

/* Measured candidates in the order of their times; order has room for all. */
static int sort_measured(const sptx_tune_result *result, int *order) {
  int count = 0;
  for (int k = 0; k < result->search.count; k++) {
    const sptx_candidate *candidates = result->candidates;
    int at = count;
    if (!was_measured(&candidates[k]))
      continue;
    for (; at > 0 && candidates[order[at - 1]].ms > candidates[k].ms; at--)
      order[at] = order[at - 1];
    order[at] = k;
    count++;
  }
  return count;
}

static void hover_text(const sptx_tune_result *result, int candidate, char *text, size_t size) {
  char schedule[SPTX_TUNE_TEXT];
  sptx_tune_schedule_text(result, candidate, schedule);
  snprintf(text, size, "%s: %.4g ms, expected %.4g ms", schedule, result->candidates[candidate].ms,
           result->candidates[candidate].predicted_ms);
}

/* The tile sizes of a schedule of either family. */
static void tiles_of(const sptx_tune_result *result, int candidate, int tiles[2]) {
  const sptx_schedule *schedule = &result->space.schedules[candidate];
  bool x86 = result->family == SPTX_FAMILY_X86;
  tiles[0] = x86 ? schedule->x86.query_tile : schedule->ptx.query_tile;
  tiles[1] = x86 ? schedule->x86.key_tile : schedule->ptx.key_tile;
}

enum { MOST_SIZES = 16 };

/* The distinct sizes of one side, ascending. */
static int list_sizes(const sptx_tune_result *result, int side, int sizes[MOST_SIZES]) {
  int count = 0;
  for (int k = 0; k < result->search.count; k++) {
    int tiles[2], at = 0;
    tiles_of(result, k, tiles);
    while (at < count && sizes[at] < tiles[side])
      at++;
    if (tiles[side] == 0 || count == MOST_SIZES || (at < count && sizes[at] == tiles[side]))
      continue;
    for (int move = count; move > at; move--)
      sizes[move] = sizes[move - 1];
    sizes[at] = tiles[side];
    count++;
  }
  return count;
}

/* The fastest candidate of a pair of tile sizes: of the measured ones, else of those the model expects most
 * of; -1 where the space has none. */
static int fastest_of(const sptx_tune_result *result, int query_tile, int key_tile) {
  int best = -1;
  for (int k = 0; k < result->search.count; k++) {
    const sptx_candidate *one = &result->candidates[k], *other = &result->candidates[best < 0 ? k : best];
    int tiles[2];
    tiles_of(result, k, tiles);
    if (tiles[0] != query_tile || tiles[1] != key_tile || one->struck_out)
      continue;
    bool better = was_measured(one) != was_measured(other) ? was_measured(one)
                  : was_measured(one)                      ? one->ms < other->ms
                                                           : one->predicted_ms < other->predicted_ms;
    if (best < 0 || better)
      best = k;
  }
  return best;
}

/* From the fastest (green) to three times its time (red), so that colours mean the same in every plot. */
static void cell_colour(double ms, double fastest, char *text, size_t size) {
  double part = fmin(1, fmax(0, log(ms / fastest) / log(3)));
  snprintf(text, size, "hsl(%.0f 65%% %.0f%%)", 145 - 135 * part, 72 - 8 * part);
}

static void draw_cell(const sptx_tune_result *result, int candidate, double fastest, double x, double y,
                      double width, double height, FILE *stream) {
  const sptx_candidate *shown = &result->candidates[candidate];
  char colour[64] = "none", hover[SPTX_TUNE_TEXT + 64];
  bool measured = was_measured(shown);
  if (measured)
    cell_colour(shown->ms, fastest, colour, sizeof colour);
  hover_text(result, candidate, hover, sizeof hover);
  fprintf(
      stream,
      "<g><title>%s</title><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"3\" fill=\"%s\" "
      "stroke=\"var(--%s)\" stroke-width=\"%s\"/><text class=\"%s\" x=\"%.1f\" y=\"%.1f\" "
      "text-anchor=\"middle\">%s%.3g</text></g>\n",
      hover, x, y, width - 3, height - 3, colour, candidate == result->search.best_index ? "best" : "line",
      candidate == result->search.best_index ? "3" : "1", measured ? "cell" : "guess", x + width / 2 - 1,
      y + height / 2 + 3, measured ? "" : "~", measured ? shown->ms : shown->predicted_ms);
}

static void draw_tiles(const sptx_tune_result *result, double fastest, FILE *stream) {
  enum { LEFT = 58, TOP = 30, BOTTOM = 42, RIGHT = 14 };
  int queries[MOST_SIZES], keys[MOST_SIZES];
  int rows = list_sizes(result, 0, queries), columns = list_sizes(result, 1, keys);
  if (rows == 0 || columns == 0)
    return;
  double width = (double)(SPTX_PLOT_WIDTH - LEFT - RIGHT) / columns;
  double height = (double)(SPTX_PLOT_HEIGHT - TOP - BOTTOM) / rows;
  fprintf(stream,
          "<figure><svg viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\" aria-label=\"time by tile size\">\n"
          "<text class=\"title\" x=\"%d\" y=\"16\">Time by tile size, ms</text>\n",
          SPTX_PLOT_WIDTH, SPTX_PLOT_HEIGHT, SPTX_PLOT_WIDTH, LEFT);
  for (int r = 0; r < rows; r++) {
    double y = TOP + r * height;
    fprintf(stream, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d</text>\n", LEFT - 6, y + height / 2 + 3,
            queries[r]);
    for (int c = 0; c < columns; c++) {
      int candidate = fastest_of(result, queries[r], keys[c]);
      if (candidate >= 0)
        draw_cell(result, candidate, fastest, LEFT + c * width, y, width, height, stream);
    }
  }
  for (int c = 0; c < columns; c++)
    fprintf(stream, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n",
            LEFT + (c + 0.5) * width - 1, SPTX_PLOT_HEIGHT - BOTTOM + 14, keys[c]);
  fprintf(
      stream,
      "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">keys of a tile</text>"
      "<text transform=\"rotate(-90)\" x=\"%d\" y=\"13\" text-anchor=\"middle\">queries of a tile</text>\n",
      SPTX_PLOT_WIDTH / 2 + 20, SPTX_PLOT_HEIGHT - 6, -(TOP + SPTX_PLOT_HEIGHT - BOTTOM) / 2);
  fputs("</svg><figcaption>The fastest schedule of each pair of tile sizes; ~ marks what the model expects "
        "where nothing was measured. The best has an orange frame, unless it is the "
        "default.</figcaption></figure>\n",
        stream);
}

static void draw_times(const sptx_tune_result *result, const int *order, int count, FILE *stream) {
  double fastest = result->candidates[order[0]].ms, slowest = result->candidates[order[count - 1]].ms;
  sptx_plot plot = {
      .stream = stream,
      .x = {"candidates, fastest first", 0, count + 1, false},
      .y = {"measured ms", fmax(0, fastest - 0.15 * (slowest - fastest)), slowest * 1.02, false}};
  sptx_plot_begin(&plot, "All measured schedules");
  for (int k = 0; k < count; k++) {
    char hover[SPTX_TUNE_TEXT + 64];
    hover_text(result, order[k], hover, sizeof hover);
    sptx_plot_point(&plot, class_of(&result->search, order[k]), k + 1, result->candidates[order[k]].ms,
                    hover);
  }
  sptx_plot_end(&plot, "The shortest of several calls each. Rest the pointer on a mark for its schedule.");
}

static void draw_model(const sptx_tune_result *result, const int *order, int count, FILE *stream) {
  double low = INFINITY, high = 0;
  for (int k = 0; k < count; k++) {
    const sptx_candidate *candidate = &result->candidates[order[k]];
    low = fmin(low, fmin(candidate->predicted_ms, candidate->ms));
    high = fmax(high, fmax(candidate->predicted_ms, candidate->ms));
  }
  sptx_plot plot = {.stream = stream,
                    .x = {"expected ms", low / 1.1, high * 1.1, true},
                    .y = {"measured ms", low / 1.1, high * 1.1, true}};
  sptx_plot_begin(&plot, "Cost model against measurement");
  sptx_plot_line(&plot, "guide", plot.x.low, plot.y.low, plot.x.high, plot.y.high);
  for (int k = 0; k < count; k++) {
    const sptx_candidate *candidate = &result->candidates[order[k]];
    char hover[SPTX_TUNE_TEXT + 64];
    hover_text(result, order[k], hover, sizeof hover);
    sptx_plot_point(&plot, class_of(&result->search, order[k]), candidate->predicted_ms, candidate->ms,
                    hover);
  }
  char caption[160] = "On the dashed line the model is right.";
  if (!isnan(result->search.spearman))
    snprintf(caption, sizeof caption,
             "On the dashed line the model is right; what counts is the order: rank correlation %.2f.",
             result->search.spearman);
  sptx_plot_end(&plot, caption);
}

/* Operations of one call and the bytes that it must move at least once. */
static void count_work(const sptx_bench_request *shape, const sptx_tune_result *result, double *operations,
                       double *bytes) {
  double queries = (double)shape->batch * (double)shape->heads * (double)shape->n_q * (double)shape->head_dim;
  double keys = (double)shape->batch * (double)shape->kv_heads * (double)shape->n_k * (double)shape->head_dim;
  bool backward = result->pass == SPTX_PASS_BACKWARD;
  *bytes =
      (backward ? 4 * queries + 4 * keys : 2 * queries + 2 * keys) * (double)sptx_element_size(shape->dtype);
  *operations = 4.0 * (double)result->useful_pairs * (double)shape->head_dim * (backward ? 2.5 : 1);
}

static void draw_roofline(const sptx_bench_request *shape, const sptx_tune_result *result,
                          const sptx_rates *rates, FILE *stream) {
  double operations, bytes, peak = 1e-9 * rates->flops, copy = 1e-9 * rates->copy;
  count_work(shape, result, &operations, &bytes);
  double ridge = peak / copy, intensity = operations / bytes;
  double standard = 1e-6 * operations / sptx_tune_default_ms(result),
         best = 1e-6 * operations / sptx_tune_best_ms(result);
  double left = fmin(ridge, intensity) / 4, right = fmax(ridge, intensity) * 4;
  sptx_plot plot = {
      .stream = stream,
      .x = {"operations for each byte moved", left, right, true},
      .y = {"GFLOP/s", fmin(fmin(best, standard) / 2, left * copy), fmax(peak, best) * 1.5, true}};
  double share = 100 * best / fmin(peak, intensity * copy);
  char text[96];
  sptx_plot_begin(&plot, "Roofline");
  sptx_plot_line(&plot, "roof", left, left * copy, ridge, peak);
  sptx_plot_line(&plot, "roof", ridge, peak, right, peak);
  sptx_plot_line(&plot, "guide", intensity, plot.y.low, intensity, fmin(peak, intensity * copy));
  snprintf(text, sizeof text, "default: %.4g GFLOP/s", standard);
  sptx_plot_point(&plot, "default", intensity, standard, text);
  snprintf(text, sizeof text, "best: %.4g GFLOP/s, %.0f %% of the roof", best, share);
  sptx_plot_point(&plot, "best", intensity, best, text);
  char caption[400];
  snprintf(caption, sizeof caption,
           "Useful work only, under the device's rates of large matrix products (%.4g GFLOP/s) and copies "
           "(%.3g GB/s). The best reaches %.0f %% of the roof.%s",
           peak, copy, share,
           share > 100
               ? " The rates were measured while the machine did other work: sptx-tune --forget with the "
                 "device's name has them measured again."
               : "");
  sptx_plot_end(&plot, caption);
}

/* The fastest and the default, all by their shortest times. */
static void write_fastest(const sptx_tune_result *result, const int *order, int count, FILE *stream) {
  enum { SHOWN = 8 };
  double standard = result->candidates[result->search.default_index].ms;
  fputs("<table><tr><th class=\"number\">shortest ms</th><th class=\"number\">expected ms</th>"
        "<th class=\"number\">against the default</th><th>schedule</th></tr>\n",
        stream);
  for (int k = 0; k < count; k++) {
    char schedule[SPTX_TUNE_TEXT];
    const sptx_candidate *candidate = &result->candidates[order[k]];
    if (k >= SHOWN && order[k] != result->search.default_index)
      continue;
    sptx_tune_schedule_text(result, order[k], schedule);
    fprintf(stream,
            "<tr><td class=\"number\">%.4g</td><td class=\"number\">%.4g</td><td class=\"number\">%.2fx</td>"
            "<td><code>%s</code></td></tr>\n",
            candidate->ms, candidate->predicted_ms, standard / candidate->ms, schedule);
  }
  fputs("</table>\n", stream);
}

static void write_struck_out(const sptx_tune_result *result, FILE *stream) {
  for (int k = 0; k < result->search.count; k++) {
    char schedule[SPTX_TUNE_TEXT];
    if (!result->candidates[k].struck_out)
      continue;
    sptx_tune_schedule_text(result, k, schedule);
    fprintf(stream, "<p>Struck out: <code>%s</code>: ", schedule);
    write_escaped(result->candidates[k].reason, stream);
    fputs("</p>\n", stream);
  }
}

static void write_pass(const sptx_bench_request *shape, const sptx_tuned *tuned, const sptx_rates *rates,
                       FILE *stream) {
  const sptx_tune_result *result = &tuned->result;
  const sptx_search *search = &result->search;
  int *order = calloc((size_t)search->count, sizeof *order);
  int count = order ? sort_measured(result, order) : 0;
  fputs("<h2>", stream);
  write_escaped(tuned->step, stream);
  fprintf(stream, "%s%s</h2>\n<p class=\"soft\">%s. %d of %d schedules measured in %.1f s",
          tuned->step[0] ? ", " : "", sptx_pass_name(result->pass), result->piece, search->measured,
          search->count, search->seconds);
  fprintf(stream, "; in turns, the best took %.4g ms and the default %.4g ms (%.2fx).</p>\n",
          sptx_tune_best_ms(result), sptx_tune_default_ms(result),
          sptx_tune_default_ms(result) / sptx_tune_best_ms(result));
  if (count > 0) {
    write_fastest(result, order, count, stream);
    write_struck_out(result, stream);
    fputs("<div class=\"plots\">\n", stream);
    draw_tiles(result, result->candidates[order[0]].ms, stream);
    draw_times(result, order, count, stream);
    draw_model(result, order, count, stream);
    draw_roofline(shape, result, rates, stream);
    fputs("</div>\n", stream);
  }
  free(order);
}

void sptx_tune_html(const sptx_bench_request *shape, const sptx_tuned_list *list, FILE *stream) {
  fputs(head, stream);
  fputs("<h1>", stream);
  write_escaped(list->pattern, stream);
  fprintf(stream,
          "</h1>\n<p class=\"soft\">batch %lld, %lld heads of %lld (%lld key), %lld queries, %lld keys, %s",
          (long long)shape->batch, (long long)shape->heads, (long long)shape->head_dim,
          (long long)shape->kv_heads, (long long)shape->n_q, (long long)shape->n_k,
          sptx_element_name((enum sptx_element)shape->dtype));
  fputs(" on ", stream);
  write_escaped(list->count > 0 ? list->items[0].result.device : shape->device, stream);
  fputs("; sptx " SPTX_VERSION
        "</p>\n<p class=\"key soft\"><span style=\"background:var(--best)\"></span>best"
        "<span style=\"background:var(--default)\"></span>default"
        "<span style=\"background:var(--other)\"></span>other</p>\n",
        stream);
  for (int k = 0; k < list->count; k++)
    write_pass(shape, &list->items[k], &list->rates, stream);
  fputs("</body>\n</html>\n", stream);
}
