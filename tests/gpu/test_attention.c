/* Attention on a GPU through the public API: every library pattern, element type, head dimension, layout and
 * score change, forward, backward and decode, against float64. A program of its own, so that it also runs
 * where only the driver is. Exit status: 0 passed, 1 failed, 77 no GPU.
 *
 * Cases run in worker processes: one that breaks its CUDA context, or hangs, fails alone. */
#include "tests/gpu/bad_input.h"
#include "tests/gpu/gpu_case.h"

#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CASES = 4096, MOST_WORKERS = 32, SKIPPED = 77, LOST = 3, NO_GPU = 4 };

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct library_pattern {
  const char *name, *parameter; /* a parameter that gives short lengths several tiles */
  int steps;
} library[] = {
    {"dense", NULL, 1},
    {"local", NULL, 1},
    {"local", "window=37", 1},
    {"strided", NULL, 2},
    {"strided", "stride=7", 2},
    {"strided-merged", "stride=16", 1},
    {"strided-merged", NULL, 1},
    {"fixed", NULL, 2},
    {"fixed-merged", "stride=64", 1},
    {"fixed-merged", NULL, 1},
    {"fixed-heads", NULL, 1},
    {"block-local", "block=50", 1},
    {"dilated", NULL, 1},
    {"dilated", "dilation=3", 1},
    {"axial-2d", "shape=[13, 30]", 2},
    {"axial-3d", "shape=[10, 13, 3]", 3},
    {"longformer", "window=40", 1},
    {"bigbird", "block=32", 1},
    {"block-layout", NULL, 1},
    {"logsparse", NULL, 1},
};

static const char *const own_patterns[] = {
    "attend: all\n",
    "attend: {window: {left: 50, right: 20}}\n",
    "causal: true\nattend: {window: {left: 1}}\n",
    "causal: true\nattend: {not: {window: {left: 100}}}\n", /* the first queries have no key */
    "attend: {where: \"(i * 7 + j * 3) % 5 == 0\"}\n",
    "causal: true\nattend: {stride: {every: 9, phase: 4}}\n",
    "heads: [{attend: {window: {left: 60}}}, {attend: {stride: {every: 8}}, count: 2}]\ncausal: true\n",
};

static const int head_dims[] = {16, 32, 64, 96, 128, 256};

static struct {
  gpu_case cases[MOST_CASES];
  int count;
  const char *filter;
} list;

static void add(gpu_case c) {
  char text[1024];
  gpu_case_print(&c, text, sizeof text);
  if ((!list.filter || strstr(text, list.filter)) && list.count < MOST_CASES)
    list.cases[list.count++] = c;
}

static const gpu_case plain = {.batch = 1,
                               .heads = 2,
                               .kv_heads = 2,
                               .n_q = 389,
                               .n_k = 389,
                               .head_dim = 64,
                               .element = SPTX_ELEMENT_BF16,
                               .pass = SPTX_PASS_BACKWARD,
                               .repeats = 2};

/* Every pattern in every element type; head dimensions take turns, so that each meets each type. */
static void add_patterns(void) {
  int turn = 0;
  for (size_t p = 0; p < COUNT(library) + COUNT(own_patterns); p++) {
    bool own = p >= COUNT(library);
    int steps = own ? 1 : library[p].steps;
    for (int step = 0; step < steps; step++)
      for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++, turn++) {
        gpu_case c = plain;
        c.pattern = own ? own_patterns[p - COUNT(library)] : library[p].name;
        c.parameter = own ? NULL : library[p].parameter;
        c.step = step;
        c.element = (enum sptx_element)element;
        c.head_dim = (turn / 3) % 2 ? 128 : 64;
        if (strncmp(c.pattern, "axial", 5) == 0)
          c.n_q = c.n_k = 390; /* the grid has as many points */
        if (strcmp(c.pattern, "fixed-heads") == 0)
          c.heads = c.kv_heads = 4;
        add(c);
        c.nondeterministic = true;
        c.repeats = 0;
        add(c);
        c.nondeterministic = false;
        c.pass = SPTX_PASS_FORWARD;
        c.head_dim = head_dims[turn % (int)COUNT(head_dims)];
        c.without_lse = turn % 2;
        c.batch = 2;
        add(c);
        c.pass = SPTX_PASS_DECODE;
        c.position = turn % 3 == 0 ? 0 : turn % 3 == 1 ? c.n_k / 2 : c.n_k - 1;
        add(c);
      }
  }
}

/* Patterns of one piece with a straight, a strided and a compacted view, and one of two pieces. */
static const struct library_pattern few[] = {
    {"local", "window=100", 1},
    {"strided-merged", "stride=24", 1},
    {"fixed-merged", "stride=64", 1},
    {"dense", NULL, 1},
};

static void add_head_dims(void) {
  for (size_t p = 0; p < COUNT(few); p++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
      for (size_t d = 0; d <= COUNT(head_dims); d++) {
        gpu_case c = plain;
        c.pattern = few[p].name;
        c.parameter = few[p].parameter;
        c.element = (enum sptx_element)element;
        c.head_dim = d < COUNT(head_dims) ? head_dims[d] : 72;
        c.nondeterministic = d % 2;
        c.repeats = c.nondeterministic ? 0 : 3;
        add(c);
      }
}

static void add_shapes(void) {
  static const int64_t sizes[][2] = {{1, 1},   {2, 2},     {17, 17},    {127, 129},
                                     {1, 300}, {100, 515}, {1031, 1031}};
  for (size_t p = 0; p < COUNT(few); p++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
      for (size_t n = 0; n < COUNT(sizes); n++) {
        gpu_case c = plain;
        c.pattern = few[p].name;
        c.parameter = few[p].parameter;
        c.element = (enum sptx_element)element;
        c.n_q = sizes[n][0];
        c.n_k = sizes[n][1];
        c.layout = (enum gpu_layout)(n % 3);
        add(c);
        c.nondeterministic = true;
        c.repeats = 0;
        add(c);
      }
}

static void add_layouts_and_scores(void) {
  for (size_t p = 0; p < COUNT(few); p++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++)
      for (int variant = 0; variant < 9; variant++) {
        gpu_case c = plain;
        c.pattern = few[p].name;
        c.parameter = few[p].parameter;
        c.element = (enum sptx_element)element;
        c.layout = (enum gpu_layout)(variant % 3);
        c.batch = 2;
        c.heads = 6;
        c.kv_heads = variant < 3 ? 6 : variant < 6 ? 2 : 1;
        c.n_q = 200;
        c.n_k = 277;
        c.scale = variant % 2 == 0 ? 0 : variant % 4 == 1 ? 0.3f : -0.3f;
        c.soft_cap = variant % 4 == 1 || variant % 4 == 2 ? 2.5f : 0;
        c.alibi = variant % 4 == 2 || variant % 4 == 3;
        c.nondeterministic = variant >= 6;
        c.repeats = 0;
        add(c);
        c.pass = SPTX_PASS_DECODE;
        c.n_q = c.n_k;
        c.position = 100 + 20 * variant;
        add(c);
      }
}

/* Twenty runs, bit for bit. */
static void add_repeats(void) {
  for (size_t p = 0; p < COUNT(few); p++)
    for (int element = SPTX_ELEMENT_F32; element <= SPTX_ELEMENT_BF16; element++) {
      gpu_case c = plain;
      c.pattern = few[p].name;
      c.parameter = few[p].parameter;
      c.element = (enum sptx_element)element;
      c.heads = 4;
      c.kv_heads = 2;
      c.n_q = c.n_k = 777;
      c.repeats = 20;
      add(c);
    }
}

/* Several tiles for each CTA of a GPU with up to 150 multiprocessors: what it shares is used again. */
static void add_many_items(void) {
  for (size_t p = 0; p < COUNT(few); p++)
    for (int d = 0; d < 2; d++) {
      gpu_case c = plain;
      c.pattern = few[p].name;
      c.parameter = few[p].parameter;
      c.element = SPTX_ELEMENT_F16;
      c.batch = 2;
      c.heads = c.kv_heads = 16;
      c.n_q = c.n_k = 1031;
      c.head_dim = d ? 128 : 64;
      add(c);
      c.nondeterministic = true;
      c.repeats = 0;
      add(c);
    }
}

static void add_captured(void) {
  for (size_t p = 0; p < COUNT(few); p++)
    for (int pass = SPTX_PASS_FORWARD; pass <= SPTX_PASS_DECODE; pass++) {
      gpu_case c = plain;
      c.pattern = few[p].name;
      c.parameter = few[p].parameter;
      c.pass = (enum sptx_pass)pass;
      c.nondeterministic = true;
      c.repeats = 0;
      c.captured = true;
      c.without_lse = pass == SPTX_PASS_FORWARD; /* the lent one is then memory of the graph */
      c.position = 333;
      add(c);
    }
}

/* The portable kernels, where Hopper's would be taken. */
static void add_portable(void) {
  for (size_t p = 0; p < COUNT(library); p++)
    for (int element = SPTX_ELEMENT_F16; element <= SPTX_ELEMENT_BF16; element++)
      for (int pass = SPTX_PASS_FORWARD; pass <= SPTX_PASS_BACKWARD; pass++) {
        gpu_case c = plain;
        c.pattern = library[p].name;
        c.parameter = library[p].parameter;
        c.element = (enum sptx_element)element;
        c.pass = (enum sptx_pass)pass;
        c.head_dim = head_dims[(p + (size_t)element) % COUNT(head_dims)];
        c.schedule = "family=1";
        if (strncmp(c.pattern, "axial", 5) == 0)
          c.n_q = c.n_k = 390;
        if (strcmp(c.pattern, "fixed-heads") == 0)
          c.heads = c.kv_heads = 4;
        add(c);
      }
}

typedef struct board {
  atomic_int next, failed, unsupported, passed;
  atomic_int bad_input; /* wrong answers */
  bool alone;           /* the cases are done: one worker checks bad input, which takes all memory there is */
  int current[MOST_WORKERS]; /* the case of each worker, or -1 */
} board;

typedef struct options {
  const char *device, *patterns;
  char cache[64];
  uint64_t seed;
  int workers, seconds; /* seconds: of a case, before it counts as hanging */
  bool list;
} options;

static void report(board *b, const char *verdict, const gpu_case *c, const char *message) {
  char text[1024], line[4096];
  gpu_case_print(c, text, sizeof text);
  snprintf(line, sizeof line, "%s: %s: %s\n", verdict, text, message);
  fputs(line, stdout);
  fflush(stdout);
  atomic_fetch_add(strcmp(verdict, "failed") == 0 ? &b->failed : &b->unsupported, 1);
}

/* A worker: cases until none is left, or its context is lost. */
static int work(board *b, int self, const options *o) {
  char message[2048];
  gpu_session session;
  enum gpu_verdict opened =
      gpu_session_open(&session, o->device, o->patterns, o->cache, message, sizeof message);
  if (opened != GPU_PASSED) {
    if (self == 0)
      printf("%s: %s\n", opened == GPU_UNSUPPORTED ? "skipped" : "failed", message);
    fflush(stdout);
    return opened == GPU_UNSUPPORTED ? NO_GPU : EXIT_FAILURE;
  }
  if (b->alone) {
    alarm((unsigned)o->seconds);
    atomic_fetch_add(&b->bad_input, check_bad_input(&session));
    alarm(0);
    fflush(stdout);
  }
  for (int k; (k = atomic_fetch_add(&b->next, 1)) < list.count;) {
    b->current[self] = k;
    alarm((unsigned)o->seconds);
    enum gpu_verdict verdict =
        gpu_case_run(&session, &list.cases[k], o->seed + (uint64_t)k, message, sizeof message);
    alarm(0);
    b->current[self] = -1;
    if (verdict == GPU_PASSED)
      atomic_fetch_add(&b->passed, 1);
    else
      report(b, verdict == GPU_UNSUPPORTED ? "unsupported" : "failed", &list.cases[k], message);
    if (verdict == GPU_LOST)
      return LOST;
  }
  gpu_session_close(&session);
  return EXIT_SUCCESS;
}

static pid_t start_worker(board *b, int self, const options *o) {
  b->current[self] = -1;
  pid_t pid = fork();
  if (pid == 0)
    _exit(work(b, self, o));
  return pid;
}

/* Runs the workers, and puts new ones in the place of those that a case broke. */
static int run_workers(board *b, const options *o) {
  pid_t pids[MOST_WORKERS];
  int alive = 0, status;
  for (int w = 0; w < o->workers; w++, alive++)
    pids[w] = start_worker(b, w, o);
  while (alive > 0) {
    pid_t ended = wait(&status);
    int self = 0;
    while (self < o->workers && pids[self] != ended)
      self++;
    if (self == o->workers)
      continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == NO_GPU)
      return NO_GPU;
    if (WIFSIGNALED(status) && b->current[self] >= 0)
      report(b, "failed", &list.cases[b->current[self]],
             WTERMSIG(status) == SIGALRM ? "it hangs" : strsignal(WTERMSIG(status)));
    else if (WIFSIGNALED(status)) {
      printf("failed: bad input: %s\n", strsignal(WTERMSIG(status)));
      atomic_fetch_add(&b->bad_input, 1);
    }
    bool replace = WIFSIGNALED(status) || WEXITSTATUS(status) == LOST;
    if (replace && atomic_load(&b->next) < list.count)
      pids[self] = start_worker(b, self, o);
    else
      alive--;
  }
  return EXIT_SUCCESS;
}

static bool parse(int argc, char **argv, options *o) {
  static const struct option names[] = {
      {"device", required_argument, NULL, 'd'}, {"patterns", required_argument, NULL, 'p'},
      {"filter", required_argument, NULL, 'f'}, {"workers", required_argument, NULL, 'w'},
      {"seed", required_argument, NULL, 's'},   {"seconds", required_argument, NULL, 't'},
      {"list", no_argument, NULL, 'l'},         {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;)
    switch (option) {
    case 'd':
      o->device = optarg;
      break;
    case 'p':
      o->patterns = optarg;
      break;
    case 'f':
      list.filter = optarg;
      break;
    case 'w':
      o->workers = atoi(optarg);
      break;
    case 's':
      o->seed = strtoull(optarg, NULL, 10);
      break;
    case 't':
      o->seconds = atoi(optarg);
      break;
    case 'l':
      o->list = true;
      break;
    default:
      return false;
    }
  return optind == argc && o->workers > 0 && o->workers <= MOST_WORKERS &&
         strncmp(o->device, "cuda:", 5) == 0;
}

static void print_list(void) {
  char text[1024];
  for (int k = 0; k < list.count; k++) {
    gpu_case_print(&list.cases[k], text, sizeof text);
    puts(text);
  }
}

static void remove_cache(const char *directory) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", directory);
  if (system(command) != 0)
    fprintf(stderr, "cannot remove %s\n", directory);
}

int main(int argc, char **argv) {
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  options o = {.device = "cuda:0",
               .patterns = "patterns/library",
               .cache = "/tmp/sptx-gpu-XXXXXX",
               .seed = (uint64_t)time(NULL),
               .workers = cores > 16 ? 16 : (int)cores,
               .seconds = 60};
  if (!parse(argc, argv, &o)) {
    fputs("usage: test_gpu_attention [--device cuda:N] [--patterns DIRECTORY] [--filter TEXT] [--workers N] "
          "[--seed N] [--seconds N] [--list]\n",
          stderr);
    return 2;
  }
  add_patterns();
  add_head_dims();
  add_shapes();
  add_layouts_and_scores();
  add_repeats();
  add_many_items();
  add_captured();
  add_portable();
  if (o.list) {
    print_list();
    return EXIT_SUCCESS;
  }
  board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (b == MAP_FAILED || !mkdtemp(o.cache))
    return EXIT_FAILURE;
  printf("seed %llu\n", (unsigned long long)o.seed);
  fflush(stdout);
  time_t start = time(NULL);
  int ended = run_workers(b, &o);
  if (ended == EXIT_SUCCESS && !list.filter) {
    b->alone = true;
    o.workers = 1;
    run_workers(b, &o);
  }
  remove_cache(o.cache);
  if (ended == NO_GPU)
    return SKIPPED;
  int run = b->passed + b->failed + b->unsupported;
  printf(
      "bad input: %d wrong answers\n%d cases: %d passed, %d failed, %d unsupported, %d not run, in %ld s\n",
      b->bad_input, list.count, b->passed, b->failed, b->unsupported, list.count - run,
      (long)(time(NULL) - start));
  return b->failed == 0 && b->bad_input == 0 && run == list.count ? EXIT_SUCCESS : EXIT_FAILURE;
}
