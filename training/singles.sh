#!/usr/bin/env bash
# Single-task models to hold the joint one against: the same size, from nothing, each with as many batches of its task as the joint
# model had of it over both stages (the configs' steps times shares).  Resumable; a task's folder is runs/single/TASK-folder.
# usage: training/singles.sh [task …]     (in the folder that has data/ and runs/tokenizers; all eleven tasks by default)
set -euo pipefail
configs=$(cd "$(dirname "$0")" && pwd)/configs
steps=$(
  python - "$configs" "$@" <<'PY'
import sys, yaml
stages = [yaml.safe_load(open(f"{sys.argv[1]}/{name}.yaml")) for name in ("lm", "lm-eleven")]
steps = {}
for stage in stages:
    for task, share in stage["tasks"].items():
        steps[task] = steps.get(task, 0) + stage["steps"] * share / sum(stage["tasks"].values())
for task in sys.argv[2:] or steps:
    print(task, round(steps[task]))
PY
)
while read -r task count; do
  uniaudio-train lm --config "$configs/lm.yaml" --out "runs/single/$task" --set "tasks={$task: 1}" "steps=$count" "validate_every=$count"
  python -m uniaudio_training.bundle --base runs/tokenizers --lm "runs/single/$task" --captions data/tokens/text.model --out "runs/single/$task-folder"
done <<<"$steps"
