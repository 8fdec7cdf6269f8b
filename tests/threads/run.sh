#!/bin/bash
# Runs what several threads do at once (scheduler, streams, live sound, server) with a module that is
# built with ThreadSanitizer. Fails where a test fails or a data race is reported. Not for exit and fork:
# the sanitizer does not follow a fork of several threads, nor a daemon thread into Python's end.
#
#   bash tests/threads/run.sh                       all of it: 15 minutes of computing
#   bash tests/threads/run.sh tests/engine/test_scheduler.py -k cancel
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build/threads
package=$build/site/uniaudio_engine
cd "$root"

cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DUNIAUDIO_SANITIZE=thread -DUNIAUDIO_TESTS=OFF \
  "-DUNIAUDIO_MODULE_DIR=$package" "-DPython_EXECUTABLE=$(command -v python)" > "$build.log" ||
  { cat "$build.log"; exit 1; }
rm -rf "$build/site" # a link to each file of the package, and the sanitized module beside them
mkdir -p "$build/site"
cp -rs "$root/uniaudio_engine" "$build/site/"
rm -f "$package"/_C*.so
cmake --build "$build" -j2 > "$build.log" || { tail -40 "$build.log"; exit 1; }

compiler=${CXX:-g++}
"$compiler" -std=c++17 -O1 -g -fPIC -shared -fsanitize=thread tests/threads/race.cc -o "$build/race.so"
LD_PRELOAD=$(realpath "$("$compiler" -print-file-name=libtsan.so)")
export LD_PRELOAD PYTHONPATH=$build/site TSAN_OPTIONS="exitcode=0 log_path=$build/report history_size=4"
TSAN_OPTIONS+=" suppressions=$root/tests/threads/suppressions.txt"
export OPENBLAS_NUM_THREADS=1 # NumPy is not sanitized; its threads would look like races

rm -f "$build"/report.*
python -P -c "import ctypes; ctypes.CDLL('$build/race.so').race()"
grep -q "data race" "$build"/report.* || { echo "a race on purpose was not reported"; exit 1; }
rm -f "$build"/report.*
where=$(python -P -c "import uniaudio_engine._C as module; print(module.__file__)")
[[ $where == "$package"/* ]] || { echo "tests would run $where"; exit 1; }

[[ $# -gt 0 ]] || set -- tests/engine/test_scheduler.py tests/engine/test_astream.py \
  tests/engine/test_text_live.py tests/engine/test_live.py tests/engine/test_live_parts.py \
  tests/engine/test_live_stream.py tests/serving \
  --ignore-glob='*/test_page*.py' # a browser would be sanitized too
status=0
python -P -m pytest -q -p no:cacheprovider "$@" || status=$?
if compgen -G "$build/report.*" > /dev/null; then
  cat "$build"/report.* | head -200
  echo "$(cat "$build"/report.* | grep -c 'WARNING: ThreadSanitizer') reports, in $build/report.*"
  exit 1
fi
echo "no race reported"
exit "$status"
