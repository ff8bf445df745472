/* Where an artefact came from, as lines of text: versions, command line, the pattern and its hash, the shape,
 * the schedule, the launches, and what the pass costs in operations and bytes. */
#include "gen/emission/emission.h"

#include "gen/problem.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Equal for patterns that mean the same for this shape: of the resolved sets, and which head has which. */
static bool hash_pattern(const sptx_compilation *compilation, uint64_t *hash) {
  const sptx_instance *instance = &compilation->instance;
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  if (!stream)
    return false;
  fprintf(stream, "causal %d n %" PRId64 "\n", instance->causal, instance->n_k);
  for (int c = 0; c < instance->class_count; c++) {
    sptx_set_print(instance->classes[c], 0, stream);
    putc('\n', stream);
  }
  for (int64_t h = 0; h < instance->heads; h++)
    fprintf(stream, "%d ", instance->class_of_head[h]);
  bool written = fclose(stream) == 0;
  if (written)
    *hash = XXH3_64bits(text, size);
  free(text);
  return written;
}

static void write_pattern(const sptx_emission *emission, FILE *stream) {
  const sptx_compilation *compilation = emission->compilation;
  const sptx_problem *problem = &compilation->problem;
  const char *step = sptx_pattern_step_name(compilation->pattern, compilation->step);
  uint64_t hash = 0;
  fprintf(stream, "pattern: %s", sptx_pattern_name(compilation->pattern));
  if (*step)
    fprintf(stream, ", step %s", step);
  if (hash_pattern(compilation, &hash))
    fprintf(stream, ", hash %016" PRIx64 " (XXH3 of its sets for this shape)", hash);
  fprintf(stream,
          "\nshape: batch %" PRId64 ", heads %" PRId64 ", kv_heads %" PRId64 ", n_q %" PRId64 ", n_k %" PRId64
          ", head_dim %d, %s%s%s%s\n",
          problem->batch, problem->heads, problem->kv_heads, problem->n_q, problem->n_k, problem->head_dim,
          sptx_element_name(problem->element), problem->soft_cap ? ", soft cap" : "",
          problem->alibi ? ", ALiBi" : "", problem->deterministic ? "" : ", sums in any order");
}

/* Operations count 2 for a multiply-add: two products forward, five backward. Bytes count every tensor once.
 */
static void write_cost(const sptx_unit *unit, FILE *stream) {
  const sptx_problem *p = unit->problem;
  if (unit->pass == SPTX_PASS_DECODE) {
    fprintf(stream, "operations: %d for each key that the query attends to, over batch and heads\n",
            4 * p->head_dim);
    return;
  }
  double useful = (double)(unit->gpu ? unit->gpu->useful_pairs : unit->x86->useful_pairs);
  double computed = (double)(unit->gpu ? unit->gpu->computed_pairs : unit->x86->computed_pairs);
  bool backward = unit->pass == SPTX_PASS_BACKWARD;
  double each = (backward ? 10.0 : 4.0) * p->head_dim, size = sptx_element_bytes(p->element);
  double rows = (double)p->batch * (double)p->heads * (double)p->n_q;
  double keys = (double)p->batch * (double)p->kv_heads * (double)p->n_k;
  double elements = (backward ? 4 : 2) * (rows + keys) * p->head_dim;
  fprintf(stream, "operations: %.0f useful, %.0f computed\n", each * useful, each * computed);
  fprintf(stream, "bytes: %.0f of tensors\n", elements * size + rows * 4);
}

static void write_schedule(const sptx_emission *emission, const sptx_unit *unit, FILE *stream) {
  char text[256] = "";
  if (emission->schedule)
    sptx_schedule_print(emission->target->family, emission->schedule, text, sizeof text);
  fprintf(stream, "target: %s (%s), pass %s\nschedule: %s\n", emission->target->name,
          emission->target->instructions, sptx_pass_name(unit->pass), *text ? text : "default");
  if (unit->x86)
    sptx_x86_plan_print(unit->x86, stream);
  else
    sptx_gpu_plan_print(unit->gpu, stream);
}

char *sptx_origin_text(const sptx_emission *emission, const sptx_unit *unit) {
  char *text = NULL;
  size_t size = 0;
  unsigned llvm[3];
  FILE *stream = open_memstream(&text, &size);
  if (!stream)
    return NULL;
  LLVMGetVersion(&llvm[0], &llvm[1], &llvm[2]);
  fprintf(stream, "written by sptx %s with LLVM %u.%u.%u\ncommand: %s\n", SPTX_VERSION, llvm[0], llvm[1],
          llvm[2], emission->command_line);
  write_pattern(emission, stream);
  write_schedule(emission, unit, stream);
  write_cost(unit, stream);
  if (fclose(stream) == 0)
    return text;
  free(text);
  return NULL;
}

void sptx_origin_write(const char *origin, const char *prefix, FILE *stream) {
  for (const char *line = origin; *line;) {
    size_t length = strcspn(line, "\n");
    fputs(prefix, stream);
    for (size_t i = 0; i < length; i++) {
      putc(line[i], stream);
      if ((line[i] == '*' && line[i + 1] == '/') || (line[i] == '/' && line[i + 1] == '*'))
        putc(' ', stream);
    }
    putc('\n', stream);
    line += length + (line[length] == '\n');
  }
}
