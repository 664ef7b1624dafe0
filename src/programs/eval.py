"""Evaluate a checkpoint, or compare two: python eval.py --ckpt FILE [--data_path DIR] [--json] [--report DIR]"""

import json
import math
from functools import partial

import numpy as np

from ..data import PUBLISHED, published_info
from ..data.batches import Batches, Batching, check_memory
from ..platform.command_line import Parser, add_network, positive
from ..platform.device import select_device
from ..platform.errors import InputError, run_program, tell
from ..pruning.pruner import transposed_groups
from ..report.sparsity import format_layers, format_summary, sparsity_report
from ..training.evaluation import Evaluator
from ..weights.trained import check_nonzeros, check_pattern, load_trained


def main():
    """Evaluate the checkpoints on the command line."""
    arguments = parse()
    select_device(arguments.device_target)
    files = [file for file in (arguments.ckpt, arguments.compare) if file]
    networks = [load_trained(file, arguments.network) for file in files]
    report = open_report(arguments) if arguments.report else None
    evaluations = [evaluate(file, trained, arguments) for file, trained in zip(files, networks)]
    if arguments.json:
        print(json.dumps({**evaluations[0], **({"compare": evaluations[1]} if arguments.compare else {})}))
    else:
        print("\n\n".join(map(format_evaluation, evaluations)))
    if report:
        paths = report(evaluations, [trained.settings() for trained in networks])
        if not arguments.json:
            print(f"pictures and report: {', '.join(map(str, paths))}")


def parse():
    """The command line."""
    parser = Parser("Accuracy, sparsity and ranks of a trained network; model and data set come from the checkpoint.")
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="best.ckpt or last.ckpt of a run")
    parser.add_argument("--compare", metavar="FILE", help="second checkpoint, to be set beside the first")
    add_network(parser)
    parser.add_argument("--data_path", metavar="DIR", help="folder of the data set, if not the one of training")
    parser.add_argument("--batch_size", type=positive, help="images at a time (default: as in training)")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    parser.add_argument("--report", metavar="DIR", help="folder for layers.png and report.html")
    parser.add_argument("--overwrite", action="store_true", help="replace the report that the folder holds")
    return parser.parse_args()


def open_report(arguments):
    """A function of evaluations and configurations that writes the report; its folder is made now. Raises InputError.

    What it needs is imported only where a report is asked for.
    """
    try:
        from ..report.page import open_report_folder
        from ..report.run_report import write_evaluation_report
    except ImportError as error:
        raise InputError(f"report: needs {error.name}; run: pip install {error.name}") from None
    open_report_folder(arguments.report, arguments.overwrite)
    return lambda evaluations, configs: write_evaluation_report(arguments.report, evaluations, configs)


def evaluate(file, trained, arguments):
    """Scores and sparsity report of a checkpoint in one dict."""
    config = trained.config
    pattern = evaluate_pattern(file, trained)
    batch_size = arguments.batch_size or trained.eval_batch_size
    if config.dataset in PUBLISHED and published_info(config.dataset).image_shape != trained.image_shape:
        raise InputError(
            f"{file}: configuration: dataset: {config.dataset} has no images of shape {trained.image_shape}"
        )
    check_memory(batch_size, trained.image_shape)
    data = Batches(trained.source(arguments.data_path), "test", Batching(batch_size, config.num_workers))
    scores = Evaluator(trained.network, batch_size)(data.epoch())
    if not math.isfinite(scores.loss):
        raise InputError(f"{file}: the network's outputs are not finite; use another copy, or train it again")
    report = sparsity_report(trained.weights(), config.tail_energy, transposed_groups(trained.network))
    return {"ckpt": file, **scores._asdict(), **report, **pattern}


def evaluate_pattern(file, trained):
    """The entry `pattern` of an evaluation: which one, and in which layers it is exact; nothing without one.

    A network on its way to its pattern has not got it yet, which is told. Raises InputError where one at its target has
    lost it, or the file was changed since.
    """
    patterned, weights = trained.patterned(), trained.weights()
    if patterned is None:
        return {}
    check_nonzeros(trained, file)
    if sum(map(np.count_nonzero, weights.values())) <= trained.target():
        check_pattern(trained, file)
    names, broken = list(weights), patterned.broken(list(weights.values()))
    exact = [names[index] for index in patterned.axes if index not in broken]
    if broken:
        tell("warning", f"{file}: on its way: {len(broken)} layers have not their pattern {patterned.pattern} yet")
    return {"pattern": {"name": str(patterned.pattern), "exact": exact, "text": patterned.describe(names)}}


def format_evaluation(evaluation):
    """Layers, sparsity and scores as text."""
    scores = "top-1 {top1:.2f} %, top-5 {top5:.2f} %, loss {loss:.4f}, {images} images".format(**evaluation)
    lines = [evaluation["ckpt"], format_layers(evaluation), format_summary(evaluation), scores]
    if "pattern" in evaluation:
        pattern = evaluation["pattern"]
        lines.insert(-1, f"{pattern['text']}; counted as exact in {len(pattern['exact'])}")
    return "\n".join(lines)


program = partial(run_program, main)
