/* The benchmark's own check, checked: it must accept the float64 reference's results, which it shares no code
 * with, and refuse each kind of mistake in them. */
#include "tests/support/reference.h"
#include "tuner/bench.h"
#include "tuner/element.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, N_Q = 13, N_K = 17, DIM = 16, EVERY = 3 };
enum { QUERY_COUNT = BATCH * HEADS * N_Q * DIM, KEY_COUNT = BATCH * KV_HEADS * N_K * DIM };

static char pattern_path[] = "/tmp/sptx-test-XXXXXX";

static void write_pattern(void) {
  int descriptor = mkstemp(pattern_path);
  cr_assert_neq(descriptor, -1);
  FILE *file = fdopen(descriptor, "w");
  fprintf(file, "sptx: 1\nname: test\ncausal: true\nattend: {stride: {every: %d}}\n", EVERY);
  fclose(file);
}

static void remove_pattern(void) {
  unlink(pattern_path);
}

static bool contains(void *context, int64_t head, int64_t i, int64_t j) {
  (void)context, (void)head;
  int64_t position = N_K - N_Q + i;
  return j <= position && (position - j) % EVERY == 0;
}

static sptx_bench_request make_request(sptx_dtype dtype) {
  return (sptx_bench_request){.pattern_path = pattern_path,
                              .device = "cpu",
                              .batch = BATCH,
                              .heads = HEADS,
                              .kv_heads = KV_HEADS,
                              .n_q = N_Q,
                              .n_k = N_K,
                              .head_dim = DIM,
                              .dtype = dtype,
                              .passes = {true, true},
                              .threads = 2};
}

static void widen(sptx_dtype dtype, const void *data, double *values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    values[i] = sptx_element_get(dtype, data, (size_t)i);
}

static void narrow(sptx_dtype dtype, const double *values, void *data, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    sptx_element_set(dtype, data, (size_t)i, values[i]);
}

/* What an exact kernel would write. o is rounded before the backward reads it, as kernels do. */
static void fill_exactly(const sptx_bench_request *request, sptx_bench_tensors *tensors) {
  static double q[QUERY_COUNT], k[KEY_COUNT], v[KEY_COUNT], o[QUERY_COUNT], d_o[QUERY_COUNT],
      d_q[QUERY_COUNT], d_k[KEY_COUNT], d_v[KEY_COUNT], lse[BATCH * HEADS * N_Q];
  sptx_problem problem = {
      .batch = BATCH, .heads = HEADS, .kv_heads = KV_HEADS, .n_q = N_Q, .n_k = N_K, .head_dim = DIM};
  reference_call call = {.problem = &problem,
                         .contains = contains,
                         .scale = 1 / sqrt(DIM),
                         .q = q,
                         .k = k,
                         .v = v,
                         .o = o,
                         .lse = lse,
                         .d_o = d_o,
                         .d_q = d_q,
                         .d_k = d_k,
                         .d_v = d_v};
  widen(request->dtype, tensors->q, q, QUERY_COUNT);
  widen(request->dtype, tensors->k, k, KEY_COUNT);
  widen(request->dtype, tensors->v, v, KEY_COUNT);
  widen(request->dtype, tensors->d_o, d_o, QUERY_COUNT);
  reference_forward(&call);
  reference_backward(&call);
  narrow(request->dtype, o, tensors->o, QUERY_COUNT);
  narrow(request->dtype, d_q, tensors->d_q, QUERY_COUNT);
  narrow(request->dtype, d_k, tensors->d_k, KEY_COUNT);
  narrow(request->dtype, d_v, tensors->d_v, KEY_COUNT);
  narrow(SPTX_F32, lse, tensors->lse, BATCH * HEADS * N_Q);
}

static sptx_bench_check verify(const sptx_bench_request *request, const sptx_bench_tensors *tensors) {
  sptx_bench_check check = {0};
  sptx_error error;
  cr_assert_eq(sptx_bench_verify(request, 0, tensors, &check, &error), SPTX_CODE_OK, "%s", error.message);
  return check;
}

static void open_tensors(const sptx_bench_request *request, sptx_bench_tensors *tensors) {
  sptx_error error;
  cr_assert_eq(sptx_bench_tensors_create(request, tensors, &error), SPTX_CODE_OK, "%s", error.message);
}

Test(bench_verify, accepts_the_reference, .init = write_pattern, .fini = remove_pattern) {
  for (int dtype = SPTX_F32; dtype <= SPTX_BF16; dtype++) {
    sptx_bench_request request = make_request((sptx_dtype)dtype);
    sptx_bench_tensors tensors;
    open_tensors(&request, &tensors);
    fill_exactly(&request, &tensors);
    sptx_bench_check check = verify(&request, &tensors);
    cr_assert(sptx_bench_is_exact(&request, &check), "type %d: errors %g and %g", dtype, check.forward_error,
              check.backward_error);
    cr_assert_eq(check.rows, check.rows_total, "so small a problem is compared whole");
    cr_assert_eq(check.rows_total, BATCH * HEADS * N_Q);
    cr_assert_eq(check.keys, check.keys_total);
    cr_assert_eq(check.keys_total, BATCH * KV_HEADS * N_K);
    sptx_bench_tensors_clear(&tensors);
  }
}

/* Doubles one element that is not zero. */
static void spoil(sptx_dtype dtype, void *data, size_t count) {
  for (size_t i = count / 3; i < count; i++) {
    double value = sptx_element_get(dtype, data, i);
    if (fabs(value) > 1e-2) {
      sptx_element_set(dtype, data, i, 2 * value);
      return;
    }
  }
  cr_assert(false, "nothing to spoil");
}

Test(bench_verify, refuses_one_wrong_element, .init = write_pattern, .fini = remove_pattern) {
  for (int output = 0; output < 5; output++) {
    sptx_bench_request request = make_request(SPTX_F32);
    sptx_bench_tensors tensors;
    open_tensors(&request, &tensors);
    fill_exactly(&request, &tensors);
    void *outputs[] = {tensors.o, tensors.lse, tensors.d_q, tensors.d_k, tensors.d_v};
    const size_t counts[] = {QUERY_COUNT, BATCH * HEADS * N_Q, QUERY_COUNT, KEY_COUNT, KEY_COUNT};
    spoil(SPTX_F32, outputs[output], counts[output]);
    sptx_bench_check check = verify(&request, &tensors);
    cr_assert(!sptx_bench_is_exact(&request, &check), "output %d was spoilt unseen", output);
    sptx_bench_tensors_clear(&tensors);
  }
}

Test(bench_verify, refuses_what_was_not_written, .init = write_pattern, .fini = remove_pattern) {
  sptx_bench_request request = make_request(SPTX_F32);
  sptx_bench_tensors tensors;
  open_tensors(&request, &tensors);
  sptx_bench_check check = verify(&request, &tensors);
  cr_assert(isinf(check.forward_error));
  cr_assert(isinf(check.backward_error));
  sptx_bench_tensors_clear(&tensors);
}

Test(bench_tensors, equal_bytes_have_equal_vectors) {
  char path[] = "/tmp/sptx-test-XXXXXX";
  int descriptor = mkstemp(path);
  cr_assert_eq(write(descriptor, "abcab", 5), 5);
  close(descriptor);
  sptx_bench_request request = make_request(SPTX_F32);
  const char *files[] = {path};
  request.byte_files = files;
  request.byte_file_count = 1;
  sptx_bench_tensors tensors;
  open_tensors(&request, &tensors);
  const float *k = tensors.k, *q = tensors.q;
  cr_assert_arr_eq(k, k + 3 * DIM, DIM * sizeof *k, "position 3 holds an a like position 0");
  cr_assert_arr_eq(k, k + 5 * DIM, DIM * sizeof *k, "after its end the file starts again");
  cr_assert_neq(k[0], k[DIM], "a and b differ");
  cr_assert_neq(q[0], k[4 * DIM], "queries have a projection of their own");
  cr_assert_arr_eq(q, q + 2 * DIM, DIM * sizeof *q, "query 0 is at position 4, query 2 at 6: both hold a b");
  sptx_bench_tensors_clear(&tensors);
  unlink(path);
}

Test(bench_tensors, an_unreadable_or_empty_file_is_an_error) {
  sptx_bench_request request = make_request(SPTX_F32);
  sptx_bench_tensors tensors;
  sptx_error error;
  const char *files[] = {"/nonexistent/file"};
  request.byte_files = files;
  request.byte_file_count = 1;
  cr_assert_eq(sptx_bench_tensors_create(&request, &tensors, &error), SPTX_CODE_IO);
  cr_assert_neq(strstr(error.message, "/nonexistent/file"), NULL, "%s", error.message);
  files[0] = "/dev/null";
  cr_assert_eq(sptx_bench_tensors_create(&request, &tensors, &error), SPTX_CODE_FORMAT);
}
