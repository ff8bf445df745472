/* Thresholds to bounds.
 *
 * A clause says which keys a query has by thresholds on the key's position: constants, i + c, and
 * b * floor(i / b) + c. In a view each threshold becomes a bound on the inner key index. */
#include "patterns/bound.h"
#include "patterns/integer.h"

/* a(i) <= b(i) for every i. */
static bool never_above(sptx_threshold a, sptx_threshold b) {
  if (!a.block && !b.block)
    return a.add <= b.add;
  if (!a.block)
    return a.add + b.block - 1 <= b.add;
  if (!b.block)
    return a.add <= b.add;
  if (a.block % b.block == 0)
    return a.add <= b.add;
  return b.block % a.block == 0 && a.add + b.block - a.block <= b.add;
}

static bool narrow_upper(sptx_key_limits *limits, sptx_threshold t) {
  if (!limits->has_upper || never_above(t, limits->upper))
    limits->upper = t;
  else if (!never_above(limits->upper, t))
    return false;
  return limits->has_upper = true;
}

static bool narrow_lower(sptx_key_limits *limits, sptx_threshold t) {
  if (!limits->has_lower || never_above(limits->lower, t))
    limits->lower = t;
  else if (!never_above(t, limits->lower))
    return false;
  return limits->has_lower = true;
}

bool sptx_key_limits_find(const sptx_clause *clause, sptx_key_limits *limits) {
  *limits = (sptx_key_limits){0};
  int64_t size = clause->same_block;
  int64_t far_back = size ? size - 1 : clause->query_to - 1 - clause->key_from;
  int64_t far_ahead = size ? 1 - size : clause->query_from - clause->key_to + 1;
  if (clause->distance_from > far_ahead &&
      !narrow_upper(limits, (sptx_threshold){0, 1 - clause->distance_from}))
    return false;
  if (clause->distance_to <= far_back && !narrow_lower(limits, (sptx_threshold){0, 1 - clause->distance_to}))
    return false;
  for (int k = 0; k < clause->block_count; k++) {
    int64_t block = clause->blocks[k].size;
    if (clause->blocks[k].from > -SPTX_FAR &&
        !narrow_upper(limits, (sptx_threshold){block, block * (1 - clause->blocks[k].from)}))
      return false;
    if (clause->blocks[k].to < SPTX_FAR &&
        !narrow_lower(limits, (sptx_threshold){block, block * (1 - clause->blocks[k].to)}))
      return false;
  }
  return true;
}

sptx_bound sptx_bound_constant(int64_t value) {
  return (sptx_bound){0, 0, 1, 0, 0, value, value, value};
}

sptx_bound sptx_bound_line(int64_t mult, int64_t shift, int64_t period, int64_t add) {
  return (sptx_bound){mult, shift, period, 0, 0, add, 0, SPTX_FAR};
}

int64_t sptx_run_below(sptx_run run, int64_t t) {
  return run.count * floor_div(t, run.every) + clamp(floor_mod(t, run.every) - run.from, 0, run.count);
}

/* Whether the run lies inside one block of the given size; then *index is that block's. */
static bool run_in_block(sptx_run run, int64_t block, int64_t *index) {
  *index = run.from / block;
  return run.every % block == 0 && (run.from + run.count - 1) / block == *index;
}

/* Keys in a run, queries as they are (shifted by skip). */
static bool bound_keys_in_run(sptx_run run, int64_t skip, sptx_threshold t, sptx_bound *bound) {
  int64_t block = t.block, index;
  if (!block) {
    *bound = sptx_bound_line(run.count, t.add + skip, run.every, 0);
    bound->ramp_from = run.from;
    bound->ramp_max = run.count;
    return true;
  }
  if (block % run.every == 0) {
    *bound = sptx_bound_line(block / run.every * run.count, skip, block, t.add / run.every * run.count);
    return true;
  }
  if (!run_in_block(run, block, &index))
    return false;
  *bound = sptx_bound_line(run.count, skip + t.add + run.every - (index + 1) * block, run.every, 0);
  return true;
}

/* Queries in a run, keys as they are: i = from + every * floor(x / count) + x mod count. */
static bool bound_queries_in_run(sptx_run run, int64_t skip, sptx_threshold t, sptx_bound *bound) {
  int64_t block = t.block, index;
  if (!block) {
    *bound = sptx_bound_line(run.every, skip, run.count, run.from + t.add);
    bound->ramp_max = run.count;
    return true;
  }
  if (block % run.every == 0) {
    *bound = sptx_bound_line(block, skip, run.count * (block / run.every), t.add);
    return true;
  }
  if (!run_in_block(run, block, &index))
    return false;
  *bound = sptx_bound_line(run.every, skip, run.count, t.add + index * block);
  return true;
}

static bool bound_both_in_runs(sptx_run query, sptx_run key, int64_t skip, sptx_threshold t,
                               sptx_bound *bound) {
  int64_t every = query.every, block = t.block, query_index, key_index;
  if (key.every != every)
    return false;
  if (!block) {
    int64_t turns = floor_div(query.from + t.add, every), start = query.from + t.add - turns * every;
    if (start + query.count - 1 > every)
      return false;
    *bound = sptx_bound_line(key.count, skip, query.count, key.count * turns);
    bound->ramp_from = key.from - start;
    bound->ramp_max = key.count;
    return true;
  }
  if (block % every == 0) {
    int64_t turns = block / every;
    *bound = sptx_bound_line(key.count * turns, skip, query.count * turns, t.add / every * key.count);
    return true;
  }
  if (!run_in_block(query, block, &query_index) || !run_in_block(key, block, &key_index))
    return false;
  int64_t turns = floor_div(t.add + every + (query_index - key_index - 1) * block, every);
  *bound = sptx_bound_line(key.count, skip, query.count, key.count * turns);
  return true;
}

/* A step of one digit: keys key_base + step * y against queries query_base + step * (x + skip). */
static bool bound_on_digit(const sptx_frame *f, int64_t skip, sptx_threshold t, sptx_bound *bound) {
  int64_t step = f->step, block = t.block;
  if (!block) {
    *bound = sptx_bound_line(1, 0, 1, skip + ceil_div(f->query_shift - f->key_shift + t.add, step));
    return true;
  }
  if (block % step == 0) {
    *bound = sptx_bound_line(block / step, skip, block / step, t.add / step);
    return true;
  }
  if (step % block || f->query_shift != f->key_shift)
    return false;
  *bound = sptx_bound_line(1, 0, 1, skip + ceil_div(t.add, step));
  return true;
}

bool sptx_bound_make(const sptx_clause *clause, const sptx_frame *f, int64_t skip, sptx_threshold t,
                     sptx_bound *bound) {
  bool queries = sptx_run_restricts(clause->query_run), keys = sptx_run_restricts(clause->key_run);
  if (f->step == 1 && queries && keys)
    return bound_both_in_runs(clause->query_run, clause->key_run, skip, t, bound);
  if (f->step == 1 && queries)
    return bound_queries_in_run(clause->query_run, skip, t, bound);
  if (f->step == 1 && keys)
    return bound_keys_in_run(clause->key_run, skip, t, bound);
  return bound_on_digit(f, skip, t, bound);
}
