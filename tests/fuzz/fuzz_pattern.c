/* libFuzzer target of the pattern language: bytes are parsed, resolved and, for small n, lowered; pieces are
 * compared with the oracle at a few pairs. Nothing may crash, leak, overflow or disagree. */
#include "patterns/piece.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

enum { N_Q = 40, N_K = 70, HEADS = 3, MOST_STEPS = 4 };

/* A failing `where` fails in lowering and in the oracle alike, but perhaps for another pair first. */
static void compare(const sptx_instance *instance, int class_index, int64_t head) {
  sptx_piece_list list;
  sptx_error error;
  if (sptx_lower(instance, class_index, &list, &error) != SPTX_CODE_OK)
    return;
  for (int64_t i = 0; i < N_Q; i += 3)
    for (int64_t j = 0; j < N_K; j += 2) {
      bool expected;
      int held = 0;
      if (sptx_instance_contains(instance, head, i, j, &expected, &error) != SPTX_CODE_OK)
        continue;
      for (int p = 0; p < list.count; p++)
        held += sptx_piece_contains(&list.pieces[p], N_Q, N_K, i, j);
      if (held != expected)
        abort();
    }
  sptx_piece_list_clear(&list);
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  sptx_pattern *pattern;
  sptx_error error;
  if (sptx_pattern_parse((const char *)bytes, size, "fuzz.yaml", NULL, 0, &pattern, &error) != SPTX_CODE_OK)
    return 0;
  for (size_t step = 0; step < sptx_pattern_step_count(pattern) && step < MOST_STEPS; step++) {
    sptx_instance instance;
    if (sptx_pattern_resolve(pattern, step, HEADS, N_Q, N_K, &instance, &error) != SPTX_CODE_OK)
      continue;
    for (int64_t head = 0; head < HEADS; head++)
      compare(&instance, instance.class_of_head[head], head);
    sptx_instance_clear(&instance);
  }
  sptx_pattern_release(pattern);
  return 0;
}
