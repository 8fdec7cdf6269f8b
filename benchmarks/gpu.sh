#!/usr/bin/env bash
# Everything to check and measure on one GPU, offline and in less than 9 minutes.  Builds the CUDA
# module, runs its tests on the GPU (again under compute-sanitizer), compares tokens with the CPU's,
# runs 100 000 frames, and takes the times.  A short table comes last; the folder OUT gets the rest.
#
#   OUT=results benchmarks/gpu.sh
#   DRY=1 benchmarks/gpu.sh      without a GPU: builds, runs the tests in the CPU emulator, prints
#                                the lower bounds
#
# ARCHITECTURES (default 90), JOBS (default all processors), PYTHON (default python3; needs NumPy and
# pybind11), BUILD (default build-gpu), NVCC.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${OUT:-gpu-results}" && cd "${OUT:-gpu-results}" && pwd)
build=${BUILD:-build-gpu}
jobs=${JOBS:-$(nproc)}
python=${PYTHON:-python3}
failed=0

part() { # NAME SECONDS COMMAND...: its output goes to OUT/NAME.log
  local name=$1 limit=$2 begin=$SECONDS
  shift 2
  if timeout "$limit" "$@" >"$out/$name.log" 2>&1; then
    echo "ok    $name ($((SECONDS - begin)) s)"
  else
    echo "FAIL  $name ($((SECONDS - begin)) s), the end of $name.log:"
    tail -n 5 "$out/$name.log"
    failed=1
    return 1
  fi
}

{
  date -u +%Y-%m-%d
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU"
} >"$out/machine.txt"
"$python" -c 'import numpy, pybind11' || { echo "$python: expected NumPy and pybind11; pip install numpy pybind11"; exit 2; }
configure=(cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DUNIAUDIO_CUDA=ON
  "-DUNIAUDIO_CUDA_ARCHITECTURES=${ARCHITECTURES:-90}" "-DPython_EXECUTABLE=$(command -v "$python")")
[ -n "${NVCC:-}" ] && configure+=("-DUNIAUDIO_NVCC=$NVCC")
part configure 60 "${configure[@]}" || exit 1
targets=(_C _cuda)
tests=(cuda_kernels cuda_rvq cuda_codec cuda_lm)
for t in "${tests[@]}"; do
  targets+=("test_$t")
  [ -n "${DRY:-}" ] || targets+=("gpu_$t")
done
part build "${BUILD_LIMIT:-240}" cmake --build "$build" -j "$jobs" --target "${targets[@]}" || exit 1
grep -h "spilled" "$out/build.log" | tail -1

if [ -n "${DRY:-}" ]; then
  for t in "${tests[@]}"; do part "$t" 300 "$build/test_$t"; done
  "$python" benchmarks/gpu.py --floors
  exit $failed
fi

for t in "${tests[@]}"; do part "$t" 60 "$build/gpu_$t"; done
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck initcheck synccheck racecheck; do
    for t in cuda_rvq cuda_codec cuda_lm; do
      part "$tool-$t" 90 env SANITIZED=1 compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/gpu_$t"
    done
  done
else
  echo "NOT TRIED: compute-sanitizer is not here"
fi
timeout "${MEASURE_LIMIT:-300}" "$python" benchmarks/gpu.py --out "$out" >"$out/measure.log" 2>&1 || failed=1
sed -n '/GB\/s copied/,$p' "$out/measure.log"
[ $failed = 0 ] && echo "all passed" || { tail -n 3 "$out/measure.log"; echo "something FAILED; see $out"; }
exit $failed
