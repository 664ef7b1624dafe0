#!/usr/bin/env bash
# Convert an exported file for MindSpore Lite, and compare its outputs with those of the exported file.
# CONVERTER_LITE=/path/to/converter_lite names an installed converter. Without it, mindspore-lite 2.0.0 is installed into
# .venv_lite, which needs a Python 3.7: found on PATH or under pyenv, or named by PYTHON37.
# usage: bash scripts/convert_lite.sh MODEL.onnx|MODEL.mindir [--weight_bits 8|16|32] [--ckpt FILE] [--key value ...]
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
if [[ ${1:--} == -* ]]; then
    fail "MODEL is missing; usage: bash scripts/convert_lite.sh MODEL.onnx|MODEL.mindir [--weight_bits 8|16|32]"
fi
bash "$root/scripts/setup.sh"

find_python37() {
    local candidate
    for candidate in "${PYTHON37:-}" python3.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.7.*/bin/python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 7))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.7 found, which mindspore-lite 2.0.0 needs; name one by PYTHON37, or a converter by CONVERTER_LITE"
}

options=()
if [ -z "${CONVERTER_LITE:-}" ]; then
    lite="$root/.venv_lite"
    if ! "$lite/bin/python" -c 'import mindspore_lite' 2>/dev/null; then
        python37=$(find_python37)
        echo "convert_lite: making .venv_lite with $("$python37" --version)" >&2
        "$python37" -m venv "$lite"
        "$lite/bin/python" -m pip install --quiet --disable-pip-version-check mindspore-lite==2.0.0 >&2
    fi
    options+=(--lite_python "$lite/bin/python")
fi
PYTHONPATH="$root" exec "$root/.venv/bin/python" -m src.programs.convert_lite "$@" ${options[@]+"${options[@]}"}
