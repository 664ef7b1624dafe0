# shellcheck shell=bash
# Sourced first by every script, with the arguments of that: finds the project, and answers -h and --help.

# shellcheck disable=SC2034 # the scripts use it
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")") # through links, and whatever CDPATH says

fail() {
    echo "error: $1" >&2
    exit 2
}

for word in "$@"; do
    if [ "$word" = -h ] || [ "$word" = --help ]; then
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" # the comment at the head of the script
        exit 0
    fi
done
