/* From YAML text to a callable kernel: how long it takes with nothing cached, and with the code cache filled.
 * Each measurement is a process of its own, so that LLVM's set-up counts, and the median of several.
 * Arguments: pattern files. Prints a line for each step and the aims beside the worst of them; times decide
 * no exit status. */
#include "runtime/sptx.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A grid has as many positions as it has: a pattern that refuses N is measured at IMAGE_N, its own size. */
enum { N = 16384, IMAGE_N = 32 * 32 * 3, HEADS = 8, HEAD_DIM = 64, REPEATS = 5 };
static const double cold_aim_ms = 200, warm_aim_ms = 10;

typedef struct startup {
  double wall_ms, cpu_ms;
  int n;
} startup;

static double clock_ms(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static char *read_text(const char *path, size_t *length) {
  static char text[1 << 16];
  FILE *file = fopen(path, "rb");
  *length = file ? fread(text, 1, sizeof text, file) : 0;
  if (file)
    fclose(file);
  return *length ? text : NULL;
}

/* In the child: text to attention, once. */
static int create_once(const char *path, int64_t step, uint32_t flags, const char *cache, startup *took) {
  size_t length;
  char *text = read_text(path, &length);
  sptx_context *context = NULL;
  sptx_pattern *pattern = NULL;
  sptx_attention *attention = NULL;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = flags;
  desc.heads = HEADS;
  desc.n_q = desc.n_k = N;
  desc.head_dim = HEAD_DIM;
  desc.step = step;
  *took = (startup){-clock_ms(CLOCK_MONOTONIC), -clock_ms(CLOCK_PROCESS_CPUTIME_ID), N};
  sptx_status status = text ? sptx_context_create(&context, "cpu") : SPTX_IO;
  if (status == SPTX_OK)
    status = sptx_context_set_cache(context, cache);
  if (status == SPTX_OK)
    status = sptx_pattern_from_text(context, text, length, path, NULL, 0, &pattern);
  if (status == SPTX_OK)
    status = sptx_attention_create(context, pattern, &desc, &attention);
  if (status == SPTX_PATTERN_VALUE) {
    desc.n_q = desc.n_k = IMAGE_N;
    status = sptx_attention_create(context, pattern, &desc, &attention);
  }
  took->n = (int)desc.n_k;
  took->wall_ms += clock_ms(CLOCK_MONOTONIC);
  took->cpu_ms += clock_ms(CLOCK_PROCESS_CPUTIME_ID);
  if (status != SPTX_OK)
    fprintf(stderr, "%s: %s\n", path, sptx_last_error(context));
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  return status != SPTX_OK;
}

static startup in_child(const char *path, int64_t step, uint32_t flags, const char *cache) {
  int ends[2], status;
  startup took;
  fflush(NULL);
  if (pipe(ends) != 0)
    exit(1);
  pid_t child = fork();
  if (child == 0) {
    int failed = create_once(path, step, flags, cache, &took);
    _exit(failed || write(ends[1], &took, sizeof took) != (ssize_t)sizeof took);
  }
  close(ends[1]);
  bool got = read(ends[0], &took, sizeof took) == (ssize_t)sizeof took;
  close(ends[0]);
  if (child < 0 || waitpid(child, &status, 0) != child || status != 0 || !got)
    exit(1);
  return took;
}

static int by_wall(const void *a, const void *b) {
  double left = ((const startup *)a)->wall_ms, right = ((const startup *)b)->wall_ms;
  return (left > right) - (left < right);
}

static void remove_directory(const char *directory) {
  char command[PATH_MAX + 16];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  if (system(command) != 0)
    exit(1);
}

static void measure(const char *path, int64_t step, uint32_t flags, const char *cache, startup *cold,
                    startup *warm) {
  startup took[2][REPEATS];
  for (int r = 0; r < REPEATS; r++) {
    remove_directory(cache);
    took[0][r] = in_child(path, step, flags, cache);
    took[1][r] = in_child(path, step, flags, cache);
  }
  for (int which = 0; which < 2; which++)
    qsort(took[which], REPEATS, sizeof(startup), by_wall);
  *cold = took[0][REPEATS / 2];
  *warm = took[1][REPEATS / 2];
}

static int64_t count_steps(const char *path) {
  sptx_context *context;
  sptx_pattern *pattern;
  if (sptx_context_create(&context, "cpu") != SPTX_OK)
    exit(1);
  if (sptx_pattern_load(context, path, NULL, 0, &pattern) != SPTX_OK) {
    fprintf(stderr, "%s\n", sptx_last_error(context));
    exit(1);
  }
  int64_t steps = (int64_t)sptx_pattern_steps(pattern);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  return steps;
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    uint32_t flags;
  } passes[] = {{"forward", 0}, {"forward+backward", SPTX_WITH_BACKWARD}};
  char root[] = "/tmp/sptx-startup-XXXXXX", cache[64];
  double worst_cold[2] = {0}, worst_warm[2] = {0};
  if (argc < 2 || !mkdtemp(root))
    return 2;
  snprintf(cache, sizeof cache, "%s/cache", root);
  printf("%-24s %4s %6s  %-17s %9s %9s %9s %9s\n", "8 heads of 64, float32", "step", "n", "passes", "cold ms",
         "(CPU)", "warm ms", "(CPU)");
  for (int k = 1; k < argc; k++) {
    const char *name = strrchr(argv[k], '/') ? strrchr(argv[k], '/') + 1 : argv[k];
    int64_t steps = count_steps(argv[k]);
    for (int64_t step = 0; step < steps; step++)
      for (int p = 0; p < 2; p++) {
        startup cold, warm;
        measure(argv[k], step, passes[p].flags, cache, &cold, &warm);
        printf("%-24s %4d %6d  %-17s %9.1f %9.1f %9.2f %9.2f\n", name, (int)step, cold.n, passes[p].name,
               cold.wall_ms, cold.cpu_ms, warm.wall_ms, warm.cpu_ms);
        fflush(stdout);
        worst_cold[p] = cold.wall_ms > worst_cold[p] ? cold.wall_ms : worst_cold[p];
        worst_warm[p] = warm.wall_ms > worst_warm[p] ? warm.wall_ms : worst_warm[p];
      }
  }
  for (int p = 0; p < 2; p++)
    printf("worst %s: cold %.1f ms (aim %g), warm %.2f ms (aim %g)\n", passes[p].name, worst_cold[p],
           cold_aim_ms, worst_warm[p], warm_aim_ms);
  remove_directory(root);
  return 0;
}
