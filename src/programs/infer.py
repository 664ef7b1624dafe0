"""Classify image files with an exported network: python infer.py --model FILE.mindir|FILE.onnx|FILE.sparse IMAGE..."""

import glob
import json
import os
import sys
from functools import partial

import numpy as np
from tqdm import tqdm

from ..data.class_folders import find_images
from ..export.inference import Classifier, inverted, read_image, unlike_training
from ..platform.command_line import Parser, positive
from ..platform.device import select_device
from ..platform.errors import InputError, run_program, tell

BATCH_SIZE = 64  # images held in memory; results are printed as they come


def main():
    """Print the class of every image on the command line; one that cannot be read does not hold up the others."""
    arguments = parse()
    select_device(arguments.device_target)
    classifier = Classifier(arguments.model)
    found, missing = find(arguments.images)
    for name, problem in missing:
        refuse(name, problem, arguments.json)
    classified = 0
    # Where results go to the screen too, they are the progress.
    hidden = True if sys.stdout.isatty() else None
    with tqdm(total=len(found), unit="img", disable=hidden) as bar:
        for start in range(0, len(found), arguments.batch_size):
            paths = found[start : start + arguments.batch_size]
            classified += classify(paths, classifier, arguments)
            bar.update(len(paths))
    if missing or classified < len(found):
        raise SystemExit(2)


def parse():
    """The command line."""
    parser = Parser("Classes of image files by a MINDIR, ONNX or SPARSE file that export.py has written.")
    parser.add_argument("--model", required=True, metavar="FILE", help="exported .mindir, .onnx or .sparse")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files of any format Pillow reads; folders, with all below them; patterns such as 'a/*.jpg'",
    )
    parser.add_argument("--top_k", type=positive, default=1, metavar="K", help="the K likeliest classes (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per image, a line each")
    parser.add_argument(
        "--batch_size", type=positive, default=BATCH_SIZE, metavar="N", help=f"images at a time (default: {BATCH_SIZE})"
    )
    parser.add_argument("--invert", action="store_true", help="take the negatives: dark on bright for bright on dark")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    return parser.parse_args()


def find(names):
    """The image files that names of files, folders and patterns stand for, and (name, problem) of those without any."""
    found, missing = [], []
    for name in names:
        if os.path.isdir(name):
            paths, problem = find_images(name), "no image files in this folder"
        elif os.path.lexists(name) or not glob.has_magic(name):
            paths, problem = [name], ""
        else:
            matching = sorted(glob.glob(name, recursive=True))
            paths = [path for match in matching for path in (find_images(match) if os.path.isdir(match) else [match])]
            problem = "no file has such a name"
        found += paths
        missing += [] if paths else [(name, problem)]
    return found, missing


def classify(paths, classifier, arguments):
    """Print classes and probabilities of each image; returns how many there are.

    One that cannot be read, or looks unlike the training images, is told on stderr.
    """
    read, images = [], []
    for path in paths:
        try:
            image = read_image(path, classifier.interface)
        except InputError as error:
            refuse(path, error, arguments.json)
            continue
        image = inverted(image, classifier.interface) if arguments.invert else image
        remark = unlike_training(image, classifier.interface)
        if remark:
            _tell("warning", f"{path}: {remark}")
        read.append(path)
        images.append(image)
    for path, probabilities in zip(read, classifier(np.stack(images)) if images else ()):
        print(format_answer(path, likeliest(probabilities, classifier.interface.classes, arguments.top_k), arguments))
    return len(images)


def likeliest(probabilities, classes, count):
    """(class, probability) of the `count` likeliest classes, or of all; of equal ones the first."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [(classes[index], float(probabilities[index])) for index in order]


def format_answer(path, answers, arguments):
    """The line of an image; answers: (class, probability), the likeliest first."""
    if not arguments.json:
        return f"{path}: {', '.join(f'{name} ({100 * probability:.1f} %)' for name, probability in answers)}"
    top = [{"class": name, "probability": probability} for name, probability in answers]
    return json.dumps({"image": path, **top[0], "top": top})


def refuse(path, problem, as_json):
    """Tell on stderr, and in JSON on stdout too, why an image has no class."""
    problem = problem if isinstance(problem, InputError) else f"images: {path}: {problem}"
    _tell("error", problem)
    if as_json:
        print(json.dumps({"image": path, "error": str(problem)}))


def _tell(kind, message):
    with tqdm.external_write_mode(file=sys.stderr):  # the bar gives way to the line
        tell(kind, message)


program = partial(run_program, main)
