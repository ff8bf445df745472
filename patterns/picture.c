/* Cells of a picture: pairs are added piece by piece, then turned into colours. */
#include "patterns/picture.h"
#include "patterns/integer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Told apart also by those who see few colours; the first ones differ most. */
const sptx_colour sptx_palette[SPTX_PICTURE_PALETTE] = {
    {0.13f, 0.40f, 0.67f}, {0.90f, 0.45f, 0.13f}, {0.11f, 0.58f, 0.42f}, {0.73f, 0.22f, 0.46f},
    {0.45f, 0.33f, 0.68f}, {0.75f, 0.60f, 0.10f}, {0.25f, 0.66f, 0.82f}, {0.55f, 0.34f, 0.20f},
    {0.42f, 0.55f, 0.14f}, {0.45f, 0.45f, 0.50f},
};

static const sptx_colour background = {1, 1, 1}, unattended = {0.925f, 0.925f, 0.91f},
                         query_colour = {0.08f, 0.08f, 0.10f};

enum sptx_code sptx_picture_create(int64_t columns, int64_t rows, int64_t side, sptx_picture *picture,
                                   sptx_error *error) {
  int64_t longest = max64(columns, rows);
  *picture = (sptx_picture){.columns = columns, .rows = rows, .span = ceil_div(longest, side)};
  picture->width = ceil_div(columns, picture->span);
  picture->height = ceil_div(rows, picture->span);
  picture->cell = max64(1, side / max64(picture->width, picture->height));
  picture->cells = calloc((size_t)(picture->width * picture->height), sizeof *picture->cells);
  return picture->cells
             ? SPTX_CODE_OK
             : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a picture of a pattern");
}

void sptx_picture_clear(sptx_picture *picture) {
  free(picture->cells);
  *picture = (sptx_picture){0};
}

static void add_attended(sptx_picture *p, int64_t cell, sptx_colour colour, float weight) {
  p->cells[cell].sum.red += colour.red * weight;
  p->cells[cell].sum.green += colour.green * weight;
  p->cells[cell].sum.blue += colour.blue * weight;
  p->cells[cell].attended += weight;
}

/* Adds to `seen`, or to the attended elements where a colour is given, columns first..last-1 of a row. */
static void add_columns(sptx_picture *p, int64_t row, int64_t first, int64_t last,
                        const sptx_colour *colour) {
  int64_t start = row / p->span * p->width;
  while (first < last) {
    int64_t cell = first / p->span, end = min64(last, (cell + 1) * p->span);
    if (colour)
      add_attended(p, start + cell, *colour, (float)(end - first));
    else
      p->cells[start + cell].seen += (float)(end - first);
    first = end;
  }
}

static void add_band_row(sptx_picture *p, const sptx_instance *instance, const sptx_piece *piece,
                         int64_t shared, int64_t x, int64_t keys, sptx_colour colour) {
  int64_t position = sptx_view_position(&piece->query, shared, x);
  int64_t row = position - (instance->n_k - instance->n_q);
  int64_t first = max64(sptx_bound_at(&piece->lo, x), 0), last = min64(sptx_bound_at(&piece->hi, x), keys);
  bool contiguous = piece->key.inner_count == 1 && piece->key.inner_stride[0] == 1 && !piece->predicate;
  int64_t start = sptx_view_position(&piece->key, shared, 0);
  if (contiguous && first < last) {
    add_columns(p, row, start + first, start + last, &colour);
    return;
  }
  for (int64_t y = first; y < last; y++) {
    int64_t j = sptx_view_position(&piece->key, shared, y);
    bool contains = true; /* predicates never fail: piece.h */
    if (piece->predicate)
      sptx_set_contains(piece->predicate, instance->n_k, position, j, &contains, NULL);
    if (contains)
      add_attended(p, row / p->span * p->width + j / p->span, colour, 1);
  }
}

static void add_band(sptx_picture *p, const sptx_instance *instance, const sptx_piece *piece,
                     sptx_colour colour) {
  int64_t first = instance->n_k - instance->n_q, total = sptx_view_shared_total(&piece->query);
  for (int64_t shared = 0; shared < total; shared++) {
    int64_t begin, end, key_begin, keys;
    sptx_view_inner_range(&piece->query, shared, first, instance->n_k, &begin, &end);
    sptx_view_inner_range(&piece->key, shared, 0, instance->n_k, &key_begin, &keys);
    for (int64_t x = begin; x < end; x++)
      add_band_row(p, instance, piece, shared, x, keys, colour);
  }
}

static void add_tiles(sptx_picture *p, const sptx_instance *instance, const sptx_piece *piece,
                      sptx_colour colour) {
  const sptx_tile_list *tiles = &piece->tiles;
  for (int64_t tile_row = 0; tile_row < tiles->query_tiles; tile_row++)
    for (int64_t t = tiles->row_start[tile_row]; t < tiles->row_start[tile_row + 1]; t++) {
      int64_t j = (int64_t)tiles->key_tile[t] * SPTX_GENERIC_TILE,
              keys = min64(j + SPTX_GENERIC_TILE, instance->n_k);
      const uint64_t *mask =
          tiles->mask[t] < 0 ? NULL : tiles->masks + (int64_t)tiles->mask[t] * SPTX_GENERIC_TILE;
      for (int key = 0; j < keys; key++, j++)
        for (uint64_t bits = mask ? mask[key] : ~(uint64_t)0; bits; bits &= bits - 1) {
          int64_t row = tile_row * SPTX_GENERIC_TILE + __builtin_ctzll(bits);
          add_attended(p, row / p->span * p->width + j / p->span, colour, 1);
        }
    }
}

void sptx_picture_matrix(sptx_picture *picture, const sptx_instance *instance, const sptx_piece_list *list,
                         const int *colours) {
  int64_t first = instance->n_k - instance->n_q;
  for (int64_t i = 0; i < instance->n_q; i++)
    add_columns(picture, i, 0, instance->causal ? first + i + 1 : instance->n_k, NULL);
  for (int k = 0; k < list->count; k++)
    if (list->pieces[k].kind == SPTX_PIECE_BAND)
      add_band(picture, instance, &list->pieces[k], sptx_palette[colours[k]]);
    else
      add_tiles(picture, instance, &list->pieces[k], sptx_palette[colours[k]]);
}

void sptx_picture_query(sptx_picture *picture, const sptx_instance *instance, const sptx_piece_list *list,
                        const int *colours, int64_t query) {
  int64_t position = instance->n_k - instance->n_q + query;
  int64_t seen = instance->causal ? position + 1 : instance->n_k, columns = picture->columns;
  for (int64_t first = 0; first < seen; first += columns)
    add_columns(picture, first / columns, 0, min64(columns, seen - first), NULL);
  for (int64_t j = 0; j < seen; j++)
    for (int k = 0; k < list->count && j != position; k++)
      if (sptx_piece_contains(&list->pieces[k], instance->n_q, instance->n_k, query, j))
        add_columns(picture, j / columns, j % columns, j % columns + 1, &sptx_palette[colours[k]]);
  int64_t cell = position / columns / picture->span * picture->width + position % columns / picture->span;
  memset(&picture->cells[cell].sum, 0, sizeof picture->cells[cell].sum);
  picture->cells[cell].attended = 0; /* the query itself covers its whole cell */
  picture->cells[cell].seen = 1;
  add_attended(picture, cell, query_colour, 1);
}

/* Sparse cells are shown stronger than they are: one pair in a hundred must still be visible. */
static sptx_colour colour_of(const sptx_picture *p, int64_t cell) {
  float attended = p->cells[cell].attended, seen = p->cells[cell].seen;
  if (seen <= 0)
    return background;
  if (attended <= 0)
    return unattended;
  float strength = cbrtf(fminf(1, attended / seen)), scale = strength / attended, rest = 1 - strength;
  const sptx_colour *sum = &p->cells[cell].sum;
  return (sptx_colour){sum->red * scale + unattended.red * rest, sum->green * scale + unattended.green * rest,
                       sum->blue * scale + unattended.blue * rest};
}

static uint32_t pixel_of(sptx_colour c) {
  return (uint32_t)(c.red * 255 + 0.5f) << 16 | (uint32_t)(c.green * 255 + 0.5f) << 8 |
         (uint32_t)(c.blue * 255 + 0.5f);
}

void sptx_picture_render(const sptx_picture *p, unsigned char *pixels, int64_t stride) {
  enum { GAPPED = 6 }; /* cells of so many pixels leave one of them between each other */
  for (int64_t y = 0; y < p->height * p->cell; y++)
    for (int64_t x = 0; x < p->width * p->cell; x++) {
      bool gap = p->cell >= GAPPED && (x % p->cell == p->cell - 1 || y % p->cell == p->cell - 1);
      sptx_colour colour = gap ? background : colour_of(p, y / p->cell * p->width + x / p->cell);
      uint32_t pixel = pixel_of(colour);
      memcpy(pixels + y * stride + x * (int64_t)sizeof pixel, &pixel, sizeof pixel);
    }
}
