#!/usr/bin/env bash
# Train on several devices: all Ascend cards, or GPUs, or two CPU workers. Without arguments: the default recipe on the
# embedded digits. Shows worker 0 as it goes, waits for the end, and fails if any worker does.
# usage: bash scripts/run_distribute_train.sh [CONFIG_PATH] [DATA_PATH] [DEVICE_NUM] [--key value ...]
# The options are those of `python train.py --help`.
# DEVICE_NUM counts the devices of this host. Several hosts: start it on each, with MASTER_ADDR and MASTER_PORT (of host
# 0), NODE_NUM (how many hosts) and NODE_RANK (which one this is, from 0) in the environment. See docs/distributed.md.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"
bash "$root/scripts/setup.sh"
PATH="$root/.venv/bin:$PATH"
# shellcheck source=scripts/device.sh
. "$root/scripts/device.sh"

options=()
for key in config_path data_path; do
    if [ $# -gt 0 ] && [[ $1 != -* ]]; then
        [ -z "$1" ] || options+=("--$key" "$1") # "" leaves the default, to give what comes behind it
        shift
    fi
done
device_num=
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    [[ $1 =~ ^[1-9][0-9]*$ ]] || fail "DEVICE_NUM: $1 is not a number of devices"
    device_num=$1
    shift
fi
options+=("$@")

wanted=auto
for ((i = 0; i < ${#options[@]}; i++)); do
    case ${options[i]} in
    --device_target) wanted=${options[i + 1]:-} ;;
    --device_target=*) wanted=${options[i]#*=} ;;
    esac
done
find_devices python "$wanted"
device_num=${device_num:-$device_count}
if [ "$device_target" != CPU ] && [ "$device_num" -gt "$device_count" ]; then
    fail "DEVICE_NUM: $device_num asked for, but this host has $device_count $device_target devices"
fi
options+=(--device_target "$device_target")

nodes=${NODE_NUM:-1} node_rank=${NODE_RANK:-0}
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "NODE_NUM: $nodes is not a number of hosts"
[[ $node_rank =~ ^[0-9]+$ && $node_rank -lt $nodes ]] || fail "NODE_RANK: $node_rank is not in 0..$((nodes - 1))"
if [ "$nodes" -gt 1 ] && { [ -z "${MASTER_ADDR:-}" ] || [ -z "${MASTER_PORT:-}" ]; }; then
    fail "MASTER_ADDR, MASTER_PORT: with NODE_NUM=$nodes every host must be told the address and a free port of host 0"
fi
if [ -n "${MASTER_PORT:-}" ] && ! { [[ $MASTER_PORT =~ ^[1-9][0-9]{0,4}$ ]] && [ "$MASTER_PORT" -le 65535 ]; }; then
    fail "MASTER_PORT: $MASTER_PORT is not the number of a port, 1 to 65535"
fi
workers=$((device_num * nodes))

output=$(python "$root/scripts/job.py" "$workers" "${options[@]}")
if [ -z "$output" ]; then
    exec python "$root/train.py" "${options[@]}" # a dry run
fi
logs=$output/logs
mkdir -p "$logs" 2>/dev/null || fail "output_path: cannot make the folder $logs"
has_room() { # for the logs, without which no worker begins
    head -c 65536 /dev/zero 2>/dev/null >"$logs/.room" && rm "$logs/.room" && return
    rm -f "$logs/.room"
    return 1
}
has_room || fail "output_path: cannot write to $logs: the disk is full, or it is not yours"

# A port of our own: process ids differ between jobs that run at once, and ports in use are passed over.
free_port() {
    local port=$((20000 + $$ % 10000))
    while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((20000 + (port + 1) % 10000))
    done
    echo $port
}
address=${MASTER_ADDR:-127.0.0.1} port=${MASTER_PORT:-$(free_port)}

# Workers look for the scheduler every one or two seconds instead of three to five.
export MS_RETRY_INTERVAL_LOWER=${MS_RETRY_INTERVAL_LOWER:-1} MS_RETRY_INTERVAL_UPPER=${MS_RETRY_INTERVAL_UPPER:-2}
export PYTHONUNBUFFERED=1
if [ "$device_target" = CPU ]; then
    cores=$(($(nproc) / device_num))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 0 ? cores : 1))}
fi

own=()
for ((i = 0; i < device_num; i++)); do
    own+=("$logs/worker_$((node_rank * device_num + i)).log")
done
launcher=$logs/launcher_$node_rank.log
ends=$logs/ends_$node_rank # which workers ended, in this order, and how; see worker.py
rm -f "${own[@]}" "$ends"
if [ "$node_rank" = 0 ]; then
    rm -f "$logs/scheduler.log"
    echo "$workers workers on $device_target, logs in $logs" >&2
fi

# In a process group of its own (set -m) msrun does not get the Ctrl-C of a terminal, on which it would kill the workers.
# It tails no log itself (there is no worker of that number): it would cut off the last lines.
set -m
msrun --worker_num="$workers" --local_worker_num="$device_num" --node_rank="$node_rank" \
    --master_addr="$address" --master_port="$port" --join=True --log_dir="$logs" --tail_worker_log="$workers" \
    "$root/scripts/worker.py" "$ends" "${options[@]}" >"$launcher" 2>&1 &
msrun=$!
set +m
# One host has heard of a failure at once; several wait for the scheduler to say which one has fallen silent.
python "$root/scripts/watch.py" "$msrun" "$ends" "$logs/scheduler.log" $((nodes > 1 ? 45 : 5)) &
all_done() { [ "$(grep -c ' 0$' "$ends" 2>/dev/null)" = "$device_num" ]; }
# The workers are told, and save; before all of them have begun, there is nothing to save. A second signal is left to msrun.
# shellcheck disable=SC2329 # the traps below invoke it
stop() {
    trap 'kill -INT $msrun 2>/dev/null || true' INT TERM HUP
    local told=0 log process
    for log in "${own[@]}"; do
        process=$(sed -n '/^worker .*, process [0-9]*$/ { s/.* //p; q }' "$log" 2>/dev/null) || true
        if [ -n "$process" ] && kill -s "$1" "$process" 2>/dev/null; then
            told=$((told + 1))
        fi
    done
    [ "$told" = "$device_num" ] || kill -INT "$msrun" 2>/dev/null || true
    while kill -0 "$msrun" 2>/dev/null; do # a further signal interrupts `wait`
        wait "$msrun" || true
    done
    [ -z "${tail:-}" ] || wait "$tail" || true
    if all_done; then
        exit 0 # it has come to its end all the same
    fi
    grep -q '^stopped by ' "${own[@]}" 2>/dev/null || echo "stopped by SIG$1 before training began" >&2 || true
    exit "$2"
}
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM
trap 'stop TERM 129' HUP # a closed terminal
if [ "$node_rank" = 0 ]; then
    tail --pid=$msrun -n +1 -F "${own[0]}" 2>/dev/null | grep --line-buffered -v '^\[INFO\] DISTRIBUTED' &
    tail=$!
fi
status=0
wait $msrun || status=$?
[ -z "${tail:-}" ] || wait "$tail" || true
if [ $status = 0 ] && all_done; then
    exit 0
fi
has_room || fail "output_path: cannot write to $logs: the disk is full"

# Name the worker that failed first, and show its last words. The scheduler ends the others when one falls silent.
{
    lost=$(sed -n 's/.*The node: \([0-9]*\) is timed out.*/\1/p' "$logs/scheduler.log" 2>/dev/null | head -n 1) || true
    read -r worker code < <(awk '$2 != 0 { print; exit }' "$ends" 2>/dev/null) || true
    failed=${worker:+$logs/worker_$worker.log}
    # A worker that waits for one of another host fails with its message, as a rule before it is told to end (-15).
    if [ -n "$failed" ] && grep -q 'RuntimeError: .*\(cluster is error\|AllReduce\|AllGather\)' "$failed"; then
        if [ -z "$lost" ] && [ "$nodes" = 2 ]; then # it can only be the other host
            lost=$(((1 - node_rank) * device_num))
        fi
        [ -z "$lost" ] || code=-15
    fi
    if [ "${code:--15}" = -15 ] && [ -n "$lost" ]; then
        echo "error: worker $lost of $workers does not answer any more; its host or the network failed"
    elif [ -n "$failed" ]; then
        echo "error: worker $worker of $workers failed with exit code $code; the last lines of $failed:"
        tail -n 15 "$failed"
    else
        echo "error: the job failed, but no worker of this host; the last lines of $launcher:"
        tail -n 15 "$launcher"
    fi
} >&2
exit $((${code:-1} > 0 ? ${code:-1} : 1))
