#!/usr/bin/env bash
# Build the sparse runtime: librpg_sparse.so, librpg_sparse.a and the program rpg_sparse, in runtime/build (or build-TARGET).
# usage: bash scripts/build_runtime.sh [--target aarch64-linux-gnu] [--output DIR] [--sanitize]
#   CC names the compiler, gcc or clang (default: cc, or TARGET-gcc), CFLAGS more options for it;
#   --sanitize builds under AddressSanitizer and UBSan, for tests.
set -euo pipefail
from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/../runtime"
shopt -s nullglob

target="" sanitize=no output=""
while [ $# -gt 0 ]; do
    case $1 in
    --target)
        target=${2:?"--target needs a name such as aarch64-linux-gnu"}
        shift 2
        ;;
    --output)
        output=${2:?"--output needs a folder"}
        [[ $output == /* ]] || output=$from/$output
        shift 2
        ;;
    --sanitize)
        sanitize=yes
        shift
        ;;
    *)
        echo "error: unknown option $1; usage: bash scripts/build_runtime.sh [--target NAME] [--output DIR] [--sanitize]" >&2
        exit 2
        ;;
    esac
done
compiler=${CC:-${target:+$target-gcc}}
compiler=${compiler:-cc}
if ! command -v "$compiler" >/dev/null; then
    echo "error: no C compiler $compiler found; install one (Debian: apt-get install gcc${target:+-$target}) or name it: CC=gcc" >&2
    exit 2
fi

folder=build${target:+-$target}
flags=(-std=gnu11 -O2 -g0 -fPIC -fvisibility=hidden -fno-asynchronous-unwind-tables -ffp-contract=fast -Wall -Wextra -Wno-psabi -pthread)
if [ $sanitize = yes ]; then
    folder=$folder-sanitized
    flags+=(-g -fsanitize=address -fsanitize=undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
fi
read -ra extra <<<"${CFLAGS:-}"
flags+=("${extra[@]}")
case $("$compiler" -dumpmachine) in
x86_64*) isas=("sse2 -msse2" "avx2 -mavx2 -mfma" "avx512 -mavx512f -mavx512dq -mavx512vl -mavx2 -mfma") ;;
aarch64*) isas=("neon") ;;
*)
    echo "error: $compiler makes code for $("$compiler" -dumpmachine); the runtime is for x86-64 and aarch64" >&2
    exit 2
    ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for isa in "${isas[@]}"; do
    read -r name options <<<"$isa"
    # shellcheck disable=SC2086  # several options
    "$compiler" "${flags[@]}" $options -DNAME="$name" -c kernels.c -o "$work/kernels_$name.o"
done
for source in file plan run; do
    "$compiler" "${flags[@]}" -Os -c $source.c -o "$work/$source.o"
done
folder=${output:-$folder}
mkdir -p "$folder"
if [ $sanitize = no ]; then
    "$compiler" -shared -s -pthread -Wl,-z,noseparate-code,-z,norelro "$work"/*.o -lm -o "$work/librpg_sparse.so"
    mv "$work/librpg_sparse.so" "$folder/" # in one step: another process may be loading the old one
fi
rm -f "$folder/librpg_sparse.a"
"${AR:-${target:+$target-}ar}" rcs "$folder/librpg_sparse.a" "$work"/*.o
for program in main.c examples/classify.c tests/*.c; do
    name=$(basename "$program" .c)
    [ "$name" != main ] || name=rpg_sparse
    "$compiler" "${flags[@]}" -I. "$program" "$folder/librpg_sparse.a" -lm -o "$folder/$name"
done
[[ $folder == /* ]] || folder=runtime/$folder
echo "built in $folder"
