/* An explanation as one JSON object; explain.h documents its keys. */
#include "patterns/explanation.h"
#include "patterns/print.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Whether all that was asked of cJSON so far worked: it fails only when memory is short. */
typedef struct writer {
  const sptx_explanation *e;
  bool ok;
} writer;

static void add(writer *w, cJSON *object, const char *key, cJSON *value) {
  if (object && value && cJSON_AddItemToObject(object, key, value))
    return;
  cJSON_Delete(value);
  w->ok = false;
}

static void append(writer *w, cJSON *array, cJSON *value) {
  if (array && value && cJSON_AddItemToArray(array, value))
    return;
  cJSON_Delete(value);
  w->ok = false;
}

/* As digits: cJSON keeps numbers as doubles, which end at 2^53. */
static cJSON *integer(int64_t value) {
  char text[24];
  snprintf(text, sizeof text, "%" PRId64, value);
  return cJSON_CreateRaw(text);
}

static cJSON *text_or_null(const char *text) {
  return text && *text ? cJSON_CreateString(text) : cJSON_CreateNull();
}

/* What a printing function writes, as a string. */
typedef struct text {
  char *buffer;
  size_t size;
  FILE *stream;
} text;

static bool open_text(writer *w, text *t) {
  *t = (text){0};
  t->stream = open_memstream(&t->buffer, &t->size);
  w->ok = w->ok && t->stream;
  return t->stream;
}

static void add_text(writer *w, cJSON *object, const char *key, text *t) {
  bool written = !ferror(t->stream);
  written = fclose(t->stream) == 0 && written;
  add(w, object, key, written ? cJSON_CreateString(t->buffer) : NULL);
  free(t->buffer);
}

static void add_view(writer *w, cJSON *object, const char *key, const sptx_view *view, char position) {
  text t;
  if (!open_text(w, &t))
    return;
  sptx_view_print(view, position, t.stream);
  add_text(w, object, key, &t);
}

static void add_band(writer *w, cJSON *object, const sptx_piece *piece) {
  text t;
  if (piece->kind != SPTX_PIECE_BAND) {
    add(w, object, "band", cJSON_CreateNull());
  } else if (open_text(w, &t)) {
    sptx_bound_print(&piece->lo, t.stream);
    fputs(" <= y < ", t.stream);
    sptx_bound_print(&piece->hi, t.stream);
    add_text(w, object, "band", &t);
  }
  if (!piece->predicate) {
    add(w, object, "predicate", cJSON_CreateNull());
  } else if (open_text(w, &t)) {
    sptx_set_print_line(piece->predicate, t.stream);
    add_text(w, object, "predicate", &t);
  }
}

static cJSON *piece_object(writer *w, const sptx_piece *piece, const sptx_piece_facts *facts) {
  cJSON *object = cJSON_CreateObject();
  add(w, object, "name", cJSON_CreateString(piece->name));
  add(w, object, "kind", cJSON_CreateString(piece->kind == SPTX_PIECE_BAND ? "band" : "generic"));
  add_view(w, object, "query_view", &piece->query, 'i');
  add_view(w, object, "key_view", &piece->key, 'j');
  add_band(w, object, piece);
  add(w, object, "pairs", integer(piece->pairs));
  add(w, object, "computed_pairs", integer(facts->tiles.computed_pairs));
  add(w, object, "useful", cJSON_CreateNumber(sptx_piece_useful(piece, facts)));
  add(w, object, "tiles_full", integer(facts->tiles.full));
  add(w, object, "tiles_partial", integer(facts->tiles.partial));
  add(w, object, "contiguous_keys", integer(facts->contiguous_keys));
  add(w, object, "contiguous_bytes", integer(facts->contiguous_keys * w->e->request.row_bytes));
  add(w, object, "bytes", integer(facts->bytes));
  add(w, object, "why", cJSON_CreateString(piece->why));
  return object;
}

static cJSON *head_object(writer *w, const sptx_step_facts *step, int64_t head) {
  int class_index = step->step.instance.class_of_head[head];
  const sptx_class_facts *facts = &step->classes[class_index];
  const sptx_piece_list *list = &step->step.classes[class_index];
  cJSON *object = cJSON_CreateObject(), *pieces = cJSON_CreateArray();
  add(w, object, "step", text_or_null(step->step.name));
  add(w, object, "head", integer(head));
  add(w, object, "pairs", integer(facts->pairs));
  add(w, object, "density", cJSON_CreateNumber(sptx_explanation_density(w->e, facts->pairs)));
  add(w, object, "share", cJSON_CreateNumber((double)facts->pairs / w->e->dense_pairs));
  add(w, object, "empty_rows", integer(facts->empty_rows));
  for (int p = 0; p < list->count && w->ok; p++)
    append(w, pieces, piece_object(w, &list->pieces[p], &facts->pieces[p]));
  add(w, object, "pieces", pieces);
  return object;
}

static void add_reach(writer *w, cJSON *root) {
  const sptx_reach *reach = &w->e->reach;
  bool found = reach->known && reach->layers > 0;
  add(w, root, "steps_to_full", found ? integer(reach->layers) : cJSON_CreateNull());
  add(w, root, "steps_to_full_sampled", cJSON_CreateBool(reach->sampled));
  add(w, root, "steps_to_full_sources", integer(reach->sampled ? reach->sources : w->e->request.n_k));
  add(w, root, "steps_to_full_note", cJSON_CreateString(sptx_explanation_reach_note(w->e)));
}

static cJSON *root_object(writer *w) {
  const sptx_explanation *e = w->e;
  const sptx_explain_request *r = &e->request;
  cJSON *root = cJSON_CreateObject(), *tile = cJSON_CreateArray(), *heads = cJSON_CreateArray();
  add(w, root, "name", cJSON_CreateString(sptx_pattern_name(e->pattern)));
  add(w, root, "about", cJSON_CreateString(sptx_pattern_about(e->pattern)));
  add(w, root, "n", integer(r->n_k));
  add(w, root, "n_q", integer(r->n_q));
  add(w, root, "causal", cJSON_CreateBool(e->causal));
  add(w, root, "step", text_or_null(r->step));
  append(w, tile, integer(r->query_tile));
  append(w, tile, integer(r->key_tile));
  add(w, root, "tile", tile);
  for (size_t k = 0; k < e->step_count; k++)
    for (int64_t head = 0; head < r->heads && w->ok; head++)
      append(w, heads, head_object(w, &e->steps[k], head));
  add(w, root, "heads", heads);
  add(w, root, "pairs", integer(e->pairs));
  add(w, root, "empty_rows", integer(e->empty_rows));
  add(w, root, "metadata_bytes", integer(e->metadata_bytes));
  add_reach(w, root);
  return root;
}

enum sptx_code sptx_explanation_write_json(const sptx_explanation *e, FILE *stream, sptx_error *error) {
  writer w = {e, true};
  cJSON *root = root_object(&w);
  char *rendered = w.ok ? cJSON_Print(root) : NULL;
  cJSON_Delete(root);
  if (!rendered)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a JSON object");
  fputs(rendered, stream);
  fputc('\n', stream);
  cJSON_free(rendered);
  return SPTX_CODE_OK;
}
