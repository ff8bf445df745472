/* The planner's state, shared by the files that plan forward and backward. Private to gen/x86. */
#ifndef SPTX_GEN_X86_PLANNER_H
#define SPTX_GEN_X86_PLANNER_H

#include "gen/x86/kernel.h"

typedef struct sptx_planner {
  sptx_x86_plan_data *data;
  sptx_x86_schedule schedule; /* as the caller gave it, zeros and all */
  int64_t cover_n_q;          /* queries that a piece must hold to count as covering */
  /* backward */
  int64_t partials;          /* the most dQ of their own that ranges of keys of any piece need */
  sptx_x86_params gradients; /* where the accumulators lie */
  sptx_x86_schedule *filled; /* of every class's pieces, in order, without zeros */
  int64_t filled_count, next;
} sptx_planner;

typedef enum sptx_code sptx_plan_class(sptx_planner *planner, const sptx_piece_list *list,
                                       const int64_t *heads, int64_t head_count, sptx_error *error);
/* Calls plan for each class that has heads, with their numbers, ascending. */
enum sptx_code sptx_planner_for_each_class(sptx_planner *planner, const sptx_piece_list *lists,
                                           const int *class_of_head, sptx_plan_class *plan,
                                           sptx_error *error);
enum sptx_code sptx_planner_backward(sptx_planner *planner, const sptx_piece_list *lists,
                                     const int *class_of_head, sptx_error *error);
/* Query tiles of the longest shared value, and the pairs that all tiles compute, of one head. */
void sptx_planner_count_tiles(const sptx_problem *problem, const sptx_piece *piece, int query_tile,
                              int64_t *tiles, int64_t *computed);

/* What every block holds: sizes, strides, and when piece is not NULL its views and bounds. */
void sptx_planner_params(const sptx_problem *problem, const sptx_piece *piece, sptx_x86_params *params);
/* The cheapest register block of whole vectors that divides a query tile; false where none does. */
bool sptx_x86_best_block(int lanes, int query_tile, int *rows, int *vectors);
/* Fills the zeros among tiles and register block with what the cost model expects most of; leaves the
 * schedule as it is where nothing fits. */
void sptx_x86_best_tiles(sptx_x86_schedule *schedule, const sptx_problem *problem, enum sptx_pass pass,
                         const sptx_piece *piece);
/* Replaces the choice of what is copied by the schedule's, where it has one. */
void sptx_planner_copies(const sptx_x86_schedule *schedule, sptx_x86_params *params);
/* The ranges of keys that the backward splits a piece into, for a class of heads. */
int64_t sptx_planner_ranges(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                            const sptx_piece *piece, int64_t kv_heads);
/* How many dQ so many ranges of keys need, range r the one numbered r modulo that: as many as a query tile
 * may see. The schedule has no zeros in its tiles. */
int64_t sptx_planner_partials(const sptx_x86_schedule *schedule, const sptx_problem *problem,
                              const sptx_piece *piece, int64_t ranges);
/* Whether rows of a view lie so far apart that they fall into few sets of the first-level cache. */
bool sptx_planner_lies_badly(const sptx_view *view, int64_t row_bytes);
/* Appends a launch of batch * units * shared_total * tiles * chunks items. piece and its lists may be NULL.
 */
enum sptx_code sptx_planner_add(sptx_planner *planner, enum sptx_x86_family family, const sptx_piece *piece,
                                const sptx_x86_schedule *schedule, const sptx_x86_params *params,
                                const int64_t *heads, int64_t head_count, int64_t unit_heads,
                                sptx_error *error);
/* Neighbouring query tiles that the forward puts into one item: computed counts the pairs of one head. */
int64_t sptx_planner_group(const sptx_problem *problem, int64_t tiles, int64_t shared_total, double computed,
                           int64_t heads);
/* How many keys the queries first..last of a band have together, of those below key_end. */
int64_t sptx_planner_band_keys(const sptx_piece *piece, int64_t first, int64_t last, int64_t key_end);

#endif
