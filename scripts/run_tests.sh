#!/usr/bin/env bash
# Set up, lint and run the tests.
# usage: bash scripts/run_tests.sh [pytest arguments]      (the slow ones too: bash scripts/run_tests.sh -m "")
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
cd "$root"
bash scripts/setup.sh test
PATH="$root/.venv/bin:$PATH"

if [ $# -gt 0 ]; then # pytest would say it in many lines, and only after the linters
    problem=$(python -m pytest --collect-only --noconftest --ignore-glob='*' "$@" 2>&1) || [ $? != 4 ] ||
        fail "command line: $(sed -n 's/^.*\(error\|ERROR\): \(usage: .*\)\{0,1\}//p' <<<"$problem" | grep -m 1 .); see pytest --help"
fi
ruff check .
ruff format --check .
shellcheck scripts/*.sh tests/*.sh examples/*/*.sh .ci/run
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" # two processes, as most of a test is one thread
