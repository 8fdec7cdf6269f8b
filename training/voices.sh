#!/usr/bin/env bash
# Goes on with the bundled model: makes data, semantic units of real voices, tokens, an LM and the
# filters.
# usage: [SEED=1] [SHARE=1] training/voices.sh SOURCES [MINUTES]
# Run it in a work folder of its own; two commands run at a time. A stopped run resumes.
# SOURCES has what there is of librispeech, libritts, vctk, kathleen, wake-words, unlabelled and esc10
# (as the recipes of "uniaudio-train corpus public" read them), and kokoro with its model.
# MINUTES: of the LM (60). SEED: of what is made; another one makes other data. SHARE: of the hours.
# Logs are in logs/, the model folder is runs/voices.
set -euo pipefail
case "${1:---help}" in -*) sed -n '2,/^set/{/^# /s/^# //p}' "$0"; exit ;; esac
root=$(cd "$(dirname "$0")/.." && pwd)
sources=$(cd "$1" && pwd)
minutes=${2:-60} seed=${SEED:-1} share=${SHARE:-1}
base=$root/uniaudio_engine/models/base
mkdir -p data logs done runs
export OMP_NUM_THREADS=1

# step NAME COMMAND …: once
step() {
  local name=$1
  shift
  [[ -e done/$name ]] && return
  echo "$(date +%T) $name"
  "$@" >>"logs/$name.log" 2>&1 || { echo "$name failed: $(tail -n 1 "logs/$name.log")"; return 1; }
  touch "done/$name"
}
# public OUT RECIPE …: the recordings that there are
public() {
  local out=$1 recipe
  shift
  for recipe in "$@"; do
    [[ ! -d $sources/$recipe ]] ||
      step "public-$recipe" uniaudio-train corpus public "$recipe" "$sources/$recipe" --out "$out"
  done
}
# hours TASK=HOURS …: their share, as corpus make reads it
hours() { python -c 'import sys; print(*(f"{t}={float(h) * float(sys.argv[1]):.4g}" for t, h in (a.split("=") for a in sys.argv[2:])), sep=",")' "$share" "$@"; }
scaled() { python -c 'import sys; print(f"{float(sys.argv[1]) * float(sys.argv[2]):.4g}")' "$1" "$share"; }
make() { step "$1" uniaudio-train corpus make --workers 1 --splits train,valid --seed "$seed$2" --tasks "$3" --out "data/$1"; }
tokens() {
  local corpus
  for corpus in "$@"; do
    [[ ! -d data/$corpus ]] ||
      step "tokens-$corpus" uniaudio-train tokenize --model runs/tokenizers --corpus "data/$corpus" \
        --out "data/tokens-$corpus" --units
  done
}
joined() { local IFS=,; echo "$*"; }
# The folders of tokens, Kokoro's three times: there is little of it, and it is to be the voice.
tokens_made() {
  local corpus found=()
  for corpus in made captions aligned derived kokoro kokoro kokoro; do
    [[ ! -d data/tokens-$corpus ]] || found+=("data/tokens-$corpus")
  done
  joined "${found[@]}"
}
# Runs two functions side by side; fails where one does.
both() {
  "$1" & local first=$!
  "$2" & local second=$!
  local failed=0
  wait "$first" || failed=1
  wait "$second" || failed=1
  return "$failed"
}

recordings() {
  public data/real librispeech libritts vctk kathleen
  public data/real-other wake-words unlabelled esc10
  step aligned uniaudio-train corpus align run data/real --out data/aligned \
    --aligner "$root/training/warm/aligner.safetensors"
}
made() { make made 1 "$(hours tts=1.3 t2s=0.3 svs=0.5 vc=0.6 sd=0.4 se=0.5 s_edit=0.4 tse=0.6)"; }
both recordings made

tokenizers() {
  rm -rf runs/tokenizers
  cp -r "$base" runs/tokenizers
  uniaudio-train bundle --semantic runs/semantic --out runs/tokenizers
}
units() {
  make captions 2 "$(hours t2s=2 t2m=4 a_edit=2 i_tts=2)"
  step semantic uniaudio-train semantic-robust --config "$root/training/configs/semantic-robust-voices.yaml" \
    --set init="$base" data=data/made "recordings=[data/aligned]" \
    "steps=$(scaled 5000)" --out runs/semantic
  step tokenizers tokenizers
}
others() {
  local sounds=(data/made)
  [[ ! -d data/real-other ]] || sounds+=(data/real-other)
  step derived uniaudio-train corpus derive data/aligned --sounds "${sounds[@]}" --seed "$seed" \
    --tasks "$(hours vc=1.2 se=1.2 tse=1 sd=0.6 i_tts=1 s_edit=0.5)" --splits train --out data/derived
  [[ ! -d $sources/kokoro ]] ||
    step kokoro uniaudio-train corpus teach kokoro --model "$sources/kokoro" --threads 1 \
      --seed "$seed" --hours "$(scaled 1.3)" --out data/kokoro
}
both units others

synthetic() { tokens made captions; }
recorded() { tokens aligned derived kokoro; }
both synthetic recorded

step lm uniaudio-train lm --config "$root/training/configs/lm-further.yaml" \
  --set init="$base" "minutes=$minutes" "data=[$(tokens_made)]" --out runs/lm
voices=(procedural)
[[ ! -d $sources/kokoro ]] || voices=("$sources/kokoro" --default-voice am_michael)
step model uniaudio-train bundle --base runs/tokenizers --lm runs/lm --lm-share 0.6 --voices "${voices[@]}" \
  --level -24 --out runs/voices

# The filters hear speech that is mixed anew; without recordings, that of the synthesizers.
noises=(data/made) spoken=(data/made)
[[ ! -d data/real-other ]] || noises+=(data/real-other)
for corpus in aligned kokoro; do
  [[ ! -d data/$corpus ]] || spoken+=("data/$corpus")
done
step postfilter uniaudio-train postfilter --config "$root/training/configs/postfilter.yaml" \
  --set init="$base" lr=1.2e-3 matrix_lr=1.2e-2 "speech=[$(joined "${spoken[@]}")]" \
  "noises=[$(joined "${noises[@]}")]" "steps=$(scaled 4000)" --out runs/postfilter
step filtered uniaudio-train bundle --postfilter runs/postfilter --out runs/voices
[[ ! -d data/real-other ]] || spoken+=(data/real-other)
step voice-filter uniaudio-train postfilter --config "$root/training/configs/postfilter-voice.yaml" \
  --set init="$base" voice_steps=0 lr=1.3e-3 matrix_lr=1.3e-2 "speech=[$(joined "${spoken[@]}")]" \
  "noises=[$(joined "${noises[@]}")]" "steps=$(scaled 4000)" --out runs/voice-filter
step voice-filtered uniaudio-train bundle --postfilter runs/voice-filter --postfilter-share 0.75 \
  --out runs/voices
heard=(data/made)
[[ ! -d data/aligned ]] || heard+=(data/aligned)
step heard uniaudio-train bundle --unit-phones "${heard[@]}" --out runs/voices
echo "runs/voices"
