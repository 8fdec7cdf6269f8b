#!/usr/bin/env bash
# Everything to check and measure on one GPU, offline and in less than 9 minutes.  Builds the CUDA
# module, runs its tests on the GPU (again under compute-sanitizer), compares tokens with the CPU's,
# runs 100 000 frames, and takes the times.  A short table comes last; the folder OUT gets the rest.
#
#   OUT=results benchmarks/gpu.sh
#   DRY=1 benchmarks/gpu.sh      without a GPU: builds (the kernels too where nvcc is), runs the tests
#                                and every measurement, with tiny shapes, in the CPU emulator, and
#                                prints the lower bounds
#
# ARCHITECTURES (default 90), JOBS (default all processors), PYTHON (default python3; needs NumPy and
# pybind11), BUILD (default build-gpu), NVCC, LIMIT (default 530 seconds: what has no time left is
# named).  With DRY=1, EMULATOR: a build folder that has the emulator; nothing is compiled.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(mkdir -p "${OUT:-gpu-results}" && cd "${OUT:-gpu-results}" && pwd)
build=${BUILD:-build-gpu}
jobs=${JOBS:-$(nproc)}
python=${PYTHON:-python3}
dry=${DRY:-}
limit=${LIMIT:-${dry:+3600}}
limit=${limit:-530}
reserved=0 # seconds that no part may use before the measurements
failed=0

part() { # NAME SECONDS COMMAND...: its output goes to OUT/NAME.log
  local name=$1 most=$2 begin=$SECONDS left=$((limit - SECONDS - reserved))
  shift 2
  if [ "$left" -lt 2 ]; then
    echo "LEFT OUT: $name, no time"
    failed=1
    return 1
  fi
  if timeout $((most < left ? most : left)) "$@" >"$out/$name.log" 2>&1; then
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
tests=(cuda_kernels cuda_rvq cuda_codec cuda_lm)
targets=(_C)
[ -n "$dry" ] && targets+=(_cuda_host "${tests[@]/#/test_}")
if [ -n "$dry" ] && [ -n "${EMULATOR:-}" ]; then
  build=$EMULATOR
  echo "NOT TRIED: to compile; the emulator is that in $build"
else
  cuda=ON
  if [ -n "$dry" ] && ! command -v "${NVCC:-nvcc}" >/dev/null && ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
    cuda=OFF
    echo "NOT TRIED: to compile the kernels; no nvcc here"
  else
    targets+=(_cuda "${tests[@]/#/gpu_}")
  fi
  configure=(cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release "-DUNIAUDIO_CUDA=$cuda"
    "-DUNIAUDIO_CUDA_ARCHITECTURES=${ARCHITECTURES:-90}" "-DPython_EXECUTABLE=$(command -v "$python")")
  [ -n "${NVCC:-}" ] && configure+=("-DUNIAUDIO_NVCC=$NVCC")
  part configure 60 "${configure[@]}" || exit 1
  part build $((limit / 2)) cmake --build "$build" -j "$jobs" --target "${targets[@]}" || exit 1
  grep -h "spilled" "$out/build.log" | tail -1
fi

if [ -n "$dry" ]; then
  for t in "${tests[@]}"; do
    if [ -x "$build/test_$t" ]; then part "$t" 300 "$build/test_$t"; else echo "NOT TRIED: no test_$t in $build"; fi
  done
  emulator=$(find "$build" -name '_cuda_host*.so' | head -n 1)
  part measure 300 "$python" benchmarks/gpu.py --dry "$emulator" --out "$out"
  "$python" benchmarks/gpu.py --floors || failed=1
  exit $failed
fi

reserved=240
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
reserved=0
part measure "$limit" "$python" benchmarks/gpu.py --out "$out"
sed -n '/GB\/s copied/,$p' "$out/measure.log"
[ $failed = 0 ] && echo "all passed" || echo "something FAILED; see $out"
exit $failed
