/* Host memory, misaligned pointers, wrong ordinals and too little memory; see bad_input.h. */
#include "tests/gpu/bad_input.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char pattern_text[] =
    "sptx: 1\nname: two-pieces\ncausal: true\n"
    "attend: {any: [{window: {left: 64}}, {columns: {every: 256, last: 8}}]}\n";

enum { N = 256, DIM = 64, BYTES = N * DIM * 2 };

static int expect(const char *what, sptx_status status, sptx_status wanted, const char *sentence,
                  const char *part) {
  if (status == wanted && strstr(sentence, part))
    return 0;
  printf("failed: %s: status %d (%s), not %d with '%s': %s\n", what, status, sptx_status_name(status), wanted,
         part, sentence);
  return 1;
}

static sptx_attention *create(const gpu_session *session, const sptx_pattern *pattern, int64_t heads,
                              int64_t n) {
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  sptx_attention *attention;
  desc.flags = SPTX_WITH_BACKWARD | SPTX_NONDETERMINISTIC;
  desc.dtype = SPTX_BF16;
  desc.heads = heads;
  desc.n_q = desc.n_k = n;
  desc.head_dim = DIM;
  sptx_status status = sptx_attention_create(session->context, pattern, &desc, &attention);
  if (status != SPTX_OK)
    printf("failed: bad input: cannot create an attention: %s\n", sptx_last_error(session->context));
  return attention;
}

static int check_pointers(const gpu_session *session, const sptx_attention *attention, char *device) {
  static char host[BYTES] __attribute__((aligned(64)));
  const sptx_context *context = session->context;
  void *stream = session->stream;
  int wrong = 0;
  sptx_status status = sptx_attention_forward(attention, host, device, device, device, NULL, stream);
  wrong += expect("host memory", status, SPTX_INVALID_ARGUMENT, sptx_last_error(context),
                  "q is not device memory");
  status = sptx_attention_forward(attention, device, device + 2, device, device, NULL, stream);
  wrong += expect("a misaligned pointer", status, SPTX_INVALID_ARGUMENT, sptx_last_error(context),
                  "k is not aligned to 16 bytes");
  status = sptx_attention_forward(attention, device, device, NULL, device, NULL, stream);
  wrong += expect("NULL", status, SPTX_INVALID_ARGUMENT, sptx_last_error(context), "v is NULL");
  status = sptx_attention_forward(attention, device, device, device, device + BYTES, NULL, stream);
  wrong += expect("a good call after bad ones", status, SPTX_OK, "", "");
  return wrong;
}

/* Scratch of 2^38 bytes, where dQ of two pieces adds up in float32: no GPU has them, so that no kernel sees
 * these pointers. */
static int check_memory(const gpu_session *session, const sptx_pattern *pattern, void *device) {
  sptx_attention *huge = create(session, pattern, 1024, 1 << 20);
  if (!huge)
    return 1;
  sptx_status status = sptx_attention_backward(huge, device, device, device, device, device, device, device,
                                               device, device, session->stream);
  int wrong = expect("too little memory", status, SPTX_DEVICE_MEMORY, sptx_last_error(session->context),
                     "use a smaller shape");
  sptx_attention_destroy(huge);
  return wrong;
}

static int check_ordinals(void) {
  sptx_context *context;
  sptx_status status = sptx_context_create(&context, "cuda:999");
  return expect("a wrong ordinal", status, SPTX_NO_DEVICE, sptx_last_error(NULL), "no device cuda:999");
}

int check_bad_input(gpu_session *session) {
  sptx_error error = {0};
  sptx_pattern *pattern = NULL;
  sptx_cu_pointer memory = 0;
  int wrong = check_ordinals();
  if (sptx_pattern_from_text(session->context, pattern_text, strlen(pattern_text), "local", NULL, 0,
                             &pattern) != SPTX_OK ||
      sptx_cuda_alloc(&session->device, 2 * BYTES, &memory, &error) != SPTX_CODE_OK) {
    printf("failed: bad input: %s%s\n", sptx_last_error(session->context), error.message);
    sptx_pattern_destroy(pattern);
    return wrong + 1;
  }
  char *device = (char *)(uintptr_t)memory;
  sptx_attention *attention = create(session, pattern, 1, N);
  wrong +=
      attention ? check_memory(session, pattern, device) + check_pointers(session, attention, device) : 1;
  if (sptx_cuda_stream_synchronize(&session->device, session->stream, &error) != SPTX_CODE_OK) {
    printf("failed: bad input: %s\n", error.message);
    wrong++;
  }
  sptx_attention_destroy(attention);
  sptx_cuda_free(&session->device, memory);
  sptx_pattern_destroy(pattern);
  return wrong;
}
