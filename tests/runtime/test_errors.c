/* Every error that sptx.h documents: one row for each call that must fail, with its status and a part of its
 * sentence. After each failure the output pointer is NULL, the sentence is there, and the context still
 * works.
 */
#include "runtime/sptx.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static sptx_context *context;
static sptx_pattern *pattern;
static sptx_attention *attention; /* forward only, no decode */
static float tensor[64];
static char root[64];

static const char window[] =
    "sptx: 1\nname: w\nparams: {window: 4}\ncausal: true\nattend: {window: {left: window}}\n";

static void open_all(void) {
  strcpy(root, "/tmp/sptx-errors-XXXXXX");
  cr_assert_not_null(mkdtemp(root));
  cr_assert_eq(setenv("XDG_CACHE_HOME", root, 1), 0);
  cr_assert_eq(sptx_context_create(&context, "cpu"), SPTX_OK);
  cr_assert_eq(sptx_pattern_from_text(context, window, strlen(window), "w", NULL, 0, &pattern), SPTX_OK);
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  desc.flags = 0;
  desc.n_q = desc.n_k = 4;
  desc.head_dim = 16;
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &attention), SPTX_OK);
}

static void close_all(void) {
  char command[128];
  sptx_attention_destroy(attention);
  sptx_pattern_destroy(pattern);
  sptx_context_destroy(context);
  snprintf(command, sizeof command, "rm -rf %s", root);
  cr_expect_eq(system(command), 0);
}

TestSuite(errors, .init = open_all, .fini = close_all, .timeout = 60);

/* A sentence: begins with no space, ends without line break, names what is wrong. */
static void expect_failure(const sptx_context *where, sptx_status status, sptx_status wanted,
                           const char *part) {
  const char *message = sptx_last_error(where);
  cr_expect(status == wanted, "%s instead of %s: '%s'", sptx_status_name(status), sptx_status_name(wanted),
            message);
  cr_expect(strstr(message, part) != NULL, "'%s' does not say '%s'", message, part);
  cr_expect(strlen(message) >= 15 && !isspace((unsigned char)message[0]) && !strchr(message, '\n'),
            "'%s' is no sentence", message);
}

Test(errors, creating_a_context) {
  static const struct {
    const char *device;
    sptx_status status;
    const char *part;
  } rows[] = {
      {NULL, SPTX_INVALID_ARGUMENT, "device is NULL"},      {"", SPTX_INVALID_ARGUMENT, "use cpu or cuda:N"},
      {"gpu", SPTX_INVALID_ARGUMENT, "use cpu or cuda:N"},  {"cpu:0", SPTX_INVALID_ARGUMENT, "'cpu:0'"},
      {"cuda", SPTX_INVALID_ARGUMENT, "use cpu or cuda:N"}, {"cuda:x", SPTX_INVALID_ARGUMENT, "'cuda:x'"},
      {"cuda:-1", SPTX_INVALID_ARGUMENT, "'cuda:-1'"},      {"cuda:9999", SPTX_NO_DEVICE, "cuda"},
  };
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    sptx_context *created = (sptx_context *)tensor;
    expect_failure(NULL, sptx_context_create(&created, rows[k].device), rows[k].status, rows[k].part);
    cr_expect_null(created);
  }
  expect_failure(NULL, sptx_context_create(NULL, "cpu"), SPTX_INVALID_ARGUMENT, "ctx is NULL");
}

Test(errors, settings_of_a_context) {
  static const int threads[] = {-1, 1025, -2147483647 - 1, 2147483647};
  for (size_t k = 0; k < sizeof threads / sizeof *threads; k++)
    expect_failure(context, sptx_context_set_threads(context, threads[k]), SPTX_INVALID_ARGUMENT,
                   "from 1 to 1024");
  cr_expect_eq(sptx_context_set_threads(context, 1024), SPTX_OK);
  cr_expect_eq(sptx_context_set_threads(context, 0), SPTX_OK);
  expect_failure(context, sptx_context_set_cache(context, ""), SPTX_INVALID_ARGUMENT,
                 "cache directory is empty");
  expect_failure(context, sptx_context_set_wisdom(context, ""), SPTX_INVALID_ARGUMENT,
                 "wisdom path is empty");
}

Test(errors, reading_a_pattern) {
  static const sptx_param unknown = {"nonsense", "1"}, no_value = {"window", NULL}, no_name = {NULL, "1"},
                          bad = {"window", "1 +"}, fine = {"window", "n / 2"};
  static char deep[4096];
  for (size_t k = 0; k < sizeof deep - 1; k++)
    deep[k] = '[';
  const struct {
    const char *text;
    const sptx_param *params;
    size_t param_count;
    sptx_status status;
    const char *part;
  } rows[] = {
      {NULL, NULL, 0, SPTX_INVALID_ARGUMENT, "text is NULL"},
      {window, NULL, 1, SPTX_INVALID_ARGUMENT, "params is NULL"},
      {window, &no_value, 1, SPTX_INVALID_ARGUMENT, "params[0]"},
      {window, &no_name, 1, SPTX_INVALID_ARGUMENT, "params[0]"},
      {window, &unknown, 1, SPTX_PATTERN_VALUE, "nonsense"},
      {window, &bad, 1, SPTX_PATTERN_SYNTAX, "window"},
      {"", NULL, 0, SPTX_PATTERN_SYNTAX, "file.yaml:1"},
      {"sptx: [", NULL, 0, SPTX_PATTERN_SYNTAX, "file.yaml:"},
      {"sptx: 1\nname: x\nattend: {window: {left: 4, wrong: 1}}\n", NULL, 0, SPTX_PATTERN_VALUE,
       "file.yaml:3:28: "},
      {"sptx: 2\nname: x\nattend: all\n", NULL, 0, SPTX_PATTERN_VALUE, "file.yaml:1:"},
      {"sptx: 1\nname: x\nattend: {where: \"i +\"}\n", NULL, 0, SPTX_PATTERN_SYNTAX, "file.yaml:3:"},
      {deep, NULL, 0, SPTX_PATTERN_LIMIT, "file.yaml:1:"},
      {"sptx: 1\nname: x\nattend: {layout: {block: 4, file: missing.npy}}\n", NULL, 0, SPTX_IO,
       "missing.npy"},
      {"sptx: 1\nname: x\nattend: {layout: {block: 4, file: /proc/self/status}}\n", NULL, 0, SPTX_FORMAT,
       "/proc/self/status"},
  };
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
    sptx_pattern *loaded = pattern;
    size_t length = rows[k].text ? strlen(rows[k].text) : 0;
    expect_failure(context,
                   sptx_pattern_from_text(context, rows[k].text, length, "file.yaml", rows[k].params,
                                          rows[k].param_count, &loaded),
                   rows[k].status, rows[k].part);
    cr_expect_null(loaded, "row %zu", k);
  }
  sptx_pattern *loaded;
  expect_failure(context, sptx_pattern_from_text(context, window, 1, "w", NULL, 0, NULL),
                 SPTX_INVALID_ARGUMENT, "pattern is NULL");
  expect_failure(context, sptx_pattern_load(context, NULL, NULL, 0, &loaded), SPTX_INVALID_ARGUMENT,
                 "path is NULL");
  expect_failure(context, sptx_pattern_load(context, "w", NULL, 0, NULL), SPTX_INVALID_ARGUMENT,
                 "pattern is NULL");
  expect_failure(context, sptx_pattern_load(context, "/nowhere/a.yaml", NULL, 0, &loaded), SPTX_IO,
                 "/nowhere/a.yaml");
  expect_failure(context, sptx_pattern_load(context, root, NULL, 0, &loaded), SPTX_IO, root);
  cr_expect_eq(sptx_pattern_from_text(context, window, strlen(window), NULL, &fine, 1, &loaded), SPTX_OK);
  sptx_pattern_destroy(loaded);
}

/* Each row changes one field of a desc that is right. */
#define ROW(change, status, part)                                                                            \
  do {                                                                                                       \
    sptx_attention_desc d = right;                                                                           \
    change;                                                                                                  \
    sptx_attention *created = attention;                                                                     \
    expect_failure(context, sptx_attention_create(context, pattern, &d, &created), status, part);            \
    cr_expect_null(created);                                                                                 \
  } while (0)

Test(errors, creating_an_attention) {
  const float bad_slopes[] = {1, NAN, 1, 1};
  sptx_attention_desc right = SPTX_ATTENTION_DESC_INIT;
  right.heads = 4;
  right.n_q = right.n_k = 8;
  right.head_dim = 16;
  ROW(d.struct_size = 8, SPTX_INVALID_ARGUMENT, "struct_size");
  ROW(d.struct_size++, SPTX_INVALID_ARGUMENT, "struct_size");
  ROW(d.flags = 64, SPTX_INVALID_ARGUMENT, "flags");
  ROW(d.dtype = (sptx_dtype)3, SPTX_INVALID_ARGUMENT, "type");
  ROW(d.dtype = (sptx_dtype)-1, SPTX_INVALID_ARGUMENT, "type");
  ROW(d.batch = 0, SPTX_INVALID_ARGUMENT, "batch");
  ROW(d.batch = -1, SPTX_INVALID_ARGUMENT, "batch");
  ROW(d.heads = 0, SPTX_INVALID_ARGUMENT, "heads");
  ROW(d.heads = -4, SPTX_INVALID_ARGUMENT, "heads");
  ROW(d.kv_heads = 3, SPTX_INVALID_ARGUMENT, "kv_heads");
  ROW(d.kv_heads = -1, SPTX_INVALID_ARGUMENT, "kv_heads");
  ROW(d.kv_heads = 8, SPTX_INVALID_ARGUMENT, "kv_heads");
  ROW(d.n_q = 0, SPTX_INVALID_ARGUMENT, "n_q");
  ROW(d.n_q = -1, SPTX_INVALID_ARGUMENT, "n_q");
  ROW(d.n_k = 0, SPTX_INVALID_ARGUMENT, "n_k");
  ROW(d.n_k = -1, SPTX_INVALID_ARGUMENT, "n_k");
  ROW(d.n_q = 9, SPTX_INVALID_ARGUMENT, "n_q");
  ROW(d.head_dim = 0, SPTX_UNSUPPORTED, "head_dim");
  ROW(d.head_dim = 8, SPTX_UNSUPPORTED, "head_dim");
  ROW(d.head_dim = 20, SPTX_UNSUPPORTED, "head_dim");
  ROW(d.head_dim = 264, SPTX_UNSUPPORTED, "head_dim");
  ROW(d.head_dim = INT64_MAX, SPTX_UNSUPPORTED, "head_dim");
  ROW(d.step = 1, SPTX_INVALID_ARGUMENT, "step");
  ROW(d.step = -1, SPTX_INVALID_ARGUMENT, "step");
  ROW(d.scale = NAN, SPTX_INVALID_ARGUMENT, "scale");
  ROW(d.scale = INFINITY, SPTX_INVALID_ARGUMENT, "scale");
  ROW(d.soft_cap = -1, SPTX_INVALID_ARGUMENT, "soft_cap");
  ROW(d.soft_cap = NAN, SPTX_INVALID_ARGUMENT, "soft_cap");
  ROW(d.alibi_slopes = bad_slopes, SPTX_INVALID_ARGUMENT, "alibi_slopes[1]");
  ROW((d.q = (sptx_tensor_strides){128, 0, 16}), SPTX_INVALID_ARGUMENT, "q");
  ROW((d.k = (sptx_tensor_strides){512, 128, 8}), SPTX_INVALID_ARGUMENT, "k");
  ROW((d.v = (sptx_tensor_strides){512, 128, -16}), SPTX_INVALID_ARGUMENT, "v");
  ROW((d.o = (sptx_tensor_strides){0, INT64_MAX, 16}), SPTX_OVERFLOW, "o");
  ROW(d.n_q = d.n_k = INT64_MAX, SPTX_OVERFLOW, "63 bits");
#ifdef NDEBUG /* else lowering is verified first, key by key */
  ROW(d.n_k = INT64_C(1) << 33, SPTX_UNSUPPORTED, "n_k");
#endif
  sptx_attention *created;
  expect_failure(context, sptx_attention_create(context, NULL, &right, &created), SPTX_INVALID_ARGUMENT,
                 "pattern is NULL");
  expect_failure(context, sptx_attention_create(context, pattern, NULL, &created), SPTX_INVALID_ARGUMENT,
                 "desc is NULL");
  expect_failure(context, sptx_attention_create(context, pattern, &right, NULL), SPTX_INVALID_ARGUMENT,
                 "attention is NULL");
  cr_expect_eq(sptx_attention_create(context, pattern, &right, &created), SPTX_OK);
  sptx_attention_destroy(created);
}

Test(errors, an_expression_that_fails_for_this_n) {
  static const char text[] = "sptx: 1\nname: x\nattend: {window: {left: 100 / (n - 8)}}\n";
  sptx_pattern *bad;
  sptx_attention *created = attention;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  cr_assert_eq(sptx_pattern_from_text(context, text, strlen(text), "div.yaml", NULL, 0, &bad), SPTX_OK);
  desc.n_q = desc.n_k = 8;
  desc.head_dim = 16;
  expect_failure(context, sptx_attention_create(context, bad, &desc, &created), SPTX_PATTERN_VALUE,
                 "div.yaml:3:");
  cr_expect_null(created);
  sptx_pattern_destroy(bad);
}

Test(errors, running_a_pass) {
  const struct {
    const char *name;
    const void *q, *k, *v;
    void *o;
  } rows[] = {{"q is NULL", NULL, tensor, tensor, tensor},
              {"k is NULL", tensor, NULL, tensor, tensor},
              {"v is NULL", tensor, tensor, NULL, tensor},
              {"o is NULL", tensor, tensor, tensor, NULL}};
  for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
    expect_failure(context,
                   sptx_attention_forward(attention, rows[k].q, rows[k].k, rows[k].v, rows[k].o, NULL, NULL),
                   SPTX_INVALID_ARGUMENT, rows[k].name);
  expect_failure(context,
                 sptx_attention_backward(attention, tensor, tensor, tensor, tensor, tensor, tensor, tensor,
                                         tensor, tensor, NULL),
                 SPTX_INVALID_ARGUMENT, "SPTX_WITH_BACKWARD");
  expect_failure(context, sptx_attention_decode(attention, 0, tensor, tensor, tensor, tensor, NULL, NULL),
                 SPTX_INVALID_ARGUMENT, "SPTX_WITH_DECODE");
  sptx_attention_info info = {.struct_size = 1};
  expect_failure(context, sptx_attention_get_info(attention, &info), SPTX_INVALID_ARGUMENT, "struct_size");
  expect_failure(context, sptx_attention_get_info(attention, NULL), SPTX_INVALID_ARGUMENT, "info is NULL");
}

Test(errors, tensors_and_positions_of_backward_and_decode) {
  sptx_attention *all;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  static const char *const names[] = {"q", "k", "v", "o", "lse", "d_o", "d_q", "d_k", "d_v"};
  desc.flags = SPTX_WITH_BACKWARD | SPTX_WITH_DECODE;
  desc.n_q = desc.n_k = 4;
  desc.head_dim = 16;
  cr_assert_eq(sptx_attention_create(context, pattern, &desc, &all), SPTX_OK);
  for (size_t missing = 0; missing < sizeof names / sizeof *names; missing++) {
    float *t[9];
    char part[32];
    for (size_t k = 0; k < 9; k++)
      t[k] = k == missing ? NULL : tensor;
    snprintf(part, sizeof part, "%s is NULL", names[missing]);
    expect_failure(context,
                   sptx_attention_backward(all, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], NULL),
                   SPTX_INVALID_ARGUMENT, part);
    if (missing < 4)
      expect_failure(context, sptx_attention_decode(all, 0, t[0], t[1], t[2], t[3], NULL, NULL),
                     SPTX_INVALID_ARGUMENT, part);
  }
  static const int64_t positions[] = {-1, 4, INT64_MIN, INT64_MAX};
  for (size_t k = 0; k < sizeof positions / sizeof *positions; k++)
    expect_failure(context,
                   sptx_attention_decode(all, positions[k], tensor, tensor, tensor, tensor, NULL, NULL),
                   SPTX_INVALID_ARGUMENT, "position is");
  sptx_attention_destroy(all);
}

Test(errors, no_object_at_all) {
  sptx_pattern *loaded;
  sptx_attention *created;
  sptx_attention_desc desc = SPTX_ATTENTION_DESC_INIT;
  sptx_attention_info info = {.struct_size = sizeof info};
  cr_expect_eq(sptx_context_set_threads(NULL, 1), SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_context_set_cache(NULL, root), SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_context_set_wisdom(NULL, root), SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_pattern_load(NULL, root, NULL, 0, &loaded), SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_pattern_from_text(NULL, window, 1, NULL, NULL, 0, &loaded), SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_attention_create(NULL, pattern, &desc, &created), SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_attention_forward(NULL, tensor, tensor, tensor, tensor, NULL, NULL),
               SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_attention_backward(NULL, tensor, tensor, tensor, tensor, tensor, tensor, tensor, tensor,
                                       tensor, NULL),
               SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_attention_decode(NULL, 0, tensor, tensor, tensor, tensor, NULL, NULL),
               SPTX_INVALID_ARGUMENT);
  cr_expect_eq(sptx_attention_get_info(NULL, &info), SPTX_INVALID_ARGUMENT);
  sptx_context_destroy(NULL);
  sptx_pattern_destroy(NULL);
  sptx_attention_destroy(NULL);
  cr_expect_eq(sptx_pattern_steps(NULL), 0);
  cr_expect_eq(sptx_pattern_step_of_layer(NULL, 3), 0);
}

Test(errors, every_status_has_a_name_of_its_own) {
  static const sptx_status all[] = {SPTX_OK,
                                    SPTX_INVALID_ARGUMENT,
                                    SPTX_OUT_OF_MEMORY,
                                    SPTX_OVERFLOW,
                                    SPTX_PATTERN_SYNTAX,
                                    SPTX_PATTERN_VALUE,
                                    SPTX_PATTERN_LIMIT,
                                    SPTX_UNSUPPORTED,
                                    SPTX_IO,
                                    SPTX_FORMAT,
                                    SPTX_COMPILE,
                                    SPTX_NO_DEVICE,
                                    SPTX_DEVICE,
                                    SPTX_DEVICE_MEMORY};
  for (size_t a = 0; a < sizeof all / sizeof *all; a++)
    for (size_t b = 0; b < a; b++)
      cr_expect_str_neq(sptx_status_name(all[a]), sptx_status_name(all[b]));
  cr_expect_str_eq(sptx_status_name((sptx_status)1234), "unknown status");
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", SPTX_VERSION_MAJOR, SPTX_VERSION_MINOR, SPTX_VERSION_PATCH);
  cr_expect_str_eq(sptx_version(), version);
}

/* "The last failure on this context in the calling thread": success leaves it, another context has its own.
 */
Test(errors, the_last_sentence_stays_until_the_next_failure) {
  sptx_context *other;
  cr_assert_eq(sptx_context_create(&other, "cpu"), SPTX_OK);
  cr_expect_str_eq(sptx_last_error(other), "");
  cr_expect_neq(sptx_context_set_threads(context, -5), SPTX_OK);
  cr_expect_eq(sptx_context_set_threads(context, 1), SPTX_OK);
  cr_expect_not_null(strstr(sptx_last_error(context), "-5"));
  cr_expect_str_eq(sptx_last_error(other), "");
  cr_expect_neq(sptx_context_set_threads(context, -6), SPTX_OK);
  cr_expect_not_null(strstr(sptx_last_error(context), "-6"));
  sptx_context_destroy(other);
}
