/* From the common options to a request to measure; see shape_options.h. */
#include "tuner/shape_options.h"

#include <sched.h>

void sptx_shape_options_begin(sptx_shape_options *options, const char *command) {
  *options = (sptx_shape_options){.request = {.seconds = 2}};
  sptx_command_options_begin(&options->common, command, 1u << SPTX_PASS_FORWARD | 1u << SPTX_PASS_BACKWARD);
}

void sptx_shape_options_clear(sptx_shape_options *options) {
  sptx_command_options_clear(&options->common);
  options->request.param_count = 0;
}

bool sptx_shape_option(sptx_shape_options *options, int option, const char *value) {
  if (option == SPTX_NONDETERMINISTIC_OPTION)
    return options->request.nondeterministic = true;
  return sptx_command_option(&options->common, option, value);
}

static int usable_cores(void) {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

bool sptx_shape_options_finish(sptx_shape_options *options, const char *pattern_path) {
  const sptx_command_options *common = &options->common;
  sptx_bench_request *request = &options->request;
  if (!sptx_command_options_finish(&options->common))
    return false;
  request->pattern_path = pattern_path;
  request->device = common->device;
  request->batch = common->batch;
  request->heads = common->heads;
  request->kv_heads = common->kv_heads;
  request->n_q = common->n_q;
  request->n_k = common->n_k;
  request->head_dim = common->head_dim;
  request->dtype = (sptx_dtype)common->element; /* the same numbers */
  request->passes[SPTX_BENCH_FORWARD] = common->passes >> SPTX_PASS_FORWARD & 1;
  request->passes[SPTX_BENCH_BACKWARD] = common->passes >> SPTX_PASS_BACKWARD & 1;
  request->threads = common->threads ? common->threads : usable_cores();
  for (size_t p = 0; p < common->override_count; p++)
    options->params[p] = (sptx_param){common->overrides[p].name, common->overrides[p].value};
  request->params = options->params;
  request->param_count = common->override_count;
  options->step = common->step;
  return true;
}
