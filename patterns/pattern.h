/* A parsed pattern file, and its resolution for a shape into one set for each head. */
#ifndef SPTX_PATTERNS_PATTERN_H
#define SPTX_PATTERNS_PATTERN_H

#include "patterns/error.h"
#include "patterns/set.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct sptx_pattern sptx_pattern; /* immutable after parsing; may be shared by threads */

/* One `--set name=value`; value is an expression over n and the params above. */
typedef struct sptx_override {
  const char *name, *value;
} sptx_override;

/* text need not be NUL terminated; file names it in messages and is the base of `layout: {file}` paths. */
enum sptx_code sptx_pattern_parse(const char *text, size_t length, const char *file,
                                  const sptx_override *overrides, size_t override_count,
                                  sptx_pattern **pattern, sptx_error *error);
enum sptx_code sptx_pattern_read(const char *path, const sptx_override *overrides, size_t override_count,
                                 sptx_pattern **pattern, sptx_error *error);
void sptx_pattern_release(sptx_pattern *pattern); /* NULL is allowed */

const char *sptx_pattern_name(const sptx_pattern *pattern);
const char *sptx_pattern_about(const sptx_pattern *pattern); /* "" when left out */
size_t
sptx_pattern_step_count(const sptx_pattern *pattern); /* kernels' worth of steps: 1 unless interleaved */
const char *sptx_pattern_step_name(const sptx_pattern *pattern,
                                   size_t step); /* "" for `attend`, `heads`, merge */
size_t sptx_pattern_layer_step(const sptx_pattern *pattern, int64_t layer); /* the step that layer runs */
size_t
sptx_pattern_layer_period(const sptx_pattern *pattern); /* layers after which the steps' order repeats */

/* What each head attends to, for one step and shape. Heads with equal sets share a class. */
typedef struct sptx_instance {
  int64_t n_q, n_k, heads;
  bool causal; /* pairs also need j <= i, in positions */
  int class_count;
  sptx_set **classes; /* class_count sets, owned */
  int *class_of_head; /* heads entries */
} sptx_instance;

enum sptx_code sptx_pattern_resolve(const sptx_pattern *pattern, size_t step, int64_t heads, int64_t n_q,
                                    int64_t n_k, sptx_instance *instance, sptx_error *error);
void sptx_instance_clear(sptx_instance *instance);

/* The oracle: does query i (0 <= i < n_q) of head attend to key j (0 <= j < n_k)? */
enum sptx_code sptx_instance_contains(const sptx_instance *instance, int64_t head, int64_t i, int64_t j,
                                      bool *contains, sptx_error *error);

#endif
