/* The mu-law companding of samples, and .wav files written whole; see audio.h. */
#include "model/audio.h"
#include "patterns/output.h"

#include <math.h>
#include <sndfile.h>
#include <unistd.h>

/* f(x) = sign(x) ln(1 + 255 |x|) / ln(256), and f(x) in -1..1 rounded to 256 levels. */
uint8_t sptx_mulaw_encode(float sample) {
  if (isnan(sample))
    sample = 0;
  float magnitude = fminf(fabsf(sample), 1), companded = log1pf(255 * magnitude) / logf(256);
  return (uint8_t)lrintf((copysignf(companded, sample) + 1) / 2 * 255);
}

float sptx_mulaw_decode(uint8_t token) {
  float companded = 2 * (float)token / 255 - 1;
  return copysignf(expm1f(fabsf(companded) * logf(256)) / 255, companded);
}

static enum sptx_code write_samples(SNDFILE *file, const char *path, const uint8_t *tokens, int64_t count,
                                    sptx_error *error) {
  enum { STEP = 4096 };
  float samples[STEP];
  for (int64_t at = 0; at < count; at += STEP) {
    int64_t here = count - at < STEP ? count - at : STEP;
    for (int64_t k = 0; k < here; k++)
      samples[k] = sptx_mulaw_decode(tokens[at + k]);
    if (sf_writef_float(file, samples, here) != here)
      return sptx_fail(error, SPTX_CODE_IO, "%s: %s", path, sf_strerror(file));
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_audio_write(const char *path, const uint8_t *tokens, int64_t count, int64_t sample_rate,
                                sptx_error *error) {
  sptx_output output;
  SPTX_TRY(sptx_output_open(path, &output, error));
  SF_INFO info = {.samplerate = (int)sample_rate, .channels = 1, .format = SF_FORMAT_WAV | SF_FORMAT_PCM_16};
  SNDFILE *file = sf_open_fd(fileno(output.stream), SFM_WRITE, &info, 0);
  enum sptx_code code =
      file ? write_samples(file, path, tokens, count, error)
           : sptx_fail(error, SPTX_CODE_IO, "%s: cannot write audio: %s", path, sf_strerror(NULL));
  if (file && sf_close(file) && code == SPTX_CODE_OK)
    code = sptx_fail(error, SPTX_CODE_IO, "%s: cannot write audio", path);
  if (code == SPTX_CODE_OK)
    code = sptx_output_commit(&output, error);
  if (code != SPTX_CODE_OK)
    sptx_output_discard(&output);
  return code;
}
