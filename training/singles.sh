#!/usr/bin/env bash
# Trains single-task models for comparison with the joint one.
# Each has the size of the joint model, and as many batches of its task as the joint model.
# A joint step is two batches of 2400 items, one from each of two processes (4 GB each).  Here a step
# is one such batch, and JOBS models are trained at a time, independently.
# Resumable.  A task's folder is runs/single/TASK-folder.
# usage: [JOBS=2] training/singles.sh [task ...]
# Run it in the folder that has data/ and runs/tokenizers.  Default: all eleven tasks.
set -euo pipefail
case "${1:-}" in -*) sed -n "2,/^set/{/^# /s/^# //p}" "$0"; exit ;; esac
configs=$(cd "$(dirname "$0")" && pwd)/configs
steps=$(
  python - "$configs" "$@" <<'PY'
import sys, yaml
def batches(*names):
    found = {}
    for stage in (yaml.safe_load(open(f"{sys.argv[1]}/{name}.yaml")) for name in names):
        for task, share in stage["tasks"].items():
            share *= stage["steps"] * stage["processes"] / sum(stage["tasks"].values())
            found[task] = found.get(task, 0) + share
    return found
first, more = batches("lm", "lm-eleven"), batches("lm-longer")
for task in sys.argv[2:] or first:
    print(task, round(first[task]), round(more[task]))
PY
)
export configs
# stage CONFIG TASK STEPS OUT [SETTING ...]: trains and bundles OUT-folder, unless it exists
stage() {
  local config=$1 task=$2 steps=$3 out=$4
  shift 4
  [ -d "$out-folder" ] && return
  uniaudio-train lm --config "$configs/$config.yaml" --out "$out" \
    --set "tasks={$task: 1}" "steps=$steps" "validate_every=$steps" \
    "warmup=$((steps < 1000 ? steps / 10 : 100))" processes=1 rows=3 items=2400 corpus= "$@" \
    >> "$out.log" 2>&1
  python - "$out" "$steps" <<'PY' || return # stopped: it resumes next time
import sys
from uniaudio_training.run_checkpoint import read_run
sys.exit(read_run(sys.argv[1], ())["step"] < int(sys.argv[2]))
PY
  uniaudio-train bundle --base runs/tokenizers --lm "$out" --captions data/tokens/text.model \
    --out "$out-part"
  mv "$out-part" "$out-folder"
}
one() {
  stage lm "$1" "$2" "runs/single/$1-first"
  stage lm-longer "$1" "$3" "runs/single/$1" init="runs/single/$1-first-folder"
}
export -f stage one
mkdir -p runs/single
xargs -P "${JOBS:-2}" -L 1 bash -euc 'one "$0" "$1" "$2"' <<<"$steps"
