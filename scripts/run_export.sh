#!/usr/bin/env bash
# Export a checkpoint for deployment; beside a MINDIR or ONNX file, write the configuration of MindSpore Lite's converter.
# usage: bash scripts/run_export.sh CKPT [MINDIR|ONNX|AIR|PACKED|SPARSE] [--key value ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -lt 1 ]; then
    echo "error: CKPT is missing; usage: bash scripts/run_export.sh CKPT [MINDIR|ONNX|AIR|PACKED|SPARSE] [--key value ...]" >&2
    exit 2
fi
bash "$root/scripts/setup.sh"

options=(--ckpt "$1")
format=MINDIR
shift
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
    format=$1
    shift
fi
options+=(--file_format "$format")
if [ "$format" = MINDIR ] || [ "$format" = ONNX ]; then
    options+=(--converter_config)
fi
exec "$root/.venv/bin/python" "$root/export.py" "${options[@]}" "$@"
