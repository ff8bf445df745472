/* What wisdom is filed under: pieces in a canonical form that does not depend on n, and a class of shapes. */
#ifndef SPTX_RUNTIME_WISDOM_KEY_H
#define SPTX_RUNTIME_WISDOM_KEY_H

#include "gen/kernel.h"
#include "runtime/wisdom.h"

/* The texts of a key, which key points into. */
typedef struct sptx_wisdom_texts {
  char piece[SPTX_WISDOM_TEXT], shape[256];
  sptx_wisdom_key key;
} sptx_wisdom_texts;

/* device is the device's description, borrowed by the key. Sizes fall into classes of a power of two: what is
 * fastest for n = 5000 is taken for n = 6000. */
enum sptx_code sptx_wisdom_key_make(const sptx_problem *problem, enum sptx_pass pass,
                                    const sptx_piece_list *lists, int class_count, const char *device,
                                    sptx_wisdom_texts *texts, sptx_error *error);

#endif
