/* Image sets: the order of positions, held against the formats' definitions; damaged files; a real CIFAR-10
 * sample where there is one. */
#include "model/zip.h"
#include "tests/model/data_case.h"
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { CIFAR = 32 * 32 * 3, RECORD = 1 + CIFAR, IMAGENET = 64 * 64 * 3 };

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_data_images, .init = create_folder, .fini = test_folder_remove);

/* The byte that write_batch puts for this pixel, and its place in the file, both from the set's definition.
 */
static uint8_t cifar_value(int image, int channel, int row, int column) {
  return (uint8_t)(image * 89 + channel * 71 + row * 5 + column * 3);
}
static const char *write_batch(const char *name, int first_image, int images) {
  uint8_t *bytes = malloc((size_t)images * RECORD);
  for (int k = 0; k < images; k++) {
    bytes[k * RECORD] = (uint8_t)(k % 10);
    for (int p = 0; p < CIFAR; p++)
      bytes[k * RECORD + 1 + p] = cifar_value(first_image + k, p / 1024, p / 32 % 32, p % 32);
  }
  const char *path = test_write(name, bytes, (size_t)images * RECORD);
  free(bytes);
  return path;
}

Test(model_data_images, cifar10_comes_pixel_by_pixel) {
  write_batch("cifar/data_batch_1.bin", 0, 3);
  write_batch("cifar/data_batch_2.bin", 3, 4);
  sptx_config config = data_config(test_path("cifar/data_batch_*.bin"), SPTX_DATA_CIFAR10, CIFAR);
  config.train_items = 5;
  config.validation_items = 2;
  sptx_data *data = data_open(&config);
  cr_expect_eq(sptx_data_items(data, SPTX_DATA_TRAIN), 5);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_WHOLE), 7 * CIFAR);
  static uint8_t tokens[7 * CIFAR];
  data_read(data, SPTX_DATA_WHOLE, 0, 7 * CIFAR, tokens);
  for (int p = 0; p < 7 * CIFAR; p++)
    cr_assert_eq(tokens[p], cifar_value(p / CIFAR, p % 3, p / 3 / 32 % 32, p / 3 % 32), "position %d", p);
  uint8_t run[500];
  data_read(data, SPTX_DATA_WHOLE, 3 * CIFAR - 250, 500, run); /* across images and files */
  cr_expect_arr_eq(run, tokens + 3 * CIFAR - 250, 500);
  static uint8_t epoch[5 * CIFAR];
  int seen[5] = {0};
  data_batch(data, SPTX_DATA_TRAIN, 11, 5, 5, epoch);
  for (int k = 0; k < 5; k++)
    for (int image = 0; image < 5; image++)
      seen[image] += !memcmp(epoch + k * CIFAR, tokens + image * CIFAR, CIFAR);
  for (int image = 0; image < 5; image++)
    cr_expect_eq(seen[image], 1, "image %d occurs %d times", image, seen[image]);
  data_batch(data, SPTX_DATA_VALIDATION, 11, 0, 2, epoch);
  cr_expect_arr_eq(epoch, tokens + 5 * CIFAR, 2 * CIFAR);
  sptx_data_close(data);
}

Test(model_data_images, damaged_batches_are_refused) {
  uint8_t bytes[RECORD + 1] = {3};
  sptx_config config = data_config(test_write("short.bin", bytes, RECORD - 1), SPTX_DATA_CIFAR10, CIFAR);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "3072 bytes are no whole number");
  config = data_config(test_write("long.bin", bytes, RECORD + 1), SPTX_DATA_CIFAR10, CIFAR);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "long.bin");
  config = data_config(test_write("empty.bin", bytes, 0), SPTX_DATA_CIFAR10, CIFAR);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "0 bytes");
  bytes[0] = 10;
  config = data_config(test_write("label.bin", bytes, RECORD), SPTX_DATA_CIFAR10, CIFAR);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "the label of image 0 is 10");
  write_batch("set/data_batch_1.bin", 0, 2);
  test_write("set/readme.html", "text", 4);
  config = data_config(test_path("set"), SPTX_DATA_CIFAR10, CIFAR);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "readme.html");
}

static const char *write_npz(const char *name, int images, int row, const char *how) {
  char command[2048];
  const char *path = test_path(name);
  snprintf(command, sizeof command, "%s %s %d %d %s", getenv("SPTX_WRITE_NPZ"), path, images, row, how);
  cr_assert_eq(system(command), 0, "%s", command);
  return path;
}

static void expect_archive(const char *how) {
  enum { IMAGES = 3 };
  sptx_config config =
      data_config(write_npz("set.npz", IMAGES, IMAGENET, how), SPTX_DATA_IMAGENET64, IMAGENET);
  sptx_data *data = data_open(&config);
  static uint8_t tokens[IMAGES * IMAGENET];
  cr_assert_eq(sptx_data_items(data, SPTX_DATA_TRAIN), IMAGES);
  data_read(data, SPTX_DATA_WHOLE, 0, IMAGES * IMAGENET, tokens);
  for (int p = 0; p < IMAGES * IMAGENET; p++) {
    int byte = p / IMAGENET * IMAGENET + p % 3 * 64 * 64 + p % IMAGENET / 3;
    cr_assert_eq(tokens[p], (byte * 7 + byte / 251) % 256, "%s: position %d", how, p);
  }
  sptx_data_close(data);
}

Test(model_data_images, npz_archives_stored_or_deflated_or_wide) {
  expect_archive("stored");
  expect_archive("deflated");
  expect_archive("wide");
}

Test(model_data_images, arrays_of_another_shape_are_refused) {
  sptx_config config = data_config(write_npz("small.npz", 4, 3072, "stored"), SPTX_DATA_IMAGENET64, IMAGENET);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "rows of 3072");
  config = data_config(write_npz("none.npz", 0, IMAGENET, "stored"), SPTX_DATA_IMAGENET64, IMAGENET);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "none.npz");
  config = data_config(test_write("text.npz", "not an archive", 14), SPTX_DATA_IMAGENET64, IMAGENET);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "no directory");
  config = data_config(test_write("empty.npz", "", 0), SPTX_DATA_IMAGENET64, IMAGENET);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "no directory");
}

/* In memory of its exact size, so that a sanitizer sees any byte read outside. */
static enum sptx_code find_in(const uint8_t *bytes, size_t size, bool check, sptx_error *error) {
  uint8_t *exact = malloc(size ? size : 1);
  memcpy(exact, bytes, size);
  struct sptx_zip_entry entry;
  enum sptx_code code = sptx_zip_find(exact, (int64_t)size, "set.npz", "data.npy", &entry, error);
  if (code == SPTX_CODE_OK && entry.size < 1 << 20) {
    uint8_t *out = malloc((size_t)entry.size + 1);
    if (entry.deflated && check)
      code = sptx_zip_inflate(&entry, "set.npz", out, error);
    else if (!entry.deflated)
      memcpy(out, entry.bytes, (size_t)entry.size);
    free(out);
  }
  free(exact);
  return code;
}

/* Cut anywhere, an archive has lost its directory; with any byte changed it is read or refused, never
 * overrun, and a change of compressed bytes never goes unseen. */
Test(model_data_images, damaged_archives_are_refused) {
  static const char *const WAYS[] = {"stored", "deflated", "wide"};
  for (int way = 0; way < 3; way++) {
    const char *path = write_npz("small.npz", 2, 300, WAYS[way]);
    static uint8_t bytes[8192];
    FILE *file = fopen(path, "rb");
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    sptx_error error;
    cr_assert_lt(size, sizeof bytes);
    cr_assert_eq(find_in(bytes, size, true, &error), SPTX_CODE_OK, "%s", error.message);
    for (size_t cut = 0; cut < size - 3; cut++)
      cr_expect_eq(find_in(bytes, cut, true, &error), SPTX_CODE_FORMAT, "%s, cut to %zu", WAYS[way], cut);
    for (size_t k = 0; k < size; k++)
      for (int bit = 0; bit < 8; bit += 3) {
        bytes[k] ^= (uint8_t)(1 << bit);
        find_in(bytes, size, true, &error);
        bytes[k] ^= (uint8_t)(1 << bit);
      }
  }
}

Test(model_data_images, a_damaged_deflated_entry_is_noticed) {
  const char *path = write_npz("small.npz", 2, 300, "deflated");
  static uint8_t bytes[8192];
  FILE *file = fopen(path, "rb");
  size_t size = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  sptx_error error;
  struct sptx_zip_entry entry;
  cr_assert_eq(sptx_zip_find(bytes, (int64_t)size, path, "data.npy", &entry, &error), SPTX_CODE_OK);
  for (int64_t k = 0; k < entry.stored_size - 1; k++) { /* the last one ends in unused bits */
    uint8_t *byte = bytes + (entry.bytes - bytes) + k;
    *byte ^= 0x10;
    cr_expect_eq(find_in(bytes, size, true, &error), SPTX_CODE_FORMAT, "byte %ld of the entry", (long)k);
    *byte ^= 0x10;
  }
}

/* The published sample: neighbouring pixels of photographs are alike, which no wrong order of planes gives.
 */
Test(model_data_images, real_images_are_smooth) {
  char command[2048];
  const char *shared = getenv("SPTX_SHARED_DATA");
  snprintf(command, sizeof command, "xz -dkc %s/cifar10-test-846.bin.xz > %s 2> /dev/null",
           shared ? shared : ".", test_path("test.bin"));
  if (system(command))
    cr_skip("no CIFAR-10 sample beside the source tree");
  sptx_config config = data_config(test_path("test.bin"), SPTX_DATA_CIFAR10, CIFAR);
  sptx_data *data = data_open(&config);
  cr_assert_eq(sptx_data_items(data, SPTX_DATA_TRAIN), 846);
  static uint8_t tokens[20 * CIFAR];
  data_read(data, SPTX_DATA_TRAIN, 0, 20 * CIFAR, tokens);
  double beside = 0, far = 0;
  for (int p = 0; p < 20 * CIFAR; p++) {
    int at = p % CIFAR;
    if (at % 96 >= 93 || at / 96 >= 31)
      continue;
    beside += abs(tokens[p] - tokens[p + 3]) + abs(tokens[p] - tokens[p + 96]);
    far += 2 * abs(tokens[p] - tokens[(p + 7 * CIFAR / 2) % (20 * CIFAR)]);
  }
  cr_expect_lt(beside, 0.35 * far, "neighbours differ by %.3f of strangers", beside / far);
  sptx_data_close(data);
}
