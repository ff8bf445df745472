/* The Hopper kernels without a GPU: their PTX has Hopper's instructions and no local memory, and ptxas, where
 * it is installed (SPTX_PTXAS names another), assembles them without a spill or a remark that wgmma is
 * serialised (C75xx). Also what the family refuses. */
#include "gen/ptx/hopper.h"
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct attention_case {
  enum sptx_set_kind kind;
  int64_t n, l, c, head_dim;
  enum sptx_element element;
  bool merge; /* forward */
  bool backward;
} attention_case;

static sptx_set make_set(const attention_case *c, int64_t residues[64]) {
  sptx_set set = {.kind = c->kind};
  if (c->kind == SPTX_SET_WINDOW)
    set.as.window.left = c->l;
  else if (c->kind == SPTX_SET_STRIDE)
    set.as.stride.every = c->l;
  else if (c->kind == SPTX_SET_BLOCK)
    set.as.block.size = c->l;
  else if (c->kind == SPTX_SET_COLUMNS) {
    set.as.columns.every = c->l;
    set.as.columns.residues = residues;
    set.as.columns.residue_count = c->c;
    for (int64_t i = 0; i < c->c; i++)
      residues[i] = c->l - c->c + i;
  }
  return set;
}

static sptx_problem make_problem(const attention_case *c) {
  sptx_strides strides = {c->n * c->head_dim * 2, c->n * c->head_dim, c->head_dim};
  return (sptx_problem){.element = c->element,
                        .batch = 1,
                        .heads = 2,
                        .kv_heads = 2,
                        .n_q = c->n,
                        .n_k = c->n,
                        .head_dim = (int)c->head_dim,
                        .q = strides,
                        .k = strides,
                        .v = strides,
                        .o = strides};
}

/* Plans every piece of the case; *plan is zeroed by the caller and freed by it. */
static enum sptx_code plan_pass(const attention_case *c, sptx_gpu_plan *plan, sptx_error *error) {
  static int class_of_head[2];
  static const int32_t heads[2] = {0, 1};
  int64_t residues[64];
  sptx_set set = make_set(c, residues), *sets[1] = {&set};
  sptx_problem problem = make_problem(c);
  sptx_instance instance = {.n_q = c->n,
                            .n_k = c->n,
                            .heads = 2,
                            .causal = true,
                            .class_count = 1,
                            .classes = sets,
                            .class_of_head = class_of_head};
  sptx_piece_list list = {0};
  plan->target = SPTX_PTX_SM90A;
  sptx_gpu_planner planner = {.problem = &problem,
                              .target = SPTX_PTX_SM90A,
                              .lists = &list,
                              .class_count = 1,
                              .class_of_head = class_of_head,
                              .plan = plan};
  enum sptx_code code = sptx_lower(&instance, 0, &list, error);
  sptx_gpu_job all = {.heads = heads, .head_count = 2, .all_heads = true};
  if (code == SPTX_CODE_OK && c->backward)
    code = sptx_hopper_backward_add(&planner, &list, &all, error);
  for (int i = 0; i < list.count && code == SPTX_CODE_OK && !c->backward; i++) {
    sptx_gpu_job job = {
        .piece = &list.pieces[i], .heads = heads, .head_count = 2, .all_heads = true, .merge = c->merge};
    code = sptx_hopper_forward_add(&planner, &job, error);
  }
  sptx_piece_list_clear(&list);
  return code;
}

static void assemble(const char *ptx) {
  const char *ptxas = getenv("SPTX_PTXAS") ? getenv("SPTX_PTXAS") : "/usr/local/cuda/bin/ptxas";
  if (access(ptxas, X_OK) != 0)
    return;
  char input[] = "/tmp/sptx_hopper_XXXXXX", command[512], line[512];
  int file = mkstemp(input);
  cr_assert(file >= 0);
  cr_assert(write(file, ptx, strlen(ptx)) == (ssize_t)strlen(ptx));
  close(file);
  snprintf(command, sizeof command, "%s -v -arch=sm_90a %s -o /dev/null 2>&1", ptxas, input);
  FILE *output = popen(command, "r");
  cr_assert(output != NULL);
  while (fgets(line, sizeof line, output)) {
    cr_expect(strstr(line, "C75") == NULL, "%s", line);
    cr_expect(strstr(line, "spill") == NULL || strstr(line, " 0 bytes spill stores, 0 bytes spill loads"),
              "%s", line);
  }
  cr_expect(pclose(output) == 0, "ptxas failed");
  unlink(input);
}

ParameterizedTestParameters(hopper, assembles) {
  static attention_case cases[] = {
      {SPTX_SET_ALL, 4096, 0, 0, 64, SPTX_ELEMENT_BF16, false, false},
      {SPTX_SET_ALL, 4096, 0, 0, 128, SPTX_ELEMENT_F16, false, false},
      {SPTX_SET_WINDOW, 4096, 128, 0, 128, SPTX_ELEMENT_BF16, false, false},
      {SPTX_SET_STRIDE, 4096, 32, 0, 64, SPTX_ELEMENT_BF16, true, false},
      {SPTX_SET_STRIDE, 3072, 96, 0, 128, SPTX_ELEMENT_BF16, false, false}, /* packed: 32 rows of a phase */
      {SPTX_SET_COLUMNS, 8192, 128, 32, 128, SPTX_ELEMENT_BF16, true, false},
      {SPTX_SET_BLOCK, 1000, 128, 0, 96, SPTX_ELEMENT_F16, false, false},
      {SPTX_SET_ALL, 700, 0, 0, 256, SPTX_ELEMENT_BF16, true, false},
      {SPTX_SET_WINDOW, 700, 100, 0, 16, SPTX_ELEMENT_BF16, false, false},
      {SPTX_SET_ALL, 4096, 0, 0, 64, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_ALL, 4096, 0, 0, 128, SPTX_ELEMENT_F16, false, true},
      /* dQ of windows is added up, or carried where they are long */
      {SPTX_SET_WINDOW, 4096, 128, 0, 64, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_WINDOW, 131072, 128, 0, 64, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_WINDOW, 4096, 128, 0, 128, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_WINDOW, 131072, 128, 0, 128, SPTX_ELEMENT_F16, false, true},
      {SPTX_SET_WINDOW, 131072, 128, 0, 96, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_STRIDE, 4096, 32, 0, 64, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_STRIDE, 4096, 32, 0, 128, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_STRIDE, 3072, 96, 0, 128, SPTX_ELEMENT_BF16, false, true},
      {SPTX_SET_COLUMNS, 8192, 128, 32, 64, SPTX_ELEMENT_BF16, false, true},
  };
  return cr_make_param_array(attention_case, cases, sizeof cases / sizeof *cases, NULL);
}

ParameterizedTest(attention_case *c, hopper, assembles, .timeout = 60) {
  sptx_gpu_plan *plan = calloc(1, sizeof *plan);
  sptx_error error = {0};
  char *ptx = NULL;
  cr_assert(plan_pass(c, plan, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_assert(plan->launch_count > 0);
  cr_assert(sptx_gpu_plan_ptx(plan, &ptx, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_expect(strstr(ptx, "wgmma.mma_async") != NULL);
  cr_expect(strstr(ptx, "cp.async.bulk.tensor") != NULL);
  cr_expect(strstr(ptx, "setmaxnreg") != NULL);
  cr_expect(strstr(ptx, ".local") == NULL, "the kernel uses local memory");
  assemble(ptx);
  free(ptx);
  sptx_gpu_plan_free(plan);
}

/* Where one CTA sees all keys of a query it makes D and stores dQ; else a launch before makes D, and dQ adds
 * up in scratch, which is cleared first. */
Test(hopper, gradients) {
  attention_case stride = {SPTX_SET_STRIDE, 4096, 32, 0, 64, SPTX_ELEMENT_BF16, false, true};
  attention_case all = {SPTX_SET_ALL, 4096, 0, 0, 64, SPTX_ELEMENT_BF16, false, true};
  sptx_gpu_plan *plan = calloc(1, sizeof *plan);
  sptx_error error = {0};
  cr_assert(plan_pass(&stride, plan, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_expect(plan->launch_count == 1);
  cr_expect(plan->workspace_bytes == 0);
  sptx_gpu_plan_free(plan);
  plan = calloc(1, sizeof *plan);
  cr_assert(plan_pass(&all, plan, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_expect(plan->launch_count == 3); /* the third converts dQ */
  cr_expect(plan->launches[1].clear_bytes == 2 * 4096 * 64 * 4);
  sptx_gpu_plan_free(plan);
}

/* Ragged strides fall into parts of equal lengths, packed where they are short. */
Test(hopper, parts) {
  attention_case c = {SPTX_SET_STRIDE, 1000, 7, 0, 64, SPTX_ELEMENT_BF16, false, false};
  sptx_gpu_plan *plan = calloc(1, sizeof *plan);
  sptx_error error = {0};
  cr_assert(plan_pass(&c, plan, &error) == SPTX_CODE_OK, "%s", error.message);
  cr_expect(plan->launch_count == 2); /* 6 phases of 143 positions, one of 142 */
  cr_expect(plan->launches[0].maps[0].size[1] + plan->launches[1].maps[0].size[1] == 143 + 142);
  sptx_gpu_plan_free(plan);
}

Test(hopper, refuses) {
  attention_case c = {SPTX_SET_ALL, 512, 0, 0, 64, SPTX_ELEMENT_F32, false, false};
  sptx_gpu_plan *plan = calloc(1, sizeof *plan);
  sptx_error error = {0};
  cr_expect(plan_pass(&c, plan, &error) == SPTX_CODE_UNSUPPORTED);
  cr_expect(strstr(error.message, "float32") != NULL, "%s", error.message);
  cr_expect(plan->launch_count == 0);
  sptx_gpu_plan_free(plan);
}
