/* The tensors of a benchmark: normal random numbers from a fixed seed, or a real byte sequence embedded by a
 * fixed random projection, one for each head and each of q, k and v. */
#include "tuner/bench.h"
#include "tuner/element.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTE_VALUES 256

/* splitmix64 (Steele, Lea and Flood 2014): a counter in, 64 mixed bits out. */
static uint64_t mix(uint64_t counter) {
  uint64_t z = (counter + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static double uniform(uint64_t counter) {
  return ((double)(mix(counter) >> 11) + 0.5) * 0x1p-53;
}

/* Box and Muller 1958. stream tells the tensors apart. */
static double normal(uint64_t stream, uint64_t index) {
  uint64_t counter = (stream << 48) + 2 * index;
  return sqrt(-2 * log(uniform(counter))) * cos(2 * 3.14159265358979323846 * uniform(counter + 1));
}

static int64_t count_elements(const sptx_bench_request *request, int64_t heads, int64_t n) {
  return request->batch * heads * n * request->head_dim;
}

static enum sptx_code allocate(int64_t bytes, void **data, sptx_error *error) {
  *data = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
  if (!*data)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a tensor of %lld bytes",
                     (long long)bytes);
  return SPTX_CODE_OK;
}

static enum sptx_code random_tensor(const sptx_bench_request *request, int64_t heads, int64_t n,
                                    uint64_t stream, void **data, sptx_error *error) {
  int64_t count = count_elements(request, heads, n);
  SPTX_TRY(allocate(count * (int64_t)sptx_element_size(request->dtype), data, error));
#pragma omp parallel for num_threads(request->threads)
  for (int64_t i = 0; i < count; i++)
    sptx_element_set(request->dtype, *data, (size_t)i, normal(stream, (uint64_t)i));
  return SPTX_CODE_OK;
}

static enum sptx_code output_tensor(const sptx_bench_request *request, int64_t heads, int64_t n, void **data,
                                    sptx_error *error) {
  int64_t count = count_elements(request, heads, n);
  return allocate(count * (int64_t)sptx_element_size(request->dtype), data, error);
}

/* Appends a file's bytes until wanted are there. */
static enum sptx_code append_file(const char *path, unsigned char *bytes, int64_t wanted, int64_t *have,
                                  sptx_error *error) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return sptx_fail(error, SPTX_CODE_IO, "cannot open %s: %s", path, strerror(errno));
  *have += (int64_t)fread(bytes + *have, 1, (size_t)(wanted - *have), file);
  bool failed = ferror(file);
  fclose(file);
  if (failed)
    return sptx_fail(error, SPTX_CODE_IO, "cannot read %s", path);
  return SPTX_CODE_OK;
}

/* batch * n_k bytes; files that are too short are read again from the first. */
static enum sptx_code read_bytes(const sptx_bench_request *request, unsigned char **bytes,
                                 sptx_error *error) {
  int64_t wanted = request->batch * request->n_k, have = 0;
  void *data;
  SPTX_TRY(allocate(wanted, &data, error));
  *bytes = data;
  while (have < wanted) {
    int64_t before = have;
    for (size_t f = 0; f < request->byte_file_count && have < wanted; f++) {
      enum sptx_code code = append_file(request->byte_files[f], *bytes, wanted, &have, error);
      if (code != SPTX_CODE_OK) {
        free(data);
        return code;
      }
    }
    if (have == before) {
      free(data);
      return sptx_fail(error, SPTX_CODE_FORMAT, "the files given as bytes are all empty");
    }
  }
  return SPTX_CODE_OK;
}

/* Row (b, h, i) becomes the vector that head h has for the byte at position n_k - n + i of sequence b. */
static void embed(const sptx_bench_request *request, const unsigned char *bytes, int64_t heads, int64_t n,
                  uint64_t stream, void *data) {
  const int64_t dim = request->head_dim;
#pragma omp parallel for num_threads(request->threads)
  for (int64_t row = 0; row < request->batch * heads * n; row++) {
    int64_t head = row / n % heads, batch = row / n / heads;
    uint64_t byte = bytes[batch * request->n_k + request->n_k - n + row % n];
    for (int64_t d = 0; d < dim; d++)
      sptx_element_set(request->dtype, data, (size_t)(row * dim + d),
                       normal(stream, ((uint64_t)head * BYTE_VALUES + byte) * (uint64_t)dim + (uint64_t)d));
  }
}

static enum sptx_code embedded_inputs(const sptx_bench_request *request, sptx_bench_tensors *tensors,
                                      sptx_error *error) {
  unsigned char *bytes;
  enum sptx_code code;
  SPTX_TRY(read_bytes(request, &bytes, error));
  SPTX_TRY_GOTO(output_tensor(request, request->heads, request->n_q, &tensors->q, error), done);
  SPTX_TRY_GOTO(output_tensor(request, request->kv_heads, request->n_k, &tensors->k, error), done);
  SPTX_TRY_GOTO(output_tensor(request, request->kv_heads, request->n_k, &tensors->v, error), done);
  embed(request, bytes, request->heads, request->n_q, 1, tensors->q);
  embed(request, bytes, request->kv_heads, request->n_k, 2, tensors->k);
  embed(request, bytes, request->kv_heads, request->n_k, 3, tensors->v);
done:
  free(bytes);
  return code;
}

static enum sptx_code random_inputs(const sptx_bench_request *request, sptx_bench_tensors *tensors,
                                    sptx_error *error) {
  SPTX_TRY(random_tensor(request, request->heads, request->n_q, 1, &tensors->q, error));
  SPTX_TRY(random_tensor(request, request->kv_heads, request->n_k, 2, &tensors->k, error));
  return random_tensor(request, request->kv_heads, request->n_k, 3, &tensors->v, error);
}

/* Fills everything that a pass writes with NaN, so that what it leaves out is seen: all bits set is a NaN in
 * every element type. */
static void poison(const sptx_bench_request *request, sptx_bench_tensors *tensors) {
  size_t element = sptx_element_size(request->dtype);
  size_t query_bytes = (size_t)count_elements(request, request->heads, request->n_q) * element;
  size_t key_bytes = (size_t)count_elements(request, request->kv_heads, request->n_k) * element;
  memset(tensors->o, 0xff, query_bytes);
  memset(tensors->lse, 0xff, (size_t)(request->batch * request->heads * request->n_q) * sizeof(float));
  if (tensors->d_q) {
    memset(tensors->d_q, 0xff, query_bytes);
    memset(tensors->d_k, 0xff, key_bytes);
    memset(tensors->d_v, 0xff, key_bytes);
  }
}

enum sptx_code sptx_bench_tensors_create(const sptx_bench_request *request, sptx_bench_tensors *tensors,
                                         sptx_error *error) {
  enum sptx_code code;
  void *lse = NULL;
  memset(tensors, 0, sizeof *tensors);
  SPTX_TRY_GOTO(request->byte_file_count ? embedded_inputs(request, tensors, error)
                                         : random_inputs(request, tensors, error),
                fail);
  SPTX_TRY_GOTO(output_tensor(request, request->heads, request->n_q, &tensors->o, error), fail);
  SPTX_TRY_GOTO(
      allocate(request->batch * request->heads * request->n_q * (int64_t)sizeof(float), &lse, error), fail);
  tensors->lse = lse;
  if (request->passes[SPTX_BENCH_BACKWARD]) {
    SPTX_TRY_GOTO(random_tensor(request, request->heads, request->n_q, 4, &tensors->d_o, error), fail);
    SPTX_TRY_GOTO(output_tensor(request, request->heads, request->n_q, &tensors->d_q, error), fail);
    SPTX_TRY_GOTO(output_tensor(request, request->kv_heads, request->n_k, &tensors->d_k, error), fail);
    SPTX_TRY_GOTO(output_tensor(request, request->kv_heads, request->n_k, &tensors->d_v, error), fail);
  }
  poison(request, tensors);
  return SPTX_CODE_OK;
fail:
  sptx_bench_tensors_clear(tensors);
  return code;
}

void sptx_bench_tensors_clear(sptx_bench_tensors *tensors) {
  void *all[] = {tensors->q,   tensors->k,   tensors->v,   tensors->o,  tensors->d_o,
                 tensors->d_q, tensors->d_k, tensors->d_v, tensors->lse};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    free(all[i]);
  memset(tensors, 0, sizeof *tensors);
}
