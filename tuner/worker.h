/* A measurement in a process of its own: a candidate that hangs, faults or takes the GPU down with it ends
 * the worker, not the tuning. One worker measures candidate after candidate and keeps what it compiled; after
 * a candidate was struck out the next measurement starts a new one. The parent must not have run OpenMP loops
 * or CUDA calls before: their threads do not survive the fork. */
#ifndef SPTX_TUNER_WORKER_H
#define SPTX_TUNER_WORKER_H

#include "runtime/search.h"
#include <stddef.h>

typedef struct sptx_worker sptx_worker;

/* job runs in the worker, with `user` as it was when the worker started. It takes at most limit_seconds
 * beyond the seconds asked for, or the worker is killed. */
enum sptx_code sptx_worker_create(sptx_measure job, void *user, double limit_seconds, sptx_worker **worker,
                                  sptx_error *error);
void sptx_worker_free(sptx_worker *worker); /* NULL is allowed */

/* An sptx_measure whose user is the worker. */
enum sptx_code sptx_worker_measure(void *worker, int candidate, double seconds, double *ms, char reason[160],
                                   sptx_error *error);

/* Runs job in a process of its own and brings back the `size` bytes (at most PIPE_BUF, 4096) that it filled.
 * Fails as job does, or with SPTX_CODE_DEVICE when the process ends otherwise or takes longer than the limit.
 */
typedef enum sptx_code (*sptx_job)(void *user, void *result, sptx_error *error);
enum sptx_code sptx_worker_once(sptx_job job, void *user, double limit_seconds, void *result, size_t size,
                                sptx_error *error);

#endif
