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
  EACH_ROW(token) {
    float *gradient = token == 256 ? a.d_start : a.d_token_table + token * a.width;
    EACH_COLUMN_BLOCK(first, a.width) {
      COLUMN_SUMS(sums, gradient, a.width);
      for (int64_t entry = a.begin[token]; entry < a.begin[token + 1]; entry++) {
        const element *d_h = (const element *)a.d_h + (int64_t)a.rows_of[entry] * a.width;
        EACH_COLUMN_PACK(p, i, first, a.width)
        ADD_COLUMNS(sums, p, i, load_pack(d_h + i));
      }
      KEEP_COLUMNS(sums, gradient, first, a.width);
    }
  }
}

KERNEL(embed_backward_positions) {
  int64_t size = a.gradient.size, divisor = a.gradient.divisor;
  EACH_ROW(entry) {
    float *gradient = a.gradient.table + entry * a.width;
    EACH_COLUMN_BLOCK(first, a.width) {
      COLUMN_SUMS(sums, gradient, a.width);
      for (int64_t sequence = 0; sequence < a.batch; sequence++)
        for (int64_t outer = entry * divisor; outer < a.length; outer += size * divisor)
          for (int64_t position = outer; position < outer + divisor && position < a.length; position++) {
            const element *d_h = (const element *)a.d_h + (sequence * a.length + position) * a.width;
            EACH_COLUMN_PACK(p, i, first, a.width)
            ADD_COLUMNS(sums, p, i, load_pack(d_h + i));
          }
      KEEP_COLUMNS(sums, gradient, first, a.width);
    }
  }
}
