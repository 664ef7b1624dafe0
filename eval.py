"""Evaluate a checkpoint: python eval.py --ckpt FILE [--data_path DIR] [--json]"""

import json

import src  # noqa: F401  sets the environment before mindspore loads
from src.command_line import Parser, positive
from src.data import build_dataset
from src.device import select_device
from src.errors import run_program
from src.evaluation import Evaluator
from src.report import format_layers, format_summary, sparsity_report
from src.trained import load_trained


def main():
    """Evaluate the checkpoint on the command line."""
    parser = Parser("Accuracy, sparsity and ranks of a trained network; model and data set come from the checkpoint.")
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="best.ckpt or last.ckpt of a run")
    parser.add_argument("--data_path", metavar="DIR", help="folder of the data set, if not the one of training")
    parser.add_argument("--batch_size", type=positive, help="images per step (default: that of training)")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    arguments = parser.parse_args()

    select_device(arguments.device_target)
    trained = load_trained(arguments.ckpt)
    config = trained.config
    batch_size = arguments.batch_size or config.batch_size
    data_path = arguments.data_path or config.data_path
    data = build_dataset(
        config.dataset, "test", batch_size, config.seed, config.num_workers, data_path, classes=trained.classes
    )
    scores = Evaluator(trained.network, batch_size)(data)
    report = sparsity_report(trained.weights(), config.tail_energy)
    if arguments.json:
        print(json.dumps({"ckpt": arguments.ckpt, **scores._asdict(), **report}))
    else:
        print(format_layers(report))
        print(format_summary(report))
        print(f"top-1 {scores.top1:.2f} %, top-5 {scores.top5:.2f} %, loss {scores.loss:.4f}, {scores.images} images")


if __name__ == "__main__":
    run_program(main)
