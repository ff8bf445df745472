/* Facts about a device, found out in workers; see tune_device.h. */
#include "tuner/tune_device.h"

#include "runtime/context.h"
#include "tuner/ceiling.h"
#include "tuner/ceiling_cuda.h"
#include "tuner/worker.h"
#include <stdlib.h>
#include <string.h>

static const double patience_seconds = 60;

typedef struct question {
  const char *name;
  int threads;
  enum sptx_target_family family; /* where it is known */
} question;

static enum sptx_code describe(void *user, void *result, sptx_error *error) {
  const question *asked = user;
  sptx_tune_device *device = result;
  sptx_context *context;
  sptx_status status = sptx_context_create(&context, asked->name);
  if (status != SPTX_OK)
    return sptx_fail(error, (enum sptx_code)status, "%s", sptx_last_error(NULL));
  context->kind->describe(context->device, asked->threads, device->text, sizeof device->text);
  device->family = context->kind->family;
  if (device->family == SPTX_FAMILY_PTX)
    device->ptx = context->kind->target(context->device);
  sptx_context_destroy(context);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_tune_device_find(const char *name, int threads, sptx_tune_device *device,
                                     sptx_error *error) {
  question asked = {.name = name, .threads = threads};
  memset(device, 0, sizeof *device);
  return sptx_worker_once(describe, &asked, patience_seconds, device, sizeof *device, error);
}

static enum sptx_code measure(void *user, void *result, sptx_error *error) {
  const question *asked = user;
  sptx_cuda_driver driver;
  sptx_cuda_device device;
  if (asked->family == SPTX_FAMILY_X86)
    return sptx_ceiling_measure(asked->threads, result, error);
  SPTX_TRY(sptx_cuda_driver_open(&driver, error));
  enum sptx_code code = sptx_cuda_device_open(&driver, atoi(asked->name + strlen("cuda:")), &device, error);
  if (code == SPTX_CODE_OK) {
    code = sptx_ceiling_cuda(&device, result, error);
    sptx_cuda_device_close(&device);
  }
  sptx_cuda_driver_close(&driver);
  return code;
}

static bool recall(const sptx_tune_device *device, const char *path, sptx_rates *rates) {
  sptx_wisdom *wisdom = NULL;
  bool found = false;
  if (sptx_wisdom_open(path, SPTX_WISDOM_READ, &wisdom, NULL) == SPTX_CODE_OK)
    sptx_wisdom_find_rates(wisdom, device->text, rates, &found);
  sptx_wisdom_close(wisdom);
  return found;
}

static void remember(const sptx_tune_device *device, const char *path, const sptx_rates *rates) {
  sptx_wisdom *wisdom = NULL;
  if (sptx_wisdom_open(path, SPTX_WISDOM_WRITE, &wisdom, NULL) == SPTX_CODE_OK)
    (void)sptx_wisdom_record_rates(wisdom, device->text, rates, NULL);
  sptx_wisdom_close(wisdom);
}

enum sptx_code sptx_tune_device_rates(const char *name, const sptx_tune_device *device, int threads,
                                      const char *wisdom_path, sptx_rates *rates, sptx_error *error) {
  question asked = {name, threads, device->family};
  if (wisdom_path && recall(device, wisdom_path, rates))
    return SPTX_CODE_OK;
  SPTX_TRY(sptx_worker_once(measure, &asked, patience_seconds, rates, sizeof *rates, error));
  if (wisdom_path)
    remember(device, wisdom_path, rates);
  return SPTX_CODE_OK;
}
