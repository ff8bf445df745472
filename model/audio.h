/* Sound as 8-bit mu-law tokens: van den Oord et al. 2016 (WaveNet, section 2.2), mu 255, 256 levels. */
#ifndef SPTX_MODEL_AUDIO_H
#define SPTX_MODEL_AUDIO_H

#include "patterns/error.h"
#include <stdint.h>

/* Samples outside -1..1 are clipped; what is no number is silence. */
uint8_t sptx_mulaw_encode(float sample);
/* The middle of a token's level: encode(decode(t)) is t. */
float sptx_mulaw_decode(uint8_t token);
/* Writes count tokens as a mono 16-bit .wav file, whole or not at all. */
enum sptx_code sptx_audio_write(const char *path, const uint8_t *tokens, int64_t count, int64_t sample_rate,
                                sptx_error *error);

#endif
