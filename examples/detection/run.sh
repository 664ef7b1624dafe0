#!/usr/bin/env bash
# Train YOLOv8-nano on pictures of shapes, prune it to 90 %, score both, export, draw. Makes .venv and the data first.
# usage: bash examples/detection/run.sh [--key value ...]
# The options are those of `python examples/detection/train.py --help`, for both trainings; but not output_path.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$(readlink -f "$0")")/../../scripts/common.sh"
cd "$root"
bash scripts/setup.sh
extras=examples/detection/requirements.txt
if ! cmp -s $extras .venv/requirements-detection.txt; then
    echo "setup: installing $extras" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r $extras -c constraints.txt
    cp $extras .venv/requirements-detection.txt
fi
python=$root/.venv/bin/python

output=${OUTPUT:-output/detection} # where everything goes
if [ ! -e "$output/shapes/val.json" ]; then
    "$python" examples/detection/make_shapes.py --output_path "$output/shapes"
fi
go_on=()
train() { # a run that is there goes on, or is left as it is
    local folder=$1
    shift
    go_on=()
    [ ! -e "$folder/result.json" ] || return 0
    [ ! -e "$folder/resume.ckpt" ] || go_on=(--resume)
    "$python" examples/detection/train.py --data_path "$output/shapes" --output_path "$folder" "${go_on[@]}" "$@"
}
train "$output/dense" "$@" --method dense
train "$output/pruned" "$@" --pretrained "$output/dense/network.ckpt"

for name in dense pruned; do
    echo "$name:"
    "$python" examples/detection/eval.py --ckpt "$output/$name/network.ckpt" --data_path "$output/shapes" \
        --draw "$output/$name/detections.png" --overwrite
done
for format in MINDIR ONNX; do
    "$python" examples/detection/export.py --ckpt "$output/pruned/network.ckpt" --file_format $format --overwrite
done
echo "pictures: $output/dense/detections.png, $output/pruned/detections.png"
