"""Write a checkpoint of an untrained, pruned network, for measurements that need no training.

python benchmark/random_checkpoint.py OUT.ckpt [--model resnet50] [--sparsity 0.98 | --pattern N:M]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.weights.checkpoint import write_network
from src.platform.command_line import Parser
from src.config.keys import resolve
from src.platform.device import select_device
from src.platform.errors import run_program
from src.models import build_model
from src.pruning.allocation import BUDGETS, total_budget
from src.pruning.layers import pattern_of
from src.pruning.masks import largest
from src.pruning.pruner import prunable_weights

IMAGE_SHAPE = (3, 224, 224)
NUM_CLASSES = 1000


def write_random_checkpoint(path, model, sparsity=0.98, pattern=""):
    """A network of random weights and random masks, with the BatchNorm statistics of random images.

    The masks have ERK densities, or, in the layers that can take it, an N:M pattern.
    """
    ms.set_seed(0)
    architecture = {"name": model, "num_classes": NUM_CLASSES, "in_channels": IMAGE_SHAPE[0]}
    network = build_model(**architecture)
    weights = prunable_weights(network)
    config = resolve({"model": model, "sparsity": sparsity, "pattern": pattern})
    patterned = pattern_of(config, network, weights)
    random = np.random.default_rng(0)
    scores = [random.random(weight.shape, np.float32) for weight in weights]
    if patterned is None:
        total = total_budget([weight.size for weight in weights], 1 - sparsity)
        masks = map(largest, scores, BUDGETS["erk"]([weight.shape for weight in weights], total))
    else:
        masks = [np.ones(weight.shape, bool) for weight in weights]
        for index, axis in patterned.axes.items():
            masks[index] = patterned.pattern.largest(scores[index], axis)
    for weight, mask in zip(weights, masks):
        weight.set_data(Tensor(weight.asnumpy() * mask + np.float32(0)))  # + 0: no negative zeros
    settle_batch_norms(network, (4, *IMAGE_SHAPE))
    description = {"model": architecture, "image_shape": list(IMAGE_SHAPE), "config": dict(config)}
    write_network(path, network, description)


def settle_batch_norms(network, shape):
    """Set every BatchNorm to the statistics of its input, so that activations keep their size through the network."""
    random = np.random.default_rng(0)

    def settle(norm, inputs):
        x = inputs[0].asnumpy()
        norm.moving_mean.set_data(Tensor(x.mean((0, 2, 3))))
        variance = x.var((0, 2, 3))
        norm.moving_variance.set_data(Tensor(np.maximum(variance, variance.mean())))  # no channel is blown up
        for parameter, centre in ((norm.gamma, 1.0), (norm.beta, 0.0)):
            parameter.set_data(Tensor((centre + 0.2 * random.standard_normal(parameter.shape)).astype(np.float32)))

    network.set_train(False)
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(settle) for norm in norms]
    network(Tensor(random.standard_normal(shape).astype(np.float32)))
    for handle in handles:
        handle.remove()


def main():
    """Write the checkpoint on the command line."""
    parser = Parser("Write a checkpoint of an untrained, pruned network.")
    parser.add_argument("path", metavar="OUT")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--sparsity", type=float, default=0.98)
    parser.add_argument("--pattern", default="", help="N:M instead, such as 2:4")
    arguments = parser.parse_args()
    select_device("CPU")
    write_random_checkpoint(arguments.path, arguments.model, arguments.sparsity, arguments.pattern)
    print(f"{arguments.path}: {Path(arguments.path).stat().st_size:,} bytes")


if __name__ == "__main__":
    run_program(main)
