/* What tuning found, for people and programs: JSON objects, a table made of them, and one self-contained HTML
 * page. */
#ifndef SPTX_TUNER_TUNE_REPORT_H
#define SPTX_TUNER_TUNE_REPORT_H

#include "tuner/tune_run.h"
#include <cjson/cJSON.h>
#include <stdio.h>

/* Appends an object for each tuned pass to the array: the shape, piece, pass, default_ms, best_ms, schedule,
 * candidates, measured, struck_out, spearman (null where nothing was ranked), the candidates that were struck
 * out with the reason, and every measured candidate with its expected and its measured time. */
enum sptx_code sptx_tune_json(const sptx_bench_request *shape, const sptx_tuned_list *list, cJSON *results,
                              sptx_error *error);
/* The winners against the default, one line for each object of such an array, then what was struck out. */
void sptx_tune_table(const cJSON *results, FILE *stream);
/* For each pass: time by tile size, all times, model against measurement, and the roofline (Williams et al.
 * 2009), drawn in SVG without scripts or anything from a network. */
void sptx_tune_html(const sptx_bench_request *shape, const sptx_tuned_list *list, FILE *stream);

#endif
