/* Writes and reads safetensors files. A header from a file is believed only after its ranges are checked. */
#include "model/safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LENGTH_BYTES = 8, DATA_ALIGNMENT = 64 };
static const int64_t LONGEST_HEADER = 100 << 20; /* what the format's own reader accepts */

static bool add_entry(cJSON *header, const sptx_tensor *tensor, double begin, double end) {
  cJSON *entry = cJSON_AddObjectToObject(header, tensor->name);
  if (!entry || !cJSON_AddStringToObject(entry, "dtype", "F32"))
    return false;
  cJSON *shape = cJSON_AddArrayToObject(entry, "shape"),
        *range = cJSON_AddArrayToObject(entry, "data_offsets");
  if (!shape || !range)
    return false;
  for (int d = 0; d < tensor->dims; d++)
    if (!cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)tensor->shape[d])))
      return false;
  return cJSON_AddItemToArray(range, cJSON_CreateNumber(begin)) &&
         cJSON_AddItemToArray(range, cJSON_CreateNumber(end));
}

/* The header as text; NULL without memory. */
static char *print_header(const sptx_tensor *tensors, size_t tensor_count, const sptx_metadata *metadata,
                          size_t metadata_count) {
  cJSON *header = cJSON_CreateObject(), *strings = cJSON_AddObjectToObject(header, "__metadata__");
  bool complete = strings != NULL;
  for (size_t m = 0; m < metadata_count && complete; m++)
    complete = cJSON_AddStringToObject(strings, metadata[m].key, metadata[m].value) != NULL;
  int64_t begin = 0;
  for (size_t t = 0; t < tensor_count && complete; t++) {
    int64_t end = begin + sptx_tensor_floats(&tensors[t]) * (int64_t)sizeof(float);
    complete = add_entry(header, &tensors[t], (double)begin, (double)end);
    begin = end;
  }
  char *text = complete ? cJSON_PrintUnformatted(header) : NULL;
  cJSON_Delete(header);
  return text;
}

enum sptx_code sptx_safetensors_begin(sptx_output *file, const sptx_tensor *tensors, size_t tensor_count,
                                      const sptx_metadata *metadata, size_t metadata_count,
                                      sptx_error *error) {
  char *text = print_header(tensors, tensor_count, metadata, metadata_count);
  if (!text)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for the header", file->path);
  size_t length = strlen(text);
  static const char spaces[DATA_ALIGNMENT + 1] =
      "                                                                ";
  size_t padding = (DATA_ALIGNMENT - (LENGTH_BYTES + length) % DATA_ALIGNMENT) % DATA_ALIGNMENT;
  uint64_t total = length + padding; /* x86 is little-endian, as the format is */
  enum sptx_code code = sptx_output_write(file, &total, LENGTH_BYTES, error);
  if (code == SPTX_CODE_OK)
    code = sptx_output_write(file, text, length, error);
  if (code == SPTX_CODE_OK)
    code = sptx_output_write(file, spaces, padding, error);
  cJSON_free(text);
  return code;
}

struct sptx_safetensors {
  FILE *stream;
  cJSON *header;
  int64_t data_begin, data_bytes;
  const cJSON *next; /* tensors are mostly asked for in the file's order */
  char path[PATH_MAX];
};

/* An array of `count` whole numbers in 0..2^53. */
static bool read_integers(const cJSON *array, int count, int64_t *values) {
  if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) != count)
    return false;
  const cJSON *item;
  cJSON_ArrayForEach(item, array) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 0x1p53))
      return false;
    *values++ = (int64_t)item->valuedouble;
  }
  return true;
}

static enum sptx_code damaged(const sptx_safetensors *file, const char *what, sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_FORMAT, "%s: not a sound safetensors file: %s", file->path, what);
}

/* The largest end of a tensor's range: what the file must hold. */
static enum sptx_code check_entries(sptx_safetensors *file, int64_t *needed, sptx_error *error) {
  const cJSON *entry;
  *needed = 0;
  cJSON_ArrayForEach(entry, file->header) {
    int64_t range[2];
    if (!strcmp(entry->string, "__metadata__"))
      continue;
    if (!read_integers(cJSON_GetObjectItemCaseSensitive(entry, "data_offsets"), 2, range) ||
        range[0] > range[1])
      return damaged(file, "a tensor has no range of bytes", error);
    *needed = range[1] > *needed ? range[1] : *needed;
  }
  return SPTX_CODE_OK;
}

static enum sptx_code read_header(sptx_safetensors *file, int64_t size, sptx_error *error) {
  uint64_t length;
  if (size < LENGTH_BYTES || fread(&length, LENGTH_BYTES, 1, file->stream) != 1)
    return damaged(file, "it is cut short within its header", error);
  if (length > (uint64_t)LONGEST_HEADER)
    return damaged(file, "it does not begin with the length of a header", error);
  if ((int64_t)length > size - LENGTH_BYTES)
    return damaged(file, "it is cut short within its header", error);
  char *text = malloc(length + 1);
  if (!text)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for the header", file->path);
  bool whole = fread(text, 1, length, file->stream) == length;
  file->header = whole ? cJSON_ParseWithLength(text, length) : NULL;
  free(text);
  if (!whole)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot be read: %s", file->path, strerror(errno));
  if (!cJSON_IsObject(file->header))
    return damaged(file, "its header is not JSON", error);
  file->data_begin = LENGTH_BYTES + (int64_t)length;
  file->data_bytes = size - file->data_begin;
  int64_t needed;
  SPTX_TRY(check_entries(file, &needed, error));
  if (needed > file->data_bytes)
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: cut short: it has %ld bytes, its header wants %ld; delete it and use an older one",
                     file->path, (long)size, (long)(file->data_begin + needed));
  return SPTX_CODE_OK;
}

enum sptx_code sptx_safetensors_open(const char *path, sptx_safetensors **opened, sptx_error *error) {
  *opened = NULL;
  sptx_safetensors *file = calloc(1, sizeof *file);
  if (!file)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory to open it", path);
  snprintf(file->path, sizeof file->path, "%s", path);
  struct stat status;
  file->stream = fopen(path, "rb");
  enum sptx_code code = SPTX_CODE_OK;
  if (!file->stream || fstat(fileno(file->stream), &status))
    code = sptx_fail(error, SPTX_CODE_IO, "%s: %s", path, strerror(errno));
  if (code == SPTX_CODE_OK)
    code = read_header(file, (int64_t)status.st_size, error);
  if (code != SPTX_CODE_OK) {
    sptx_safetensors_close(file);
    return code;
  }
  *opened = file;
  return SPTX_CODE_OK;
}

void sptx_safetensors_close(sptx_safetensors *file) {
  if (!file)
    return;
  if (file->stream)
    fclose(file->stream);
  cJSON_Delete(file->header);
  free(file);
}

size_t sptx_safetensors_count(const sptx_safetensors *file) {
  size_t entries = (size_t)cJSON_GetArraySize(file->header);
  return entries - (cJSON_GetObjectItemCaseSensitive(file->header, "__metadata__") ? 1 : 0);
}

const char *sptx_safetensors_metadata(const sptx_safetensors *file, const char *key) {
  const cJSON *strings = cJSON_GetObjectItemCaseSensitive(file->header, "__metadata__");
  return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(strings, key));
}

static const cJSON *find(sptx_safetensors *file, const char *name) {
  const cJSON *entry = file->next;
  if (!entry || strcmp(entry->string, name))
    entry = cJSON_GetObjectItemCaseSensitive(file->header, name);
  file->next = entry ? entry->next : NULL;
  return entry;
}

enum sptx_code sptx_safetensors_read(sptx_safetensors *file, const sptx_tensor *tensor, float *floats,
                                     sptx_error *error) {
  const cJSON *entry = find(file, tensor->name);
  int64_t shape[2] = {0, 0}, range[2];
  if (!entry)
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: has no tensor %s: it belongs to another configuration",
                     file->path, tensor->name);
  const char *dtype = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(entry, "dtype"));
  if (!dtype || strcmp(dtype, "F32"))
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: %s is not F32", file->path, tensor->name);
  if (!read_integers(cJSON_GetObjectItemCaseSensitive(entry, "shape"), tensor->dims, shape) ||
      memcmp(shape, tensor->shape, (size_t)tensor->dims * sizeof *shape) != 0) {
    char *text = cJSON_PrintUnformatted(cJSON_GetObjectItemCaseSensitive(entry, "shape"));
    char wanted[64];
    snprintf(wanted, sizeof wanted, tensor->dims == 2 ? "[%ld,%ld]" : "[%ld]", (long)tensor->shape[0],
             (long)tensor->shape[1]);
    sptx_fail(error, SPTX_CODE_FORMAT,
              "%s: %s has the shape %s, the configuration wants %s: it belongs to another configuration",
              file->path, tensor->name, text ? text : "?", wanted);
    cJSON_free(text);
    return SPTX_CODE_FORMAT;
  }
  int64_t count = sptx_tensor_floats(tensor);
  if (!read_integers(cJSON_GetObjectItemCaseSensitive(entry, "data_offsets"), 2, range) ||
      range[1] - range[0] != count * (int64_t)sizeof(float))
    return damaged(file, "a tensor's range does not fit its shape", error);
  if (fseeko(file->stream, file->data_begin + range[0], SEEK_SET) ||
      fread(floats, sizeof(float), (size_t)count, file->stream) != (size_t)count)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot be read: %s", file->path, strerror(errno));
  return SPTX_CODE_OK;
}
