/* Opening the CUDA driver library and naming its errors. */
#include "runtime/cuda_driver.h"
#include <dlfcn.h>
#include <string.h>

static enum sptx_code resolve(sptx_cuda_driver *driver, sptx_error *error) {
#define SPTX_CU_RESOLVE(name, symbol, parameters)                                                            \
  {                                                                                                          \
    void *found = dlsym(driver->library, symbol);                                                            \
    if (!found)                                                                                              \
      return sptx_fail(error, SPTX_CODE_NO_DEVICE,                                                           \
                       "the CUDA driver is too old: libcuda.so.1 has no %s; install a driver of CUDA 12.0 "  \
                       "or later",                                                                           \
                       symbol);                                                                              \
    memcpy(&driver->name, &found, sizeof found);                                                             \
  }
  SPTX_CU_FUNCTIONS(SPTX_CU_RESOLVE)
#undef SPTX_CU_RESOLVE
  return SPTX_CODE_OK;
}

enum sptx_code sptx_cuda_driver_open(sptx_cuda_driver *driver, sptx_error *error) {
  memset(driver, 0, sizeof *driver);
  driver->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!driver->library)
    return sptx_fail(
        error, SPTX_CODE_NO_DEVICE,
        "no CUDA driver on this machine (%s): install NVIDIA's driver, or use the device \"cpu\"", dlerror());
  enum sptx_code code = resolve(driver, error);
  if (code == SPTX_CODE_OK && driver->Init(0) != 0)
    code = sptx_fail(error, SPTX_CODE_NO_DEVICE,
                     "the CUDA driver finds no usable GPU (cuInit failed): check nvidia-smi, or use the "
                     "device \"cpu\"");
  if (code != SPTX_CODE_OK)
    sptx_cuda_driver_close(driver);
  return code;
}

void sptx_cuda_driver_close(sptx_cuda_driver *driver) {
  if (driver->library)
    dlclose(driver->library);
  memset(driver, 0, sizeof *driver);
}

enum sptx_code sptx_cuda_check(const sptx_cuda_driver *driver, sptx_cu_result result, const char *call,
                               sptx_error *error) {
  if (result == 0)
    return SPTX_CODE_OK;
  const char *name = NULL, *text = NULL, *remedy = "";
  enum sptx_code code = SPTX_CODE_DEVICE;
  driver->GetErrorName(result, &name);
  driver->GetErrorString(result, &text);
  if (result == SPTX_CU_ERROR_OUT_OF_MEMORY) {
    code = SPTX_CODE_DEVICE_MEMORY;
    remedy = "; free device memory or use a smaller shape";
  } else if (result == SPTX_CU_ERROR_UNSUPPORTED_PTX_VERSION) {
    code = SPTX_CODE_UNSUPPORTED;
    remedy = "; this driver is too old for the kernel: install a newer one, or use the device \"cpu\"";
  }
  return sptx_fail(error, code, "%s: %s, %s%s", call, name ? name : "unknown error", text ? text : "no text",
                   remedy);
}
