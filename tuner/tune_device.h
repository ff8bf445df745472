/* The device that is tuned, as far as the tuning process may know it: that process opens no device itself,
 * since neither OpenMP nor CUDA survives the fork of its workers. */
#ifndef SPTX_TUNER_TUNE_DEVICE_H
#define SPTX_TUNER_TUNE_DEVICE_H

#include "gen/rates.h"
#include "gen/targets.h"
#include "runtime/wisdom.h"

typedef struct sptx_tune_device {
  char text[SPTX_WISDOM_TEXT]; /* its description, as in wisdom's keys */
  enum sptx_target_family family;
  enum sptx_ptx_target ptx; /* of the PTX family */
} sptx_tune_device;

/* Asks a process of its own. name: "cpu" or "cuda:N". Fails as sptx_context_create does. */
enum sptx_code sptx_tune_device_find(const char *name, int threads, sptx_tune_device *device,
                                     sptx_error *error);

/* The ceilings of the device of this name: from wisdom where they are known, else measured in a process of
 * its own and remembered. wisdom_path may be NULL. Wisdom that cannot be read or written costs the time of
 * measuring again. */
enum sptx_code sptx_tune_device_rates(const char *name, const sptx_tune_device *device, int threads,
                                      const char *wisdom_path, sptx_rates *rates, sptx_error *error);

#endif
