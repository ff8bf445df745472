/* What a data format provides, and the files it is given. data.c splits, shuffles and cuts sequences; a
 * format only says how many positions there are and reads a run of them. One file and one row in data.c's
 * table add a format. */
#ifndef SPTX_MODEL_DATA_SOURCE_H
#define SPTX_MODEL_DATA_SOURCE_H

#include "model/config.h"
#include "patterns/error.h"

/* Files in the order of their paths. */
struct sptx_data_files {
  char **paths;
  int64_t count, capacity;
};

/* A file or a part of it, mapped for reading. */
struct sptx_data_map {
  const uint8_t *bytes;
  int64_t size;
};

typedef struct sptx_data_source {
  int64_t positions;
  int64_t item; /* positions of the smallest unit that a part is made of: 1, or those of an image */
  void *state;
  enum sptx_code (*read)(void *state, int64_t first, int64_t count, uint8_t *tokens, sptx_error *error);
  void (*close)(void *state);
} sptx_data_source;

/* Never empty: a name that matches nothing is an error. Cleared on failure too. */
enum sptx_code sptx_data_files_find(const sptx_config *config, struct sptx_data_files *files,
                                    sptx_error *error);
void sptx_data_files_clear(struct sptx_data_files *files);
enum sptx_code sptx_data_map_open(const char *path, struct sptx_data_map *map, sptx_error *error);
void sptx_data_map_close(struct sptx_data_map *map);

/* The formats. On failure nothing is left open. */
typedef enum sptx_code sptx_data_opener(const sptx_config *config, const struct sptx_data_files *files,
                                        sptx_data_source *source, sptx_error *error);
sptx_data_opener sptx_data_open_bytes, sptx_data_open_cifar10, sptx_data_open_imagenet64,
    sptx_data_open_audio;

#endif
