/* One file within a .zip archive in memory (PKWARE's application note, with the 64-bit fields), as
 * numpy.savez writes them: no encryption, no archives in several parts. */
#ifndef SPTX_MODEL_ZIP_H
#define SPTX_MODEL_ZIP_H

#include "patterns/error.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sptx_zip_entry {
  const uint8_t *bytes; /* within the archive */
  int64_t stored_size, size;
  uint32_t crc;
  bool deflated; /* else stored as it is */
};

/* Looks the name up. Fails: SPTX_CODE_FORMAT (damaged, cut short, no such entry, another compression). */
enum sptx_code sptx_zip_find(const uint8_t *archive, int64_t size, const char *archive_name, const char *name,
                             struct sptx_zip_entry *entry, sptx_error *error);
/* Inflates a deflated entry into `bytes` (entry->size of them) and checks its CRC. */
enum sptx_code sptx_zip_inflate(const struct sptx_zip_entry *entry, const char *archive_name, uint8_t *bytes,
                                sptx_error *error);

#endif
