"""Score a trained network on its pictures: python examples/detection/eval.py --ckpt FILE [--draw PICTURE.png]"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src import select_device
from src.platform.command_line import Parser
from src.platform.errors import InputError, run_program
from src.platform.files import check_new, writing

from examples.detection.coco import read_coco  # isort: skip  after src, which sets MindSpore's environment
from examples.detection.drawing import draw_detections
from examples.detection.networks import read_detector
from examples.detection.scoring import format_score, score


def main():
    """Score a checkpoint."""
    arguments = _parse()
    if arguments.draw:
        check_new(Path(arguments.draw), arguments.overwrite, "draw")
    select_device(arguments.device_target)
    network, description = read_detector(arguments.ckpt)
    settings = SimpleNamespace(**{**description["config"], **description["detector"]})
    data = Path(arguments.data_path or settings.data_path)
    annotations = data / settings.val_annotations
    coco = read_coco(annotations, data / settings.val_images, settings.task == "segment")
    if list(coco.categories) != description["categories"]:
        raise InputError(f"data_path: {annotations} has other categories than the network was trained on")
    result = {"score": score(network, coco, annotations, settings), **count_zeros(network, description["pruned"])}
    if arguments.json:
        print(json.dumps(result))
    else:
        print(
            f"sparsity {100 * result['sparsity']:.4f} % ({result['nonzeros']:,} of {result['weights']:,} weights left)"
        )
        print(f"{format_score(result['score'])}, {len(coco.pictures):,} images")
    if arguments.draw:
        path = Path(arguments.draw)
        with writing(path, "draw"):
            draw_detections(path, network, coco, settings)


def count_zeros(network, pruned):
    """Share of zeros in the pruned layers, counted in the weights, and how many there are."""
    parameters = network.parameters_dict()
    weights = [parameters[name].asnumpy() for name in pruned]
    count = sum(weight.size for weight in weights)
    nonzeros = sum(int((weight != 0).sum()) for weight in weights)
    return {"sparsity": 1 - nonzeros / count, "nonzeros": nonzeros, "weights": count}


def _parse():
    parser = Parser(__doc__.partition(":")[0])
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="network.ckpt of a run")
    parser.add_argument("--data_path", metavar="DIR", help="folder of the data, if not where it was in training")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--draw", metavar="PICTURE.png", help="write the first pictures with what was found on them")
    parser.add_argument("--overwrite", action="store_true", help="replace that picture")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main)
