/* Lowering: one class of an instance becomes disjoint pieces. The set becomes a union of clauses; each clause
 * loses what the earlier ones hold; each becomes band pieces, and the rest one generic piece. */
#include "patterns/clause.h"
#include "patterns/integer.h"

#include <stdio.h>
#include <stdlib.h>

/* Clauses come in the order in which differences stay closed: taking a band or a block from a stride or from
 * columns moves a bound, the other way round it needs a predicate. Opaque ones come last, query rows before
 * them, because only the others cover every query. */
static int rank_of(const sptx_lowering *lowering, const sptx_clause *clause) {
  if (clause->literal_count)
    return 6;
  if (clause->query_from > lowering->first || clause->query_to < lowering->n ||
      clause->query_run.count < clause->query_run.every)
    return 5;
  if (clause->digit_count)
    return 4;
  if (clause->modulus > 1)
    return 3;
  if (clause->key_from > 0 || clause->key_to < lowering->n)
    return 2;
  if (clause->key_run.count < clause->key_run.every)
    return 2;
  return clause->same_block ? 1 : 0;
}

static void sort_clauses(const sptx_lowering *lowering, sptx_clause_list *list) {
  for (int k = 1; k < list->count; k++) {
    sptx_clause moving = list->clauses[k];
    int at = k;
    for (; at > 0 && rank_of(lowering, &list->clauses[at - 1]) > rank_of(lowering, &moving); at--)
      list->clauses[at] = list->clauses[at - 1];
    list->clauses[at] = moving;
  }
}

/* More parts than this, and the parts become generic together: see recognise.c. */
enum { MOST_PARTS = 64 };

/* out = the union of `clauses`, disjoint. */
static void make_disjoint(sptx_lowering *lowering, const sptx_clause_list *clauses, sptx_clause_list *out) {
  for (int c = 0; c < clauses->count; c++) {
    sptx_clause_list parts = {0};
    sptx_clause_push(lowering, &parts, &clauses->clauses[c]);
    for (int e = 0; e < c && parts.count <= MOST_PARTS; e++) {
      sptx_clause_list next = {0};
      for (int p = 0; p < parts.count; p++)
        sptx_clause_subtract(lowering, &parts.clauses[p], &clauses->clauses[e], &next);
      sptx_clause_list_clear(&parts);
      parts = next;
    }
    for (int p = 0; p < parts.count; p++)
      sptx_clause_push(lowering, out, &parts.clauses[p]);
    sptx_clause_list_clear(&parts);
    if (out->count > MOST_PARTS)
      return;
  }
}

static bool too_hard(const sptx_clause_list *list) {
  bool hard = list->count > MOST_PARTS;
  for (int k = 0; k < list->count; k++)
    hard |= list->clauses[k].overflowed;
  return hard;
}

static void push_generic(sptx_lowering *lowering, const sptx_clause_list *rest, const char *why,
                         sptx_piece_list *list) {
  if (rest->count == 0 || lowering->code != SPTX_CODE_OK)
    return;
  sptx_piece *pieces = realloc(list->pieces, (size_t)(list->count + 1) * sizeof *pieces);
  if (!pieces) {
    lowering->code = sptx_fail(lowering->error, SPTX_CODE_OUT_OF_MEMORY, "no memory for a piece");
    return;
  }
  list->pieces = pieces;
  sptx_piece *piece = &list->pieces[list->count++];
  lowering->code = sptx_clauses_to_tiles(lowering, rest, piece);
  snprintf(piece->why, sizeof piece->why, "%s", why);
  if (piece->pairs == 0 && lowering->code == SPTX_CODE_OK)
    sptx_piece_clear(&list->pieces[--list->count]);
}

static const char *why_generic(const sptx_clause *clause) {
  for (int k = 0; k < clause->literal_count; k++)
    switch (clause->literals[k].set->kind) {
    case SPTX_SET_RANDOM:
      return "random: no formula gives the keys of a query";
    case SPTX_SET_LAYOUT:
      return "layout: the blocks are listed, no formula gives them";
    case SPTX_SET_WHERE:
      return "where: the expression is not affine, modular or banded";
    default:
      break;
    }
  return "the constraints cross: no single band in any view";
}

static void lower_set(sptx_lowering *lowering, const sptx_set *set, bool causal, sptx_piece_list *list) {
  sptx_clause_list clauses = {0}, parts = {0}, rest = {0};
  const char *why = "";
  sptx_recognise(lowering, set, false, &clauses);
  for (int k = 0; causal && k < clauses.count; k++)
    sptx_clause_distance(&clauses.clauses[k], 0, SPTX_FAR), sptx_clause_simplify(&clauses.clauses[k]);
  int kept = 0;
  for (int k = 0; k < clauses.count; k++)
    if (!clauses.clauses[k].empty)
      clauses.clauses[kept++] = clauses.clauses[k];
  clauses.count = kept;
  sort_clauses(lowering, &clauses);
  make_disjoint(lowering, &clauses, &parts);
  if (too_hard(&parts)) {
    sptx_clause whole = sptx_clause_all(lowering);
    sptx_clause_literal(&whole, set, false);
    if (causal)
      sptx_clause_distance(&whole, 0, SPTX_FAR);
    sptx_clause_simplify(&whole);
    parts.count = 0;
    sptx_clause_push(lowering, &parts, &whole);
  }
  for (int k = 0; k < parts.count && lowering->code == SPTX_CODE_OK; k++)
    if (!sptx_clause_to_bands(lowering, &parts.clauses[k], list) && lowering->code == SPTX_CODE_OK) {
      why = why_generic(&parts.clauses[k]);
      sptx_clause_push(lowering, &rest, &parts.clauses[k]);
    }
  push_generic(lowering, &rest, why, list);
  sptx_clause_list_clear(&clauses);
  sptx_clause_list_clear(&parts);
  sptx_clause_list_clear(&rest);
}

/* A piece that covers every query starts the list: its kernel writes the output that others merge into. */
static void covering_first(const sptx_instance *instance, sptx_piece_list *list) {
  for (int p = 0; p < list->count; p++)
    if (sptx_piece_covers_queries(&list->pieces[p], instance->n_q, instance->n_k)) {
      sptx_piece first = list->pieces[p];
      for (; p > 0; p--)
        list->pieces[p] = list->pieces[p - 1];
      list->pieces[0] = first;
      return;
    }
}

enum sptx_code sptx_lower(const sptx_instance *instance, int class_index, sptx_piece_list *list,
                          sptx_error *error) {
  *list = (sptx_piece_list){0};
  if (class_index < 0 || class_index >= instance->class_count || instance->n_q <= 0 ||
      instance->n_k < instance->n_q)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "class %d of %d, %lld queries, %lld keys: nothing to lower", class_index,
                     instance->class_count, (long long)instance->n_q, (long long)instance->n_k);
  sptx_lowering lowering = {.first = instance->n_k - instance->n_q, .n = instance->n_k, .error = error};
  lower_set(&lowering, instance->classes[class_index], instance->causal, list);
  for (int k = 0; k < lowering.made_count; k++)
    sptx_set_free(lowering.made[k]);
  free(lowering.made);
  if (lowering.code != SPTX_CODE_OK) {
    sptx_piece_list_clear(list);
    return lowering.code;
  }
  covering_first(instance, list);
  return SPTX_CODE_OK;
}
