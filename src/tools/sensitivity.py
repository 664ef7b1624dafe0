"""How much each layer matters: python -m src.tools.sensitivity --ckpt FILE [--images N] [--output_path DIR]

Top-1 accuracy on the test images after each layer alone has been pruned to 50, 80, 90, 95 and 98 %, by magnitude and
without training: a table, and beside the checkpoint the same as NAME.sensitivity.json and NAME.sensitivity.png.
"""

import json
from functools import partial
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from ..data.batches import Batches, Batching
from ..platform.command_line import Parser, add_network, positive
from ..platform.device import select_device
from ..platform.errors import InputError, run_program
from ..platform.files import check_new, replace_file, writing
from ..report.pictures import draw_sensitivity
from ..training.evaluation import Evaluator
from ..training.sensitivity import layer_sensitivity
from ..weights.trained import load_trained


def main():
    """Measure the checkpoint on the command line; the files are written when all is known."""
    arguments = parse()
    select_device(arguments.device_target)
    ckpt = Path(arguments.ckpt)
    folder = Path(arguments.output_path) if arguments.output_path else ckpt.parent
    if not folder.is_dir():
        raise InputError(f"output_path: the folder {folder} does not exist")
    paths = [folder / f"{ckpt.stem}.sensitivity.{kind}" for kind in ("json", "png")]
    for path in paths:
        check_new(path, arguments.overwrite, "output_path")
    trained = load_trained(ckpt, arguments.network)
    result = {"ckpt": str(ckpt), **measure(trained, arguments)}
    contents = json.dumps(result, indent=1).encode(), draw_sensitivity(result)
    for path, content in zip(paths, contents):
        with writing(path, "output_path"):
            replace_file(path, [content])
    print(format_sensitivity(result))
    print(f"in {' and '.join(map(str, paths))}")


def parse():
    """The command line."""
    parser = Parser("Top-1 accuracy after pruning each layer of a trained network alone.")
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="best.ckpt or last.ckpt of a run")
    add_network(parser)
    parser.add_argument("--data_path", metavar="DIR", help="folder of the data set, if not the one of training")
    parser.add_argument("--images", type=positive, metavar="N", help="test images to draw (default: all)")
    parser.add_argument("--batch_size", type=positive, help="images at a time (default: as in training)")
    parser.add_argument("--output_path", metavar="DIR", help="folder for the files (default: that of the checkpoint)")
    parser.add_argument("--overwrite", action="store_true", help="replace the files, if they exist")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    return parser.parse_args()


def measure(trained, arguments):
    """The `layer_sensitivity` of a Trained, and the number of images that were scored."""
    batch_size = arguments.batch_size or trained.eval_batch_size
    batching = Batching(batch_size, trained.config.num_workers)
    data = Batches(trained.source(arguments.data_path), "test", batching)
    if arguments.images:
        data.draw(arguments.images)
    evaluate = Evaluator(trained.network, batch_size)
    parameters = trained.network.parameters_dict()
    result = layer_sensitivity(
        [parameters[name] for name in trained.weights()],
        lambda: evaluate(data.epoch()).top1,
        progress=partial(tqdm, desc="layers", unit=" networks", disable=None),
    )
    return {"images": len(data.loaded.labels), **result}


def format_sensitivity(result):
    """Table and summary as text."""
    rows = [
        [
            layer["name"],
            f"{layer['weights']:,}",
            f"{100 * layer['nonzeros'] / layer['weights']:.2f}",
            *(f"{score:.2f}" for score in layer["scores"]),
        ]
        for layer in result["layers"]
    ]
    headers = ["layer", "weights", "density %", *(f"at {100 * sparsity:g} %" for sparsity in result["sparsities"])]
    table = tabulate(rows, headers, colalign=("left", *["right"] * (len(headers) - 1)), disable_numparse=True)
    worst = min(result["layers"], key=lambda layer: layer["scores"][-1])
    return (
        f"{table}\ntop-1 {result['score']:.2f} % as it is, {result['images']:,} images; most sensitive at "
        f"{100 * result['sparsities'][-1]:g} %: {worst['name']}, {worst['scores'][-1] - result['score']:+.2f} points"
    )


if __name__ == "__main__":
    run_program(main)
