/* The generic piece: what has no band in any view, as a list of tiles found by evaluation. Tiles that cannot
 * hold a pair are passed over, full ones need no mask, and equal masks are kept once. */
#include "patterns/evaluate.h"
#include "patterns/integer.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = SPTX_GENERIC_TILE };

typedef struct builder {
  sptx_lowering *lowering;
  sptx_evaluator *evaluator;
  sptx_tile_list *tiles;
  int64_t tile_capacity, mask_capacity;
  int32_t *slots; /* hash table of mask indices + 1 */
  int64_t slot_count;
} builder;

static enum sptx_code no_memory(builder *b) {
  return sptx_fail(b->lowering->error, SPTX_CODE_OUT_OF_MEMORY,
                   "no memory for the generic piece's %lld tiles: its size follows the non-empty tiles",
                   (long long)b->tiles->tile_count);
}

static uint64_t hash_mask(const uint64_t *mask) {
  uint64_t hash = 0x9e3779b97f4a7c15u;
  for (int k = 0; k < TILE; k++)
    hash = (hash ^ mask[k]) * 0xff51afd7ed558ccdu, hash ^= hash >> 32;
  return hash;
}

static enum sptx_code grow_slots(builder *b) {
  int64_t count = b->slot_count ? 2 * b->slot_count : 64;
  int32_t *slots = calloc((size_t)count, sizeof *slots);
  if (!slots)
    return no_memory(b);
  for (int64_t m = 0; m < b->tiles->mask_count; m++) {
    uint64_t slot = hash_mask(b->tiles->masks + m * TILE) & (uint64_t)(count - 1);
    while (slots[slot])
      slot = (slot + 1) & (uint64_t)(count - 1);
    slots[slot] = (int32_t)m + 1;
  }
  free(b->slots);
  b->slots = slots;
  b->slot_count = count;
  return SPTX_CODE_OK;
}

/* The index of an equal mask, stored now if it is new. */
static enum sptx_code intern_mask(builder *b, const uint64_t *mask, int32_t *index) {
  sptx_tile_list *tiles = b->tiles;
  if (2 * (tiles->mask_count + 1) > b->slot_count)
    SPTX_TRY(grow_slots(b));
  uint64_t slot = hash_mask(mask) & (uint64_t)(b->slot_count - 1);
  for (; b->slots[slot]; slot = (slot + 1) & (uint64_t)(b->slot_count - 1)) {
    *index = b->slots[slot] - 1;
    if (memcmp(tiles->masks + (int64_t)*index * TILE, mask, TILE * sizeof *mask) == 0)
      return SPTX_CODE_OK;
  }
  if (tiles->mask_count == b->mask_capacity) {
    int64_t capacity = b->mask_capacity ? 2 * b->mask_capacity : 16;
    uint64_t *masks = realloc(tiles->masks, (size_t)capacity * TILE * sizeof *masks);
    if (!masks)
      return no_memory(b);
    tiles->masks = masks;
    b->mask_capacity = capacity;
  }
  memcpy(tiles->masks + tiles->mask_count * TILE, mask, TILE * sizeof *mask);
  *index = (int32_t)tiles->mask_count++;
  b->slots[slot] = *index + 1;
  return SPTX_CODE_OK;
}

static enum sptx_code push_tile(builder *b, int64_t key_tile, int32_t mask) {
  sptx_tile_list *tiles = b->tiles;
  if (tiles->tile_count == b->tile_capacity) {
    int64_t capacity = b->tile_capacity ? 2 * b->tile_capacity : 64;
    int32_t *key_tiles = realloc(tiles->key_tile, (size_t)capacity * sizeof *key_tiles);
    if (key_tiles)
      tiles->key_tile = key_tiles;
    int32_t *masks = realloc(tiles->mask, (size_t)capacity * sizeof *masks);
    if (masks)
      tiles->mask = masks;
    if (!key_tiles || !masks)
      return no_memory(b);
    b->tile_capacity = capacity;
  }
  tiles->key_tile[tiles->tile_count] = (int32_t)key_tile;
  tiles->mask[tiles->tile_count++] = mask;
  return SPTX_CODE_OK;
}

static enum sptx_code add_tile(builder *b, int64_t first, int64_t last, int64_t column) {
  uint64_t mask[TILE], any = 0, all = ~(uint64_t)0;
  int32_t index = -1;
  SPTX_TRY(sptx_evaluator_tile(b->evaluator, first, last, column * TILE, mask));
  for (int key = 0; key < TILE; key++)
    any |= mask[key], all &= mask[key];
  if (!any)
    return SPTX_CODE_OK;
  if (all != ~(uint64_t)0)
    SPTX_TRY(intern_mask(b, mask, &index));
  return push_tile(b, column, index);
}

static enum sptx_code add_row(builder *b, int64_t row, uint64_t *marks) {
  int64_t first = b->lowering->first + row * TILE, last = min64(first + TILE, b->lowering->n);
  int64_t words = ceil_div(b->tiles->key_tiles, 64);
  memset(marks, 0, (size_t)words * sizeof *marks);
  sptx_evaluator_mark(b->evaluator, first, last, marks);
  for (int64_t word = 0; word < words; word++)
    for (uint64_t rest = marks[word]; rest; rest &= rest - 1)
      SPTX_TRY(add_tile(b, first, last, word * 64 + __builtin_ctzll(rest)));
  b->tiles->row_start[row + 1] = b->tiles->tile_count;
  return SPTX_CODE_OK;
}

static sptx_view plain_view(int64_t base, int64_t length) {
  return (sptx_view){.base = base, .inner_count = 1, .inner_size = {length}, .inner_stride = {1}};
}

enum sptx_code sptx_clauses_to_tiles(sptx_lowering *lowering, const sptx_clause_list *clauses,
                                     sptx_piece *piece) {
  int64_t n = lowering->n, n_q = n - lowering->first;
  *piece = (sptx_piece){.kind = SPTX_PIECE_TILES, .name = "generic"};
  piece->query = plain_view(lowering->first, n_q);
  piece->key = plain_view(0, n);
  piece->tiles.query_tiles = ceil_div(n_q, TILE);
  piece->tiles.key_tiles = ceil_div(n, TILE);
  builder b = {.lowering = lowering, .tiles = &piece->tiles};
  piece->tiles.row_start = calloc((size_t)piece->tiles.query_tiles + 1, sizeof *piece->tiles.row_start);
  uint64_t *marks = calloc((size_t)ceil_div(piece->tiles.key_tiles, 64), sizeof *marks);
  enum sptx_code code = piece->tiles.row_start && marks ? SPTX_CODE_OK : no_memory(&b);
  if (code == SPTX_CODE_OK)
    code = sptx_evaluator_create(lowering, clauses, &b.evaluator);
  for (int64_t row = 0; row < piece->tiles.query_tiles && code == SPTX_CODE_OK; row++)
    code = add_row(&b, row, marks);
  sptx_evaluator_free(b.evaluator);
  free(marks);
  free(b.slots);
  if (code == SPTX_CODE_OK)
    code = sptx_piece_count_pairs(piece, n_q, n, &piece->pairs, lowering->error);
  return code;
}
