#!/usr/bin/env bash
# Evaluate a checkpoint.
# usage: bash scripts/run_eval.sh CKPT [DATA_PATH] [--key value ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -lt 1 ]; then
    echo "error: CKPT is missing; usage: bash scripts/run_eval.sh CKPT [DATA_PATH] [--key value ...]" >&2
    exit 2
fi
bash "$root/scripts/setup.sh"

options=(--ckpt "$1")
shift
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
    options+=(--data_path "$1")
    shift
fi
exec "$root/.venv/bin/python" "$root/eval.py" "${options[@]}" "$@"
