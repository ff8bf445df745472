/* The algebra of resolved sets: membership, copies, equality and text. What differs between primitives is in
 * their table, patterns/primitives.c; the fixed random choice stands here. */
#include "patterns/set.h"
#include "patterns/primitives.h"

#include <stdlib.h>
#include <string.h>

enum sptx_code sptx_set_contains(const sptx_set *set, int64_t n, int64_t i, int64_t j, bool *contains,
                                 sptx_error *error) {
  if (set->kind < SPTX_SET_ANY)
    return sptx_primitive_of(set->kind)->contains(set, n, i, j, contains, error);
  if (set->kind == SPTX_SET_NOT) {
    SPTX_TRY(sptx_set_contains(set->children[0], n, i, j, contains, error));
    *contains = !*contains;
    return SPTX_CODE_OK;
  }
  bool decisive = set->kind == SPTX_SET_ANY;
  *contains = !decisive;
  for (int k = 0; k < set->child_count && *contains != decisive; k++)
    SPTX_TRY(sptx_set_contains(set->children[k], n, i, j, contains, error));
  return SPTX_CODE_OK;
}

/* The array a set owns, or NULL. */
static void **buffer_of(const sptx_set *set, size_t *bytes) {
  *bytes = 0;
  if (set->kind >= SPTX_SET_ANY || !sptx_primitive_of(set->kind)->buffer)
    return NULL;
  return sptx_primitive_of(set->kind)->buffer((sptx_set *)set, bytes);
}

static enum sptx_code copy_content(const sptx_set *set, sptx_set *copy, sptx_error *error) {
  size_t bytes;
  void **source = buffer_of(set, &bytes);
  if (source && *source) {
    void *buffer = malloc(bytes ? bytes : 1);
    *buffer_of(copy, &bytes) = buffer;
    if (!buffer)
      return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a set");
    memcpy(buffer, *source, bytes);
  }
  if (set->kind == SPTX_SET_WHERE)
    SPTX_TRY(sptx_expr_copy(set->as.where.expr, &copy->as.where.expr, error));
  if (set->child_count == 0)
    return SPTX_CODE_OK;
  copy->children = calloc((size_t)set->child_count, sizeof *copy->children);
  if (!copy->children)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a set");
  copy->child_count = set->child_count;
  for (int k = 0; k < set->child_count; k++)
    SPTX_TRY(sptx_set_copy(set->children[k], &copy->children[k], error));
  return SPTX_CODE_OK;
}

enum sptx_code sptx_set_copy(const sptx_set *set, sptx_set **copy, sptx_error *error) {
  *copy = NULL;
  sptx_set *made = malloc(sizeof *made);
  if (!made)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a set");
  *made = *set;
  made->children = NULL;
  made->child_count = 0;
  size_t bytes;
  void **borrowed = buffer_of(made, &bytes);
  if (borrowed)
    *borrowed = NULL;
  if (made->kind == SPTX_SET_WHERE)
    made->as.where.expr = NULL;
  enum sptx_code code = copy_content(set, made, error);
  if (code != SPTX_CODE_OK) {
    sptx_set_free(made);
    return code;
  }
  *copy = made;
  return SPTX_CODE_OK;
}

bool sptx_set_equal(const sptx_set *a, const sptx_set *b) {
  if (a->kind != b->kind || a->child_count != b->child_count)
    return false;
  if (a->kind < SPTX_SET_ANY) {
    const sptx_primitive *row = sptx_primitive_of(a->kind);
    size_t a_bytes, b_bytes;
    void **a_buffer = buffer_of(a, &a_bytes), **b_buffer = buffer_of(b, &b_bytes);
    return (!row->equal || row->equal(a, b)) && a_bytes == b_bytes &&
           (a_bytes == 0 || memcmp(*a_buffer, *b_buffer, a_bytes) == 0);
  }
  for (int k = 0; k < a->child_count; k++)
    if (!sptx_set_equal(a->children[k], b->children[k]))
      return false;
  return true;
}

size_t sptx_set_bytes(const sptx_set *set) {
  size_t bytes;
  buffer_of(set, &bytes);
  bytes += sizeof *set + (size_t)set->child_count * sizeof *set->children;
  for (int k = 0; k < set->child_count; k++)
    bytes += sptx_set_bytes(set->children[k]);
  return bytes;
}

void sptx_set_free(sptx_set *set) {
  if (!set)
    return;
  size_t bytes;
  void **buffer = buffer_of(set, &bytes);
  if (buffer)
    free(*buffer);
  if (set->kind == SPTX_SET_WHERE)
    sptx_expr_free(set->as.where.expr);
  for (int k = 0; k < set->child_count; k++)
    sptx_set_free(set->children[k]);
  free(set->children);
  free(set);
}

void sptx_set_print(const sptx_set *set, int indent, FILE *stream) {
  if (set->kind < SPTX_SET_ANY) {
    const sptx_primitive *row = sptx_primitive_of(set->kind);
    fprintf(stream, row->print ? "%s: " : "%s", row->name);
    if (row->print)
      row->print(set, stream);
    return;
  }
  if (set->kind == SPTX_SET_NOT) {
    fprintf(stream, "not:\n%*s", indent + 2, "");
    sptx_set_print(set->children[0], indent + 2, stream);
    return;
  }
  fputs(set->kind == SPTX_SET_ANY ? "any:" : "all_of:", stream);
  for (int k = 0; k < set->child_count; k++) {
    fprintf(stream, "\n%*s- ", indent, "");
    sptx_set_print(set->children[k], indent + 2, stream);
  }
}

/* A bijective mix of 64 bits (splitmix64's finalizer): part of the file format, never to change. */
static uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

enum { ROUNDS = 32 }; /* of the permutation: part of the file format, too */

/* The keyed permutation "swap or not" (Hoang, Morris, Rogaway 2012) of the blocks sends a block to its place
 * in a shuffled deck; the first per_row places are the chosen ones. So the choice is without replacement,
 * needs no memory, and one membership costs the same whatever the number of blocks is. */
bool sptx_random_has_block(uint64_t seed, int64_t per_row, int64_t block_count, int64_t query_block,
                           int64_t key_block) {
  if (key_block < 0 || key_block >= block_count)
    return false;
  if (per_row >= block_count)
    return true;
  uint64_t key = mix(mix(seed) ^ (uint64_t)query_block), count = (uint64_t)block_count,
           x = (uint64_t)key_block;
  for (uint64_t round = 0; round < ROUNDS; round++) {
    uint64_t round_key = mix(key + round);
    uint64_t partner = (round_key % count + count - x) % count;
    uint64_t larger = x > partner ? x : partner;
    if (mix(round_key ^ larger) & 1)
      x = partner;
  }
  return x < (uint64_t)per_row;
}

/* Each round is its own inverse, so they run backwards. */
int64_t sptx_random_block_at(uint64_t seed, int64_t block_count, int64_t query_block, int64_t place) {
  uint64_t key = mix(mix(seed) ^ (uint64_t)query_block), count = (uint64_t)block_count, x = (uint64_t)place;
  for (int round = ROUNDS; round-- > 0;) {
    uint64_t round_key = mix(key + (uint64_t)round);
    uint64_t partner = (round_key % count + count - x) % count;
    if (mix(round_key ^ (x > partner ? x : partner)) & 1)
      x = partner;
  }
  return (int64_t)x;
}
