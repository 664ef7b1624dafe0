# shellcheck shell=bash
# Sourced by the scripts that start one process per device.

# Sets device_target and device_count: Ascend cards, else GPUs, else two CPU workers.
# usage: find_devices PYTHON [auto|Ascend|GPU|CPU]    (PYTHON must have MindSpore, which has the last word)
find_devices() {
    local python=$1 wanted=${2:-auto}
    for device_target in Ascend GPU; do
        if [ "$wanted" = auto ] || [ "$wanted" = $device_target ]; then
            device_count=$("count_$device_target")
            if [ "$device_count" -gt 0 ] && "$python" -c \
                'import sys, mindspore as ms; sys.exit(not ms.hal.is_available(sys.argv[1]))' $device_target; then
                return
            fi
        fi
    done
    device_target=$wanted device_count=2
    if [ "$wanted" = auto ]; then
        device_target=CPU
    fi
}

count_Ascend() {
    if [ -n "${ASCEND_RT_VISIBLE_DEVICES:-}" ]; then
        count_words "$ASCEND_RT_VISIBLE_DEVICES"
    elif command -v npu-smi >/dev/null; then
        npu-smi info -l | awk -F: '/Total Count/ { count = $2 } END { print count + 0 }' || true
    else
        echo 0
    fi
}

count_GPU() {
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        count_words "$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L | grep -c '^GPU ' || true
    else
        echo 0
    fi
}

count_words() {
    echo "$1" | tr ',' '\n' | grep -c . || true
}
