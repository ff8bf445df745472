/* libFuzzer target of the .npy reader: bytes either make an array of just the size that its shape promises,
 * or an error with a sentence. */
#include "patterns/npy.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size) {
  sptx_npy npy;
  sptx_error error = {0};
  if (sptx_npy_parse(bytes, size, "fuzz.npy", &npy, &error) != SPTX_CODE_OK) {
    if (npy.data || !*error.message)
      abort();
    return 0;
  }
  int64_t count = 1;
  for (int axis = 0; axis < npy.rank; axis++)
    count *= npy.shape[axis];
  if (count != npy.count || npy.bytes != (size_t)count * sptx_npy_element_size(npy.type) || npy.bytes > size)
    abort();
  unsigned char sum = 0; /* every byte can be read */
  for (size_t k = 0; k < npy.bytes; k++)
    sum += ((unsigned char *)npy.data)[k];
  sptx_npy_clear(&npy);
  return sum & 0;
}
