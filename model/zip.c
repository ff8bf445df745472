/* Reads a .zip archive's directory, which stands at its end; see zip.h. */
#include "model/zip.h"

#include <string.h>
#include <zlib.h>

enum {
  END_SIGNATURE = 0x06054b50,
  END_SIZE = 22,
  END64_LOCATOR_SIGNATURE = 0x07064b50,
  END64_LOCATOR_SIZE = 20,
  END64_SIGNATURE = 0x06064b50,
  END64_SIZE = 56,
  DIRECTORY_SIGNATURE = 0x02014b50,
  DIRECTORY_SIZE = 46,
  LOCAL_SIGNATURE = 0x04034b50,
  LOCAL_SIZE = 30,
  LONGEST_COMMENT = 65535,
  EXTRA_64 = 1,
  METHOD_STORED = 0,
  METHOD_DEFLATED = 8,
};

struct archive {
  const uint8_t *bytes;
  int64_t size;
  const char *name;
  sptx_error *error;
};

static uint64_t number(const uint8_t *bytes, int count) {
  uint64_t value = 0;
  for (int k = count - 1; k >= 0; k--)
    value = value << 8 | bytes[k];
  return value;
}

static enum sptx_code damaged(const struct archive *archive, const char *what) {
  return sptx_fail(archive->error, SPTX_CODE_FORMAT,
                   "%s: not a whole .npz file (%s); it is cut short or damaged, fetch it again",
                   archive->name, what);
}

/* A record of at least `size` bytes at `at` that opens with the signature, or NULL. */
static const uint8_t *record_at(const struct archive *archive, uint64_t at, uint32_t signature,
                                int64_t size) {
  if (archive->size < size || at > (uint64_t)(archive->size - size))
    return NULL;
  const uint8_t *record = archive->bytes + at;
  return number(record, 4) == signature ? record : NULL;
}

/* Where the directory begins, and how many entries it has. */
static enum sptx_code find_directory(const struct archive *archive, uint64_t *begin, uint64_t *entries) {
  const uint8_t *end = NULL;
  int64_t at = archive->size - END_SIZE;
  for (; at >= 0 && at >= archive->size - END_SIZE - LONGEST_COMMENT && !end; at--)
    end = record_at(archive, (uint64_t)at, END_SIGNATURE, END_SIZE);
  if (!end)
    return damaged(archive, "there is no directory at its end");
  *entries = number(end + 10, 2);
  *begin = number(end + 16, 4);
  if (*entries != 0xffff && *begin != 0xffffffff)
    return SPTX_CODE_OK;
  const uint8_t *locator = record_at(archive, (uint64_t)(end - archive->bytes - END64_LOCATOR_SIZE),
                                     END64_LOCATOR_SIGNATURE, END64_LOCATOR_SIZE);
  const uint8_t *end64 =
      locator ? record_at(archive, number(locator + 8, 8), END64_SIGNATURE, END64_SIZE) : NULL;
  if (!end64)
    return damaged(archive, "its 64-bit directory is missing");
  *entries = number(end64 + 32, 8);
  *begin = number(end64 + 48, 8);
  return SPTX_CODE_OK;
}

/* Fields that do not fit 32 bits stand in an extra field, in this order, and only those that do not fit. */
static bool widen(const uint8_t *extra, int64_t length, uint64_t *const fields[3]) {
  for (int64_t at = 0; at + 4 <= length;) {
    uint64_t kind = number(extra + at, 2);
    int64_t size = (int64_t)number(extra + at + 2, 2);
    at += 4;
    if (size > length - at)
      return false;
    if (kind != EXTRA_64) {
      at += size;
      continue;
    }
    for (int k = 0; k < 3; k++)
      if (*fields[k] == 0xffffffff) {
        if (size < 8)
          return false;
        *fields[k] = number(extra + at, 8);
        at += 8;
        size -= 8;
      }
    return true;
  }
  return false;
}

/* Fills the entry from its directory record; its bytes stand behind a second head, at `local`. */
static enum sptx_code read_entry(const struct archive *archive, const uint8_t *record, const uint8_t *extra,
                                 struct sptx_zip_entry *entry) {
  uint64_t size = number(record + 24, 4), stored = number(record + 20, 4), local = number(record + 42, 4);
  uint64_t *const fields[] = {&size, &stored, &local};
  if ((size == 0xffffffff || stored == 0xffffffff || local == 0xffffffff) &&
      !widen(extra, (int64_t)number(record + 30, 2), fields))
    return damaged(archive, "its 64-bit sizes are missing");
  uint64_t method = number(record + 10, 2), flags = number(record + 8, 2);
  if ((method != METHOD_STORED && method != METHOD_DEFLATED) || flags & 1)
    return sptx_fail(archive->error, SPTX_CODE_FORMAT,
                     "%s: compressed by method %d or encrypted; write it anew with numpy.savez",
                     archive->name, (int)method);
  const uint8_t *head = record_at(archive, local, LOCAL_SIGNATURE, LOCAL_SIZE);
  if (!head)
    return damaged(archive, "an entry begins outside it");
  uint64_t begin = local + LOCAL_SIZE + number(head + 26, 2) + number(head + 28, 2);
  if (begin > (uint64_t)archive->size || stored > (uint64_t)archive->size - begin || size > INT64_MAX ||
      (method == METHOD_STORED && stored != size))
    return damaged(archive, "an entry ends outside it");
  *entry = (struct sptx_zip_entry){archive->bytes + begin, (int64_t)stored, (int64_t)size,
                                   (uint32_t)number(record + 16, 4), method == METHOD_DEFLATED};
  return SPTX_CODE_OK;
}

enum sptx_code sptx_zip_find(const uint8_t *bytes, int64_t size, const char *archive_name, const char *name,
                             struct sptx_zip_entry *entry, sptx_error *error) {
  struct archive archive = {bytes, size, archive_name, error};
  uint64_t at = 0, entries = 0;
  SPTX_TRY(find_directory(&archive, &at, &entries));
  for (uint64_t k = 0; k < entries; k++) {
    const uint8_t *record = record_at(&archive, at, DIRECTORY_SIGNATURE, DIRECTORY_SIZE);
    if (!record)
      return damaged(&archive, "its directory ends early");
    uint64_t name_length = number(record + 28, 2);
    uint64_t length = name_length + number(record + 30, 2) + number(record + 32, 2);
    at += DIRECTORY_SIZE;
    if (length > (uint64_t)size - at)
      return damaged(&archive, "its directory ends early");
    if (name_length == strlen(name) && !memcmp(bytes + at, name, name_length))
      return read_entry(&archive, record, bytes + at + name_length, entry);
    at += length;
  }
  return sptx_fail(error, SPTX_CODE_FORMAT, "%s: holds no array '%s'", archive_name, name);
}

enum sptx_code sptx_zip_inflate(const struct sptx_zip_entry *entry, const char *archive_name, uint8_t *bytes,
                                sptx_error *error) {
  enum { STEP = 1 << 30 }; /* zlib counts in 32 bits */
  struct archive archive = {NULL, 0, archive_name, error};
  z_stream stream = {0};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory to inflate it", archive_name);
  int64_t taken = 0, made = 0;
  int status = Z_OK;
  while (status == Z_OK) {
    int64_t in = entry->stored_size - taken < STEP ? entry->stored_size - taken : STEP;
    int64_t out = entry->size - made < STEP ? entry->size - made : STEP;
    stream.next_in = (Bytef *)(entry->bytes + taken);
    stream.avail_in = (uInt)in;
    stream.next_out = bytes + made;
    stream.avail_out = (uInt)out;
    status = inflate(&stream, Z_NO_FLUSH);
    taken += in - stream.avail_in;
    made += out - stream.avail_out;
  }
  inflateEnd(&stream);
  if (status != Z_STREAM_END || made != entry->size)
    return damaged(&archive, "its compressed data does not make an array");
  uLong crc = crc32_z(0, bytes, (z_size_t)made);
  return crc == entry->crc ? SPTX_CODE_OK : damaged(&archive, "its checksum is wrong");
}
