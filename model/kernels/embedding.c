/* Token, start and position embeddings, forward beside backward. Gradients gather instead of scatter, so
 * that no two rows write the same entry and the order of additions is fixed. */
#include "target.h"

INLINE const float *position_vector(const struct sptx_position_table *table, int64_t position,
                                    int64_t width) {
  return table->table + position / table->divisor % table->size * width;
}

KERNEL(embed_forward) {
  EACH_ROW(row) {
    int64_t position = a.first_position + row % a.length;
    const float *token = position == 0 ? a.start : a.token_table + (int64_t)a.tokens[row - 1] * a.width;
    element *h = (element *)a.h + row * a.width;
    EACH_PACK(i, a.width) {
      pack sum = load_floats(token + i);
      for (int k = 0; k < SPTX_MAX_POSITION_TABLES; k++)
        if (k < a.position_tables)
          sum += load_floats(position_vector(&a.positions[k], position, a.width) + i);
      store_pack(h + i, sum);
    }
  }
}

KERNEL(embed_backward_tokens) {
  enum { START = 256, ROWS };
  const element *d_h = a.d_h;
  int64_t blocks = (a.width + a.block_columns - 1) / a.block_columns;
  EACH_GROUP(index) {
    int64_t first = index % blocks * a.block_columns, token = index / blocks % ROWS;
    int64_t part = index / blocks / ROWS, begin_row = a.begin[token], rows = a.begin[token + 1] - begin_row;
    float *gradient = a.parts > 1      ? a.partial + (part * ROWS + token) * a.width
                      : token == START ? a.d_start
                                       : a.d_token_table + token * a.width;
    COLUMN_SUMS(sums, gradient, first, a.width);
    ADD_ROWS(sums, entry, begin_row + rows * part / a.parts, begin_row + rows * (part + 1) / a.parts,
             d_h + (int64_t)a.rows_of[entry] * a.width, first, a.width)
    KEEP_COLUMNS(sums, gradient, first, a.width);
  }
}

/* Member k of an entry's positions within all sequences, or NULL past the end of its sequence: entry e is
 * that of the positions (turn * size + e) * divisor + 0..divisor. */
INLINE const element *member_of_entry(const struct sptx_embed_backward_positions_args *a, uint32_t entry,
                                      uint32_t members, uint32_t k) {
  const uint32_t divisor = (uint32_t)a->gradient.divisor, period = (uint32_t)a->gradient.size * divisor;
  uint32_t sequence = k / members, member = k % members;
  int64_t position = member / divisor * period + entry * divisor + member % divisor;
  return position < a->length ? (const element *)a->d_h + (sequence * a->length + position) * a->width : NULL;
}

KERNEL(embed_backward_positions) {
  int64_t divisor = a.gradient.divisor, period = a.gradient.size * divisor;
  int64_t members = (a.length + period - 1) / period * divisor; /* of a sequence */
  int64_t blocks = (a.width + a.block_columns - 1) / a.block_columns;
  EACH_GROUP(index) {
    int64_t entry = index / blocks, first = index % blocks * a.block_columns;
    float *gradient = a.gradient.table + entry * a.width;
    COLUMN_SUMS(sums, gradient, first, a.width);
    ADD_ROWS(sums, k, 0, a.batch * members,
             member_of_entry(&a, (uint32_t)entry, (uint32_t)members, (uint32_t)k), first, a.width)
    KEEP_COLUMNS(sums, gradient, first, a.width);
  }
}
