#!/usr/bin/env bash
# Run the quick tests on corners of the versions that README.md promises, each in a copy of this tree with its own .venv.
# usage: bash tests/check_versions.sh [--renew] [CORNER...] [-- PYTEST_ARGUMENT...]     (exit code 0: all corners passed)
# A corner is PYTHON-lowest (the lower bounds of requirements*.txt), PYTHON-pinned (constraints.txt) or PYTHON-MINDSPORE
# (constraints.txt with that MindSpore). The copies and what pytest printed stay in .versions/CORNER/.
# --renew first writes constraints.txt anew, with the newest versions that the requirements allow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

renew=no
if [ "${1:-}" = --renew ]; then
    renew=yes
    shift
fi
corners=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    if ! [[ $1 =~ ^3\.[0-9]+-(lowest|pinned|[0-9]+\.[0-9]+\.[0-9]+)$ ]]; then
        echo "error: $1 is no corner; give for example 3.9-lowest, 3.11-pinned or 3.10-2.8.0 (a MindSpore version)" >&2
        exit 2
    fi
    corners+=("$1")
    shift
done
shift $(($# > 0)) # the --
if [ ${#corners[@]} = 0 ]; then
    corners=(3.9-lowest 3.9-pinned 3.10-pinned 3.10-2.8.0 3.11-pinned 3.12-pinned)
fi

bash scripts/setup.sh test
uv=$PWD/.venv/bin/uv
if [ $renew = yes ]; then
    "$uv" pip compile --quiet --universal --python-version 3.9 --upgrade --no-annotate \
        --custom-compile-command "bash tests/check_versions.sh --renew" \
        requirements.txt requirements-test.txt -o constraints.txt
fi
shown=(mindspore numpy scipy scikit-learn onnx onnxruntime protobuf pydantic)

# The tree as it is now, commits or not, without what git ignores.
copy_tree() {
    rm -rf "$1"
    mkdir -p "$1"
    git ls-files -z --cached --others --exclude-standard | tar -c --ignore-failed-read --null -T - | tar -x -C "$1"
}

# In the corner's folder: install what the corner ($1) asks for, and mark .venv as complete for scripts/setup.sh.
install() {
    local wanted=(-r requirements.txt -r requirements-test.txt)
    case ${1#*-} in
        lowest) wanted+=(--resolution lowest-direct) ;;
        pinned) wanted+=(--constraint constraints.txt) ;;
        *)
            grep -v '^mindspore==' constraints.txt >.venv/others.txt
            wanted+=("mindspore==${1#*-}" --constraint .venv/others.txt)
            ;;
    esac
    "$uv" pip install --quiet --python .venv "${wanted[@]}" && cp requirements.txt requirements-test.txt constraints.txt .venv/
}

# One row of the table for a corner ($1; then pytest's arguments) on stdout, all else on stderr; fails unless it passed.
check() {
    local corner=$1 code=0 versions result
    local folder=.versions/$corner
    shift
    echo "== $corner" >&2
    copy_tree "$folder"
    cd "$folder"
    if ! "$uv" venv --quiet --seed --python "${corner%%-*}" .venv >&2; then
        echo "| $corner |$(printf ' |%.0s' python "${shown[@]}") not run: no Python ${corner%%-*} |"
        return 1
    fi
    if ! install "$corner" >&2; then
        echo "| $corner |$(printf ' |%.0s' python "${shown[@]}") failed: cannot be installed |"
        return 1
    fi
    versions=$(.venv/bin/python -c 'import platform, sys; from importlib.metadata import version
print(platform.python_version(), *map(version, sys.argv[1:]), sep=" | ")' "${shown[@]}")
    PATH="$PWD/.venv/bin:$PATH" python -m pytest -p no:cacheprovider "$@" </dev/null 2>&1 | tee pytest.log >&2 || code=$?
    result=$(tail -n 1 pytest.log)
    [ $code = 0 ] || result="failed: $result (exit code $code)"
    echo "| $corner | $versions | $result |"
    return $code
}

passed=yes
rows=()
for corner in "${corners[@]}"; do
    set +e # and not `||`, under which bash ignores -e within check as well
    row=$(set -e && check "$corner" "$@")
    code=$?
    set -e
    rows+=("$row")
    [ $code = 0 ] || passed=no
done
printf '| corner | python |%s tests |\n' "$(printf ' %s |' "${shown[@]}")"
printf '|%s\n' "$(printf ' --- |%.0s' corner python "${shown[@]}" tests)"
printf '%s\n' "${rows[@]}"
[ $passed = yes ]
