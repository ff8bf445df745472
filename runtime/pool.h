/* Buffers that calls running at once need each for itself and that the next call can use again. */
#ifndef SPTX_RUNTIME_POOL_H
#define SPTX_RUNTIME_POOL_H

#include <pthread.h>
#include <stddef.h>

struct sptx_buffer;

typedef struct sptx_pool {
  pthread_mutex_t lock;
  struct sptx_buffer *free;
} sptx_pool;

void sptx_pool_init(sptx_pool *pool);
/* All buffers must have been returned. */
void sptx_pool_clear(sptx_pool *pool);
/* A buffer of at least size bytes, 64-byte aligned, of undefined content; NULL when memory is short. */
void *sptx_pool_take(sptx_pool *pool, size_t size);
void sptx_pool_return(sptx_pool *pool, void *buffer);

#endif
