/* Pictures of sequences: images as they are, and what a head attends to (as in the article's figures).
 * Written as .png or .svg by the file's ending, whole or not at all. */
#ifndef SPTX_MODEL_PICTURE_H
#define SPTX_MODEL_PICTURE_H

#include "patterns/error.h"
#include <stdbool.h>
#include <stdint.h>

/* tokens (side, side, 3): red, green, blue. */
enum sptx_code sptx_picture_image(const char *path, const uint8_t *tokens, int64_t side, sptx_error *error);

/* What a picture of attention shows: the positions laid out in rows, weights (length) from one of them. */
struct sptx_attention_view {
  const uint8_t *tokens; /* (length) */
  const double *weights; /* (length): they sum to 1 */
  int64_t length, position;
  int64_t side; /* of an image; 0: text or audio in rows of `columns` */
  int64_t columns;
  bool letters; /* print the tokens into the cells */
};

/* Images: the pixels, dim, whiter the more attention they get (their three channels added up); what comes
 * later is black, and the pixel that attends is framed in red. Text and audio: one cell for each position. */
enum sptx_code sptx_picture_attention(const char *path, const struct sptx_attention_view *view,
                                      sptx_error *error);

#endif
