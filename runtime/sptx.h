/* sptx: sparse attention from a pattern file.
 *
 * Modes of use: create a context for a device, load a pattern (YAML), create an attention for one shape (this
 * plans, compiles or fetches kernels from the cache), then run it as often as you like, from any thread.
 *
 *   sptx_context *ctx;  sptx_pattern *pattern;  sptx_attention *att;
 *   sptx_context_create(&ctx, "cpu");
 *   sptx_pattern_load(ctx, "strided.yaml", NULL, 0, &pattern);
 *   sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
 *   desc.batch = 1; desc.heads = 8; desc.n_q = desc.n_k = 4096; desc.head_dim = 64;
 *   sptx_attention_create(ctx, pattern, &desc, &att);
 *   sptx_attention_forward(att, q, k, v, o, lse, NULL);
 *
 * Tensors: q, o are (batch, heads, n_q, head_dim), k, v are (batch, kv_heads, n_k, head_dim), in any order of
 * the outer axes that the strides of the desc can say; head_dim is contiguous. lse is float32, contiguous
 * (batch, heads, n_q): ln(sum(exp(score))), -inf for a query that attends to nothing (its output is 0).
 * On "cpu" pointers are host memory; on "cuda:N" they are device memory of that device. The caller owns all
 * tensors. Outputs must not overlap inputs.
 *
 * Errors: every function that can fail returns sptx_status; sptx_last_error(ctx) is a full sentence with the
 * place and the remedy, of the last failure on this context in the calling thread. The library never prints,
 * exits or aborts, and keeps no global state.
 *
 * Threads: contexts may be used by several threads at once. Patterns and attentions are immutable once
 * created, and forward, backward and decode may run on one attention from many threads at once. Destroy an
 * object only when no call on it is running. */
#ifndef SPTX_H
#define SPTX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SPTX_API __attribute__((visibility("default")))
#else
#define SPTX_API
#endif

#define SPTX_VERSION_MAJOR 0
#define SPTX_VERSION_MINOR 1
#define SPTX_VERSION_PATCH 0

/* Spaced by topic; a number keeps its meaning for ever. */
typedef enum sptx_status {
  SPTX_OK = 0,
  SPTX_INVALID_ARGUMENT = 10, /* NULL, a size, stride, type or name that cannot be */
  SPTX_OUT_OF_MEMORY = 11,
  SPTX_OVERFLOW = 12,       /* a size or an offset does not fit 63 bits */
  SPTX_PATTERN_SYNTAX = 20, /* not YAML, or not an expression */
  SPTX_PATTERN_VALUE = 21,  /* well formed, but a key, a type or a value is wrong */
  SPTX_PATTERN_LIMIT = 22,  /* refused to keep memory bounded: nesting, aliases, long scalars */
  SPTX_UNSUPPORTED = 30,    /* possible, but sptx cannot: a head_dim, a length, a device's age */
  SPTX_IO = 40,             /* a file cannot be opened or read */
  SPTX_FORMAT = 41,         /* a file (of a layout) holds something else */
  SPTX_COMPILE = 50,        /* LLVM or the driver refused the generated code: a defect of sptx, report it */
  SPTX_NO_DEVICE = 60,      /* no such device, no driver, or a CPU without AVX2 */
  SPTX_DEVICE = 61,         /* a driver call failed, on a GPU only */
  SPTX_DEVICE_MEMORY = 62   /* the GPU has too little memory */
} sptx_status;

typedef enum sptx_dtype { SPTX_F32 = 0, SPTX_F16 = 1, SPTX_BF16 = 2 } sptx_dtype;

typedef struct sptx_context sptx_context;
typedef struct sptx_pattern sptx_pattern;
typedef struct sptx_attention sptx_attention;

/* "0.1.0"; static. */
SPTX_API const char *sptx_version(void);
/* A short name of the status, "invalid argument"; static, never NULL. */
SPTX_API const char *sptx_status_name(sptx_status status);

/* device: "cpu" or "cuda:N". Compiled code is kept in $XDG_CACHE_HOME/sptx (or ~/.cache/sptx), private to the
 * user; these two variables are the only environment read, here and nowhere else.
 * Fails: SPTX_INVALID_ARGUMENT (device name), SPTX_NO_DEVICE, SPTX_UNSUPPORTED (the GPU or its driver is too
 * old), SPTX_DEVICE, SPTX_DEVICE_MEMORY, SPTX_OUT_OF_MEMORY; then *ctx is NULL, and sptx_last_error(NULL)
 * tells the calling thread why. */
SPTX_API sptx_status sptx_context_create(sptx_context **ctx, const char *device);
/* NULL is allowed. Patterns and attentions of the context must be destroyed first. */
SPTX_API void sptx_context_destroy(sptx_context *ctx);
/* The sentence of the last failure in the calling thread; "" when none. Valid until its next failure. */
SPTX_API const char *sptx_last_error(const sptx_context *ctx);
/* CPU threads of each call: 1..1024; 0 chooses the number of usable cores (the default).
 * Fails: SPTX_INVALID_ARGUMENT. */
SPTX_API sptx_status sptx_context_set_threads(sptx_context *ctx, int threads);
/* Where compiled code is kept; NULL keeps none on disk. A directory that cannot be used, or that others may
 * write, costs time only. Fails, as the next one: SPTX_INVALID_ARGUMENT (""), SPTX_OUT_OF_MEMORY. */
SPTX_API sptx_status sptx_context_set_cache(sptx_context *ctx, const char *directory);
/* The wisdom database, wisdom.db beside the compiled code unless set; NULL uses none. A missing, damaged or
 * read-only file costs speed only. */
SPTX_API sptx_status sptx_context_set_wisdom(sptx_context *ctx, const char *path);

/* Replaces a parameter of the pattern: value is an expression over n and the parameters above it. */
typedef struct sptx_param {
  const char *name, *value;
} sptx_param;

/* Reads a pattern file. Fails: SPTX_PATTERN_SYNTAX, SPTX_PATTERN_VALUE, SPTX_PATTERN_LIMIT (each with
 * file:line:column), SPTX_IO, SPTX_FORMAT (a layout's file), SPTX_INVALID_ARGUMENT, SPTX_OUT_OF_MEMORY; then
 * *pattern is NULL. A parameter's place is "--set name". */
SPTX_API sptx_status sptx_pattern_load(sptx_context *ctx, const char *path, const sptx_param *params,
                                       size_t param_count, sptx_pattern **pattern);
/* The same from text in memory (need not be NUL terminated); name stands for the file in messages. */
SPTX_API sptx_status sptx_pattern_from_text(sptx_context *ctx, const char *text, size_t length,
                                            const char *name, const sptx_param *params, size_t param_count,
                                            sptx_pattern **pattern);
SPTX_API void sptx_pattern_destroy(sptx_pattern *pattern);
/* How many steps an interleaved pattern has (1 for any other), and which one a layer runs; 0 for NULL. */
SPTX_API size_t sptx_pattern_steps(const sptx_pattern *pattern);
SPTX_API size_t sptx_pattern_step_of_layer(const sptx_pattern *pattern, int64_t layer);

/* Strides of a tensor in elements, not negative, under which no two elements share a place; all zero means
 * contiguous (batch, heads, n, head_dim). */
typedef struct sptx_tensor_strides {
  int64_t batch, head, position;
} sptx_tensor_strides;

enum {
  SPTX_WITH_BACKWARD = 1,    /* also prepare the backward pass */
  SPTX_WITH_DECODE = 2,      /* also prepare sptx_attention_decode */
  SPTX_NONDETERMINISTIC = 4, /* the backward pass may differ from run to run where that is faster */
  SPTX_TUNE = 8              /* where wisdom knows no schedule, search one for forward and backward now,
                                within tune_seconds, and file it as wisdom */
};

/* One attention shape. struct_size and the initializer keep programs working when fields are added. */
typedef struct sptx_attention_desc {
  size_t struct_size;
  uint32_t flags;
  sptx_dtype dtype;
  int64_t batch, heads, kv_heads; /* kv_heads divides heads; 0 means heads */
  int64_t n_q, n_k;               /* n_q <= n_k: the last query is aligned with the last key */
  int64_t head_dim;               /* 16..256, a multiple of 8 */
  int64_t step;                   /* which step of an interleaved pattern */
  float scale;                    /* 0 means 1 / sqrt(head_dim) */
  float soft_cap;                 /* 0 means none; else score = cap * tanh(score / cap) */
  const float *alibi_slopes;      /* NULL or heads host floats, copied: score += slope * (j - i) */
  sptx_tensor_strides q, k, v, o; /* gradients share them, d_o those of o */
  double tune_seconds;            /* with SPTX_TUNE */
} sptx_attention_desc;
#define SPTX_ATTENTION_DESC_INIT                                                                             \
  {                                                                                                          \
    sizeof(sptx_attention_desc), SPTX_WITH_BACKWARD, SPTX_F32, 1, 1, 0, 0, 0, 0, 0, 0.0f, 0.0f, NULL,        \
        {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0}, 0.0                                                      \
  }

/* Plans and compiles. Fails: SPTX_INVALID_ARGUMENT (sizes, strides, types: the sentence names the field),
 * SPTX_OVERFLOW, SPTX_UNSUPPORTED, SPTX_PATTERN_VALUE (an expression fails for this n), SPTX_COMPILE,
 * SPTX_DEVICE, SPTX_DEVICE_MEMORY, SPTX_OUT_OF_MEMORY; then *attention is NULL. The pattern may be destroyed
 * afterwards. */
SPTX_API sptx_status sptx_attention_create(sptx_context *ctx, const sptx_pattern *pattern,
                                           const sptx_attention_desc *desc, sptx_attention **attention);
SPTX_API void sptx_attention_destroy(sptx_attention *attention);

/* o = softmax(scale * q k^T over the pattern) v (Child et al. 2019, section 4.2), one pass over memory.
 * lse may be NULL when no backward follows. stream: a CUstream on CUDA (asynchronous), ignored on the CPU.
 * Fails, as the next two: SPTX_INVALID_ARGUMENT (a NULL tensor, a pass that the flags did not ask for, a
 * position out of range, on CUDA a host pointer), SPTX_OUT_OF_MEMORY (the workspace), SPTX_DEVICE,
 * SPTX_DEVICE_MEMORY. */
SPTX_API sptx_status sptx_attention_forward(const sptx_attention *attention, const void *q, const void *k,
                                            const void *v, void *o, float *lse, void *stream);
/* Gradients of q, k, v from d_o; o and lse are those that forward wrote. Overwrites d_q, d_k, d_v. */
SPTX_API sptx_status sptx_attention_backward(const sptx_attention *attention, const void *q, const void *k,
                                             const void *v, const void *o, const float *lse, const void *d_o,
                                             void *d_q, void *d_k, void *d_v, void *stream);
/* One new query for each (batch, head), at position (0 <= position < n_k), against the key/value cache of n_k
 * rows of which rows 0..position are filled. q and o are (batch, heads, 1, head_dim) by the desc's batch and
 * head strides; costs the pattern's keys of that position only. lse is (batch, heads) or NULL. */
SPTX_API sptx_status sptx_attention_decode(const sptx_attention *attention, int64_t position, const void *q,
                                           const void *k, const void *v, void *o, float *lse, void *stream);

/* What the plan computes: pairs that the pattern wants and pairs that the kernels touch, over batch and
 * heads. */
typedef struct sptx_attention_info {
  size_t struct_size;
  int64_t useful_pairs, computed_pairs;
  size_t workspace_bytes;
  double create_seconds; /* lowering, planning and compiling */
  int cache_hit;         /* 1 when no kernel had to be compiled */
} sptx_attention_info;
SPTX_API sptx_status sptx_attention_get_info(const sptx_attention *attention, sptx_attention_info *info);

#ifdef __cplusplus
}
#endif
#endif
