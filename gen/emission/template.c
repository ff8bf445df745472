/* The text that the headers of both families share, and how their templates are filled. */
#include "gen/emission/emission.h"

#include "gen/problem.h"
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

static void write_upper(const char *name, FILE *stream) {
  for (; *name; name++)
    putc(toupper((unsigned char)*name), stream);
}

void sptx_template_write(const char *text, const char *name, FILE *stream) {
  for (; *text; text++) {
    if (*text == '@')
      fputs(name, stream);
    else if (*text == '$')
      write_upper(name, stream);
    else
      putc(*text, stream);
  }
}

void sptx_template_words(const void *bytes, size_t size, FILE *stream) {
  enum { A_LINE = 6 };
  for (size_t at = 0, word = 0; at < size; at += sizeof(uint64_t), word++) {
    uint64_t value = 0;
    memcpy(&value, (const char *)bytes + at, size - at < sizeof value ? size - at : sizeof value);
    fprintf(stream, "%s0x%" PRIx64 ",", word % A_LINE ? " " : "\n        ", value);
  }
}

const char *sptx_template_type(enum sptx_element element) {
  return element == SPTX_ELEMENT_F32 ? "float" : "uint16_t";
}

static void write_sizes(const sptx_emission *emission, FILE *stream) {
  const sptx_problem *p = &emission->compilation->problem;
  const struct {
    const char *name;
    int64_t value;
  } sizes[] = {{"BATCH", p->batch}, {"HEADS", p->heads}, {"KV_HEADS", p->kv_heads},
               {"N_Q", p->n_q},     {"N_K", p->n_k},     {"HEAD_DIM", p->head_dim}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    sptx_template_write("#define $_", emission->name, stream);
    fprintf(stream, "%s %" PRId64 "\n", sizes[i].name, sizes[i].value);
  }
}

static const char head[] =
    "#ifndef $_H\n"
    "#define $_H\n"
    "\n"
    "#include <stddef.h>\n"
    "#include <stdint.h>\n"
    "#include <stdlib.h>\n"
    "\n"
    "/* Tensors are contiguous, the last axis fastest: q, o and their gradients (batch, heads, n_q, "
    "head_dim),\n"
    " * k, v and theirs (batch, kv_heads, n_k, head_dim), lse (batch, heads, n_q), float, the natural "
    "logarithm\n"
    " * of each query's sum of exp(score). Query i stands at position n_k - n_q + i; query head h reads key "
    "and\n"
    " * value head h / (heads / kv_heads). A query without keys gets o = 0 and lse = -inf. */\n";

void sptx_template_head(const sptx_emission *emission, const sptx_emitted_pass *passes, int count,
                        FILE *stream) {
  fprintf(stream, "/* %s: attention kernels for %s, generated; do not edit.\n", emission->name,
          emission->target->name);
  const char *about = sptx_pattern_about(emission->compilation->pattern);
  if (*about)
    sptx_origin_write(about, " * ", stream);
  for (int i = 0; i < count; i++) {
    fprintf(stream, " *\n * %s\n", sptx_pass_name(passes[i].unit.pass));
    sptx_origin_write(passes[i].origin, " *   ", stream);
  }
  fputs(" */\n", stream);
  sptx_template_write(head, emission->name, stream);
  write_sizes(emission, stream);
  if (emission->compilation->problem.element != SPTX_ELEMENT_F32)
    fprintf(stream, "/* uint16_t holds the bits of a %s. */\n",
            sptx_element_name(emission->compilation->problem.element));
}
