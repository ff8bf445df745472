/* What the tests of data formats share; see data_case.h. */
#include "tests/model/data_case.h"

#include <criterion/criterion.h>
#include <string.h>

sptx_config data_config(const char *data, enum sptx_data_format format, int64_t length) {
  sptx_config config = {.format = format, .length = length, .sample_rate = 8000};
  snprintf(config.data, sizeof config.data, "%s", data);
  return config;
}

sptx_data *data_open(const sptx_config *config) {
  sptx_error error = {0};
  sptx_data *data = NULL;
  enum sptx_code code = sptx_data_open(config, &data, &error);
  cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
  return data;
}

void data_expect_refusal(const sptx_config *config, enum sptx_code expected, const char *words) {
  sptx_error error = {0};
  sptx_data *data = (sptx_data *)config;
  enum sptx_code code = sptx_data_open(config, &data, &error);
  cr_expect_eq(code, expected, "code %d: %s", code, error.message);
  cr_expect_null(data);
  cr_expect_not_null(strstr(error.message, words), "'%s' is not in: %s", words, error.message);
}

void data_batch(const sptx_data *data, enum sptx_data_part part, uint64_t seed, int64_t first, int64_t count,
                uint8_t *tokens) {
  sptx_error error = {0};
  enum sptx_code code = sptx_data_batch(data, part, seed, first, count, tokens, &error);
  cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
}

void data_read(const sptx_data *data, enum sptx_data_part part, int64_t first, int64_t count,
               uint8_t *tokens) {
  sptx_error error = {0};
  enum sptx_code code = sptx_data_read(data, part, first, count, tokens, &error);
  cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
}
