"""Multiply-adds of one image, layer by layer, and how many of them the zeros leave (theoretical FLOPs)."""

from typing import NamedTuple

import numpy as np
from mindspore import nn
from tabulate import tabulate

from ..pruning.pruner import prunable_layers


class LayerCost(NamedTuple):
    """name of the layer; dense: multiply-adds of one image with all weights; left: with the non-zero ones only."""

    name: str
    dense: int
    left: int


def count_multiply_adds(network, images):
    """A LayerCost for every convolution and dense layer, in order of definition.

    images: a Tensor of one image, with which the network is run once. Each weight is used once per output position;
    biases, normalisation, activations, pooling and the products of attention, which have no weights, are left out.
    """
    layers = prunable_layers(network)
    positions = {}
    handles = [
        cell.register_forward_hook(lambda cell, x, y, name=name: positions.update({name: _positions(cell, y.shape)}))
        for name, cell in layers
    ]
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        LayerCost(name, positions[name] * cell.weight.size, positions[name] * np.count_nonzero(cell.weight.asnumpy()))
        for name, cell in layers
    ]


def _positions(cell, shape):
    """How often a layer uses each of its weights for one image; a transformer's dense layers do so for every token."""
    return int(np.prod(shape[1:-1] if isinstance(cell, nn.Dense) else shape[2:]))


def format_multiply_adds(costs):
    """The whole network's in one line."""
    dense, left = sum(cost.dense for cost in costs), sum(cost.left for cost in costs)
    return f"multiply-adds for one image: {left:,} of {dense:,} left ({100 * left / dense:.2f} %)"


def format_multiply_adds_by_layer(costs):
    """The per-layer table as text."""
    rows = [[cost.name, f"{cost.dense:,}", f"{cost.left:,}", f"{100 * cost.left / cost.dense:.2f}"] for cost in costs]
    headers = ["layer", "multiply-adds", "left", "left %"]
    return tabulate(rows, headers, colalign=("left", *["right"] * 3), disable_numparse=True)
