#!/usr/bin/env bash
# Set up, lint and run the tests.
# usage: bash scripts/run_tests.sh [pytest arguments]      (the slow ones too: bash scripts/run_tests.sh -m "")
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh test
PATH="$PWD/.venv/bin:$PATH"
ruff check .
ruff format --check .
shellcheck scripts/*.sh tests/*.sh .ci/run
exec python -m pytest "$@"
