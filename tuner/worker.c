/* Fork, two pipes, one request and one answer at a time. */
#include "tuner/worker.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct request {
  int candidate;
  double seconds;
} request;

typedef struct answer {
  double ms;
  char reason[160];
  sptx_error error;
} answer;

struct sptx_worker {
  sptx_measure job;
  void *user;
  double limit_seconds;
  pid_t process; /* 0: none */
  int requests, answers;
};

enum sptx_code sptx_worker_create(sptx_measure job, void *user, double limit_seconds, sptx_worker **worker,
                                  sptx_error *error) {
  *worker = calloc(1, sizeof **worker);
  if (!*worker)
    return sptx_fail(error, SPTX_CODE_OUT_OF_MEMORY, "not enough memory for a worker");
  **worker = (sptx_worker){.job = job, .user = user, .limit_seconds = limit_seconds};
  return SPTX_CODE_OK;
}

/* Ends the process, gently or not, and returns how it ended. */
static int end_process(sptx_worker *worker, bool kill_it) {
  int status = 0;
  if (kill_it)
    kill(worker->process, SIGKILL);
  close(worker->requests);
  close(worker->answers);
  while (waitpid(worker->process, &status, 0) < 0 && errno == EINTR) {
  }
  worker->process = 0;
  return status;
}

void sptx_worker_free(sptx_worker *worker) {
  if (worker && worker->process)
    end_process(worker, true);
  free(worker);
}

/* True when all bytes came; false at the end of the pipe. */
static bool read_all(int file, void *data, size_t size) {
  size_t got = 0;
  while (got < size) {
    ssize_t count = read(file, (char *)data + got, size - got);
    if (count == 0 || (count < 0 && errno != EINTR))
      return false;
    got += count > 0 ? (size_t)count : 0;
  }
  return true;
}

static bool write_all(int file, const void *data, size_t size) {
  size_t put = 0;
  while (put < size) {
    ssize_t count = write(file, (const char *)data + put, size - put);
    if (count < 0 && errno != EINTR)
      return false;
    put += count > 0 ? (size_t)count : 0;
  }
  return true;
}

static void serve(const sptx_worker *worker, int requests, int answers) {
  request next;
  signal(SIGINT, SIG_IGN); /* Ctrl-C is the parent's to handle */
  signal(SIGPIPE, SIG_DFL);
  while (read_all(requests, &next, sizeof next)) {
    answer result;
    memset(&result, 0, sizeof result);
    enum sptx_code code =
        worker->job(worker->user, next.candidate, next.seconds, &result.ms, result.reason, &result.error);
    if (code != SPTX_CODE_OK)
      result.error.code = code;
    if (!write_all(answers, &result, sizeof result))
      break;
  }
  _exit(0);
}

static enum sptx_code start_process(sptx_worker *worker, sptx_error *error) {
  int requests[2], answers[2];
  if (pipe(requests) != 0)
    return sptx_fail(error, SPTX_CODE_IO, "cannot make a pipe to a worker: %s", strerror(errno));
  if (pipe(answers) != 0) {
    close(requests[0]), close(requests[1]);
    return sptx_fail(error, SPTX_CODE_IO, "cannot make a pipe to a worker: %s", strerror(errno));
  }
  fflush(NULL); /* what is buffered would be written twice */
  worker->process = fork();
  if (worker->process == 0) {
    close(requests[1]), close(answers[0]);
    serve(worker, requests[0], answers[1]);
  }
  close(requests[0]), close(answers[1]);
  worker->requests = requests[1];
  worker->answers = answers[0];
  if (worker->process < 0) {
    worker->process = 0;
    close(requests[1]), close(answers[0]);
    return sptx_fail(error, SPTX_CODE_IO, "cannot start a worker: %s", strerror(errno));
  }
  return SPTX_CODE_OK;
}

/* Whether an answer starts to come within the time. A clock that is set does not matter: poll counts by
 * itself. */
static bool answer_comes(int answers, double seconds) {
  struct pollfd wait_for = {.fd = answers, .events = POLLIN};
  int result;
  do
    result = poll(&wait_for, 1, (int)(1e3 * seconds));
  while (result < 0 && errno == EINTR);
  return result > 0;
}

static void say_how_it_ended(int status, char reason[160]) {
  if (WIFSIGNALED(status))
    snprintf(reason, 160, "it ended with signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
  else
    snprintf(reason, 160, "its process exited with status %d", WEXITSTATUS(status));
}

enum sptx_code sptx_worker_measure(void *user, int candidate, double seconds, double *ms, char reason[160],
                                   sptx_error *error) {
  sptx_worker *worker = user;
  *ms = 0;
  if (!worker->process)
    SPTX_TRY(start_process(worker, error));
  struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
  sigaction(SIGPIPE, &ignore, &before);
  bool sent = write_all(worker->requests, &(request){candidate, seconds}, sizeof(request));
  sigaction(SIGPIPE, &before, NULL);
  if (sent && !answer_comes(worker->answers, seconds + worker->limit_seconds)) {
    end_process(worker, true);
    snprintf(reason, 160, "it did not end within %.3g s", seconds + worker->limit_seconds);
    return SPTX_CODE_OK;
  }
  answer result;
  if (!sent || !read_all(worker->answers, &result, sizeof result)) {
    say_how_it_ended(end_process(worker, false), reason);
    return SPTX_CODE_OK;
  }
  memcpy(reason, result.reason, sizeof result.reason);
  *ms = result.ms;
  if (result.ms == 0) /* what it left behind, a GPU in error, must not strike out the next one */
    end_process(worker, true);
  if (result.error.code != SPTX_CODE_OK)
    return sptx_fail(error, result.error.code, "%s", result.error.message);
  return SPTX_CODE_OK;
}

/* The child's side of sptx_worker_once. */
static void run_once(sptx_job job, void *user, void *result, size_t size, int answers) {
  sptx_error error = {.code = SPTX_CODE_OK};
  signal(SIGINT, SIG_IGN);
  enum sptx_code code = job(user, result, &error);
  if (code != SPTX_CODE_OK)
    error.code = code;
  bool sent = write_all(answers, &error, sizeof error) && write_all(answers, result, size);
  _exit(sent ? 0 : 1);
}

enum sptx_code sptx_worker_once(sptx_job job, void *user, double limit_seconds, void *result, size_t size,
                                sptx_error *error) {
  int answers[2];
  if (pipe(answers) != 0)
    return sptx_fail(error, SPTX_CODE_IO, "cannot make a pipe to a worker: %s", strerror(errno));
  fflush(NULL);
  pid_t process = fork();
  if (process == 0) {
    close(answers[0]);
    run_once(job, user, result, size, answers[1]);
  }
  close(answers[1]);
  if (process < 0) {
    close(answers[0]);
    return sptx_fail(error, SPTX_CODE_IO, "cannot start a worker: %s", strerror(errno));
  }
  sptx_error failure = {.code = SPTX_CODE_OK};
  bool came = answer_comes(answers[0], limit_seconds) && read_all(answers[0], &failure, sizeof failure) &&
              read_all(answers[0], result, size);
  close(answers[0]);
  if (!came)
    kill(process, SIGKILL);
  while (waitpid(process, NULL, 0) < 0 && errno == EINTR) {
  }
  if (!came)
    return sptx_fail(error, SPTX_CODE_DEVICE, "the device did not answer within %.3g s", limit_seconds);
  return failure.code == SPTX_CODE_OK ? SPTX_CODE_OK : sptx_fail(error, failure.code, "%s", failure.message);
}
