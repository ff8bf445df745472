/* Runs the kernels of ceiling_ptx.c between events; see ceiling_cuda.h. */
#include "tuner/ceiling_cuda.h"

#include "tuner/ceiling_work.h"
#include <math.h>
#include <stdlib.h>

enum { THREADS = 256, COPY_BYTES = 128 << 20, TRIES = 5, LAUNCHES = 20, ROUNDS = 4096 };

/* Everything that the measurement holds on the device. */
typedef struct measuring {
  const sptx_cuda_device *device;
  sptx_cu_module module;
  sptx_cu_stream stream;
  sptx_cu_event begin, end;
  sptx_cu_pointer from, to; /* of the copy; the other kernels touch no memory */
} measuring;

static enum sptx_code load_module(measuring *m, sptx_error *error) {
  char *text = NULL;
  size_t size = 0;
  FILE *stream = open_memstream(&text, &size);
  if (!stream)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for the kernels that measure a GPU");
  sptx_ceiling_ptx(sptx_cuda_device_target(m->device), stream);
  bool written = !ferror(stream);
  written = fclose(stream) == 0 && written;
  enum sptx_code code = written ? sptx_cuda_module_load(m->device, text, &m->module, error)
                                : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY,
                                            "not enough memory for the kernels that measure a GPU");
  free(text);
  return code;
}

static enum sptx_code open_all(measuring *m, sptx_error *error) {
  const sptx_cuda_device *device = m->device;
  SPTX_TRY(load_module(m, error));
  SPTX_TRY(sptx_cuda_stream_create(device, &m->stream, error));
  SPTX_TRY(SPTX_CU_CALL(device, EventCreate, &m->begin, 0));
  return SPTX_CU_CALL(device, EventCreate, &m->end, 0);
}

static void close_all(measuring *m) {
  const sptx_cuda_device *device = m->device;
  sptx_cuda_free(device, m->from);
  sptx_cuda_free(device, m->to);
  if (m->begin)
    device->driver->EventDestroy(m->begin);
  if (m->end)
    device->driver->EventDestroy(m->end);
  sptx_cuda_stream_destroy(device, m->stream);
  if (m->module)
    device->driver->ModuleUnload(m->module);
}

/* Seconds of `launches` launches of a kernel, the shortest of several tries; the first warms up. */
static enum sptx_code time_kernel(measuring *m, const char *name, unsigned ctas, unsigned count, int launches,
                                  double *seconds, sptx_error *error) {
  const sptx_cuda_device *device = m->device;
  sptx_cu_function function;
  void *params[] = {&m->from, &m->to, &count};
  SPTX_TRY(SPTX_CU_CALL(device, ModuleGetFunction, &function, m->module, name));
  *seconds = INFINITY;
  for (int k = 0; k <= TRIES; k++) {
    float ms = 0;
    SPTX_TRY(SPTX_CU_CALL(device, EventRecord, m->begin, m->stream));
    for (int l = 0; l < launches; l++)
      SPTX_TRY(SPTX_CU_CALL(device, LaunchKernel, function, ctas, 1, 1, THREADS, 1, 1, 0, m->stream, params,
                            NULL));
    SPTX_TRY(SPTX_CU_CALL(device, EventRecord, m->end, m->stream));
    SPTX_TRY(SPTX_CU_CALL(device, EventSynchronize, m->end));
    SPTX_TRY(SPTX_CU_CALL(device, EventElapsedTime, &ms, m->begin, m->end));
    if (k > 0)
      *seconds = fmin(*seconds, 1e-3 * ms);
  }
  if (!(*seconds > 0))
    return sptx_fail(error, SPTX_CODE_DEVICE, "the GPU's clock says that '%s' takes no time", name);
  return SPTX_CODE_OK;
}

static enum sptx_code measure(measuring *m, sptx_rates *rates, sptx_error *error) {
  unsigned processors = (unsigned)m->device->multiprocessors, ctas = 8 * processors;
  bool hopper = sptx_cuda_device_target(m->device) == SPTX_PTX_SM90A;
  /* Two warpgroups with 128 sums in each thread take a multiprocessor's registers; of mma.sync, four CTAs
   * fit. */
  unsigned product_ctas = (hopper ? 1 : 4) * processors;
  double operations = hopper ? 2.0 * 64 * 256 * 16 * SPTX_WGMMA_BATCH * THREADS / 128
                             : 2.0 * 16 * 8 * 16 * SPTX_MMA_CHAINS * THREADS / 32;
  double products, copy, exps, launch;
  SPTX_TRY(time_kernel(m, "products", product_ctas, ROUNDS, 1, &products, error));
  SPTX_TRY(time_kernel(m, "exponentials", ctas, ROUNDS, 1, &exps, error));
  SPTX_TRY(time_kernel(m, "nothing", 1, 1, LAUNCHES, &launch, error));
  SPTX_TRY(sptx_cuda_alloc(m->device, COPY_BYTES, &m->from, error));
  SPTX_TRY(sptx_cuda_alloc(m->device, COPY_BYTES, &m->to, error));
  SPTX_TRY(time_kernel(m, "copy", ctas, COPY_BYTES / 16, 1, &copy, error));
  *rates = (sptx_rates){.flops = operations * ROUNDS * product_ctas / products,
                        .copy = 2.0 * COPY_BYTES / copy,
                        .exp = (double)SPTX_EXP_CHAINS * ROUNDS * THREADS * ctas / exps,
                        .launch = launch / LAUNCHES,
                        .threads = (int)processors};
  return SPTX_CODE_OK;
}

enum sptx_code sptx_ceiling_cuda(const sptx_cuda_device *device, sptx_rates *rates, sptx_error *error) {
  measuring m = {.device = device};
  SPTX_TRY(sptx_cuda_enter(device, error));
  enum sptx_code code = open_all(&m, error);
  if (code == SPTX_CODE_OK)
    code = measure(&m, rates, error);
  close_all(&m);
  sptx_cuda_leave(device);
  return code;
}
