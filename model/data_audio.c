/* Sound files (WAV, FLAC and whatever else libsndfile reads) as one long run of mu-law tokens: channels are
 * averaged, other sample rates changed. Samples are decoded where a sequence needs them; one file at a time
 * is open, since a set may have more files than a process may open. */
#include "model/audio.h"
#include "model/data_source.h"
#include "model/resample.h"

#include <errno.h>
#include <sndfile.h>
#include <stdlib.h>
#include <string.h>

struct clip {
  char *path;
  int64_t begin, positions, frames; /* tokens before it, tokens, samples of each channel */
};

struct audio {
  struct clip *clips;
  int64_t count, sample_rate;
  int64_t open; /* which clip the handle below reads; -1: none */
  SNDFILE *file;
  SF_INFO info;
  int64_t from_rate; /* of the resampler; 0: none yet */
  struct sptx_resampler resampler;
  float *samples; /* of a step: interleaved, mixed, resampled */
  int64_t capacity;
};

enum { STEP = 65536 }; /* tokens made at a time */

static void close_file(struct audio *audio) {
  if (audio->file)
    sf_close(audio->file);
  audio->file = NULL;
  audio->open = -1;
}

static void close_audio(void *state) {
  struct audio *audio = state;
  close_file(audio);
  sptx_resampler_clear(&audio->resampler);
  for (int64_t k = 0; k < audio->count; k++)
    free(audio->clips[k].path);
  free(audio->clips);
  free(audio->samples);
  free(audio);
}

static enum sptx_code open_file(struct audio *audio, int64_t clip, sptx_error *error) {
  if (audio->open == clip)
    return SPTX_CODE_OK;
  const char *path = audio->clips[clip].path;
  close_file(audio);
  audio->info = (SF_INFO){0};
  audio->file = sf_open(path, SFM_READ, &audio->info);
  if (!audio->file)
    return sptx_fail(
        error, sf_error(NULL) == SF_ERR_SYSTEM ? SPTX_CODE_IO : SPTX_CODE_FORMAT,
        "%s: not a sound file that can be read: %s (name the sound files alone, as in 'FOLDER/*.wav')", path,
        sf_strerror(NULL));
  audio->open = clip;
  if (audio->from_rate == audio->info.samplerate)
    return SPTX_CODE_OK;
  sptx_resampler_clear(&audio->resampler);
  audio->from_rate = 0;
  SPTX_TRY(sptx_resampler_create(audio->info.samplerate, audio->sample_rate, &audio->resampler, error));
  audio->from_rate = audio->info.samplerate;
  return SPTX_CODE_OK;
}

/* libsndfile takes a .wav file that ends early for a shorter one; its head knows better. */
static enum sptx_code check_riff(const char *path, sptx_error *error) {
  uint8_t head[8];
  FILE *file = fopen(path, "rb");
  if (!file)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", path, strerror(errno));
  bool is_riff = fread(head, 1, 8, file) == 8 && !memcmp(head, "RIFF", 4);
  long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
  fclose(file);
  uint32_t promised = head[4] | (uint32_t)head[5] << 8 | (uint32_t)head[6] << 16 | (uint32_t)head[7] << 24;
  /* 0 and 2^32 - 1 are written by programs that did not know the length yet */
  if (is_riff && promised != 0 && promised != UINT32_MAX && size < (long)promised)
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: cut short: %ld bytes of the %ld its head promises", path,
                     size, (long)promised + 8);
  return SPTX_CODE_OK;
}

static float *reserve(struct audio *audio, int64_t floats, sptx_error *error) {
  if (floats > audio->capacity) {
    float *grown = realloc(audio->samples, (size_t)floats * sizeof *grown);
    if (!grown) {
      sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %ld audio samples", (long)floats);
      return NULL;
    }
    audio->samples = grown;
    audio->capacity = floats;
  }
  return audio->samples;
}

/* Samples begin..end - 1 of the open file, mixed to one channel, into mixed; silence outside the file. */
static enum sptx_code read_frames(struct audio *audio, int64_t begin, int64_t end, float *interleaved,
                                  float *mixed, sptx_error *error) {
  const struct clip *clip = &audio->clips[audio->open];
  int64_t channels = audio->info.channels, from = begin < 0 ? 0 : begin,
          to = end > clip->frames ? clip->frames : end, count = to > from ? to - from : 0;
  if (count && (sf_seek(audio->file, from, SEEK_SET) != from ||
                sf_readf_float(audio->file, interleaved, count) != count))
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: cut short or damaged: samples %ld to %ld cannot be read",
                     clip->path, (long)from, (long)to);
  memset(mixed, 0, (size_t)(end - begin) * sizeof *mixed);
  for (int64_t k = 0; k < count; k++) {
    float sum = 0;
    for (int64_t channel = 0; channel < channels; channel++)
      sum += interleaved[k * channels + channel];
    mixed[from - begin + k] = sum / (float)channels;
  }
  return SPTX_CODE_OK;
}

/* Tokens first..first + count - 1 of the open file. */
static enum sptx_code read_step(struct audio *audio, int64_t first, int64_t count, uint8_t *tokens,
                                sptx_error *error) {
  int64_t begin, end;
  sptx_resampler_needs(&audio->resampler, first, count, &begin, &end);
  float *interleaved = reserve(audio, (end - begin) * (audio->info.channels + 1) + count, error);
  if (!interleaved)
    return SPTX_CODE_OUT_OF_MEMORY;
  float *mixed = interleaved + (end - begin) * audio->info.channels, *samples = mixed + (end - begin);
  if (audio->from_rate == audio->sample_rate) {
    SPTX_TRY(read_frames(audio, first, first + count, interleaved, samples, error));
  } else {
    SPTX_TRY(read_frames(audio, begin, end, interleaved, mixed, error));
    sptx_resampler_run(&audio->resampler, first, count, mixed, samples);
  }
  for (int64_t k = 0; k < count; k++)
    tokens[k] = sptx_mulaw_encode(samples[k]);
  return SPTX_CODE_OK;
}

static int64_t clip_of(const struct audio *audio, int64_t at) {
  int64_t low = 0, high = audio->count - 1;
  while (low < high) {
    int64_t middle = low + (high - low + 1) / 2;
    if (audio->clips[middle].begin <= at)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

static enum sptx_code read_audio(void *state, int64_t first, int64_t count, uint8_t *tokens,
                                 sptx_error *error) {
  struct audio *audio = state;
  while (count > 0) {
    int64_t k = clip_of(audio, first);
    int64_t skip = first - audio->clips[k].begin, here = audio->clips[k].positions - skip;
    here = here < count ? here : count;
    here = here < STEP ? here : STEP;
    SPTX_TRY(open_file(audio, k, error));
    SPTX_TRY(read_step(audio, skip, here, tokens, error));
    tokens += here;
    first += here;
    count -= here;
  }
  return SPTX_CODE_OK;
}

static enum sptx_code add_clip(struct audio *audio, const char *path, int64_t begin, sptx_error *error) {
  struct clip *clip = &audio->clips[audio->count++];
  clip->path = strdup(path);
  if (!clip->path)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for its name", path);
  SPTX_TRY(check_riff(path, error));
  SPTX_TRY(open_file(audio, audio->count - 1, error));
  clip->begin = begin;
  clip->frames = audio->info.frames;
  clip->positions = sptx_resampler_length(&audio->resampler, clip->frames);
  if (!audio->info.seekable)
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: cannot be read from the middle; convert it to WAV or FLAC",
                     path);
  uint8_t last;
  return clip->positions ? read_step(audio, clip->positions - 1, 1, &last, error) : SPTX_CODE_OK;
}

enum sptx_code sptx_data_open_audio(const sptx_config *config, const struct sptx_data_files *files,
                                    sptx_data_source *source, sptx_error *error) {
  struct audio *audio = calloc(1, sizeof *audio);
  if (audio)
    audio->clips = calloc((size_t)files->count, sizeof *audio->clips);
  if (!audio || !audio->clips) {
    free(audio);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "no memory for %ld data files", (long)files->count);
  }
  audio->sample_rate = config->sample_rate;
  audio->open = -1;
  int64_t positions = 0;
  for (int64_t k = 0; k < files->count; k++) {
    enum sptx_code code = add_clip(audio, files->paths[k], positions, error);
    if (code != SPTX_CODE_OK) {
      close_audio(audio);
      return code;
    }
    positions += audio->clips[k].positions;
  }
  *source = (sptx_data_source){positions, 1, audio, read_audio, close_audio};
  return SPTX_CODE_OK;
}
