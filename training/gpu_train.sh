#!/usr/bin/env bash
# The whole training on one GPU: corpus to judged folder, about 25 minutes on an H100.  Not yet run on a GPU.
# usage: training/gpu_train.sh [work folder]; results (a model folder and its report) go to $OUT or the work folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${1:-$root/runs/gpu}
out=${OUT:-$work}
mkdir -p "$work" "$out"
cd "$work"

uniaudio-corpus make --tasks tts=25,t2s=2,t2m=2 --out data/corpus

# The same configs with the step counts that a GPU affords.
sed 's/^steps: .*/steps: 20000/; s/^batch: .*/batch: 32/' "$root/training/configs/codec.yaml" > codec.yaml
sed 's/^steps: .*/steps: 5000/' "$root/training/configs/codec-finish.yaml" > codec-finish.yaml
sed 's/^steps: .*/steps: 8000/; s/^rows: .*/rows: 8/; s/^items: .*/items: 12800/' "$root/training/configs/lm.yaml" > lm.yaml

uniaudio-train codec --config codec.yaml --out runs/codec
for split in train valid; do
  python -m uniaudio_training.lm.tokens --codec runs/codec --corpus data/corpus --out data/tokens --split "$split" --device cuda
done
uniaudio-train codec-finish --config codec-finish.yaml --out runs/codec-finish
uniaudio-train semantic --config "$root/training/configs/semantic.yaml" --out runs/semantic
uniaudio-train lm --config lm.yaml --out runs/lm
python -m uniaudio_training.bundle --codec runs/codec-finish --lm runs/lm --semantic runs/semantic --out "$out/base" --card "$root/training/card.md"
python -m uniaudio_training.evaluate --model "$out/base" --task tts,codec --json "$out/quality.json" || true
tar -C "$out" -czf "$out/base.tar.gz" base
