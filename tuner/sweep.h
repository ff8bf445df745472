/* A sweep file: many shapes to tune, written as lists that are multiplied out.
 *
 *   sptx_sweep: 1
 *   tune:
 *     - pattern: [strided.yaml, fixed.yaml]   # relative to the sweep file
 *       n: [4096, 8192]
 *       heads: 8
 *       head_dim: [64, 128]
 *       dtype: [f32, bf16]
 *       pass: [forward, backward]
 *       set: {stride: 64}
 *
 * Keys: pattern and n, which must be there; n_q, batch, heads, kv_heads, head_dim, dtype, pass and set, whose
 * defaults are those of the command line. */
#ifndef SPTX_TUNER_SWEEP_H
#define SPTX_TUNER_SWEEP_H

#include "patterns/yaml.h"
#include "tuner/bench.h"

enum { SPTX_SWEEP_MOST = 100000 };

/* One shape; what it points to belongs to the sweep. */
typedef struct sptx_sweep_item {
  sptx_bench_request shape;
} sptx_sweep_item;

typedef struct sptx_sweep {
  sptx_sweep_item *items;
  size_t count;
  sptx_yaml yaml;
  char *file;          /* the sweep file's name, for messages */
  char **texts;        /* owned: paths of patterns */
  sptx_param **params; /* owned: one list for each entry */
  size_t text_count, param_lists;
} sptx_sweep;

/* defaults: what an entry leaves out. Fails with file:line:column and what was expected. Clear it in any
 * case. */
enum sptx_code sptx_sweep_read(const char *path, const sptx_bench_request *defaults, sptx_sweep *sweep,
                               sptx_error *error);
void sptx_sweep_clear(sptx_sweep *sweep);

#endif
