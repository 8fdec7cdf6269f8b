#!/usr/bin/env bash
# Usage: .ci/release.sh FOLDER PYTHON. Writes beside a release's files what is in them: sbom.json
# (CycloneDX: what is installed beside PYTHON, the engine and all that it needs) and SHA256SUMS.
set -euo pipefail
python=$(realpath -s "$2")
cd "$1"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/tool"
"$work/tool/bin/pip" install -q cyclonedx-bom==7.5.0
"$work/tool/bin/cyclonedx-py" environment --mc-type library --output-reproducible -o sbom.json "$python"
grep -q '"name": "uniaudio-engine"' sbom.json && grep -q '"name": "numpy"' sbom.json
rm -f SHA256SUMS
sha256sum -- * >"$work/sums"
mv "$work/sums" SHA256SUMS
