/* sptx-run: runs a pattern's attention, forward and backward, on tensors in .npy files. */
#include "gen/command_options.h"
#include "gen/problem.h"
#include "patterns/pattern.h"
#include "runtime/run_tensors.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char command[] = "sptx-run";

static const char usage[] =
    "Usage: sptx-run PATTERN.yaml --q Q.npy --k K.npy --v V.npy -o O.npy [OPTION...]\n"
    "Runs the pattern's attention. q and o are (batch, heads, n_q, head_dim), k and v (batch, kv_heads, "
    "n_k,\n"
    "head_dim), where kv_heads divides heads; all are float32, float16 or bfloat16 (NumPy's '<u2' or "
    "'|V2'),\n"
    "and so are the results. The last query is aligned with the last key.\n"
    "\n"
    "  --lse L.npy        also writes ln(sum(exp(score))), float32 (batch, heads, n_q)\n"
    "  --grad-o G.npy     the gradient of o; then one or more of\n"
    "  --grad-q, --grad-k, --grad-v FILE.npy\n"
    "                     receive the gradients of q, k and v\n"
    "  --scale S          of the scores (1 / sqrt(head_dim))\n"
    "  --soft-cap C       score = C * tanh(score / C) (none)\n"
    "  --step NAME        which step of an interleaved pattern (the one that layer 0 runs)\n"
    "  --set NAME=VALUE   replaces a parameter of the pattern; may be given again\n"
    "  --device D         cpu or cuda:N (cpu)\n"
    "  --threads T        CPU threads (the usable cores)\n"
    "  --json             one JSON object instead of a line for each file written\n"
    "  --help, --version\n"
    "\n"
    "A NaN in the input makes NaN of the rows that attend to it. A file appears whole or not at all.\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage.\n";

enum { EXIT_USAGE = 2 };
enum {
  OPTION_TENSOR = SPTX_OWN_OPTION,
  OPTION_SCALE = OPTION_TENSOR + SPTX_RUN_TENSORS,
  OPTION_SOFT_CAP,
  OPTION_JSON,
  OPTION_HELP,
  OPTION_VERSION
};

struct options {
  sptx_command_options common;
  sptx_run_tensors tensors;
  const char *pattern_path;
  double scale, soft_cap; /* 0: not given */
  bool json, help, version;
};

static bool parse_positive(const char *option, const char *text, double *value) {
  char *end;
  *value = strtod(text, &end);
  if (end == text || *end || !isnormal((float)*value) || *value < 0) {
    fprintf(stderr, "%s: --%s needs a number above 0 that float32 can hold, not %s; see %s --help\n", command,
            option, text, command);
    return false;
  }
  return true;
}

static bool parse_option(int option, const char *value, struct options *options) {
  if (option >= OPTION_TENSOR && option < OPTION_TENSOR + SPTX_RUN_TENSORS) {
    options->tensors.paths[option - OPTION_TENSOR] = value;
    return true;
  }
  switch (option) {
  case OPTION_SCALE:
    return parse_positive("scale", value, &options->scale);
  case OPTION_SOFT_CAP:
    return parse_positive("soft-cap", value, &options->soft_cap);
  case OPTION_JSON:
    return options->json = true;
  case OPTION_HELP:
    return options->help = true;
  case OPTION_VERSION:
    return options->version = true;
  default:
    return sptx_command_option(&options->common, option, value);
  }
}

/* What only all arguments together show. */
static bool check_options(const struct options *options) {
  static const enum sptx_run_tensor needed[] = {SPTX_RUN_Q, SPTX_RUN_K, SPTX_RUN_V};
  const char *const *paths = options->tensors.paths;
  bool gradients = paths[SPTX_RUN_GRAD_Q] || paths[SPTX_RUN_GRAD_K] || paths[SPTX_RUN_GRAD_V];
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    if (!paths[needed[i]])
      return sptx_complain(command, "missing option, the tensor", sptx_run_tensor_name(needed[i]));
  if (!paths[SPTX_RUN_O])
    return sptx_complain(command, "missing option", "-o");
  if (gradients && !paths[SPTX_RUN_GRAD_O])
    return sptx_complain(command, "gradients of q, k and v need the option", "--grad-o");
  if (!gradients && paths[SPTX_RUN_GRAD_O])
    return sptx_complain(command, "--grad-o needs at least one of the options",
                         "--grad-q, --grad-k, --grad-v");
  return true;
}

static bool parse_arguments(int argc, char **argv, struct options *options) {
  enum { NEEDS = required_argument };
  static const struct option names[] = {{"q", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_Q},
                                        {"k", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_K},
                                        {"v", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_V},
                                        {"o", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_O},
                                        {"lse", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_LSE},
                                        {"grad-o", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_GRAD_O},
                                        {"grad-q", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_GRAD_Q},
                                        {"grad-k", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_GRAD_K},
                                        {"grad-v", NEEDS, NULL, OPTION_TENSOR + SPTX_RUN_GRAD_V},
                                        {"scale", NEEDS, NULL, OPTION_SCALE},
                                        {"soft-cap", NEEDS, NULL, OPTION_SOFT_CAP},
                                        {"step", NEEDS, NULL, 's'},
                                        {"set", NEEDS, NULL, 'S'},
                                        {"device", NEEDS, NULL, 'D'},
                                        {"threads", NEEDS, NULL, 'T'},
                                        {"json", no_argument, NULL, OPTION_JSON},
                                        {"help", no_argument, NULL, OPTION_HELP},
                                        {"version", no_argument, NULL, OPTION_VERSION},
                                        {NULL, 0, NULL, 0}};
  int option;
  while ((option = getopt_long(argc, argv, "o:", names, NULL)) != -1)
    if (!parse_option(option == 'o' ? OPTION_TENSOR + SPTX_RUN_O : option, optarg, options))
      return false;
  if (options->help || options->version)
    return true;
  return sptx_command_operand(command, "PATTERN.yaml", argc, argv, &options->pattern_path) &&
         check_options(options);
}

/* The step's number. Left out of an interleaved pattern, it is that of layer 0, and said so. */
static enum sptx_code find_step(const struct options *options, const sptx_pattern *pattern, int64_t *step,
                                sptx_error *error) {
  char names[512] = "";
  size_t count = sptx_pattern_step_count(pattern), used = 0;
  for (size_t s = 0; s < count; s++) {
    const char *name = sptx_pattern_step_name(pattern, s);
    if (options->common.step && strcmp(options->common.step, name) == 0 && name[0]) {
      *step = (int64_t)s;
      return SPTX_CODE_OK;
    }
    if (used < sizeof names)
      used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", s ? ", " : "", name);
  }
  *step = (int64_t)sptx_pattern_layer_step(pattern, 0);
  if (options->common.step)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "the pattern has no step '%s'%s%s",
                     options->common.step, names[0] ? "; it has " : " and no steps at all", names);
  if (count > 1)
    fprintf(stderr, "%s: running the step %s of %s; --step chooses\n", command,
            sptx_pattern_step_name(pattern, (size_t)*step), names);
  return SPTX_CODE_OK;
}

static enum sptx_code from_status(sptx_status status, const sptx_context *context, sptx_error *error) {
  return status == SPTX_OK ? SPTX_CODE_OK
                           : sptx_fail(error, (enum sptx_code)status, "%s", sptx_last_error(context));
}

static sptx_status run_passes(const sptx_attention *attention, const sptx_run_tensors *tensors) {
  void *const *t = tensors->pointers;
  sptx_status status = sptx_attention_forward(attention, t[SPTX_RUN_Q], t[SPTX_RUN_K], t[SPTX_RUN_V],
                                              t[SPTX_RUN_O], t[SPTX_RUN_LSE], NULL);
  if (status != SPTX_OK || !tensors->paths[SPTX_RUN_GRAD_O])
    return status;
  return sptx_attention_backward(attention, t[SPTX_RUN_Q], t[SPTX_RUN_K], t[SPTX_RUN_V], t[SPTX_RUN_O],
                                 t[SPTX_RUN_LSE], t[SPTX_RUN_GRAD_O], t[SPTX_RUN_GRAD_Q], t[SPTX_RUN_GRAD_K],
                                 t[SPTX_RUN_GRAD_V], NULL);
}

static enum sptx_code run_on(sptx_context *context, struct options *options, const sptx_pattern *pattern,
                             const sptx_attention_desc *desc, sptx_attention_info *info, sptx_error *error) {
  sptx_attention *attention = NULL;
  sptx_run_tensors *tensors = &options->tensors;
  enum sptx_code code;
  SPTX_TRY(from_status(sptx_context_set_threads(context, options->common.threads), context, error));
  SPTX_TRY(from_status(sptx_attention_create(context, pattern, desc, &attention), context, error));
  SPTX_TRY_GOTO(from_status(sptx_attention_get_info(attention, info), context, error), done);
  SPTX_TRY_GOTO(sptx_run_tensors_place(tensors, context, error), done);
  SPTX_TRY_GOTO(from_status(run_passes(attention, tensors), context, error), done);
  SPTX_TRY_GOTO(sptx_run_tensors_write(tensors, error), done);
done:
  sptx_run_tensors_clear(tensors); /* while the context lives */
  sptx_attention_destroy(attention);
  return code;
}

static void report_lines(const sptx_run_tensors *tensors) {
  for (int which = SPTX_RUN_INPUTS; which < SPTX_RUN_TENSORS; which++)
    if (tensors->paths[which])
      printf("%s: %s\n", sptx_run_tensor_name((enum sptx_run_tensor)which), tensors->paths[which]);
}

static bool report_json(const struct options *options, const sptx_pattern *pattern,
                        const sptx_attention_desc *desc, const sptx_attention_info *info) {
  cJSON *root = cJSON_CreateObject();
  cJSON_AddStringToObject(root, "name", sptx_pattern_name(pattern));
  cJSON_AddStringToObject(root, "step", sptx_pattern_step_name(pattern, (size_t)desc->step));
  cJSON_AddStringToObject(root, "device", options->common.device);
  cJSON_AddStringToObject(root, "dtype", sptx_element_name((enum sptx_element)desc->dtype));
  const struct {
    const char *name;
    int64_t value;
  } sizes[] = {{"batch", desc->batch}, {"heads", desc->heads}, {"kv_heads", desc->kv_heads},
               {"n_q", desc->n_q},     {"n_k", desc->n_k},     {"head_dim", desc->head_dim}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    cJSON_AddNumberToObject(root, sizes[i].name, (double)sizes[i].value);
  cJSON_AddNumberToObject(root, "scale",
                          desc->scale != 0 ? (double)desc->scale : 1 / sqrt((double)desc->head_dim));
  cJSON_AddNumberToObject(root, "useful_pairs", (double)info->useful_pairs);
  cJSON_AddNumberToObject(root, "computed_pairs", (double)info->computed_pairs);
  cJSON *written = cJSON_AddObjectToObject(root, "written");
  for (int which = SPTX_RUN_INPUTS; which < SPTX_RUN_TENSORS; which++)
    if (options->tensors.paths[which])
      cJSON_AddStringToObject(written, sptx_run_tensor_name((enum sptx_run_tensor)which),
                              options->tensors.paths[which]);
  char *text = cJSON_Print(root);
  cJSON_Delete(root);
  if (text)
    puts(text);
  cJSON_free(text);
  return text != NULL;
}

static enum sptx_code run(struct options *options, sptx_error *error) {
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  sptx_attention_info info = {.struct_size = sizeof info};
  sptx_pattern *pattern = NULL;
  sptx_context *context = NULL;
  enum sptx_code code;
  desc.flags = options->tensors.paths[SPTX_RUN_GRAD_O] ? SPTX_WITH_BACKWARD : 0;
  desc.scale = (float)options->scale;
  desc.soft_cap = (float)options->soft_cap;
  SPTX_TRY_GOTO(sptx_pattern_read(options->pattern_path, options->common.overrides,
                                  options->common.override_count, &pattern, error),
                done);
  SPTX_TRY_GOTO(find_step(options, pattern, &desc.step, error), done);
  SPTX_TRY_GOTO(sptx_run_tensors_read(&options->tensors, &desc, error), done);
  SPTX_TRY_GOTO(from_status(sptx_context_create(&context, options->common.device), NULL, error), done);
  SPTX_TRY_GOTO(run_on(context, options, pattern, &desc, &info, error), done);
  if (!options->json)
    report_lines(&options->tensors);
  else if (!report_json(options, pattern, &desc, &info))
    code = sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the report");
done:
  sptx_run_tensors_clear(&options->tensors);
  sptx_context_destroy(context);
  sptx_pattern_release(pattern);
  return code;
}

int main(int argc, char **argv) {
  struct options options = {0};
  sptx_error error;
  int status = EXIT_SUCCESS;
  sptx_command_options_begin(&options.common, command, 1u << SPTX_PASS_FORWARD);
  if (!parse_arguments(argc, argv, &options))
    status = EXIT_USAGE;
  else if (options.help)
    fputs(usage, stdout);
  else if (options.version)
    puts("sptx-run " SPTX_VERSION);
  else if (run(&options, &error) != SPTX_CODE_OK)
    status = sptx_exit_status(command, &error);
  sptx_command_options_clear(&options.common);
  if (fflush(stdout)) {
    perror("sptx-run: cannot write the report");
    return EXIT_FAILURE;
  }
  return status;
}
