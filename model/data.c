/* Splits a data set into parts and cuts the parts into sequences; what the files hold is the formats' matter
 * (data_source.h). */
#include "model/data.h"
#include "model/data_source.h"
#include "model/random.h"

#include <stdlib.h>

static sptx_data_opener *const FORMATS[] = {
    [SPTX_DATA_BYTES] = sptx_data_open_bytes,
    [SPTX_DATA_CIFAR10] = sptx_data_open_cifar10,
    [SPTX_DATA_IMAGENET64] = sptx_data_open_imagenet64,
    [SPTX_DATA_AUDIO] = sptx_data_open_audio,
};

struct range {
  int64_t begin, size; /* positions */
};

struct sptx_data {
  sptx_data_source source;
  struct range parts[4]; /* by enum sptx_data_part */
  int64_t length;
  char name[SPTX_CONFIG_TEXT];
};

enum { ENWIK8 = 100000000, ENWIK8_TRAIN = 90000000, ENWIK8_VALIDATION = 5000000 };

static enum sptx_code split(sptx_data *data, const sptx_config *config, sptx_error *error) {
  int64_t item = data->source.item, items = data->source.positions / item;
  int64_t train = config->train_items, validation = config->validation_items;
  if (train == 0 && validation == 0 && config->format == SPTX_DATA_BYTES && items == ENWIK8) {
    train = ENWIK8_TRAIN;
    validation = ENWIK8_VALIDATION;
  }
  if (train > items || validation > items - train)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s: train_items %ld and validation_items %ld are more than the %ld that %s holds",
                     sptx_config_place(config, train > items ? "train_items" : "validation_items"),
                     (long)train, (long)validation, (long)items, config->data);
  if (train == 0)
    train = items - validation;
  data->parts[SPTX_DATA_TRAIN] = (struct range){0, train * item};
  data->parts[SPTX_DATA_VALIDATION] = (struct range){train * item, validation * item};
  data->parts[SPTX_DATA_TEST] =
      (struct range){(train + validation) * item, (items - train - validation) * item};
  data->parts[SPTX_DATA_WHOLE] = (struct range){0, items * item};
  return SPTX_CODE_OK;
}

enum sptx_code sptx_data_open(const sptx_config *config, sptx_data **data, sptx_error *error) {
  struct sptx_data_files files;
  *data = NULL;
  SPTX_TRY(sptx_data_files_find(config, &files, error));
  sptx_data *d = calloc(1, sizeof *d);
  enum sptx_code code = d ? FORMATS[config->format](config, &files, &d->source, error)
                          : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a data set");
  sptx_data_files_clear(&files);
  if (code != SPTX_CODE_OK) {
    free(d);
    return code;
  }
  d->length = config->length;
  snprintf(d->name, sizeof d->name, "%s", config->data);
  code = split(d, config, error);
  if (code != SPTX_CODE_OK)
    sptx_data_close(d);
  else
    *data = d;
  return code;
}

void sptx_data_close(sptx_data *data) {
  if (!data)
    return;
  data->source.close(data->source.state);
  free(data);
}

int64_t sptx_data_positions(const sptx_data *data, enum sptx_data_part part) {
  return data->parts[part].size;
}

/* Windows may start anywhere in a stream, but not within an image. */
static bool is_ring(const sptx_data *data, enum sptx_data_part part) {
  return part == SPTX_DATA_TRAIN && data->source.item == 1;
}

int64_t sptx_data_items(const sptx_data *data, enum sptx_data_part part) {
  int64_t size = data->parts[part].size, whole = size / data->length;
  return is_ring(data, part) && whole > 0 && size % data->length ? whole + 1 : whole;
}

enum sptx_code sptx_data_read(const sptx_data *data, enum sptx_data_part part, int64_t first, int64_t count,
                              uint8_t *tokens, sptx_error *error) {
  const struct range *range = &data->parts[part];
  if (first < 0 || count < 0 || first > range->size || count > range->size - first)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: positions %ld to %ld are outside 0 to %ld",
                     data->name, (long)first, (long)(first + count), (long)range->size);
  if (count == 0)
    return SPTX_CODE_OK;
  return data->source.read(data->source.state, range->begin + first, count, tokens, error);
}

/* Window `window` of the ring, whose first window begins at a random place of this epoch. */
static enum sptx_code read_ring(const sptx_data *data, enum sptx_data_part part, uint64_t seed,
                                uint32_t epoch, int64_t window, uint8_t *tokens, sptx_error *error) {
  int64_t size = data->parts[part].size, length = data->length;
  int64_t shift = (int64_t)(sptx_random_bits(seed, SPTX_RANDOM_OFFSET, epoch, 0) % (uint64_t)size);
  int64_t first = (shift + window * length) % size;
  int64_t before_end = size - first < length ? size - first : length;
  SPTX_TRY(sptx_data_read(data, part, first, before_end, tokens, error));
  return sptx_data_read(data, part, 0, length - before_end, tokens + before_end, error);
}

enum sptx_code sptx_data_batch(const sptx_data *data, enum sptx_data_part part, uint64_t seed,
                               int64_t first_index, int64_t count, uint8_t *tokens, sptx_error *error) {
  int64_t items = sptx_data_items(data, part), length = data->length;
  if (items == 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "%s: this part of the data has %ld positions, fewer than the %ld of a sequence; see "
                     "train_items, validation_items and length",
                     data->name, (long)data->parts[part].size, (long)length);
  if (first_index < 0 || count < 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "rows %ld to %ld of the data do not exist",
                     (long)first_index, (long)(first_index + count));
  for (int64_t row = 0; row < count; row++, tokens += length) {
    int64_t epoch = (first_index + row) / items, item = (first_index + row) % items;
    if (part == SPTX_DATA_TRAIN)
      item = (int64_t)sptx_random_permute(seed, (uint32_t)epoch, (uint64_t)item, (uint64_t)items);
    if (is_ring(data, part))
      SPTX_TRY(read_ring(data, part, seed, (uint32_t)epoch, item, tokens, error));
    else
      SPTX_TRY(sptx_data_read(data, part, item * length, length, tokens, error));
  }
  return SPTX_CODE_OK;
}
