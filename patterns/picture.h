/* The pixels of a pattern's pictures: cells whose colour is the mean of what falls into them, so that a
 * sequence longer than the picture is wide still shows where its pairs lie. Internal to patterns/; draw.c
 * puts pictures on a page. */
#ifndef SPTX_PATTERNS_PICTURE_H
#define SPTX_PATTERNS_PICTURE_H

#include "patterns/piece.h"

typedef struct sptx_colour {
  float red, green, blue;
} sptx_colour;

#define SPTX_PICTURE_PALETTE 10
extern const sptx_colour sptx_palette[SPTX_PICTURE_PALETTE];

/* columns x rows of elements, span x span of them to a cell, cell x cell pixels for each. */
typedef struct sptx_picture {
  int64_t columns, rows, span, cell;
  int64_t width, height; /* in cells */
  struct {
    sptx_colour sum;      /* of the attended elements */
    float attended, seen; /* how many elements are attended, and how many may be */
  } * cells;              /* row-major */
} sptx_picture;

/* A picture of columns x rows elements in at most side x side pixels. */
enum sptx_code sptx_picture_create(int64_t columns, int64_t rows, int64_t side, sptx_picture *picture,
                                   sptx_error *error);
void sptx_picture_clear(sptx_picture *picture);

/* The connectivity matrix of one class: keys across, queries down. colours: one index into sptx_palette for
 * each piece. */
void sptx_picture_matrix(sptx_picture *picture, const sptx_instance *instance, const sptx_piece_list *list,
                         const int *colours);
/* The sequence in rows of `columns` positions, and in it the keys of one query. */
void sptx_picture_query(sptx_picture *picture, const sptx_instance *instance, const sptx_piece_list *list,
                        const int *colours, int64_t query);

/* Writes the pixels as 0x00rrggbb, width * cell of them in each of height * cell rows, stride bytes apart. */
void sptx_picture_render(const sptx_picture *picture, unsigned char *pixels, int64_t stride);

#endif
