#!/usr/bin/env bash
# Export a checkpoint for deployment.
# usage: bash scripts/run_export.sh CKPT [MINDIR] [--key value ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -lt 1 ]; then
    echo "usage: bash scripts/run_export.sh CKPT [MINDIR] [--key value ...]" >&2
    exit 2
fi
bash "$root/scripts/setup.sh"

options=(--ckpt "$1")
shift
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
    options+=(--file_format "$1")
    shift
fi
exec "$root/.venv/bin/python" "$root/export.py" "${options[@]}" "$@"
