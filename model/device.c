/* Chooses a device by name. A new kind of device is one more row here. */
#include "model/device.h"

#include <string.h>

enum sptx_code sptx_device_create(const char *name, int threads, sptx_device **device, sptx_error *error) {
  *device = NULL;
  if (!strcmp(name, "cpu"))
    return sptx_device_create_cpu(threads, device, error);
  return sptx_fail(error, SPTX_CODE_NO_DEVICE, "the model does not run on '%s'; use device: cpu", name);
}

void sptx_device_destroy(sptx_device *device) {
  if (device)
    device->ops->destroy(device);
}
