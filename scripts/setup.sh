#!/usr/bin/env bash
# Make .venv with a supported Python and the run-time dependencies; with "test" also those of the tests. The versions are
# those of constraints.txt, which were tested together.
# usage: bash scripts/setup.sh [test]
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
cd "$root"

requirements=(requirements.txt)
case "$*" in
"") ;;
test) requirements+=(requirements-test.txt) ;;
*) fail "command line: $*: not known here; usage: bash scripts/setup.sh [test]" ;;
esac
missing=no
for file in "${requirements[@]}" constraints.txt; do
    cmp -s "$file" ".venv/$file" || missing=yes # .venv keeps a copy of each list it has installed
done
if [ $missing = no ]; then
    exit 0
fi

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.10 python3.12 python3.9 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.9 to 3.12 found; install one, or name it: PYTHON=/path/to/python bash scripts/setup.sh" >&2
    return 2
}

if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    echo "setup: making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv
fi
echo "setup: installing ${requirements[*]}" >&2
.venv/bin/python -m pip install --quiet --disable-pip-version-check "${requirements[@]/#/-r}" -c constraints.txt
cp "${requirements[@]}" constraints.txt .venv/
