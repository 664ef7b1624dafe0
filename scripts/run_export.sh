#!/usr/bin/env bash
# Export a checkpoint for deployment; beside a MINDIR or ONNX file, write the configuration of MindSpore Lite's converter.
# The options are those of `python export.py --help`.
# usage: bash scripts/run_export.sh CKPT [MINDIR|ONNX|AIR|PACKED|SPARSE] [--key value ...]
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
if [[ ${1:--} == -* ]]; then
    fail "CKPT is missing; usage: bash scripts/run_export.sh CKPT [MINDIR|ONNX|AIR|PACKED|SPARSE] [--key value ...]"
fi
bash "$root/scripts/setup.sh"

options=(--ckpt "$1")
format=MINDIR
shift
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    format=$1
    shift
fi
options+=(--file_format "$format")
if [ "$format" = MINDIR ] || [ "$format" = ONNX ]; then
    options+=(--converter_config)
fi
exec "$root/.venv/bin/python" "$root/export.py" "${options[@]}" "$@"
