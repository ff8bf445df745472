/* The C header of emitted x86 objects: prototypes of the entries, sizes of the memory they work in, and a
 * driver for each pass that shares the work out to OpenMP threads. */
#include "gen/emission/emission.h"

#include "gen/problem.h"
#include "gen/x86/kernel.h"
#include <inttypes.h>

/* The struct that kernels read by field order: the header's text below spells it out. */
_Static_assert(sizeof(sptx_x86_args) == 12 * 8 + 8 && offsetof(sptx_x86_args, position) == 12 * 8,
               "the struct in the header's text must change with sptx_x86_args");

static const char common[] =
    "\n"
    "#include <string.h>\n"
    "#ifdef _OPENMP\n"
    "#include <omp.h>\n"
    "#endif\n"
    "#ifdef __cplusplus\n"
    "extern \"C\" {\n"
    "#endif\n"
    "\n"
    "/* What the functions below return. */\n"
    "enum {\n"
    "  $_DONE = 0,\n"
    "  $_NO_MEMORY = 1, /* for the workspace */\n"
    "  $_WRONG_CPU = 2, /* this machine lacks instructions that the kernels are made of */\n"
    "};\n"
    "\n"
    "/* The tensors of one call; what a pass does not use is not read. */\n"
    "typedef struct @_tensors {\n"
    "  const void *q, *k, *v;\n"
    "  void *o;\n"
    "  float *lse;\n"
    "  const void *d_o;\n"
    "  void *d_q, *d_k, *d_v;\n"
    "  void *workspace; /* as many bytes as the pass asks for below, 64-byte aligned */\n"
    "  const float *alibi_slopes;\n"
    "  float scale, soft_cap;\n"
    "  int64_t position;\n"
    "} @_tensors;\n"
    "\n"
    "static inline int @_cpu_can_run(void) {\n"
    "%s"
    "}\n"
    "\n"
    "/* Runs launches in order, the items of each by up to `threads` threads (0: as many as OpenMP has) "
    "where\n"
    " * this is compiled with OpenMP, else by one. Allocates the workspace, and lse when it is NULL. */\n"
    "static inline int @_run(void (*run_item)(const @_tensors *, int32_t, int64_t, void *),\n"
    "    const int64_t *items, int32_t launches, size_t workspace_bytes, size_t scratch_bytes,\n"
    "    @_tensors *tensors, int threads) {\n"
    "  const size_t lse_bytes = %" PRIu64 ";\n"
    "  char *memory;\n"
    "  if (!@_cpu_can_run())\n"
    "    return $_WRONG_CPU;\n"
    "#ifdef _OPENMP\n"
    "  if (threads < 1)\n"
    "    threads = omp_get_max_threads();\n"
    "#else\n"
    "  threads = 1;\n"
    "#endif\n"
    "  memory = (char *)aligned_alloc(64, workspace_bytes + lse_bytes + (size_t)threads * scratch_bytes);\n"
    "  if (!memory)\n"
    "    return $_NO_MEMORY;\n"
    "  tensors->workspace = memory;\n"
    "  if (!tensors->lse)\n"
    "    tensors->lse = (float *)(void *)(memory + workspace_bytes);\n"
    "  for (int32_t launch = 0; launch < launches; launch++) {\n"
    "    int64_t item;\n"
    "#ifdef _OPENMP\n"
    "#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)\n"
    "#endif\n"
    "    for (item = 0; item < items[launch]; item++) {\n"
    "      size_t thread = 0;\n"
    "#ifdef _OPENMP\n"
    "      thread = (size_t)omp_get_thread_num();\n"
    "#endif\n"
    "      run_item(tensors, launch, item, memory + workspace_bytes + lse_bytes + thread * scratch_bytes);\n"
    "    }\n"
    "  }\n"
    "  free(memory);\n"
    "  return $_DONE;\n"
    "}\n";

static const char *const cpu_checks[] = {
    [SPTX_ISA_AVX2] = "  return __builtin_cpu_supports(\"avx2\") && __builtin_cpu_supports(\"fma\") &&\n"
                      "         __builtin_cpu_supports(\"f16c\");\n",
    [SPTX_ISA_AVX512] =
        "  return __builtin_cpu_supports(\"avx512f\") && __builtin_cpu_supports(\"avx512bw\") &&\n"
        "         __builtin_cpu_supports(\"avx512vl\") && __builtin_cpu_supports(\"avx512dq\") &&\n"
        "         __builtin_cpu_supports(\"avx512cd\");\n",
    [SPTX_ISA_AVX512_BF16] =
        "  return __builtin_cpu_supports(\"avx512bf16\") && __builtin_cpu_supports(\"avx512bw\") &&\n"
        "         __builtin_cpu_supports(\"avx512vl\") && __builtin_cpu_supports(\"avx512dq\") &&\n"
        "         __builtin_cpu_supports(\"avx512cd\");\n",
    /* Linux grants the tile registers' state only to processes that ask for it. */
    [SPTX_ISA_AMX] = "  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };\n"
                     "  return __builtin_cpu_supports(\"avx512bf16\") &&\n"
                     "         syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;\n",
};

static uint64_t round_to_line(uint64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

/* The template holds two places that depend on more than the name. */
static void write_common(const sptx_emission *emission, FILE *stream) {
  const sptx_problem *p = &emission->compilation->problem;
  enum sptx_isa isa = emission->target->isa;
  char text[sizeof common + 1024];
  snprintf(text, sizeof text, common, cpu_checks[isa],
           round_to_line((uint64_t)p->batch * (uint64_t)p->heads * (uint64_t)p->n_q * sizeof(float)));
  if (isa == SPTX_ISA_AMX)
    fputs("\n#include <sys/syscall.h>\n#include <unistd.h>\n"
          "#ifndef __cplusplus\nlong syscall(long number, ...); /* strict C11 hides it */\n#endif\n",
          stream);
  sptx_template_write(text, emission->name, stream);
}

static const char *const prose[] = {
    [SPTX_PASS_FORWARD] = "o = softmax(scale * q k^T over the pattern's pairs) v. lse may be NULL.",
    [SPTX_PASS_BACKWARD] =
        "The gradients of q, k and v from that of o; o and lse are the forward's. Equal in every\n"
        " * bit whatever the number of threads.",
    [SPTX_PASS_DECODE] =
        "One new query at `position`: q and o are (batch, heads, head_dim), lse (batch, heads), k and v\n"
        " * hold all n_k positions, of which those that the query attends to are read. lse may be NULL.",
};

static void write_arguments(const sptx_problem *problem, enum sptx_pass pass, FILE *stream) {
  const char *type = sptx_template_type(problem->element);
  if (pass == SPTX_PASS_BACKWARD)
    fprintf(stream,
            "const %s *q, const %s *k, const %s *v,\n"
            "    const %s *o, const float *lse, const %s *d_o, %s *d_q, %s *d_k, %s *d_v",
            type, type, type, type, type, type, type, type);
  else
    fprintf(stream, "const %s *q, const %s *k, const %s *v,\n    %s *o, float *lse%s", type, type, type, type,
            pass == SPTX_PASS_DECODE ? ", int64_t position" : "");
  fprintf(stream, ", float scale%s%s, int threads", problem->soft_cap ? ", float soft_cap" : "",
          problem->alibi ? ", const float *alibi_slopes" : "");
}

/* The body of a pass's driver: the tensors, the items, the run. */
static void write_body(const sptx_emission *emission, const sptx_unit *unit, FILE *stream) {
  const sptx_problem *problem = unit->problem;
  bool backward = unit->pass == SPTX_PASS_BACKWARD;
  sptx_template_write("  @_tensors tensors;\n  static const int64_t items[] = {", emission->name, stream);
  for (int i = 0; i < unit->x86->launch_count; i++)
    fprintf(stream, "%s%" PRId64, i ? ", " : "", unit->x86->launches[i].items);
  fputs("};\n  memset(&tensors, 0, sizeof tensors);\n  tensors.q = q;\n  tensors.k = k;\n  tensors.v = v;\n",
        stream);
  fputs(backward ? "  tensors.o = (void *)(uintptr_t)o;\n  tensors.lse = (float *)(uintptr_t)lse;\n"
                   "  tensors.d_o = d_o;\n  tensors.d_q = d_q;\n  tensors.d_k = d_k;\n  tensors.d_v = d_v;\n"
                 : "  tensors.o = o;\n  tensors.lse = lse;\n",
        stream);
  if (unit->pass == SPTX_PASS_DECODE)
    fputs("  tensors.position = position;\n", stream);
  fputs("  tensors.scale = scale;\n", stream);
  if (problem->soft_cap)
    fputs("  tensors.soft_cap = soft_cap;\n", stream);
  if (problem->alibi)
    fputs("  tensors.alibi_slopes = alibi_slopes;\n", stream);
}

static size_t most_scratch(const sptx_x86_plan *plan) {
  size_t most = 0;
  for (int i = 0; i < plan->launch_count; i++)
    most = plan->launches[i].scratch_bytes > most ? plan->launches[i].scratch_bytes : most;
  return most;
}

static void write_pass(const sptx_emission *emission, const sptx_unit *unit, FILE *stream) {
  const char *pass = sptx_pass_name(unit->pass), *name = emission->name;
  uint64_t workspace = round_to_line(unit->x86->workspace_bytes);
  uint64_t scratch = round_to_line(most_scratch(unit->x86));
  fprintf(stream,
          "\n/* In %s_%s.o, for callers with threads and memory of their own: computes one item of one\n"
          " * launch. Items of a launch are independent; a launch begins when all items of the one before\n"
          " * have ended. workspace: %" PRIu64 " bytes, shared; scratch: %" PRIu64
          " bytes for each thread; both\n"
          " * 64-byte aligned. lse must not be NULL here. */\n"
          "void %s_%s_item(const %s_tensors *tensors, int32_t launch, int64_t item, void *scratch);\n",
          name, pass, workspace, scratch, name, pass, name);
  fprintf(stream, "\n/* %s */\nstatic inline int %s_%s(", prose[unit->pass], name, pass);
  write_arguments(unit->problem, unit->pass, stream);
  fputs(") {\n", stream);
  write_body(emission, unit, stream);
  fprintf(stream, "  return %s_run(%s_%s_item, items, %d, %" PRIu64 ", %" PRIu64 ", &tensors, threads);\n}\n",
          name, name, pass, unit->x86->launch_count, workspace, scratch);
}

void sptx_header_x86(const sptx_emission *emission, const sptx_emitted_pass *passes, int count,
                     FILE *stream) {
  sptx_template_head(emission, passes, count, stream);
  write_common(emission, stream);
  for (int i = 0; i < count; i++)
    write_pass(emission, &passes[i].unit, stream);
  fputs("\n#ifdef __cplusplus\n}\n#endif\n#endif\n", stream);
}
