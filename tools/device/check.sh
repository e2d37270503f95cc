#!/usr/bin/env bash
# The device check: eight minutes at most, then one line of JSON, on stdout and in $OUT if that is a
# folder. With --tiny it tries itself on any machine, in a minute. The libraries that prepare.sh
# downloaded are added where they are missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
export DEVICE_SITE="$PWD/build/device/site"
if [ -d build/device/wheels ]; then
  "$python" tools/device/install.py build/device/wheels "$DEVICE_SITE" >&2
fi
if [ -f build/device/git_sha ]; then
  DEVICE_GIT_SHA="$(cat build/device/git_sha)"
  export DEVICE_GIT_SHA
fi
out=()
if [ -d "${OUT:-}" ]; then out=(--out "$OUT"); fi
PYTHONPATH="tools:$PWD" exec "$python" -m device "${out[@]}" "$@"
