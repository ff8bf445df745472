/* A model may not see what it predicts: a check that a pattern is causal, made on the model itself. */
#ifndef SPTX_MODEL_CAUSALITY_H
#define SPTX_MODEL_CAUSALITY_H

#include "model/transformer.h"

/* Changes tokens from the middle of a sequence on and looks whether any output before changes: three forward
 * passes of a training model, before its first step. Fails: SPTX_CODE_INVALID_ARGUMENT (one did; the sentence
 * names where the pattern was set), and as the forward pass does. */
enum sptx_code sptx_check_causality(sptx_transformer *transformer, sptx_error *error);

#endif
