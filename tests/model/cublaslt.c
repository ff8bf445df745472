/* Matrix products through cuBLASLt's interface, against a library of our own in its place: how rows and
 * columns are told apart, and which of the proposed algorithms is taken. */
#include "model/cublaslt.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dlfcn.h>
#include <string.h>

enum { M = 5, N = 3, K = 4, SLOW = 0, FAILING = 1, FAST = 2 };

static enum sptx_code synchronize(sptx_device *device, sptx_error *error) {
  (void)device, (void)error;
  return SPTX_CODE_OK;
}
static const struct sptx_device_ops ops = {.synchronize = synchronize};

static int *fake(const char *name) {
  void *library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_NOLOAD);
  cr_assert_not_null(library);
  int *found = dlsym(library, name);
  cr_assert_not_null(found, "this is not the library of the tests: is LD_LIBRARY_PATH set?");
  return found;
}

static sptx_cublaslt *open_products(sptx_device *device) {
  sptx_cublaslt *products;
  sptx_error error;
  cr_assert_eq(sptx_cublaslt_open(device, NULL, 0, &products, &error), SPTX_CODE_OK, "%s", error.message);
  return products;
}

/* A stored matrix with gaps between rows. */
static sptx_matrix matrix(float *data, int64_t stride, bool transposed) {
  return (sptx_matrix){data, stride, SPTX_F32, transposed};
}

static void check(sptx_cublaslt *products, bool transposed_a, bool transposed_b, bool accumulate,
                  bool biased) {
  float a[8 * 8], b[8 * 8], c[M * 8], bias[N] = {0.5f, -1, 2};
  sptx_error error;
  for (int i = 0; i < 64; i++)
    a[i] = (float)(i % 7) - 2, b[i] = (float)(i % 5) - 1;
  for (int i = 0; i < M * 8; i++)
    c[i] = 10;
  cr_assert_eq(sptx_cublaslt_multiply(products, M, N, K, matrix(a, 8, transposed_a),
                                      matrix(b, 8, transposed_b), matrix(c, 8, false), accumulate,
                                      biased ? bias : NULL, &error),
               SPTX_CODE_OK, "%s", error.message);
  for (int row = 0; row < M; row++)
    for (int column = 0; column < 8; column++) {
      float expected = column < N && !accumulate ? 0 : 10;
      for (int k = 0; column < N && k < K; k++)
        expected += (transposed_a ? a[k * 8 + row] : a[row * 8 + k]) *
                    (transposed_b ? b[column * 8 + k] : b[k * 8 + column]);
      expected += column < N && biased ? bias[column] : 0;
      cr_expect_eq(c[row * 8 + column], expected, "row %d, column %d", row, column);
    }
}

Test(model_cublaslt, rows_and_columns) {
  sptx_device device = {.ops = &ops};
  sptx_cublaslt *products = open_products(&device);
  for (int bits = 0; bits < 8; bits++)
    check(products, bits & 1, bits & 2, false, bits & 4);
  check(products, false, true, true, false);
  sptx_cublaslt_close(products);
}

Test(model_cublaslt, the_fastest_that_works_is_kept) {
  sptx_device device = {.ops = &ops};
  sptx_cublaslt *products = open_products(&device);
  int *runs = fake("fake_runs");
  check(products, false, true, false, false);
  cr_expect(runs[SLOW] > 0 && runs[FAILING] == 1);
  memset(runs, 0, 3 * sizeof *runs);
  check(products, false, true, false, false);
  cr_expect(runs[SLOW] == 0 && runs[FAILING] == 0 && runs[FAST] == 1);
  sptx_cublaslt_close(products);
}

/* A sum runs once only; a deterministic device's choice must not depend on a clock. */
Test(model_cublaslt, the_first_proposal_where_nothing_is_timed) {
  sptx_device device = {.ops = &ops};
  sptx_cublaslt *products = open_products(&device);
  const int *runs = fake("fake_runs"), *wanted = fake("fake_wanted");
  check(products, false, false, true, false);
  cr_expect(wanted[0] == 1 && runs[SLOW] == 1 && runs[FAST] == 0);
  device.deterministic = true;
  check(products, true, false, false, false);
  cr_expect(wanted[0] == 1 && runs[SLOW] == 2 && runs[FAST] == 0);
  sptx_cublaslt_close(products);
}
