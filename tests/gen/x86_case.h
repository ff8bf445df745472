/* One attention call through the x86 generator, JIT-compiled and compared with the float64 reference. Outputs
 * and the gaps between rows are poisoned before the run; gaps must keep their poison. */
#ifndef SPTX_TESTS_GEN_X86_CASE_H
#define SPTX_TESTS_GEN_X86_CASE_H

#include "gen/x86/kernel.h"
#include "tests/support/reference.h"

/* X86_FAR: positions lie 2^28 elements apart, in memory that is reserved but not there until it is touched.
 */
enum x86_layout { X86_CONTIGUOUS, X86_POSITION_FIRST, X86_GAPS, X86_FAR };

/* Of one and of several pieces, of one and of several classes of heads, with rows that have no key. */
enum { X86_DENSE, X86_WINDOW, X86_TWO_PIECES, X86_PATTERNS = 11 };
extern const char *const x86_patterns[X86_PATTERNS];

typedef struct x86_case {
  const char *pattern; /* YAML without the first line */
  enum sptx_element element;
  enum sptx_isa isa;
  enum sptx_pass pass;
  int64_t batch, heads, kv_heads, n_q, n_k;
  int head_dim;
  enum x86_layout layout;
  double scale, soft_cap; /* scale 0: 1 / sqrt(head_dim) */
  bool alibi;
  sptx_x86_schedule schedule; /* zeros: defaults */
  int threads;                /* 0: one */
  uint64_t seed;
  int64_t position; /* decode */
  enum sptx_x86_mutant mutant;
  double amplitude; /* of q and k; 0: 1 */
  bool opposed;     /* q is positive and k negative: every score is far below 0 */
  int64_t nan_row;  /* > 0: this row of q, k, v and d_o holds a NaN in every head */
} x86_case;

/* What a run leaves: tensors as doubles, contiguous, and the greatest error in units of its tolerance. */
typedef struct x86_result {
  double *o, *lse, *d_q, *d_k, *d_v;
  double worst; /* <= 1 passes */
  char where[160];
  bool gap_written;
} x86_result;

/* Runs the case and compares. False: it could not be run, error says why. */
bool x86_case_run(const x86_case *c, x86_result *result, sptx_error *error);
void x86_result_clear(x86_result *result);
/* Runs the backward item by item: how many rows of dK and dV does an item write that another of its launch
 * writes too? Float32, contiguous. Two threads could lose each other's sums there. */
int64_t x86_case_shared_rows(const x86_case *c);
/* Runs and asserts. */
void x86_case_check(const x86_case *c);

#endif
