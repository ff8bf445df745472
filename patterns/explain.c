/* Gathers the facts of an explanation: steps lowered, counted, and followed from layer to layer. */
#include "patterns/explanation.h"
#include "patterns/integer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for an explanation");
}

/* How many consecutive inner indices stand side by side. */
static int64_t contiguous(const sptx_view *view) {
  int64_t run = 1;
  for (int k = view->inner_count - 1; k >= 0 && view->inner_stride[k] == run; k--)
    run *= view->inner_size[k];
  return run;
}

static int64_t metadata_bytes(const sptx_piece *piece) {
  const sptx_tile_list *tiles = &piece->tiles;
  size_t bytes = sizeof *piece;
  if (piece->predicate)
    bytes += sptx_set_bytes(piece->predicate);
  if (piece->kind == SPTX_PIECE_TILES)
    bytes += (size_t)(tiles->query_tiles + 1) * sizeof *tiles->row_start +
             (size_t)tiles->tile_count * (sizeof *tiles->key_tile + sizeof *tiles->mask) +
             (size_t)tiles->mask_count * SPTX_GENERIC_TILE * sizeof *tiles->masks;
  return (int64_t)bytes;
}

static enum sptx_code gather_class(sptx_explanation *e, const sptx_piece_list *list, sptx_class_facts *facts,
                                   sptx_error *error) {
  const sptx_explain_request *r = &e->request;
  facts->pieces = calloc((size_t)list->count + 1, sizeof *facts->pieces);
  if (!facts->pieces)
    return no_memory(error);
  for (int p = 0; p < list->count; p++) {
    const sptx_piece *piece = &list->pieces[p];
    sptx_piece_facts *one = &facts->pieces[p];
    SPTX_TRY(sptx_piece_count_tiles(piece, r->n_q, r->n_k, r->query_tile, r->key_tile, &one->tiles, error));
    one->contiguous_keys = min64(contiguous(&piece->key), r->key_tile);
    one->bytes = metadata_bytes(piece);
    facts->pairs += piece->pairs;
    e->metadata_bytes += one->bytes;
  }
  return sptx_piece_list_empty_rows(list, r->n_q, r->n_k, &facts->empty_rows, error);
}

static enum sptx_code gather_step(sptx_explanation *e, size_t index, sptx_step_facts *facts,
                                  sptx_error *error) {
  const sptx_explain_request *r = &e->request;
  const sptx_selection selection = {r->n_q, r->n_k, r->heads, r->step};
  SPTX_TRY(sptx_step_lower(e->pattern, index, &selection, &facts->step, error));
  const sptx_instance *instance = &facts->step.instance;
  e->causal = instance->causal;
  facts->classes = calloc((size_t)instance->class_count, sizeof *facts->classes);
  if (!facts->classes)
    return no_memory(error);
  for (int k = 0; k < instance->class_count; k++)
    SPTX_TRY(gather_class(e, &facts->step.classes[k], &facts->classes[k], error));
  for (int64_t head = 0; head < r->heads; head++) {
    e->pairs += facts->classes[instance->class_of_head[head]].pairs;
    e->empty_rows += facts->classes[instance->class_of_head[head]].empty_rows;
  }
  return SPTX_CODE_OK;
}

/* The layers' order over the selected steps. */
static enum sptx_code make_order(const sptx_explanation *e, size_t **order, size_t *count,
                                 sptx_error *error) {
  *count = e->request.step ? 1 : sptx_pattern_layer_period(e->pattern);
  *order = calloc(*count, sizeof **order);
  if (!*order)
    return no_memory(error);
  for (size_t k = 0; k < *count && !e->request.step; k++)
    (*order)[k] = sptx_pattern_layer_step(e->pattern, (int64_t)k);
  return SPTX_CODE_OK;
}

/* Layers pass information between positions of the whole sequence: queries are as many as keys. */
static enum sptx_code gather_reach(sptx_explanation *e, size_t first, sptx_error *error) {
  const sptx_explain_request *r = &e->request;
  const sptx_selection whole = {r->n_k, r->n_k, r->heads, r->step};
  bool lowered = r->n_q == r->n_k;
  sptx_step *steps = calloc(e->step_count, sizeof *steps);
  size_t *order = NULL, order_count = 0;
  enum sptx_code code = steps ? make_order(e, &order, &order_count, error) : no_memory(error);
  for (size_t k = 0; k < e->step_count && code == SPTX_CODE_OK; k++)
    if (lowered)
      steps[k] = e->steps[k].step; /* borrowed */
    else
      code = sptx_step_lower(e->pattern, first + k, &whole, &steps[k], error);
  if (code == SPTX_CODE_OK)
    code = sptx_reach_find(steps, order, order_count, SPTX_REACH_EXACT, &e->reach, error);
  for (size_t k = 0; k < e->step_count && steps && !lowered; k++)
    sptx_step_clear(&steps[k]);
  free(steps);
  free(order);
  return code;
}

static enum sptx_code gather(sptx_explanation *e, sptx_error *error) {
  size_t first;
  sptx_explain_request *r = &e->request;
  r->query_tile = r->query_tile ? r->query_tile : SPTX_GENERIC_TILE;
  r->key_tile = r->key_tile ? r->key_tile : SPTX_GENERIC_TILE;
  r->row_bytes = r->row_bytes ? r->row_bytes : 256;
  SPTX_TRY(sptx_step_select(e->pattern, r->step, &first, &e->step_count, error));
  e->steps = calloc(e->step_count, sizeof *e->steps);
  if (!e->steps)
    return no_memory(error);
  for (size_t k = 0; k < e->step_count; k++)
    SPTX_TRY(gather_step(e, first + k, &e->steps[k], error));
  double n_q = (double)r->n_q, n_k = (double)r->n_k;
  e->dense_pairs = e->causal ? n_q * (n_k - n_q) + n_q * (n_q + 1) / 2 : n_q * n_k;
  return gather_reach(e, first, error);
}

const char *sptx_explanation_reach_note(const sptx_explanation *e) {
  if (e->reach.known)
    return "";
  return e->request.n_k > SPTX_REACH_MOST ? "not searched: n is too large"
                                          : "given up: the search takes too long";
}

static void clear(sptx_explanation *e) {
  for (size_t k = 0; e->steps && k < e->step_count; k++) {
    for (int c = 0; e->steps[k].classes && c < e->steps[k].step.instance.class_count; c++)
      free(e->steps[k].classes[c].pieces);
    free(e->steps[k].classes);
    sptx_step_clear(&e->steps[k].step);
  }
  free(e->steps);
}

enum sptx_code sptx_explain(const sptx_pattern *pattern, const sptx_explain_request *request, FILE *stream,
                            sptx_error *error) {
  sptx_explanation e = {.pattern = pattern, .request = *request};
  enum sptx_code code = gather(&e, error);
  if (code == SPTX_CODE_OK && request->json)
    code = sptx_explanation_write_json(&e, stream, error);
  else if (code == SPTX_CODE_OK)
    sptx_explanation_write_text(&e, stream);
  if (code == SPTX_CODE_OK && ferror(stream))
    code = sptx_fail(error, SPTX_CODE_IO, "the explanation cannot be written: %s", strerror(errno));
  clear(&e);
  return code;
}
