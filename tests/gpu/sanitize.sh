#!/bin/sh
# Runs the GPU test under compute-sanitizer: memcheck (accesses outside of what was allocated) and racecheck
# (hazards in shared memory).
#
#   sanitize.sh [BUILD] [FILTER...]     BUILD: a build folder (build); FILTER: see test_gpu_attention --filter
#
# Without filters it takes cases of each kind, some long or many enough that stages are used twice: the tools slow
# kernels down by orders of magnitude. SANITIZER names another compute-sanitizer. Exit status: 0 clean, 1 not,
# 77 no compute-sanitizer or no GPU.
set -eu
build=${1:-build}
[ $# -eq 0 ] || shift
sanitizer=${SANITIZER:-$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)}
test=$build/tests/gpu/test_gpu_attention
[ -x "$test" ] || test=$build/test_gpu_attention
[ -x "$sanitizer" ] || { echo "skipped: no compute-sanitizer"; exit 77; }
if [ $# -eq 0 ]; then
  set -- 'local window=100 step 0 bf16 backward B1 H2/2 n_q 127' \
    'local window=37 step 0 bf16 backward B1 H2/2 n_q 389 n_k 389 D64 contiguous' \
    'local  step 0 f16 backward B1 H2/2 n_q 389 n_k 389 D128 contiguous' \
    'dense  step 0 f16 backward B1 H2/2 n_q 1031 n_k 1031 D64' \
    'local window=100 step 0 f16 backward B2 H16/16 n_q 1031' \
    'strided  step 1 bf16 backward B1 H2/2 n_q 389' \
    'strided-merged stride=24 step 0 bf16 backward B1 H2/2 n_q 100' \
    'fixed-merged stride=64 step 0 f16 backward B1 H2/2 n_q 127' \
    'dense  step 0 bf16 backward B1 H2/2 n_q 100' \
    'dense  step 0 f32 backward B1 H2/2 n_q 127' \
    'bigbird block=32 step 0 bf16 forward' \
    'strided-merged stride=16 step 0 bf16 decode'
fi
status=0
for filter; do
  for tool in memcheck racecheck; do
    echo "$tool: $filter"
    result=0
    "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 9 "$test" --workers 1 --seconds 600 \
      --patterns "$(dirname "$0")/../../patterns/library" --filter "$filter" || result=$?
    [ $result -ne 77 ] || exit 77
    [ $result -eq 0 ] || status=1
  done
done
[ $status -eq 0 ] && echo "clean" || echo "NOT clean"
exit $status
