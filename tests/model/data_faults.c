/* Opening and reading every data format while the n-th allocation, mapping or opening of a file fails: an
 * error with a sentence each time, nothing kept (a sanitizer sees what is), and success in the end. */
#include "tests/model/data_case.h"
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <math.h>
#include <sndfile.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static int64_t calls, target = -1;

static bool fails(void) {
  return calls++ == target;
}

/* The linker turns calls of NAME into __wrap_NAME, and __real_NAME into NAME. */
#define WRAP(type, name, parameters, arguments, failure, reason)                                             \
  type __real_##name parameters;                                                                             \
  type __wrap_##name parameters;                                                                             \
  type __wrap_##name parameters {                                                                            \
    if (!fails())                                                                                            \
      return __real_##name arguments;                                                                        \
    errno = reason;                                                                                          \
    return failure;                                                                                          \
  }
WRAP(void *, malloc, (size_t size), (size), NULL, ENOMEM)
WRAP(void *, calloc, (size_t count, size_t size), (count, size), NULL, ENOMEM)
WRAP(void *, realloc, (void *memory, size_t size), (memory, size), NULL, ENOMEM)
WRAP(char *, strdup, (const char *text), (text), NULL, ENOMEM)
WRAP(void *, mmap, (void *at, size_t size, int protection, int flags, int file, off_t offset),
     (at, size, protection, flags, file, offset), MAP_FAILED, ENOMEM)
WRAP(FILE *, fopen, (const char *path, const char *mode), (path, mode), NULL, EMFILE)

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_data_faults, .init = create_folder, .fini = test_folder_remove);

/* Opens, reads one batch and closes. */
static enum sptx_code use(const sptx_config *config, sptx_error *error) {
  static uint8_t tokens[64 * 64 * 3];
  sptx_data *data;
  enum sptx_code code = sptx_data_open(config, &data, error);
  if (code != SPTX_CODE_OK) {
    cr_expect_null(data);
    return code;
  }
  code = sptx_data_batch(data, SPTX_DATA_TRAIN, 1, 0, 1, tokens, error);
  sptx_data_close(data);
  return code;
}

static void expect_clean_failures(const sptx_config *config, int64_t least) {
  sptx_error error;
  for (int64_t n = 0;; n++) {
    error = (sptx_error){0};
    calls = 0;
    target = n;
    enum sptx_code code = use(config, &error);
    target = -1;
    if (calls <= n) { /* the failure was never reached */
      cr_expect_eq(code, SPTX_CODE_OK, "%s", error.message);
      cr_expect_geq(n, least, "only %ld operations", (long)n);
      return;
    }
    cr_expect(code == SPTX_CODE_OUT_OF_MEMORY || code == SPTX_CODE_IO, "operation %ld: code %d", (long)n,
              code);
    cr_expect_neq(error.message[0], 0, "operation %ld fails without a sentence", (long)n);
    cr_assert_lt(n, 100);
  }
}

Test(model_data_faults, bytes) {
  test_write("set/a", "some text of forty bytes or thereabouts.", 40);
  test_write("set/b", "some text of forty bytes or thereabouts.", 40);
  sptx_config config = data_config(test_path("set"), SPTX_DATA_BYTES, 16);
  expect_clean_failures(&config, 6);
}

Test(model_data_faults, images) {
  static uint8_t records[2 * 3073];
  test_write("set/a.bin", records, sizeof records);
  test_write("set/b.bin", records, sizeof records);
  sptx_config config = data_config(test_path("set/*.bin"), SPTX_DATA_CIFAR10, 3072);
  expect_clean_failures(&config, 6);
  char command[2048];
  snprintf(command, sizeof command, "%s %s 2 12288 deflated", getenv("SPTX_WRITE_NPZ"), test_path("a.npz"));
  cr_assert_eq(system(command), 0, "%s", command);
  config = data_config(test_path("a.npz"), SPTX_DATA_IMAGENET64, 12288);
  expect_clean_failures(&config, 5);
}

Test(model_data_faults, audio) {
  SF_INFO info = {.samplerate = 11025, .channels = 2, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
  SNDFILE *file = sf_open(test_path("a.wav"), SFM_WRITE, &info);
  for (int k = 0; k < 3000; k++)
    sf_writef_float(file, (float[]){0.5f * sinf((float)k / 9), 0}, 1);
  sf_close(file);
  sptx_config config = data_config(test_path("a.wav"), SPTX_DATA_AUDIO, 700);
  expect_clean_failures(&config, 8);
}
