/* Checkpoints as safetensors files, and which of a folder's are kept. */
#include "model/checkpoint.h"

#include "model/safetensors.h"
#include "patterns/output.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const PART_PREFIX[SPTX_CHECKPOINT_PARTS] = {"", "adam.first.", "adam.second."};
static const char FORMAT[] = "sptx-1";

static sptx_tensor tensor_of(const struct sptx_parameter *parameter, int part) {
  sptx_tensor tensor = {.dims = parameter->dims, .shape = {parameter->shape[0], parameter->shape[1]}};
  snprintf(tensor.name, sizeof tensor.name, "%s%s", PART_PREFIX[part], parameter->name);
  return tensor;
}

enum { COUNTERS = 6, TEXTS = 3, ENTRIES = COUNTERS + TEXTS };

static enum sptx_code write_header(sptx_output *file, const sptx_parameters *parameters,
                                   const sptx_train_state *state, sptx_error *error) {
  const char *const names[COUNTERS] = {"step",          "updates",    "tokens",
                                       "skipped_steps", "good_steps", "recent_tokens"};
  const int64_t counters[COUNTERS] = {state->step,          state->updates,    state->tokens,
                                      state->skipped_steps, state->good_steps, state->recent_tokens};
  sptx_metadata metadata[ENTRIES] = {{"format", ""}, {"loss_scale", ""}, {"recent_nats", ""}};
  snprintf(metadata[0].value, sizeof metadata[0].value, "%s", FORMAT);
  snprintf(metadata[1].value, sizeof metadata[1].value, "%.17g", state->loss_scale);
  snprintf(metadata[2].value, sizeof metadata[2].value, "%.17g", state->recent_nats);
  for (int c = 0; c < COUNTERS; c++) {
    metadata[TEXTS + c].key = names[c];
    snprintf(metadata[TEXTS + c].value, sizeof metadata->value, "%ld", (long)counters[c]);
  }
  size_t count = (size_t)parameters->count, total = SPTX_CHECKPOINT_PARTS * count;
  sptx_tensor *tensors = malloc(total * sizeof *tensors);
  if (!tensors)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory for the header", file->path);
  for (size_t t = 0; t < total; t++)
    tensors[t] = tensor_of(&parameters->list[t % count], (int)(t / count));
  enum sptx_code code = sptx_safetensors_begin(file, tensors, total, metadata, ENTRIES, error);
  free(tensors);
  return code;
}

static enum sptx_code write_tensors(sptx_output *file, const sptx_parameters *parameters, sptx_device *device,
                                    float *const *parts, float *host, sptx_error *error) {
  for (int part = 0; part < SPTX_CHECKPOINT_PARTS; part++) {
    SPTX_TRY(
        device->ops->copy_out(device, host, parts[part], (size_t)parameters->floats * sizeof *host, error));
    for (int p = 0; p < parameters->count; p++) {
      const sptx_tensor tensor = tensor_of(&parameters->list[p], part);
      SPTX_TRY(sptx_output_write(file, host + parameters->list[p].offset,
                                 (size_t)sptx_tensor_floats(&tensor) * sizeof *host, error));
    }
  }
  return SPTX_CODE_OK;
}

enum sptx_code sptx_checkpoint_write(const char *folder, const sptx_parameters *parameters,
                                     sptx_device *device, float *const parts[SPTX_CHECKPOINT_PARTS],
                                     const sptx_train_state *state, sptx_error *error) {
  sptx_output file;
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/checkpoint-%ld.safetensors", folder, (long)state->step) >=
      (int)sizeof path)
    return sptx_fail(error, SPTX_CODE_INVALID_ARGUMENT, "%.200s...: the path is too long", folder);
  float *host = malloc((size_t)parameters->floats * sizeof *host);
  if (!host)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory to write it", path);
  enum sptx_code code = sptx_output_open(path, &file, error);
  if (code == SPTX_CODE_OK)
    code = write_header(&file, parameters, state, error);
  if (code == SPTX_CODE_OK)
    code = write_tensors(&file, parameters, device, parts, host, error);
  if (code == SPTX_CODE_OK)
    code = sptx_output_commit(&file, error);
  else
    sptx_output_discard(&file);
  free(host);
  return code;
}

struct sptx_checkpoint {
  const sptx_parameters *parameters;
  sptx_safetensors *file;
  sptx_train_state state;
};

static enum sptx_code read_number(const sptx_checkpoint *checkpoint, const char *path, const char *key,
                                  double *number, sptx_error *error) {
  const char *text = sptx_safetensors_metadata(checkpoint->file, key);
  char *end = NULL;
  *number = text ? strtod(text, &end) : 0;
  if (!text || end == text || *end || !(*number >= 0 && *number <= 0x1p53))
    return sptx_fail(error, SPTX_CODE_FORMAT, "%s: its metadata has no sound %s: no checkpoint of sptx-model",
                     path, key);
  return SPTX_CODE_OK;
}

static enum sptx_code read_counter(const sptx_checkpoint *checkpoint, const char *path, const char *key,
                                   int64_t *counter, sptx_error *error) {
  double number;
  SPTX_TRY(read_number(checkpoint, path, key, &number, error));
  *counter = (int64_t)number;
  return SPTX_CODE_OK;
}

static enum sptx_code read_state(sptx_checkpoint *checkpoint, const char *path, sptx_error *error) {
  sptx_train_state *state = &checkpoint->state;
  const char *format = sptx_safetensors_metadata(checkpoint->file, "format");
  if (!format || strcmp(format, FORMAT))
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: its format is '%s', not '%s': no checkpoint of this program", path,
                     format ? format : "", FORMAT);
  SPTX_TRY(read_number(checkpoint, path, "loss_scale", &state->loss_scale, error));
  SPTX_TRY(read_number(checkpoint, path, "recent_nats", &state->recent_nats, error));
  SPTX_TRY(read_counter(checkpoint, path, "recent_tokens", &state->recent_tokens, error));
  SPTX_TRY(read_counter(checkpoint, path, "step", &state->step, error));
  SPTX_TRY(read_counter(checkpoint, path, "updates", &state->updates, error));
  SPTX_TRY(read_counter(checkpoint, path, "tokens", &state->tokens, error));
  SPTX_TRY(read_counter(checkpoint, path, "skipped_steps", &state->skipped_steps, error));
  return read_counter(checkpoint, path, "good_steps", &state->good_steps, error);
}

/* More tensors than the model has: of a deeper one, say. Too few, or other ones, are found when read. */
static enum sptx_code check_count(const sptx_checkpoint *checkpoint, const char *path, sptx_error *error) {
  size_t count = sptx_safetensors_count(checkpoint->file);
  size_t wanted = SPTX_CHECKPOINT_PARTS * (size_t)checkpoint->parameters->count;
  if (count != wanted)
    return sptx_fail(error, SPTX_CODE_FORMAT,
                     "%s: has %zu tensors, the configuration wants %zu (are layers the same?): it belongs to "
                     "another configuration",
                     path, count, wanted);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_checkpoint_open(const char *path, const sptx_parameters *parameters,
                                    sptx_checkpoint **opened, sptx_error *error) {
  *opened = NULL;
  sptx_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
  if (!checkpoint)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory to open it", path);
  checkpoint->parameters = parameters;
  enum sptx_code code = sptx_safetensors_open(path, &checkpoint->file, error);
  if (code == SPTX_CODE_OK)
    code = read_state(checkpoint, path, error);
  if (code == SPTX_CODE_OK)
    code = check_count(checkpoint, path, error);
  if (code != SPTX_CODE_OK) {
    sptx_checkpoint_close(checkpoint);
    return code;
  }
  *opened = checkpoint;
  return SPTX_CODE_OK;
}

const sptx_train_state *sptx_checkpoint_state(const sptx_checkpoint *checkpoint) {
  return &checkpoint->state;
}

enum sptx_code sptx_checkpoint_read(sptx_checkpoint *checkpoint, enum sptx_checkpoint_part part, float *flat,
                                    sptx_error *error) {
  const sptx_parameters *parameters = checkpoint->parameters;
  memset(flat, 0, (size_t)parameters->floats * sizeof *flat);
  for (int p = 0; p < parameters->count; p++) {
    const sptx_tensor tensor = tensor_of(&parameters->list[p], (int)part);
    SPTX_TRY(sptx_safetensors_read(checkpoint->file, &tensor, flat + parameters->list[p].offset, error));
  }
  return SPTX_CODE_OK;
}

void sptx_checkpoint_close(sptx_checkpoint *checkpoint) {
  if (!checkpoint)
    return;
  sptx_safetensors_close(checkpoint->file);
  free(checkpoint);
}

/* The step in the name of a checkpoint, or of what a killed process left of one; -1: no such name. */
static int64_t step_of(const char *name, bool unfinished) {
  int64_t step = -1;
  int length = 0;
  if (sscanf(name, "checkpoint-%19ld.safetensors%n", &step, &length) != 1 || length == 0)
    return -1;
  bool fits = unfinished ? sptx_output_is_unfinished(name) : name[length] == '\0';
  return fits ? step : -1;
}

static enum sptx_code open_folder(const char *folder, DIR **directory, sptx_error *error) {
  *directory = opendir(folder);
  if (!*directory)
    return sptx_fail(error, SPTX_CODE_IO, "%s: %s", folder, strerror(errno));
  return SPTX_CODE_OK;
}

enum sptx_code sptx_checkpoint_latest(const char *folder, char path[PATH_MAX], sptx_error *error) {
  DIR *directory;
  int64_t latest = -1;
  path[0] = 0;
  SPTX_TRY(open_folder(folder, &directory, error));
  for (struct dirent *entry; (entry = readdir(directory));)
    if (step_of(entry->d_name, false) > latest)
      latest = step_of(entry->d_name, false);
  closedir(directory);
  if (latest >= 0)
    snprintf(path, PATH_MAX, "%s/checkpoint-%ld.safetensors", folder, (long)latest);
  return SPTX_CODE_OK;
}

enum sptx_code sptx_checkpoint_load_weights(const char *folder, sptx_transformer *transformer,
                                            sptx_error *error) {
  char path[PATH_MAX];
  sptx_checkpoint *checkpoint = NULL;
  SPTX_TRY(sptx_checkpoint_latest(folder, path, error));
  if (!path[0])
    return sptx_fail(error, SPTX_CODE_IO, "%s: has no checkpoint-STEP.safetensors; train a model there first",
                     folder);
  float *flat = malloc((size_t)transformer->parameters.floats * sizeof *flat);
  enum sptx_code code =
      flat ? SPTX_CODE_OK : sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "%s: no memory to read it", path);
  if (code == SPTX_CODE_OK)
    code = sptx_checkpoint_open(path, &transformer->parameters, &checkpoint, error);
  if (code == SPTX_CODE_OK)
    code = sptx_checkpoint_read(checkpoint, SPTX_PART_WEIGHTS, flat, error);
  if (code == SPTX_CODE_OK)
    code = sptx_transformer_set_weights(transformer, flat, error);
  sptx_checkpoint_close(checkpoint);
  free(flat);
  return code;
}

/* How many of the folder's checkpoints are later than step. */
static int64_t later_than(DIR *directory, int64_t step) {
  int64_t later = 0;
  rewinddir(directory);
  for (struct dirent *entry; (entry = readdir(directory));)
    later += step_of(entry->d_name, false) > step;
  return later;
}

enum sptx_code sptx_checkpoint_prune(const char *folder, int64_t keep, sptx_error *error) {
  DIR *directory, *others = NULL;
  SPTX_TRY(open_folder(folder, &directory, error));
  enum sptx_code code = open_folder(folder, &others, error);
  for (struct dirent *entry; code == SPTX_CODE_OK && (entry = readdir(directory));) {
    int64_t step = step_of(entry->d_name, false);
    bool old = step >= 0 && later_than(others, step) >= keep;
    bool unfinished = step_of(entry->d_name, true) >= 0;
    if ((old || unfinished) && unlinkat(dirfd(directory), entry->d_name, 0) && errno != ENOENT)
      code = sptx_fail(error, SPTX_CODE_IO, "%s/%s: cannot be removed: %s", folder, entry->d_name,
                       strerror(errno));
  }
  closedir(directory);
  if (others)
    closedir(others);
  return code;
}
