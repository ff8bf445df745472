/* Chooses a device by name. A new kind of device is one more row here. */
#include "model/device.h"

#include <stdio.h>
#include <string.h>

enum sptx_code sptx_device_create(const char *name, int threads, sptx_device **device, sptx_error *error) {
  char rest;
  unsigned ordinal;
  *device = NULL;
  if (!strcmp(name, "cpu"))
    return sptx_device_create_cpu(threads, device, error);
  if (sscanf(name, "cuda:%4u%c", &ordinal, &rest) == 1)
    return sptx_device_create_cuda((int)ordinal, device, error);
  return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "'%s' is not a device; use device: cpu or cuda:N",
                   name);
}

void sptx_device_choose(char *name, size_t size, int local_rank) {
  char rest;
  unsigned first;
  if (sscanf(name, "cuda:%4u%c", &first, &rest) == 1)
    snprintf(name, size, "cuda:%u", first + (unsigned)local_rank);
}

void sptx_device_destroy(sptx_device *device) {
  if (device)
    device->ops->destroy(device);
}
