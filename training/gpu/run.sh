#!/usr/bin/env bash
# Trains the codec and the LM side by side on one GPU for a given time, from the parts that
# training/gpu/pack.py made. Every minute and at the end it writes the results to $OUT:
# codec*.safetensors, lm*.safetensors (files of at most 16 MB), curves.json, log.
# Needs torch, numpy, safetensors, PyYAML, tensorboard, tqdm and a C compiler; no network, no sound
# library, no flite.
# usage: training/gpu/run.sh PARTS [SECONDS=540]
#        PARTS: a folder of part-NN folders (those received so far)
#        WORK=folder to unpack and train in (default: a new one); DEVICE=cuda|cpu
#        With only codec.yaml or only lm.yaml in the parts, only that one is trained.
#        DRY=1: a few steps of each on the CPU, as a test.
set -euo pipefail
case "${1:-}" in -h | --help | "") sed -n "2,/^set/{/^# /s/^# //p}" "$0"; exit ;; esac
parts=$(cd "$1" && pwd)
seconds=${2:-540}
began=$SECONDS
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${WORK:-$(mktemp -d)}
out=${OUT:-$work/out}
device=${DEVICE:-cuda}
more_codec=(--set checkpoint_minutes=0.9) more_lm=(--set checkpoint_minutes=0.9)
if [ -n "${DRY:-}" ]; then
  device=cpu
  more_codec=(--set steps=3 batch=2 judged_clips=1 channels=4 judge_from=1)
  more_lm=(--set steps=2)
fi
mkdir -p "$work" "$out"
cd "$work"
export PYTHONPATH="$root:$root/training${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python3 "$here/pack.py" unpack "$parts"/part-* --out . | tee "$out/log"

pids=()
train() {  # KIND CONFIG OUT [ARGUMENT …]
  local kind=$1 config=$2 run=$3
  shift 3
  python3 -m uniaudio_training.train "$kind" --config "$config" --out "$run" --device "$device" "$@" >"$run.log" 2>&1 &
  pids+=($!)
}
mkdir -p runs
[ -f codec.yaml ] && train codec-joint codec.yaml runs/codec "${more_codec[@]}"
[ -f lm.yaml ] && train lm lm.yaml runs/lm "${more_lm[@]}"
[ ${#pids[@]} -gt 0 ] || { echo "expected codec.yaml or lm.yaml in the parts" >&2; exit 2; }

write() { python3 "$here/export.py" --codec runs/codec --lm runs/lm --out "$out" >>"$out/log" 2>&1 || true; }
going() { for p in "${pids[@]}"; do kill -0 "$p" 2>/dev/null && return 0; done; return 1; }
reserve=$((seconds > 120 ? 40 : seconds / 4))  # for the last checkpoint and the last export
next=$((SECONDS + 60))
while going && [ $((SECONDS - began)) -lt $((seconds - reserve)) ]; do
  sleep 1
  if [ "$SECONDS" -ge "$next" ]; then
    write
    next=$((SECONDS + 60))
  fi
done
kill -TERM "${pids[@]}" 2>/dev/null || true  # a run saves its state when terminated
failed=0
for p in "${pids[@]}"; do wait "$p" || failed=$?; done
write
for log in runs/*.log; do { echo "== $log"; tail -c 1500 "$log"; echo; } >>"$out/log"; done
ls -la "$out"
for run in codec lm; do
  if [ -f "$run.yaml" ] && ! ls "$out/$run"*.safetensors >/dev/null 2>&1; then
    echo "$run: no weights; see $out/log" >&2
    tail -c 3000 "runs/$run.log" >&2
    exit 1
  fi
done
exit "$failed"
