/* One attention on the GPU through the public API, held against float64: what tests/gpu is made of. */
#ifndef SPTX_TESTS_GPU_CASE_H
#define SPTX_TESTS_GPU_CASE_H

#include "runtime/cuda_device.h"
#include "runtime/sptx.h"
#include "tests/support/reference.h"

enum gpu_layout { GPU_CONTIGUOUS, GPU_POSITION_FIRST, GPU_GAPS };

typedef struct gpu_case {
  const char *pattern;   /* a file of the pattern library without ".yaml", or YAML after "name:" */
  const char *parameter; /* "name=value", or NULL */
  int64_t step;
  enum sptx_element element;
  enum sptx_pass pass; /* backward runs forward first */
  int64_t batch, heads, kv_heads, n_q, n_k;
  int head_dim;
  enum gpu_layout layout;
  float scale, soft_cap; /* 0: the default, none */
  bool alibi, nondeterministic, without_lse;
  bool captured;    /* runs as a CUDA graph */
  int repeats;      /* backward: so many runs must agree bit for bit */
  int64_t position; /* decode */
  const char *schedule;
} gpu_case;

enum gpu_verdict {
  GPU_PASSED,
  GPU_FAILED,
  GPU_UNSUPPORTED,
  GPU_LOST, /* the driver failed: this process can use the device no longer */
};

/* What the cases of one process share. */
typedef struct gpu_session {
  sptx_context *context;
  sptx_cuda_driver driver;
  sptx_cuda_device device;
  sptx_cu_stream stream;
  const char *patterns; /* the folder of the pattern library */
} gpu_session;

enum gpu_verdict gpu_session_open(gpu_session *session, const char *device, const char *patterns,
                                  const char *cache, char *message, size_t size);
void gpu_session_close(gpu_session *session);
/* message: why, unless it passed. */
enum gpu_verdict gpu_case_run(gpu_session *session, const gpu_case *c, uint64_t seed, char *message,
                              size_t size);
void gpu_case_print(const gpu_case *c, char *text, size_t size);

#endif
