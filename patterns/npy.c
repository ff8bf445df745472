/* The .npy format (NumPy enhancement proposal 1): magic, version, length of the head, and a Python dictionary
 * of three keys as text, then the elements. */
#include "patterns/npy.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PREFIX = 12, MAX_DICTIONARY = 10000 /* NumPy's own bound */, ALIGNMENT = 64 };

static const struct type_row {
  const char *name, *descr, *other_descr;
  size_t size;
} types[] = {
    [SPTX_NPY_BOOL] = {"bool", "|b1", "|b1", 1},   [SPTX_NPY_F32] = {"float32", "<f4", "<f4", 4},
    [SPTX_NPY_F16] = {"float16", "<f2", "<f2", 2}, [SPTX_NPY_BF16] = {"bfloat16", "<u2", "|V2", 2},
    [SPTX_NPY_U8] = {"uint8", "|u1", "|u1", 1},
};
enum { TYPE_COUNT = sizeof types / sizeof *types };

size_t sptx_npy_element_size(enum sptx_npy_type type) {
  return types[type].size;
}

const char *sptx_npy_type_name(enum sptx_npy_type type) {
  return types[type].name;
}

/* Walks over the dictionary's text. */
typedef struct cursor {
  const char *at, *end, *name;
  sptx_error *error;
} cursor;

static enum sptx_code damaged(const cursor *c, const char *what) {
  return sptx_fail(c->error, SPTX_CODE_FORMAT, "%s: not a readable .npy file: %s", c->name, what);
}

static int peek(cursor *c) {
  while (c->at < c->end && isspace((unsigned char)*c->at))
    c->at++;
  return c->at < c->end ? (unsigned char)*c->at : -1;
}

static bool accept(cursor *c, int character) {
  if (peek(c) != character)
    return false;
  c->at++;
  return true;
}

/* A quoted string without escapes, cut to the capacity. */
static enum sptx_code read_string(cursor *c, char *text, size_t capacity) {
  int quote = peek(c);
  if (quote != '\'' && quote != '"')
    return damaged(c, "its head expects a quoted string");
  const char *first = ++c->at;
  while (c->at < c->end && *c->at != quote)
    c->at++;
  size_t length = (size_t)(c->at - first);
  if (c->at == c->end || length >= capacity)
    return damaged(c, "a string of its head is too long or has no end");
  memcpy(text, first, length);
  text[length] = 0;
  c->at++;
  return SPTX_CODE_OK;
}

static enum sptx_code read_type(cursor *c, sptx_npy *npy) {
  char descr[32];
  if (peek(c) == '[')
    return damaged(c, "it holds records; save plain arrays");
  SPTX_TRY(read_string(c, descr, sizeof descr));
  for (int k = 0; k < TYPE_COUNT; k++)
    if (strcmp(descr, types[k].descr) == 0 || strcmp(descr, types[k].other_descr) == 0) {
      npy->type = (enum sptx_npy_type)k;
      return SPTX_CODE_OK;
    }
  return sptx_fail(c->error, SPTX_CODE_FORMAT,
                   "%s: the element type '%s' is not bool, uint8, float32, float16 or bfloat16 (little "
                   "endian); convert it "
                   "with .astype",
                   c->name, descr);
}

static enum sptx_code read_order(cursor *c) {
  static const char in_c[] = "False";
  peek(c);
  if ((size_t)(c->end - c->at) < sizeof in_c - 1 || memcmp(c->at, in_c, sizeof in_c - 1) != 0)
    return sptx_fail(c->error, SPTX_CODE_FORMAT,
                     "%s: the array is in Fortran order; save numpy.ascontiguousarray(array)", c->name);
  c->at += sizeof in_c - 1;
  return SPTX_CODE_OK;
}

static enum sptx_code read_shape(cursor *c, sptx_npy *npy) {
  if (!accept(c, '('))
    return damaged(c, "its shape is no tuple");
  while (!accept(c, ')')) {
    if (!isdigit(peek(c)))
      return damaged(c, "its shape holds something else than sizes");
    if (npy->rank == SPTX_NPY_MAX_RANK)
      return damaged(c, "it has more than 32 axes");
    int64_t size = 0;
    for (; c->at < c->end && isdigit((unsigned char)*c->at); c->at++)
      if (__builtin_mul_overflow(size, 10, &size) || __builtin_add_overflow(size, *c->at - '0', &size))
        return sptx_fail(c->error, SPTX_CODE_OVERFLOW, "%s: an axis of the array does not fit 63 bits",
                         c->name);
    npy->shape[npy->rank++] = size;
    if (!accept(c, ',') && peek(c) != ')')
      return damaged(c, "its shape has no ',' between two sizes");
  }
  return SPTX_CODE_OK;
}

static enum sptx_code read_dictionary(cursor *c, sptx_npy *npy) {
  bool seen[3] = {false};
  static const char *const keys[3] = {"descr", "fortran_order", "shape"};
  if (!accept(c, '{'))
    return damaged(c, "its head is no dictionary");
  while (!accept(c, '}')) {
    char key[32];
    SPTX_TRY(read_string(c, key, sizeof key));
    int which = 0;
    while (which < 3 && strcmp(key, keys[which]) != 0)
      which++;
    if (which == 3 || seen[which] || !accept(c, ':'))
      return damaged(c, "its head has an unknown or repeated key");
    seen[which] = true;
    SPTX_TRY(which == 0 ? read_type(c, npy) : which == 1 ? read_order(c) : read_shape(c, npy));
    if (!accept(c, ',') && peek(c) != '}')
      return damaged(c, "its head has no ',' between two keys");
  }
  if (peek(c) >= 0)
    return damaged(c, "text follows its head");
  return seen[0] && seen[1] && seen[2] ? SPTX_CODE_OK
                                       : damaged(c, "its head lacks descr, fortran_order or shape");
}

/* An axis of 0 does not excuse the others: whoever multiplies some of them must not overflow. */
static enum sptx_code count_bytes(const char *name, sptx_npy *npy, sptx_error *error) {
  bool overflow = false, empty = false;
  int64_t count = 1;
  for (int axis = 0; axis < npy->rank; axis++) {
    empty = empty || npy->shape[axis] == 0;
    overflow = overflow || __builtin_mul_overflow(count, npy->shape[axis] ? npy->shape[axis] : 1, &count);
  }
  if (overflow || count > INT64_MAX / (int64_t)types[npy->type].size)
    return sptx_fail(error, SPTX_CODE_OVERFLOW, "%s: the array's size does not fit 63 bits", name);
  npy->count = empty ? 0 : count;
  npy->bytes = (size_t)npy->count * types[npy->type].size;
  return SPTX_CODE_OK;
}

/* The sizes that the first PREFIX bytes tell: where the dictionary begins, and how long it is. */
static enum sptx_code read_prefix(const unsigned char *bytes, size_t size, const char *name, size_t *begin,
                                  size_t *length, sptx_error *error) {
  cursor c = {.name = name, .error = error};
  if (size < PREFIX || memcmp(bytes, "\x93NUMPY", 6) != 0)
    return damaged(&c, "it does not begin with NumPy's magic bytes");
  if (bytes[6] < 1 || bytes[6] > 3)
    return damaged(&c, "its format version is none of 1, 2, 3");
  *begin = bytes[6] == 1 ? 10 : 12;
  *length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
  if (bytes[6] > 1)
    *length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
  return *length <= MAX_DICTIONARY ? SPTX_CODE_OK : damaged(&c, "its head is longer than 10000 bytes");
}

/* Everything but the elements, checked against how many bytes follow. */
static enum sptx_code read_head(const char *dictionary, size_t length, int64_t following, int64_t max_bytes,
                                const char *name, sptx_npy *npy, sptx_error *error) {
  cursor c = {dictionary, dictionary + length, name, error};
  SPTX_TRY(read_dictionary(&c, npy));
  SPTX_TRY(count_bytes(name, npy, error));
  if ((int64_t)npy->bytes != following)
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: the head promises %zu bytes of elements, the file holds %" PRId64
                     "; it is cut or damaged",
                     name, npy->bytes, following);
  if (following > max_bytes)
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: %" PRId64 " bytes of elements, more than the %" PRId64 " that are possible here",
                     name, following, max_bytes);
  return SPTX_CODE_OK;
}

static enum sptx_code take_memory(sptx_npy *npy, const char *name, sptx_error *error) {
  npy->data = malloc(npy->bytes ? npy->bytes : 1);
  return npy->data
             ? SPTX_CODE_OK
             : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: out of memory for %zu bytes", name, npy->bytes);
}

static enum sptx_code check_elements(const sptx_npy *npy, const char *name, sptx_error *error) {
  const unsigned char *bytes = npy->data;
  for (size_t k = 0; npy->type == SPTX_NPY_BOOL && k < npy->bytes; k++)
    if (bytes[k] > 1)
      return sptx_fail(error, SPTX_CODE_FORMAT,
                       "%s: element %zu of the bool array is the byte %d, not 0 or 1", name, k, bytes[k]);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_npy_view(const void *bytes, size_t size, const char *name, sptx_npy *npy,
                             sptx_error *error) {
  *npy = (sptx_npy){0};
  size_t begin = 0, length = 0;
  SPTX_TRY(read_prefix(bytes, size, name, &begin, &length, error));
  if (size - begin < length)
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: the file ends in its head", name);
  const char *dictionary = (const char *)bytes + begin;
  SPTX_TRY(read_head(dictionary, length, (int64_t)(size - begin - length), INT64_MAX, name, npy, error));
  npy->data = (void *)(dictionary + length);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_npy_parse(const void *bytes, size_t size, const char *name, sptx_npy *npy,
                              sptx_error *error) {
  sptx_npy view;
  *npy = (sptx_npy){0};
  SPTX_TRY(sptx_npy_view(bytes, size, name, &view, error));
  *npy = view;
  enum sptx_code code = take_memory(npy, name, error);
  if (code == SPTX_CODE_OK) {
    memcpy(npy->data, view.data, npy->bytes);
    code = check_elements(npy, name, error);
  }
  if (code != SPTX_CODE_OK)
    sptx_npy_clear(npy);
  return code;
}

static enum sptx_code read_stream(FILE *file, int64_t size, int64_t max_bytes, const char *name,
                                  sptx_npy *npy, sptx_error *error) {
  unsigned char prefix[PREFIX];
  char dictionary[MAX_DICTIONARY];
  size_t begin = 0, length = 0;
  SPTX_TRY(read_prefix(prefix, fread(prefix, 1, PREFIX, file), name, &begin, &length, error));
  if (fseek(file, (long)begin, SEEK_SET) != 0 || fread(dictionary, 1, length, file) != length)
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: the file ends in its head", name);
  SPTX_TRY(read_head(dictionary, length, size - (int64_t)(begin + length), max_bytes, name, npy, error));
  SPTX_TRY(take_memory(npy, name, error));
  if (fread(npy->data, 1, npy->bytes, file) != npy->bytes)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot read: %s", name, strerror(errno));
  return check_elements(npy, name, error);
}

enum sptx_code sptx_npy_read(const char *path, int64_t max_bytes, sptx_npy *npy, sptx_error *error) {
  *npy = (sptx_npy){0};
  struct stat status;
  if (stat(path, &status) != 0)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot open: %s", path, strerror(errno));
  if (!S_ISREG(status.st_mode)) /* asked before it is opened: opening a pipe would wait */
    return sptx_fail(error, SPTX_CODE_IO, "%s: not a regular file", path);
  FILE *file = fopen(path, "rbe");
  if (!file)
    return sptx_fail(error, SPTX_CODE_IO, "%s: cannot open: %s", path, strerror(errno));
  enum sptx_code code = read_stream(file, (int64_t)status.st_size, max_bytes, path, npy, error);
  fclose(file);
  if (code != SPTX_CODE_OK)
    sptx_npy_clear(npy);
  return code;
}

void sptx_npy_clear(sptx_npy *npy) {
  free(npy->data);
  *npy = (sptx_npy){0};
}

enum sptx_code sptx_npy_write_head(sptx_output *output, enum sptx_npy_type type, int rank,
                                   const int64_t *shape, sptx_error *error) {
  enum { TEN = 10 };
  char head[2048];
  int used =
      snprintf(head, sizeof head, "{'descr': '%s', 'fortran_order': False, 'shape': (", types[type].descr);
  for (int axis = 0; axis < rank; axis++)
    used += snprintf(head + used, sizeof head - (size_t)used, "%" PRId64 ",%s", shape[axis],
                     axis + 1 < rank ? " " : "");
  used += snprintf(head + used, sizeof head - (size_t)used, "), }");
  int length = (TEN + used + 1 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT - TEN;
  const unsigned char prefix[TEN] = {
      0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)length, (unsigned char)(length >> 8)};
  fwrite(prefix, 1, sizeof prefix, output->stream);
  fprintf(output->stream, "%s%*s\n", head, length - used - 1, "");
  return ferror(output->stream)
             ? sptx_fail(error, SPTX_CODE_IO, "%s: cannot write: %s", output->path, strerror(errno))
             : SPTX_CODE_OK;
}

enum sptx_code sptx_npy_write(const char *path, enum sptx_npy_type type, int rank, const int64_t *shape,
                              const void *data, sptx_error *error) {
  sptx_npy npy = {.type = type, .rank = rank};
  if (rank < 0 || rank > SPTX_NPY_MAX_RANK)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: an array has 0 to %d axes, not %d", path,
                     SPTX_NPY_MAX_RANK, rank);
  for (int axis = 0; axis < rank; axis++) {
    npy.shape[axis] = shape[axis];
    if (shape[axis] < 0)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: axis %d of the array has the size %" PRId64,
                       path, axis, shape[axis]);
  }
  SPTX_TRY(count_bytes(path, &npy, error));
  sptx_output output;
  SPTX_TRY(sptx_output_open(path, &output, error));
  enum sptx_code code = sptx_npy_write_head(&output, type, rank, shape, error);
  if (code == SPTX_CODE_OK && fwrite(data, 1, npy.bytes, output.stream) != npy.bytes)
    code = sptx_fail(error, SPTX_CODE_IO, "%s: cannot write: %s", path, strerror(errno));
  if (code == SPTX_CODE_OK)
    return sptx_output_commit(&output, error);
  sptx_output_discard(&output);
  return code;
}
