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
  int64_t blocks = (a.width + a.block_columns - 1) / a.block_columns;
  EACH_GROUP(index) {
    int64_t token = index / blocks, first = index % blocks * a.block_columns;
    float *gradient = token == 256 ? a.d_start : a.d_token_table + token * a.width;
    COLUMN_SUMS(sums, gradient, first, a.width);
    EACH_LOADED_MEMBER(entry, a.begin[token], a.begin[token + 1]) {
      const element *d_h = (const element *)a.d_h + (int64_t)a.rows_of[entry] * a.width;
      EACH_COLUMN_PACK(p, i, first, a.width)
      ADD_COLUMNS(sums, p, i, load_pack(d_h + i));
    }
    KEEP_COLUMNS(sums, gradient, first, a.width);
  }
}

/* Entry e is that of the positions (turn * size + e) * divisor + 0..divisor. */
KERNEL(embed_backward_positions) {
  const uint32_t divisor = (uint32_t)a.gradient.divisor, period = (uint32_t)(a.gradient.size * divisor),
                 length = (uint32_t)a.length, members = (length + period - 1) / period * divisor;
  int64_t blocks = (a.width + a.block_columns - 1) / a.block_columns;
  EACH_GROUP(index) {
    int64_t entry = index / blocks, first = index % blocks * a.block_columns;
    float *gradient = a.gradient.table + entry * a.width;
    COLUMN_SUMS(sums, gradient, first, a.width);
    EACH_LOADED_MEMBER(k, 0, a.batch * members) {
      uint32_t sequence = (uint32_t)k / members, member = (uint32_t)k % members;
      uint32_t position = member / divisor * period + (uint32_t)entry * divisor + member % divisor;
      const element *d_h = (const element *)a.d_h + (sequence * a.length + position) * a.width;
      if (position < length)
        EACH_COLUMN_PACK(p, i, first, a.width)
      ADD_COLUMNS(sums, p, i, load_pack(d_h + i));
    }
    KEEP_COLUMNS(sums, gradient, first, a.width);
  }
}
