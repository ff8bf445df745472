/* A model's and a run's settings: one flat YAML mapping, checked key by key. Every key, its default and its
 * meaning stand in one table in config.c, which also writes config.yaml and the command's help. */
#ifndef SPTX_MODEL_CONFIG_H
#define SPTX_MODEL_CONFIG_H

#include "patterns/error.h"
#include "runtime/sptx.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SPTX_CONFIG_TEXT 512
#define SPTX_CONFIG_MAX_PARAMS 8
#define SPTX_CONFIG_MAX_KEYS 64

enum sptx_data_format { SPTX_DATA_BYTES, SPTX_DATA_CIFAR10, SPTX_DATA_IMAGENET64, SPTX_DATA_AUDIO };
enum sptx_initialization { SPTX_INIT_VARIANCE, SPTX_INIT_DEVIATION };

typedef struct sptx_config {
  char data[SPTX_CONFIG_TEXT];
  int64_t format; /* enum sptx_data_format */
  int64_t train_items, validation_items, sample_rate;
  int64_t layers, width, heads, length, position_width;
  double feed_forward, query_key, dropout;
  char pattern[SPTX_CONFIG_TEXT];
  int64_t initialization; /* enum sptx_initialization */
  int64_t precision;      /* sptx_dtype */
  bool recompute, deterministic;
  int64_t keep_attention;
  char device[SPTX_CONFIG_TEXT];
  int64_t threads;
  int64_t batch, steps, warmup, seed;
  double learning_rate, final_learning_rate, beta1, beta2, epsilon, weight_decay, clip;
  double loss_scale;
  int64_t loss_scale_window, max_bad_steps;
  int64_t log_every, save_every, keep, evaluate_every, evaluate_items;

  struct {
    char name[64], value[SPTX_CONFIG_TEXT];
  } pattern_params[SPTX_CONFIG_MAX_PARAMS]; /* `pattern_params: {stride: 128}` */
  size_t pattern_param_count;
  char folder[SPTX_CONFIG_TEXT]; /* of the file: relative paths start there */
  char place[SPTX_CONFIG_MAX_KEYS]
            [SPTX_CONFIG_TEXT / 4]; /* "file:line" or "--set" of each key of the table */
} sptx_config;

/* Reads path, then applies `key=value` settings in order, then checks shapes. Fails: SPTX_CODE_IO,
 * SPTX_CODE_FORMAT (not YAML), SPTX_CODE_INVALID_ARGUMENT; each names file:line and a remedy. */
enum sptx_code sptx_config_read(const char *path, const char *const *settings, size_t setting_count,
                                sptx_config *config, sptx_error *error);
/* The configuration as a file that sptx_config_read takes: every key, with its meaning as a comment. */
enum sptx_code sptx_config_write(const sptx_config *config, const char *path, sptx_error *error);
/* The table of keys, one a line: key, default, meaning. */
void sptx_config_print_keys(FILE *file);
/* Where a key was set, for messages: "config.yaml:12", "--set" or "the default". */
const char *sptx_config_place(const sptx_config *config, const char *key);

/* Derived sizes. */
static inline int64_t sptx_config_head_dim(const sptx_config *config) {
  return config->width / config->heads;
}
static inline int64_t sptx_config_query_key_dim(const sptx_config *config) {
  return (int64_t)((double)sptx_config_head_dim(config) * config->query_key + 0.5);
}
static inline int64_t sptx_config_inner(const sptx_config *config) {
  return (int64_t)((double)config->width * config->feed_forward + 0.5);
}
static inline bool sptx_config_is_image(const sptx_config *config) {
  return config->format == SPTX_DATA_CIFAR10 || config->format == SPTX_DATA_IMAGENET64;
}

#endif
