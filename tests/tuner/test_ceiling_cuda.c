/* The ceilings of a GPU over the fake driver: rates follow the clock, every driver call may fail, and the
 * kernels are PTX that ptxas takes, where it is installed (SPTX_PTXAS names another than
 * /usr/local/cuda/bin/ptxas). */
#include "tests/runtime/fake_driver.h"
#include "tuner/ceiling_cuda.h"

#include <criterion/criterion.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum sptx_code measure(sptx_rates *rates, sptx_error *error) {
  sptx_cuda_device device;
  SPTX_TRY(sptx_cuda_device_open(&fake_driver, 0, &device, error));
  enum sptx_code code = sptx_ceiling_cuda(&device, rates, error);
  sptx_cuda_device_close(&device);
  return code;
}

/* Tests may run under MALLOC_PERTURB_, which would write the buffers of the copy each time. */
static void leave_memory_alone(void) {
  mallopt(M_PERTURB, 0);
}

TestSuite(ceiling_cuda, .init = leave_memory_alone);

static sptx_rates rates_at(float ms, int major) {
  sptx_rates rates;
  sptx_error error = {0};
  fake_reset(-1);
  fake.other_kernels = true;
  fake.elapsed_ms = ms;
  fake.major = major;
  cr_assert_eq(measure(&rates, &error), SPTX_CODE_OK, "%s", error.message);
  cr_assert_eq(fake.live, 0);
  cr_assert_eq(fake.depth, 0);
  return rates;
}

Test(ceiling_cuda, rates_follow_the_clock) {
  for (int major = 8; major <= 9; major++) {
    sptx_rates fast = rates_at(1, major), slow = rates_at(4, major);
    cr_expect_float_eq(fast.flops / slow.flops, 4, 1e-6);
    cr_expect_float_eq(fast.copy / slow.copy, 4, 1e-6);
    cr_expect_float_eq(fast.exp / slow.exp, 4, 1e-6);
    cr_expect_float_eq(slow.launch / fast.launch, 4, 1e-6);
    cr_expect_float_eq(fast.copy, 2.0 * (128 << 20) / 1e-3, 1);
    cr_expect_eq(fast.threads, slow.threads);
    cr_expect(fast.flops > 0 && fast.exp > 0 && fast.threads > 0);
  }
}

Test(ceiling_cuda, every_call_may_fail, .timeout = 120) {
  for (int n = 0;; n++) {
    cr_assert_lt(n, 2000);
    sptx_rates rates;
    sptx_error error = {0};
    fake_reset(n);
    fake.other_kernels = true;
    fake.elapsed_ms = 1;
    enum sptx_code code = measure(&rates, &error);
    cr_assert_eq(fake.live, 0, "call %d fails: %d objects leak", n, fake.live);
    cr_assert_eq(fake.depth, 0, "call %d fails: the caller's context is changed", n);
    if (fake.calls <= n) {
      cr_assert_eq(code, SPTX_CODE_OK, "%s", error.message);
      cr_assert_gt(n, 100);
      return;
    }
    cr_assert_eq(code, SPTX_CODE_DEVICE_MEMORY, "call %d fails and gives %d: %s", n, code, error.message);
  }
}

Test(ceiling_cuda, a_clock_that_stands_still_is_a_sentence) {
  sptx_rates rates;
  sptx_error error = {0};
  fake_reset(-1);
  fake.other_kernels = true;
  cr_expect_eq(measure(&rates, &error), SPTX_CODE_DEVICE);
  cr_expect_not_null(strstr(error.message, "takes no time"), "%s", error.message);
}

Test(ceiling_cuda, kernels_assemble, .timeout = 120) {
  static const char *const architectures[] = {[SPTX_PTX_SM80] = "sm_80", [SPTX_PTX_SM90A] = "sm_90a"};
  const char *given = getenv("SPTX_PTXAS"), *ptxas = given ? given : "/usr/local/cuda/bin/ptxas";
  if (access(ptxas, X_OK) != 0)
    cr_skip_test("no ptxas");
  for (int target = SPTX_PTX_SM80; target <= SPTX_PTX_SM90A; target++) {
    char path[] = "/tmp/sptx-ceiling-XXXXXX", command[512];
    int file = mkstemp(path);
    cr_assert_geq(file, 0);
    FILE *stream = fdopen(file, "w");
    sptx_ceiling_ptx((enum sptx_ptx_target)target, stream);
    fclose(stream);
    snprintf(command, sizeof command, "'%s' -arch=%s -o /dev/null %s", ptxas, architectures[target], path);
    cr_expect_eq(system(command), 0, "%s", command);
    unlink(path);
  }
}
