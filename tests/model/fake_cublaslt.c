/* A library in place of cuBLASLt's: the same functions, for float32 on the CPU. It proposes three algorithms,
 * of which the first is slow and the second fails; fake_runs counts how often each ran. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  TRANSPOSE_A = 3,
  TRANSPOSE_B = 4,
  EPILOGUE = 7,
  BIAS_POINTER = 8,
  EPILOGUE_BIAS = 4,
  UNSUPPORTED = 15
};
enum { ALGORITHMS = 3, SLOW = 0, FAILING = 1 };

struct operation {
  int transposed[2], epilogue;
  const float *bias;
};
struct layout {
  int type;
  uint64_t rows, columns;
  int64_t stride;
};
struct algorithm {
  uint64_t data[8];
};
struct proposal {
  struct algorithm algorithm;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

int fake_runs[ALGORITHMS];
int fake_wanted;

int cublasLtCreate(void **handle);
int cublasLtDestroy(void *handle);
int cublasLtMatmulDescCreate(struct operation **operation, int compute, int scale);
int cublasLtMatmulDescSetAttribute(struct operation *operation, int attribute, const void *value,
                                   size_t size);
int cublasLtMatmulDescDestroy(struct operation *operation);
int cublasLtMatrixLayoutCreate(struct layout **layout, int type, uint64_t rows, uint64_t columns,
                               int64_t stride);
int cublasLtMatrixLayoutDestroy(struct layout *layout);
int cublasLtMatmulPreferenceCreate(void **preference);
int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t size);
int cublasLtMatmulPreferenceDestroy(void *preference);
int cublasLtMatmulAlgoGetHeuristic(void *handle, struct operation *operation, struct layout *a,
                                   struct layout *b, struct layout *c, struct layout *d, void *preference,
                                   int wanted, struct proposal *proposals, int *found);
int cublasLtMatmul(void *handle, struct operation *operation, const float *alpha, const float *a,
                   const struct layout *a_layout, const float *b, const struct layout *b_layout,
                   const float *beta, const float *c, const struct layout *c_layout, float *d,
                   const struct layout *d_layout, const struct algorithm *algorithm, void *workspace,
                   size_t workspace_bytes, void *stream);

int cublasLtCreate(void **handle) {
  return !(*handle = malloc(1));
}
int cublasLtDestroy(void *handle) {
  free(handle);
  return 0;
}
int cublasLtMatmulDescCreate(struct operation **operation, int compute, int scale) {
  (void)compute, (void)scale;
  return !(*operation = calloc(1, sizeof **operation));
}
int cublasLtMatmulDescSetAttribute(struct operation *operation, int attribute, const void *value,
                                   size_t size) {
  void *at = attribute == TRANSPOSE_A   ? (void *)&operation->transposed[0]
             : attribute == TRANSPOSE_B ? (void *)&operation->transposed[1]
             : attribute == EPILOGUE    ? (void *)&operation->epilogue
                                        : (void *)&operation->bias;
  memcpy(at, value, size);
  return 0;
}
int cublasLtMatmulDescDestroy(struct operation *operation) {
  free(operation);
  return 0;
}
int cublasLtMatrixLayoutCreate(struct layout **layout, int type, uint64_t rows, uint64_t columns,
                               int64_t stride) {
  if (!(*layout = malloc(sizeof **layout)))
    return 1;
  **layout = (struct layout){type, rows, columns, stride};
  return 0;
}
int cublasLtMatrixLayoutDestroy(struct layout *layout) {
  free(layout);
  return 0;
}
int cublasLtMatmulPreferenceCreate(void **preference) {
  return !(*preference = malloc(1));
}
int cublasLtMatmulPreferenceSetAttribute(void *preference, int attribute, const void *value, size_t size) {
  (void)preference, (void)attribute, (void)value, (void)size;
  return 0;
}
int cublasLtMatmulPreferenceDestroy(void *preference) {
  free(preference);
  return 0;
}
int cublasLtMatmulAlgoGetHeuristic(void *handle, struct operation *operation, struct layout *a,
                                   struct layout *b, struct layout *c, struct layout *d, void *preference,
                                   int wanted, struct proposal *proposals, int *found) {
  (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference;
  fake_wanted = wanted;
  *found = wanted < ALGORITHMS ? wanted : ALGORITHMS;
  for (int i = 0; i < *found; i++)
    proposals[i].algorithm.data[0] = (uint64_t)i;
  return 0;
}

static float entry(const float *x, const struct layout *layout, int transposed, uint64_t row,
                   uint64_t column) {
  return transposed ? x[row * (uint64_t)layout->stride + column] : x[column * (uint64_t)layout->stride + row];
}

int cublasLtMatmul(void *handle, struct operation *operation, const float *alpha, const float *a,
                   const struct layout *a_layout, const float *b, const struct layout *b_layout,
                   const float *beta, const float *c, const struct layout *c_layout, float *d,
                   const struct layout *d_layout, const struct algorithm *algorithm, void *workspace,
                   size_t workspace_bytes, void *stream) {
  (void)handle, (void)workspace, (void)workspace_bytes, (void)stream, (void)c_layout;
  fake_runs[algorithm->data[0]]++;
  if (algorithm->data[0] == FAILING)
    return UNSUPPORTED;
  if (algorithm->data[0] == SLOW)
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
  uint64_t inner = operation->transposed[0] ? a_layout->rows : a_layout->columns;
  for (uint64_t column = 0; column < d_layout->columns; column++)
    for (uint64_t row = 0; row < d_layout->rows; row++) {
      uint64_t at = column * (uint64_t)d_layout->stride + row;
      float sum = operation->epilogue == EPILOGUE_BIAS ? operation->bias[row] : 0;
      for (uint64_t k = 0; k < inner; k++)
        sum += *alpha * entry(a, a_layout, operation->transposed[0], row, k) *
               entry(b, b_layout, operation->transposed[1], k, column);
      d[at] = sum + (*beta != 0 ? *beta * c[at] : 0);
    }
  return 0;
}
