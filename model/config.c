/* Reads, checks and writes configurations. What a key is stands in KEYS and nowhere else. */
#include "model/config.h"

#include "patterns/output.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

enum key_type { KEY_INTEGER, KEY_NUMBER, KEY_TEXT, KEY_PATH, KEY_CHOICE, KEY_SWITCH };

struct key {
  const char *name;
  enum key_type type;
  size_t offset;
  const char *fallback; /* the default, as written in YAML */
  double low, high;     /* of numbers */
  const char *choices;  /* of KEY_CHOICE: words in the order of the enum */
  const char *about;
};

#define AT(field) offsetof(sptx_config, field)
static const struct key KEYS[] = {
    {"data", KEY_PATH, AT(data), "", 0, 0, NULL, "the data: a file, a folder or a glob"},
    {"format", KEY_CHOICE, AT(format), "bytes", 0, 0, "bytes cifar10 imagenet64 audio", "what the data is"},
    {"train_items", KEY_INTEGER, AT(train_items), "0", 0, 1e15, NULL,
     "bytes or images to train on, from the start; 0: all but validation_items"},
    {"validation_items", KEY_INTEGER, AT(validation_items), "0", 0, 1e15, NULL,
     "bytes or images after the training part that train evaluates on"},
    {"sample_rate", KEY_INTEGER, AT(sample_rate), "12000", 1000, 384000, NULL, "of audio files, in Hz"},
    {"layers", KEY_INTEGER, AT(layers), "6", 1, 10000, NULL, "residual blocks"},
    {"width", KEY_INTEGER, AT(width), "256", 16, 65536, NULL, "of the residual stream; a multiple of 8"},
    {"heads", KEY_INTEGER, AT(heads), "4", 1, 1024, NULL, "attention heads; width / heads is 16..256"},
    {"length", KEY_INTEGER, AT(length), "0", 0, 1 << 24, NULL,
     "positions of a sequence; 0: an image's (images), else required"},
    {"position_width", KEY_INTEGER, AT(position_width), "0", 0, 1 << 20, NULL,
     "row length of text's and audio's (row, column) position embeddings: the stride; 0: near sqrt(length)"},
    {"feed_forward", KEY_NUMBER, AT(feed_forward), "4", 0.0625, 64, NULL,
     "inner width of the feed-forward part over width; half-size is 2"},
    {"query_key", KEY_NUMBER, AT(query_key), "1", 0.0625, 1, NULL,
     "width of queries and keys over that of values; half-size is 0.5"},
    {"dropout", KEY_NUMBER, AT(dropout), "0", 0, 0.95, NULL, "probability, at each residual addition"},
    {"pattern", KEY_PATH, AT(pattern), "", 0, 0, NULL, "the attention pattern's file; required"},
    {"initialization", KEY_CHOICE, AT(initialization), "variance", 0, 0, "variance deviation",
     "reading of N(0, 0.125/fan_in): as a variance, or 0.125/sqrt(fan_in) as a deviation"},
    {"precision", KEY_CHOICE, AT(precision), "float32", 0, 0, "float32 float16 bfloat16",
     "of activations and gradients; the weights are always float32"},
    {"recompute", KEY_SWITCH, AT(recompute), "false", 0, 0, NULL,
     "keep only the blocks' inputs and recompute the rest in the backward pass"},
    {"keep_attention", KEY_INTEGER, AT(keep_attention), "0", 0, 1 << 20, NULL,
     "with recompute, keep what attention gives too, in so many of the layers: memory for time"},
    {"deterministic", KEY_SWITCH, AT(deterministic), "false", 0, 0, NULL,
     "on a GPU too, gradients are the same bit for bit from run to run, at a cost; on the CPU they always "
     "are"},
    {"device", KEY_TEXT, AT(device), "cpu", 0, 0, NULL, "cpu or cuda:N"},
    {"threads", KEY_INTEGER, AT(threads), "0", 0, 1024, NULL, "of the CPU; 0: all usable cores"},
    {"batch", KEY_INTEGER, AT(batch), "1", 1, 65536, NULL, "sequences a step, of each process"},
    {"steps", KEY_INTEGER, AT(steps), "1000", 1, 1e12, NULL, "length of the run and of the cosine decay"},
    {"warmup", KEY_INTEGER, AT(warmup), "5000", 0, 1e12, NULL, "steps of linear warm-up"},
    {"seed", KEY_INTEGER, AT(seed), "1", 0, 9e15, NULL, "of the weights, the data's order and dropout"},
    {"learning_rate", KEY_NUMBER, AT(learning_rate), "0.00035", 0, 10, NULL, "after the warm-up"},
    {"final_learning_rate", KEY_NUMBER, AT(final_learning_rate), "0", 0, 10, NULL, "at the end of the decay"},
    {"beta1", KEY_NUMBER, AT(beta1), "0.9", 0, 0.999999, NULL, "Adam's first moment"},
    {"beta2", KEY_NUMBER, AT(beta2), "0.999", 0, 0.999999, NULL, "Adam's second moment"},
    {"epsilon", KEY_NUMBER, AT(epsilon), "1e-8", 0, 1, NULL, "Adam's"},
    {"weight_decay", KEY_NUMBER, AT(weight_decay), "0.01", 0, 10, NULL, "decoupled, on matrices and tables"},
    {"clip", KEY_NUMBER, AT(clip), "1", 0, 1e9, NULL, "largest norm of the gradient; 0: never clipped"},
    {"loss_scale", KEY_NUMBER, AT(loss_scale), "65536", 1, 1e9, NULL, "the first one, float16 only"},
    {"loss_scale_window", KEY_INTEGER, AT(loss_scale_window), "1000", 1, 1e9, NULL,
     "good steps before the loss scale doubles"},
    {"max_bad_steps", KEY_INTEGER, AT(max_bad_steps), "20", 1, 1e9, NULL,
     "steps in a row without a finite gradient before the run stops"},
    {"log_every", KEY_INTEGER, AT(log_every), "10", 1, 1e9, NULL, "steps between rows of metrics.csv"},
    {"save_every", KEY_INTEGER, AT(save_every), "1000", 1, 1e12, NULL, "steps between checkpoints"},
    {"keep", KEY_INTEGER, AT(keep), "2", 1, 1e6, NULL, "checkpoints that stay"},
    {"evaluate_every", KEY_INTEGER, AT(evaluate_every), "0", 0, 1e12, NULL,
     "steps between evaluations on the validation part; 0: never"},
    {"evaluate_items", KEY_INTEGER, AT(evaluate_items), "16", 1, 1e9, NULL,
     "sequences of such an evaluation"},
};
enum { KEY_COUNT = sizeof KEYS / sizeof KEYS[0] };
_Static_assert(KEY_COUNT <= SPTX_CONFIG_MAX_KEYS, "sptx_config.place is too short");

static int find_key(const char *name) {
  for (int k = 0; k < KEY_COUNT; k++)
    if (!strcmp(KEYS[k].name, name))
      return k;
  return -1;
}

const char *sptx_config_place(const sptx_config *config, const char *key) {
  int k = find_key(key);
  return k >= 0 && config->place[k][0] ? config->place[k] : "the default";
}

static void *field_of(const sptx_config *config, const struct key *key) {
  return (char *)config + key->offset;
}

/* The index of word in a space separated list, or -1. */
static int64_t choice_of(const char *choices, const char *word) {
  size_t length = strlen(word);
  int64_t index = 0;
  for (const char *at = choices; length && *at; index++) {
    size_t here = strcspn(at, " ");
    if (here == length && !memcmp(at, word, here))
      return index;
    at += here + (at[here] == ' ');
  }
  return -1;
}

static enum sptx_code set_number(sptx_config *config, const struct key *key, const char *value,
                                 const char *place, sptx_error *error) {
  char *end;
  double number = strtod(value, &end);
  bool integer = key->type == KEY_INTEGER;
  if (!*value || *end || isnan(number) || (integer && number != floor(number)))
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: %s needs %s, not '%s': %s", place, key->name,
                     integer ? "an integer" : "a number", value, key->about);
  if (number < key->low || number > key->high)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: %s is %s, outside %.10g to %.10g: %s", place,
                     key->name, value, key->low, key->high, key->about);
  if (integer)
    *(int64_t *)field_of(config, key) = (int64_t)number;
  else
    *(double *)field_of(config, key) = number;
  return SPTX_CODE_OK;
}

/* Paths are kept relative to the file that names them, or to the working folder for --set. */
static enum sptx_code set_path(sptx_config *config, const struct key *key, const char *value, bool from_file,
                               const char *place, sptx_error *error) {
  char *field = field_of(config, key);
  bool join = from_file && key->type == KEY_PATH && value[0] && value[0] != '/';
  int length =
      snprintf(field, SPTX_CONFIG_TEXT, "%s%s%s", join ? config->folder : "", join ? "/" : "", value);
  if (length >= SPTX_CONFIG_TEXT)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: %s is longer than %d bytes", place, key->name,
                     SPTX_CONFIG_TEXT - 1);
  return SPTX_CODE_OK;
}

static enum sptx_code set_key(sptx_config *config, int index, const char *value, bool from_file,
                              const char *place, sptx_error *error) {
  const struct key *key = &KEYS[index];
  snprintf(config->place[index], sizeof config->place[index], "%s", place);
  switch (key->type) {
  case KEY_INTEGER:
  case KEY_NUMBER:
    return set_number(config, key, value, place, error);
  case KEY_TEXT:
  case KEY_PATH:
    return set_path(config, key, value, from_file, place, error);
  case KEY_CHOICE:
    *(int64_t *)field_of(config, key) = choice_of(key->choices, value);
    if (*(int64_t *)field_of(config, key) < 0)
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: %s is '%s', not one of: %s", place, key->name,
                       value, key->choices);
    return SPTX_CODE_OK;
  case KEY_SWITCH:
    *(bool *)field_of(config, key) = !strcmp(value, "true");
    if (strcmp(value, "true") && strcmp(value, "false"))
      return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: %s is '%s', not true or false", place,
                       key->name, value);
    return SPTX_CODE_OK;
  }
  return SPTX_CODE_OK;
}

static enum sptx_code set_pattern_param(sptx_config *config, const char *name, const char *value,
                                        const char *place, sptx_error *error) {
  size_t k = 0;
  while (k < config->pattern_param_count && strcmp(config->pattern_params[k].name, name))
    k++;
  if (k == SPTX_CONFIG_MAX_PARAMS)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: more than %d pattern_params", place,
                     SPTX_CONFIG_MAX_PARAMS);
  if (strlen(name) >= sizeof config->pattern_params[k].name ||
      strlen(value) >= sizeof config->pattern_params[k].value)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: the pattern parameter %s is too long", place,
                     name);
  strcpy(config->pattern_params[k].name, name);
  strcpy(config->pattern_params[k].value, value);
  config->pattern_param_count += k == config->pattern_param_count;
  return SPTX_CODE_OK;
}

static enum sptx_code unknown_key(const char *place, const char *name, sptx_error *error) {
  const char *near = NULL;
  for (int k = 0; k < KEY_COUNT && !near; k++)
    if (!strncmp(KEYS[k].name, name, 4))
      near = KEYS[k].name;
  return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: unknown key '%s'%s%s%s; sptx-model keys lists all",
                   place, name, near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
}

/* "path:line", of which a long path gives its end only. */
static void place_of(const char *path, size_t line, char place[SPTX_CONFIG_TEXT / 4]) {
  enum { LONGEST = 96 };
  size_t length = strlen(path);
  bool cut = length > LONGEST;
  snprintf(place, SPTX_CONFIG_TEXT / 4, "%s%s:%zu", cut ? "..." : "", cut ? path + length - LONGEST : path,
           line);
}

static enum sptx_code read_mapping(sptx_config *config, yaml_document_t *document, const char *path,
                                   sptx_error *error) {
  yaml_node_t *root = yaml_document_get_root_node(document);
  if (!root || root->type != YAML_MAPPING_NODE)
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s:1: expected a mapping of keys to values", path);
  for (yaml_node_pair_t *pair = root->data.mapping.pairs.start; pair < root->data.mapping.pairs.top; pair++) {
    yaml_node_t *key = yaml_document_get_node(document, pair->key);
    yaml_node_t *value = yaml_document_get_node(document, pair->value);
    char place[SPTX_CONFIG_TEXT / 4];
    place_of(path, key->start_mark.line + 1, place);
    if (key->type != YAML_SCALAR_NODE)
      return sptx_fail(error, SPTX_CODE_FORMAT, "%s: a key must be a word", place);
    const char *name = (const char *)key->data.scalar.value;
    if (!strcmp(name, "pattern_params") && value->type == YAML_MAPPING_NODE) {
      for (yaml_node_pair_t *p = value->data.mapping.pairs.start; p < value->data.mapping.pairs.top; p++) {
        yaml_node_t *k = yaml_document_get_node(document, p->key),
                    *v = yaml_document_get_node(document, p->value);
        if (k->type != YAML_SCALAR_NODE || v->type != YAML_SCALAR_NODE)
          return sptx_fail(error, SPTX_CODE_FORMAT, "%s: pattern_params maps names to expressions", place);
        SPTX_TRY(set_pattern_param(config, (char *)k->data.scalar.value, (char *)v->data.scalar.value, place,
                                   error));
      }
      continue;
    }
    int index = find_key(name);
    if (index < 0)
      return unknown_key(place, name, error);
    if (value->type != YAML_SCALAR_NODE)
      return sptx_fail(error, SPTX_CODE_FORMAT, "%s: %s takes a single value: %s", place, name,
                       KEYS[index].about);
    SPTX_TRY(set_key(config, index, (const char *)value->data.scalar.value, true, place, error));
  }
  return SPTX_CODE_OK;
}

static enum sptx_code read_file(sptx_config *config, const char *path, sptx_error *error) {
  FILE *file = fopen(path, "rb");
  if (!file)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", path, strerror(errno));
  yaml_parser_t parser;
  if (!yaml_parser_initialize(&parser)) {
    fclose(file);
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for the YAML parser", path);
  }
  yaml_parser_set_input_file(&parser, file);
  yaml_document_t document;
  enum sptx_code code;
  if (yaml_parser_load(&parser, &document)) {
    code = read_mapping(config, &document, path, error);
    yaml_document_delete(&document);
  } else
    code = sptx_fail(error, SPTX_CODE_FORMAT, "%s:%zu: not YAML: %s", path, parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "cannot be read");
  yaml_parser_delete(&parser);
  fclose(file);
  return code;
}

static enum sptx_code apply_setting(sptx_config *config, const char *setting, sptx_error *error) {
  const char *equals = strchr(setting, '=');
  char name[64];
  size_t length = equals ? (size_t)(equals - setting) : 0;
  if (!equals || length == 0 || length >= sizeof name)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "--set %s: expected key=value", setting);
  memcpy(name, setting, length);
  name[length] = 0;
  char place[SPTX_CONFIG_TEXT / 4];
  snprintf(place, sizeof place, "--set %.100s", setting);
  if (!strncmp(name, "pattern_params.", 15))
    return set_pattern_param(config, name + 15, equals + 1, place, error);
  int index = find_key(name);
  if (index < 0)
    return unknown_key(place, name, error);
  return set_key(config, index, equals + 1, false, place, error);
}

#define REFUSE(key, ...)                                                                                     \
  do {                                                                                                       \
    char reason_[512];                                                                                       \
    snprintf(reason_, sizeof reason_, __VA_ARGS__);                                                          \
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%s: %s", sptx_config_place(config, key), reason_);  \
  } while (0)

static enum sptx_code check_length(sptx_config *config, sptx_error *error) {
  int64_t image = config->format == SPTX_DATA_CIFAR10      ? 32 * 32 * 3
                  : config->format == SPTX_DATA_IMAGENET64 ? 64 * 64 * 3
                                                           : 0;
  if (image && config->length == 0)
    config->length = image;
  if (image && config->length != image)
    REFUSE("length", "length is %ld, but an image of this format has %ld positions; leave the key out",
           (long)config->length, (long)image);
  if (config->length < 1)
    REFUSE("length", "length is required: the number of positions of a sequence");
  if (!image && config->position_width == 0)
    config->position_width = (int64_t)ceil(sqrt((double)config->length));
  if (config->position_width > config->length)
    REFUSE("position_width", "position_width %ld is more than the length %ld", (long)config->position_width,
           (long)config->length);
  if (config->batch > INT32_MAX / config->length)
    REFUSE("batch", "batch %ld times length %ld does not fit 31 bits; lower the batch", (long)config->batch,
           (long)config->length);
  return SPTX_CODE_OK;
}

static enum sptx_code check(sptx_config *config, sptx_error *error) {
  if (!config->pattern[0])
    REFUSE("pattern", "pattern is required: the path of a pattern file");
  if (config->width % 8)
    REFUSE("width", "width %ld is not a multiple of 8", (long)config->width);
  if (config->width % config->heads)
    REFUSE("heads", "width %ld does not divide into %ld heads", (long)config->width, (long)config->heads);
  int64_t head_dim = sptx_config_head_dim(config);
  if (head_dim < 16 || head_dim > 256 || head_dim % 8)
    REFUSE("heads", "width / heads is %ld; it must be 16 to 256 and a multiple of 8", (long)head_dim);
  double query_key = (double)head_dim * config->query_key;
  if (query_key < 1 || fabs(query_key - round(query_key)) > 1e-6)
    REFUSE("query_key", "query_key gives heads of %.3f columns, not a whole number", query_key);
  double inner = (double)config->width * config->feed_forward;
  if (fabs(inner - round(inner)) > 1e-6 || sptx_config_inner(config) % 8)
    REFUSE("feed_forward", "feed_forward gives an inner width of %.3f, not a multiple of 8", inner);
  if (config->warmup > config->steps && config->steps > 0)
    REFUSE("warmup", "warmup %ld is longer than the run of %ld steps; lower it or raise steps",
           (long)config->warmup, (long)config->steps);
  return check_length(config, error);
}

enum sptx_code sptx_config_read(const char *path, const char *const *settings, size_t setting_count,
                                sptx_config *config, sptx_error *error) {
  memset(config, 0, sizeof *config);
  for (int k = 0; k < KEY_COUNT; k++) {
    SPTX_TRY(set_key(config, k, KEYS[k].fallback, false, "the default", error));
    config->place[k][0] = 0;
  }
  const char *slash = strrchr(path, '/');
  int length = slash ? (int)(slash - path) : 1;
  snprintf(config->folder, sizeof config->folder, "%.*s", length, slash ? path : ".");
  SPTX_TRY(read_file(config, path, error));
  for (size_t k = 0; k < setting_count; k++)
    SPTX_TRY(apply_setting(config, settings[k], error));
  return check(config, error);
}

static void write_value(FILE *file, const sptx_config *config, const struct key *key) {
  const void *field = field_of(config, key);
  if (key->type == KEY_INTEGER)
    fprintf(file, "%ld", (long)*(const int64_t *)field);
  else if (key->type == KEY_NUMBER)
    fprintf(file, "%.17g", *(const double *)field);
  else if (key->type == KEY_SWITCH)
    fputs(*(const bool *)field ? "true" : "false", file);
  else if (key->type == KEY_CHOICE) {
    const char *word = key->choices;
    for (int64_t skip = *(const int64_t *)field; skip > 0; skip--)
      word = strchr(word, ' ') + 1;
    fprintf(file, "%.*s", (int)strcspn(word, " "), word);
  } else {
    char absolute[2 * PATH_MAX], folder[PATH_MAX];
    const char *text = field;
    if (key->type == KEY_PATH && text[0] && text[0] != '/') {
      if (!realpath(text, absolute)) /* a glob, or not there yet */
        snprintf(absolute, sizeof absolute, "%s/%s", getcwd(folder, sizeof folder) ? folder : "", text);
      text = absolute;
    }
    fputc('\'', file);
    for (; *text; text++)
      fputs((char[3]){*text, *text == '\'' ? '\'' : 0, 0}, file);
    fputc('\'', file);
  }
}

enum sptx_code sptx_config_write(const sptx_config *config, const char *path, sptx_error *error) {
  sptx_output file;
  SPTX_TRY(sptx_output_open(path, &file, error));
  fprintf(file.stream, "# Written by sptx-model %s: the whole configuration of this run.\n", SPTX_VERSION);
  for (int k = 0; k < KEY_COUNT; k++) {
    fprintf(file.stream, "%s: ", KEYS[k].name);
    write_value(file.stream, config, &KEYS[k]);
    fprintf(file.stream, "  # %s\n", KEYS[k].about);
  }
  if (config->pattern_param_count) {
    fputs("pattern_params:\n", file.stream);
    for (size_t k = 0; k < config->pattern_param_count; k++)
      fprintf(file.stream, "  %s: '%s'\n", config->pattern_params[k].name, config->pattern_params[k].value);
  }
  return sptx_output_commit(&file, error);
}

void sptx_config_print_keys(FILE *file) {
  for (int k = 0; k < KEY_COUNT; k++)
    fprintf(file, "  %-20s %-9s %s%s%s%s\n", KEYS[k].name, KEYS[k].fallback[0] ? KEYS[k].fallback : "-",
            KEYS[k].about, KEYS[k].choices ? " (" : "", KEYS[k].choices ? KEYS[k].choices : "",
            KEYS[k].choices ? ")" : "");
  fprintf(file, "  %-20s %-9s %s\n", "pattern_params", "-", "a mapping that replaces the pattern's params");
}
