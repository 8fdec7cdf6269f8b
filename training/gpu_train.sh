#!/usr/bin/env bash
# The whole training on one GPU: corpus to judged folder, about 25 minutes on an H100.  Not yet run on a GPU.
# usage: training/gpu_train.sh [work folder]; results (a model folder and its report) go to $OUT or the work folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$root/runs/gpu}
out=${OUT:-$work}
mkdir -p "$work" "$out"
cd "$work"

uniaudio-train corpus make --tasks tts=12,vc=4,se=3,tse=3,sd=2,svs=4,t2s=2,t2m=3,a_edit=2,i_tts=2,s_edit=2 --out data/corpus

# The same configs with the step counts that a GPU affords.
configs=$root/training/configs
uniaudio-train codec --config "$configs/codec.yaml" --out runs/codec --set steps=20000 batch=32
uniaudio-train codec-finish --config "$configs/codec-finish.yaml" --out runs/codec-finish --set steps=12000
uniaudio-train semantic --config "$configs/semantic.yaml" --out runs/semantic
uniaudio-train semantic-robust --config "$configs/semantic-robust.yaml" --out runs/semantic-robust
uniaudio-train bundle --codec runs/codec-finish --semantic runs/semantic-robust --out runs/tokenizers
uniaudio-train captions --corpus data/corpus --out data/tokens/text.model
uniaudio-train tokenize --model runs/tokenizers --corpus data/corpus --out data/tokens --units --threads 4
uniaudio-train lm --config "$configs/lm.yaml" --out runs/lm --set steps=6000 rows=8 items=25600 processes=1
uniaudio-train bundle --base runs/tokenizers --lm runs/lm --captions data/tokens/text.model --out runs/lm-folder
uniaudio-train lm --config "$configs/lm-eleven.yaml" --out runs/lm-eleven --set steps=2000 rows=8 items=25600 processes=1
uniaudio-train bundle --base runs/lm-folder --lm runs/lm-eleven --out runs/lm-eleven-folder
uniaudio-train lm --config "$configs/lm-longer.yaml" --out runs/lm-longer --set steps=2000 rows=8 items=25600 processes=1
uniaudio-train bundle --base runs/lm-folder --lm runs/lm-longer --out "$out/base" --card "$root/training/card.md"
uniaudio-train evaluate --model "$out/base" --corpus data/corpus --json "$out/quality.json" || true
tar -C "$out" -czf "$out/base.tar.gz" base
