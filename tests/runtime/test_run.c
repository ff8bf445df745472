/* The command sptx-run: what it writes against float64, for each element type, with gradients, grouped heads
 * and options; what wrong arguments and files get, and that then no output is touched. */
#include "patterns/npy.h"
#include "tests/runtime/api_case.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char root[64];
static char out[8192], err[8192]; /* of the last run */

static void enter_root(void) {
  strcpy(root, "/tmp/sptx-run-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  cr_assert_eq(chdir(root), 0);
  cr_assert_eq(setenv("XDG_CACHE_HOME", root, 1), 0);
}

static void remove_root(void) {
  char command[256];
  snprintf(command, sizeof command, "chmod -R u+w %s; rm -rf %s", root, root);
  cr_expect_eq(system(command), 0);
}

TestSuite(run, .init = enter_root, .fini = remove_root, .timeout = 120);

static void read_text(const char *path, char text[8192]) {
  FILE *file = fopen(path, "rb");
  cr_assert_not_null(file);
  text[fread(text, 1, 8191, file)] = '\0';
  fclose(file);
}

/* Runs sptx-run with the arguments, in root; the exit status. */
__attribute__((format(printf, 1, 2))) static int run(const char *format, ...) {
  char command[4096];
  int length = snprintf(command, sizeof command, "%s ", SPTX_RUN);
  va_list arguments;
  va_start(arguments, format);
  length += vsnprintf(command + length, sizeof command - (size_t)length, format, arguments);
  va_end(arguments);
  snprintf(command + length, sizeof command - (size_t)length, " > stdout.txt 2> stderr.txt");
  int status = system(command);
  read_text("stdout.txt", out);
  read_text("stderr.txt", err);
  cr_assert(WIFEXITED(status), "%s: ended by a signal", command);
  return WEXITSTATUS(status);
}

static const char *const inputs[] = {[API_Q] = "q", [API_K] = "k", [API_V] = "v", [API_D_O] = "grad-o"};
static const struct {
  int which;
  const char *name;
} outputs[] = {{API_O, "o"}, {API_LSE, "lse"}, {API_D_Q, "grad-q"}, {API_D_K, "grad-k"}, {API_D_V, "grad-v"}};

static void write_array(const char *name, enum sptx_npy_type type, int64_t a, int64_t b, int64_t c, int64_t d,
                        const void *data) {
  char path[64];
  sptx_error error = {0};
  const int64_t shape[] = {a, b, c, d};
  snprintf(path, sizeof path, "%s.npy", name);
  cr_assert_eq(sptx_npy_write(path, type, 4, shape, data, &error), SPTX_CODE_OK, "%s", error.message);
}

static enum sptx_npy_type npy_type(sptx_dtype dtype) {
  return dtype == SPTX_F32 ? SPTX_NPY_F32 : dtype == SPTX_F16 ? SPTX_NPY_F16 : SPTX_NPY_BF16;
}

/* pattern.yaml and the input files of the case. */
static void write_inputs(const api_case *c, const api_tensors *t) {
  FILE *file = fopen("pattern.yaml", "w");
  fprintf(file, "sptx: 1\nname: case\n%s", c->pattern);
  fclose(file);
  for (int which = API_Q; which <= API_D_O; which++) {
    bool keys = which == API_K || which == API_V;
    write_array(inputs[which], npy_type(c->dtype), c->batch, keys ? c->kv_heads : c->heads,
                keys ? c->n_k : c->n_q, c->head_dim, t->data[which]);
  }
}

/* Takes the file's elements for the tensor's, after a check of type and shape. */
static void read_output(const char *name, int which, api_tensors *t) {
  char path[64];
  sptx_npy npy;
  sptx_error error = {0};
  const api_case *c = &t->c;
  bool keys = which == API_D_K || which == API_D_V;
  const int64_t shape[] = {c->batch, keys ? c->kv_heads : c->heads, keys ? c->n_k : c->n_q, c->head_dim};
  snprintf(path, sizeof path, "%s.npy", name);
  cr_assert_eq(sptx_npy_read(path, 1 << 24, &npy, &error), SPTX_CODE_OK, "%s", error.message);
  cr_assert_eq(npy.type, which == API_LSE ? SPTX_NPY_F32 : npy_type(c->dtype));
  cr_assert_eq(npy.rank, which == API_LSE ? 3 : 4);
  cr_assert_arr_eq(npy.shape, shape, (size_t)npy.rank * sizeof *shape);
  memcpy(t->data[which], npy.data, npy.bytes);
  sptx_npy_clear(&npy);
}

#define INPUTS "pattern.yaml --q q.npy --k k.npy --v v.npy "
#define ALL                                                                                                  \
  INPUTS                                                                                                     \
  "-o o.npy --lse lse.npy --grad-o grad-o.npy --grad-q grad-q.npy --grad-k grad-k.npy --grad-v grad-v.npy "
#define WINDOW "params: {window: 20}\ncausal: true\nattend: {window: {left: window}}\n"
#define STEPS                                                                                                \
  "causal: true\nsteps:\n  row: {window: {left: 9}}\n  column: {stride: {every: 9}}\nuse: interleave\n"

static const api_case plain = {
    .pattern = WINDOW, .batch = 2, .heads = 4, .kv_heads = 2, .n_q = 40, .n_k = 61, .head_dim = 16};

/* Writes the case's files, runs with everything and these options, and compares. */
static void check(const api_case *c, const char *options) {
  api_case seeded = *c;
  api_tensors t;
  seeded.seed = (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
  cr_log_info("seed %lu", (unsigned long)seeded.seed);
  api_tensors_create(&seeded, &t);
  write_inputs(&seeded, &t);
  cr_assert_eq(run(ALL "%s", options), 0, "%s", err);
  for (size_t k = 0; k < sizeof outputs / sizeof *outputs; k++) {
    read_output(outputs[k].name, outputs[k].which, &t);
    double error = api_error(&t, outputs[k].which);
    cr_expect(error <= 1, "%s: %g times the tolerance, dtype %d, %s", outputs[k].name, error, (int)c->dtype,
              options);
  }
  api_tensors_clear(&t);
}

Test(run, every_element_type_with_gradients) {
  for (int dtype = SPTX_F32; dtype <= SPTX_BF16; dtype++) {
    api_case c = plain;
    c.dtype = (sptx_dtype)dtype;
    check(&c, "");
    cr_expect_str_eq(err, "");
    cr_expect_str_eq(out,
                     "o: o.npy\nlse: lse.npy\ngrad-q: grad-q.npy\ngrad-k: grad-k.npy\ngrad-v: grad-v.npy\n");
  }
}

Test(run, options_change_the_result_as_they_say) {
  api_case c = plain;
  c.scale = 0.7f;
  c.soft_cap = 1.5f;
  check(&c, "--scale 0.7 --soft-cap 1.5 --threads 3");
  c = plain;
  check(&c, "--set window=20 --device cpu");
  c.pattern = "params: {window: 7}\ncausal: true\nattend: {window: {left: 20}}\n";
  check(&c, "--set window=9");
  c.pattern = STEPS;
  c.step = 1;
  check(&c, "--step column");
}

Test(run, an_interleaved_pattern_runs_the_step_of_layer_0_and_says_so) {
  api_case c = plain;
  c.pattern = STEPS;
  check(&c, "");
  cr_expect_str_eq(err, "sptx-run: running the step row of row, column; --step chooses\n");
  check(&c, "--step row");
  cr_expect_str_eq(err, "");
}

Test(run, set_really_overrides) {
  api_case c = plain;
  c.pattern = "params: {window: 7}\ncausal: true\nattend: {window: {left: window}}\n";
  api_tensors t;
  api_tensors_create(&c, &t);
  write_inputs(&c, &t);
  cr_assert_eq(run(INPUTS "-o o.npy --set window=8"), 0, "%s", err);
  read_output("o", API_O, &t);
  cr_expect_gt(api_error(&t, API_O), 1.0, "the parameter was not replaced");
  api_tensors_clear(&t);
}

Test(run, nan_stays_in_its_rows) {
  api_case c = plain;
  c.nan_row = 30;
  check(&c, "");
}

Test(run, reports_json) {
  api_tensors t;
  api_tensors_create(&plain, &t);
  write_inputs(&plain, &t);
  cr_assert_eq(run(INPUTS "-o o.npy --json"), 0, "%s", err);
  cJSON *root_object = cJSON_Parse(out);
  cr_assert_not_null(root_object, "%s", out);
  cr_expect_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(root_object, "dtype")), "f32");
  cr_expect_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(root_object, "kv_heads")), 2);
  cr_expect_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(root_object, "n_k")), 61);
  cr_expect_float_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(root_object, "scale")), 0.25, 1e-9);
  const cJSON *written = cJSON_GetObjectItem(root_object, "written");
  cr_expect_eq(cJSON_GetArraySize(written), 1);
  cr_expect_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(written, "o")), "o.npy");
  cJSON_Delete(root_object);
  api_tensors_clear(&t);
}

/* Files whose name ends so. */
static int count_files(const char *ending) {
  int count = 0;
  DIR *listing = opendir(".");
  for (struct dirent *entry; (entry = readdir(listing));) {
    size_t length = strlen(entry->d_name);
    count += length >= strlen(ending) && strcmp(entry->d_name + length - strlen(ending), ending) == 0;
  }
  closedir(listing);
  return count;
}

Test(run, wrong_usage_and_wrong_files_touch_no_output) {
  float zeros[64 * 2] = {0};
  static const struct {
    const char *arguments;
    int status;
    const char *part;
  } rows[] = {
      {"", 2, "PATTERN.yaml"},
      {"pattern.yaml", 2, "tensor: q"},
      {"pattern.yaml --q q.npy --k k.npy -o o.npy", 2, "tensor: v"},
      {INPUTS, 2, "-o"},
      {INPUTS "-o o.npy more.yaml", 2, "more.yaml"},
      {INPUTS "-o o.npy --nonsense", 2, "nonsense"},
      {INPUTS "-o o.npy --grad-q gq.npy", 2, "--grad-o"},
      {INPUTS "-o o.npy --grad-o grad-o.npy", 2, "--grad-q"},
      {INPUTS "-o o.npy --scale 0", 2, "--scale"},
      {INPUTS "-o o.npy --scale x", 2, "--scale"},
      {INPUTS "-o o.npy --scale 1e60", 2, "--scale"},
      {INPUTS "-o o.npy --soft-cap -1", 2, "--soft-cap"},
      {INPUTS "-o o.npy --soft-cap nan", 2, "--soft-cap"},
      {INPUTS "-o o.npy --threads 0", 2, "--threads"},
      {INPUTS "-o o.npy --set window", 2, "NAME=VALUE"},
      {INPUTS "-o o.npy --set wrong=1", 2, "wrong"},
      {INPUTS "-o o.npy --step row", 2, "no step 'row'"},
      {INPUTS "-o o.npy --device gpu", 2, "'gpu'"},
      {INPUTS "-o o.npy --device cuda:99", 1, "cuda"},
      {INPUTS "-o o.npy --lse o.npy", 2, "both write"},
      {"missing.yaml --q q.npy --k k.npy --v v.npy -o o.npy", 1, "missing.yaml"},
      {"broken.yaml --q q.npy --k k.npy --v v.npy -o o.npy", 2, "broken.yaml:3:"},
      {"pattern.yaml --q missing.npy --k k.npy --v v.npy -o o.npy", 1, "missing.npy"},
      {"pattern.yaml --q pattern.yaml --k k.npy --v v.npy -o o.npy", 1, "magic"},
      {"pattern.yaml --q q.npy --k k.npy --v q.npy -o o.npy", 2, "q.npy has the shape (2, 4, 40, 16)"},
      {"pattern.yaml --q q.npy --k k.npy --v half.npy -o o.npy", 2,
       "half.npy is float16 but q.npy is float32"},
      {"pattern.yaml --q flags.npy --k k.npy --v v.npy -o o.npy", 2, "bool"},
      {"pattern.yaml --q flat.npy --k k.npy --v v.npy -o o.npy", 2, "(batch, heads, n, head_dim)"},
      {"pattern.yaml --q q.npy --k other-batch.npy --v other-batch.npy -o o.npy", 2, "batch"},
      {"pattern.yaml --q q.npy --k other-heads.npy --v other-heads.npy -o o.npy", 2, "divide"},
      {"pattern.yaml --q q.npy --k other-dim.npy --v other-dim.npy -o o.npy", 2, "head_dim"},
      {"pattern.yaml --q q.npy --k few.npy --v few.npy -o o.npy", 2, "n_q"},
      {"pattern.yaml --q empty.npy --k empty.npy --v empty.npy -o o.npy", 2, "n_q"},
      {"pattern.yaml --q small-dim.npy --k small-dim.npy --v small-dim.npy -o o.npy", 1, "head_dim"},
      {INPUTS "-o o.npy --grad-o k.npy --grad-q gq.npy", 2, "grad-o must have that of q"},
      {INPUTS "-o nowhere/o.npy", 1, "nowhere/o.npy"},
      {INPUTS "-o o.npy --lse nowhere/lse.npy", 1, "nowhere/lse.npy"},
      {INPUTS "-o o.npy --lse .", 1, ""},
      {INPUTS "-o o.npy --lse /dev/full", 1, "/dev/full"},
  };
  api_tensors t;
  api_tensors_create(&plain, &t);
  write_inputs(&plain, &t);
  write_array("half", SPTX_NPY_F16, 2, 2, 61, 16, t.data[API_K]);
  write_array("other-batch", SPTX_NPY_F32, 1, 2, 61, 16, t.data[API_K]);
  write_array("other-heads", SPTX_NPY_F32, 2, 3, 30, 16, t.data[API_K]);
  write_array("other-dim", SPTX_NPY_F32, 2, 2, 61, 8, t.data[API_K]);
  write_array("few", SPTX_NPY_F32, 2, 2, 30, 16, t.data[API_K]);
  write_array("empty", SPTX_NPY_F32, 2, 4, 0, 16, zeros);
  write_array("small-dim", SPTX_NPY_F32, 2, 2, 4, 8, zeros);
  write_array("flags", SPTX_NPY_BOOL, 1, 1, 4, 16, zeros);
  const int64_t flat[] = {64};
  cr_assert_eq(sptx_npy_write("flat.npy", SPTX_NPY_F32, 1, flat, zeros, NULL), SPTX_CODE_OK);
  FILE *file = fopen("broken.yaml", "w");
  fputs("sptx: 1\nname: x\nattend: {windo: 3}\n", file);
  fclose(file);
  file = fopen("o.npy", "w");
  fputs("precious", file);
  fclose(file);
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    int status = run("%s", rows[k].arguments);
    cr_expect(status == rows[k].status, "'%s': exit status %d, %s", rows[k].arguments, status, err);
    cr_expect(strncmp(err, "sptx-run: ", 10) == 0 || strstr(err, "unrecognized option"), "'%s': '%s'",
              rows[k].arguments, err);
    cr_expect(strstr(err, rows[k].part) != NULL, "'%s': '%s' does not say '%s'", rows[k].arguments, err,
              rows[k].part);
    cr_expect_str_eq(out, "");
    read_text("o.npy", out);
    cr_expect_str_eq(out, "precious", "'%s' changed an output", rows[k].arguments);
    cr_expect_eq(count_files(".part"), 0, "'%s' left a part of a file", rows[k].arguments);
  }
  cr_expect_eq(count_files("gq.npy"), 0);
  api_tensors_clear(&t);
}

Test(run, help_and_version) {
  cr_expect_eq(run("--help"), 0);
  cr_expect_eq(strncmp(out, "Usage: sptx-run PATTERN.yaml ", 29), 0);
  static const char *const options[] = {"--lse", "--grad-o", "--grad-q",  "--scale", "--soft-cap", "--step",
                                        "--set", "--device", "--threads", "--json",  "--version"};
  for (size_t k = 0; k < sizeof options / sizeof *options; k++)
    cr_expect_not_null(strstr(out, options[k]), "the help lacks %s", options[k]);
  cr_expect_eq(run("--version"), 0);
  cr_expect_eq(strncmp(out, "sptx-run 0", 10), 0);
  cr_expect_eq(run("--help > /dev/full 2> /dev/null; exit $?"), 1,
               "a report that cannot be written must fail");
}
