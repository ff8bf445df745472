/* The .npy reader and writer: arrays survive, damage is refused with a sentence, nothing half written stays.
 */
#include "patterns/npy.h"
#include "tests/patterns/problem.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file of the format's first or second version in memory; *size gets its length. */
static unsigned char *make(const char *dictionary, size_t data, int version, size_t *size) {
  size_t prefix = version == 1 ? 10 : 12, length = (prefix + strlen(dictionary) + 1 + 63) / 64 * 64 - prefix;
  unsigned char *bytes = calloc(1, prefix + length + data + 1);
  memcpy(bytes, "\x93NUMPY", 6);
  bytes[6] = (unsigned char)version;
  for (size_t k = 0; k < prefix - 8; k++)
    bytes[8 + k] = (unsigned char)(length >> 8 * k);
  memset(bytes + prefix, ' ', length);
  memcpy(bytes + prefix, dictionary, strlen(dictionary));
  bytes[prefix + length - 1] = '\n';
  *size = prefix + length + data;
  return bytes;
}

static enum sptx_code parse(const char *dictionary, size_t data, int version, sptx_npy *npy,
                            sptx_error *error) {
  size_t size;
  unsigned char *bytes = make(dictionary, data, version, &size);
  enum sptx_code code = sptx_npy_parse(bytes, size, "x.npy", npy, error);
  free(bytes);
  return code;
}

Test(npy, heads_that_are_read) {
  static const struct {
    const char *dictionary;
    enum sptx_npy_type type;
    int rank;
    int64_t count;
    size_t bytes;
  } cases[] = {
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", SPTX_NPY_F32, 2, 6, 24},
      {"{'shape': (2, 3,), 'fortran_order': False, 'descr': '<f2'}", SPTX_NPY_F16, 2, 6, 12},
      {"{\"descr\": \"|b1\", \"fortran_order\": False, \"shape\": (5,), }", SPTX_NPY_BOOL, 1, 5, 5},
      {"{'descr': '<u2', 'fortran_order': False, 'shape': (), }", SPTX_NPY_BF16, 0, 1, 2},
      {"{'descr': '|V2', 'fortran_order': False, 'shape': (4, 0, 2), }", SPTX_NPY_BF16, 3, 0, 0},
  };
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
    for (int version = 1; version <= 2; version++) {
      sptx_npy npy;
      sptx_error error = {0};
      cr_assert_eq(parse(cases[k].dictionary, cases[k].bytes, version, &npy, &error), SPTX_CODE_OK, "%s: %s",
                   cases[k].dictionary, error.message);
      cr_assert(npy.type == cases[k].type && npy.rank == cases[k].rank && npy.count == cases[k].count &&
                    npy.bytes == cases[k].bytes && npy.data,
                "%s", cases[k].dictionary);
      sptx_npy_clear(&npy);
    }
}

Test(npy, heads_that_are_refused) {
  static const struct {
    const char *dictionary;
    size_t data;
    enum sptx_code code;
  } cases[] = {
      {"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", 16, SPTX_CODE_FORMAT},
      {"{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", 8, SPTX_CODE_FORMAT},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", 8, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2, 3), }", 24, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 23, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 25, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }", 24, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }", 24, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': 2, }", 8, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, }", 8, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'shape': (2,), }", 8, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", 8, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), ", 8, SPTX_CODE_FORMAT},
      {"'descr'", 8, SPTX_CODE_FORMAT},
      {"", 8, SPTX_CODE_FORMAT},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 8,
       SPTX_CODE_OVERFLOW},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }", 8, SPTX_CODE_OVERFLOW},
      {"{'descr': '|b1', 'fortran_order': False, 'shape': (4611686018427387904, 4, 0), }", 0,
       SPTX_CODE_OVERFLOW},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 8, SPTX_CODE_OVERFLOW},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': "
       "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
       "1,1,1,1), }",
       4, SPTX_CODE_FORMAT},
  };
  for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
    sptx_npy npy;
    sptx_error error = {0};
    enum sptx_code code = parse(cases[k].dictionary, cases[k].data, 1, &npy, &error);
    cr_assert(code == cases[k].code || (code == SPTX_CODE_FORMAT && cases[k].code == SPTX_CODE_OVERFLOW),
              "%s: code %d, %s", cases[k].dictionary, (int)code, error.message);
    cr_assert(!npy.data && strncmp(error.message, "x.npy: ", 7) == 0, "%s", error.message);
  }
}

/* Every prefix of a file, and every byte of its head changed: an error, or an array of the promised size. */
Test(npy, cut_and_flipped) {
  size_t size;
  unsigned char *bytes = make("{'descr': '|b1', 'fortran_order': False, 'shape': (3, 5), }", 15, 1, &size);
  sptx_npy npy;
  sptx_error error = {0};
  for (size_t cut = 0; cut < size; cut++) {
    unsigned char *copy = malloc(cut ? cut : 1); /* exactly so long, so that a sanitizer sees reads beyond */
    memcpy(copy, bytes, cut);
    cr_assert_eq(sptx_npy_parse(copy, cut, "x.npy", &npy, &error), SPTX_CODE_FORMAT, "cut to %zu bytes", cut);
    free(copy);
  }
  for (size_t at = 0; at < size; at++)
    for (int bit = 0; bit < 8; bit++) {
      bytes[at] ^= (unsigned char)(1 << bit);
      if (sptx_npy_parse(bytes, size, "x.npy", &npy, &error) == SPTX_CODE_OK) {
        cr_assert_leq(npy.bytes, size);
        cr_assert_eq(npy.bytes, (size_t)npy.count * sptx_npy_element_size(npy.type));
      }
      sptx_npy_clear(&npy);
      bytes[at] ^= (unsigned char)(1 << bit);
    }
  bytes[size - 1] = 2;
  cr_assert_eq(sptx_npy_parse(bytes, size, "x.npy", &npy, &error), SPTX_CODE_FORMAT);
  cr_assert_str_eq(error.message, "x.npy: element 14 of the bool array is the byte 2, not 0 or 1");
  free(bytes);
}

Test(npy, written_arrays_are_read) {
  char path[] = "/tmp/sptx-npy-XXXXXX";
  close(mkstemp(path));
  problem_random random = problem_random_make("npy/written_arrays_are_read");
  for (int k = 0; k < 200; k++) {
    enum sptx_npy_type type = (enum sptx_npy_type)problem_random_below(&random, 4);
    int rank = (int)problem_random_below(&random, 5);
    int64_t shape[5], count = 1;
    for (int axis = 0; axis < rank; axis++)
      count *= shape[axis] = problem_random_below(&random, 5);
    unsigned char data[4 * 4 * 4 * 4 * 4];
    for (size_t byte = 0; byte < sizeof data; byte++)
      data[byte] = (unsigned char)problem_random_below(&random, type == SPTX_NPY_BOOL ? 2 : 256);
    sptx_npy npy;
    sptx_error error = {0};
    cr_assert_eq(sptx_npy_write(path, type, rank, shape, data, &error), SPTX_CODE_OK, "%s", error.message);
    cr_assert_eq(sptx_npy_read(path, INT64_MAX, &npy, &error), SPTX_CODE_OK, "%s", error.message);
    cr_assert(npy.type == type && npy.rank == rank && npy.count == count);
    cr_assert_eq(memcmp(npy.shape, shape, (size_t)rank * sizeof *shape), 0);
    cr_assert_eq(memcmp(npy.data, data, npy.bytes), 0);
    sptx_npy_clear(&npy);
    if (npy.bytes > 1)
      cr_assert_eq(sptx_npy_read(path, 1, &npy, &error), SPTX_CODE_FORMAT);
  }
  remove(path);
}

Test(npy, files_that_cannot_be) {
  sptx_npy npy;
  sptx_error error = {0};
  const int64_t shape[] = {2}, negative[] = {-1}, huge[] = {INT64_MAX / 2, 8};
  const float data[2] = {1, 2};
  cr_assert_eq(sptx_npy_read("/nonexistent", 100, &npy, &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_npy_read("/tmp", 100, &npy, &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_npy_read("/dev/zero", 100, &npy, &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_npy_write("/nonexistent/x.npy", SPTX_NPY_F32, 1, shape, data, &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_npy_write("/dev/full", SPTX_NPY_F32, 1, shape, data, &error), SPTX_CODE_IO);
  cr_assert_eq(sptx_npy_write("/tmp/x.npy", SPTX_NPY_F32, 1, negative, data, &error),
               SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_eq(sptx_npy_write("/tmp/x.npy", SPTX_NPY_F32, 33, shape, data, &error),
               SPTX_CODE_INVALID_ARGUMENT);
  cr_assert_eq(sptx_npy_write("/tmp/x.npy", SPTX_NPY_F32, 2, huge, data, &error), SPTX_CODE_OVERFLOW);
}
