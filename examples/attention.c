/* One sparse attention through libsptx: loads a pattern file, runs it on made-up tensors, prints a row.
 *   cc attention.c $(pkg-config --cflags --libs sptx) -o attention && ./attention strided.yaml */
#include <math.h>
#include <sptx.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  enum { HEADS = 4, N = 1024, DIM = 64, COUNT = HEADS * N * DIM };
  sptx_context *context = NULL;
  sptx_pattern *pattern = NULL;
  sptx_attention *attention = NULL;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.heads = HEADS;
  desc.n_q = desc.n_k = N;
  desc.head_dim = DIM;

  float *q = malloc(4 * COUNT * sizeof *q), *k = q + COUNT, *v = k + COUNT, *o = v + COUNT;
  for (int i = 0; q && i < 3 * COUNT; i++)
    q[i] = sinf((float)i);

  sptx_status status = q && argc == 2 ? sptx_context_create(&context, "cpu") : SPTX_INVALID_ARGUMENT;
  if (status == SPTX_OK)
    status = sptx_pattern_load(context, argv[1], NULL, 0, &pattern);
  if (status == SPTX_OK)
    status = sptx_attention_create(context, pattern, &desc, &attention);
  if (status == SPTX_OK)
    status = sptx_attention_forward(attention, q, k, v, o, NULL, NULL);
  if (status == SPTX_OK)
    printf("o[0][%d] = %g %g %g ...\n", N - 1, (double)o[(N - 1) * DIM], (double)o[(N - 1) * DIM + 1],
           (double)o[(N - 1) * DIM + 2]);
  else
    fprintf(stderr, "attention: %s: %s\n", sptx_status_name(status), sptx_last_error(context));
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  free(q);
  return status != SPTX_OK;
}
