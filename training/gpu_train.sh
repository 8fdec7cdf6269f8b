#!/usr/bin/env bash
# The whole training on one GPU, from the corpus to an evaluated model folder. Not yet run on a GPU.
# usage: training/gpu_train.sh [work folder]
# The model folder and its report go to $OUT, or to the work folder.
set -euo pipefail
case "${1:-}" in -*) sed -n '2,/^set/{/^# /s/^# //p}' "$0"; exit ;; esac
root=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$root/runs/gpu}
out=${OUT:-$work}
configs=$root/training/configs
mkdir -p "$work" "$out"
cd "$work"

uniaudio-train corpus make --out data/corpus \
  --tasks tts=12,vc=4,se=3,tse=3,sd=2,svs=4,t2s=2,t2m=3,a_edit=2,i_tts=2,s_edit=2

# The same configs as on a CPU, with larger step counts.
uniaudio-train codec --config "$configs/codec.yaml" --out runs/codec --set steps=20000 batch=32
uniaudio-train codec-finish --config "$configs/codec-finish.yaml" --out runs/codec-finish --set steps=12000
uniaudio-train semantic --config "$configs/semantic.yaml" --out runs/semantic
uniaudio-train semantic-robust --config "$configs/semantic-robust.yaml" --out runs/semantic-robust
uniaudio-train bundle --codec runs/codec-finish --semantic runs/semantic-robust --out runs/tokenizers
uniaudio-train captions --corpus data/corpus --out data/tokens/text.model
uniaudio-train tokenize --model runs/tokenizers --corpus data/corpus --out data/tokens --units --threads 4

# lm STAGE BASE STEPS [bundle option …]: trains a stage and bundles it
lm() {
  local stage=$1 base=$2 steps=$3
  shift 3
  uniaudio-train lm --config "$configs/$stage.yaml" --out "runs/$stage" \
    --set "steps=$steps" rows=8 items=25600 processes=1
  uniaudio-train bundle --base "$base" --lm "runs/$stage" "$@"
}
lm lm runs/tokenizers 6000 --captions data/tokens/text.model --out runs/lm-folder
lm lm-eleven runs/lm-folder 2000 --out runs/lm-eleven-folder
lm lm-longer runs/lm-eleven-folder 2000 --out "$out/base" --card "$root/training/card.md"

uniaudio-train evaluate --model "$out/base" --corpus data/corpus --json "$out/quality.json" || true
tar -C "$out" -czf "$out/base.tar.gz" base
