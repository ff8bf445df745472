/* The portable GPU kernels without a GPU: every library pattern is planned for every pass, type and target; a
 * sample of the plans becomes PTX, and ptxas, where it is installed (SPTX_PTXAS names another), assembles it.
 * The suite portable_spills assembles the default schedules of all patterns, which spill no register. */
#include "tests/gpu/portable_case.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PATTERNS = 64, PASSES = 3, TYPES = 3, TARGETS = 2 };

static const char library[] = SPTX_PATTERN_LIBRARY;

static int read_library(char paths[MAX_PATTERNS][512]) {
  DIR *folder = opendir(library);
  cr_assert(folder != NULL, "%s", library);
  int count = 0;
  for (struct dirent *entry; (entry = readdir(folder)) && count < MAX_PATTERNS;)
    if (strstr(entry->d_name, ".yaml"))
      snprintf(paths[count++], 512, "%s/%s", library, entry->d_name);
  closedir(folder);
  cr_assert(count > 10);
  return count;
}

static const char *ptxas(void) {
  const char *path = getenv("SPTX_PTXAS") ? getenv("SPTX_PTXAS") : "/usr/local/cuda/bin/ptxas";
  return access(path, X_OK) == 0 ? path : NULL;
}

/* Assembles and looks for spills; where_from names the plan in messages. */
static void assemble(const char *ptx, enum sptx_ptx_target target, bool may_spill, const char *where_from) {
  if (!ptxas())
    return;
  char input[] = "/tmp/sptx_portable_XXXXXX", command[512], line[512];
  int file = mkstemp(input);
  cr_assert(file >= 0);
  cr_assert(write(file, ptx, strlen(ptx)) == (ssize_t)strlen(ptx));
  close(file);
  snprintf(command, sizeof command, "%s -v -arch=%s %s -o /dev/null 2>&1", ptxas(),
           sptx_ptx_target_name(target), input);
  FILE *output = popen(command, "r");
  cr_assert(output != NULL);
  while (fgets(line, sizeof line, output))
    cr_expect(may_spill || !strstr(line, "spill") ||
                  strstr(line, " 0 bytes spill stores, 0 bytes spill loads"),
              "%s: %s", where_from, line);
  cr_expect(pclose(output) == 0, "%s: ptxas failed", where_from);
  unlink(input);
}

static portable_case case_of(const char *pattern, enum sptx_pass pass, enum sptx_element element,
                             int head_dim, int64_t n) {
  return (portable_case){.pattern = pattern,
                         .element = element,
                         .pass = pass,
                         .batch = 1,
                         .heads = 4,
                         .n_q = n,
                         .n_k = n,
                         .head_dim = head_dim};
}

static void check_ptx(const portable_case *c, const sptx_gpu_plan *plan, enum sptx_ptx_target target,
                      bool may_spill) {
  sptx_error error = {0};
  char *ptx = NULL, name[600];
  snprintf(name, sizeof name, "%s, pass %d, type %d, head_dim %d", c->pattern, c->pass, c->element,
           c->head_dim);
  cr_assert(sptx_gpu_plan_ptx(plan, &ptx, &error) == SPTX_CODE_OK, "%s: %s", name, error.message);
  cr_expect(strstr(ptx, ".local") == NULL, "%s: local memory", name);
  assemble(ptx, target, may_spill, name);
  free(ptx);
}

/* Nothing of the library is refused, whatever the pass, type and score change. */
Test(portable_ptx, library_is_planned, .timeout = 60) {
  static char paths[MAX_PATTERNS][512];
  static const int dims[] = {16, 40, 64, 128, 200, 256};
  int count = read_library(paths), planned = 0;
  for (int i = 0; i < count * PASSES * TYPES; i++) {
    portable_case c = case_of(paths[i / (PASSES * TYPES)], (enum sptx_pass)(i / TYPES % PASSES),
                              (enum sptx_element)(i % TYPES), dims[i % 6], 500);
    sptx_error error = {0};
    portable_session s;
    c.soft_cap = i % 4 == 0;
    c.alibi = i % 5 == 0;
    cr_assert(portable_open(&s, &c, &error) == SPTX_CODE_OK, "%s", error.message);
    for (int target = 0; target < TARGETS; target++) {
      sptx_gpu_plan *plan = NULL;
      enum sptx_code code = portable_plan(&s, c.pass, (enum sptx_ptx_target)target, &plan, &error);
      cr_expect(code == SPTX_CODE_OK, "%s, pass %d, type %d, head_dim %d: %s", c.pattern, c.pass, c.element,
                c.head_dim, error.message);
      planned += code == SPTX_CODE_OK && plan->launch_count > 0;
      cr_expect(code != SPTX_CODE_OK || plan->computed_pairs >= plan->useful_pairs, "%s", c.pattern);
      sptx_gpu_plan_free(plan);
    }
    portable_close(&s);
  }
  cr_expect(planned == count * PASSES * TYPES * TARGETS);
}

/* A few of all; SPTX_TEST_SEED repeats a run. */
Test(portable_ptx, sample_assembles, .timeout = 100) {
  static char paths[MAX_PATTERNS][512];
  int count = read_library(paths);
  const char *given = getenv("SPTX_TEST_SEED");
  unsigned seed = given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL);
  fprintf(stderr, "SPTX_TEST_SEED=%u\n", seed);
  srand(seed);
  for (int i = 0; i < 3; i++) {
    portable_case c = case_of(paths[rand() % count], (enum sptx_pass)i, (enum sptx_element)(rand() % TYPES),
                              16 + rand() % 31 * 8, 500);
    sptx_error error = {0};
    portable_session s;
    c.soft_cap = rand() % 3 == 0;
    c.alibi = rand() % 3 == 0;
    enum sptx_ptx_target target = (enum sptx_ptx_target)(rand() % TARGETS);
    sptx_gpu_plan *plan = NULL;
    cr_assert(portable_open(&s, &c, &error) == SPTX_CODE_OK, "%s", error.message);
    cr_assert(portable_plan(&s, c.pass, target, &plan, &error) == SPTX_CODE_OK, "%s", error.message);
    check_ptx(&c, plan, target, true);
    sptx_gpu_plan_free(plan);
    portable_close(&s);
  }
}

/* Kernels that have been assembled; a symbol names all that a kernel depends on. */
static struct {
  char symbols[1024][128];
  int count;
} seen;

static bool is_new(const sptx_gpu_plan *plan) {
  bool any = false;
  for (int k = 0; k < plan->kernel_count; k++) {
    bool known = false;
    for (int i = 0; i < seen.count && !known; i++)
      known = strcmp(seen.symbols[i], plan->kernels[k].symbol) == 0;
    cr_assert(known || seen.count < 1024);
    if (!known)
      snprintf(seen.symbols[seen.count++], sizeof seen.symbols[0], "%s", plan->kernels[k].symbol);
    any |= !known;
  }
  return any;
}

static void check_default(const portable_case *c, size_t *steps) {
  sptx_error error = {0};
  portable_session s;
  sptx_gpu_plan *plan = NULL;
  cr_assert(portable_open(&s, c, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_assert(portable_plan(&s, c->pass, SPTX_PTX_SM80, &plan, &error) == SPTX_CODE_OK, "%s", error.message);
  if (is_new(plan))
    check_ptx(c, plan, SPTX_PTX_SM80, false);
  *steps = sptx_pattern_step_count(s.pattern);
  sptx_gpu_plan_free(plan);
  portable_close(&s);
}

/* The default schedules of the library's patterns take no more registers than there are. */
static void check_defaults(enum sptx_pass pass, enum sptx_element element) {
  static const int dims[] = {16, 32, 64, 96, 128, 256};
  static char paths[MAX_PATTERNS][512];
  int count = ptxas() ? read_library(paths) : 0;
  for (int i = 0; i < count; i++)
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
      portable_case c = case_of(paths[i], pass, element, dims[d], 3072);
      for (size_t steps = 1; c.step < steps; c.step++)
        check_default(&c, &steps);
    }
}

Test(portable_spills, forward, .timeout = 250) {
  check_defaults(SPTX_PASS_FORWARD, SPTX_ELEMENT_BF16);
}

Test(portable_spills, backward, .timeout = 250) {
  check_defaults(SPTX_PASS_BACKWARD, SPTX_ELEMENT_BF16);
}

Test(portable_spills, forward_of_f32, .timeout = 250) {
  check_defaults(SPTX_PASS_FORWARD, SPTX_ELEMENT_F32);
}

Test(portable_spills, backward_of_f32, .timeout = 250) {
  check_defaults(SPTX_PASS_BACKWARD, SPTX_ELEMENT_F32);
}

Test(portable_spills, decode, .timeout = 250) {
  check_defaults(SPTX_PASS_DECODE, SPTX_ELEMENT_BF16);
}
