#!/usr/bin/env bash
# Builds what runs on a device, tests it there and measures it: one command for one visit.
#   usage: tests/bench/cuda/device.sh BUILD_FOLDER STEP…     steps: build, test, sanitize, racecheck, kernels, torch,
#   runtime, record
# Extra CMake options come from KVGRIND_CMAKE; logs go to OUT (default: the build folder).
set -uo pipefail
cd "$(dirname "$0")/../../.."
build=$1
shift
out=${OUT:-$build}
mkdir -p "$out"
targets=${KVGRIND_TARGETS:-test_kernels_cuda test_sim_cuda test_replay_cuda bench_attention_cuda bench_runtime_cuda bench_record_cuda}
failed=0
step() { # step NAME LIMIT command…
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  local rc=$?
  if ((rc != 0)); then failed=1; fi
  echo "   exit $rc after $((SECONDS - start)) s"
  return $rc
}
for what in "$@"; do
  case $what in
    build)
      step configure 60 cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DKVGRIND_CUDA=ON \
        -DCMAKE_CUDA_ARCHITECTURES=90 -DKVGRIND_GUI=OFF ${KVGRIND_CMAKE:-} || { tail -30 "$out/configure.log"; exit 1; }
      # shellcheck disable=SC2086
      step build 300 ninja -k 0 -C "$build" $targets || grep -A12 FAILED "$out/build.log" | head -80
      ;;
    test)
      for test in "$build"/bin/test_*; do
        step "$(basename "$test")" 120 "$test" --gtest_color=no
        grep -vE "^\[ (RUN|      OK)|^\[-|^Google Test trace|^Expected: true|^  Actual: false" "$out/$(basename "$test").log" | cut -c1-200 | head -60
      done
      ;;
    sanitize)
      for test in "$build"/bin/test_*_cuda; do
        for tool in memcheck racecheck; do
          step "$(basename "$test")-$tool" "${SANITIZE_LIMIT:-150}" env "KVGRIND_TEST_SHARE=${SHARE:-0.1}" \
            compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 9 "$test" \
            --gtest_color=no "--gtest_filter=${SANITIZE_FILTER:-*}"
          tail -3 "$out/$(basename "$test")-$tool.log"
        done
      done
      ;;
    racecheck) # this project's kernels alone (cuBLAS would take most of the time), in the suites that run whole models
      only=--kernel-regex
      compute-sanitizer --help | grep -q -- --kernel-name && only=--kernel-name
      for run in "sim *EverythingATapSees*:*PolicyCaches*:*StepRing*:*FeedsOfOneCall*" \
        "replay RecordCuda.StreamingKeeps*:ClosedCuda.TurnsInOneCache*"; do
        name=${run%% *}
        step "racecheck-$name" "${RACE_LIMIT:-100}" env KVGRIND_TEST_SHARE=0.1 compute-sanitizer --tool racecheck \
          $only kns=kvgrind --error-exitcode 9 "$build/bin/test_${name}_cuda" --gtest_color=no "--gtest_filter=${run#* }"
        grep -E "^\[ +(OK|FAILED|PASSED)|RACECHECK|Error" "$out/racecheck-$name.log" | tail -12
      done
      ;;
    kernels) step kernels 120 "$build/bin/bench_attention_cuda"; cat "$out/kernels.log" ;;
    torch) step torch 120 python3 tests/bench/cuda/attention_torch.py; cat "$out/torch.log" ;;
    runtime) step runtime 120 "$build/bin/bench_runtime_cuda"; cat "$out/runtime.log" ;;
    record)
      for sums in 0 1; do
        step record$sums 120 "$build/bin/bench_record_cuda" "${RECORD_FOLDER:-/var/tmp/kvgrind-bench}" 32768 256 8192 3 8 $sums
        cat "$out/record$sums.log"
      done
      ;;
    *) echo "unknown step $what" >&2; exit 2 ;;
  esac
done
exit $failed
