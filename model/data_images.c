/* Images as both sets store them: three planes of colours, each row by row. A model reads them pixel by
 * pixel, row by row, red, green and blue of a pixel one after the other (paper, section 5.4).
 *
 * CIFAR-10's binary version: records of a label and an image. Downsampled ImageNet (Chrabaszcz et al. 2017):
 * .npz archives of a `data` array (images, 12288), mapped in place unless it is compressed; or that array as
 * .npy. */
#include "model/data_source.h"
#include "model/zip.h"
#include "patterns/npy.h"

#include <stdlib.h>
#include <string.h>

enum { CIFAR_SIDE = 32, CIFAR_RECORD = 1 + 3 * CIFAR_SIDE * CIFAR_SIDE, CIFAR_LABELS = 10 };
enum { IMAGENET_SIDE = 64, IMAGENET_IMAGE = 3 * IMAGENET_SIDE * IMAGENET_SIDE };

/* Images that follow each other in memory. */
struct run {
  struct sptx_data_map map;
  uint8_t *inflated;    /* owned, or NULL: then first points into the map */
  const uint8_t *first; /* the first image's first plane */
  int64_t images, begin;
};

struct images {
  struct run *runs;
  int64_t count, area, record; /* pixels of an image; bytes from image to image */
};

static void close_images(void *state) {
  struct images *images = state;
  for (int64_t k = 0; k < images->count; k++) {
    sptx_data_map_close(&images->runs[k].map);
    free(images->runs[k].inflated);
  }
  free(images->runs);
  free(images);
}

static const uint8_t *image_at(const struct images *images, int64_t image) {
  int64_t k = images->count - 1;
  while (images->runs[k].begin > image) /* a set has a dozen files at most */
    k--;
  return images->runs[k].first + (image - images->runs[k].begin) * images->record;
}

static enum sptx_code read_images(void *state, int64_t first, int64_t count, uint8_t *tokens,
                                  sptx_error *error) {
  (void)error;
  const struct images *images = state;
  int64_t size = 3 * images->area;
  for (int64_t done = 0; done < count;) {
    int64_t image = (first + done) / size, at = (first + done) % size;
    const uint8_t *planes = image_at(images, image);
    for (; at < size && done < count; at++, done++)
      tokens[done] = planes[at % 3 * images->area + at / 3];
  }
  return SPTX_CODE_OK;
}

static enum sptx_code open_cifar(const char *path, struct run *run, sptx_error *error) {
  SPTX_TRY(sptx_data_map_open(path, &run->map, error));
  if (run->map.size == 0 || run->map.size % CIFAR_RECORD)
    return sptx_fail(
        error, SPTX_CODE_FORMAT,
        "%s: %ld bytes are no whole number of CIFAR-10's records of %d bytes; it is cut short, or "
        "no batch of the binary version (name the batches alone, as in 'data_batch_*.bin')",
        path, (long)run->map.size, CIFAR_RECORD);
  run->images = run->map.size / CIFAR_RECORD;
  run->first = run->map.bytes + 1;
  for (int64_t k = 0; k < run->images; k++)
    if (run->map.bytes[k * CIFAR_RECORD] >= CIFAR_LABELS)
      return sptx_fail(error, SPTX_CODE_FORMAT,
                       "%s: the label of image %ld is %d, but CIFAR-10 has %d classes", path, (long)k,
                       run->map.bytes[k * CIFAR_RECORD], CIFAR_LABELS);
  return SPTX_CODE_OK;
}

/* The bytes of the file that are an .npy file: all of them, or an archive's entry. */
static enum sptx_code find_array(const char *path, struct run *run, const uint8_t **bytes, int64_t *size,
                                 sptx_error *error) {
  *bytes = run->map.bytes;
  *size = run->map.size;
  if (*size >= 6 && !memcmp(*bytes, "\x93NUMPY", 6))
    return SPTX_CODE_OK;
  struct sptx_zip_entry entry;
  SPTX_TRY(sptx_zip_find(*bytes, *size, path, "data.npy", &entry, error));
  *bytes = entry.bytes;
  *size = entry.size;
  if (!entry.deflated)
    return SPTX_CODE_OK;
  run->inflated = malloc((size_t)entry.size + 1);
  if (!run->inflated)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY,
                     "%s: no memory for its %ld bytes; unpack it with unzip -p FILE data.npy > FILE.npy",
                     path, (long)entry.size);
  *bytes = run->inflated;
  return sptx_zip_inflate(&entry, path, run->inflated, error);
}

static enum sptx_code open_imagenet(const char *path, struct run *run, sptx_error *error) {
  const uint8_t *bytes;
  int64_t size;
  sptx_npy array;
  SPTX_TRY(sptx_data_map_open(path, &run->map, error));
  SPTX_TRY(find_array(path, run, &bytes, &size, error));
  SPTX_TRY(sptx_npy_view(bytes, (size_t)size, path, &array, error));
  if (array.type != SPTX_NPY_U8 || array.rank != 2 || array.shape[1] != IMAGENET_IMAGE || array.shape[0] == 0)
    return sptx_fail(
        error, SPTX_CODE_FORMAT,
        "%s: its array is %s of rank %d with rows of %ld; images of 64 x 64 are uint8 (images, %d)", path,
        sptx_npy_type_name(array.type), array.rank, (long)(array.rank == 2 ? array.shape[1] : 0),
        IMAGENET_IMAGE);
  run->images = array.shape[0];
  run->first = array.data;
  return SPTX_CODE_OK;
}

static enum sptx_code open_images(const struct sptx_data_files *files, int64_t side, int64_t record,
                                  enum sptx_code (*open)(const char *, struct run *, sptx_error *),
                                  sptx_data_source *source, sptx_error *error) {
  struct images *images = calloc(1, sizeof *images);
  if (images)
    images->runs = calloc((size_t)files->count, sizeof *images->runs);
  if (!images || !images->runs) {
    free(images);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %ld data files", (long)files->count);
  }
  images->area = side * side;
  images->record = record;
  int64_t total = 0;
  for (int64_t k = 0; k < files->count; k++) {
    images->count++;
    enum sptx_code code = open(files->paths[k], &images->runs[k], error);
    if (code != SPTX_CODE_OK) {
      close_images(images);
      return code;
    }
    images->runs[k].begin = total;
    total += images->runs[k].images;
  }
  *source = (sptx_data_source){total * 3 * images->area, 3 * images->area, images, read_images, close_images};
  return SPTX_CODE_OK;
}

enum sptx_code sptx_data_open_cifar10(const sptx_config *config, const struct sptx_data_files *files,
                                      sptx_data_source *source, sptx_error *error) {
  (void)config;
  return open_images(files, CIFAR_SIDE, CIFAR_RECORD, open_cifar, source, error);
}

enum sptx_code sptx_data_open_imagenet64(const sptx_config *config, const struct sptx_data_files *files,
                                         sptx_data_source *source, sptx_error *error) {
  (void)config;
  return open_images(files, IMAGENET_SIDE, IMAGENET_IMAGE, open_imagenet, source, error);
}
