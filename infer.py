"""Classify image files with an exported network: python infer.py --model FILE.mindir|FILE.onnx|FILE.sparse IMAGE..."""

import src  # noqa: F401,I001  sets the environment before mindspore loads

import numpy as np

from src.command_line import Parser
from src.device import select_device
from src.errors import run_program
from src.inference import Classifier, read_image


def main():
    """Print the class of every image on the command line."""
    parser = Parser("Classes of image files by a MINDIR, ONNX or SPARSE file that export.py has written.")
    parser.add_argument("--model", required=True, metavar="FILE", help="exported .mindir, .onnx or .sparse")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any format Pillow reads")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    arguments = parser.parse_args()

    select_device(arguments.device_target)
    classifier = Classifier(arguments.model)
    images = np.stack([read_image(path, classifier.interface) for path in arguments.images])
    for path, probabilities in zip(arguments.images, classifier(images)):
        best = int(probabilities.argmax())
        print(f"{path}: {classifier.interface.classes[best]} ({100 * probabilities[best]:.1f} %)")


if __name__ == "__main__":
    run_program(main)
