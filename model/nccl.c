/* Opens libnccl.so.2 and finds its functions by name; none of it is linked. See nccl.h. */
#include "model/nccl.h"

#include <dlfcn.h>
#include <string.h>

static enum sptx_code resolve(const char *library, sptx_nccl *nccl, sptx_error *error) {
#define SPTX_NCCL_RESOLVE(result, name, parameters)                                                          \
  *(void **)&nccl->name = dlsym(nccl->handle, "nccl" #name);                                                 \
  if (!nccl->name)                                                                                           \
    return sptx_fail(error, SPTX_CODE_NO_DEVICE, "%s has no nccl" #name ": install NCCL 2.4 or later",       \
                     library);
  SPTX_NCCL_FUNCTIONS(SPTX_NCCL_RESOLVE)
#undef SPTX_NCCL_RESOLVE
  return SPTX_CODE_OK;
}

enum sptx_code sptx_nccl_open(const char *name, sptx_nccl *nccl, sptx_error *error) {
  memset(nccl, 0, sizeof *nccl);
  nccl->handle = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!nccl->handle)
    return sptx_fail(
        error, SPTX_CODE_NO_DEVICE,
        "training on several GPUs needs NCCL, which cannot be opened (%s): install libnccl2 or add "
        "its folder to LD_LIBRARY_PATH",
        dlerror());
  enum sptx_code code = resolve(name, nccl, error);
  if (code != SPTX_CODE_OK)
    sptx_nccl_close(nccl);
  return code;
}

void sptx_nccl_close(sptx_nccl *nccl) {
  if (nccl->handle)
    dlclose(nccl->handle);
  memset(nccl, 0, sizeof *nccl);
}
