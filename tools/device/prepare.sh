#!/usr/bin/env bash
# Puts into build/device/, which git ignores, what a machine with an accelerator but no network lacks
# to run tools/device/check.sh: wheels for Python 3.12, less than 60 MB. Needs pip and a network.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-.venv/bin/python}"
[ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1 || python=python3
"$python" tools/device/wheels.py build/device/wheels
git rev-parse HEAD > build/device/git_sha
