#!/usr/bin/env bash
# Single-task models to hold the joint one against: the same size, from nothing, each with as many batches of its task as the joint
# model had of it over both stages (the configs' steps times shares).  Resumable; a task's folder is runs/single/TASK-folder.
# A joint step is two batches of 2400 items, one from each of two processes (4 GB each); here a step is one such batch, and JOBS models
# are trained at a time, which don't wait for one another.
# usage: [JOBS=2] training/singles.sh [task …]     (in the folder that has data/ and runs/tokenizers; all eleven tasks by default)
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)/configs
steps=$(
  python - "$configs" "$@" <<'PY'
import sys, yaml
stages = [yaml.safe_load(open(f"{sys.argv[1]}/{name}.yaml")) for name in ("lm", "lm-eleven")]
steps = {}
for stage in stages:
    for task, share in stage["tasks"].items():
        steps[task] = steps.get(task, 0) + stage["steps"] * stage["processes"] * share / sum(stage["tasks"].values())
for task in sys.argv[2:] or steps:
    print(task, round(steps[task]))
PY
)
export configs
one() {
  uniaudio-train lm --config "$configs/lm.yaml" --out "runs/single/$1" \
    --set "tasks={$1: 1}" "steps=$2" "validate_every=$2" "warmup=$(($2 < 1000 ? $2 / 10 : 100))" processes=1 rows=3 items=2400 > "runs/single/$1.log" 2>&1
  python -m uniaudio_training.bundle --base runs/tokenizers --lm "runs/single/$1" --captions data/tokens/text.model --out "runs/single/$1-folder"
}
export -f one
mkdir -p runs/single
xargs -P "${JOBS:-2}" -L 1 bash -euc 'one "$0" "$1"' <<<"$steps"
