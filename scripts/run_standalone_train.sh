#!/usr/bin/env bash
# Train on one device. Without arguments: the default recipe on the embedded digits.
# usage: bash scripts/run_standalone_train.sh [CONFIG_PATH] [DATA_PATH] [--key value ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/scripts/setup.sh"

options=()
for key in config_path data_path; do
    if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then
        options+=("--$key" "$1")
        shift
    fi
done
exec "$root/.venv/bin/python" "$root/train.py" "${options[@]}" "$@"
