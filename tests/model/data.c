/* Data sets: which files, which part, which windows. */
#include "tests/model/data_case.h"
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_data, .init = create_folder, .fini = test_folder_remove);

/* Byte k of the file is k, so a window shows where it was taken. */
static const char *write_counting(const char *name, int first, int count) {
  uint8_t bytes[256];
  for (int k = 0; k < count; k++)
    bytes[k] = (uint8_t)(first + k);
  return test_write(name, bytes, (size_t)count);
}

Test(model_data, an_epoch_covers_every_byte) {
  enum { SIZE = 200, LENGTH = 27, ITEMS = 8 };
  sptx_config config = data_config(write_counting("text", 0, SIZE), SPTX_DATA_BYTES, LENGTH);
  sptx_data *data = data_open(&config);
  cr_assert_eq(sptx_data_items(data, SPTX_DATA_TRAIN), ITEMS);
  uint8_t tokens[3][ITEMS * LENGTH];
  for (int epoch = 0; epoch < 3; epoch++) {
    int seen[SIZE] = {0};
    memset(tokens[epoch], 0xee, sizeof tokens[epoch]);
    data_batch(data, SPTX_DATA_TRAIN, 7, epoch * ITEMS, ITEMS, tokens[epoch]);
    for (int k = 0; k < ITEMS * LENGTH; k++) {
      seen[tokens[epoch][k]]++;
      cr_expect(k % LENGTH == 0 || tokens[epoch][k] == (tokens[epoch][k - 1] + 1) % SIZE);
    }
    int twice = 0;
    for (int k = 0; k < SIZE; k++) {
      cr_expect(seen[k] == 1 || seen[k] == 2, "epoch %d: byte %d occurs %d times", epoch, k, seen[k]);
      twice += seen[k] == 2;
    }
    cr_expect_eq(twice, ITEMS * LENGTH - SIZE);
  }
  cr_expect_neq(memcmp(tokens[0], tokens[1], sizeof tokens[0]), 0, "two epochs are alike");
  sptx_data_close(data);
}

Test(model_data, rows_depend_on_seed_and_index_only) {
  enum { LENGTH = 13, ROWS = 40 };
  sptx_config config = data_config(write_counting("text", 0, 180), SPTX_DATA_BYTES, LENGTH);
  sptx_data *data = data_open(&config), *again = data_open(&config);
  uint8_t all[ROWS * LENGTH], one[LENGTH], other[ROWS * LENGTH];
  data_batch(data, SPTX_DATA_TRAIN, 3, 0, ROWS, all);
  for (int row = ROWS - 1; row >= 0; row--) {
    data_batch(again, SPTX_DATA_TRAIN, 3, row, 1, one);
    cr_expect_arr_eq(one, all + row * LENGTH, LENGTH);
  }
  data_batch(data, SPTX_DATA_TRAIN, 4, 0, ROWS, other);
  cr_expect_neq(memcmp(all, other, sizeof all), 0, "two seeds are alike");
  sptx_data_close(data);
  sptx_data_close(again);
}

Test(model_data, parts_follow_each_other) {
  enum { LENGTH = 10 };
  sptx_config config = data_config(write_counting("text", 0, 200), SPTX_DATA_BYTES, LENGTH);
  config.train_items = 120;
  config.validation_items = 45;
  sptx_data *data = data_open(&config);
  uint8_t tokens[35], sequences[5 * LENGTH];
  sptx_error error;
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_TRAIN), 120);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_TEST), 35);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_WHOLE), 200);
  cr_expect_eq(sptx_data_items(data, SPTX_DATA_VALIDATION), 4);
  data_batch(data, SPTX_DATA_VALIDATION, 1, 0, 5, sequences);
  for (int k = 0; k < 5 * LENGTH; k++)
    cr_expect_eq(sequences[k], 120 + k % (4 * LENGTH), "in order, then from the start again");
  cr_assert_eq(sptx_data_read(data, SPTX_DATA_TEST, 0, 35, tokens, &error), SPTX_CODE_OK);
  for (int k = 0; k < 35; k++)
    cr_expect_eq(tokens[k], 165 + k);
  cr_expect_eq(sptx_data_read(data, SPTX_DATA_TEST, 1, 35, tokens, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_eq(sptx_data_read(data, SPTX_DATA_TEST, -1, 2, tokens, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_eq(sptx_data_read(data, SPTX_DATA_TEST, 35, 0, tokens, &error), SPTX_CODE_OK);
  data_batch(data, SPTX_DATA_TRAIN, 5, 0, 5, sequences);
  for (int k = 0; k < 5 * LENGTH; k++)
    cr_expect(sequences[k] < 120, "byte %d is not of the training part", sequences[k]);
  sptx_data_close(data);
}

Test(model_data, enwik8_is_split_as_usual) {
  const char *path = test_write("enwik8", "", 0);
  cr_assert_eq(truncate(path, 100000000), 0);
  sptx_config config = data_config(path, SPTX_DATA_BYTES, 12288);
  sptx_data *data = data_open(&config);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_TRAIN), 90000000);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_VALIDATION), 5000000);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_TEST), 5000000);
  cr_expect_eq(sptx_data_items(data, SPTX_DATA_VALIDATION), 5000000 / 12288);
  sptx_data_close(data);
}

static void expect_whole(const char *path, const char *text) {
  sptx_config config = data_config(path, SPTX_DATA_BYTES, 4);
  sptx_data *data = data_open(&config);
  sptx_error error;
  uint8_t tokens[64] = {0};
  int64_t size = (int64_t)strlen(text);
  cr_assert_eq(sptx_data_positions(data, SPTX_DATA_WHOLE), size, "%s", path);
  cr_assert_eq(sptx_data_read(data, SPTX_DATA_WHOLE, 0, size, tokens, &error), SPTX_CODE_OK);
  cr_expect_str_eq((char *)tokens, text);
  for (int64_t first = 0; first < size; first++) { /* runs that begin in each file */
    cr_assert_eq(sptx_data_read(data, SPTX_DATA_WHOLE, first, size - first, tokens, &error), SPTX_CODE_OK);
    cr_expect_arr_eq(tokens, text + first, (size_t)(size - first));
  }
  sptx_data_close(data);
}

Test(model_data, files_come_in_the_order_of_their_paths) {
  test_write("set/b.txt", "two ", 4);
  test_write("set/a.txt", "one ", 4);
  test_write("set/aa.txt", "", 0);
  test_write("set/c.c", "three", 5);
  test_write("set/.hidden", "never", 5);
  test_write("set/.git/object", "never", 5);
  test_write("set/d/x.txt", " four", 5);
  test_write("set/z.txt", "", 0);
  expect_whole(test_path("set"), "one two three four");
  expect_whole(test_path("set/*.txt"), "one two ");
  expect_whole(test_path("set/{c,b}.{c,txt}"), "two three");
  expect_whole(test_path("s?t/d/*"), " four");
  expect_whole(test_path("set/c.c"), "three");
}

Test(model_data, what_cannot_be_read_is_named) {
  sptx_config config = data_config("", SPTX_DATA_BYTES, 4);
  data_expect_refusal(&config, SPTX_CODE_INVALID_ARGUMENT, "data is not set");
  config = data_config(test_path("nowhere"), SPTX_DATA_BYTES, 4);
  data_expect_refusal(&config, SPTX_CODE_IO, "nowhere");
  test_write("empty/.hidden", "", 0);
  config = data_config(test_path("empty"), SPTX_DATA_BYTES, 4);
  data_expect_refusal(&config, SPTX_CODE_IO, "no file in the folder");
  config = data_config("/dev/null", SPTX_DATA_BYTES, 4);
  data_expect_refusal(&config, SPTX_CODE_IO, "not a regular file");
  config = data_config(write_counting("text", 0, 20), SPTX_DATA_BYTES, 4);
  config.train_items = 21;
  data_expect_refusal(&config, SPTX_CODE_INVALID_ARGUMENT, "more than the 20");
  config.train_items = 15;
  config.validation_items = 6;
  data_expect_refusal(&config, SPTX_CODE_INVALID_ARGUMENT, "validation_items 6");
  config.train_items = 3;
  config.validation_items = 0;
  sptx_data *data = data_open(&config);
  sptx_error error = {0};
  uint8_t tokens[4];
  cr_expect_eq(sptx_data_items(data, SPTX_DATA_TRAIN), 0);
  cr_expect_eq(sptx_data_batch(data, SPTX_DATA_TRAIN, 1, 0, 1, tokens, &error), SPTX_CODE_INVALID_ARGUMENT);
  cr_expect_not_null(strstr(error.message, "has 3 positions"), "%s", error.message);
  sptx_data_close(data);
}
