/* One attention call through the portable GPU kernels, interpreted on the CPU (tests/support/simt.h) and
 * compared with the float64 reference. Outputs and the gaps between rows are poisoned before the run; gaps
 * must keep their poison. */
#ifndef SPTX_TESTS_GPU_PORTABLE_CASE_H
#define SPTX_TESTS_GPU_PORTABLE_CASE_H

#include "gen/ptx/plan.h"
#include "patterns/pattern.h"
#include "tests/support/reference.h"

enum portable_layout { PORTABLE_CONTIGUOUS, PORTABLE_POSITION_FIRST, PORTABLE_GAPS, PORTABLE_ODD_GAPS };

typedef struct portable_case {
  const char *pattern; /* YAML without its first two lines, or the path of a file */
  size_t step;
  enum sptx_element element;
  enum sptx_pass pass; /* backward runs forward first */
  int64_t batch, heads, kv_heads, n_q, n_k;
  int head_dim;
  enum portable_layout layout;
  double soft_cap;
  bool alibi, negative_scale;
  sptx_ptx_schedule schedule; /* zeros: defaults */
  uint64_t seed;
  int64_t position; /* decode */
} portable_case;

/* What planning needs; a case opened holds it. */
typedef struct portable_session {
  const portable_case *c;
  sptx_problem problem;
  sptx_pattern *pattern;
  sptx_instance instance;
  sptx_piece_list *lists;
} portable_session;

enum sptx_code portable_open(portable_session *s, const portable_case *c, sptx_error *error);
enum sptx_code portable_plan(const portable_session *s, enum sptx_pass pass, enum sptx_ptx_target target,
                             sptx_gpu_plan **plan, sptx_error *error);
void portable_close(portable_session *s);

/* Runs and asserts. */
void portable_case_check(const portable_case *c);

#endif
