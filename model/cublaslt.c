/* cuBLASLt behind a table of pointers; see cublaslt.h. Matrices here are stored by rows, cuBLASLt's by
 * columns: it is asked for C^T = op(b)^T op(a)^T, whose stored form is the same. */
#include "model/cublaslt.h"

#include "runtime/clock.h"
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct cublasLtContext *handle;
typedef struct cublasLtMatmulDescOpaque_t *operation;
typedef struct cublasLtMatrixLayoutOpaque_t *layout;
typedef struct cublasLtMatmulPreferenceOpaque_t *preference;

typedef struct algorithm {
  uint64_t data[8];
} algorithm;

/* cublasLtMatmulHeuristicResult_t */
typedef struct proposal {
  algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
} proposal;

/* X(name, parameters): each returns 0, or a status. */
#define FUNCTIONS(X)                                                                                         \
  X(cublasLtCreate, (handle *))                                                                              \
  X(cublasLtDestroy, (handle))                                                                               \
  X(cublasLtMatmulDescCreate, (operation *, int compute, int scale))                                         \
  X(cublasLtMatmulDescSetAttribute, (operation, int attribute, const void *, size_t))                        \
  X(cublasLtMatmulDescDestroy, (operation))                                                                  \
  X(cublasLtMatrixLayoutCreate, (layout *, int type, uint64_t rows, uint64_t columns, int64_t stride))       \
  X(cublasLtMatrixLayoutDestroy, (layout))                                                                   \
  X(cublasLtMatmulPreferenceCreate, (preference *))                                                          \
  X(cublasLtMatmulPreferenceSetAttribute, (preference, int attribute, const void *, size_t))                 \
  X(cublasLtMatmulPreferenceDestroy, (preference))                                                           \
  X(cublasLtMatmulAlgoGetHeuristic,                                                                          \
    (handle, operation, layout, layout, layout, layout, preference, int wanted, proposal *, int *found))     \
  X(cublasLtMatmul,                                                                                          \
    (handle, operation, const void *alpha, const void *a, layout, const void *b, layout, const void *beta,   \
     const void *c, layout, void *d, layout, const algorithm *, void *workspace, size_t, void *stream))

/* Values of cublasLt.h, cublas_api.h and library_types.h. */
enum { COMPUTE_32F = 68, TYPE_F32 = 0, TYPE_F16 = 2, TYPE_BF16 = 14 };
enum { TRANSPOSE_A = 3, TRANSPOSE_B = 4, EPILOGUE = 7, BIAS_POINTER = 8, MAX_WORKSPACE = 1 };
enum { EPILOGUE_BIAS = 4 };
enum { PROPOSALS = 8, TIMED_RUNS = 4 };

/* One shape of product, ready to run. */
typedef struct product {
  int64_t m, n, k, strides[3];
  int types[3];
  bool transposed[2], accumulate, biased;
  operation operation;
  layout layouts[3];
  algorithm algorithm;
  struct product *next;
} product;

/* What a product reads and writes. */
typedef struct operands {
  const void *a, *b, *bias;
  void *c;
} operands;

struct sptx_cublaslt {
  sptx_device *device;
  void *library;
#define FIELD(name, parameters) int(*name) parameters;
  FUNCTIONS(FIELD)
#undef FIELD
  handle handle;
  preference preference;
  void *workspace;
  size_t workspace_bytes;
  product *products;
};

static enum sptx_code check(int status, const char *what, sptx_error *error) {
  if (status == 0)
    return SPTX_CODE_OK;
  return sptx_fail(error, SPTX_CODE_DEVICE, "%s fails with cuBLAS status %d", what, status);
}
#define CALL(lt, name, ...) check((lt)->name(__VA_ARGS__), #name, error)

static enum sptx_code find_functions(sptx_cublaslt *lt, sptx_error *error) {
  static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"};
  for (size_t i = 0; i < sizeof names / sizeof *names && !lt->library; i++)
    lt->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!lt->library)
    return sptx_fail(error, SPTX_CODE_NO_DEVICE,
                     "training on a GPU needs cuBLASLt: libcublasLt.so.11, 12 or 13 is not found; install "
                     "libcublas or add its folder to LD_LIBRARY_PATH");
#define FIND(name, parameters)                                                                               \
  *(void **)&lt->name = dlsym(lt->library, #name);                                                           \
  if (!lt->name)                                                                                             \
    return sptx_fail(error, SPTX_CODE_NO_DEVICE, "cuBLASLt has no " #name ": it is too old");
  FUNCTIONS(FIND)
#undef FIND
  return SPTX_CODE_OK;
}

enum sptx_code sptx_cublaslt_open(sptx_device *device, void *workspace, size_t workspace_bytes,
                                  sptx_cublaslt **library, sptx_error *error) {
  *library = NULL;
  sptx_cublaslt *lt = calloc(1, sizeof *lt);
  enum sptx_code code;
  if (!lt)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for cuBLASLt's table");
  lt->device = device;
  lt->workspace = workspace;
  lt->workspace_bytes = workspace_bytes;
  SPTX_TRY_GOTO(find_functions(lt, error), failed);
  SPTX_TRY_GOTO(CALL(lt, cublasLtCreate, &lt->handle), failed);
  SPTX_TRY_GOTO(CALL(lt, cublasLtMatmulPreferenceCreate, &lt->preference), failed);
  SPTX_TRY_GOTO(CALL(lt, cublasLtMatmulPreferenceSetAttribute, lt->preference, MAX_WORKSPACE,
                     &lt->workspace_bytes, sizeof lt->workspace_bytes),
                failed);
  *library = lt;
  return SPTX_CODE_OK;
failed:
  sptx_cublaslt_close(lt);
  return code;
}

static void free_product(sptx_cublaslt *lt, product *p) {
  for (int i = 0; i < 3; i++)
    if (p->layouts[i])
      lt->cublasLtMatrixLayoutDestroy(p->layouts[i]);
  if (p->operation)
    lt->cublasLtMatmulDescDestroy(p->operation);
  free(p);
}

void sptx_cublaslt_close(sptx_cublaslt *lt) {
  if (!lt)
    return;
  for (product *next; lt->products; lt->products = next) {
    next = lt->products->next;
    free_product(lt, lt->products);
  }
  if (lt->preference)
    lt->cublasLtMatmulPreferenceDestroy(lt->preference);
  if (lt->handle)
    lt->cublasLtDestroy(lt->handle);
  if (lt->library)
    dlclose(lt->library);
  free(lt);
}

static int type_of(sptx_dtype type) {
  return type == SPTX_F32 ? TYPE_F32 : type == SPTX_F16 ? TYPE_F16 : TYPE_BF16;
}

static bool same_product(const product *p, const product *q) {
  return p->m == q->m && p->n == q->n && p->k == q->k && p->accumulate == q->accumulate &&
         p->biased == q->biased && memcmp(p->strides, q->strides, sizeof p->strides) == 0 &&
         memcmp(p->types, q->types, sizeof p->types) == 0 &&
         memcmp(p->transposed, q->transposed, sizeof p->transposed) == 0;
}

/* The stored matrix of rows x columns, seen by columns. */
static enum sptx_code make_layout(sptx_cublaslt *lt, product *p, int index, int64_t rows, int64_t columns,
                                  sptx_error *error) {
  return CALL(lt, cublasLtMatrixLayoutCreate, &p->layouts[index], p->types[index], (uint64_t)columns,
              (uint64_t)rows, p->strides[index]);
}

static int run(sptx_cublaslt *lt, const product *p, const operands *o, const algorithm *how) {
  const float one = 1, beta = p->accumulate ? 1 : 0;
  return lt->cublasLtMatmul(lt->handle, p->operation, &one, o->b, p->layouts[1], o->a, p->layouts[0], &beta,
                            o->c, p->layouts[2], o->c, p->layouts[2], how, lt->workspace, lt->workspace_bytes,
                            NULL);
}

/* Of what cuBLASLt proposes the first is not always the fastest, on tall and narrow matrices by far. */
static enum sptx_code choose_fastest(sptx_cublaslt *lt, product *p, const operands *o,
                                     const proposal *proposals, int found, sptx_error *error) {
  double best = INFINITY;
  for (int i = 0; i < found; i++) {
    if (proposals[i].state != 0 || run(lt, p, o, &proposals[i].algorithm) != 0)
      continue;
    SPTX_TRY(lt->device->ops->synchronize(lt->device, error));
    double start = sptx_now();
    for (int timed = 0; timed < TIMED_RUNS; timed++)
      (void)run(lt, p, o, &proposals[i].algorithm);
    SPTX_TRY(lt->device->ops->synchronize(lt->device, error));
    double seconds = sptx_now() - start;
    if (seconds < best) {
      best = seconds;
      p->algorithm = proposals[i].algorithm;
    }
  }
  return SPTX_CODE_OK;
}

static enum sptx_code describe(sptx_cublaslt *lt, product *p, const void *bias, sptx_error *error) {
  const int transpose_first = p->transposed[1], transpose_second = p->transposed[0];
  SPTX_TRY(CALL(lt, cublasLtMatmulDescCreate, &p->operation, COMPUTE_32F, TYPE_F32));
  SPTX_TRY(CALL(lt, cublasLtMatmulDescSetAttribute, p->operation, TRANSPOSE_A, &transpose_first,
                sizeof transpose_first));
  SPTX_TRY(CALL(lt, cublasLtMatmulDescSetAttribute, p->operation, TRANSPOSE_B, &transpose_second,
                sizeof transpose_second));
  if (p->biased) {
    const int epilogue = EPILOGUE_BIAS;
    SPTX_TRY(CALL(lt, cublasLtMatmulDescSetAttribute, p->operation, EPILOGUE, &epilogue, sizeof epilogue));
    SPTX_TRY(CALL(lt, cublasLtMatmulDescSetAttribute, p->operation, BIAS_POINTER, &bias, sizeof bias));
  }
  SPTX_TRY(make_layout(lt, p, 0, p->transposed[0] ? p->k : p->m, p->transposed[0] ? p->m : p->k, error));
  SPTX_TRY(make_layout(lt, p, 1, p->transposed[1] ? p->n : p->k, p->transposed[1] ? p->k : p->n, error));
  return make_layout(lt, p, 2, p->m, p->n, error);
}

/* A product that adds to c runs once only, and one whose result must not depend on a clock is not timed. */
static enum sptx_code prepare(sptx_cublaslt *lt, product *p, const operands *o, sptx_error *error) {
  const int wanted = p->accumulate || lt->device->deterministic ? 1 : PROPOSALS;
  proposal proposals[PROPOSALS] = {0};
  int found = 0;
  SPTX_TRY(describe(lt, p, o->bias, error));
  SPTX_TRY(CALL(lt, cublasLtMatmulAlgoGetHeuristic, lt->handle, p->operation, p->layouts[1], p->layouts[0],
                p->layouts[2], p->layouts[2], lt->preference, wanted, proposals, &found));
  if (found == 0)
    return sptx_fail(error, SPTX_CODE_DEVICE, "cuBLASLt knows no way to multiply %ld x %ld by %ld x %ld",
                     (long)p->m, (long)p->k, (long)p->k, (long)p->n);
  p->algorithm = proposals[0].algorithm;
  return found == 1 ? SPTX_CODE_OK : choose_fastest(lt, p, o, proposals, found, error);
}

static enum sptx_code find_product(sptx_cublaslt *lt, const product *wanted, const operands *o,
                                   product **result, sptx_error *error) {
  for (*result = lt->products; *result; *result = (*result)->next)
    if (same_product(*result, wanted))
      return SPTX_CODE_OK;
  product *made = malloc(sizeof *made);
  if (!made)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for the plan of a matrix product");
  *made = *wanted;
  enum sptx_code code = prepare(lt, made, o, error);
  if (code != SPTX_CODE_OK) {
    free_product(lt, made);
    return code;
  }
  made->next = lt->products;
  lt->products = *result = made;
  return SPTX_CODE_OK;
}

enum sptx_code sptx_cublaslt_multiply(sptx_cublaslt *lt, int64_t m, int64_t n, int64_t k, sptx_matrix a,
                                      sptx_matrix b, sptx_matrix c, bool accumulate, const void *bias,
                                      sptx_error *error) {
  const product wanted = {.m = m,
                          .n = n,
                          .k = k,
                          .strides = {a.stride, b.stride, c.stride},
                          .types = {type_of(a.type), type_of(b.type), type_of(c.type)},
                          .transposed = {a.transposed, b.transposed},
                          .accumulate = accumulate,
                          .biased = bias != NULL};
  const operands o = {a.data, b.data, bias, c.data};
  product *p;
  SPTX_TRY(find_product(lt, &wanted, &o, &p, error));
  if (bias) /* each layer has its own */
    SPTX_TRY(CALL(lt, cublasLtMatmulDescSetAttribute, p->operation, BIAS_POINTER, &bias, sizeof bias));
  return check(run(lt, p, &o, &p->algorithm), "cublasLtMatmul", error);
}
