/* What the tests of data formats share: opening, expecting a refusal, reading. */
#ifndef SPTX_TESTS_MODEL_DATA_CASE_H
#define SPTX_TESTS_MODEL_DATA_CASE_H

#include "model/data.h"

sptx_config data_config(const char *data, enum sptx_data_format format, int64_t length);
sptx_data *data_open(const sptx_config *config);
/* Opening fails with this code, and the sentence holds these words. */
void data_expect_refusal(const sptx_config *config, enum sptx_code expected, const char *words);
void data_batch(const sptx_data *data, enum sptx_data_part part, uint64_t seed, int64_t first, int64_t count,
                uint8_t *tokens);
void data_read(const sptx_data *data, enum sptx_data_part part, int64_t first, int64_t count,
               uint8_t *tokens);

#endif
