/* sptx-gen: explains, draws and dumps a pattern, and emits its kernels as files. */
#include "gen/emission/emission.h"
#include "gen/gen_arguments.h"
#include "gen/problem.h"
#include "gen/targets_text.h"
#include "patterns/draw.h"
#include "patterns/explain.h"
#include "patterns/mask.h"
#include "patterns/print.h"
#include <cjson/cJSON.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char command[] = "sptx-gen";

/* What the arguments ask for, made from them. */
typedef struct task {
  const sptx_gen_arguments *arguments;
  const char *command_line;
  sptx_pattern *pattern;
  const sptx_target *target;
  sptx_schedule schedule;
} task;

/* The pattern's and the step's name as a C identifier; the caller frees it. */
static char *default_name(const task *t, size_t step) {
  const char *pattern = sptx_pattern_name(t->pattern), *of_step = sptx_pattern_step_name(t->pattern, step);
  const char *base = t->arguments->name ? t->arguments->name : pattern;
  char *name = NULL;
  bool digit = isdigit((unsigned char)base[0]);
  if (asprintf(&name, "%s%s%s%s", digit ? "attention_" : "", base, *of_step ? "_" : "", of_step) < 0)
    return NULL;
  for (char *c = name; *c; c++)
    if (!isalnum((unsigned char)*c))
      *c = '_';
  return name;
}

static sptx_problem problem_of(const sptx_gen_arguments *arguments) {
  const sptx_command_options *common = &arguments->common;
  return (sptx_problem){.element = common->element,
                        .batch = common->batch,
                        .heads = common->heads,
                        .kv_heads = common->kv_heads,
                        .n_q = common->n_q,
                        .n_k = common->n_k,
                        .head_dim = (int)common->head_dim,
                        .soft_cap = arguments->soft_cap,
                        .alibi = arguments->alibi,
                        .deterministic = !arguments->any_order};
}

/* Compiles one step into files, or prints one form of it. */
static enum sptx_code compile_step(const task *t, size_t step, sptx_artefacts *artefacts, sptx_error *error) {
  static const enum sptx_dump dumps[] = {[SPTX_FORM_SCHEDULE] = SPTX_DUMP_SCHEDULE,
                                         [SPTX_FORM_IR] = SPTX_DUMP_IR,
                                         [SPTX_FORM_ASM] = SPTX_DUMP_ASM};
  const sptx_gen_arguments *arguments = t->arguments;
  sptx_compilation compilation = {.pattern = t->pattern, .step = step, .problem = problem_of(arguments)};
  char *name = default_name(t, step);
  enum sptx_code code = name ? sptx_compile(&compilation, SPTX_STAGE_LOWER, error)
                             : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a name");
  if (code == SPTX_CODE_OK) {
    const sptx_emission emission = {.compilation = &compilation,
                                    .command_line = t->command_line,
                                    .name = name,
                                    .target = t->target,
                                    .schedule = arguments->schedule ? &t->schedule : NULL,
                                    .passes = arguments->common.passes};
    code = artefacts ? sptx_emit(&emission, artefacts, error)
                     : sptx_emission_dump(&emission, dumps[arguments->dump], stdout, error);
  }
  sptx_compilation_clear(&compilation);
  free(name);
  return code;
}

static enum sptx_code compile_steps(const task *t, sptx_artefacts *artefacts, sptx_error *error) {
  size_t first, count;
  SPTX_TRY(sptx_step_select(t->pattern, t->arguments->common.step, &first, &count, error));
  for (size_t step = first; step < first + count; step++)
    SPTX_TRY(compile_step(t, step, artefacts, error));
  return SPTX_CODE_OK;
}

static enum sptx_code no_memory(sptx_error *error) {
  return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "out of memory for a report");
}

/* The list of what was written. */
static enum sptx_code report_json(const task *t, const sptx_artefacts *artefacts, sptx_error *error) {
  cJSON *object = cJSON_CreateObject();
  cJSON_AddStringToObject(object, "name", sptx_pattern_name(t->pattern));
  cJSON_AddStringToObject(object, "target", t->target->name);
  cJSON_AddStringToObject(object, "folder", t->arguments->folder);
  cJSON *files = cJSON_AddArrayToObject(object, "files");
  for (size_t i = 0; i < artefacts->count; i++) {
    cJSON *file = cJSON_CreateObject();
    cJSON_AddStringToObject(file, "name", artefacts->files[i].name);
    cJSON_AddNumberToObject(file, "bytes", (double)artefacts->files[i].size);
    cJSON_AddItemToArray(files, file);
  }
  char *text = cJSON_Print(object);
  cJSON_Delete(object);
  if (!text)
    return no_memory(error);
  puts(text);
  free(text);
  return SPTX_CODE_OK;
}

static enum sptx_code emit(const task *t, sptx_error *error) {
  const char *folder = t->arguments->folder;
  sptx_artefacts artefacts = {0};
  enum sptx_code code = compile_steps(t, &artefacts, error);
  if (code == SPTX_CODE_OK)
    code = sptx_artefacts_write(&artefacts, folder, error);
  if (code == SPTX_CODE_OK && t->arguments->json)
    code = report_json(t, &artefacts, error);
  else
    for (size_t i = 0; i < artefacts.count && code == SPTX_CODE_OK; i++)
      printf("%s/%s\n", folder, artefacts.files[i].name);
  sptx_artefacts_clear(&artefacts);
  return code;
}

static void schedule_tiles(const task *t, int64_t *query_tile, int64_t *key_tile) {
  bool x86 = t->target->family == SPTX_FAMILY_X86;
  *query_tile = x86 ? t->schedule.x86.query_tile : t->schedule.ptx.query_tile;
  *key_tile = x86 ? t->schedule.x86.key_tile : t->schedule.ptx.key_tile;
}

static enum sptx_code explain(const task *t, sptx_error *error) {
  const sptx_command_options *common = &t->arguments->common;
  sptx_explain_request request = {.n_q = common->n_q,
                                  .n_k = common->n_k,
                                  .heads = common->heads,
                                  .step = common->step,
                                  .json = t->arguments->json,
                                  .row_bytes = common->head_dim * sptx_element_bytes(common->element)};
  schedule_tiles(t, &request.query_tile, &request.key_tile);
  return sptx_explain(t->pattern, &request, stdout, error);
}

static enum sptx_code draw(const task *t, sptx_error *error) {
  const sptx_command_options *common = &t->arguments->common;
  const sptx_draw_request request = {
      .n_q = common->n_q, .n_k = common->n_k, .heads = common->heads, .step = common->step, .query = -1};
  return sptx_draw(t->pattern, &request, t->arguments->draw, error);
}

static enum sptx_code dump(const task *t, const sptx_selection *selection, sptx_error *error) {
  int64_t query_tile, key_tile;
  schedule_tiles(t, &query_tile, &key_tile);
  switch (t->arguments->dump) {
  case SPTX_FORM_NONE:
    return SPTX_CODE_OK;
  case SPTX_FORM_PATTERN:
    return sptx_print_pattern(t->pattern, selection, stdout, error);
  case SPTX_FORM_PIECES:
    return sptx_print_pieces(t->pattern, selection, query_tile, key_tile, stdout, error);
  default:
    return compile_steps(t, NULL, error);
  }
}

/* Does everything that was asked for, cheap things first. */
static enum sptx_code do_task(const task *t, sptx_error *error) {
  const sptx_gen_arguments *arguments = t->arguments;
  const sptx_command_options *common = &arguments->common;
  const sptx_selection selection = {common->n_q, common->n_k, common->heads, common->step};
  if (arguments->check)
    SPTX_TRY(explain(t, error));
  if (arguments->draw)
    SPTX_TRY(draw(t, error));
  if (arguments->mask)
    SPTX_TRY(sptx_mask_write(t->pattern, &selection, arguments->mask, error));
  SPTX_TRY(dump(t, &selection, error));
  return arguments->folder ? emit(t, error) : SPTX_CODE_OK;
}

static int run(const sptx_gen_arguments *arguments, const char *command_line) {
  task t = {.arguments = arguments, .command_line = command_line};
  const sptx_command_options *common = &arguments->common;
  sptx_error error;
  enum sptx_code code = sptx_target_find(arguments->target, &t.target, &error);
  if (code == SPTX_CODE_OK && arguments->schedule) {
    code = sptx_schedule_parse(t.target->family, arguments->schedule, &t.schedule, &error);
    if (code == SPTX_CODE_FORMAT) /* typed, not read from a file */
      error.code = SPTX_CODE_INVALID_ARGUMENT;
  }
  if (code == SPTX_CODE_OK)
    code = sptx_pattern_read(arguments->path, common->overrides, common->override_count, &t.pattern, &error);
  if (code == SPTX_CODE_OK)
    code = do_task(&t, &error);
  sptx_pattern_release(t.pattern);
  return code == SPTX_CODE_OK ? EXIT_SUCCESS : sptx_exit_status(command, &error);
}

static int print_targets(bool json) {
  sptx_error error;
  return sptx_targets_print(json, stdout, &error) == SPTX_CODE_OK ? EXIT_SUCCESS
                                                                  : sptx_exit_status(command, &error);
}

int main(int argc, char **argv) {
  enum { EXIT_USAGE = 2 };
  sptx_gen_arguments arguments;
  int status = EXIT_SUCCESS;
  char *command_line = sptx_gen_command_line(argc, argv);
  if (!sptx_gen_arguments_read(argc, argv, &arguments))
    status = EXIT_USAGE;
  else if (arguments.help)
    fputs(sptx_gen_usage, stdout);
  else if (arguments.version)
    puts("sptx-gen " SPTX_VERSION);
  else if (arguments.targets)
    status = print_targets(arguments.json);
  else
    status = run(&arguments, command_line ? command_line : command);
  sptx_command_options_clear(&arguments.common);
  free(command_line);
  if (fflush(stdout) || ferror(stdout)) {
    perror("sptx-gen: cannot write the results");
    return EXIT_FAILURE;
  }
  return status;
}
