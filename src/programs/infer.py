"""Classify image files with an exported network: python infer.py --model FILE.mindir|FILE.onnx|FILE.sparse IMAGE..."""

from functools import partial

import numpy as np

from ..export.inference import Classifier, inverted, read_image, unlike_training
from ..platform.command_line import Parser
from ..platform.device import select_device
from ..platform.errors import InputError, run_program, tell

IMAGES_AT_A_TIME = 64  # held in memory; results are printed as they come


def main():
    """Print the class of every image on the command line; one that cannot be read does not hold up the others."""
    parser = Parser("Classes of image files by a MINDIR, ONNX or SPARSE file that export.py has written.")
    parser.add_argument("--model", required=True, metavar="FILE", help="exported .mindir, .onnx or .sparse")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any format Pillow reads")
    parser.add_argument("--invert", action="store_true", help="take the negatives: dark on bright for bright on dark")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    arguments = parser.parse_args()

    select_device(arguments.device_target)
    classifier = Classifier(arguments.model)
    classified = 0
    for start in range(0, len(arguments.images), IMAGES_AT_A_TIME):
        paths = arguments.images[start : start + IMAGES_AT_A_TIME]
        classified += classify(paths, classifier, arguments.invert)
    if classified < len(arguments.images):
        raise SystemExit(2)


def classify(paths, classifier, invert):
    """Print class and probability of each image; returns how many there are.

    One that cannot be read, or looks unlike the training images, is told on stderr.
    """
    read, images = [], []
    for path in paths:
        try:
            image = read_image(path, classifier.interface)
        except InputError as error:
            tell("error", error)
            continue
        image = inverted(image, classifier.interface) if invert else image
        remark = unlike_training(image, classifier.interface)
        if remark:
            tell("warning", f"{path}: {remark}")
        read.append(path)
        images.append(image)
    for path, probabilities in zip(read, classifier(np.stack(images)) if images else ()):
        best = int(probabilities.argmax())
        print(f"{path}: {classifier.interface.classes[best]} ({100 * probabilities[best]:.1f} %)")
    return len(images)


program = partial(run_program, main)
