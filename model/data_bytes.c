/* Raw bytes: the files one after the other, as they are. */
#include "model/data_source.h"

#include <stdlib.h>
#include <string.h>

struct part {
  struct sptx_data_map map;
  int64_t begin; /* of its first byte within the whole */
};

struct bytes {
  struct part *parts;
  int64_t count;
};

static void close_bytes(void *state) {
  struct bytes *bytes = state;
  for (int64_t k = 0; k < bytes->count; k++)
    sptx_data_map_close(&bytes->parts[k].map);
  free(bytes->parts);
  free(bytes);
}

/* The part that holds byte `at`: the last one that begins at or before it. */
static int64_t part_of(const struct bytes *bytes, int64_t at) {
  int64_t low = 0, high = bytes->count - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (bytes->parts[middle].begin <= at)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

static enum sptx_code read_bytes(void *state, int64_t first, int64_t count, uint8_t *tokens,
                                 sptx_error *error) {
  (void)error;
  const struct bytes *bytes = state;
  for (int64_t k = part_of(bytes, first); count > 0; k++) {
    const struct part *part = &bytes->parts[k];
    int64_t skip = first - part->begin, here = part->map.size - skip < count ? part->map.size - skip : count;
    if (here > 0)
      memcpy(tokens, part->map.bytes + skip, (size_t)here);
    tokens += here;
    first += here;
    count -= here;
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_data_open_bytes(const sptx_config *config, const struct sptx_data_files *files,
                                    sptx_data_source *source, sptx_error *error) {
  (void)config;
  struct bytes *bytes = calloc(1, sizeof *bytes);
  if (bytes)
    bytes->parts = calloc((size_t)files->count, sizeof *bytes->parts);
  if (!bytes || !bytes->parts) {
    free(bytes);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %ld data files", (long)files->count);
  }
  *source = (sptx_data_source){0, 1, bytes, read_bytes, close_bytes};
  for (int64_t k = 0; k < files->count; k++) {
    enum sptx_code code = sptx_data_map_open(files->paths[k], &bytes->parts[k].map, error);
    if (code != SPTX_CODE_OK) {
      close_bytes(bytes);
      return code;
    }
    bytes->parts[k].begin = source->positions;
    source->positions += bytes->parts[k].map.size;
    bytes->count++;
  }
  return SPTX_CODE_OK;
}
