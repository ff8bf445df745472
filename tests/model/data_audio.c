/* Audio sets: mu-law against its formula, files written here through libsndfile, other sample rates against
 * tones known in closed form, files that end early. */
#include "model/audio.h"
#include "tests/model/data_case.h"
#include "tests/model/files.h"

#include <criterion/criterion.h>
#include <math.h>
#include <sndfile.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void create_folder(void) {
  test_folder_create();
}
TestSuite(model_data_audio, .init = create_folder, .fini = test_folder_remove);

Test(model_data_audio, mulaw_is_the_formula) {
  for (int token = 0; token < 256; token++)
    cr_expect_eq(sptx_mulaw_encode(sptx_mulaw_decode((uint8_t)token)), token);
  for (double x = -1.2; x <= 1.2; x += 0.0007) {
    double clipped = fmax(-1, fmin(1, x));
    double f = copysign(log(1 + 255 * fabs(clipped)) / log(256), clipped), token = (f + 1) / 2 * 255;
    cr_expect(fabs(sptx_mulaw_encode((float)x) - token) < 0.5 + 1e-3, "%f becomes %d, not %f", x,
              sptx_mulaw_encode((float)x), token);
  }
  cr_expect_eq(sptx_mulaw_encode(INFINITY), 255);
  cr_expect_eq(sptx_mulaw_encode(-INFINITY), 0);
  cr_expect(fabsf(sptx_mulaw_decode(sptx_mulaw_encode(NAN))) < 1e-3f);
}

/* A tone of each channel: amplitude * sin(2 pi * hertz * time), `frames` samples. */
struct tone {
  double hertz, amplitude;
};
static const char *write_tones(const char *name, int format, int rate, int frames, int channels,
                               const struct tone *tones) {
  SF_INFO info = {.samplerate = rate, .channels = channels, .format = format};
  const char *path = test_path(name);
  SNDFILE *file = sf_open(path, SFM_WRITE, &info);
  cr_assert_not_null(file, "%s", sf_strerror(NULL));
  for (int k = 0; k < frames; k++) {
    float frame[8];
    for (int c = 0; c < channels; c++)
      frame[c] = (float)(tones[c].amplitude * sin(2 * M_PI * tones[c].hertz * k / rate));
    cr_assert_eq(sf_writef_float(file, frame, 1), 1);
  }
  sf_close(file);
  return path;
}

/* The largest distance of decoded tokens from the tone, at 8000 Hz, away from the file's ends. */
static double distance(const sptx_data *data, const struct tone *tone, double amplitude) {
  int64_t count = sptx_data_positions(data, SPTX_DATA_WHOLE);
  uint8_t *tokens = malloc((size_t)count);
  data_read(data, SPTX_DATA_WHOLE, 0, count, tokens);
  double largest = 0;
  for (int64_t k = 200; k < count - 200; k++)
    largest = fmax(largest, fabs(sptx_mulaw_decode(tokens[k]) -
                                 amplitude * sin(2 * M_PI * tone->hertz * (double)k / 8000)));
  free(tokens);
  return largest;
}
/* Half a level at amplitude 0.5, by the formula's slope: ln(256) (1 + 255 x) / 255 / 255. */
static const double LEVEL = 5.5452 * 128.5 / 255 / 255;

Test(model_data_audio, channels_are_averaged) {
  struct tone tones[] = {{440, 0.6}, {440, 0.4}};
  sptx_config config = data_config(
      write_tones("a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 8000, 9000, 2, tones), SPTX_DATA_AUDIO, 64);
  sptx_data *data = data_open(&config);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_WHOLE), 9000);
  double far = distance(data, tones, 0.5);
  cr_expect_lt(far, LEVEL + 1e-4, "%f from the tone", far);
  sptx_data_close(data);
}

static void expect_resampled(int rate, int format, const char *name) {
  struct tone tone = {700, 0.5};
  int frames = 2 * rate + 17;
  sptx_config config = data_config(write_tones(name, format, rate, frames, 1, &tone), SPTX_DATA_AUDIO, 64);
  sptx_data *data = data_open(&config);
  cr_expect_eq(sptx_data_positions(data, SPTX_DATA_WHOLE), ((int64_t)frames * 8000 + rate - 1) / rate);
  double far = distance(data, &tone, 0.5);
  cr_expect_lt(far, LEVEL + 1e-3, "%d Hz: %f from the tone", rate, far);
  /* any run by itself has the same values */
  uint8_t whole[3000], part[3000];
  data_read(data, SPTX_DATA_WHOLE, 0, 3000, whole);
  for (int first = 2987; first > 0; first -= 331) {
    data_read(data, SPTX_DATA_WHOLE, first, 13, part);
    cr_expect_arr_eq(part, whole + first, 13);
  }
  sptx_data_close(data);
}

Test(model_data_audio, other_sample_rates_are_changed) {
  expect_resampled(44100, SF_FORMAT_WAV | SF_FORMAT_FLOAT, "a.wav");
  expect_resampled(48000, SF_FORMAT_FLAC | SF_FORMAT_PCM_24, "b.flac");
  expect_resampled(11025, SF_FORMAT_WAV | SF_FORMAT_PCM_24, "c.wav");
  expect_resampled(6000, SF_FORMAT_FLAC | SF_FORMAT_PCM_16, "d.flac");
}

Test(model_data_audio, what_the_lower_rate_cannot_hold_is_gone) {
  struct tone tones[] = {{5000, 0.5}, {0, 0}};
  sptx_config config = data_config(
      write_tones("a.wav", SF_FORMAT_WAV | SF_FORMAT_FLOAT, 44100, 44100, 1, tones), SPTX_DATA_AUDIO, 64);
  sptx_data *data = data_open(&config);
  double far = distance(data, &tones[1], 0);
  cr_expect_lt(far, 3e-3, "%f is left of a tone above half the sample rate", far);
  sptx_data_close(data);
}

Test(model_data_audio, files_follow_each_other) {
  struct tone tone = {300, 0.5};
  mkdir(test_path("set"), 0777);
  write_tones("set/b.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16, 8000, 500, 1, &tone);
  write_tones("set/a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 8000, 300, 1, &tone);
  write_tones("set/c.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 400, 1, &tone);
  sptx_config config = data_config(test_path("set"), SPTX_DATA_AUDIO, 100);
  sptx_data *data = data_open(&config);
  uint8_t tokens[1000], again[1000];
  cr_assert_eq(sptx_data_positions(data, SPTX_DATA_WHOLE), 1000);
  data_read(data, SPTX_DATA_WHOLE, 0, 1000, tokens);
  for (int k = 0; k < 300; k++)
    cr_expect_eq(tokens[k], tokens[300 + k], "both begin with the same tone");
  for (int k = 40; k < 150; k++)
    cr_expect_lt(abs(tokens[k] - tokens[800 + k]), 3, "sample %d: %d, %d", k, tokens[k], tokens[800 + k]);
  for (int first = 999; first >= 0; first -= 37) {
    data_read(data, SPTX_DATA_WHOLE, first, 1000 - first, again);
    cr_expect_arr_eq(again, tokens + first, (size_t)(1000 - first));
  }
  sptx_data_close(data);
}

Test(model_data_audio, files_that_end_early_are_refused) {
  struct tone tone = {300, 0.5};
  static const struct {
    const char *name;
    int format;
  } FILES[] = {{"a.wav", SF_FORMAT_WAV | SF_FORMAT_PCM_16}, {"b.flac", SF_FORMAT_FLAC | SF_FORMAT_PCM_16}};
  for (int k = 0; k < 2; k++) {
    const char *path = write_tones(FILES[k].name, FILES[k].format, 8000, 30000, 1, &tone);
    struct stat info;
    cr_assert_eq(stat(path, &info), 0);
    cr_assert_eq(truncate(path, info.st_size * 2 / 3), 0);
    sptx_config config = data_config(path, SPTX_DATA_AUDIO, 64);
    data_expect_refusal(&config, SPTX_CODE_FORMAT, "cut short");
  }
  sptx_config config = data_config(test_write("text.wav", "this is text", 12), SPTX_DATA_AUDIO, 64);
  data_expect_refusal(&config, SPTX_CODE_FORMAT, "not a sound file");
}

Test(model_data_audio, what_is_written_is_read_again) {
  uint8_t tokens[5000], again[5000];
  sptx_error error = {0};
  for (int k = 0; k < 5000; k++)
    tokens[k] = (uint8_t)(k * 31 + k / 256);
  const char *path = test_path("out.wav");
  cr_assert_eq(sptx_audio_write(path, tokens, 5000, 8000, &error), SPTX_CODE_OK, "%s", error.message);
  sptx_config config = data_config(path, SPTX_DATA_AUDIO, 64);
  sptx_data *data = data_open(&config);
  cr_assert_eq(sptx_data_positions(data, SPTX_DATA_WHOLE), 5000);
  data_read(data, SPTX_DATA_WHOLE, 0, 5000, again);
  for (int k = 0; k < 5000; k++) /* 16 bits are coarser than the levels around silence */
    cr_expect_leq(abs(tokens[k] - again[k]), abs(tokens[k] - 127) < 4 ? 1 : 0, "%d, %d", tokens[k], again[k]);
  sptx_data_close(data);
  cr_expect_eq(sptx_audio_write(test_path("none/out.wav"), tokens, 1, 8000, &error), SPTX_CODE_IO);
  cr_expect_eq(sptx_audio_write("/dev/full", tokens, 5000, 8000, &error), SPTX_CODE_IO);
}
