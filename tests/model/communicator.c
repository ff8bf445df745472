/* Sums over processes without any: the buckets that gradients travel in, and NCCL's calls through tables of
 * fake functions that keep a record, let the n-th call fail, and count what is not given back. Where nccl.h
 * is present, our declarations are compared with it. */
#include "model/communicator.h"

#include "model/device.h"
#include "model/nccl.h"

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(sptx_nccl_id) == 128 && _Alignof(sptx_nccl_id) == 1, "an identifier is 128 bytes");
#if __has_include(<nccl.h>)
#include <nccl.h>
_Static_assert(sizeof(ncclUniqueId) == 128 && _Alignof(ncclUniqueId) == 1, "an identifier of nccl.h");
#define sptx_nccl_id ncclUniqueId /* a struct of no name: only its size can be compared */
#define CHECK(result, name, parameters)                                                                      \
  _Static_assert(__builtin_types_compatible_p(__typeof__(nccl##name), result parameters),                    \
                 "nccl" #name " differs from nccl.h");
SPTX_NCCL_FUNCTIONS(CHECK)
#undef sptx_nccl_id
_Static_assert((int)ncclInProgress == (int)SPTX_NCCL_IN_PROGRESS && (int)ncclFloat32 == SPTX_NCCL_FLOAT32 &&
                   (int)ncclSum == SPTX_NCCL_SUM && (int)ncclSuccess == 0,
               "constants of nccl.h");
#endif

static struct {
  char record[4096];
  int calls, fail_at; /* the call of this number fails; -1: none */
  int live;           /* streams, events and communicators that are not given back */
  int polls;          /* before the sums are done; -1: they never are */
  sptx_nccl_result async_error;
  sptx_nccl_id id; /* as the communicator was connected with */
} fake;

static void note(const char *format, ...) {
  size_t length = strlen(fake.record);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(fake.record + length, sizeof fake.record - length, format, arguments);
  va_end(arguments);
}

static bool fails(void) {
  return fake.calls++ == fake.fail_at;
}

enum { FAILURE = 2 }; /* out of memory of CUDA, a system error of NCCL */
#define OR_FAIL                                                                                              \
  if (fails())                                                                                               \
  return FAILURE
static int objects[8]; /* handles: the stream, the events, the communicator; NULL is the computing stream */

static const char *name_of(const void *object) {
  static const char *const names[] = {"side", "event1", "event2", "comm"};
  return object ? names[(const int *)object - objects] : "main";
}

static sptx_cu_result describe(sptx_cu_result result, const char **text) {
  *text = result == FAILURE ? "out of memory" : "unknown";
  return 0;
}
static sptx_cu_result stream_create(sptx_cu_stream *stream, unsigned flags) {
  OR_FAIL;
  cr_assert_eq(flags, 1, "the stream would wait for the computing one");
  *stream = (sptx_cu_stream)(void *)&objects[0];
  fake.live++;
  return 0;
}
static sptx_cu_result stream_destroy(sptx_cu_stream stream) {
  cr_assert_eq((void *)stream, (void *)&objects[0]);
  fake.live--;
  return 0;
}
static sptx_cu_result event_create(sptx_cu_event *event, unsigned flags) {
  OR_FAIL;
  cr_assert_eq(flags, 2);
  *event = (sptx_cu_event)(void *)&objects[fake.live++];
  return 0;
}
static sptx_cu_result event_destroy(sptx_cu_event event) {
  cr_assert_not_null(event);
  fake.live--;
  return 0;
}
static sptx_cu_result event_record(sptx_cu_event event, sptx_cu_stream stream) {
  OR_FAIL;
  note("record %s on %s; ", name_of(event), name_of(stream));
  return 0;
}
static sptx_cu_result stream_wait(sptx_cu_stream stream, sptx_cu_event event, unsigned flags) {
  OR_FAIL;
  cr_assert_eq(flags, 0);
  note("%s waits for %s; ", name_of(stream), name_of(event));
  return 0;
}
static sptx_cu_result event_query(sptx_cu_event event) {
  OR_FAIL;
  fake.polls -= fake.polls > 0;
  if (fake.polls)
    return SPTX_CU_ERROR_NOT_READY;
  note("%s is there; ", name_of(event));
  return 0;
}
static const sptx_cuda_driver driver = {.GetErrorName = describe,
                                        .GetErrorString = describe,
                                        .StreamCreate = stream_create,
                                        .StreamDestroy = stream_destroy,
                                        .StreamWaitEvent = stream_wait,
                                        .EventCreate = event_create,
                                        .EventDestroy = event_destroy,
                                        .EventRecord = event_record,
                                        .EventQuery = event_query};

static sptx_nccl_result unique_id(sptx_nccl_id *id) {
  OR_FAIL;
  for (int k = 0; k < 128; k++)
    id->bytes[k] = (char)(3 * k + 1); /* beyond 127, and none is 0 but by chance */
  return 0;
}
static sptx_nccl_result init_rank(sptx_nccl_comm *comm, int size, sptx_nccl_id id, int rank) {
  OR_FAIL;
  note("connect %d of %d; ", rank, size);
  fake.id = id;
  *comm = (sptx_nccl_comm)(void *)&objects[3];
  fake.live++;
  return 0;
}
static sptx_nccl_result comm_destroy(sptx_nccl_comm comm) {
  note("destroy %s; ", name_of(comm));
  fake.live--;
  return 0;
}
static sptx_nccl_result comm_abort(sptx_nccl_comm comm) {
  note("abort %s; ", name_of(comm));
  fake.live--;
  return 0;
}
static sptx_nccl_result async_error(sptx_nccl_comm comm, sptx_nccl_result *result) {
  OR_FAIL;
  cr_assert_not_null(comm);
  *result = fake.async_error;
  return 0;
}
static const char *error_string(sptx_nccl_result result) {
  return result == FAILURE ? "system error" : "remote error";
}
static sptx_nccl_result all_reduce(const void *from, void *to, size_t count, unsigned type,
                                   unsigned operation, sptx_nccl_comm comm, sptx_cu_stream stream) {
  OR_FAIL;
  cr_assert(from == to && type == SPTX_NCCL_FLOAT32 && operation == SPTX_NCCL_SUM);
  note("%s sums %zu on %s; ", name_of(comm), count, name_of(stream));
  return 0;
}
static const sptx_nccl table = {.GetUniqueId = unique_id,
                                .CommInitRank = init_rank,
                                .CommDestroy = comm_destroy,
                                .CommAbort = comm_abort,
                                .CommGetAsyncError = async_error,
                                .GetErrorString = error_string,
                                .AllReduce = all_reduce};

/* The processes: the other one's part of a sum is what the first process's identifier would be. */
static bool first_process;
static enum sptx_code sum_values(sptx_communicator *communicator, double *values, int count,
                                 sptx_error *error) {
  (void)communicator;
  if (fails())
    return sptx_fail(error, SPTX_CODE_DEVICE, "the other process is gone");
  for (int k = 0; k < count && !first_process; k++)
    values[k] += (unsigned char)(3 * k + 1);
  return SPTX_CODE_OK;
}
static enum sptx_code record_sum(sptx_communicator *communicator, float *floats, int64_t count,
                                 sptx_error *error) {
  (void)communicator, (void)floats, (void)error;
  note("%ld ", (long)count);
  return SPTX_CODE_OK;
}
static enum sptx_code record_finish(sptx_communicator *communicator, sptx_error *error) {
  (void)communicator, (void)error;
  note("end");
  return SPTX_CODE_OK;
}
static const struct sptx_communicator_ops PROCESS_OPS = {
    .start_sum = record_sum, .finish_sums = record_finish, .sum_values = sum_values};
static sptx_communicator processes = {.ops = &PROCESS_OPS, .size = 2};

static void reset(int rank, int fail_at) {
  memset(&fake, 0, sizeof fake);
  fake.fail_at = fail_at;
  processes.rank = rank;
  processes.interrupted = NULL;
  first_process = rank == 0;
}

static float gradients[5 << 20];

/* A step of a model: three buckets, from the last weights down. */
static enum sptx_code one_step(sptx_communicator *communicator, sptx_error *error) {
  int64_t size = sizeof gradients / sizeof *gradients, large = 2 << 20;
  SPTX_TRY(sptx_communicator_add(communicator, gradients + size - large, large, error));
  SPTX_TRY(sptx_communicator_add(communicator, gradients + size - 2 * large, large, error));
  SPTX_TRY(sptx_communicator_add(communicator, gradients, 16, error));
  return sptx_communicator_finish(communicator, error);
}

static enum sptx_code whole_life(sptx_error *error) {
  sptx_communicator *communicator;
  SPTX_TRY(sptx_communicator_create_nccl(&processes, &driver, &table, &communicator, error));
  enum sptx_code code = one_step(communicator, error);
  sptx_communicator_destroy(communicator);
  return code;
}

Test(model_communicator, small_neighbours_share_a_bucket) {
  sptx_error error;
  float *end = gradients + (4 << 20);
  reset(0, -1);
  for (int64_t at = 1; at <= 12; at++) /* twelve layers of 100,000: one message for each eleven */
    cr_assert_eq(sptx_communicator_add(&processes, end - at * 100000, 100000, &error), SPTX_CODE_OK);
  cr_assert_eq(sptx_communicator_add(&processes, gradients, 5, &error), SPTX_CODE_OK); /* lies elsewhere */
  cr_assert_eq(sptx_communicator_finish(&processes, &error), SPTX_CODE_OK);
  cr_expect_str_eq(fake.record, "1100000 100000 5 end");
}

Test(model_communicator, nccl_sums_beside_the_computing_stream) {
  for (int rank = 0; rank < 2; rank++) {
    sptx_error error = {0};
    char expected[1024];
    reset(rank, -1);
    fake.polls = 3;
    cr_assert_eq(whole_life(&error), SPTX_CODE_OK, "%s", error.message);
    snprintf(expected, sizeof expected,
             "connect %d of 2; "
             "record event1 on main; side waits for event1; comm sums 2097152 on side; "
             "record event1 on main; side waits for event1; comm sums 2097152 on side; "
             "record event1 on main; side waits for event1; comm sums 16 on side; "
             "record event2 on side; event2 is there; destroy comm; ",
             rank);
    cr_expect_str_eq(fake.record, expected);
    cr_expect_eq(fake.live, 0);
    for (int k = 0; k < 128; k++)
      cr_expect_eq((unsigned char)fake.id.bytes[k], (unsigned char)(3 * k + 1), "byte %d", k);
  }
}

Test(model_communicator, every_call_of_nccl_may_fail) {
  for (int rank = 0; rank < 2; rank++)
    for (int n = 0;; n++) {
      sptx_error error = {0};
      reset(rank, n);
      fake.polls = 2;
      enum sptx_code code = whole_life(&error);
      cr_assert_eq(fake.live, 0, "call %d fails: %d objects leak", n, fake.live);
      if (fake.calls <= n) {
        cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
        cr_assert_gt(n, 16);
        break;
      }
      cr_assert_neq(code, SPTX_CODE_OK, "call %d fails unnoticed", n);
      cr_expect(strstr(error.message, "system error") || strstr(error.message, "out of memory") ||
                    strstr(error.message, "is gone"),
                "%s", error.message);
    }
}

/* The device must be free afterwards: the trainer copies the weights out, to save them. */
Test(model_communicator, sums_that_never_end_are_given_up) {
  volatile sig_atomic_t stop = SIGTERM;
  sptx_error error = {0};
  reset(0, -1);
  fake.polls = -1;
  fake.async_error = 6; /* of another process */
  cr_expect_eq(whole_life(&error), SPTX_CODE_DEVICE);
  cr_expect(strstr(error.message, "the reduction of gradients failed: remote error"), "%s", error.message);
  cr_expect(strstr(fake.record, "abort comm; ") && !strstr(fake.record, "destroy"), "%s", fake.record);
  cr_expect_eq(fake.live, 0);
  reset(0, -1);
  fake.polls = -1;
  fake.async_error = SPTX_NCCL_IN_PROGRESS; /* is none */
  processes.interrupted = &stop;
  cr_expect_eq(whole_life(&error), SPTX_CODE_DEVICE);
  cr_expect(strstr(error.message, "interrupted during the reduction"), "%s", error.message);
  cr_expect(strstr(fake.record, "abort comm; ") && !strstr(fake.record, "destroy"), "%s", fake.record);
  cr_expect_eq(fake.live, 0);
}

Test(model_communicator, a_run_that_fails_within_a_step_waits_for_nothing) {
  sptx_error error = {0};
  sptx_communicator *communicator;
  reset(0, -1);
  fake.polls = -1;
  cr_assert_eq(sptx_communicator_create_nccl(&processes, &driver, &table, &communicator, &error),
               SPTX_CODE_OK);
  cr_assert_eq(sptx_communicator_add(communicator, gradients, 2 << 20, &error), SPTX_CODE_OK);
  sptx_communicator_destroy(communicator);
  cr_expect(strstr(fake.record, "abort comm; ") && !strstr(fake.record, "destroy"), "%s", fake.record);
  cr_expect_eq(fake.live, 0);
}

Test(model_communicator, each_process_of_a_machine_has_its_own_gpu) {
  static const struct {
    const char *configured, *first, *third;
  } CASES[] = {{"cuda:0", "cuda:0", "cuda:2"},
               {"cuda:3", "cuda:3", "cuda:5"},
               {"cpu", "cpu", "cpu"},
               {"cuda:x", "cuda:x", "cuda:x"}}; /* refused when it is opened */
  for (size_t k = 0; k < sizeof CASES / sizeof *CASES; k++) {
    char first[16], third[16];
    strcpy(first, CASES[k].configured);
    strcpy(third, CASES[k].configured);
    sptx_device_choose(first, sizeof first, 0);
    sptx_device_choose(third, sizeof third, 2);
    cr_expect_str_eq(first, CASES[k].first);
    cr_expect_str_eq(third, CASES[k].third);
  }
}

Test(model_communicator, a_library_that_is_not_nccl_is_a_sentence) {
  sptx_nccl nccl;
  sptx_error error = {0};
  cr_expect_eq(sptx_nccl_open("libno-such-thing.so.2", &nccl, &error), SPTX_CODE_NO_DEVICE);
  cr_expect(strstr(error.message, "libno-such-thing.so.2: cannot open") && strstr(error.message, "install"),
            "%s", error.message);
  cr_expect_eq(sptx_nccl_open("libm.so.6", &nccl, &error), SPTX_CODE_NO_DEVICE);
  cr_expect(strstr(error.message, "libm.so.6 has no ncclGetUniqueId: install"), "%s", error.message);
  cr_expect(!nccl.handle, "it stays open");
}
