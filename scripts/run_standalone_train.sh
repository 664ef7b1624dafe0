#!/usr/bin/env bash
# Train on one device. Without arguments: the default recipe on the embedded digits.
# The options are those of `python train.py --help`.
# usage: bash scripts/run_standalone_train.sh [CONFIG_PATH] [DATA_PATH] [--key value ...]
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
bash "$root/scripts/setup.sh"

options=()
for key in config_path data_path; do
    if [ $# -gt 0 ] && [[ $1 != -* ]]; then
        [ -z "$1" ] || options+=("--$key" "$1") # "" leaves the default, to give what comes behind it
        shift
    fi
done
exec "$root/.venv/bin/python" "$root/train.py" "${options[@]}" "$@"
