/* A list of free buffers under a lock. A buffer's size stands in the line before it. */
#include "runtime/pool.h"

#include <stdint.h>
#include <stdlib.h>

enum { LINE = 64 };

typedef struct sptx_buffer {
  _Alignas(LINE) struct sptx_buffer *next;
  size_t size;
} sptx_buffer;
_Static_assert(sizeof(sptx_buffer) == LINE, "the content behind the header is aligned");

void sptx_pool_init(sptx_pool *pool) {
  pthread_mutex_init(&pool->lock, NULL);
  pool->free = NULL;
}

void sptx_pool_clear(sptx_pool *pool) {
  while (pool->free) {
    sptx_buffer *buffer = pool->free;
    pool->free = buffer->next;
    free(buffer);
  }
  pthread_mutex_destroy(&pool->lock);
}

void *sptx_pool_take(sptx_pool *pool, size_t size) {
  pthread_mutex_lock(&pool->lock);
  sptx_buffer *buffer = pool->free;
  if (buffer)
    pool->free = buffer->next;
  pthread_mutex_unlock(&pool->lock);
  if (buffer && buffer->size < size) {
    free(buffer);
    buffer = NULL;
  }
  if (!buffer) {
    if (size > SIZE_MAX - 2 * LINE)
      return NULL;
    size = (size + LINE - 1) / LINE * LINE;
    buffer = aligned_alloc(LINE, LINE + size);
    if (!buffer)
      return NULL;
    buffer->size = size;
  }
  return buffer + 1;
}

void sptx_pool_return(sptx_pool *pool, void *content) {
  sptx_buffer *buffer = (sptx_buffer *)content - 1;
  pthread_mutex_lock(&pool->lock);
  buffer->next = pool->free;
  pool->free = buffer;
  pthread_mutex_unlock(&pool->lock);
}
