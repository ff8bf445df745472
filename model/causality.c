/* Compares the last block's outputs, bit by bit, for sequences that differ only from some place on. */
#include "model/causality.h"

#include <stdlib.h>
#include <string.h>

/* The outputs of positions 0..first of the first sequence, when its tokens from `first` on are `later`. */
static enum sptx_code run(sptx_transformer *t, uint8_t *tokens, int64_t first, int later, void *outputs,
                          sptx_error *error) {
  const struct sptx_model_pass pass = {0};
  memset(tokens, 0, (size_t)t->rows);
  memset(tokens + first, later, (size_t)(t->config.length - first));
  SPTX_TRY(sptx_transformer_forward(t, tokens, &pass, error));
  return t->device->ops->copy_out(t->device, outputs, t->h[t->config.layers],
                                  (size_t)((first + 1) * t->config.width) * sptx_dtype_size(t->type), error);
}

/* Two neighbouring places: no block larger than one position ends at both. */
enum sptx_code sptx_check_causality(sptx_transformer *t, sptx_error *error) {
  int64_t middle = t->config.length / 2;
  size_t row = (size_t)t->config.width * sptx_dtype_size(t->type);
  uint8_t *tokens = malloc((size_t)t->rows);
  char *before = malloc((size_t)(middle + 2) * row), *after = malloc((size_t)(middle + 2) * row);
  enum sptx_code code = SPTX_CODE_OK;
  if (t->config.length < 3) /* nothing lies between the two places and the end */
    goto done;
  if (!tokens || !before || !after)
    code = sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory to check that the pattern is causal");
  if (code == SPTX_CODE_OK)
    code = run(t, tokens, middle + 1, 0, before, error);
  for (int64_t first = middle; first <= middle + 1 && code == SPTX_CODE_OK; first++) {
    code = run(t, tokens, first, 1, after, error);
    if (code == SPTX_CODE_OK && memcmp(before, after, (size_t)(first + 1) * row))
      code = sptx_fail(
          error, SPTX_CODE_INVALID_ARGUMENT,
          "%s: the pattern lets positions see later ones, which they are to predict; add `causal: true` "
          "to %s",
          sptx_config_place(&t->config, "pattern"), t->config.pattern);
  }
done:
  free(tokens);
  free(before);
  free(after);
  return code;
}
