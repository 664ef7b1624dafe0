#!/usr/bin/env bash
# Evaluate a checkpoint. The options are those of `python eval.py --help`.
# usage: bash scripts/run_eval.sh CKPT [DATA_PATH] [--key value ...]
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
if [[ ${1:--} == -* ]]; then
    fail "CKPT is missing; usage: bash scripts/run_eval.sh CKPT [DATA_PATH] [--key value ...]"
fi
bash "$root/scripts/setup.sh"

options=(--ckpt "$1")
shift
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    options+=(--data_path "$1")
    shift
fi
exec "$root/.venv/bin/python" "$root/eval.py" "${options[@]}" "$@"
