/* Patterns and attentions of the public API: validation, the compiler's front half, and calls on the device.
 */
#include "runtime/attention.h"

#include "gen/compile.h"
#include "gen/problem.h"
#include "runtime/clock.h"
#include "runtime/context.h"
#include "runtime/in_place.h"
#include "runtime/recall.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sptx_attention {
  sptx_context *context;
  void *device_attention;
  int64_t n_k;
  uint32_t flags;
  double create_seconds;
};

static const uint32_t known_flags = SPTX_WITH_BACKWARD | SPTX_WITH_DECODE | SPTX_NONDETERMINISTIC | SPTX_TUNE;

/* The language's layer has a struct of its own for the same thing. */
static sptx_override *copy_params(const sptx_param *params, size_t count) {
  sptx_override *overrides = calloc(count + 1, sizeof *overrides);
  for (size_t i = 0; overrides && i < count; i++)
    overrides[i] = (sptx_override){.name = params[i].name, .value = params[i].value};
  return overrides;
}

static sptx_status check_pattern_arguments(sptx_context *ctx, const void *source, const char *source_name,
                                           const sptx_param *params, size_t param_count,
                                           sptx_pattern **pattern) {
  if (!pattern)
    return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT,
                               "pattern is NULL; pass where to put the pattern");
  *pattern = NULL;
  if (!source)
    return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT, "%s is NULL; it is needed", source_name);
  if (!params && param_count > 0)
    return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT, "params is NULL but param_count is %zu",
                               param_count);
  for (size_t i = 0; i < param_count; i++)
    if (!params[i].name || !params[i].value)
      return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT, "params[%zu] lacks its name or value", i);
  return SPTX_OK;
}

sptx_status sptx_pattern_load(sptx_context *ctx, const char *path, const sptx_param *params,
                              size_t param_count, sptx_pattern **pattern) {
  sptx_status status =
      ctx ? check_pattern_arguments(ctx, path, "path", params, param_count, pattern) : SPTX_INVALID_ARGUMENT;
  if (status != SPTX_OK)
    return status;
  sptx_override *overrides = copy_params(params, param_count);
  if (!overrides)
    return sptx_context_refuse(ctx, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %zu parameters",
                               param_count);
  sptx_error error = {0};
  enum sptx_code code = sptx_pattern_read(path, overrides, param_count, pattern, &error);
  free(overrides);
  return code == SPTX_CODE_OK ? SPTX_OK : sptx_context_fail(ctx, &error);
}

sptx_status sptx_pattern_from_text(sptx_context *ctx, const char *text, size_t length, const char *name,
                                   const sptx_param *params, size_t param_count, sptx_pattern **pattern) {
  sptx_status status =
      ctx ? check_pattern_arguments(ctx, text, "text", params, param_count, pattern) : SPTX_INVALID_ARGUMENT;
  if (status != SPTX_OK)
    return status;
  sptx_override *overrides = copy_params(params, param_count);
  if (!overrides)
    return sptx_context_refuse(ctx, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for %zu parameters",
                               param_count);
  sptx_error error = {0};
  enum sptx_code code =
      sptx_pattern_parse(text, length, name ? name : "text", overrides, param_count, pattern, &error);
  free(overrides);
  return code == SPTX_CODE_OK ? SPTX_OK : sptx_context_fail(ctx, &error);
}

void sptx_pattern_destroy(sptx_pattern *pattern) {
  sptx_pattern_release(pattern);
}

size_t sptx_pattern_steps(const sptx_pattern *pattern) {
  return pattern ? sptx_pattern_step_count(pattern) : 0;
}

size_t sptx_pattern_step_of_layer(const sptx_pattern *pattern, int64_t layer) {
  return pattern ? sptx_pattern_layer_step(pattern, layer) : 0;
}

static sptx_strides strides_of(sptx_tensor_strides strides) {
  return (sptx_strides){.batch = strides.batch, .head = strides.head, .position = strides.position};
}

/* What the problem's own check does not see: flags, step and the score's changes. */
static enum sptx_code check_desc(const sptx_attention_desc *desc, const sptx_pattern *pattern,
                                 sptx_error *error) {
  if (desc->struct_size != sizeof *desc)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "desc.struct_size is %zu; start from SPTX_ATTENTION_DESC_INIT of sptx " SPTX_VERSION
                     ", whose size is %zu",
                     desc->struct_size, sizeof *desc);
  if (desc->flags & ~known_flags)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "desc.flags has the unknown bits 0x%" PRIx32,
                     desc->flags & ~known_flags);
  size_t steps = sptx_pattern_step_count(pattern);
  if (desc->step < 0 || (uint64_t)desc->step >= steps)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "desc.step is %" PRId64 "; the pattern has %zu steps",
                     desc->step, steps);
  if (!isfinite(desc->scale))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "desc.scale is not finite");
  if (!isfinite(desc->soft_cap) || desc->soft_cap < 0)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "desc.soft_cap is %g; it must be positive, or 0 for no cap", (double)desc->soft_cap);
  if (desc->head_dim < 16 || desc->head_dim > 256)
    return sptx_fail(error, SPTX_CODE_UNSUPPORTED,
                     "head_dim is %" PRId64 "; it must be a multiple of 8 from 16 to 256", desc->head_dim);
  if (desc->flags & SPTX_TUNE && !(desc->tune_seconds >= 0 && isfinite(desc->tune_seconds)))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT,
                     "desc.tune_seconds is %g; with SPTX_TUNE it must be a number of seconds from 0 on",
                     desc->tune_seconds);
  return SPTX_CODE_OK;
}

/* Only after the problem's check: heads says how many there are. */
static enum sptx_code check_slopes(const sptx_attention_desc *desc, sptx_error *error) {
  for (int64_t head = 0; desc->alibi_slopes && head < desc->heads; head++)
    if (!isfinite(desc->alibi_slopes[head]))
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "desc.alibi_slopes[%" PRId64 "] is not finite",
                       head);
  return SPTX_CODE_OK;
}

static sptx_problem problem_of(const sptx_attention_desc *desc) {
  return (sptx_problem){
      .element = (enum sptx_element)desc->dtype,
      .batch = desc->batch,
      .heads = desc->heads,
      .kv_heads = desc->kv_heads ? desc->kv_heads : desc->heads,
      .n_q = desc->n_q,
      .n_k = desc->n_k,
      .head_dim = (int)desc->head_dim,
      .q = strides_of(desc->q),
      .k = strides_of(desc->k),
      .v = strides_of(desc->v),
      .o = strides_of(desc->o),
      .soft_cap = desc->soft_cap > 0,
      .alibi = desc->alibi_slopes != NULL,
      .negative_scale = desc->scale < 0,
      .deterministic = !(desc->flags & SPTX_NONDETERMINISTIC),
  };
}

/* What wisdom knows was measured for a shape of the same class, or came from elsewhere: where it does not fit
 * this one, the default does. */
static enum sptx_code create_recalled(sptx_attention *attention, sptx_request *request, sptx_error *error) {
  const sptx_context *context = attention->context;
  const bool recalled = request->schedules[0] || request->schedules[1] || request->schedules[2];
  enum sptx_code code = context->kind->create(context->device, request, &attention->device_attention, error);
  if (!recalled ||
      (code != SPTX_CODE_UNSUPPORTED && code != SPTX_CODE_INVALID_ARGUMENT && code != SPTX_CODE_COMPILE))
    return code;
  memset(request->schedules, 0, sizeof request->schedules);
  return context->kind->create(context->device, request, &attention->device_attention, error);
}

/* Hands the lowered pattern to the device. */
static enum sptx_code create_on_device(sptx_attention *attention, const sptx_compilation *compilation,
                                       const sptx_attention_desc *desc, const void *const schedules[3],
                                       sptx_error *error) {
  sptx_context *context = attention->context;
  sptx_cache cache = {.directory = sptx_context_copy_cache_directory(context)};
  sptx_request request = {
      .problem = compilation->problem,
      .scale = desc->scale != 0 ? desc->scale : 1 / sqrtf((float)desc->head_dim),
      .soft_cap = desc->soft_cap,
      .alibi_slopes = desc->alibi_slopes,
      .threads = atomic_load(&context->threads),
      .backward = desc->flags & SPTX_WITH_BACKWARD,
      .decode = desc->flags & SPTX_WITH_DECODE,
      .lists = compilation->lists,
      .class_count = compilation->instance.class_count,
      .class_of_head = compilation->instance.class_of_head,
      .cache = &cache,
  };
  sptx_recalled recalled;
  enum sptx_code code = SPTX_CODE_OK;
  if (schedules)
    memcpy(request.schedules, schedules, sizeof request.schedules);
  else
    sptx_recall(context, &request, &recalled);
  if (!schedules && desc->flags & SPTX_TUNE)
    code = sptx_tune_in_place(context, &request, desc->tune_seconds, &recalled, error);
  if (code == SPTX_CODE_OK)
    code = schedules ? context->kind->create(context->device, &request, &attention->device_attention, error)
                     : create_recalled(attention, &request, error);
  free(cache.directory);
  return code;
}

sptx_status sptx_attention_create_scheduled(sptx_context *ctx, const sptx_pattern *pattern,
                                            const sptx_attention_desc *desc, const void *const schedules[3],
                                            sptx_attention **attention) {
  if (!ctx)
    return SPTX_INVALID_ARGUMENT;
  if (!attention)
    return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT, "attention is NULL; pass where to put it");
  *attention = NULL;
  if (!pattern || !desc)
    return sptx_context_refuse(ctx, SPTX_CODE_INVALID_ARGUMENT, "%s is NULL; it is needed",
                               pattern ? "desc" : "pattern");
  double start = sptx_now();
  sptx_error error = {0};
  sptx_compilation compilation = {.pattern = pattern, .step = (size_t)desc->step};
  sptx_attention *created = calloc(1, sizeof *created);
  enum sptx_code code =
      created ? check_desc(desc, pattern, &error)
              : sptx_fail(&error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for an attention");
  if (code != SPTX_CODE_OK)
    goto done;
  *created = (sptx_attention){.context = ctx, .n_k = desc->n_k, .flags = desc->flags};
  compilation.problem = problem_of(desc);
  SPTX_TRY_GOTO(sptx_compile(&compilation, SPTX_STAGE_CHECK, &error), done);
  SPTX_TRY_GOTO(check_slopes(desc, &error), done);
  SPTX_TRY_GOTO(sptx_compile(&compilation, SPTX_STAGE_LOWER, &error), done);
  SPTX_TRY_GOTO(create_on_device(created, &compilation, desc, schedules, &error), done);
  created->create_seconds = sptx_now() - start;
done:
  sptx_compilation_clear(&compilation);
  if (code != SPTX_CODE_OK) {
    free(created);
    return sptx_context_fail(ctx, &error);
  }
  *attention = created;
  return SPTX_OK;
}

sptx_status sptx_attention_create(sptx_context *ctx, const sptx_pattern *pattern,
                                  const sptx_attention_desc *desc, sptx_attention **attention) {
  return sptx_attention_create_scheduled(ctx, pattern, desc, NULL, attention);
}

void sptx_attention_destroy(sptx_attention *attention) {
  if (!attention)
    return;
  attention->context->kind->destroy(attention->device_attention);
  free(attention);
}

typedef struct named_pointer {
  const char *name;
  const void *pointer;
} named_pointer;

/* Runs a pass after the check that it was prepared and that no tensor is missing. */
static sptx_status run(const sptx_attention *attention, enum sptx_pass pass, uint32_t flag,
                       const char *flag_name, const named_pointer *needed, size_t needed_count,
                       sptx_tensors *tensors) {
  if (!attention)
    return SPTX_INVALID_ARGUMENT;
  sptx_context *context = attention->context;
  if (flag && !(attention->flags & flag))
    return sptx_context_refuse(context, SPTX_CODE_INVALID_ARGUMENT,
                               "the attention cannot run %s: create it with %s in desc.flags",
                               sptx_pass_name(pass), flag_name);
  for (size_t i = 0; i < needed_count; i++)
    if (!needed[i].pointer)
      return sptx_context_refuse(context, SPTX_CODE_INVALID_ARGUMENT, "%s is NULL; %s needs it",
                                 needed[i].name, sptx_pass_name(pass));
  tensors->threads = atomic_load(&context->threads);
  sptx_error error = {0};
  enum sptx_code code = context->kind->run(attention->device_attention, pass, tensors, &error);
  return code == SPTX_CODE_OK ? SPTX_OK : sptx_context_fail(context, &error);
}

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

sptx_status sptx_attention_forward(const sptx_attention *attention, const void *q, const void *k,
                                   const void *v, void *o, float *lse, void *stream) {
  const named_pointer needed[] = {{"q", q}, {"k", k}, {"v", v}, {"o", o}};
  sptx_tensors tensors = {.q = q, .k = k, .v = v, .o = o, .lse = lse, .stream = stream};
  return run(attention, SPTX_PASS_FORWARD, 0, NULL, needed, COUNT(needed), &tensors);
}

sptx_status sptx_attention_backward(const sptx_attention *attention, const void *q, const void *k,
                                    const void *v, const void *o, const float *lse, const void *d_o,
                                    void *d_q, void *d_k, void *d_v, void *stream) {
  const named_pointer needed[] = {{"q", q},     {"k", k},     {"v", v},     {"o", o},    {"lse", lse},
                                  {"d_o", d_o}, {"d_q", d_q}, {"d_k", d_k}, {"d_v", d_v}};
  sptx_tensors tensors = {.q = q,
                          .k = k,
                          .v = v,
                          .o = (void *)o,
                          .lse = (float *)lse,
                          .d_o = d_o,
                          .d_q = d_q,
                          .d_k = d_k,
                          .d_v = d_v,
                          .stream = stream};
  return run(attention, SPTX_PASS_BACKWARD, SPTX_WITH_BACKWARD, "SPTX_WITH_BACKWARD", needed, COUNT(needed),
             &tensors);
}

sptx_status sptx_attention_decode(const sptx_attention *attention, int64_t position, const void *q,
                                  const void *k, const void *v, void *o, float *lse, void *stream) {
  if (attention && (position < 0 || position >= attention->n_k))
    return sptx_context_refuse(attention->context, SPTX_CODE_INVALID_ARGUMENT,
                               "position is %" PRId64 "; it must be from 0 to n_k - 1 = %" PRId64, position,
                               attention->n_k - 1);
  const named_pointer needed[] = {{"q", q}, {"k", k}, {"v", v}, {"o", o}};
  sptx_tensors tensors = {.q = q, .k = k, .v = v, .o = o, .lse = lse, .position = position, .stream = stream};
  return run(attention, SPTX_PASS_DECODE, SPTX_WITH_DECODE, "SPTX_WITH_DECODE", needed, COUNT(needed),
             &tensors);
}

sptx_status sptx_attention_get_info(const sptx_attention *attention, sptx_attention_info *info) {
  if (!attention)
    return SPTX_INVALID_ARGUMENT;
  if (!info || info->struct_size != sizeof *info)
    return sptx_context_refuse(attention->context, SPTX_CODE_INVALID_ARGUMENT,
                               "info is NULL or its struct_size is not sizeof(sptx_attention_info) = %zu",
                               sizeof *info);
  *info = (sptx_attention_info){.struct_size = sizeof *info, .create_seconds = attention->create_seconds};
  attention->context->kind->info(attention->device_attention, info);
  return SPTX_OK;
}
