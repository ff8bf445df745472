/* What a trained model attends to: the probabilities that the kernels never keep, made again for one query.
 */
#ifndef SPTX_MODEL_ATTENTION_WEIGHTS_H
#define SPTX_MODEL_ATTENTION_WEIGHTS_H

#include "model/transformer.h"

/* weights (length) on the host: softmax of scale * q k^T over the keys that the pattern gives to `position`
 * (in float64, keys by the pattern's oracle), 0 elsewhere. The transformer evaluates one sequence in float32;
 * tokens (length). Fails: SPTX_CODE_INVALID_ARGUMENT (no such layer, head or position), and as the model and
 * the pattern do. */
enum sptx_code sptx_attention_weights(sptx_transformer *transformer, const uint8_t *tokens, int64_t layer,
                                      int64_t head, int64_t position, double *weights, sptx_error *error);

#endif
