#!/usr/bin/env bash
# A job over two hosts, on one machine: two network namespaces joined by a virtual cable. One host then fails as in a
# power cut (the cable is pulled, its processes die); the other must end within a minute and say so, and both must
# continue the run with the same command. Then hosts whose learning rates differ must say so instead of training.
# Needs root and the `ip` command.
# usage: bash tests/check_two_hosts.sh       (exit code 0: passed, 77: skipped)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null || ! ip netns add "rpg-probe-$$" 2>/dev/null; then
    echo "skipped: network namespaces need root and iproute2"
    exit 77
fi
ip netns delete "rpg-probe-$$"

work=$(mktemp -d)
hosts=("rpg-$$-a" "rpg-$$-b")
clean_up() {
    for host in "${hosts[@]}"; do
        stop_host "$host"
        ip netns delete "$host" 2>/dev/null || true
    done
    rm -rf "$work"
}
stop_host() {
    local processes
    processes=$(ip netns pids "$1" 2>/dev/null) || return 0
    # shellcheck disable=SC2086  # one word per process
    [ -z "$processes" ] || kill -KILL $processes 2>/dev/null || true
}
trap clean_up EXIT

ip netns add "${hosts[0]}"
ip netns add "${hosts[1]}"
ip link add eth0 netns "${hosts[0]}" type veth peer name eth0 netns "${hosts[1]}"
for index in 0 1; do
    ip -n "${hosts[index]}" address add "10.77.0.$((index + 1))/24" dev eth0
    ip -n "${hosts[index]}" link set eth0 up
    ip -n "${hosts[index]}" link set lo up
done

# usage: start HOST_INDEX LOG [--key value ...]
start() {
    local index=$1 log=$2
    shift 2
    MASTER_ADDR=10.77.0.1 MASTER_PORT=8118 NODE_NUM=2 NODE_RANK=$index \
        ip netns exec "${hosts[index]}" bash "$root/scripts/run_distribute_train.sh" "" "" 1 \
        --output_path "$work/run" --device_target CPU --epoch_size 6 --batch_size 128 --update_interval 5 \
        "$@" >"$log" 2>&1 &
}
fail() {
    echo "FAILED: $1"
    tail -n 30 "$work"/*.out
    exit 1
}

start 0 "$work/first_0.out" && first_0=$!
start 1 "$work/first_1.out" && disown $! # the shell would report its death
for ((waited = 0; waited < 600; waited++)); do
    [ -e "$work/run/metrics.jsonl" ] && [ "$(wc -l <"$work/run/metrics.jsonl")" -ge 2 ] && break
    kill -0 "$first_0" 2>/dev/null || fail "the job ended before its second epoch"
    sleep 0.5
done
[ "$waited" -lt 600 ] || fail "the job did not reach its second epoch in five minutes"
echo "two hosts train: $(tail -n 1 "$work/run/metrics.jsonl" | cut -c 1-40)..."

ip -n "${hosts[1]}" link set eth0 down
stop_host "${hosts[1]}"
SECONDS=0
status=0
while kill -0 "$first_0" 2>/dev/null; do
    [ $SECONDS -lt 60 ] || fail "the job did not end within a minute"
    sleep 1
done
wait "$first_0" || status=$?
[ $status != 0 ] || fail "the job lost a host and ended with 0"
grep -q '^error: worker 1 of 2 does not answer' "$work/first_0.out" || fail "the lost worker is not named"
echo "lost host 1: host 0 ended after $SECONDS s with exit code $status: $(grep '^error: ' "$work/first_0.out")"
[ -z "$(ip netns pids "${hosts[0]}")" ] || fail "processes are left on host 0"

ip -n "${hosts[1]}" link set eth0 up
start 0 "$work/second_0.out" --resume_ckpt auto && second_0=$!
start 1 "$work/second_1.out" --resume_ckpt auto && second_1=$!
wait "$second_0" || fail "host 0 did not continue"
wait "$second_1" || fail "host 1 did not continue"
epochs=$(sed 's/.*"epoch": \([0-9]*\),.*/\1/' "$work/run/metrics.jsonl" | tr '\n' ' ')
[ "$epochs" = "1 2 3 4 5 6 " ] || fail "epochs in metrics.jsonl: $epochs"
grep '^sparsity ' "$work/second_0.out"
echo "continued to the end: epochs $epochs"

# The last of two equal options counts.
start 0 "$work/third_0.out" --output_path "$work/other" && third_0=$!
start 1 "$work/third_1.out" --output_path "$work/other" --lr 0.2 && third_1=$!
until grep -qs process "$work/other/logs/worker_0.log" && grep -qs process "$work/other/logs/worker_1.log"; do
    kill -0 "$third_0" 2>/dev/null || break
    sleep 0.5
done
SECONDS=0 # from when both have begun
for process in "$third_0" "$third_1"; do
    status=0
    wait "$process" || status=$?
    [ $status != 0 ] || fail "hosts with different learning rates ended with 0"
done
[ $SECONDS -lt 60 ] || fail "hosts that differ did not end within a minute"
echo "hosts that differ: both ended after $SECONDS s"
grep -h '^error: .*lr' "$work"/third_*.out || fail "what differs between the hosts is not named"
[ ! -e "$work/other/metrics.jsonl" ] || fail "hosts that differ have trained"
sleep 2 # the watch over a job looks twice a second whether it is there
for host in "${hosts[@]}"; do
    [ -z "$(ip netns pids "$host")" ] || fail "processes are left on a host"
done
