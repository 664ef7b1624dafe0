"""Multiply-adds of one image, layer by layer, and how many the zeros leave: python benchmark/multiply_adds.py CKPT"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import numpy as np
from mindspore import Tensor

from src.platform.command_line import Parser
from src.platform.device import select_device
from src.platform.errors import run_program
from src.export.multiply_adds import count_multiply_adds, format_multiply_adds, format_multiply_adds_by_layer
from src.weights.trained import load_trained


def main():
    """Print the table of the checkpoint on the command line."""
    parser = Parser("Theoretical multiply-adds of one image, layer by layer.")
    parser.add_argument("ckpt", metavar="CKPT")
    arguments = parser.parse_args()
    select_device("CPU")
    trained = load_trained(arguments.ckpt)
    costs = count_multiply_adds(trained.network, Tensor(np.zeros((1, *trained.image_shape), np.float32)))
    print(format_multiply_adds_by_layer(costs))
    print(format_multiply_adds(costs))


if __name__ == "__main__":
    run_program(main)
